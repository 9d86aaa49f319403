/**
 * The browser is killed, all of it, at random moments while it records, and started again: every entity that was reported
 * as saved is there, byte for byte. KILLS says how often (20), KILL_SEED which moments.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, expect, test, type Page } from '@playwright/test';
import { chromiumFlags, findChromium } from '../../cli/chromium.js';
import { openRecorders, recorderScript, QUIET_PAGE } from '../fixtures/recorder.ts';

const KILLS = Number(process.env.KILLS ?? 20);
const SEED = Number(process.env.KILL_SEED ?? 1);
/** After the first entity of a round was saved; long enough for hundreds. */
const LONGEST_LIFE_MS = 1500;

/** What the page tells: an entity that it was told is saved, with the hash of what it had handed in; or a run that it deletes. */
type Word = { run: string; filename: string; sha256: string } | { deleting: string } | { started: true };

interface Browser {
  process: ChildProcess;
  ended: Promise<void>;
  page: Page;
}

test(`${KILLS} kills of the browser while it records lose nothing that was saved`, async ({ request, baseURL }) => {
  test.setTimeout(60_000 + KILLS * 30_000);
  const origin = baseURL ?? '';
  const script = await recorderScript(request);
  const profile = await mkdtemp(join(tmpdir(), 'darkroom-kills-'));
  const random = randomNumbers(SEED);
  const saved = new Map<string, Word & { sha256: string }>();
  const deleting = new Set<string>();
  const found = { part: 0, crswap: 0, interrupted: 0, adopted: 0, entities: 0 };
  try {
    for (let round = 0; round < KILLS; round++) {
      const browser = await launch(profile);
      let started: () => void = () => {};
      const begun = new Promise<void>((resolve) => (started = resolve));
      await browser.page.exposeFunction('tell', (word: Word) => {
        if ('started' in word) {
          started();
        } else if ('deleting' in word) {
          deleting.add(word.deleting);
        } else {
          saved.set(`${word.run}/${word.filename}`, word);
        }
      });
      await openRecorders(browser.page, script, `${origin}${QUIET_PAGE}`);
      const leftovers = await survey(browser.page);
      found.part += leftovers.filter((name) => name.endsWith('.part')).length;
      found.crswap += leftovers.filter((name) => name.endsWith('.crswap')).length;
      const { violations, interrupted, adopted } = await verify(browser.page, [...saved.values()], [...deleting]);
      expect(violations, `after kill ${round} of seed ${SEED}`).toEqual([]);
      found.interrupted += interrupted;
      found.adopted += adopted;
      // What was verified once was verified after the kill that could have hurt it.
      found.entities += saved.size;
      saved.clear();
      deleting.clear();

      record(browser.page, random(2 ** 31));
      await begun;
      const life = random(LONGEST_LIFE_MS);
      await Promise.race([browser.ended, new Promise((over) => setTimeout(over, life))]);
      await kill(browser);
    }
    const last = await launch(profile);
    await openRecorders(last.page, script, `${origin}${QUIET_PAGE}`);
    const { violations } = await verify(last.page, [...saved.values()], [...deleting]);
    found.entities += saved.size;
    await kill(last);
    expect(violations, `after the last kill of seed ${SEED}`).toEqual([]);
    expect(found.entities).toBeGreaterThan(KILLS);
  } finally {
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
  console.log(`Recorder kills: ${KILLS}, seed ${SEED}: ${JSON.stringify(found)}, 0 violations`);
});

/** A browser with a profile that outlives it, in a process group of its own. */
async function launch(profile: string): Promise<Browser> {
  const child = spawn(
    findChromium() ?? '',
    [...chromiumFlags(), '--headless', `--user-data-dir=${profile}`, '--remote-debugging-port=0', 'about:blank'],
    { detached: true, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const address = await new Promise<string>((resolve, reject) => {
    let told = '';
    child.stderr.on('data', (piece: Buffer) => {
      told += piece.toString();
      const match = /DevTools listening on (ws:\S+)/.exec(told);
      if (match) {
        resolve(match[1]);
      }
    });
    void ended.then(() => reject(new Error(`The browser ended before it was ready: ${told}`)));
  });
  const browser = await chromium.connectOverCDP(address);
  const [context] = browser.contexts();
  return { process: child, ended, page: context.pages()[0] ?? (await context.newPage()) };
}

async function kill({ process: child, ended }: Browser): Promise<void> {
  try {
    // Its whole group: renderers and helpers with it.
    process.kill(-(child.pid as number), 'SIGKILL');
  } catch {
    // It has ended by itself, which the next round will judge.
  }
  await ended;
}

/** Records in two tabs' recorders at once until the end: saves, stars, closes, resumes and deletes. */
function record(page: Page, seed: number): void {
  page
    .evaluate(async (first) => {
      const { tell } = globalThis as unknown as { tell: (word: unknown) => Promise<void> };
      let state = first;
      const random = (below: number) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * below);
      };
      const opening = {
        config_name: 'kills',
        operation: {
          operation: 'image_generation' as const,
          config: 'kills',
          parameters: { prompt: 'a lamp that goes out' },
          priority: 'normal' as const,
          checkpoint: null,
          record: [],
        },
        expected_outputs: [],
      };
      const hash = async (bytes: Uint8Array<ArrayBuffer>) =>
        [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))]
          .map((byte) => byte.toString(16).padStart(2, '0'))
          .join('');
      const write = async () => {
        const recorder = globalThis.newRecorder();
        for (;;) {
          const run = await recorder.openRun(opening);
          for (let count = 1 + random(8); count > 0; count--) {
            const bytes = new Uint8Array(random(20) === 0 ? 2_000_000 : random(50_000));
            for (let at = 0; at < bytes.length; at += 65_536) {
              crypto.getRandomValues(bytes.subarray(at, at + 65_536));
            }
            const sha256 = await hash(bytes);
            const { filename } = await recorder.saveEntity(run, 'thing', new Blob([bytes]), {
              count,
              format: 'safetensors',
            });
            // Whoever reports too late is only checked less.
            void tell({ run, filename, sha256 });
            void tell({ started: true });
          }
          const next = random(6);
          if (next === 0) {
            await recorder.starRun(run, true);
          }
          if (next === 1) {
            // A kill in between must not leave a run half deleted of which nobody here has heard that it was to go.
            await tell({ deleting: run });
            await recorder.deleteRun(run);
          } else if (next > 2) {
            await recorder.closeRun(run, 'completed');
            if (next === 3) {
              await recorder.resumeRun(run);
            }
          }
        }
      };
      await Promise.all([write(), write()]);
    }, seed)
    .catch(() => {
      // It ends with the browser.
    });
}

/** All file names that lie under the recordings, before anything recovers them. */
function survey(page: Page): Promise<string[]> {
  return page.evaluate(async () => {
    const names: string[] = [];
    const walk = async (folder: FileSystemDirectoryHandle): Promise<void> => {
      for await (const [name, handle] of folder) {
        if (handle.kind === 'directory') {
          await walk(handle);
        } else {
          names.push(name);
        }
      }
    };
    const { storageBuckets } = navigator as {
      storageBuckets?: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
    };
    await walk(await navigator.storage.getDirectory());
    const bucket = await storageBuckets?.open('recordings');
    if (bucket) {
      await walk(await bucket.getDirectory());
    }
    return names;
  });
}

/** Compares what is recorded with what was reported, as a new recorder finds it. */
async function verify(page: Page, saved: (Word & { sha256: string })[], deleting: string[]) {
  const told = await page.evaluate(
    async ([entities, leaving]) => {
      const recorder = globalThis.newRecorder();
      const wrong: string[] = [];
      const runs = new Map((await recorder.listRuns({ limit: 100_000 })).map((record) => [record.run_id, record]));
      let adopted = 0;
      const files = new Map<string, string>();
      for (const { run_id, current_state, entities: listed, lost } of runs.values()) {
        if (current_state.stage === 'running' || lost) {
          wrong.push(`${run_id} is ${current_state.stage}, lost: ${(lost ?? []).join(' ')}`);
        }
        const numbers = new Set(listed.map(({ sequence }) => sequence));
        if (numbers.size !== listed.length) {
          wrong.push(`${run_id} repeats a number`);
        }
        adopted += listed.filter(({ metadata }) => !('count' in metadata)).length;
        listed.forEach(({ filename, sha256 }) => files.set(`${run_id}/${filename}`, sha256));
      }
      for (const { run, filename, sha256 } of entities as { run: string; filename: string; sha256: string }[]) {
        if (leaving.includes(run)) {
          continue;
        }
        if (files.get(`${run}/${filename}`) !== sha256) {
          wrong.push(`${run}/${filename} is not listed with its hash`);
          continue;
        }
        const bytes = await (await recorder.readEntity(run, filename)).arrayBuffer();
        const digest = [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))];
        if (digest.map((byte) => byte.toString(16).padStart(2, '0')).join('') !== sha256) {
          wrong.push(`${run}/${filename} has other bytes`);
        }
      }
      const interrupted = [...runs.values()].filter(
        ({ current_state }) => current_state.stage === 'interrupted',
      ).length;
      // So that the next rounds start small.
      for (const run of runs.keys()) {
        await recorder.deleteRun(run);
      }
      recorder.terminate();
      return { violations: wrong, interrupted, adopted };
    },
    [saved, deleting] as const,
  );
  const left = (await survey(page)).filter((name) => /\.(part|crswap)$/.test(name) || name.startsWith('0'));
  return { ...told, violations: [...told.violations, ...left.map((name) => `${name} was left over`)] };
}

function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
