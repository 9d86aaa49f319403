/** The npm package: built here, its files on one origin, pages of every bundler on others, with and without isolation. */
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { expect, test, type Page } from '@playwright/test';
import { publint } from 'publint';
import type { Darkroom, Operation } from '../src/package/contract.ts';
import type { createDarkroom } from '../src/package/darkroom.ts';
import { pngPixels } from '../src/package/node_picture.ts';
import { FakeService, events, json } from '../test/fake_service.ts';
import { CHECKPOINTS, readGolden } from './fixtures/door.ts';
import { writeLargeCheckpoint } from './fixtures/large_checkpoint.ts';
import { ISOLATED, PUBLIC, serve, type Origin } from './fixtures/origins.ts';
import { PROJECT } from './fixtures/project.ts';

const DIST = join(PROJECT, 'package', 'dist');
const APPLES: Operation = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'two red apples in a green meadow', seed: '42', width: 64, height: 64, steps: 1 },
};

let files: Origin;

test.beforeAll(async () => {
  execFileSync('node', ['package/build.js'], { cwd: PROJECT, stdio: 'inherit' });
  files = await serve(DIST, PUBLIC);
});

test.afterAll(() => files.close());

/** A folder with the package installed, and with an example in it. */
function consumer(folder: string, example: string | null, packages: readonly string[] = []): string {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, 'node_modules'), { recursive: true });
  if (example !== null) {
    cpSync(join(PROJECT, 'examples', example), folder, { recursive: true });
  }
  symlinkSync(DIST, join(folder, 'node_modules', 'darkroom'));
  for (const name of packages) {
    symlinkSync(join(PROJECT, 'node_modules', name), join(folder, 'node_modules', name));
  }
  return folder;
}

async function paints(page: Page, folder: string, headers: Record<string, string>): Promise<void> {
  const own = await serve(folder, headers);
  const requests: string[] = [];
  page.on('request', (request) => requests.push(request.url()));
  try {
    await page.goto(`${own.url}/index.html?base=${encodeURIComponent(files.url)}`);
    await expect(page.locator('#says')).toHaveText('Done, seed 42', { timeout: 120_000 });
    expect(
      await page.locator('img').evaluate((image: HTMLImageElement) => image.decode().then(() => image.naturalWidth)),
    ).toBe(128);
    expect(requests.filter((url) => url.startsWith(own.url) && /workers|ort|checkpoints/.test(url))).toEqual([]);
  } finally {
    await own.close();
  }
}

for (const [example, headers, builds] of [
  ['plain', ISOLATED, null],
  ['vite', {}, 'vite/bin/vite.js build'],
  ['webpack', ISOLATED, '../build.mjs'],
  ['esbuild', {}, '../build.mjs'],
] as const) {
  test(`the example "${example}" paints on another origin, ${headers === ISOLATED ? 'isolated' : 'not isolated'}`, async ({
    page,
  }, info) => {
    const folder = consumer(info.outputPath(example), example, builds === null ? [] : [example]);
    if (builds !== null) {
      execFileSync('node', join(folder, 'node_modules', builds).split(' '), { cwd: folder });
    }
    await paints(page, builds === null ? folder : join(folder, 'dist'), headers);
  });
}

/** A blank page on its own origin, with the module in `window.made`. */
async function open(page: Page, headers: Record<string, string> = ISOLATED): Promise<Origin> {
  const own = await serve(DIST, headers);
  await page.goto(`${own.url}/blank.html`);
  await page.evaluate(async (module) => {
    Object.assign(window, await import(/* @vite-ignore */ module));
  }, `${files.url}/darkroom.js`);
  return own;
}

/** What the module added to the page. */
interface Opened {
  createDarkroom: typeof createDarkroom;
  one: Darkroom;
  two: Darkroom;
}

test('two on one page do not disturb each other, and nothing is left of one that was disposed of', async ({ page }) => {
  const own = await open(page);
  const seen = await page.evaluate(async (operation) => {
    const { createDarkroom } = window as unknown as Opened;
    const [one, two] = [
      createDarkroom({ backend: 'wasm', threads: 2 }),
      createDarkroom({ backend: 'wasm', recordings: 'opfs' }),
    ];
    Object.assign(window, { one, two });
    const stages: string[] = [];
    const first = one.run(operation, { onProgress: ({ stage }) => stages.push(stage) });
    const second = two.run(operation);
    const results = await Promise.all([first.result, second.result]);
    const bytes = await Promise.all(
      results.map(async ({ pictures }) => [...new Uint8Array(await pictures[0].arrayBuffer())].length),
    );
    return {
      device: await one.device(),
      stages: [...new Set(stages)],
      bytes,
      runs: results.map(({ run }) => run !== null),
    };
  }, APPLES);
  expect(seen.device).toMatchObject({ backend: 'wasm', threads: 2, note: expect.any(String) });
  expect(seen.stages).toEqual(expect.arrayContaining(['load', 'sample', 'decode']));
  expect(seen.bytes[0]).toBeGreaterThan(500);
  // Only the second was asked to keep its runs.
  expect(seen.runs).toEqual([false, true]);

  const workers = page.workers().length;
  const outcome = await page.evaluate(async (operation) => {
    const { one, two } = window as unknown as Opened;
    const broken = one.run({ ...operation, parameters: { ...operation.parameters, steps: 50 } });
    const kept = two.run(operation);
    await one.dispose();
    return {
      broken: await broken.result.catch((error: Error) => error.message),
      asked: await one.device().catch((error: Error) => error.message),
      kept: (await kept.result).pictures.length,
    };
  }, APPLES);
  const disposed = 'This Darkroom was disposed of; create another one.';
  expect(outcome).toEqual({ broken: disposed, asked: disposed, kept: 1 });
  expect(page.workers().length).toBeLessThan(workers);
  await page.evaluate(() => (window as unknown as Opened).two.dispose());
  await expect.poll(() => page.workers().length).toBe(0);
  const locks = () => page.evaluate(async () => ((await navigator.locks.query()).held ?? []).map(({ name }) => name));
  await expect.poll(locks).toEqual([]);
  await own.close();
});

test('only the newest counts, what runs can be stopped, and it is ready when it was prepared', async ({ page }) => {
  const own = await open(page, {});
  const seen = await page.evaluate(async (operation) => {
    const { createDarkroom } = window as unknown as Opened;
    const darkroom = createDarkroom({ backend: 'wasm' });
    await darkroom.prepare(operation);
    const typed = ['a', 'a red', 'a red apple'].map((prompt) =>
      darkroom.run({ ...operation, parameters: { ...operation.parameters, prompt } }, { latest: { debounce: 20 } }),
    );
    const ends = await Promise.all(
      typed.map(({ result }) =>
        result.then(
          ({ files }) => (files.at(-1)?.metadata.parameters as { prompt: string }).prompt,
          ({ code }: { code: string }) => code,
        ),
      ),
    );
    const long = darkroom.run(
      { ...operation, parameters: { ...operation.parameters, steps: 50 } },
      {
        onProgress: ({ stage }) => stage === 'sample' && long.cancel(),
      },
    );
    const stopped = await long.result.catch(({ code }: { code: string }) => code);
    const device = await darkroom.device();
    await darkroom.unload();
    await darkroom.dispose();
    return { ends, stopped, device };
  }, APPLES);
  expect(seen.ends).toEqual(['cancelled', 'cancelled', 'a red apple']);
  expect(seen.stopped).toBe('cancelled');
  // Not isolated, so a single thread computes, and the page says so.
  expect(seen.device).toMatchObject({
    threads: 1,
    note: expect.stringContaining('not cross-origin isolated'),
  });
  await own.close();
});

test('what cannot be is said in one sentence', async ({ page }) => {
  const told = (options: object, operation: object) =>
    page.evaluate(
      async ({ options, operation }) => {
        const { createDarkroom } = window as unknown as Opened;
        const darkroom = createDarkroom({ backend: 'wasm', ...options });
        const message = await darkroom.run(operation as Operation).result.then(
          () => 'It painted.',
          (error: Error) => error.message,
        );
        await darkroom.dispose();
        return message;
      },
      { options, operation },
    );
  let own = await open(page);
  expect(await told({ base: `${files.url}/nowhere` }, APPLES)).toBe(
    `Darkroom's files were looked for at ${files.url}/nowhere/, but the server answers 404; serve the package's folder "dist" and say where it is by "base".`,
  );
  expect(await told({ base: 'http://127.0.0.1:9/' }, APPLES)).toContain('could not be fetched; serve the package');
  expect(await told({}, { ...APPLES, config: 'gone' })).toContain('gone');
  expect(await told({}, { ...APPLES, checkpoint: 'mine' })).toContain('There is no checkpoint "mine"');
  expect(await told({ checkpoints: { mine: `${files.url}/nothing` } }, APPLES)).toMatch(
    /manifest\.json could not be fetched \(HTTP 404\)/,
  );
  await own.close();

  // Everything but WebAssembly.
  const policy = `default-src 'self' ${files.url}; script-src 'self' 'unsafe-inline' ${files.url} blob:; worker-src blob: ${files.url}`;
  own = await open(page, { ...ISOLATED, 'Content-Security-Policy': policy });
  expect(await told({}, APPLES)).toMatch(
    /^ONNX Runtime's WebAssembly could not be started .* allow 'wasm-unsafe-eval'/,
  );
  await own.close();
});

test('a checkpoint beyond the 4 GiB of WebAssembly is refused before it is loaded', async ({ page }, info) => {
  const own = await open(page);
  const folder = info.outputPath('large');
  writeLargeCheckpoint(folder, { channels: [448, 896, 1792, 1792], textWidth: 1024, type: 'F32', isHollow: true });
  await page.evaluate(() => {
    document.body.append(Object.assign(document.createElement('input'), { type: 'file', webkitdirectory: true }));
  });
  await page.locator('input').setInputFiles(folder);
  const message = await page.evaluate(async (operation) => {
    const given = [...(document.querySelector('input')?.files ?? [])].map((file) => ({
      path: file.webkitRelativePath,
      file,
    }));
    const darkroom = (window as unknown as Opened).createDarkroom({ backend: 'wasm', checkpoints: { large: given } });
    const parameters = { ...operation.parameters, weights: 'full' };
    const told = await darkroom.run({ ...operation, parameters }).result.catch((error: Error) => error.message);
    await darkroom.dispose();
    return told;
  }, APPLES);
  expect(message).toMatch(/needs about .* GiB, but the processor backend can use at most 4\.0 GiB/);
  await own.close();
});

for (const name of ['sd15-euler-trailing-unguided', 'turbo-transform']) {
  test(`in Node, without a browser, ${name} is the picture of the reference`, () => {
    const info = test.info();
    const golden = readGolden(name);
    const [operation, out] = [info.outputPath('operation.json'), info.outputPath('out')];
    writeFileSync(operation, JSON.stringify(golden.operation));
    const where = ['--checkpoint', join(CHECKPOINTS, golden.checkpoint), '--out', out, '--backend', 'cpu'];
    const lines = execFileSync('node', [join(PROJECT, 'cli/generate.js'), operation, ...where], { encoding: 'utf8' });
    const recorded = lines
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { file: string; entity_type: string });
    const { file } = recorded.filter(({ entity_type: type }) => type === 'output_image')[0];
    const { data } = pngPixels(readFileSync(file));
    const colours = data.filter((_, i) => i % 4 !== 3);
    expect(colours.length).toBe(golden.pixels.length);
    expect(
      colours.reduce((most, value, i) => Math.max(most, Math.abs(value - golden.pixels[i])), 0),
    ).toBeLessThanOrEqual(2);
    expect(readdirSync(out)).toContain('metadata.json');
  });
}

/** Runs a program that imports the package, in Node, at `folder`. @returns what it printed, as JSON */
async function inNode(folder: string, program: string): Promise<unknown> {
  const file = join(folder, 'program.mjs');
  writeFileSync(file, program);
  const { stdout } = await promisify(execFile)('node', [file], { cwd: folder });
  return JSON.parse(stdout);
}

test('in Node, a Chromium enlarges on WebGPU as the processor does', async () => {
  const checkpoint = join(CHECKPOINTS, 'tiny-turbo');
  const painting = { ...APPLES, parameters: { ...APPLES.parameters, width: 16, height: 16, guidance_scale: 0 } };
  const { gpu, cpu, refused, odd, stages, device } = (await inNode(
    test.info().outputPath(''),
    `import { createDarkroom } from ${JSON.stringify(join(DIST, 'node.js'))};
    const file = Object.assign(new Blob(['{ "_class_name": "OddPipeline" }']), { name: 'model_index.json', lastModified: 0 });
    const checkpoints = { given: ${JSON.stringify(checkpoint)}, odd: [{ path: 'odd/model_index.json', file }] };
    const [gpu, cpu] = ['webgpu', 'wasm'].map((backend) => createDarkroom({ backend, checkpoints }));
    const { pictures } = await cpu.run(${JSON.stringify(painting)}).result;
    const stages = [];
    const enlarged = async (darkroom, options) => {
      const operation = { operation: 'image_upscale', config: 'image_upscale', parameters: { image: pictures[0] } };
      const { pictures: [large] } = await darkroom.run(operation, options).result;
      return { picture: Buffer.from(await large.arrayBuffer()).toString('base64') };
    };
    const made = { gpu: await enlarged(gpu, { onProgress: ({ stage }) => stages.push(stage) }), cpu: await enlarged(cpu, {}) };
    const { backend: device } = await gpu.device();
    const refused = await gpu.run(${JSON.stringify({ ...painting, config: 'no' })}).result.catch(({ code }) => code);
    const odd = await gpu.run({ ...${JSON.stringify(painting)}, checkpoint: 'odd' }).result.catch(({ message }) => message);
    await Promise.all([gpu.dispose(), cpu.dispose()]);
    console.log(JSON.stringify({ ...made, device, refused, odd, stages }));`,
  )) as Record<'gpu' | 'cpu', { picture: string }> & { device: string; refused: string; odd: string; stages: string[] };
  expect({ device, refused }).toEqual({ device: 'webgpu', refused: 'invalid_operation' });
  // Files that are in memory have been read there as well.
  expect(odd).toContain('OddPipeline');
  expect(stages).toContain('upscale');
  const [ours, theirs] = [gpu, cpu].map(({ picture }) => pngPixels(Buffer.from(picture, 'base64')).data);
  expect(ours).toHaveLength(64 * 64 * 4);
  expect(new Set(ours).size).toBeGreaterThan(16);
  expect(ours.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs[i])), 0)).toBeLessThanOrEqual(2);
});

test('in Node, what computes there and is not installed is named', async () => {
  // Outside of the project, where no package is found.
  const folder = mkdtempSync(join(tmpdir(), 'darkroom-package-'));
  try {
    cpSync(DIST, join(folder, 'darkroom'), { recursive: true });
    const told = await inNode(
      folder,
      `import { createDarkroom } from './darkroom/node.js';
      const failed = (options) => createDarkroom(options).device().catch(({ code, message }) => ({ code, message }));
      const options = [{ backend: 'webgpu' }, {}, { backend: 'webgpu', recordings: 'opfs' }, { backend: 'webgpu', checkpoints: { a: './nowhere' } }];
      console.log(JSON.stringify(await Promise.all(options.map(failed))));`,
    );
    expect(told).toEqual([
      { code: 'worker_failed', message: expect.stringMatching(/install it with "npm install playwright"/) },
      { code: 'worker_failed', message: expect.stringMatching(/"npm install onnxruntime-node"/) },
      { code: 'invalid_operation', message: expect.stringMatching(/leave "recordings" out/) },
      { code: 'checkpoint_incomplete', message: 'There is no checkpoint at ./nowhere that can be read.' },
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('in Node, a server that lets no page ask makes a picture, with its key in a header', async () => {
  const info = test.info();
  const [operation, out] = [info.outputPath('operation.json'), info.outputPath('out')];
  const parameters = { prompt: 'a lighthouse', steps: 2, seed: '7' };
  writeFileSync(operation, JSON.stringify({ operation: 'image_generation', config: 'automatic1111', parameters }));
  const png = readFileSync(join(PROJECT, 'public', 'icon-192.png'));
  const fake = await FakeService.start({
    'POST /sdapi/v1/txt2img': json(200, { images: [png.toString('base64')], info: JSON.stringify({ all_seeds: [7] }) }),
  });
  fake.cors = 'none';
  try {
    const words = [join(PROJECT, 'cli/generate.js'), operation, '--out', out, '--backend', 'cpu'];
    const env = { ...process.env, A1111_URL: fake.url, A1111_API_KEY: 'me:secret' };
    const { stdout } = await promisify(execFile)('node', words, { env });
    const [line] = stdout.trim().split('\n').slice(-1);
    const { file, entity_type: type } = JSON.parse(line) as { file: string; entity_type: string };
    expect(type).toBe('output_image');
    expect(pngPixels(readFileSync(file)).data).toEqual(pngPixels(png).data);
    const asked = fake.heard.find(({ path }) => path === '/sdapi/v1/txt2img');
    expect(asked?.headers.authorization).toBe(`Basic ${btoa('me:secret')}`);
    const written = readdirSync(out).map((name) => readFileSync(join(out, name), 'latin1'));
    expect(written.join()).not.toContain('secret');
    expect(written.join()).toContain(`"server": "${fake.url}"`);
  } finally {
    await fake.stop();
  }
});

test('in Node, words come from the model of a server that --language names, and what is wrong with it is said', async () => {
  const info = test.info();
  const [operation, out] = [info.outputPath('operation.json'), info.outputPath('out')];
  const parameters = { prompt: 'an apple', instruction: 'Make it red.', seed: '7' };
  writeFileSync(
    operation,
    JSON.stringify({ operation: 'text_transformation', config: 'text_transformation', parameters }),
  );
  const said = (content: string) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] });
  const stop = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] };
  const fake = await FakeService.start({
    'POST /v1/chat/completions': events([said('A red '), said('apple.'), stop, 'data: [DONE]']),
  });
  fake.cors = 'none';
  const generate = (model: string, url: string) => {
    const words = [join(PROJECT, 'cli/generate.js'), operation, '--out', out, '--backend', 'cpu', '--language', model];
    const env = { ...process.env, OPENAI_CHAT_URL: url, OPENAI_CHAT_API_KEY: 'secret' };
    return promisify(execFile)('node', words, { env }).catch((failed: { code: number; stderr: string }) => failed);
  };
  try {
    const made = await generate(`openai_chat@${fake.url}/v1#qwen3:8b`, `${fake.url}/v1`);
    expect(made).toHaveProperty('stdout', expect.stringContaining('"entity_type":"output_text"'));
    const name = readdirSync(out).find((file) => file.endsWith('_output_text.txt')) ?? '';
    expect(readFileSync(join(out, name), 'utf8')).toBe('A red apple.');
    const [asked] = fake.heard;
    expect(asked.headers.authorization).toBe('Bearer secret');
    expect(JSON.parse(asked.body.toString())).toMatchObject({ model: 'qwen3:8b', stream: true });
    const written = readdirSync(out).map((file) => readFileSync(join(out, file), 'latin1'));
    expect(written.join()).not.toContain('secret');

    // A server that was not entered is not asked, whatever the operation names.
    const stranger = await generate(`openai_chat@${fake.url}/v1#qwen3:8b`, 'http://127.0.0.1:9/v1');
    expect(stranger).toMatchObject({
      code: 2,
      stderr: expect.stringContaining(`${fake.url}/v1 is not entered`),
    });
    expect(fake.heard).toHaveLength(1);
  } finally {
    await fake.stop();
  }
});

test('the package is what its manifest says, types and sizes too', async () => {
  const info = test.info();
  const { messages } = await publint({ pkgDir: DIST, level: 'warning', strict: true, pack: false });
  expect(messages).toEqual([]);

  const folder = consumer(info.outputPath('types'), null);
  writeFileSync(
    join(folder, 'main.ts'),
    `import { createDarkroom, type Darkroom, type Result } from 'darkroom';
     import { DarkroomImage } from 'darkroom/element';
     const darkroom: Darkroom = createDarkroom({ base: '/darkroom', threads: 2, recordings: false });
     DarkroomImage.darkroom = darkroom;
     const job = darkroom.run({ operation: 'image_generation', config: 'stable_diffusion', parameters: { prompt: 'x' } }, { latest: true });
     const result: Result = await job.result;
     console.log(result.pictures.map((picture: Blob) => picture.size), document.querySelector('darkroom-image')?.result);
     // @ts-expect-error it is a number
     createDarkroom({ threads: 'many' });
     export {};`,
  );
  // What is no module can import it as it runs.
  writeFileSync(
    join(folder, 'other.cts'),
    `import type { Darkroom } from 'darkroom' with { 'resolution-mode': 'import' };
     const opening: Promise<Darkroom> = import('darkroom').then(({ createDarkroom }) => createDarkroom({ threads: 2 }));
     void opening.then((darkroom) => darkroom.dispose());`,
  );
  for (const [module, resolution, files] of [
    ['node16', 'node16', ['main.ts', 'other.cts']],
    ['nodenext', 'nodenext', ['main.ts', 'other.cts']],
    ['esnext', 'bundler', ['main.ts']],
  ]) {
    const options = {
      module,
      moduleResolution: resolution,
      target: 'es2022',
      lib: ['es2022', 'dom'],
      strict: true,
      noEmit: true,
      types: [],
    };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files }));
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
    execFileSync('node', [join(PROJECT, 'node_modules/typescript/bin/tsc'), '-p', folder], { stdio: 'inherit' });
  }

  /** A module and its static imports. */
  const weight = (name: string, seen = new Set<string>()): number => {
    if (seen.has(name)) {
      return 0;
    }
    seen.add(name);
    const text = readFileSync(join(DIST, name), 'utf8');
    const imports = [...text.matchAll(/(?:from|import)"\.\/([^"]+)"/g)].map(([, file]) => file);
    return gzipSync(text).length + imports.reduce((sum, file) => sum + weight(file, seen), 0);
  };
  const before = weight('darkroom.js') + weight('element.js');
  console.log(`Before the first job: ${(before / 1000).toFixed(1)} kB gzipped.`);
  expect(before).toBeLessThan(60_000);

  const license = readFileSync(join(DIST, 'LICENSE'), 'utf8');
  for (const name of [
    'onnxruntime-web',
    'comlink',
    'valibot',
    '@bufbuild/protobuf',
    "CLIP's vocabulary",
    'realesr-animevideov3',
  ]) {
    expect(license).toContain(name);
  }
  expect(readdirSync(join(PROJECT, 'package')).filter((name) => name.endsWith('.tgz'))).toEqual(['darkroom-0.1.0.tgz']);
});
