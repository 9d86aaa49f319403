/**
 * AUTOMATIC1111's infotext, the lingua franca: prompt, "Negative prompt: …", and a last line of `Key: value` pairs.
 * Its reader is a regular expression, `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`, applied again and again to the last
 * line; what that finds is found here in one pass, because on long lines without colons the expression takes quadratic time.
 */
import { Findings, type Reading } from './reading.ts';
import { samplerLabel, scheduleLabel } from './sampler_labels.ts';

export interface Infotext {
  prompt: string;
  negative_prompt: string;
  /** In the order of the text; `512x768` under `Size` is there as `Size-1` and `Size-2`. */
  fields: Map<string, string>;
}

const NEGATIVE = 'Negative prompt:';
/** Fewer pairs, and the last line belongs to the prompt. */
const MIN_PAIRS = 3;
const WORD = /[\p{L}\p{N}_]/u;
const KEY = /[\p{L}\p{N}_ \-/]/u;
const SPACE = /\s/;
const SIZE = /^(\d+)x(\d+)$/;

/** Says how the picture was made, but nothing that had to be restored. */
const TOLD = new Set(['Model hash', 'Model', 'Version', 'User', 'App', 'Operations', 'Pipeline', 'Backend', 'Parser']);
/** Belongs to something that is named by another key or in the prompt. */
const CONTAINED = /^(Hires |VAE hash|Lora hashes|TI hashes|Hashes|Init image hash|Created|Style prompt)/;

/** Never fails: a text without pairs is all prompt. */
export function parseInfotext(text: string): Infotext {
  const lines = text.trim().split('\n');
  let pairs = findPairs(lines.at(-1) ?? '');
  if (pairs.length < MIN_PAIRS) {
    pairs = [];
  } else {
    lines.pop();
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
    // A line that is empty before anything else was there leaves no trace.
    if (target.length > 0 || line !== '') {
      target.push(line);
    }
  }
  return { prompt: prompt.join('\n'), negative_prompt: negative.join('\n'), fields: fieldsOf(pairs) };
}

/** What AUTOMATIC1111's expression finds in one line: keys and values as they stand there, quotes included. */
export function findPairs(line: string): [key: string, value: string][] {
  const characters = Array.from(line);
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
    const to = endOfQuoted(characters, from) ?? endOfRaw(characters, from);
    pairs.push([characters.slice(start, end).join(''), characters.slice(from, to).join('')]);
    // A comma ends a pair, the end of the line as well.
    position = to + 1;
  }
  return pairs;
}

export interface InfotextSource {
  prompt: string;
  negative_prompt: string;
  /** Ready values in the order in which they are written; those that are undefined are left out. */
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

/** The fields that a result of ours has, in AUTOMATIC1111's order. */
export function infotextFields(made: {
  steps: number | undefined;
  sampler: string | undefined;
  schedule: string | undefined;
  guidance_scale: number | undefined;
  seed: string | undefined;
  /** Of pictures. */
  width: number | undefined;
  height: number | undefined;
  hash: string | undefined;
  model: string | undefined;
  strength: number | undefined;
  loraHashes: string | undefined;
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
    'Denoising strength': made.strength,
    // Our noise is torch's on the CPU.
    RNG: 'CPU',
    'Lora hashes': made.loraHashes,
    Version: made.software,
  };
}

/** @returns null when the text has no pairs, and so is no infotext */
export function readingOf({ prompt, negative_prompt, fields }: Infotext, tool: string): Reading | null {
  if (fields.size === 0) {
    return null;
  }
  const findings = new Findings(tool);
  const used = new Set<string>();
  const take = (key: string): string | undefined => {
    used.add(key);
    return fields.get(key);
  };
  const hasHires = ['Hires upscale', 'Hires resize-1', 'Hires steps', 'Hires upscaler'].some((key) => fields.has(key));
  findings
    .prompt(prompt)
    .negativePrompt(negative_prompt)
    .steps(take('Steps'))
    .sampler(take('Sampler'), take('Schedule type'))
    .guidance(take('CFG scale'))
    .seed(take('Seed'))
    .size(take('Size-1'), take('Size-2'))
    .checkpoint(fields.get('Model'), fields.get('Model hash'))
    .loraHashes(fields.get('Lora hashes'));
  const strength = take('Denoising strength');
  if (hasHires) {
    findings.lost('the second pass at a larger size (hires)');
  } else if (strength !== undefined) {
    findings.strength(strength).lost('the picture it started from');
  }
  if (take('RNG') === 'NV') {
    findings.lost('its noise, which imitates an NVIDIA GPU');
  }
  for (const [key, value] of fields) {
    if (!used.has(key) && !TOLD.has(key) && !CONTAINED.test(key)) {
      findings.lostIf(value, `${key.toLowerCase().replace(/-\d$/, '')} ${short(value)}`);
    }
  }
  return findings.reading();
}

function short(value: string): string {
  return value.length > 40 ? `${value.slice(0, 39).toWellFormed()}…` : value;
}

function fieldsOf(pairs: readonly (readonly [string, string])[]): Map<string, string> {
  const fields = new Map<string, string>();
  for (const [key, raw] of pairs) {
    // AUTOMATIC1111 looks at the first character of the value, and drops the pair when there is none.
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

/** @returns the place after the closing quote, when a comma or the end follows it */
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
