/**
 * The command line that InvokeAI 1 and 2 wrote into `Dream`: `"words [negative words]" -s 50 -S 123 -W512 -C-1 --seamless`. The prompt's own
 * quotation marks were not escaped at first, and for a while it stood in none.
 * Reference: InvokeAI 2.2, ldm/invoke/args.py, dream_prompt_str and its parser.
 */
export interface Dream {
  prompt: string;
  /** By their long names; true without a value. */
  options: Map<string, string | true>;
}

const SHORT: Record<string, string> = {
  s: 'steps',
  S: 'seed',
  W: 'width',
  H: 'height',
  C: 'cfg_scale',
  A: 'sampler',
  m: 'sampler',
  I: 'init_img',
  M: 'init_mask',
  f: 'strength',
  G: 'face restoration',
  U: 'upscaling',
  V: 'variations',
  v: 'variation_amount',
  n: 'iterations',
  b: 'batch_size',
  g: 'grid',
  i: 'individual',
  T: 'fit',
  D: 'out_direction',
  c: 'outcrop',
  x: 'skip_normalize',
  z: 'png_compression',
  F: 'full_precision',
};
/** Short ones of more than one letter. */
const LONGER: Record<string, string> = { fit: 'fit', tm: 'text_mask', ft: 'facetool', cf: 'codeformer_fidelity' };
const LONG: Record<string, string> = {
  sampler_name: 'sampler',
  with_variations: 'variations',
  gfpgan_strength: 'face restoration',
};

const OPTION = /\s+-(-?)([A-Za-z][A-Za-z_]*)/y;
const NEXT = /\s+--?[A-Za-z]/g;
/** Positions where the prompt may end. */
const MAX_ENDS = 200;

/** @returns null for a text without options, which is no such line */
export function parseDream(line: string): Dream | null {
  const text = line.trim();
  const quote = /^["']/.exec(text)?.[0];
  const end = quote === undefined ? /(?=\s--?[A-Za-z])/g : new RegExp(`${quote}(?=\\s+--?[A-Za-z])`, 'g');
  end.lastIndex = 1;
  let tried = 0;
  for (let match = end.exec(text); match && tried < MAX_ENDS; match = end.exec(text)) {
    const options = optionsIn(text.slice(match.index + match[0].length));
    // Words that happen to follow a dash are not options.
    if (options && (quote !== undefined || options.has('steps') || options.has('seed'))) {
      const prompt = text.slice(quote === undefined ? 0 : 1, match.index);
      return { prompt: prompt.replaceAll('\\"', '"'), options };
    }
    end.lastIndex = match.index + 1;
    tried++;
  }
  return null;
}

/** @returns null if there is something else */
function optionsIn(text: string): Dream['options'] | null {
  const options: Dream['options'] = new Map();
  for (let at = 0; at < text.length;) {
    OPTION.lastIndex = at;
    const match = OPTION.exec(text);
    if (!match) {
      return null;
    }
    const [whole, dash, word] = match;
    // A short option may be followed directly by its value: -s30, -Ak_lms, -C-1.
    const isWhole = dash !== '' || Object.hasOwn(LONGER, word);
    const from = isWhole ? at + whole.length : at + whole.length - word.length + 1;
    NEXT.lastIndex = from;
    const to = NEXT.exec(text)?.index ?? text.length;
    const value = text
      .slice(from, to)
      .replace(/^\s*=?\s*/, '')
      .trim();
    const bare = /^"([^"]*)"$/.exec(value)?.[1] ?? value;
    if (bare.includes('"')) {
      return null;
    }
    const name = dash !== '' ? named(LONG, word) : isWhole ? LONGER[word] : named(SHORT, word[0]);
    options.set(name, bare === '' ? true : bare);
    at = to;
  }
  return options;
}

function named(names: Record<string, string>, name: string): string {
  return Object.hasOwn(names, name) ? names[name] : name;
}
