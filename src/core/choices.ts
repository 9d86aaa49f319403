/**
 * Choices in prompts, drawn by the seed: `{red|blue}` picks one, `{2::red|blue}` picks red twice as often, `{2$$red|blue|green}` picks
 * two, and `__colour__` picks a line from the list of that name. The same seed always picks the same, so a picture can be made again.
 */
import { TorchGenerator } from './random.ts';

/** Lists of wildcards by name. */
export type Wildcards = Readonly<Record<string, readonly string[]>>;

const INNERMOST = /(?<!\\)\{((?:[^{}\\]|\\.)*)\}/;
const COUNT = /^\s*(\d{1,2})(?:-(\d{1,2}))?\$\$/;
const WEIGHT = /^\s*(\d+(?:\.\d*)?|\.\d+)::/;
const WILDCARD = /__([\p{L}\p{N}_./-]+?)__/u;
/** Lists may name others, and themselves. */
const MOST_DRAWS = 200;

/** Whether a prompt leaves anything to the seed. */
export function hasChoices(prompt: string, wildcards: Wildcards = {}): boolean {
  const [, inside] = INNERMOST.exec(prompt) ?? [];
  const [, name] = WILDCARD.exec(prompt) ?? [];
  return (inside !== undefined && isChoice(inside)) || (name !== undefined && Object.hasOwn(wildcards, name));
}

/**
 * The prompt with every choice made. Braces without a choice, and names of missing lists, stay as they are.
 * @param seed decimal
 * @param turn tells prompts of one seed apart: the prompt is 0, the negative prompt 1
 */
export function drawChoices(prompt: string, seed: string, turn: number, wildcards: Wildcards = {}): string {
  const random = new TorchGenerator(BigInt(seed) + BigInt(turn) * 0x9e3779b9n);
  let text = prompt;
  const kept: string[] = [];
  for (let draws = 0; draws < MOST_DRAWS; draws++) {
    const braces = INNERMOST.exec(text);
    if (braces) {
      const drawn = isChoice(braces[1]) ? drawnFrom(braces[1], random) : `\0${kept.push(braces[0]) - 1}\0`;
      text = text.slice(0, braces.index) + drawn + text.slice(braces.index + braces[0].length);
      continue;
    }
    const wildcard = WILDCARD.exec(text);
    if (!wildcard) {
      break;
    }
    const lines = Object.hasOwn(wildcards, wildcard[1]) ? wildcards[wildcard[1]] : [];
    const line = lines.length > 0 ? lines[indexOf(random, lines.length)] : `\0${kept.push(wildcard[0]) - 1}\0`;
    text = text.slice(0, wildcard.index) + line + text.slice(wildcard.index + wildcard[0].length);
  }
  while (/\0\d+\0/.test(text)) {
    text = text.replace(/\0(\d+)\0/g, (_, place: string) => kept[Number(place)]);
  }
  return text.replace(/\\([{}])/g, '$1');
}

function isChoice(inside: string): boolean {
  return inside.includes('|') || COUNT.test(inside);
}

function drawnFrom(inside: string, random: TorchGenerator): string {
  const [head, least, most = least] = COUNT.exec(inside) ?? ['', '1', '1'];
  const options = inside
    .slice(head.length)
    .split('|')
    .map((option) => {
      const [mark, weight] = WEIGHT.exec(option) ?? ['', '1'];
      return { text: option.slice(mark.length), weight: Number(weight) };
    });
  const [low, high] = [Number(least), Number(most)].sort((a, b) => a - b);
  const count = Math.min(options.length, low + indexOf(random, high - low + 1));
  const chosen: string[] = [];
  for (let n = 0; n < count; n++) {
    const total = options.reduce((sum, { weight }) => sum + weight, 0);
    let left = random.uniform() * total;
    const at = Math.max(
      0,
      options.findIndex(({ weight }) => (left -= weight) < 0),
    );
    chosen.push(options.splice(at, 1)[0].text);
  }
  return chosen.join(', ');
}

function indexOf(random: TorchGenerator, count: number): number {
  return Math.floor(random.uniform() * count);
}
