/** The built studio, for measurements in it. */
import { join } from 'node:path';
import { build } from 'vite';
import { serveFolder } from '../cli/server.js';

const HERE = import.meta.dirname;
const APP = join(HERE, '.dist_app');

/** @type {Promise<unknown> | undefined} */
let built;

/**
 * Builds the studio, once, and opens it.
 * @template Answer
 * @param {import('playwright').Browser} browser
 * @param {'webgpu' | 'wasm'} backend
 * @param {(page: import('playwright').Page) => Promise<Answer>} use
 * @returns {Promise<Answer>}
 */
export async function inStudio(browser, backend, use) {
  built ??= buildAll();
  await built;
  const server = await serveFolder(APP);
  const page = await browser.newPage({ serviceWorkers: 'block' });
  page.setDefaultTimeout(0);
  try {
    await page.goto(`${server.url}/?backend=${backend}`);
    await page.locator('button[aria-disabled="false"]', { hasText: /^Generate/ }).waitFor();
    return await use(page);
  } finally {
    await page.close();
    await server.close();
  }
}

/** The studio with what it is compared with beside it, so that both run in one page. */
async function buildAll() {
  await build({ root: join(HERE, '..'), logLevel: 'error', build: { outDir: APP, emptyOutDir: true } });
  await build({
    configFile: false,
    root: HERE,
    base: '/plain/',
    logLevel: 'error',
    build: {
      target: 'esnext',
      outDir: join(APP, 'plain'),
      emptyOutDir: true,
      assetsInlineLimit: 0,
      rolldownOptions: {
        input: ['plain_language', 'plain_pictures'].map((name) => join(HERE, `${name}.ts`)),
        output: { entryFileNames: '[name].js' },
      },
    },
  });
}
