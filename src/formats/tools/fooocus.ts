/**
 * Fooocus: PNG `fooocus_scheme` says whether `parameters` is its own JSON or an infotext; in WebP and JPEG the scheme is in EXIF
 * MakerNote and the text in UserComment.
 */
import { ExifTag } from '../exif.ts';
import { parseInfotext, readingOf } from '../infotext.ts';
import { readJsonObject, textOf } from '../json.ts';
import { Findings, type Reading, type Tool } from '../reading.ts';

const NAME = 'Fooocus';

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
  // "(1152, 896)"
  const resolution = /^\((\d+), ?(\d+)\)$/.exec(textOf(json.resolution) ?? '');
  const findings = new Findings(NAME)
    .prompt(json.prompt)
    .negativePrompt(json.negative_prompt)
    .steps(json.steps)
    .guidance(json.guidance_scale)
    .seed(json.seed)
    .size(resolution?.[1], resolution?.[2])
    .sampler(json.sampler, json.scheduler)
    .checkpoint(json.base_model, json.base_model_hash);
  for (const lora of Array.isArray(json.loras) ? json.loras.slice(0, 40) : []) {
    const [name, weight] = Array.isArray(lora) ? (lora as unknown[]) : [];
    findings.lora(name, weight);
  }
  return findings
    .lostIf(listed(json.styles), `the styles ${listed(json.styles)}`)
    .lostIf(json.prompt_expansion, "Fooocus' expansion of the prompt")
    .lostIf(json.performance, `the performance ${textOf(json.performance) ?? ''}`)
    .lostIf(json.refiner_model, 'the refiner')
    .lostIf(json.sharpness, `sharpness ${textOf(json.sharpness) ?? ''}`)
    .reading();
}

/** Styles are a list, or the text of a Python list. */
function listed(value: unknown): string {
  const names = Array.isArray(value)
    ? value.filter((name) => typeof name === 'string')
    : [...(textOf(value) ?? '').matchAll(/'([^']*)'/g)].map((match) => match[1]);
  return names.slice(0, 10).join(', ');
}
