import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

const darkroom = fileURLToPath(new URL('.', import.meta.resolve('darkroom/darkroom.json')));

export default defineConfig({
  build: { target: 'esnext' },
  plugins: [
    {
      name: 'darkroom-files',
      apply: 'build',
      writeBundle: ({ dir }) => cpSync(darkroom, join(dir, 'darkroom'), { recursive: true }),
    },
  ],
});
