/** Finds or downloads a Chromium and says how to start it, for the command line, the browser tests and the benchmark. */
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { chromium } from 'playwright';
import { Failure } from './failure.js';

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
  const named = namedChromium();
  if (named) {
    return isExecutable(named.path) ? named.path : undefined;
  }
  const onPath = (process.env.PATH ?? '').split(delimiter).flatMap((folder) => NAMES.map((name) => join(folder, name)));
  const installed = INSTALLED[/** @type {keyof typeof INSTALLED} */ (process.platform)] ?? [];
  return [playwrightChromium(), ...onPath, ...installed].find(isExecutable);
}

/**
 * The executable of a Chromium. Where there is none, Playwright's own is downloaded first, once, to where Playwright keeps its browsers.
 * @param {object} [surroundings] what a test puts in the place of this machine
 * @param {() => string | undefined} [surroundings.find]
 * @param {(say: (line: string) => void) => Promise<string | null>} [surroundings.install] resolves to what went wrong, or null
 * @param {(line: string) => void} [surroundings.say]
 * @returns {Promise<string>}
 * @throws {Failure} `no_chromium`
 */
export async function provideChromium({ find = findChromium, install = installChromium, say = toStandardError } = {}) {
  const found = find();
  if (found !== undefined) {
    return found;
  }
  const named = namedChromium();
  if (named) {
    throw new Failure(
      'no_chromium',
      `${named.variable} names ${named.path}, which cannot be started; correct it, or unset it and "npx playwright install chromium" is run for you.`,
    );
  }
  say('No Chromium was found; Playwright downloads one now, once.');
  const fault = await install(say);
  // It may have failed at one of the tools beside the browser.
  const installed = find();
  if (installed === undefined) {
    const reason = fault ?? 'it is not where Playwright said';
    throw new Failure(
      'no_chromium',
      `No Chromium was found, and downloading one failed (${reason}); install Chromium or Chrome, or name its program in DARKROOM_CHROMIUM.`,
    );
  }
  return installed;
}

/**
 * `playwright install chromium`, of the Playwright that is installed here, without its second, smaller browser, which nothing here starts.
 * @param {(line: string) => void} say gets its progress
 * @param {string[]} command
 * @returns {Promise<string | null>} what went wrong, in a few words
 */
export function installChromium(
  say,
  command = [process.execPath, playwrightProgram(), 'install', 'chromium', '--no-shell'],
) {
  return new Promise((done) => {
    const [program, ...words] = command;
    const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
    // In the end it only reports failure; the cause is what it wrote to standard error before.
    const errors = { stdout: /** @type {string[]} */ ([]), stderr: /** @type {string[]} */ ([]) };
    let told = '';
    for (const stream of /** @type {const} */ (['stdout', 'stderr'])) {
      createInterface({ input: child[stream] }).on('line', (coloured) => {
        const line = stripVTControlCharacters(coloured);
        const error = /^(?:\w*Error|ERROR): *(.+)/.exec(line);
        if (error) {
          errors[stream].push(error[1]);
        } else if (/^Downloading|\d% of /.test(line) && line !== told) {
          // It retries several times, reporting each.
          told = line;
          say(line);
        }
      });
    }
    child.once('error', (error) => done(error.message));
    child.once('close', (code) => {
      done(
        code === 0
          ? null
          : (errors.stderr[0] ?? errors.stdout[0] ?? `its installer ended with ${code}`).replace(/\.$/, ''),
      );
    });
  });
}

/** Playwright's own, unless its download was interrupted. */
function playwrightChromium() {
  const path = chromium.executablePath();
  const folder = /^.*[\\/]chromium-\d+(?=[\\/])/.exec(path)?.[0];
  return folder === undefined || existsSync(join(folder, 'INSTALLATION_COMPLETE')) ? path : '';
}

function playwrightProgram() {
  return fileURLToPath(new URL('cli.js', import.meta.resolve('playwright/package.json')));
}

/** @param {string} line */
function toStandardError(line) {
  process.stderr.write(`${line}\n`);
}

/** The chosen Chromium, whether or not it can be started. */
function namedChromium() {
  const variable = ['DARKROOM_CHROMIUM', 'CHROMIUM_PATH'].find((name) => process.env[name]);
  return variable === undefined ? null : { variable, path: process.env[variable] ?? '' };
}

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
    // Chromium takes a GPU process that is busy for ten seconds for a hanging one, but without a card, on a busy machine, it is not.
    flags.push('--use-webgpu-adapter=swiftshader', '--enable-unsafe-swiftshader', '--disable-gpu-watchdog');
  } else if (process.platform === 'linux') {
    flags.push('--enable-features=Vulkan', '--use-angle=vulkan', '--disable-vulkan-surface', '--ignore-gpu-blocklist');
  }
  if (process.getuid?.() === 0) {
    flags.push('--no-sandbox');
  }
  return flags;
}

/** Linux shows cards as device nodes; other systems are assumed to have one, since Chromium falls back automatically there. */
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
