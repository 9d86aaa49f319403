/** `npm run fidelity`: measures every cell of test/fidelity and writes docs/FIDELITY.md. */
import { spawn } from 'node:child_process';

const child = spawn('npx', ['--no-install', 'vitest', 'run', 'test/fidelity.test.ts'], {
  stdio: 'inherit',
  env: { ...process.env, DARKROOM_FIDELITY: 'write' },
  shell: process.platform === 'win32', // where npx is a script
});
child.once('close', (code) => {
  process.exitCode = code ?? 1;
});
