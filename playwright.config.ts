import { defineConfig } from '@playwright/test';
import { chromiumFlags, provideChromium } from './cli/chromium.js';

const executablePath = await provideChromium();
const port = Number(process.env.DARKROOM_TEST_PORT ?? 4179);

/** They keep the software renderer busy, so they run one at a time; the last two start browsers again and again. */
const gpu = [
  'engine',
  'fidelity',
  'blocks',
  'onnx_repository',
  'planner',
  'faults/gpu',
  'faults/gpu_blocks',
  'language',
  'sounds',
  'songs',
  'faults/torn_log',
  'faults/kills',
].map(specOf);

/** They hold something to a time or measure it, so nothing may run beside them. */
const alone = ['library_scale', 'journeys/queue', 'journeys/recordings'].map(specOf);

function specOf(name: string): string {
  return `**/e2e/${name}.spec.ts`;
}

/**
 * Runs on the built page, `npm run build` first. One worker takes what needs the renderer, file by file, and the other what needs the page only;
 * whichever is done first helps with the page. `npm run test:e2e` runs the third project by itself afterwards.
 */
export default defineConfig({
  testDir: 'e2e',
  workers: 2,
  projects: [
    { name: 'gpu', testMatch: gpu, workers: 1 },
    { name: 'page', testIgnore: [...gpu, ...alone] },
    { name: 'alone', testMatch: alone, workers: 1 },
  ],
  retries: 0,
  timeout: 600_000,
  expect: { timeout: 30_000 },
  reporter: 'list',
  forbidOnly: Boolean(process.env.CI),
  use: {
    baseURL: `http://127.0.0.1:${port}`,
    launchOptions: { executablePath, args: chromiumFlags() },
    screenshot: 'only-on-failure',
    // What cannot be pressed for so long never can; a test has ten minutes otherwise.
    actionTimeout: 180_000,
    // What is tested is what lies on the disk; e2e/faults/offline.spec.ts allows them.
    serviceWorkers: 'block',
  },
  webServer: { command: `node cli/server.js dist ${port}`, port, reuseExistingServer: false },
});
