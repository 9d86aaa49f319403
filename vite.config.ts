import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';
import { headers } from './cli/headers.js';

export default defineConfig({
  plugins: [svelte()],
  worker: { format: 'es' },
  // Found only inside the workers, these would make the dev server reload the page in the middle of the first picture.
  optimizeDeps: {
    include: [
      '@bufbuild/protobuf',
      '@bufbuild/protobuf/codegenv2',
      '@huggingface/tokenizers',
      'comlink',
      'hash-wasm',
      'idb-keyval',
      'onnxruntime-web/jspi',
      'onnxruntime-web/webgpu',
      'valibot',
    ],
  },
  build: { target: 'esnext', assetsInlineLimit: 0 },
  server: { headers: headers({ development: true }) },
  preview: { headers: headers({ development: false }) },
});
