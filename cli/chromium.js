/** Finds a Chromium and says how to start it, for the command line, the browser tests and the benchmark. */
import { accessSync, constants, existsSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome', 'microsoft-edge'];

const INSTALLED = {
  darwin: [
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
    '/Applications/Chromium.app/Contents/MacOS/Chromium',
  ],
  win32: ['ProgramFiles', 'ProgramFiles(x86)', 'LocalAppData'].map((folder) =>
    join(process.env[folder] ?? '', 'Google', 'Chrome', 'Application', 'chrome.exe'),
  ),
};

/**
 * The executable of a Chromium: what DARKROOM_CHROMIUM or CHROMIUM_PATH names, else Playwright's own, else an installed
 * one. Undefined when there is none.
 * @returns {string | undefined}
 */
export function findChromium() {
  const named = process.env.DARKROOM_CHROMIUM || process.env.CHROMIUM_PATH;
  if (named) {
    return isExecutable(named) ? named : undefined;
  }
  const onPath = (process.env.PATH ?? '').split(delimiter).flatMap((folder) => NAMES.map((name) => join(folder, name)));
  const installed = INSTALLED[/** @type {keyof typeof INSTALLED} */ (process.platform)] ?? [];
  return [chromium.executablePath(), ...onPath, ...installed].find(isExecutable);
}

/** What to do when there is none. */
export const NO_CHROMIUM =
  'No Chromium was found; install one with "npx playwright install chromium", or name it in DARKROOM_CHROMIUM.';

/**
 * The flags to start it with: quiet, and with WebGPU on the graphics card, or on the software renderer (SwiftShader)
 * where there is no card or DARKROOM_SWIFTSHADER=1 asks for it.
 * @returns {string[]}
 */
export function chromiumFlags() {
  const flags = [
    '--enable-unsafe-webgpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
    '--disable-quic',
  ];
  if (process.env.DARKROOM_SWIFTSHADER === '1' || !hasGraphicsCard()) {
    // Chromium takes a GPU process that is busy for ten seconds for a hanging one; without a card, on a busy machine, it is not.
    flags.push('--use-webgpu-adapter=swiftshader', '--enable-unsafe-swiftshader', '--disable-gpu-watchdog');
  } else if (process.platform === 'linux') {
    flags.push('--enable-features=Vulkan', '--use-angle=vulkan', '--disable-vulkan-surface', '--ignore-gpu-blocklist');
  }
  if (process.getuid?.() === 0) {
    flags.push('--no-sandbox');
  }
  return flags;
}

/** Linux shows cards as device nodes; other systems are taken to have one, as Chromium falls back by itself there. */
function hasGraphicsCard() {
  if (process.platform !== 'linux') {
    return true;
  }
  const nodes = existsSync('/dev/dri') ? readdirSync('/dev/dri') : [];
  return existsSync('/dev/nvidia0') || nodes.some((node) => node.startsWith('renderD'));
}

/** @param {string} path */
function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
