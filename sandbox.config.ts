/** What the sandbox for sketches is served: an empty document with a policy, and the libraries, as they come from their packages. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build, type Plugin } from 'vite';
import { SANDBOX_POLICY } from './cli/headers.js';

const SCRIPT = '?script';

/** The folder `sandbox/`, in builds and in the dev server, and imports that end in `?script`. */
export function sandbox(): Plugin {
  return {
    name: 'darkroom:sandbox',
    enforce: 'pre',
    configureServer({ middlewares }) {
      middlewares.use((request, response, next) => {
        const name = /\/sandbox\/([\w.]+)(?:\?|$)/.exec(request.url ?? '')?.[1];
        const file = name === undefined ? undefined : files()[name];
        if (name === undefined || file === undefined) {
          next();
          return;
        }
        response.setHeader('Content-Type', TYPES[name.slice(name.lastIndexOf('.'))] ?? 'application/octet-stream');
        response.end(file);
      });
    },
    generateBundle() {
      for (const [name, source] of Object.entries(files())) {
        this.emitFile({ type: 'asset', fileName: `sandbox/${name}`, source });
      }
    },
    async load(id) {
      if (!id.endsWith(SCRIPT)) {
        return null;
      }
      const entry = id.slice(0, -SCRIPT.length);
      this.addWatchFile(entry);
      return `export default ${JSON.stringify(await classicScript(entry))}`;
    },
  };
}

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.txt': 'text/plain; charset=utf-8',
};

/** By name. The libraries are the unmodified files of the packages, so that anybody can put another version in their place (LGPL). */
function files(): Record<string, string | Buffer> {
  const p5 = join(import.meta.dirname, 'node_modules', 'p5');
  const tone = join(import.meta.dirname, 'node_modules', 'tone');
  return {
    'stage.html':
      `<!doctype html><html lang="en"><head><meta charset="utf-8" />` +
      `<meta http-equiv="Content-Security-Policy" content="${SANDBOX_POLICY}" /><title>Sketch</title>` +
      `<style>:root{color-scheme:light dark}html,body{height:100%;margin:0}iframe{display:block;width:100%;height:100%;border:0}</style>` +
      `</head><body></body></html>\n`,
    'p5.min.js': readFileSync(join(p5, 'lib', 'p5.min.js')),
    'p5.LICENSE.txt': readFileSync(join(p5, 'license.txt')),
    'Tone.js': readFileSync(join(tone, 'build', 'Tone.js')),
    'Tone.LICENSE.txt': readFileSync(join(tone, 'LICENSE.md')),
    'README.txt':
      `p5.min.js is p5.js ${versionOf(p5)}, unmodified, under the GNU LGPL 2.1 (p5.LICENSE.txt).\n` +
      `Its source: https://github.com/processing/p5.js/tree/v${versionOf(p5)}\n` +
      `Tone.js is Tone.js ${versionOf(tone)}, unmodified, under the MIT licence (Tone.LICENSE.txt).\n` +
      `Its source: https://github.com/Tonejs/Tone.js/tree/${versionOf(tone)}\n` +
      `Both are loaded when a sketch runs, so other versions can be put in their place.\n`,
  };
}

function versionOf(folder: string): string {
  return (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string }).version;
}

/** An entry and what it imports as one script that needs no module loader. */
async function classicScript(entry: string): Promise<string> {
  const built = await build({
    configFile: false,
    root: dirname(entry),
    logLevel: 'error',
    build: { write: false, target: 'esnext', lib: { entry, formats: ['iife'], name: 'script' }, minify: true },
  });
  const outputs = (Array.isArray(built) ? built : [built]).flatMap((one) => ('output' in one ? one.output : []));
  const chunk = outputs.find((one) => one.type === 'chunk');
  if (!chunk) {
    throw new Error(`${entry} could not be built as a script.`);
  }
  return chunk.code.trim();
}
