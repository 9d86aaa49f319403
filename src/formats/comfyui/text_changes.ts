/** What string nodes do to a text, as far as it can be reproduced: regular expressions, letter case and the like. */
import { textOf } from '../json.ts';
import { literal, type Node } from './graph.ts';

/** The longest regular expression from a file, since it runs in the page. */
const MAX_PATTERN = 200;
/** Its most repetitions, each of which may try every length at every position. */
const MAX_STEPS = 1e9;

/**
 * A pattern from a file as a regular expression with a node's flags. Null for invalid ones, and for nested or many repetitions, which
 * might never finish.
 */
export function safeExpression(pattern: string, text: string, node: Node): RegExp | null {
  const isNested = /[*+}]\??\)[*+{]|\|.*\)[*+{]|\\[1-9]|\(\?</.test(pattern);
  const repetitions = pattern.match(/[*+]|\{\d*,\d*\}/g)?.length ?? 0;
  if (pattern === '' || isNested || pattern.length > MAX_PATTERN || text.length ** (1 + repetitions) > MAX_STEPS) {
    return null;
  }
  const isOn = (name: string) => literal(node, name) === true || literal(node, name) === 'true';
  const flags = `${isOn('case_insensitive') ? 'i' : ''}${isOn('multiline') ? 'm' : ''}${isOn('dotall') ? 's' : ''}`;
  try {
    return new RegExp(pattern, `g${flags}`);
  } catch {
    return null;
  }
}

/**
 * As Python's `re.sub`.
 * @param by may name groups, `\1` or `\g<1>`
 * @param most replacements; 0 = all
 */
export function substituted(text: string, expression: RegExp, by: string, most: number): string {
  let left = most > 0 ? most : Infinity;
  return text.replace(expression, (found, ...rest: unknown[]) =>
    left-- > 0
      ? by.replace(/\\(?:g<)?(\d)>?/g, (_, n: string) => (n === '0' ? found : (textOf(rest[Number(n) - 1]) ?? '')))
      : found,
  );
}

/** What Comfyroll does to a text. */
export function operated(text: string, operation: string): string {
  const turned = (letter: string) => (letter === letter.toUpperCase() ? letter.toLowerCase() : letter.toUpperCase());
  return /^reverse/.test(operation)
    ? [...text].reverse().join('')
    : /^trim/.test(operation)
      ? text.trim()
      : /^remove/.test(operation)
        ? text.replaceAll(' ', '')
        : /^invert/.test(operation)
          ? text.replace(/\p{L}/gu, turned)
          : cased(text, operation);
}

export function cased(text: string, mode: string): string {
  const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1).toLowerCase();
  return /upper/.test(mode)
    ? text.toUpperCase()
    : /lower/.test(mode)
      ? text.toLowerCase()
      : /title/.test(mode)
        ? text.replace(/[\p{L}\p{N}]+/gu, capital)
        : /capital/.test(mode)
          ? capital(text)
          : text;
}
