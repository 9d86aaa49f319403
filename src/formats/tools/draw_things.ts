/** Draw Things: JSON in the XMP's `exif:UserComment`, with short keys: c = prompt, uc = negative prompt. */
import { ExifTag } from '../exif.ts';
import { Fields } from '../fields.ts';
import { listOf, own, readJsonObject, textOf } from '../json.ts';
import { Findings } from '../findings.ts';
import type { Tool } from '../reading.ts';
import { xmpValue } from '../xmp.ts';

const NAME = 'Draw Things';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ xmp, exif }) {
    const text = (xmp === null ? null : xmpValue(xmp, 'exif:UserComment')) ?? exif.get(ExifTag.userComment);
    const json = readJsonObject(text);
    if (!json || typeof json.c !== 'string' || json.sampler === undefined) {
      return null;
    }
    const fields = new Fields(json);
    const size = /^(\d+)x(\d+)$/.exec(textOf(fields.get('size')) ?? '');
    const findings = new Findings(NAME)
      .prompt(fields.get('c'))
      .negativePrompt(fields.get('uc'))
      .steps(fields.get('steps'))
      .guidance(fields.get('scale'))
      .seed(fields.get('seed'))
      .size(size?.[1], size?.[2])
      .sampler(fields.get('sampler'))
      .checkpoint(fields.get('model'));
    for (const lora of listOf(fields.get('lora'))) {
      findings.lora(own(lora, 'model') ?? own(lora, 'file'), own(lora, 'weight'));
    }
    const strength = textOf(fields.get('strength'));
    if (strength !== undefined && Number(strength) < 1) {
      findings.strength(strength).lost('the picture it started from');
    }
    const seedMode = textOf(fields.get('seed_mode'));
    const blur = fields.get('mask_blur');
    // Repeats everything under long names, plus what has no short one.
    const v2 = fields.get('v2');
    const clipSkip = fields.get('clip_skip') ?? own(v2, 'clipSkip');
    findings
      .lostIf(seedMode !== undefined && !/torch cpu/i.test(seedMode), `the seed mode ${seedMode ?? ''}`)
      .lostIf(fields.get('control') ?? own(v2, 'controls'), 'the controls')
      .lostIf(blur && fields.get('mask'), 'the mask')
      .lostIf(own(v2, 'refinerModel') ?? fields.get('refiner'), 'the refiner')
      .lostIf(own(v2, 'hiresFix') ?? fields.get('hires_fix'), 'the second pass at a larger size')
      .lostIf(own(v2, 'upscaler') ?? fields.get('upscaler'), 'the upscaler')
      .lostIf(own(v2, 'faceRestoration') ?? fields.get('face_restoration'), 'face restoration')
      .lostIf(own(v2, 'sharpness') ?? fields.get('sharpness'), 'the sharpening')
      .lostIf(own(v2, 'tiledDiffusion'), 'that it was made in tiles')
      .clipSkip(clipSkip);
    fields.all(/^(app|version|shift|refiner_start|hires_fix_.*|profile)$/);
    return findings.unread(fields).reading();
  },
};
