/**
 * Prompts that change while a picture is made, as AUTOMATIC1111 reads them: `[cat:dog:0.5]`, `[dog:10]`, `[cat::10]`, `[cat|dog]`, and several
 * prompts at once with `AND`.
 *
 * Reference: modules/prompt_parser.py of stable-diffusion-webui 1.10 (get_learned_conditioning_prompt_schedules, get_multicond_prompt_list)
 */

/** A text, and the last step, counted from 1, that it is meant for; the next one begins after it. */
export interface ScheduledText {
  until: number;
  text: string;
}

/** One of several prompts that are followed at once. */
export interface ComposedPrompt {
  text: string;
  weight: number;
}

type Node =
  | { kind: 'text'; text: string }
  | { kind: 'sequence'; parts: Node[] }
  | { kind: 'scheduled'; before: Node | null; after: Node; when: string }
  | { kind: 'alternate'; options: Node[] };

/** Where a node ends. */
type Parsed = [node: Node, end: number];

const NUMBER = /[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?/y;
const PLAIN = /(?:[^\\[\]():|]|\\[^\n])+/y;
const SPACE = /\s*/y;

/** @param steps calls of the network in all, at least 1 */
export function promptSchedule(prompt: string, steps: number): ScheduledText[] {
  const tree = parse(prompt);
  if (!tree) {
    return [{ until: steps, text: prompt }];
  }
  const ends = new Set([steps]);
  collect(tree, steps, ends);
  return [...ends].sort((a, b) => a - b).map((until) => ({ until, text: textAt(tree, until, steps) }));
}

const WEIGHTED = /^([^]*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$/;

/** `a AND b :0.5`: each is followed with its weight. */
export function composedPrompts(prompt: string): ComposedPrompt[] {
  return prompt.split(/\bAND\b/).map((part) => {
    const [, text = part, weight] = WEIGHTED.exec(part) ?? [];
    return { text, weight: weight === undefined ? 1 : Number(weight) };
  });
}

/** The text for the call of the network with this number, counted from 0. */
export function scheduledAt<T extends { until: number }>(schedule: readonly T[], call: number): T {
  return schedule.find(({ until }) => call <= until) ?? schedule[0];
}

/** The whole text; brackets that belong to nothing are words. Null for what the reference's grammar refuses. */
function parse(prompt: string): Node | null {
  const parts: Node[] = [];
  let at = 0;
  while (at < prompt.length) {
    const [node, end] = parsePrompt(prompt, at);
    if (end > at) {
      parts.push(node);
      at = end;
      continue;
    }
    if (!/[[\]():]/.test(prompt[at])) {
      return null;
    }
    parts.push({ kind: 'text', text: prompt[at] });
    at++;
  }
  return { kind: 'sequence', parts };
}

/** As much as is a prompt by itself. */
function parsePrompt(text: string, from: number): Parsed {
  const parts: Node[] = [];
  let at = from;
  for (;;) {
    const plain = match(PLAIN, text, at);
    const parsed = plain
      ? ([{ kind: 'text', text: plain }, at + plain.length] satisfies Parsed)
      : text[at] === '['
        ? parseSquare(text, at)
        : text[at] === '('
          ? parseRound(text, at)
          : null;
    if (!parsed) {
      return [{ kind: 'sequence', parts }, at];
    }
    parts.push(parsed[0]);
    at = parsed[1];
  }
}

function parseRound(text: string, from: number): Parsed | null {
  const [first, middle] = parsePrompt(text, from + 1);
  if (text[middle] === ')') {
    return [bracketed('(', [first], ')'), middle + 1];
  }
  if (text[middle] !== ':') {
    return null;
  }
  const [second, end] = parsePrompt(text, middle + 1);
  return text[end] === ')' ? [bracketed('(', [first, { kind: 'text', text: ':' }, second], ')'), end + 1] : null;
}

function parseSquare(text: string, from: number): Parsed | null {
  const [first, end] = parsePrompt(text, from + 1);
  if (text[end] === ']') {
    return [bracketed('[', [first], ']'), end + 1];
  }
  if (text[end] === '|') {
    const options = [first];
    let at = end;
    while (text[at] === '|') {
      const [option, next] = parsePrompt(text, at + 1);
      options.push(option);
      at = next;
    }
    return text[at] === ']' ? [{ kind: 'alternate', options }, at + 1] : null;
  }
  if (text[end] !== ':') {
    return null;
  }
  const soon = parseWhen(text, end + 1);
  if (soon) {
    return [{ kind: 'scheduled', before: null, after: first, when: soon[0] }, soon[1]];
  }
  const [second, middle] = parsePrompt(text, end + 1);
  const later = text[middle] === ':' ? parseWhen(text, middle + 1) : null;
  return later ? [{ kind: 'scheduled', before: first, after: second, when: later[0] }, later[1]] : null;
}

/** A number and the closing bracket. */
function parseWhen(text: string, from: number): [when: string, end: number] | null {
  const start = from + match(SPACE, text, from).length;
  const when = match(NUMBER, text, start);
  const end = start + when.length;
  const close = end + match(SPACE, text, end).length;
  return when !== '' && text[close] === ']' ? [when, close + 1] : null;
}

function bracketed(open: string, inside: Node[], close: string): Node {
  return { kind: 'sequence', parts: [{ kind: 'text', text: open }, ...inside, { kind: 'text', text: close }] };
}

function match(pattern: RegExp, text: string, at: number): string {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? '';
}

/** A number with a point is a share of the steps. */
function stepOf(when: string, steps: number): number {
  return Math.min(steps, Math.trunc(Number(when) * (when.includes('.') ? steps : 1)));
}

function collect(node: Node, steps: number, ends: Set<number>): void {
  if (node.kind === 'sequence') {
    node.parts.forEach((part) => {
      collect(part, steps, ends);
    });
  } else if (node.kind === 'alternate') {
    for (let step = 1; step <= steps; step++) {
      ends.add(step);
    }
    node.options.forEach((option) => {
      collect(option, steps, ends);
    });
  } else if (node.kind === 'scheduled') {
    const step = stepOf(node.when, steps);
    if (step >= 1) {
      ends.add(step);
    }
    [node.before, node.after].forEach((part) => {
      if (part) {
        collect(part, steps, ends);
      }
    });
  }
}

function textAt(node: Node, step: number, steps: number): string {
  switch (node.kind) {
    case 'text':
      return node.text;
    case 'sequence':
      return node.parts.map((part) => textAt(part, step, steps)).join('');
    case 'alternate':
      return textAt(node.options[(step - 1) % node.options.length], step, steps);
    case 'scheduled': {
      const now = step <= stepOf(node.when, steps) ? node.before : node.after;
      return now ? textAt(now, step, steps) : '';
    }
  }
}
