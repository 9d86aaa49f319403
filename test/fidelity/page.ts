/** docs/FIDELITY.md: written from the measured cells, and read again to be compared with them. */
import type { FidelityArea } from './fidelity.ts';

export interface MeasuredArea extends FidelityArea {
  /** In the order of `cells`. */
  differences: readonly number[];
}

/** Below this a difference is the rounding of single precision, which changes with the machine and its runtime. */
const ROUNDING = 1e-5;
/** How far two measurements of one cell may lie apart otherwise. */
const FACTOR = 4;

export function pageOf(areas: readonly MeasuredArea[]): string {
  const count = areas.reduce((sum, { cells }) => sum + cells.length, 0);
  return [
    '# Fidelity',
    '',
    `${count} cells: everything that Darkroom computes and a reference computes too, with the greatest difference between the two.`,
    'Written by `npm run fidelity`; `test/fidelity.test.ts` measures the cells again and fails where this page no longer says what they are.',
    'CONTRIBUTING.md, "Add cells to the fidelity page", says how a new area comes in.',
    '',
    '| area | cells | greatest difference | allowed |',
    '|---|---|---|---|',
    ...areas.map(
      ({ title, cells, differences, limit }) =>
        `| [${title}](#${anchorOf(title)}) | ${cells.length} | ${written(Math.max(0, ...differences))} | ${written(limit)} |`,
    ),
    ...areas.flatMap(({ title, about, columns, cells, differences }) => [
      '',
      `## ${title}`,
      '',
      about,
      '',
      `| ${[...columns, 'difference'].join(' | ')} |`,
      `|${'---|'.repeat(columns.length + 1)}`,
      ...cells.map(({ at }, i) => `| ${[...at, written(differences[i])].join(' | ')} |`),
    ]),
    '',
  ].join('\n');
}

/** What is wrong with a page, as sentences that name the line; empty where it still says what was measured. */
export function staleLines(page: string, areas: readonly MeasuredArea[]): string[] {
  const fresh = pageOf(areas).split('\n');
  const stated = page.split('\n');
  const length = Math.max(fresh.length, stated.length);
  return Array.from({ length }, (_, i) => i).flatMap((i) =>
    saysTheSame(stated[i] ?? '', fresh[i] ?? '')
      ? []
      : [`Line ${i + 1} says "${stated[i] ?? ''}" and should say "${fresh[i] ?? ''}".`],
  );
}

/** Only measured numbers stand in backticks. */
const NUMBER = /(?<=`)[\d.e-]+(?=`)/g;

function saysTheSame(a: string, b: string): boolean {
  const [ours, theirs] = [a, b].map((line) => (line.startsWith('|') ? (line.match(NUMBER) ?? []).map(Number) : []));
  const isRow = a.startsWith('|') && ours.length === theirs.length;
  return (
    a === b ||
    (isRow &&
      a.replace(NUMBER, '#') === b.replace(NUMBER, '#') &&
      ours.every((value, i) => {
        const [low, high] = [Math.min(value, theirs[i]), Math.max(value, theirs[i])];
        return high <= ROUNDING || high <= FACTOR * low;
      }))
  );
}

/** Two digits, rounded up, so that the page never says less than was measured. */
function written(difference: number): string {
  if (difference === 0) {
    return '`0`';
  }
  const unit = 10 ** (Math.floor(Math.log10(difference)) - 1);
  const rounded = Math.ceil(difference / unit - 1e-9) * unit;
  return `\`${rounded >= 0.1 ? String(Number(rounded.toPrecision(2))) : rounded.toExponential(1)}\``;
}

function anchorOf(title: string): string {
  return title
    .toLowerCase()
    .replace(/[^\p{L}\p{N} -]/gu, '')
    .replaceAll(' ', '-');
}
