/** Darkroom itself: the JSON has everything; without it (another program rewrote the file) the infotext has nearly as much. */
import { withoutLoraTags } from '../../core/lora_tags.ts';
import { parseInfotext } from '../infotext.ts';
import { readingOf } from '../infotext_reading.ts';
import { ExifTag } from '../exif.ts';
import type { Metadata } from '../metadata.ts';
import { Fields } from '../fields.ts';
import { Findings } from '../findings.ts';
import type { Reading, Tool } from '../reading.ts';
import { hasStart, readSettings, type Settings } from '../settings.ts';
import { XMP_DARKROOM, xmpValue } from '../xmp.ts';

const NAME = 'Darkroom';
/** In LIST/INFO of a WAV names have four letters, and what is made of it by others keeps that one. */
const INFO_DARKROOM = 'dkrm';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read(metadata: Metadata) {
    const { texts } = metadata;
    const plain = texts.get('darkroom') ?? texts.get(INFO_DARKROOM);
    const json = plain ?? (metadata.xmp === null ? null : xmpValue(metadata.xmp, XMP_DARKROOM));
    const settings = json === null ? null : readSettings(json);
    if (settings) {
      return fromSettings(settings);
    }
    const text = texts.get('parameters') ?? texts.get('comment') ?? metadata.exif.get(ExifTag.userComment) ?? '';
    const infotext = parseInfotext(text);
    return /^Darkroom\b/.test(infotext.fields.get('Version') ?? '') ? readingOf(infotext, NAME, null) : null;
  },
};

function fromSettings(settings: Settings): Reading | null {
  const { operation, checkpoint, width, height, upscale, sampler, schedule, index, loras = [] } = settings;
  const fields = new Fields(operation.parameters);
  const hashes = Object.values(checkpoint.sha256);
  const prompt = fields.get('prompt');
  const findings = new Findings(NAME, null)
    // Our own prompts are taken literally; if LoRAs were used, their tags are dropped, since the LoRAs are already listed.
    .words(typeof prompt === 'string' && loras.length > 0 ? withoutLoraTags(prompt) : prompt)
    .negativePrompt(fields.get('negative_prompt'))
    .steps(fields.get('steps'))
    .guidance(fields.get('guidance_scale'))
    .promptSyntax(fields.get('prompt_syntax'))
    .clipSkip(fields.get('clip_skip'))
    .guidanceRescale(fields.get('guidance_rescale'))
    .guidanceMethod(fields.get('guidance_method'), fields.get('apg_eta'), fields.get('apg_norm_threshold'))
    .seed(fields.get('seed'))
    .noise(fields.get('noise'))
    .variation(fields.get('variation_seed'), fields.get('variation_strength'))
    .seedDelta(fields.get('eta_noise_seed_delta'))
    .follows(fields.get('follows'))
    .size(width, height)
    .hires(fields.get('hires_scale'), {
      steps: fields.get('hires_steps'),
      strength: fields.get('hires_denoising_strength'),
      upscaler: fields.get('hires_upscaler'),
    })
    .tiled({
      tiled_scale: fields.get('tiled_scale'),
      tiled_size: fields.get('tiled_size'),
      tiled_overlap: fields.get('tiled_overlap'),
      tiled_upscaler: fields.get('tiled_upscaler'),
    })
    .upscale(upscale?.scale)
    .prediction(fields.get('prediction_type'), fields.get('rescale_betas_zero_snr'))
    .sampler(fields.get('sampler') ?? sampler, fields.get('schedule') ?? schedule)
    .checkpoint(checkpoint.name, hashes.length === 1 ? hashes[0] : undefined);
  findings.takesModelSampling({
    model_sampling: fields.get('model_sampling'),
    shift: fields.get('shift'),
    base_shift: fields.get('base_shift'),
    max_shift: fields.get('max_shift'),
    shift_width: fields.get('shift_width'),
    shift_height: fields.get('shift_height'),
  });
  const strength = fields.get('strength');
  if (hasStart(settings)) {
    findings.strength(strength).lost('the picture it started from');
  }
  if (operation.operation === 'image_inpaint') {
    findings.lost('the mask');
    fields.all(/^(mask_|soft_inpainting$)/);
  }
  if (operation.operation === 'image_outpaint') {
    findings.lost('by how much it was widened');
    fields.all(/^outpaint_/);
  }
  if (index > 0) {
    findings.lost(`that it was number ${index + 1} of pictures made at once`);
  }
  loras.forEach(({ name, weight, sha256 = null, blocks, start, end }) =>
    findings.lora(name, weight, { sha256, blocks, start, end }),
  );
  // The background belongs to the input picture.
  fields.all(/^background$/);
  // The first of several is the one that is made alone, and how guidance is run and the weights are kept is the device's affair.
  fields.all(/^(width|height|batch_size|guidance_mode|weights|overlay_inpaint)$/);
  const { config, parameters } = operation;
  const reading = findings.unread(fields).reading();
  // Pictures have one form for all configs, which takes what is read above.
  return reading === null || operation.operation.startsWith('image_')
    ? reading
    : { ...reading, recipe: { config, parameters, index } };
}
