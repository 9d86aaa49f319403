/** The command line door as a program sees it: arguments in; lines, files and exit codes out. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { dirname, join, resolve } from 'node:path';
import { expect, test } from '@playwright/test';
import { serveFolder } from '../../cli/server.js';
import { FakeComfyUi } from '../../test/fake_comfyui.ts';
import { languageContents } from '../../test/language_checkpoints.ts';

const CHECKPOINT = resolve('test/checkpoints/tiny-sd15');
const PARAMETERS = { prompt: 'a red circle', width: 64, height: 64, steps: 2, seed: '42' };
const OPERATION = { operation: 'image_generation', config: 'stable_diffusion', parameters: PARAMETERS };

interface Result {
  code: number | null;
  out: string;
  err: string;
}

interface Line {
  file: string;
  entity_type: string;
  sha256: string;
  seed: string;
  ms: number;
}

function generate(words: string[], from: string, env: Record<string, string> = {}): Promise<Result> {
  return new Promise((done, failed) => {
    const child = spawn('npm', ['run', '--silent', '--prefix', resolve('.'), 'generate', '--', ...words], {
      cwd: from,
      env: { ...process.env, INIT_CWD: from, ...env },
    });
    const result: Result = { code: null, out: '', err: '' };
    child.stdout.on('data', (text: Buffer) => (result.out += text.toString()));
    child.stderr.on('data', (text: Buffer) => (result.err += text.toString()));
    child.once('error', failed);
    child.once('close', (code) => done({ ...result, code }));
  });
}

/** Standard output must be JSON lines and nothing else. */
function lines({ out }: Result): Line[] {
  return out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

/** One last line `code: sentence`, no trace. */
function expectRefusal(result: Result, exit: number, code: string, sentence: RegExp): void {
  expect(result).toMatchObject({ code: exit, out: '' });
  const last = result.err.trimEnd().split('\n').at(-1) ?? '';
  expect(last).toMatch(new RegExp(`^${code}: .+ .+`));
  expect(last).toMatch(sentence);
  expect(result.err).not.toMatch(/^\s+at /m);
}

/** Writes an operation into the test's own folder and returns its name. */
async function put(folder: string, operation: unknown): Promise<string> {
  await mkdir(folder, { recursive: true });
  const text = typeof operation === 'string' ? operation : JSON.stringify(operation);
  await writeFile(join(folder, 'operation.json'), text);
  return 'operation.json';
}

test('writes the run and one line for each of its files; the same seed gives the same bytes', async () => {
  const info = test.info();
  const folder = info.outputPath('run');
  const file = await put(folder, { ...OPERATION, record: ['latents'] });
  const words = [file, '--checkpoint', CHECKPOINT, '--backend', 'wasm', '--out'];
  const result = await generate([...words, 'deep/out'], folder);
  expect(result.code, result.err).toBe(0);
  const told = lines(result);
  expect(told.map(({ entity_type }) => entity_type)).toEqual([
    'input',
    'config',
    'encoded_prompt',
    'latents',
    'output_image',
  ]);
  for (const { file: path, sha256, seed, ms } of told) {
    expect(path.startsWith(join(folder, 'deep/out'))).toBe(true);
    expect(
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex'),
    ).toBe(sha256);
    expect(seed).toBe('42');
    expect(ms).toBeGreaterThan(0);
  }
  const metadata = JSON.parse(await readFile(join(folder, 'deep/out/metadata.json'), 'utf8')) as {
    operation: unknown;
    current_state: unknown;
    entities: { filename: string }[];
  };
  expect(metadata).toMatchObject({ operation: OPERATION, current_state: { stage: 'completed' } });
  const written = ['metadata.json', ...metadata.entities.map(({ filename }) => filename)].sort();
  expect((await readdir(join(folder, 'deep/out'))).sort()).toEqual(written);

  const again = lines(await generate([...words, 'again'], folder));
  expect(again.at(-1)?.sha256).toBe(told.at(-1)?.sha256);
  expect(again[2]?.sha256).toBe(told[2]?.sha256);
});

test('reads pictures beside the operation, from wherever it is called, and takes the built-in checkpoint', async ({
  page,
}, info) => {
  const folder = info.outputPath('transform');
  await put(folder, {
    ...OPERATION,
    operation: 'image_transform',
    parameters: { ...PARAMETERS, image: 'pictures/red.png', strength: 0.5 },
  });
  await mkdir(join(folder, 'pictures'));
  const red = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(64, 64);
    const context = canvas.getContext('2d') as OffscreenCanvasRenderingContext2D;
    context.fillStyle = 'red';
    context.fillRect(0, 0, 64, 64);
    return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
  });
  await writeFile(join(folder, 'pictures/red.png'), Uint8Array.from(red));
  const words = [join('transform', 'operation.json'), '--out', 'out', '--backend', 'wasm'];
  const result = await generate(words, info.outputPath());
  expect(result.code, result.err).toBe(0);
  expect(lines(result).map(({ entity_type }) => entity_type)).toEqual([
    'input_image',
    'input',
    'config',
    'encoded_prompt',
    'output_image',
  ]);
});

test('reads an operation with a byte order mark, as Windows editors and shells write it', async () => {
  const folder = test.info().outputPath('marks');
  const text = `\ufeff${JSON.stringify({ ...OPERATION, record: [] })}`;
  for (const [name, bytes, named] of [
    ['utf8', Buffer.from(text), null],
    ['utf16', Buffer.from(text, 'utf16le'), 'UTF-16LE'],
  ] as const) {
    await put(folder, '');
    await writeFile(join(folder, 'operation.json'), bytes);
    const words = ['operation.json', '--checkpoint', CHECKPOINT, '--backend', 'wasm', '--out', name];
    const result = await generate(words, folder);
    expect(result.code, result.err).toBe(0);
    expect(lines(result).at(-1)?.entity_type).toBe('output_image');
    expect(result.err.includes('byte order mark')).toBe(named !== null);
    expect(result.err).toContain(named ?? '');
  }
});

test.describe('what is not valid exits with 2 and writes nothing:', () => {
  const refused: [string, unknown, RegExp][] = [
    ['no JSON', '{"operation":', /is not JSON: line 1, column 14: the file ends before/],
    [
      'JSON with a comma too many',
      '{\n  "parameters": {},\n}',
      /is not JSON: line 3, column 1: there is a comma before/,
    ],
    ['a byte order mark and no JSON', '\ufeff{operation', /is not JSON: line 1, column 2: a name in double quotes/],
    ['no object', '"words"', /must be a JSON object/],
    ['an unknown field', { ...OPERATION, sed: 1 }, /unknown field "sed"/],
    ['an unknown kind', { ...OPERATION, operation: 'image_generatoin' }, /operation must be one of/],
    ['an unknown config', { ...OPERATION, config: '__proto__' }, /There is no config "__proto__"/],
    ['an unknown parameter', { ...OPERATION, parameters: { ...PARAMETERS, step: 3 } }, /unknown field "step"/],
    [
      'a parameter out of range',
      { ...OPERATION, parameters: { ...PARAMETERS, steps: 0 } },
      /steps must be a whole number/,
    ],
    ['a seed that is a number', { ...OPERATION, parameters: { ...PARAMETERS, seed: 42 } }, /written as a string/],
    [
      'a missing picture',
      { ...OPERATION, operation: 'image_transform', parameters: { image: 'no.png' } },
      /no\.png.+cannot be read/,
    ],
    [
      'a picture of another kind',
      { ...OPERATION, parameters: { mask_image: '/etc/passwd' } },
      /must be a PNG, JPEG or WebP/,
    ],
  ];
  for (const [name, operation, sentence] of refused) {
    test(name, async () => {
      const info = test.info();
      const folder = info.outputPath('bad');
      const file = await put(folder, operation);
      const result = await generate([file, '--out', 'out', '--backend', 'wasm'], folder);
      expectRefusal(result, 2, 'invalid_operation', sentence);
      expect(existsSync(join(folder, 'out'))).toBe(false);
    });
  }

  test('a missing file', async () => {
    const info = test.info();
    expectRefusal(
      await generate(['none.json', '--out', 'out'], info.outputPath()),
      2,
      'invalid_operation',
      /cannot be read/,
    );
  });

  test('wrong arguments', async () => {
    const info = test.info();
    for (const words of [
      [],
      ['a.json'],
      ['a.json', 'b.json', '--out', 'x'],
      ['a.json', '--out', 'x', '--backend', 'gpu'],
      ['--oops'],
    ]) {
      expectRefusal(await generate(words, info.outputPath()), 2, 'usage', /operation\.json --out DIR/);
    }
  });
});

test('a checkpoint that lacks a file exits with 1 and says which', async () => {
  const info = test.info();
  const folder = info.outputPath('incomplete');
  const file = await put(folder, OPERATION);
  await cp(CHECKPOINT, join(folder, 'sd'), { recursive: true });
  await rm(join(folder, 'sd/unet'), { recursive: true });
  const words = [file, '--out', 'out', '--backend', 'wasm', '--checkpoint'];
  expectRefusal(await generate([...words, 'sd'], folder), 1, 'checkpoint_incomplete', /unet/);
  expectRefusal(await generate([...words, 'none'], folder), 1, 'checkpoint_incomplete', /does not exist/);
  expect(existsSync(join(folder, 'out'))).toBe(false);
});

test('a Chromium that cannot be started is named', async () => {
  const info = test.info();
  const file = await put(info.outputPath('none'), OPERATION);
  const result = await generate([file, '--out', 'out'], info.outputPath('none'), { DARKROOM_CHROMIUM: '/none' });
  expectRefusal(result, 1, 'no_chromium', /DARKROOM_CHROMIUM names \/none.+npx playwright install chromium/);
});

test('its server gives out the built page and nothing beside it', async () => {
  const server = await serveFolder('dist');
  // Sent verbatim: `fetch` and `new URL` would normalise the path.
  const get = (path: string, method = 'GET') =>
    new Promise<{ status?: number; type?: string; isolated: boolean }>((done, failed) => {
      request(server.url, { path, method }, (response) => {
        response.resume();
        const { 'content-type': type, 'cross-origin-opener-policy': opener } = response.headers;
        done({ status: response.statusCode, type, isolated: opener === 'same-origin' });
      })
        .once('error', failed)
        .end();
    });
  try {
    expect(await get('/')).toEqual({ status: 200, type: 'text/html; charset=utf-8', isolated: true });
    expect(await get('/?backend=wasm')).toMatchObject({ status: 200 });
    for (const path of [
      '/../package.json',
      '/%2e%2e/package.json',
      '/..%2fpackage.json',
      '/..%5cpackage.json',
      '//etc/passwd',
      '/%00',
      '/%',
      '/none',
      '/assets',
    ]) {
      expect(await get(path), path).toMatchObject({ status: 404, isolated: true });
    }
    expect(await get('/', 'POST')).toMatchObject({ status: 405 });
  } finally {
    await server.close();
  }
});

test('takes a language model for the steps that write, tells their words and saves them', async () => {
  const folder = test.info().outputPath('words');
  for (const [path, bytes] of languageContents('tiny-llama')) {
    const target = join(folder, 'tiny-llama', path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, bytes);
  }
  const file = await put(folder, {
    operation: 'text_transformation',
    config: 'text_transformation',
    parameters: { prompt: 'A red house.', instruction: 'Say it shorter.', max_new_tokens: 8, seed: '1' },
  });
  const result = await generate([file, '--language', 'tiny-llama', '--backend', 'wasm', '--out', 'out'], folder);
  expect(result.code, result.err).toBe(0);
  const told = lines(result);
  expect(told.map(({ entity_type }) => entity_type)).toEqual(['input', 'config', 'sent_messages', 'output_text']);
  const words = (await readFile(told[3].file)).toString();
  expect(words).not.toBe('');
  expect(result.err).toContain(`output writes:\n${words}`);

  const lost = await generate([file, '--language', './nowhere', '--out', 'other'], folder);
  expectRefusal(lost, 1, 'checkpoint_incomplete', /nowhere of a language model does not exist/);
  const without = await generate([file, '--backend', 'wasm', '--out', 'other'], folder);
  expectRefusal(without, 1, 'checkpoint_incomplete', /No language model is chosen for the step "output"/);
});

test('has things made by a server that lets no page ask, and its key is found nowhere', async () => {
  const folder = test.info().outputPath('server');
  const parameters = { prompt: 'a lighthouse', seed: '7' };
  const file = await put(folder, { operation: 'image_generation', config: 'comfyui_sd15', parameters });
  expectRefusal(await generate([file, '--out', 'none'], folder), 2, 'invalid_operation', /set .* COMFYUI_URL to its/);

  const key = 'a-key-that-nobody-may-find';
  const fake = await FakeComfyUi.start('sd_txt2img', { cors: false });
  fake.models = ['v1-5-pruned-emaonly-fp16.safetensors'];
  try {
    const result = await generate([file, '--out', 'out'], folder, { COMFYUI_URL: fake.url, COMFYUI_API_KEY: key });
    expect(result.code, result.err).toBe(0);
    expect(lines(result).map(({ entity_type }) => entity_type)).toEqual(['input', 'config', 'output_image']);
    expect(result.err).toContain(`${fake.url}: Your words, settings and pictures go to this server`);
    expect(fake.accepted?.['2'].inputs.text).toBe('a lighthouse');
    expect(new Set(fake.heard.map(({ headers }) => headers.authorization))).toEqual(new Set([`Bearer ${key}`]));
    expect(fake.heard.filter(({ headers }) => headers.origin !== undefined)).toEqual([]);
    const metadata = await readFile(join(folder, 'out', 'metadata.json'), 'utf8');
    expect(metadata).toContain(`"server": "${fake.url}"`);
    const written = await Promise.all(
      (await readdir(join(folder, 'out'))).map((name) => readFile(join(folder, 'out', name))),
    );
    expect(written.filter((bytes) => bytes.includes(key))).toEqual([]);
    expect(result.out + result.err).not.toContain(key);
  } finally {
    await fake.stop();
  }
});
