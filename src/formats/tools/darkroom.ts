/** Darkroom itself: the JSON holds everything; without it (another program rewrote the file) the infotext does nearly. */
import { withoutLoraTags } from '../../core/loras.ts';
import { parseInfotext, readingOf } from '../infotext.ts';
import { ExifTag } from '../exif.ts';
import type { Metadata } from '../metadata.ts';
import { Fields } from '../fields.ts';
import { Findings, type Reading, type Tool } from '../reading.ts';
import { readSettings, type Settings } from '../settings.ts';
import { XMP_DARKROOM, xmpValue } from '../xmp.ts';

const NAME = 'Darkroom';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read(metadata: Metadata) {
    const json =
      metadata.texts.get('darkroom') ?? (metadata.xmp === null ? null : xmpValue(metadata.xmp, XMP_DARKROOM));
    const settings = json === null ? null : readSettings(json);
    if (settings) {
      return fromSettings(settings);
    }
    const text = metadata.texts.get('parameters') ?? metadata.exif.get(ExifTag.userComment) ?? '';
    const infotext = parseInfotext(text);
    return /^Darkroom\b/.test(infotext.fields.get('Version') ?? '') ? readingOf(infotext, NAME, null) : null;
  },
};

function fromSettings(settings: Settings): Reading | null {
  const { operation, checkpoint, width, height, sampler, schedule, index, loras = [] } = settings;
  const fields = new Fields(operation.parameters);
  const hashes = Object.values(checkpoint.sha256);
  const prompt = fields.get('prompt');
  const findings = new Findings(NAME, null)
    // Our own words are taken as they are; tags of LoRAs are not words where LoRAs were in use, and those are listed already.
    .words(typeof prompt === 'string' && loras.length > 0 ? withoutLoraTags(prompt) : prompt)
    .negativePrompt(fields.get('negative_prompt'))
    .steps(fields.get('steps'))
    .guidance(fields.get('guidance_scale'))
    .seed(fields.get('seed'))
    .size(width, height)
    .prediction(fields.get('prediction_type'), fields.get('rescale_betas_zero_snr'))
    .sampler(fields.get('sampler') ?? sampler, fields.get('schedule') ?? schedule)
    .checkpoint(checkpoint.name, hashes.length === 1 ? hashes[0] : undefined);
  const strength = fields.get('strength');
  if (operation.operation !== 'image_generation') {
    findings.strength(strength).lost('the picture it started from');
  }
  if (operation.operation === 'image_inpaint') {
    findings.lost('the mask');
  }
  if (index > 0) {
    findings.lost(`that it was number ${index + 1} of pictures made at once`);
  }
  loras.forEach(({ name, weight, sha256 = null }) => findings.lora(name, weight, { sha256 }));
  // The background belongs to the picture it started from.
  fields.all(/^background$/);
  // The first of several is the one that is made alone, and how guidance is run and the weights are kept is the device's affair.
  fields.all(/^(width|height|batch_size|guidance_mode|weights|overlay_inpaint)$/);
  return findings.unread(fields).reading();
}
