/**
 * `npm run soak -- --kills 500 --seed 7`: kills the browser at work again and again, and tells every ten kills how many rounds, entities and
 * violations there were. `--at recorder|studio|download|queue`, `--victim browser|renderer|storage|gpu`, `--busy` keeps all cores busy
 * beside it. The page must be built. `--pictures N`, instead, makes N pictures in one session and watches its memory.
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

const child = spawn('npx', ['--no-install', 'playwright', 'test', '--workers=1', spec], {
  stdio: 'inherit',
  env: { ...process.env, ...env },
  shell: process.platform === 'win32', // where npx is a script
});
child.once('exit', (code) => {
  process.exitCode = code ?? 1;
});
