import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { VitePWA } from 'vite-plugin-pwa';
import { defineConfig, type Plugin } from 'vite';
import { headers } from './cli/headers.js';

const served = headers({ development: false });
const policy = digest('sha256', JSON.stringify(served)).slice(0, 8);
let dist = 'dist';

export default defineConfig({
  plugins: [svelte(), hostHeaders(), offline()],
  // A missing file is missing, not the page.
  appType: 'mpa',
  worker: { format: 'es' },
  // Found only inside the workers, these would make the dev server reload the page in the middle of the first picture.
  optimizeDeps: {
    include: [
      '@bufbuild/protobuf',
      '@bufbuild/protobuf/codegenv2',
      '@bufbuild/protobuf/wire',
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
  // For the service worker, which has no way to ask.
  define: { __HOST_HEADERS__: JSON.stringify(served) },
  server: { headers: headers({ development: true }) },
  preview: { headers: served },
});

/** Writes `_headers`, which Netlify and Cloudflare Pages obey and docs/serving.md turns into nginx's directives. */
function hostHeaders(): Plugin {
  return {
    name: 'darkroom:host-headers',
    apply: 'build',
    configResolved({ root, build }) {
      dist = resolve(root, build.outDir);
    },
    generateBundle() {
      const lines = Object.entries(served).map(([name, value]) => `  ${name}: ${value}`);
      const cached = ['/assets/*', '  Cache-Control: public, max-age=31536000, immutable'];
      this.emitFile({ type: 'asset', fileName: '_headers', source: ['/*', ...lines, ...cached, ''].join('\n') });
    },
  };
}

/** The service worker, with the list of the files that it keeps: the page and the built-in checkpoint. */
function offline() {
  return VitePWA({
    strategies: 'injectManifest',
    srcDir: 'workers',
    filename: 'service.worker.ts',
    // The page registers it itself (src/app/update.svelte.ts), and its manifest lies in public/.
    injectRegister: false,
    manifest: false,
    injectManifest: {
      rollupFormat: 'iife',
      globPatterns: ['**/*.{html,js,css,wasm,svg,png,webmanifest}', 'checkpoints/shapes/**/*.{json,txt,safetensors}'],
      // ONNX Runtime's larger build has 27 MB.
      maximumFileSizeToCacheInBytes: 32 * 2 ** 20,
      // Names that hold a hash need no revision. Workers get one nevertheless, because they have headers of their own.
      dontCacheBustURLsMatching: /^assets\/(?!.*\.worker-)/,
      manifestTransforms: [
        (entries) => ({
          manifest: entries.map((entry) => ({
            ...entry,
            // Kept with the headers of their time, so that other headers make another revision.
            revision: entry.revision && `${entry.revision}-${policy}`,
            // What a host changed on the way, or served from another version, is not kept.
            integrity: `sha384-${digest('sha384', readFileSync(join(dist, entry.url)), 'base64')}`,
          })),
          warnings: [],
        }),
      ],
    },
  });
}

function digest(algorithm: string, content: string | Buffer, encoding: 'hex' | 'base64' = 'hex'): string {
  return createHash(algorithm).update(content).digest(encoding);
}
