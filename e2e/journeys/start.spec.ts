/** What a newcomer's browser must load before the first Generate. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from '@playwright/test';

const DIST = join(import.meta.dirname, '..', '..', 'dist');
const LIMIT = 150_000;

test(`main-thread JavaScript before Generate is at most ${LIMIT / 1000} kB gzipped`, async ({ page }) => {
  await page.goto('/?backend=wasm');
  await expect(page.getByRole('button', { name: 'Generate', exact: true })).toBeEnabled();
  // The page's own timeline: it includes the workers' entry scripts and their static imports, which run elsewhere.
  const scripts = await page.evaluate(() =>
    performance
      .getEntriesByType('resource')
      .map(({ name }) => new URL(name).pathname)
      .filter((path) => path.endsWith('.js') && !path.includes('.worker-') && !path.includes('/assets/worker/')),
  );
  expect(scripts.length).toBeGreaterThan(0);
  const bytes = [...new Set(scripts)].reduce((sum, path) => sum + gzipSync(readFileSync(join(DIST, path))).length, 0);
  console.log(`main-thread JavaScript before Generate: ${(bytes / 1000).toFixed(1)} kB gzipped`);
  expect(bytes).toBeLessThanOrEqual(LIMIT);
  expect(scripts.filter((path) => /\/ort\b/.test(path))).toEqual([]);
});
