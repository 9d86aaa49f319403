/** Holds the arrows between the layers, as the design draws them: over every import of src, chunks and workers. */
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/**
 * Which layers each may import besides itself; "x types" = only its types. `interface` and `connection` are `generation_api.ts` and
 * `connection.ts` of workers.
 */
const ARROWS: Record<string, readonly string[]> = {
  core: [],
  storage: [],
  pipelines: ['core', 'configs', 'chunks'],
  configs: [],
  engines: ['core', 'formats'],
  graphs: ['core'],
  predictions: ['core'],
  schedules: ['core', 'predictions'],
  samplers: ['core', 'predictions types'],
  guidance: [],
  schedulers: ['core', 'predictions', 'schedules', 'samplers'],
  text: ['core'],
  weights: ['core', 'storage', 'graphs'],
  formats: ['core'],
  media: ['core', 'formats'],
  engine: ['core', 'storage', 'graphs', 'predictions types', 'samplers', 'guidance', 'text', 'weights', 'formats'],
  models: ['core', 'graphs', 'samplers', 'schedules', 'schedulers', 'text', 'weights', 'formats', 'engine'],
  language: ['core', 'graphs', 'weights', 'engine'],
  interface: ['core types', 'language types', 'weights types'],
  connection: ['core'],
  recorder: ['core', 'storage', 'media'],
  jobs: [
    'core',
    'storage',
    'language',
    'media',
    'pipelines',
    'configs',
    'chunks',
    'recorder types',
    'weights types',
    'interface types',
    'connection',
    'workers',
  ],
  chunks: ['core', 'workflows'],
  // Data beside the chunk that runs it.
  workflows: [],
  sandbox: ['core'],
  app: [
    'core',
    'storage',
    'jobs',
    'language',
    'formats',
    'media',
    'samplers',
    'schedules',
    'pipelines',
    'configs',
    'chunks',
    'sandbox',
    'recorder types',
    'weights types',
    'interface types',
  ],
  page: ['app', 'jobs'],
  workers: [
    'core',
    'engines',
    'language',
    'storage',
    'models',
    'engine',
    'weights',
    'formats',
    'media',
    'recorder',
    'pipelines',
    'configs',
    'chunks',
    'interface types',
    'connection',
    'package',
  ],
  // The npm package: over the jobs, and with workers of its own, which read and write pictures without a canvas.
  npm: [
    'core',
    'formats',
    'jobs',
    'engine',
    'recorder',
    'pipelines',
    'weights types',
    'interface types',
    'connection',
    'workers',
    'package',
    'cli',
  ],
  cli: [],
  // Separate from the workers that jobs start: it starts none, and is a door to the jobs.
  service: ['core', 'jobs', 'recorder', 'pipelines', 'configs', 'chunks'],
};

/** A chunk stands alone: chunks share only what the core offers. */
const APART = new Set(['chunks']);

/** Packages that a layer may import; `null` = any. A chunk's contract is written in valibot, nothing else. */
const PACKAGES: Record<string, readonly string[]> = { core: ['valibot'], chunks: ['valibot'] };

const FORBIDDEN_NAMES = /^(utils?|helpers?|managers?|common|misc|index)\.|[._-](utils?|helpers?|managers?)\./;

interface Import {
  target: string;
  typeOnly: boolean;
}

const files = ['src', 'chunks', 'workers'].flatMap((folder) => filesBelow(folder)).sort();
const sources = files.filter((file) => /\.(ts|js|svelte)$/.test(file));

describe('layers', () => {
  test('there is something to check', () => {
    expect(sources.length).toBeGreaterThan(30);
  });

  test('every file belongs to one', () => {
    expect(files.filter((file) => !(layerOf(file) in ARROWS))).toEqual([]);
  });

  test('arrows run one way', () => {
    expect(sources.flatMap((file) => importsOf(file).flatMap((one) => fault(file, one)))).toEqual([]);
  });

  test('the table itself has no cycle', () => {
    expect(cycle()).toBeNull();
  });
});

test('no file is named after nothing, and none only re-exports its folder', () => {
  expect(files.filter((file) => FORBIDDEN_NAMES.test(file.split('/').at(-1)!))).toEqual([]);
});

test('an import against the arrows is found', () => {
  expect(fault('src/core/plan.ts', { target: 'src/engine/engine.ts', typeOnly: true })).toHaveLength(1);
  expect(fault('chunks/a.ts', { target: 'chunks/b.ts', typeOnly: false })).toHaveLength(1);
  expect(fault('chunks/a.ts', { target: 'src/models/family.ts', typeOnly: true })).toHaveLength(1);
  expect(fault('chunks/a.ts', { target: 'onnxruntime-web', typeOnly: false })).toHaveLength(1);
  expect(fault('src/jobs/client.ts', { target: 'src/app/App.svelte', typeOnly: false })).toHaveLength(1);
  expect(fault('src/app/App.svelte', { target: 'workers/generation_api.ts', typeOnly: false })).toHaveLength(1);
  expect(fault('src/app/App.svelte', { target: 'workers/generation_api.ts', typeOnly: true })).toEqual([]);
});

test('imports of every form are read', () => {
  const text = `
    import a from './a.ts'; import type { B } from './b.ts'; import { type C } from './c.ts'; export * from './d.ts';
    const e = await import('./e.ts'); const f = new URL('./f.ts', import.meta.url);
    const g = import.meta.glob('../chunks/*.ts', { eager: true });
    type H = import('./h.ts').H;`;
  expect(parseImports('src/core/x.ts', text)).toEqual([
    { target: 'src/core/a.ts', typeOnly: false },
    { target: 'src/core/b.ts', typeOnly: true },
    { target: 'src/core/c.ts', typeOnly: false },
    { target: 'src/core/d.ts', typeOnly: false },
    { target: 'src/core/e.ts', typeOnly: false },
    { target: 'src/core/f.ts', typeOnly: false },
    { target: 'src/chunks/*.ts', typeOnly: false },
    { target: 'src/core/h.ts', typeOnly: true },
  ]);
});

test('the dev server knows every package of the workers beforehand, or it would reload the page in the middle of a picture', async () => {
  const { default: config } = await import('../vite.config.ts');
  const known = new Set((config as { optimizeDeps: { include: string[] } }).optimizeDeps.include);
  const inWorkers = sources.filter(
    (file) => file.endsWith('.ts') && !/^src\/(app|main|package)|service\.worker/.test(file),
  );
  const asked = inWorkers.flatMap((file) =>
    [
      ...readFileSync(join(ROOT, file), 'utf8').matchAll(
        /^import (?!type )[^;]*?from '([^.'][^']*)';|import\('([^.'][^']*)'\)/gm,
      ),
    ].map(([, imported, late]) => imported ?? late),
  );
  expect(new Set(asked).size).toBeGreaterThan(5);
  expect([...new Set(asked)].filter((name) => !known.has(name))).toEqual([]);
});

/** What is wrong with an import, as sentences. */
function fault(file: string, { target, typeOnly }: Import): string[] {
  const from = layerOf(file);
  if (!/^(src|chunks|workers)\/|^package\.json$/.test(target)) {
    const packages = PACKAGES[from];
    return !packages || packages.includes(target) ? [] : [`${file} imports the package ${target}`];
  }
  const to = layerOf(target);
  const allowed = ARROWS[from] ?? [];
  const inside = from === to && !APART.has(from);
  const passes = inside || allowed.includes(to) || (typeOnly && allowed.includes(`${to} types`));
  return passes ? [] : [`${file} (${from}) imports ${target} (${to})`];
}

function layerOf(file: string): string {
  if (file === 'workers/generation_api.ts') {
    return 'interface';
  }
  if (file === 'workers/connection.ts') {
    return 'connection';
  }
  if (file.startsWith('chunks/comfyui/')) {
    return 'workflows';
  }
  if (file === 'package.json') {
    return 'package';
  }
  if (file === 'workers/service.worker.ts') {
    return 'service';
  }
  const [top, folder, ...below] = file.split('/');
  if (top !== 'src') {
    return top;
  }
  if (folder === 'package') {
    return 'npm';
  }
  // Files of src itself: the page's entry, and ambient types.
  return below.length > 0 ? folder : 'page';
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const scripts = file.endsWith('.svelte')
    ? [...text.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g)].map((match) => match[1]).join('\n')
    : text;
  return parseImports(file, scripts);
}

function parseImports(file: string, text: string): Import[] {
  const found: Import[] = [];
  const add = (specifier: ts.Node | undefined, typeOnly: boolean) => {
    if (specifier && ts.isStringLiteralLike(specifier)) {
      found.push({ target: target(file, specifier.text), typeOnly });
    }
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      add(node.moduleSpecifier, node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword);
    } else if (ts.isExportDeclaration(node)) {
      add(node.moduleSpecifier, node.isTypeOnly);
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      add(node.argument.literal, true);
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node.arguments[0], false);
    } else if (ts.isCallExpression(node) && node.expression.getText() === 'import.meta.glob') {
      add(node.arguments[0], false);
    } else if (ts.isNewExpression(node) && node.arguments?.[1]?.getText() === 'import.meta.url') {
      add(node.arguments[0], false);
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true));
  return found;
}

/** Repository path of a relative or root import, or the package's name. */
function target(file: string, specifier: string): string {
  const path = specifier.replace(/\?.*$/, '');
  if (path.startsWith('/')) {
    return path.slice(1);
  }
  if (path.startsWith('.')) {
    return relative(ROOT, resolve(ROOT, dirname(file), path)).replaceAll('\\', '/');
  }
  return path
    .split('/')
    .slice(0, path.startsWith('@') ? 2 : 1)
    .join('/');
}

function filesBelow(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)).replaceAll('\\', '/'));
}

/** A cycle in ARROWS that code could take, or null. */
function cycle(): string[] | null {
  const walk = (layer: string, path: string[]): string[] | null => {
    if (path.includes(layer)) {
      return [...path, layer];
    }
    const next = (ARROWS[layer] ?? []).filter((name) => !name.endsWith(' types'));
    return next.reduce<string[] | null>((found, name) => found ?? walk(name, [...path, layer]), null);
  };
  return Object.keys(ARROWS).reduce<string[] | null>((found, layer) => found ?? walk(layer, []), null);
}
