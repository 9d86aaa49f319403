// node build.mjs
import { cpSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import webpack from 'webpack';

const here = fileURLToPath(new URL('.', import.meta.url));
const darkroom = fileURLToPath(new URL('.', import.meta.resolve('darkroom/darkroom.json')));

await new Promise((built, failed) => {
  webpack(
    {
      context: here,
      mode: 'production',
      entry: './src/main.js',
      output: { path: `${here}dist`, filename: 'main.js', module: true },
      experiments: { outputModule: true },
      // The package is small already, and there is little else.
      optimization: { minimize: false },
    },
    (error, stats) => (error || stats.hasErrors() ? failed(error ?? new Error(stats.toString())) : built()),
  );
});
cpSync(`${here}index.html`, `${here}dist/index.html`);
cpSync(darkroom, `${here}dist/darkroom`, { recursive: true });
