/** SwarmUI: JSON with `sui_image_params`, in PNG `parameters`, in EXIF UserComment, in older files in EXIF Model. */
import { loraName } from '../../core/loras.ts';
import { ExifTag } from '../exif.ts';
import { Fields } from '../fields.ts';
import { isObject, listOf, numberOf, own, placesOf, readJsonObject, textOf } from '../json.ts';
import { Findings, shown } from '../findings.ts';
import type { Tool } from '../reading.ts';

const NAME = 'SwarmUI';
const MAX_TAGS = 1_000;

/** `<segment:face,0.6>`, `<fromto[0.5]:a,b>`, `<break>`. Of a LoRA's the name and strengths matter, which stand in lists as well. */
const TAG = /<([a-z]+)(?:\[[^<>[\]]*\])?(?::([^<>]*))?>/gi;
/** Text after one of these, up to the next, is about a part of the picture, or a later step. */
const SECTIONS = /^(segment|object|region|extend|clear|base|refiner|video|videoswap)$/i;

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts, exif }) {
    const text = [texts.get('parameters'), exif.get(ExifTag.userComment), exif.get(ExifTag.model)].find((one) =>
      one?.includes('sui_image_params'),
    );
    const json = readJsonObject(text);
    const given = json?.sui_image_params;
    if (!json || !isObject(given)) {
      return null;
    }
    const fields = new Fields(given);
    const loras = placesOf(fields.get('loras'));
    const findings = new Findings(NAME, 'comfyui');
    const prompt = words(findings, fields.get('prompt'), loras);
    findings
      .prompt(prompt)
      .negativePrompt(words(findings, fields.get('negativeprompt'), loras))
      .steps(fields.get('steps'))
      .guidance(fields.get('cfgscale'))
      .seed(fields.get('seed'))
      .size(fields.get('width'), fields.get('height'))
      .sampler(
        fields.get('sampler') ?? fields.get('comfyuisampler'),
        fields.get('scheduler') ?? fields.get('comfyuischeduler'),
      )
      .checkpoint(fields.get('model'), hashOf(json.sui_models, 'model', fields.get('model')));
    // Each a list, or a text with commas in older files.
    const weights = placesOf(fields.get('loraweights'));
    const forWords = placesOf(fields.get('loratencweights'));
    loras.forEach((lora, i) => {
      if (textOf(lora) !== undefined) {
        const hash = hashOf(json.sui_models, 'loras', lora) ?? null;
        findings.lora(lora, weights[i], { hash, onWords: forWords[i] });
      }
    });
    const strength = fields.get('initimagecreativity');
    if (fields.get('initimage') !== undefined || strength !== undefined) {
      findings.strength(strength).lost('the picture it started from');
    }
    const vae = fields.get('vae');
    const clipStop = fields.get('clipstopatlayer');
    findings
      .lostIf(values(fields, /^mask/), 'the mask')
      .lostIf(values(fields, /^controlnet.*model$/), 'the ControlNet')
      .lostIf(values(fields, /^refiner/), 'the refiner')
      .lostIf(fields.get('variationseed'), 'the variation seed')
      .lostIf(vae === 'Automatic' ? null : vae, `the VAE ${textOf(vae) ?? ''}`)
      .clipSkip(-(numberOf(clipStop) ?? -1))
      .lostIf(fields.get('seamlesstileable'), 'seamless tiling')
      .lostIf(
        listOf(fields.get('lorasectionconfinement')).some((section) => (numberOf(section) ?? 0) > 0),
        'that some LoRAs change a part of the picture only',
      );
    fields.all(
      /^(swarm_version|aspectratio|automaticvae|images|batchsize|sidelength|resolution|controlnet.*|variationseedstrength|initimage.*)$/,
    );
    const original = own(json.sui_extra_data, 'original_prompt');
    if (textOf(original) !== undefined && original !== fields.get('prompt')) {
      findings.lost('the template that its words were drawn from');
    }
    return findings.unread(fields).reading();
  },
};

/** The words for the whole picture; tags and text about parts of it are reported. */
function words(findings: Findings, given: unknown, loras: readonly unknown[]): unknown {
  if (typeof given !== 'string') {
    return given;
  }
  const isListed = (name: string) => loras.some((lora) => loraName(textOf(lora) ?? '') === loraName(name));
  let kept = '';
  let end = 0;
  let isWhole = true;
  const take = (text: string) => (kept += isWhole ? text : '');
  for (const [tag, kind, content = ''] of [...given.matchAll(TAG)].slice(0, MAX_TAGS)) {
    const at = given.indexOf(tag, end);
    take(given.slice(end, at));
    end = at + tag.length;
    const [first] = content.split(':');
    if (/^lora$/i.test(kind)) {
      take(isListed(first) ? '' : tag);
    } else if (/^embed(ding)?$/i.test(kind)) {
      take(loraName(first));
      findings.lost(`the effect of the embedding ${shown(loraName(first))}`);
    } else if (SECTIONS.test(kind)) {
      isWhole = false;
      findings.lost(
        `the words for a part of it ("${kind.toLowerCase()}${content === '' ? '' : `: ${shown(content)}`}")`,
      );
    } else if (!/^comment$/i.test(kind)) {
      findings.lost(`what "${kind.toLowerCase()}${content === '' ? '' : `: ${shown(content)}`}" does in the prompt`);
    }
  }
  take(given.slice(end));
  return end === 0 ? given : kept.replace(/\s+/g, ' ').trim();
}

function values(fields: Fields, names: RegExp): unknown[] {
  return fields.all(names).map(([, value]) => value);
}

/** Hash of the file's tensors; `name` with or without extension. */
function hashOf(models: unknown, param: string, name: unknown): string | undefined {
  const isMeant = (model: unknown) => loraName(textOf(own(model, 'name')) ?? '') === loraName(textOf(name) ?? '');
  const ofKind = Array.isArray(models) ? models.filter((model) => own(model, 'param') === param) : [];
  const found: unknown = ofKind.find(isMeant) ?? (param === 'model' ? ofKind[0] : undefined);
  return textOf(own(found, 'hash'))?.replace(/^0x/, '');
}
