/**
 * How the npm package is built, by `package/build.js`: for pages (`--mode browser`) and for Node (`--mode node`). Built as for a server, because then
 * addresses stay as they are written: workers have plain names and are found from the folder that holds them.
 */
import { join } from 'node:path';
import { defineConfig, type Plugin } from 'vite';
import { packagedRuntime } from './runtime.config.ts';
import { oneRuntime } from './vite.config.ts';

const ROOT = import.meta.dirname;
const SOURCE = join(ROOT, 'src', 'package');
const WORKERS = join(ROOT, 'workers');

const BROWSER = {
  darkroom: join(SOURCE, 'darkroom.ts'),
  element: join(SOURCE, 'element.ts'),
  'workers/generation': join(SOURCE, 'workers', 'generation.ts'),
  'workers/memory_recorder': join(SOURCE, 'workers', 'memory_recorder.ts'),
  'workers/recorder': join(WORKERS, 'recorder.worker.ts'),
  'workers/task': join(WORKERS, 'task.worker.ts'),
  'workers/library': join(WORKERS, 'library.worker.ts'),
  'workers/language': join(WORKERS, 'language.worker.ts'),
  'workers/threads': join(WORKERS, 'threads.worker.ts'),
};
const NODE = { node: join(SOURCE, 'node.ts'), command_line: join(SOURCE, 'command_line.ts') };

export default defineConfig(({ mode }) => ({
  publicDir: false,
  plugins: [oneRuntime(), vocabulary(), mode === 'node' ? withoutCanvas() : packagedRuntime()],
  ssr: {
    target: mode === 'node' ? 'node' : 'webworker',
    noExternal: true,
    external: mode === 'node' ? ['onnxruntime-node', 'playwright'] : [],
  },
  build: {
    ssr: true,
    target: mode === 'node' ? 'node20' : 'esnext',
    outDir: join(ROOT, 'package', 'dist'),
    emptyOutDir: false,
    minify: true,
    rolldownOptions: {
      input: mode === 'node' ? NODE : BROWSER,
      output: {
        format: 'es',
        entryFileNames: '[name].js',
        // Beside the entries: of an entry that another one imports the code may lie in a part, and finds the folder all the same.
        chunkFileNames: `${mode === 'node' ? 'node_part' : 'part'}-[hash].js`,
      },
      // Files beside the module are fetched, which Node's own does not do.
      ...(mode === 'node' && { transform: { inject: { fetch: [join(SOURCE, 'node_files.ts'), 'fetchAnywhere'] } } }),
      treeshake: { moduleSideEffects: [{ test: /\/(?:chunks|src\/(?:core|media|formats))\//, sideEffects: false }] },
    },
  },
}));

/** Node's pictures are read and written without a canvas. */
function withoutCanvas(): Plugin {
  return {
    name: 'darkroom:without-canvas',
    enforce: 'pre',
    resolveId: (source) => (source.endsWith('/formats/picture.ts') ? join(SOURCE, 'node_picture.ts') : null),
  };
}

/** CLIP's vocabulary, which `src/text/clip_vocabulary.ts` fetches from beside itself. */
function vocabulary(): Plugin {
  return {
    name: 'darkroom:vocabulary',
    async generateBundle() {
      const source = await this.fs.readFile(join(ROOT, 'src', 'text', 'clip_merges.txt'));
      this.emitFile({ type: 'asset', fileName: 'clip_merges.txt', source });
    },
  };
}
