/**
 * The whole browser is killed at random moments while it records, then restarted: everything reported as stored is there, byte for byte.
 * Environment variables choose what is killed, when and how often: KILLS (10), KILL_AT (recorder, studio, download, queue), KILL_VICTIM
 * (browser, renderer, storage, gpu), KILL_SEED (a new one each day) and KILL_BUSY (both cores busy); `npm run soak` sets them.
 */
import { spawn } from 'node:child_process';
import { cpSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type APIRequestContext } from '@playwright/test';
import { Downloading, Queueing, Recording, Studio } from '../fixtures/kill_scenarios.ts';
import { RunningBrowser, VICTIMS, droppedRecords, randomNumbers, type Scenario } from '../fixtures/kills.ts';
import type { Hub } from '../fixtures/hub.ts';
import { test } from '../fixtures/library.ts';

const DAY_MS = 86_400_000;
const KILLS = Number(process.env.KILLS ?? 10);
const SEED = Number(process.env.KILL_SEED ?? Math.floor(Date.now() / DAY_MS));
const AT = process.env.KILL_AT ?? 'recorder';
const VICTIM = VICTIMS.find((victim) => victim === (process.env.KILL_VICTIM ?? 'browser'));
const IS_BUSY = process.env.KILL_BUSY === '1';
/** Number of kills between progress lines of a long soak. */
const REPORTED_EVERY = 10;

const SCENARIOS: Record<
  string,
  (request: APIRequestContext, origin: string, hub: Hub) => Scenario | Promise<Scenario>
> = {
  recorder: (request, origin) => Recording.prepare(request, origin),
  studio: (_request, origin) => new Studio(origin),
  download: (_request, origin, hub) => new Downloading(origin, hub),
  queue: (_request, origin) => new Queueing(origin),
};

test(`${KILLS} kills of the ${VICTIM} at work on the ${AT} lose nothing that was stored`, async ({
  request,
  baseURL,
  hub,
}, info) => {
  test.setTimeout(60_000 + KILLS * 60_000);
  const victim = VICTIM;
  if (!victim || !(AT in SCENARIOS)) {
    throw new Error(
      `KILL_VICTIM is one of ${VICTIMS.join(', ')}; KILL_AT one of ${Object.keys(SCENARIOS).join(', ')}.`,
    );
  }
  const scenario = await SCENARIOS[AT](request, baseURL ?? '', hub);
  const profile = await mkdtemp(join(tmpdir(), 'darkroom-kills-'));
  const random = randomNumbers(SEED);
  const found: Record<string, number> = {};
  const began = Date.now();
  const said = () =>
    `of the ${victim} at the ${AT}, seed ${SEED}${IS_BUSY ? ', cores busy' : ''}: ${JSON.stringify(found)}`;
  const busy = IS_BUSY
    ? Array.from({ length: availableParallelism() }, () => spawn(process.execPath, ['-e', 'for (;;);']))
    : [];
  const check = async (browser: RunningBrowser, round: number, isCounted: boolean) => {
    const { violations, counts } = await scenario.verify(browser);
    expect(violations, `after kill ${round} of seed ${SEED}`).toEqual([]);
    for (const [name, count] of Object.entries(isCounted ? counts : {})) {
      found[name] = (found[name] ?? 0) + count;
    }
  };
  try {
    for (let round = 0; round <= KILLS; round++) {
      const browser = await RunningBrowser.launch(profile, scenario.flags);
      await check(browser, round, true);
      await scenario.forget(browser);
      if (round > 0 && (round % REPORTED_EVERY === 0 || round === KILLS)) {
        const seconds = ((Date.now() - began) / 1000 / round).toFixed(1);
        console.log(`${round} of ${KILLS} kills ${said()}, 0 violations, ${seconds} s a kill`);
      }
      if (round === KILLS) {
        await browser.kill('browser');
        break;
      }
      await scenario.work(browser, random(2 ** 31));
      const life = random(scenario.longestLife);
      await Promise.race([browser.ended, new Promise((over) => setTimeout(over, life))]);
      await browser.kill(victim);
      if (victim !== 'browser') {
        // The browser survives and must have kept everything; then it exits cleanly, and its next start must find it.
        await check(browser, round + 1, false);
        await browser.close();
      }
    }
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  } catch (error) {
    const kept = info.outputPath('profile');
    cpSync(profile, kept, { recursive: true, verbatimSymlinks: true, force: true });
    console.log(`Failed ${said()}. The profile is kept in ${kept}.`);
    console.log(`Its databases say: ${droppedRecords(profile).join('\n') || 'nothing of dropped records'}`);
    throw error;
  } finally {
    busy.forEach((one) => one.kill());
  }
});
