import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';
import { headers } from './cli/headers.js';

export default defineConfig({
  plugins: [svelte()],
  worker: { format: 'es' },
  build: { target: 'esnext', assetsInlineLimit: 0 },
  server: { headers: headers({ development: true }) },
  preview: { headers: headers({ development: false }) },
});
