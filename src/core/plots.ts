/**
 * X/Y/Z plots: one operation with one to three of its parameters varied, as a list of ordinary operations. Lists of values are written as in
 * AUTOMATIC1111.
 *
 * Reference: stable-diffusion-webui 1.10, scripts/xyz_grid.py
 */
import { StudioError } from './errors.ts';
import type { Operation } from './operation.ts';

/** What the values of an axis are: numbers may be written as ranges; `replace` searches the prompts for the first one. */
export type AxisKind = 'integer' | 'real' | 'choice' | 'replace';

/** One axis of a plot. */
export interface PlotAxis {
  /** What varies: a parameter's name, `checkpoint`, or `lora:` and the ref of a LoRA that the operation uses. */
  parameter: string;
  kind: AxisKind;
  /** For people. */
  label: string;
  /** At least one. */
  values: string[];
}

/** The value of the axis `vae` that stands for the checkpoint's own. */
export const OWN_VAE = 'own';

/** Pictures of one plot. */
export const MOST_CELLS = 150;

const INTEGER = String.raw`([+-]?\d+)`;
const REAL = String.raw`([+-]?\d+(?:\.\d*)?)`;
const rangeOf = (number: string) =>
  new RegExp(String.raw`^${number}\s*-\s*${number}(?:\s*(?:\(\s*${number.replace('?', '')}\s*\)|\[\s*(\d+)\s*\]))?$`);
const RANGES = { integer: rangeOf(INTEGER), real: rangeOf(REAL) };

/**
 * @param text values divided by commas or lines, "in quotes" where one has a comma; of numbers also `1-5`, `1-5 (+2)` and `1-10 [5]`
 * @throws StudioError `invalid_operation` for numbers that are none
 */
export function parseValues(text: string, kind: AxisKind): string[] {
  const words = listOf(text);
  if (kind === 'choice' || kind === 'replace') {
    return words;
  }
  return words.flatMap((word) => {
    const range = RANGES[kind].exec(word);
    const values = range ? valuesOf(range, kind) : [Number(word)];
    if (values.length === 0 || values.some((value) => !Number.isFinite(value))) {
      throw new StudioError(
        'invalid_operation',
        `"${word}" is no number and no range; write values such as 1, 2, 5 or ranges such as 1-5, 1-5 (+2) or 1-10 [5].`,
      );
    }
    // A seed may be too long for a number.
    return range ? values.map(String) : [kind === 'integer' && /^\d+$/.test(word) ? word : String(values[0])];
  });
}

function valuesOf([, first, last, by, count]: RegExpExecArray, kind: 'integer' | 'real'): number[] {
  const [from, to] = [Number(first), Number(last)];
  if (count) {
    const parts = Math.max(1, Number(count) - 1);
    return Array.from({ length: Math.min(Number(count), MOST_CELLS + 1) }, (_, i) => {
      const value = from + ((to - from) * i) / parts;
      return kind === 'integer' ? Math.trunc(value) : rounded(value);
    });
  }
  const step = by ? Number(by) : 1;
  const steps = step === 0 ? -1 : Math.floor((to - from) / step + 1e-9);
  return Array.from({ length: Math.max(0, Math.min(steps, MOST_CELLS) + 1) }, (_, i) => rounded(from + i * step));
}

/** Without what binary fractions leave behind the point. */
function rounded(value: number): number {
  return Number(value.toFixed(10));
}

/** As comma-separated values are read, lines counting as commas. */
function listOf(text: string): string[] {
  const words = text.match(/\s*(?:"(?:[^"]|"")*"|[^,\n]*)/g) ?? [];
  return words
    .map((word) => word.trim())
    .map((word) => (/^".*"$/s.test(word) ? word.slice(1, -1).replaceAll('""', '"') : word))
    .filter((word) => word !== '');
}

/**
 * @param axes one to three
 * @returns for each cell the place of its value on each axis, the first axis changing fastest
 * @throws StudioError `invalid_operation` for more cells than a plot may have
 */
export function cellsOf(axes: readonly PlotAxis[]): number[][] {
  const count = axes.reduce((product, { values }) => product * values.length, 1);
  if (count > MOST_CELLS) {
    throw new StudioError(
      'invalid_operation',
      `A plot of ${count} pictures is too large; make it at most ${MOST_CELLS}.`,
    );
  }
  return Array.from({ length: count }, (_, cell) => {
    let rest = cell;
    return axes.map(({ values }) => {
      const at = rest % values.length;
      rest = Math.floor(rest / values.length);
      return at;
    });
  });
}

/**
 * The operation of one cell.
 * @param places from {@link cellsOf}
 * @throws StudioError `invalid_operation` where the words to replace stand in no prompt
 */
export function cellOperation(base: Operation, axes: readonly PlotAxis[], places: readonly number[]): Operation {
  return axes.reduce((operation, axis, n) => withValue(operation, axis, axis.values[places[n]]), base);
}

function withValue(operation: Operation, { parameter, kind, values }: PlotAxis, value: string): Operation {
  const { parameters } = operation;
  const set = (more: Record<string, unknown>): Operation => ({ ...operation, parameters: { ...parameters, ...more } });
  if (kind === 'replace') {
    const names = ['prompt', 'negative_prompt'];
    const textOf = (name: string) => (typeof parameters[name] === 'string' ? parameters[name] : '');
    const found = names.filter((name) => textOf(name).includes(values[0]));
    if (found.length === 0) {
      throw new StudioError(
        'invalid_operation',
        `"${values[0]}" stands neither in the prompt nor in the negative prompt; the first of the values is the one to replace.`,
      );
    }
    return set(Object.fromEntries(found.map((name) => [name, textOf(name).replaceAll(values[0], value)])));
  }
  if (parameter === 'checkpoint') {
    return { ...operation, checkpoint: value };
  }
  if (parameter === 'vae' && value === OWN_VAE) {
    return {
      ...operation,
      parameters: Object.fromEntries(Object.entries(parameters).filter(([name]) => name !== 'vae')),
    };
  }
  if (parameter.startsWith('lora:')) {
    const loras = (parameters.loras ?? []) as { lora: string }[];
    const ref = parameter.slice('lora:'.length);
    return set({ loras: loras.map((one) => (one.lora === ref ? { ...one, weight: Number(value) } : one)) });
  }
  return set({ [parameter]: kind === 'choice' || parameter === 'seed' ? value : Number(value) });
}
