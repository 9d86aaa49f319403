/** `node bench/whole_klein.js FOLDER`: FLUX.2 klein 4B once through on the processor, beside what `reference/whole_klein.py` left in the folder. */
import { spawn } from 'node:child_process';

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  console.error('Give the folder that reference/whole_klein.py has written to.');
  process.exit(2);
}
const child = spawn('npx', ['--no-install', 'vitest', 'run', '--config', 'bench/vitest.config.ts'], {
  stdio: 'inherit',
  env: { ...process.env, DARKROOM_KLEIN: folder },
  shell: process.platform === 'win32', // where npx is a script
});
child.once('close', (code) => {
  process.exitCode = code ?? 1;
});
