// node build.mjs
import { cpSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const darkroom = fileURLToPath(new URL('.', import.meta.resolve('darkroom/darkroom.json')));

await build({
  absWorkingDir: here,
  entryPoints: ['src/main.js'],
  outdir: 'dist',
  bundle: true,
  splitting: true,
  format: 'esm',
  target: 'esnext',
});
cpSync(`${here}index.html`, `${here}dist/index.html`);
cpSync(darkroom, `${here}dist/darkroom`, { recursive: true });
