/**
 * Weights of words in prompts, as AUTOMATIC1111 and ComfyUI read them. Both take any text: what is no syntax is words.
 *
 * Reference: modules/prompt_parser.py (parse_prompt_attention) of stable-diffusion-webui, comfy/sd1_clip.py (token_weights) of ComfyUI
 */

/** Words with one weight, or the mark that begins another 75 tokens. */
export interface WeightedWords {
  text: string;
  weight: number;
  /** The words before it end their 75 tokens. */
  isBreak?: true;
}

const ROUND = 1.1;
const SQUARE = 1 / 1.1;

const A1111_TOKEN = /\\[()[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()[\]:]+|:/g;
const BREAK = /\s*\bBREAK\b\s*/;

/** `(a)` is 1.1 times as strong, `[a]` as much weaker, `(a:1.3)` 1.3 times; brackets multiply, and one that is not closed counts to the end. */
export function automatic1111Weights(prompt: string): WeightedWords[] {
  const words: WeightedWords[] = [];
  const round: number[] = [];
  const square: number[] = [];
  const multiply = (from: number | undefined, factor: number): void => {
    for (const one of words.slice(from)) {
      one.weight *= factor;
    }
  };
  for (const [token, given] of prompt.matchAll(A1111_TOKEN)) {
    const explicit = given === undefined ? NaN : pythonNumber(given);
    if (token.startsWith('\\')) {
      words.push({ text: token.slice(1), weight: 1 });
    } else if (token === '(') {
      round.push(words.length);
    } else if (token === '[') {
      square.push(words.length);
    } else if (given !== undefined && round.length > 0 && !Number.isNaN(explicit)) {
      multiply(round.pop(), explicit);
    } else if (token === ')' && round.length > 0) {
      multiply(round.pop(), ROUND);
    } else if (token === ']' && square.length > 0) {
      multiply(square.pop(), SQUARE);
    } else {
      token.split(BREAK).forEach((text, i) => {
        if (i > 0) {
          words.push({ text: 'BREAK', weight: -1, isBreak: true });
        }
        words.push({ text, weight: 1 });
      });
    }
  }
  round.forEach((from) => {
    multiply(from, ROUND);
  });
  square.forEach((from) => {
    multiply(from, SQUARE);
  });
  return merged(words);
}

/** Neighbours of one weight are read together, as words may lie across brackets. A break within brackets is weighted too, and so no break. */
function merged(words: readonly WeightedWords[]): WeightedWords[] {
  const result: WeightedWords[] = [];
  for (const { text, weight } of words) {
    const last = result.at(-1);
    if (last && last.weight === weight) {
      last.text += text;
    } else {
      result.push({ text, weight });
    }
  }
  if (result.length === 0) {
    return [{ text: '', weight: 1 }];
  }
  return result.map((one) => (one.text === 'BREAK' && one.weight === -1 ? { ...one, isBreak: true } : one));
}

/** Escaped brackets, while the others are looked for. */
const [OPENED, CLOSED] = ['\0\u0002', '\0\u0001'];

/** `(a)` is 1.1 times as strong as what surrounds it, `(a:1.3)` has the weight 1.3 whatever surrounds it. */
export function comfyuiWeights(prompt: string): WeightedWords[] {
  const escaped = prompt.replaceAll('\\)', CLOSED).replaceAll('\\(', OPENED);
  return nested(escaped, 1).map(({ text, weight }) => ({
    text: text.replaceAll(CLOSED, ')').replaceAll(OPENED, '('),
    weight,
  }));
}

function nested(text: string, current: number): WeightedWords[] {
  return outermost(text).flatMap((part): WeightedWords[] => {
    if (part.length < 2 || !part.startsWith('(') || !part.endsWith(')')) {
      return [{ text: part, weight: current }];
    }
    const inner = part.slice(1, -1);
    const colon = inner.lastIndexOf(':');
    const explicit = colon > 0 ? pythonNumber(inner.slice(colon + 1)) : NaN;
    return Number.isNaN(explicit) ? nested(inner, current * ROUND) : nested(inner.slice(0, colon), explicit);
  });
}

/** Cut at the outermost round brackets, which stay with what is inside. */
function outermost(text: string): string[] {
  const parts: string[] = [];
  let part = '';
  let depth = 0;
  for (const character of text) {
    if (character === '(') {
      if (depth === 0 && part !== '') {
        parts.push(part);
        part = '';
      }
      depth++;
    } else if (character === ')') {
      depth--;
      if (depth === 0) {
        parts.push(`${part})`);
        part = '';
        continue;
      }
    }
    part += character;
  }
  return part === '' ? parts : [...parts, part];
}

/** What Python's `float` makes of it; NaN where it would not. */
function pythonNumber(text: string): number {
  const trimmed = text.trim();
  return /^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+)(?:e[+-]?\d+)?$/i.test(trimmed)
    ? Number(trimmed.replaceAll('_', ''))
    : NaN;
}
