/**
 * AUTOMATIC1111's infotext, the lingua franca: prompt, "Negative prompt: …", and a last line of `Key: value` pairs.
 * Its reader is a regular expression, `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`, applied again and again to the last
 * line; what that finds is found here in one pass, because on long lines without colons the expression takes quadratic time.
 * Others write behind that line (Dynamic Prompts its templates), and JSON as values into it, commas included.
 */
import { hiresUpscalerLabel, samplerLabel, scheduleLabel } from './sampler_labels.ts';

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
  tiled: { scale: number; size: number | undefined; overlap: number | undefined; upscaler: string } | undefined;
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
    // Its script writes the first two, its forks the others as well.
    'SD upscale overlap': made.tiled?.overlap,
    'SD upscale upscaler': made.tiled && hiresUpscalerLabel(made.tiled.upscaler),
    'SD upscale scale factor': made.tiled?.scale,
    'SD upscale tileSize': made.tiled?.size,
    // As its tab of extras writes them.
    'Postprocess upscale by': made.upscale?.scale,
    'Postprocess upscaler': made.upscale?.name,
    Version: made.software,
  };
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
