/**
 * AUTOMATIC1111's infotext, the lingua franca: prompt, "Negative prompt: …", and a last line of `Key: value` pairs.
 * Its reader is a regular expression, `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`, applied again and again to the last
 * line; what that finds is found here in one pass, because on long lines without colons the expression takes quadratic time.
 * Others write behind that line (Dynamic Prompts its templates), and JSON as values into it, commas included.
 */
import { readHashes, readResources } from './civitai_resources.ts';
import { Fields } from './fields.ts';
import { numberOf, textOf } from './json.ts';
import type { PromptSyntax } from './prompt_syntax.ts';
import { Findings, shown, type Reading } from './reading.ts';
import { hiresUpscalerLabel, hiresUpscalerNamed, samplerLabel, scheduleLabel } from './sampler_labels.ts';

export interface Infotext {
  prompt: string;
  negative_prompt: string;
  /** In the order of the text; `512x768` under `Size` is there as `Size-1` and `Size-2`. */
  fields: Map<string, string>;
  /** Lines after the settings; absent if there are none. */
  behind?: string[];
}

const NEGATIVE = 'Negative prompt:';
/** Fewer pairs, and the last line belongs to the prompt. */
const MIN_PAIRS = 3;
const WORD = /[\p{L}\p{N}_]/u;
const KEY = /[\p{L}\p{N}_ \-/]/u;
const SPACE = /\s/;
const SIZE = /^(\d+)x(\d+)$/;

/** Of three or more pairs two have these keys, or the line is a note or a part of the prompt. */
const SETTINGS = new Set(['Steps', 'Sampler', 'CFG scale', 'Seed', 'Size']);
const STEPS = /(?:^|[\s.,])(?=Steps:\s*\d)/;

/** Describes how the picture was made, but needs no restoring. */
const TOLD =
  /^(Version|User|App|Operations|Pipeline|Backend|Parser|Created( Date)?|Model hash|VAE hash|Init image hash)$/;
const TEMPLATE = /^(Negative )?(Template|Wildcard (negative )?prompt|Prompt template)\b/i;

const HIRES = 'the second pass at a larger size (hires)';
const DRAWN = 'the template that its words were drawn from';

/** Keys that belong together, and their common description. */
const GROUPS: readonly (readonly [keys: RegExp, what: string])[] = [
  [/^ADetailer/, 'the faces or hands that were painted again (ADetailer)'],
  [/^(Script|[XYZ] (Type|Values)|Fixed [XYZ] Values)$/, 'the grid of pictures that it was a part of'],
  [/^Regional Prompter|^RP /, 'the prompts of single regions'],
  [/^FreeU/, 'FreeU'],
  [/^Tiled Diffusion/, 'that it was made in tiles'],
  [/^Civitai metadata$/, "Civitai's notes about it"],
  [TEMPLATE, DRAWN],
];

/** Never fails: a text without pairs is just a prompt. */
export function parseInfotext(text: string): Infotext {
  const lines = text.trim().split('\n');
  let at = lines.length - 1;
  let pairs = settingsIn(lines[at]);
  while (at > 0 && !isSettings(pairs)) {
    pairs = settingsIn(lines[--at]);
  }
  const isKnown = isSettings(pairs);
  if (!isKnown) {
    // As AUTOMATIC1111: whatever the keys are.
    at = lines.length - 1;
    pairs = settingsIn(lines[at]);
  }
  let behind: string[] = [];
  if (pairs.length < MIN_PAIRS) {
    pairs = [];
  } else {
    const [settings, ...rest] = lines.splice(at);
    behind = rest.filter((line) => line.trim() !== '');
    const words = isKnown ? wordsBefore(settings) : [];
    if (words.length > 0) {
      pairs = settingsIn(settings.slice(settings.search(STEPS)));
      lines.push(...words);
    }
  }
  const prompt: string[] = [];
  const negative: string[] = [];
  let target = prompt;
  for (const given of lines) {
    let line = given.trim();
    if (line.startsWith(NEGATIVE)) {
      target = negative;
      line = line.slice(NEGATIVE.length).trim();
    }
    // Leading empty lines are dropped.
    if (target.length > 0 || line !== '') {
      target.push(line);
    }
  }
  return {
    prompt: prompt.join('\n'),
    negative_prompt: negative.join('\n'),
    fields: fieldsOf(pairs),
    ...(behind.length > 0 ? { behind } : {}),
  };
}

function isSettings(pairs: readonly (readonly [key: string, value: string])[]): boolean {
  return pairs.length >= MIN_PAIRS && pairs.filter(([key]) => SETTINGS.has(key)).length >= 2;
}

/** If line breaks were lost, prompt and negative prompt are in the same line as the settings. */
function wordsBefore(settings: string): string[] {
  const words = settings.slice(0, Math.max(0, settings.search(STEPS))).trim();
  if (words === '' || settingsIn(words).some(([key]) => SETTINGS.has(key))) {
    return [];
  }
  const negative = words.indexOf(NEGATIVE);
  return (negative < 0 ? [words] : [words.slice(0, negative), words.slice(negative)]).filter((part) => part !== '');
}

/** Like {@link findPairs}, but keeps JSON values whole. */
function settingsIn(line: string): [key: string, value: string][] {
  return pairsIn(line.trim(), true);
}

/** What AUTOMATIC1111's expression finds in one line: raw keys and values, including quotes. */
export function findPairs(line: string): [key: string, value: string][] {
  return pairsIn(line, false);
}

function pairsIn(line: string, takesJson: boolean): [key: string, value: string][] {
  const characters = Array.from(line);
  // Unclosed brackets would be scanned to the end again and again.
  let jsonLeft = takesJson ? 4 * characters.length : 0;
  const pairs: [string, string][] = [];
  let position = 0;
  while (position < characters.length) {
    if (!KEY.test(characters[position])) {
      position++;
      continue;
    }
    let start = position;
    let end = position;
    while (end < characters.length && KEY.test(characters[end])) {
      end++;
    }
    while (start < end && !WORD.test(characters[start])) {
      start++;
    }
    if (characters[end] !== ':' || end - start < 2) {
      position = end + 1;
      continue;
    }
    let from = end + 1;
    while (from < characters.length && SPACE.test(characters[from])) {
      from++;
    }
    let to = endOfQuoted(characters, from);
    if (to === null && /[[{]/.test(characters[from] ?? '')) {
      const json = endOfJson(characters, from, jsonLeft);
      jsonLeft -= json.looked;
      to = json.end;
    }
    to ??= endOfRaw(characters, from);
    pairs.push([characters.slice(start, end).join(''), characters.slice(from, to).join('')]);
    // A comma ends a pair, the end of the line as well.
    position = to + 1;
  }
  return pairs;
}

export interface InfotextSource {
  prompt: string;
  negative_prompt: string;
  /** Finished values in writing order; undefined ones are skipped. */
  fields: Record<string, string | number | undefined>;
}

/** Writes the split form: `Sampler: DPM++ 2M, Schedule type: Karras`. */
export function writeInfotext({ prompt, negative_prompt, fields }: InfotextSource): string {
  const pairs = Object.entries(fields).flatMap(([key, value]) =>
    value === undefined ? [] : [`${key}: ${quoted(value)}`],
  );
  return [prompt, negative_prompt === '' ? '' : `${NEGATIVE} ${negative_prompt}`, pairs.join(', ')]
    .filter((part) => part !== '')
    .join('\n');
}

/** The fields of our own results, in AUTOMATIC1111's order. */
export function infotextFields(made: {
  steps: number | undefined;
  sampler: string | undefined;
  schedule: string | undefined;
  guidance_scale: number | undefined;
  seed: string | undefined;
  noise: string | undefined;
  variation_seed: string | undefined;
  variation_strength: number | undefined;
  eta_noise_seed_delta: number | undefined;
  clip_skip: number | undefined;
  /** Of pictures. */
  width: number | undefined;
  height: number | undefined;
  hash: string | undefined;
  model: string | undefined;
  strength: number | undefined;
  loraHashes: string | undefined;
  upscale: { scale: number; name: string } | undefined;
  hires: ReturnType<typeof hiresFields> | undefined;
  software: string;
}): InfotextSource['fields'] {
  return {
    Steps: made.steps,
    Sampler: made.sampler && samplerLabel(made.sampler),
    'Schedule type': made.schedule && scheduleLabel(made.schedule),
    'CFG scale': made.guidance_scale,
    Seed: made.seed,
    Size: made.width === undefined || made.height === undefined ? undefined : `${made.width}x${made.height}`,
    'Model hash': made.hash,
    Model: made.model,
    'Denoising strength': made.hires?.strength ?? made.strength,
    'Variation seed': made.variation_seed,
    'Variation seed strength': made.variation_strength,
    'Clip skip': made.clip_skip,
    ENSD: made.eta_noise_seed_delta,
    RNG: made.noise === 'nv' ? 'NV' : 'CPU',
    'Lora hashes': made.loraHashes,
    'Hires upscale': made.hires?.scale,
    'Hires steps': made.hires?.steps,
    'Hires upscaler': made.hires?.upscaler,
    // As its tab of extras writes them.
    'Postprocess upscale by': made.upscale?.scale,
    'Postprocess upscaler': made.upscale?.name,
    Version: made.software,
  };
}

/**
 * @param syntax of its prompts; null if they are plain text
 * @returns null if the text has no pairs, and so is no infotext
 */
export function readingOf(
  { prompt, negative_prompt, fields: given, behind = [] }: Infotext,
  tool: string,
  syntax: PromptSyntax | null = 'automatic1111',
): Reading | null {
  if (given.size === 0) {
    return null;
  }
  const fields = new Fields(given);
  const findings = new Findings(tool, syntax)
    .prompt(prompt)
    .negativePrompt(negative_prompt)
    .steps(fields.get('Steps'))
    .sampler(fields.get('Sampler'), fields.get('Schedule type'))
    .guidance(fields.get('CFG scale'))
    .seed(fields.get('Seed'))
    .size(fields.get('Size-1'), fields.get('Size-2'))
    .checkpoint(fields.get('Model'), fields.get('Model hash'));
  readNetworks(findings, fields);
  fields.all(TOLD);
  // Fooocus' usual one.
  findings.lostIf(
    fields.get('ADM Guidance') === '(1.5, 0.8, 0.3)' ? null : fields.get('ADM Guidance'),
    'the guidance by size',
  );
  readControlNets(findings, fields);
  const strength = fields.get('Denoising strength');
  const isTwice = readHires(findings, fields, strength);
  for (const [keys, what] of GROUPS) {
    findings.lostIf(
      fields.all(keys).map(([, value]) => value),
      what,
    );
  }
  if (strength !== undefined && !isTwice) {
    findings.strength(strength).lost('the picture it started from');
  }
  readNoise(findings, fields);
  // SD.Next hands it to diffusers.
  findings.guidanceRescale(fields.get('CFG rescale'));
  findings.clipSkip(fields.get('Clip skip'));
  // stable-diffusion.cpp says it of every picture.
  findings.lostIf(fields.get('Guidance'), `the Flux guidance ${numberOf(fields.get('Guidance')) ?? '?'}`);
  // A template may have several lines, and is the last that is written.
  const template = behind.findIndex((line) => TEMPLATE.test(line));
  const notes = template < 0 ? behind : behind.slice(0, template);
  findings.lostIf(template >= 0, DRAWN).lostIf(notes, 'notes behind its settings');
  return findings.unread(fields).reading();
}

/**
 * @param strength of the second pass, where there is one
 * @returns whether there is
 */
function readHires(findings: Findings, fields: Fields, strength: unknown): boolean {
  const [scale, steps, label] = ['upscale', 'steps', 'upscaler'].map((name) => fields.get(`Hires ${name}`));
  const [across, down] = [1, 2].map(
    (side) => Number(fields.get(`Hires resize-${side}`)) / Number(fields.get(`Size-${side}`)),
  );
  const all = fields.all(/^Hires /);
  if (scale === undefined && !(Math.abs(across - down) < 0.01)) {
    findings.lostIf(
      all.map(([, value]) => value),
      HIRES,
    );
    return all.length > 0;
  }
  // Forge says of what is as in the first pass that it is.
  const guidance = textOf(fields.get('CFG scale'));
  const others = all.filter(
    ([key, value]) =>
      !/^Hires (upscale|steps|upscaler|resize-\d)$/.test(key) &&
      value !== 'Use same choices' &&
      !(key === 'Hires CFG Scale' && value === guidance),
  );
  findings.lostIf(
    others.map(([, value]) => value),
    'what the second pass (hires) had of its own',
  );
  const upscaler = hiresUpscalerNamed(label);
  if (label !== undefined && upscaler === undefined && label !== 'None') {
    findings.lost(`the upscaler ${shown(label)} of the second pass, in whose place the picture is scaled (Lanczos)`);
  }
  // It runs all of them over that share of the noise, and we run that share of them.
  const [run, share] = [numberOf(steps) || numberOf(fields.get('Steps')), numberOf(strength)];
  findings.hires(scale ?? Math.round(across * 1000) / 1000, {
    steps: run && share ? Math.ceil(run / share) : steps,
    strength,
    upscaler: upscaler ?? 'lanczos',
  });
  return true;
}

/** What is written of a second pass; the number of steps is that of those that are run. */
export function hiresFields(hires: { scale: number; steps: number | undefined; strength: number; upscaler: string }): {
  scale: number;
  steps: number | undefined;
  strength: number;
  upscaler: string;
} {
  const { scale, steps, strength, upscaler } = hires;
  return {
    scale,
    steps: steps && Math.max(1, Math.floor(steps * strength)),
    strength,
    upscaler: hiresUpscalerLabel(upscaler),
  };
}

/** ControlNets by name: their control pictures are never in a recipe, so a person has to give them again. */
function readControlNets(findings: Findings, fields: Fields): void {
  const found = fields.all(/^ControlNet/);
  const names = found.flatMap(([key, value]) => {
    const text = textOf(value) ?? '';
    const model = /\bModel$/.test(key) ? text : (/\bModel: ([^,]+)/.exec(text)?.[1] ?? '');
    const name = model.replace(/ \[[0-9a-f]+\]$/i, '').trim();
    return name === '' || name === 'None' ? [] : [name];
  });
  names.forEach((name) => {
    findings.lost(`the ControlNet ${shown(name)}, as its control picture is not in these settings`);
  });
  if (names.length === 0) {
    findings.lostIf(
      found.map(([, value]) => value),
      'the ControlNet',
    );
  }
}

/** LoRAs and embeddings, in the various spellings of lists beside the prompt. */
function readNetworks(findings: Findings, fields: Fields): void {
  findings.loraHashes(fields.get('Lora hashes')).embeddings(fields.get('TI hashes'));
  const hashes = fields.get('Hashes');
  if (hashes !== undefined) {
    readHashes(findings, hashes);
  }
  // Additional Networks: AddNet Module 1: LoRA, AddNet Model 1: brass(0123456789ab), AddNet Weight A 1: 0.8
  for (const [key, model] of fields.all(/^AddNet Model \d+$/)) {
    const number = key.replace(/^\D+/, '');
    const [, name, hash] = /^(.*?)(?:\(([0-9a-f]+)\))?$/i.exec(textOf(model) ?? '') ?? [];
    if (!/^none$/i.test(name)) {
      findings.lora(name, fields.get(`AddNet Weight A ${number}`), { hash: hash ?? null });
    }
  }
  fields.all(/^AddNet /);
  // Fooocus: Lora weights: "brass: 0.5, ink: 0.3"
  for (const pair of (textOf(fields.get('Lora weights')) ?? '').split(',')) {
    const [, name, weight] = /^(.+):([^:]+)$/.exec(pair.trim()) ?? [];
    if (name && !findings.hasLora(name)) {
      findings.lora(name, weight);
    }
  }
  // ComfyUI-Image-Saver: Lora_0 Model name: brass.safetensors, Lora_0 Model hash: …, Lora_0 Strength model: 0.8
  for (const [key, name] of fields.all(/^Lora_\d+ Model name$/)) {
    const [prefix] = key.split(' ');
    const hash = textOf(fields.get(`${prefix} Model hash`)) ?? null;
    if (!findings.hasLora(textOf(name) ?? '')) {
      findings.lora(name, fields.get(`${prefix} Strength model`), { hash });
    }
  }
  fields.all(/^Lora_\d+ /);
  const resources = fields.get('Civitai resources');
  if (resources !== undefined) {
    readResources(findings, resources);
  }
}

/** Version strings of AUTOMATIC1111 and its descendants, which record where noise was drawn unless it was the GPU. */
const DRAWS_ON_GPU = /^(v\d|f\d|neo)/;

/** The source of the noise. A GPU is nearly always an NVIDIA one, which the imitation reproduces. */
function readNoise(findings: Findings, fields: Fields): void {
  const source = textOf(fields.get('RNG'))?.toLowerCase();
  const version = textOf(fields.get('Version')) ?? '';
  if (source === undefined ? DRAWS_ON_GPU.test(version) : ['nv', 'cuda', 'gpu'].includes(source)) {
    findings.noise('nv');
  } else if (source === 'cpu') {
    // Our own infotexts say so if one generator drew the noise of all pictures.
    findings.noise(version.startsWith('Darkroom') ? undefined : 'a1111_cpu');
  } else if (source !== undefined) {
    findings.lost(`its noise, which was drawn in another way (${shown(source)})`);
  }
  findings.variation(fields.get('Variation seed'), fields.get('Variation seed strength')).seedDelta(fields.get('ENSD'));
}

function fieldsOf(pairs: readonly (readonly [string, string])[]): Map<string, string> {
  const fields = new Map<string, string>();
  for (const [key, raw] of pairs) {
    // AUTOMATIC1111 checks the first character of the value, and drops the pair if there is none.
    if (raw === '') {
      continue;
    }
    const value = unquoted(raw);
    const size = SIZE.exec(value);
    if (size) {
      fields.set(`${key}-1`, size[1]).set(`${key}-2`, size[2]);
    } else {
      fields.set(key, value);
    }
  }
  return fields;
}

/** @returns the position after the closing quote, if followed by a comma or the end */
function endOfQuoted(characters: readonly string[], from: number): number | null {
  if (characters[from] !== '"') {
    return null;
  }
  let i = from + 1;
  while (i < characters.length && characters[i] !== '"') {
    i += characters[i] === '\\' ? 2 : 1;
  }
  const isClosed = i < characters.length && i > from + 1;
  return isClosed && (i + 1 === characters.length || characters[i + 1] === ',') ? i + 1 : null;
}

/**
 * The position after a bracketed value (JSON or Python), if followed by a comma or the end.
 * @param most the most characters to scan
 */
function endOfJson(characters: readonly string[], from: number, most: number): { end: number | null; looked: number } {
  let depth = 0;
  let quote = '';
  let i = from;
  for (; i < characters.length && i - from < most; i++) {
    const character = characters[i];
    if (quote !== '') {
      i += character === '\\' ? 1 : 0;
      quote = character === quote ? '' : quote;
    } else if (character === '"' || character === "'") {
      quote = character;
    } else if (character === '{' || character === '[') {
      depth++;
    } else if ((character === '}' || character === ']') && --depth === 0) {
      let end = i + 1;
      while (end < characters.length && SPACE.test(characters[end])) {
        end++;
      }
      const isEnd = end === characters.length || characters[end] === ',';
      return { end: isEnd ? end : null, looked: end - from };
    }
  }
  return { end: null, looked: i - from };
}

function endOfRaw(characters: readonly string[], from: number): number {
  const comma = characters.indexOf(',', from);
  return comma < 0 ? characters.length : comma;
}

function unquoted(value: string): string {
  if (!value.startsWith('"') || !value.endsWith('"')) {
    return value;
  }
  try {
    return String(JSON.parse(value));
  } catch {
    return value;
  }
}

function quoted(value: string | number): string {
  const text = String(value);
  return /[,\n:]/.test(text) ? JSON.stringify(text) : text;
}
