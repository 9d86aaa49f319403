import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { VitePWA } from 'vite-plugin-pwa';
import { defineConfig, runnerImport, type Connect, type Plugin } from 'vite';
import { REMOTE_POLICY, headers, headersOf } from './cli/headers.js';
import { quickRuntime } from './runtime.config.ts';
import { sandbox } from './sandbox.config.ts';
import type * as Schemas from './schemas/documents.ts';

const served = headers({ development: false });
const servedToSketches = headersOf('/sandbox/', { development: false });
const policy = digest('sha256', JSON.stringify([served, servedToSketches, REMOTE_POLICY])).slice(0, 8);
let dist = 'dist';

export default defineConfig({
  plugins: [svelte(), hostHeaders(), quickRuntime(), sandbox(), schemas(), startOfConfigs(), offline()],
  // A missing file is missing, not the page.
  appType: 'mpa',
  // What workers load lies apart from what the page loads, so that e2e/journeys/start.spec.ts can tell them from each other.
  worker: {
    format: 'es',
    plugins: () => [oneRuntime(), quickRuntime()],
    rolldownOptions: { output: { chunkFileNames: 'assets/worker/[name]-[hash].js' } },
  },
  // Found only inside the workers, these would make the dev server reload the page in the middle of the first picture.
  optimizeDeps: {
    include: [
      '@bufbuild/protobuf',
      '@bufbuild/protobuf/codegenv2',
      '@bufbuild/protobuf/wire',
      '@huggingface/jinja',
      '@huggingface/tokenizers',
      '@huggingface/transformers',
      'acorn',
      'comlink',
      'eventsource-parser',
      'hash-wasm',
      'idb-keyval',
      'mediabunny',
      'onnxruntime-web/jspi',
      'onnxruntime-web/webgpu',
      'valibot',
    ],
  },
  build: {
    target: 'esnext',
    assetsInlineLimit: 0,
    // These only define things, so the page need not load one of which it takes nothing.
    rolldownOptions: {
      treeshake: { moduleSideEffects: [{ test: /\/(?:chunks|src\/(?:core|media|formats))\//, sideEffects: false }] },
    },
  },
  // For the service worker, which has no way to ask.
  define: {
    __HOST_HEADERS__: JSON.stringify(served),
    __SANDBOX_HEADERS__: JSON.stringify(servedToSketches),
    __REMOTE_POLICY__: JSON.stringify(REMOTE_POLICY),
  },
});

/** transformers.js runs on the ONNX Runtime that it is handed (src/language/transformers_library.ts); a copy of its own would never be called. */
export function oneRuntime(): Plugin {
  const none = '\0darkroom:no-runtime';
  return {
    name: 'darkroom:one-runtime',
    enforce: 'pre',
    resolveId: (source, importer) =>
      source.startsWith('onnxruntime-web') && importer?.includes('@huggingface/transformers') ? none : null,
    load: (id) => (id === none ? 'export {};' : null),
  };
}

/**
 * Gives `src/pipelines/catalogue.ts` only what the page needs of configs from its start. The rest is loaded with the library and with rules, by
 * `config_files.ts`, which reads the same files whole.
 */
function startOfConfigs(): Plugin {
  const prefix = '\0darkroom:start-of:';
  return {
    name: 'darkroom:start-of-configs',
    enforce: 'pre',
    async resolveId(source, importer) {
      if (!/\/configs\/\w+\.json$/.test(source) || !importer?.endsWith('/src/pipelines/catalogue.ts')) {
        return null;
      }
      const file = await this.resolve(source, importer, { skipSelf: true });
      return file && `${prefix}${file.id.replace(/\.json$/, '')}`;
    },
    load(id) {
      if (!id.startsWith(prefix)) {
        return null;
      }
      const path = `${id.slice(prefix.length)}.json`;
      this.addWatchFile(path);
      const file = JSON.parse(readFileSync(path, 'utf8')) as Partial<Record<string, unknown>> & {
        checkpoint: { repo: string } | null;
      };
      const { repo } = file.checkpoint ?? {};
      const start = {
        ...file,
        description: undefined,
        template: undefined,
        sizes: undefined,
        checkpoint: repo === undefined ? null : { repo },
      };
      return `export default ${JSON.stringify(start)};`;
    },
  };
}

/**
 * Sends the headers with everything that the dev and preview servers answer, what is missing included, and writes `_headers`, which Netlify
 * and Cloudflare Pages obey and docs/serving.md turns into nginx's directives.
 */
function hostHeaders(): Plugin {
  const sending =
    (options: { development: boolean }): Connect.NextHandleFunction =>
    (request, response, next) => {
      const sent = headersOf(request.url ?? '/', options);
      Object.entries(sent).forEach(([name, value]) => response.setHeader(name, value));
      next();
    };
  return {
    name: 'darkroom:host-headers',
    // Before every plugin that answers requests itself: what it answers needs the headers, too.
    enforce: 'pre',
    configureServer({ middlewares }) {
      middlewares.use(sending({ development: true }));
    },
    configurePreviewServer({ middlewares }) {
      middlewares.use(sending({ development: false }));
    },
    configResolved({ root, build }) {
      dist = resolve(root, build.outDir);
    },
    generateBundle() {
      const lines = Object.entries(served).map(([name, value]) => `  ${name}: ${value}`);
      const cached = ['/assets/*', '  Cache-Control: public, max-age=31536000, immutable'];
      // Both patterns match there. Cloudflare Pages would join two policies, of which the page's admits no sketch, unless the first is taken off.
      const name = 'Content-Security-Policy';
      const sketches = ['/sandbox/*', `  ! ${name}`, `  ${name}: ${servedToSketches[name]}`];
      const source = ['/*', ...lines, ...cached, ...sketches, ''].join('\n');
      this.emitFile({ type: 'asset', fileName: '_headers', source });
    },
  };
}

/** The JSON Schemas of schemas/documents.ts at `/schemas/`, made anew for each build and, in the dev server, for each request. */
function schemas(): Plugin {
  let root = '';
  const made = async (): Promise<Record<string, string>> => {
    const { module } = await runnerImport<typeof Schemas>(join(root, 'schemas/documents.ts'));
    const texts = Object.entries(module.documents()).map(([name, value]) => [
      name,
      `${JSON.stringify(value, null, 2)}\n`,
    ]);
    return Object.fromEntries(texts) as Record<string, string>;
  };
  return {
    name: 'darkroom:schemas',
    configResolved(config) {
      root = config.root;
    },
    configureServer({ middlewares }) {
      middlewares.use((request, response, next) => {
        const name = /\/schemas\/([a-z_]+\.json)(?:\?|$)/.exec(request.url ?? '')?.[1];
        if (name === undefined) {
          next();
          return;
        }
        made().then((texts) => {
          if (!Object.hasOwn(texts, name)) {
            next();
            return;
          }
          response.setHeader('Content-Type', 'application/json; charset=utf-8');
          response.end(texts[name]);
        }, next);
      });
    },
    async generateBundle() {
      for (const [name, source] of Object.entries(await made())) {
        this.emitFile({ type: 'asset', fileName: `schemas/${name}`, source });
      }
    },
  };
}

/** The service worker, with the list of the files that it keeps: the page and the checkpoints that come with it. */
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
      // It reads what was recorded and makes no sound: what the page imports late would be built into it, and started with every visit.
      rollupOptions: { external: /\/(?:audio\/(?:codecs|flac)|video\/(?:reading|animation))\.ts$/ },
      globPatterns: [
        '**/*.{html,js,css,wasm,svg,png,webmanifest}',
        'schemas/*.json',
        'sandbox/*.txt',
        'checkpoints/**/*.{json,txt,safetensors}',
        // A file from a stick may be the first of its kind that is opened, and there may be no network by then.
        'assets/clip_merges-*.txt',
      ],
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
