/**
 * `npm run soak -- --kills 500 --seed 7`: kills the working browser over and over, printing rounds, entities and violations every ten
 * kills. `--at recorder|studio|download|queue`, `--victim browser|renderer|storage|gpu`, `--busy` keeps all cores busy meanwhile. The page
 * must be built. `--pictures N`, instead, makes N pictures in one session and watches its memory. `--interruptions 500 --seed 7` kills,
 * restarts, hangs and cuts off ComfyUI servers, and closes tabs, while jobs run on them (`comfyui_pool.test.ts`).
 */
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '500' },
    seed: { type: 'string' },
    at: { type: 'string', default: 'recorder' },
    victim: { type: 'string', default: 'browser' },
    busy: { type: 'boolean', default: false },
    pictures: { type: 'string' },
    interruptions: { type: 'string' },
  },
});

const env =
  values.pictures === undefined
    ? {
        KILLS: values.kills,
        ...(values.seed === undefined ? {} : { KILL_SEED: values.seed }),
        KILL_AT: values.at,
        KILL_VICTIM: values.victim,
        KILL_BUSY: values.busy ? '1' : '0',
      }
    : { FLAT: values.pictures, FLAT_BACKEND: 'webgpu' };
const spec = values.pictures === undefined ? 'e2e/faults/kills.spec.ts' : 'e2e/journeys/recordings.spec.ts';

const [command, given] =
  values.interruptions === undefined
    ? [['playwright', 'test', '--workers=1', spec], env]
    : [
        ['vitest', 'run', 'test/comfyui_pool.test.ts', '-t', 'random interruptions', '--disable-console-intercept'],
        {
          INTERRUPTIONS: values.interruptions,
          ...(values.seed === undefined ? {} : { INTERRUPTION_SEED: values.seed }),
        },
      ];

const child = spawn('npx', ['--no-install', ...command], {
  stdio: 'inherit',
  env: { ...process.env, ...given },
  shell: process.platform === 'win32', // where npx is a script
});
child.once('exit', (code) => {
  process.exitCode = code ?? 1;
});
