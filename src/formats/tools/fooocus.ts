/**
 * Fooocus: PNG `fooocus_scheme` says whether `parameters` is its own JSON or an infotext; in WebP and JPEG the scheme is in EXIF
 * MakerNote and the text in UserComment.
 */
import { ExifTag } from '../exif.ts';
import { parseInfotext } from '../infotext.ts';
import { readingOf } from '../infotext_reading.ts';
import { Fields } from '../fields.ts';
import { listOf, readJsonObject, textOf } from '../json.ts';
import { Findings, shown } from '../findings.ts';
import type { Reading, Tool } from '../reading.ts';

const NAME = 'Fooocus';
/** Default values in every picture. */
const USUAL_ADM = '(1.5, 0.8, 0.3)';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts, exif }) {
    const scheme = texts.get('fooocus_scheme') ?? exif.get(ExifTag.makerNote);
    const text = texts.get('parameters') ?? exif.get(ExifTag.userComment);
    if (text === undefined) {
      return null;
    }
    if (scheme === 'fooocus') {
      const json = readJsonObject(text);
      return json && fromJson(json);
    }
    const infotext = parseInfotext(text);
    const isOurs = scheme === 'a1111' || /^Fooocus\b/.test(infotext.fields.get('Version') ?? '');
    return isOurs ? readingOf(infotext, NAME) : null;
  },
};

function fromJson(json: Record<string, unknown>): Reading | null {
  const fields = new Fields(json);
  // "(1152, 896)"
  const resolution = /^\((\d+), ?(\d+)\)$/.exec(textOf(fields.get('resolution')) ?? '');
  const findings = new Findings(NAME)
    .prompt(fields.get('prompt'))
    .negativePrompt(fields.get('negative_prompt'))
    .steps(fields.get('steps'))
    .guidance(fields.get('guidance_scale'))
    .seed(fields.get('seed'))
    .size(resolution?.[1], resolution?.[2])
    .sampler(fields.get('sampler'), fields.get('scheduler'))
    .checkpoint(fields.get('base_model'), fields.get('base_model_hash'));
  for (const lora of listOf(fields.get('loras'))) {
    const [name, weight, hash] = Array.isArray(lora) ? (lora as unknown[]) : [];
    findings.lora(name, weight, { hash: textOf(hash) ?? null });
  }
  const styles = listOf(fields.get('styles')).map(shown).join(', ');
  const vae = fields.get('vae');
  const guidance = fields.get('adm_guidance');
  findings
    .lostIf(styles, `the styles ${styles}`)
    .lostIf(fields.get('prompt_expansion'), "Fooocus' expansion of the prompt")
    .lostIf(fields.get('performance'), `the performance ${shown(fields.get('performance'))}`)
    .lostIf(fields.get('refiner_model'), 'the refiner')
    .lostIf(fields.get('sharpness'), `sharpness ${shown(fields.get('sharpness'))}`)
    .lostIf(vae === 'Default (model)' ? null : vae, `the VAE ${shown(vae)}`)
    .lostIf(guidance === USUAL_ADM ? null : guidance, `the guidance by size ${shown(guidance)}`)
    .lostIf(fields.get('freeu'), 'FreeU')
    .clipSkip(fields.get('clip_skip'), 2);
  fields.all(/^(full_.*|metadata_scheme|version|created_by|refiner_.*|overwrite_switch|image_number)$/);
  return findings.unread(fields).reading();
}
