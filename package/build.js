/**
 * `npm run build:package`: writes the npm package `darkroom` to `package/dist` and packs it into `package/`. ONNX Runtime's files, the checkpoints that
 * come along and the schema of operations lie beside the modules, so that one folder on a server is all that a page needs.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';
import { licenses } from './licenses.js';
import { writeTypes } from './types.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const OUT = join(ROOT, 'package', 'dist');
/** What computes in Node: on the processor, or a Chromium on WebGPU. */
const ONLY_IN_NODE = ['onnxruntime-node', 'playwright'];

/** @param {string} path */
const text = (path) => readFileSync(join(ROOT, path), 'utf8');
/** @type {unknown} */
const parsed = JSON.parse(text('package.json'));
const project =
  /** @type {{ version: string, description: string, license: string, devDependencies: Record<string, string> }} */ (
    parsed
  );

rmSync(OUT, { recursive: true, force: true });

/** Names of the npm packages whose code is in what was built. @type {Set<string>} */
const inside = new Set();
for (const mode of existsSync(join(ROOT, 'src/package/node.ts')) ? ['browser', 'node'] : ['browser']) {
  const built = await build({ configFile: join(ROOT, 'package.config.ts'), root: ROOT, mode, logLevel: 'error' });
  for (const one of [built].flat()) {
    for (const part of 'output' in one ? one.output : []) {
      for (const id of part.type === 'chunk' ? part.moduleIds : []) {
        const name = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(id)?.[1];
        if (name !== undefined) {
          inside.add(name);
        }
      }
    }
  }
}

cpSync(join(ROOT, 'public/checkpoints'), join(OUT, 'checkpoints'), { recursive: true });
writeTypes(ROOT, OUT);
writeFileSync(join(OUT, 'LICENSE'), licenses(ROOT, inside));
cpSync(join(ROOT, 'docs/PACKAGE.md'), join(OUT, 'README.md'));
writeFileSync(join(OUT, 'darkroom.json'), `${JSON.stringify({ version: project.version })}\n`);
writeFileSync(join(OUT, 'package.json'), `${JSON.stringify(manifest(), null, 2)}\n`);

const packed = execFileSync('npm', ['pack', OUT, '--pack-destination', join(ROOT, 'package'), '--silent'], {
  encoding: 'utf8',
  shell: process.platform === 'win32', // where npm is a script
});
process.stdout.write(`package/${packed.trim().split('\n').at(-1)}\n`);

function manifest() {
  const entry = (/** @type {string} */ name) => ({ types: `./types/${name}.d.ts`, default: `./${name}.js` });
  return {
    name: 'darkroom',
    version: project.version,
    description: project.description,
    license: project.license,
    type: 'module',
    sideEffects: ['./element.js', './workers/*'],
    exports: {
      '.': { node: entry('node'), default: entry('darkroom') },
      './element': entry('element'),
      // Says where the folder is that has to be served.
      './darkroom.json': './darkroom.json',
    },
    engines: { node: '>=20.19' },
    // Only Node needs one of them, and whoever makes pictures there installs it.
    peerDependencies: Object.fromEntries(ONLY_IN_NODE.map((name) => [name, project.devDependencies[name]])),
    peerDependenciesMeta: Object.fromEntries(ONLY_IN_NODE.map((name) => [name, { optional: true }])),
  };
}
