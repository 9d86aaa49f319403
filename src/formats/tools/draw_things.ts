/** Draw Things: JSON in the XMP's `exif:UserComment`, with short keys: c = prompt, uc = negative prompt. */
import { ExifTag } from '../exif.ts';
import { isObject, own, readJsonObject, textOf } from '../json.ts';
import { Findings, type Tool } from '../reading.ts';
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
    const size = /^(\d+)x(\d+)$/.exec(textOf(json.size) ?? '');
    const findings = new Findings(NAME)
      .prompt(json.c)
      .negativePrompt(json.uc)
      .steps(json.steps)
      .guidance(json.scale)
      .seed(json.seed)
      .size(size?.[1], size?.[2])
      .sampler(json.sampler)
      .checkpoint(json.model);
    for (const lora of Array.isArray(json.lora) ? json.lora.slice(0, 40) : []) {
      findings.lora(own(lora, 'model') ?? own(lora, 'file'), own(lora, 'weight'));
    }
    const strength = textOf(json.strength);
    if (strength !== undefined && Number(strength) < 1) {
      findings.strength(json.strength).lost('the picture it started from');
    }
    const seedMode = textOf(json.seed_mode);
    const { v2 } = json;
    return findings
      .lostIf(seedMode !== undefined && !/torch cpu/i.test(seedMode), `the seed mode ${seedMode ?? ''}`)
      .lostIf(json.control, 'the controls')
      .lostIf(json.mask_blur && json.mask, 'the mask')
      .lostIf(isObject(v2) && v2.refinerModel, 'the refiner')
      .lostIf(isObject(v2) && v2.hiresFix, 'the second pass at a larger size')
      .lostIf(isObject(v2) && v2.upscaler, 'the upscaler')
      .reading();
  },
};
