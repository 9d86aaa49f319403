import { defineConfig } from '@playwright/test';
import { NO_CHROMIUM, chromiumFlags, findChromium } from './cli/chromium.js';

const executablePath = findChromium();
if (!executablePath) {
  throw new Error(NO_CHROMIUM);
}
const port = Number(process.env.DARKROOM_TEST_PORT ?? 4179);

/** Runs on the built page, `npm run build` first. One worker: the software renderer takes every core there is. */
export default defineConfig({
  testDir: 'e2e',
  workers: 1,
  retries: 0,
  timeout: 600_000,
  expect: { timeout: 30_000 },
  reporter: 'list',
  forbidOnly: Boolean(process.env.CI),
  use: {
    baseURL: `http://127.0.0.1:${port}`,
    launchOptions: { executablePath, args: chromiumFlags() },
    screenshot: 'only-on-failure',
    // What is tested is what lies on the disk; e2e/faults/offline.spec.ts allows them.
    serviceWorkers: 'block',
  },
  webServer: { command: `node cli/server.js dist ${port}`, port, reuseExistingServer: false },
});
