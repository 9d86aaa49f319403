/**
 * `npm test`: types in every compile world, lint, format and build, two at a time; then unit tests, browser tests and those that measure,
 * one after the other. A Chromium is downloaded first where there is none; where that fails, the browser tests fail and all else is run. A step
 * that fails does not stop the next ones. What failed is named again at the end, where a log that was cut short still has it. The last line is
 * `N passed, M failed`, where types, lint and build count as one check each, and the exit code is 0 only when nothing failed.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { provideChromium } from '../cli/chromium.js';

/**
 * What the runners' own reports say, as far as it is read here.
 * @typedef {{ status: string, fullName: string, failureMessages: string[] }} UnitTest
 * @typedef {{ name: string, status: string, message: string, assertionResults: UnitTest[] }} UnitFile
 * @typedef {{ numPassedTests: number, numFailedTests: number, testResults: UnitFile[] }} UnitReport
 * @typedef {{ results: { error?: { message?: string } }[] }} BrowserTest
 * @typedef {{ specs?: { file: string, title: string, ok: boolean, tests: BrowserTest[] }[], suites?: BrowserSuite[] }} BrowserSuite
 * @typedef {{ stats: { expected: number, unexpected: number, flaky: number }, suites: BrowserSuite[] }} BrowserReport
 */

/**
 * @typedef {{ passed: number, failed: number, named: string[] }} Count `named`: the tests that failed, and the first line of why
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
  { name: 'types: package', command: ['tsc', '-p', 'tsconfig.package.json'] },
  { name: 'types: tools and tests', command: ['tsc', '-p', 'tsconfig.node.json'] },
  { name: 'format', command: ['prettier', '--check', '.'] },
  { name: 'build', command: ['vite', 'build'] },
];

/** These keep all cores busy, or measure. @type {Step[]} */
const steps = [
  {
    name: 'unit tests',
    command: ['vitest', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${unitReport}`],
    count: unitCount,
  },
  browserTests('browser tests', ['gpu', 'page']),
  browserTests('browser tests that measure', ['alone']),
];

let passed = 0;
let failed = 0;
/** @type {string[]} */
const broken = [];
/** @type {string[]} */
const named = [];
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
  console.log(named.map((name) => `  ${name}`).join('\n'));
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

/**
 * Runs a step, prints how it went and counts it.
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
  const counted = (await step.count?.()) ?? { passed: ok ? 1 : 0, failed: ok ? 0 : 1, named: [] };
  // A runner that crashes without a failing test has still failed.
  const failures = ok ? counted.failed : Math.max(counted.failed, 1);
  passed += counted.passed;
  failed += failures;
  if (failures > 0) {
    broken.push(step.name);
    named.push(...counted.named);
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
  const report = /** @type {UnitReport | null} */ (await readReport(unitReport));
  const files = report?.testResults ?? [];
  return {
    passed: report?.numPassedTests ?? 0,
    failed: report?.numFailedTests ?? 0,
    named: files.flatMap(({ name, status, message, assertionResults }) => {
      const failed = assertionResults.filter((test) => test.status === 'failed');
      const file = basename(name);
      return failed.length > 0
        ? failed.map(({ fullName, failureMessages }) => failure(`${file} › ${fullName}`, failureMessages[0]))
        : status === 'failed'
          ? [failure(file, message)]
          : [];
    }),
  };
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
      const read = /** @type {BrowserReport | null} */ (await readReport(report));
      const { expected = 0, unexpected = 0, flaky = 0 } = read?.stats ?? {};
      return { passed: expected, failed: unexpected + flaky, named: (read?.suites ?? []).flatMap(failuresIn) };
    },
  };
}

/**
 * @param {BrowserSuite} suite
 * @returns {string[]}
 */
function failuresIn({ specs = [], suites = [] }) {
  const failed = specs.filter(({ ok }) => !ok);
  return [
    ...failed.map(({ file, title, tests }) => failure(`${file} › ${title}`, messageOf(tests))),
    ...suites.flatMap(failuresIn),
  ];
}

/** @param {BrowserTest[]} tests */
function messageOf(tests) {
  return tests.flatMap(({ results }) => results).find(({ error }) => error)?.error?.message;
}

/**
 * @param {string} name
 * @param {string} [message]
 */
function failure(name, message = '') {
  const [line = ''] = stripVTControlCharacters(message).split('\n');
  return line === '' ? name : `${name}: ${line}`;
}

/**
 * @param {string} path
 * @returns {Promise<Record<string, unknown> | null>} null if the runner crashed before writing one
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
