/**
 * Measures every cell of test/fidelity: within its limit, and as docs/FIDELITY.md says. `npm run fidelity` sets DARKROOM_FIDELITY=write
 * and writes that page.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { FidelityArea } from './fidelity/fidelity.ts';
import { pageOf, staleLines, type MeasuredArea } from './fidelity/page.ts';

// The vocabulary for single-file checkpoints is an asset of the page, which Node reads from disk.
beforeAll(() => {
  vi.stubGlobal('fetch', (url: URL) => Promise.resolve(new Response(readFileSync(fileURLToPath(url)))));
});
afterAll(() => {
  vi.unstubAllGlobals();
});

const PAGE = new URL('../docs/FIDELITY.md', import.meta.url);

const files = import.meta.glob<{ areas?: readonly FidelityArea[] }>('./fidelity/*.ts', { eager: true });
const areas = Object.keys(files)
  .sort()
  .flatMap((path) => files[path].areas ?? []);
const measured = new Map(areas.map((area) => [area, new Map<string, number>()]));

describe.each(areas)('$title', (area) => {
  const { cells, columns, limit } = area;

  test('has one cell for each place', () => {
    const places = cells.map(({ at }) => at.join(' | '));
    expect(places.filter((place, i) => places.indexOf(place) !== i)).toEqual([]);
    expect(cells.filter(({ at }) => at.length !== columns.length)).toEqual([]);
    expect(cells.length).toBeGreaterThan(0);
  });

  test.each(cells.map((cell) => ({ name: cell.at.join(', '), cell })))('$name', async ({ cell }) => {
    const difference = await cell.difference();
    measured.get(area)?.set(cell.at.join(' | '), difference);
    expect(difference).toBeLessThanOrEqual(limit);
  });
});

test('docs/FIDELITY.md says what was measured (npm run fidelity writes it)', () => {
  const rows = areas.map((area): MeasuredArea => ({
    ...area,
    differences: area.cells.map(({ at }) => measured.get(area)?.get(at.join(' | ')) ?? NaN),
  }));
  expect(rows.flatMap(({ differences }) => differences).filter(Number.isNaN)).toEqual([]);
  if (process.env.DARKROOM_FIDELITY === 'write') {
    writeFileSync(PAGE, pageOf(rows));
  }
  expect(existsSync(PAGE)).toBe(true);
  expect(staleLines(readFileSync(PAGE, 'utf8'), rows)).toEqual([]);
});
