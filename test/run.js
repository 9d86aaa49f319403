/**
 * `npm test`: types in every compile world, lint and format, two at a time; then unit tests, build, browser tests and those that measure,
 * one after the other. A Chromium is downloaded first where there is none; where that fails, the browser tests fail and all else is run. A step
 * that fails does not stop the next ones. The last line is `N passed, M failed`, where types, lint and build
 * count as one check each, and the exit code is 0 only when nothing failed.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { provideChromium } from '../cli/chromium.js';

/**
 * @typedef {{ passed: number, failed: number }} Count
 * @typedef {{ name: string, command: string[], env?: Record<string, string>, count?: () => Promise<Count>, needsBrowser?: boolean }} Step
 */

const reports = await mkdtemp(join(tmpdir(), 'darkroom-test-'));
const unitReport = join(reports, 'unit.json');

/** Each keeps one core busy. @type {Step[]} */
const checks = [
  { name: 'lint', command: ['eslint', '.', '--max-warnings=0'] },
  { name: 'types: page', command: ['svelte-check', '--tsconfig', 'tsconfig.app.json', '--fail-on-warnings'] },
  { name: 'types: core', command: ['tsc', '-p', 'tsconfig.core.json'] },
  { name: 'types: workers', command: ['tsc', '-p', 'tsconfig.worker.json'] },
  { name: 'types: tools and tests', command: ['tsc', '-p', 'tsconfig.node.json'] },
  { name: 'format', command: ['prettier', '--check', '.'] },
];

/** These keep all cores busy, or measure. @type {Step[]} */
const steps = [
  {
    name: 'unit tests',
    command: ['vitest', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${unitReport}`],
    count: unitCount,
  },
  { name: 'build', command: ['vite', 'build'] },
  browserTests('browser tests', ['gpu', 'page']),
  browserTests('browser tests that measure', ['alone']),
];

let passed = 0;
let failed = 0;
/** @type {string[]} */
const broken = [];
/** Why browser tests cannot run, as a sentence. */
const lacking = await provideChromium().then(
  () => null,
  (error) => (error instanceof Error ? error.message : String(error)),
);
if (lacking) {
  console.log(lacking);
}

try {
  const left = checks.values();
  const lane = async () => {
    for (const check of left) {
      await take(check, 'when it ends');
    }
  };
  await Promise.all([lane(), lane()]);
  for (const step of steps) {
    if (lacking && step.needsBrowser) {
      failed++;
      broken.push(step.name);
    } else {
      await take(step, 'as it comes');
    }
  }
} finally {
  await rm(reports, { recursive: true, force: true });
}

if (broken.length > 0) {
  console.log(`\nFailed: ${broken.join(', ')}.${lacking ? ` ${lacking}` : ''}`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

/**
 * Runs a step, says how it went and counts it.
 * @param {Step} step
 * @param {'as it comes' | 'when it ends'} shown its output; that of two at a time would mix
 */
async function take(step, shown) {
  const started = Date.now();
  const title = `\n── ${step.name}`;
  if (shown === 'as it comes') {
    console.log(title);
  }
  const { ok, output } = await run(step, shown);
  if (shown === 'when it ends') {
    console.log(`${title}\n${output.trimEnd()}`);
  }
  const counted = (await step.count?.()) ?? { passed: ok ? 1 : 0, failed: ok ? 0 : 1 };
  // A runner that breaks without a failing test of its own has still failed.
  const failures = ok ? counted.failed : Math.max(counted.failed, 1);
  passed += counted.passed;
  failed += failures;
  if (failures > 0) {
    broken.push(step.name);
  }
  console.log(`── ${step.name}: ${failures === 0 ? 'ok' : 'FAILED'}, ${Math.round((Date.now() - started) / 1000)} s`);
}

/**
 * @param {Step} step
 * @param {'as it comes' | 'when it ends'} shown
 * @returns {Promise<{ ok: boolean, output: string }>} whether it exited with 0, and what it wrote if that was not shown
 */
function run({ command: [program, ...words], env }, shown) {
  return new Promise((done) => {
    const stdout = shown === 'as it comes' ? 'inherit' : 'pipe';
    const child = spawn('npx', ['--no-install', program, ...words], {
      stdio: ['ignore', stdout, stdout],
      env: { ...process.env, ...env },
      shell: process.platform === 'win32', // where npx is a script
    });
    let output = '';
    const keep = (/** @type {Buffer} */ text) => {
      output += text.toString();
    };
    child.stdout?.on('data', keep);
    child.stderr?.on('data', keep);
    child.once('error', () => done({ ok: false, output }));
    child.once('close', (code) => done({ ok: code === 0, output }));
  });
}

/** @returns {Promise<Count>} */
async function unitCount() {
  const report = await readReport(unitReport);
  return { passed: Number(report?.numPassedTests ?? 0), failed: Number(report?.numFailedTests ?? 0) };
}

/**
 * @param {string} name
 * @param {string[]} projects of playwright.config.ts
 * @returns {Step}
 */
function browserTests(name, projects) {
  const report = join(reports, `${projects.join('-')}.json`);
  return {
    name,
    command: ['playwright', 'test', '--reporter=list,json', ...projects.map((project) => `--project=${project}`)],
    env: { PLAYWRIGHT_JSON_OUTPUT_FILE: report },
    needsBrowser: true,
    count: async () => {
      const stats = /** @type {Record<string, unknown> | undefined} */ ((await readReport(report))?.stats);
      return {
        passed: Number(stats?.expected ?? 0),
        failed: Number(stats?.unexpected ?? 0) + Number(stats?.flaky ?? 0),
      };
    },
  };
}

/**
 * @param {string} path
 * @returns {Promise<Record<string, unknown> | null>} null when the runner broke before it wrote one
 */
async function readReport(path) {
  try {
    /** @type {unknown} */
    const report = JSON.parse(await readFile(path, 'utf8'));
    return /** @type {Record<string, unknown>} */ (report);
  } catch {
    return null;
  }
}
