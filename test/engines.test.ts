/** Engines on other machines, against servers that replay recorded conversations of real ones, and against real ones where an address is given. */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import type { ComfyGraph, ComfyResult } from '../src/core/comfyui.ts';
import { classesOf, editorSchema, graphOfEditor } from '../src/core/editor_workflow.ts';
import type { StudioError } from '../src/core/errors.ts';
import { readAddress, type RemoteServer } from '../src/core/remote.ts';
import { ComfyPool, type ComfyMeans } from '../src/engines/comfyui.ts';
import { readOutputs } from '../src/engines/comfyui/outputs.ts';
import { refusalOf } from '../src/engines/comfyui/refusal.ts';
import { readPicture } from '../src/engines/comfyui/socket_messages.ts';
import { probeServer } from '../src/engines/engine.ts';
import { fieldsOfGraph, fillWorkflow, mappingOf, mappingSchema, readGraph } from '../src/core/workflow.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { FakeComfyUi, objectInfo, recording, type Faults, type ObjectInfo } from './fake_comfyui.ts';

const QUICK = { poll: 5, silence: 20, reconnect: 5, gone: 300 };

const started: FakeComfyUi[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((fake) => fake.stop()));
});

async function fakeServer(name: string, faults: Faults = {}): Promise<FakeComfyUi> {
  const fake = await FakeComfyUi.start(name, faults);
  fake.models = ['tiny_sd.safetensors'];
  started.push(fake);
  return fake;
}

function serverAt(address: string, id = 'home'): RemoteServer {
  return { id, engine: 'comfyui', address, settings: {}, hasKey: false };
}

function pool(addresses: string[], means: Partial<ComfyMeans> = {}, signal = new AbortController().signal) {
  return ComfyPool.open(
    {
      servers: () => Promise.resolve(addresses.map((address, at) => serverAt(address, String(at)))),
      secret: () => Promise.reject(new Error('no key')),
      signal,
    },
    { socket: WebSocket, newId: () => crypto.randomUUID(), patience: QUICK, ...means },
  );
}

interface Told {
  result: ComfyResult;
  progress: [number, number][];
  previews: Blob[];
}

async function run(addresses: string[], graph: ComfyGraph, means?: Partial<ComfyMeans>): Promise<Told> {
  const told: Omit<Told, 'result'> = { progress: [], previews: [] };
  const result = await (
    await pool(addresses, means)
  ).run(
    graph,
    {},
    { onProgress: (...at) => told.progress.push(at), onPreview: (picture) => told.previews.push(picture) },
  );
  return { ...told, result };
}

/** The graph that a recording's first job sent. */
function graphOf(name: string): ComfyGraph {
  const sent = recording(name).http.find(({ request }) => request.method === 'POST' && request.path === '/prompt');
  return structuredClone((sent?.request.json as { prompt: ComfyGraph }).prompt);
}

async function failure(promise: Promise<unknown>): Promise<StudioError> {
  return promise.then(
    () => {
      throw new Error('It did not fail.');
    },
    (error: unknown) => error as StudioError,
  );
}

describe('a recorded conversation', () => {
  test.each([
    ['image_ok', ['image']],
    ['image_cached', ['image']],
    ['sd_txt2img', ['image']],
    ['sd_legacy_preview', ['image']],
    ['audio', ['audio', 'audio', 'audio', 'audio']],
    ['video', ['video', 'video', 'animated', 'animated']],
    ['misc', ['image', 'image', 'text', 'other']],
  ])('%s ends with what the real server made', async (name, kinds) => {
    const fake = await fakeServer(name);
    const { result } = await run([fake.url], graphOf(name));
    expect(result.files.map(({ kind }) => kind)).toEqual(kinds);
    expect(result.server).toBe(fake.url);
    // What was recorded is what was sent.
    expect(fake.accepted).toEqual(graphOf(name));
    for (const { file, name: stored } of result.files) {
      expect(file.size).toBeGreaterThan(0);
      const view = recording(name).http.find(({ request }) => request.path.includes(`filename=${stored?.filename}&`));
      if (view?.response.body_base64 !== undefined) {
        expect(Buffer.from(await file.arrayBuffer()).toString('base64')).toBe(view.response.body_base64);
      }
    }
  });

  test('asks for previews first, shows each, and counts the whole graph', async () => {
    const fake = await fakeServer('sd_txt2img');
    const { previews, progress } = await run([fake.url], graphOf('sd_txt2img'));
    expect(previews.map(({ type }) => type)).toEqual(Array(4).fill('image/jpeg'));
    expect(progress.at(-1)).toEqual([10, 10]);
    expect(progress.every(([done], at) => at === 0 || done >= progress[at - 1][0])).toBe(true);
  });

  test('shows previews of the older form, which name no job', async () => {
    const fake = await fakeServer('sd_legacy_preview');
    const { previews } = await run([fake.url], graphOf('sd_legacy_preview'));
    expect(previews.length).toBeGreaterThan(0);
  });

  test('tells words that nodes showed', async () => {
    const fake = await fakeServer('misc');
    const { result } = await run([fake.url], graphOf('misc'));
    expect(result.texts).toEqual([
      { node: '4', text: 'hello' },
      { node: '9', text: '8' },
    ]);
  });

  test('is followed without a socket, too', async () => {
    const fake = await fakeServer('image_ok');
    const { result } = await run([fake.url], graphOf('image_ok'), { socket: null });
    expect(result.files).toHaveLength(1);
  });
});

describe('a connection that breaks', () => {
  const graph = graphOf('sd_txt2img');
  const said = recording('sd_txt2img').websocket.filter(({ dir }) => dir === 'in').length;

  test.each(Array.from({ length: said }, (_, at) => at))(
    'before message %i ends with the same result',
    async (cutAt) => {
      const fake = await fakeServer('sd_txt2img', { cutAt, endsMeanwhile: cutAt % 2 === 0 && cutAt > 2 });
      const { result } = await run([fake.url], graph);
      expect(result.files).toHaveLength(1);
      expect(result.files[0].name).toMatchObject({ filename: 'sd_00001_.png', subfolder: 'golden' });
      expect(fake.heard.filter(({ method, path }) => method === 'POST' && path === '/prompt')).toHaveLength(1);
    },
  );

  test('and a server that was restarted meanwhile makes it once more, recorded once', async () => {
    const [first, second] = [
      await fakeServer('sd_txt2img', { cutAt: 12, forgets: true }),
      await fakeServer('sd_txt2img'),
    ];
    // The busy one is chosen last.
    second.faults = { answers: { 'GET /prompt': (response) => response.end('{"exec_info":{"queue_remaining":3}}') } };
    const { result } = await run([first.url, second.url], graph);
    expect(result.server).toBe(second.url);
    expect(result.files).toHaveLength(1);
    expect(first.accepted).toEqual(second.accepted);
  });

  test('and a server that is gone hands its job to another one', async () => {
    const [first, second] = [await fakeServer('sd_txt2img'), await fakeServer('sd_txt2img')];
    const running = pool([first.url, second.url]).then((engine) =>
      engine.run(graph, {}, { onProgress: () => void first.stop().catch(() => undefined) }),
    );
    expect((await running).server).toBe(second.url);
  });

  test('is found again by a later attempt', async () => {
    const fake = await fakeServer('sd_txt2img');
    const { result } = await run([fake.url], graph);
    const engine = await pool([fake.url]);
    const again = await engine.rejoin({ server: fake.url, promptId: result.promptId }, graph);
    expect(again?.files).toHaveLength(1);
    const stranger = { server: fake.url, promptId: crypto.randomUUID() };
    expect(await engine.rejoin(stranger, graph)).toBeNull();
  });
});

describe('a refusal', () => {
  const SENTENCES = [
    /./,
    /./,
    /"\w+" lacks width/,
    /"\w+" lacks width/,
    /"\w+": width is 0, below its least, 1/,
    /"\w+": width is 99999, above its most, 16384/,
    /"\w+": width, abc, invalid literal/,
    /"\w+" has no upscale_method "magic"/,
  ];

  test('of whichever kind is one sentence, also where the server accepts a part', () => {
    const exchanges = recording('validation_errors').http;
    expect(exchanges).toHaveLength(22);
    for (const [at, { request, response }] of exchanges.entries()) {
      const { prompt = {} } = (request.json ?? {}) as { prompt?: ComfyGraph };
      const refusal = refusalOf(response.status, response.json, prompt, 'ComfyUI');
      expect(refusal?.message, JSON.stringify(response)).toMatch(/^ComfyUI [^\n]+\.$/);
      expect(refusal?.message).not.toMatch(/\/comfy|Traceback|undefined|\[object/);
      expect(refusal?.message).toMatch(SENTENCES[at] ?? /./);
    }
  });

  test('names missing nodes and models before anything is sent', async () => {
    const fake = await fakeServer('sd_txt2img');
    const graph = graphOf('sd_txt2img');
    graph['1'].inputs.ckpt_name = 'another.safetensors';
    graph['9'] = { class_type: 'NoSuchNode', inputs: {} };
    const { code, message } = await failure(run([fake.url], graph));
    expect(code).toBe('invalid_operation');
    expect(message).toBe(
      `ComfyUI at ${fake.url} lacks the node "NoSuchNode" (install what brings them), the model "another.safetensors" (it has "tiny_sd.safetensors").`,
    );
    expect(fake.heard.filter(({ method }) => method === 'POST')).toEqual([]);
  });

  test('of a server that takes nothing, of one that is not there, and where none is entered', async () => {
    const graph = graphOf('sd_txt2img');
    const fake = await fakeServer('sd_txt2img', {
      answers: { 'POST /prompt': (response) => response.writeHead(413).end() },
    });
    expect((await failure(run([fake.url], graph))).message).toContain('--max-upload-size');
    await fake.stop();
    started.length = 0;
    expect(await failure(run([fake.url], graph))).toMatchObject({ code: 'origin_unavailable' });
    expect((await failure(pool([]))).message).toContain('enter one under "Engines"');
  });

  test('of a node that fails names the node and its words, and nothing of the server', async () => {
    const fake = await fakeServer('execution_error');
    const { code, message } = await failure(run([fake.url], graphOf('execution_error')));
    expect(code).toBe('result_invalid');
    expect(message).toBe(
      `ComfyUI failed in the node "LoadImage": cannot identify image file '/comfy/input/broken.png'.`,
    );
  });

  test('of a result that is listed and not given', async () => {
    const fake = await fakeServer('sd_txt2img', {
      answers: { 'GET /view': (response) => response.writeHead(404).end() },
    });
    const { code, message } = await failure(run([fake.url], graphOf('sd_txt2img')));
    expect(code).toBe('result_invalid');
    expect(message).toContain('made "sd_00001_.png" but does not give it (404)');
  });
});

test('cancelling stops this job on the server, and no other', async () => {
  const fake = await fakeServer('sd_txt2img', { cutAt: 20 });
  const controller = new AbortController();
  const engine = await pool([fake.url], {}, controller.signal);
  const running = engine.run(graphOf('sd_txt2img'), {}, { onPreview: () => controller.abort() });
  expect(await failure(running)).toMatchObject({ code: 'cancelled' });
  await expect.poll(() => fake.heard.filter(({ path }) => path.endsWith('/cancel')).length).toBe(1);
  expect(fake.heard.filter(({ path }) => path === '/interrupt')).toEqual([]);
});

test('a file is uploaded under its hash, and the graph gets the name that the server gave', async () => {
  const fake = await fakeServer('sd_txt2img');
  const graph = graphOf('sd_txt2img');
  graph['10'] = { class_type: 'LoadImage', inputs: { image: '' } };
  const picture = new Blob([Buffer.from('some picture')], { type: 'image/jpeg' });
  await (await pool([fake.url])).run(graph, { '10.image': picture });
  const [[name, bytes]] = fake.uploads;
  expect(name).toMatch(/^[0-9a-f]{64}\.jpg$/);
  expect(bytes.toString()).toBe('some picture');
  expect(fake.accepted?.['10'].inputs.image).toBe(`darkroom/${name}`);
});

describe('a probe', () => {
  const around = { key: null, origin: 'http://localhost:5173', signal: new AbortController().signal };

  test('says what is there, and what can be made with', async () => {
    const fake = await fakeServer('sd_txt2img');
    const probe = await probeServer(serverAt(fake.url), around);
    expect(probe).toMatchObject({ isUp: true, models: ['tiny_sd.safetensors'] });
    expect(probe.sentence).toBe('ComfyUI 0.33.0 (cpu) answers.');
  });

  test('says which flag lets this page ask, and what else is wrong', async () => {
    const fake = await fakeServer('sd_txt2img', {
      answers: { 'GET /system_stats': (response) => response.writeHead(403).end() },
    });
    expect(await probeServer(serverAt(fake.url), around)).toMatchObject({
      isUp: false,
      flag: '--enable-cors-header http://localhost:5173',
    });
    fake.faults = { answers: { 'GET /system_stats': (response) => response.end('<html>') } };
    expect((await probeServer(serverAt(fake.url), around)).sentence).toContain('is not ComfyUI');
    fake.faults = { answers: { 'GET /system_stats': (response) => response.end('{"system":{}}') } };
    expect((await probeServer(serverAt(fake.url), around)).sentence).toContain('too old');
    await fake.stop();
    started.length = 0;
    expect((await probeServer(serverAt(fake.url), around)).sentence).toContain('Nothing answers at');
  });
});

describe('what a server says', () => {
  test('is read with care', () => {
    expect(readPicture(new ArrayBuffer(3))).toBeNull();
    expect(readPicture(new Uint8Array([0, 0, 0, 4, 255, 255, 255, 255, 0]).buffer)).toBeNull();
    expect(readPicture(new Uint8Array([0, 0, 0, 3, 0, 0, 0, 1, 56, 104, 105]).buffer)).toBeNull();
    expect(readOutputs({ a: null, b: { images: 'x', text: [1, 'y'] }, c: { images: [{ filename: '' }] } })).toEqual({
      files: [],
      texts: [{ node: 'b', text: 'y' }],
    });
  });
});

test.each([
  ['127.0.0.1:8188', 'http://127.0.0.1:8188'],
  ['localhost:8188/', 'http://localhost:8188'],
  ['HTTP://Studio.local:8188', 'http://studio.local:8188'],
  ['https://example.org/comfy/', 'https://example.org/comfy'],
  ['example.org', 'https://example.org'],
  ['gpubox', 'http://gpubox'],
])('the address %s is %s', (typed, address) => {
  expect(readAddress(typed)).toBe(address);
});

test.each([
  '',
  'http://[::1]:8188',
  'http://*',
  'http://a b',
  'ftp://x',
  'http://x;script-src',
  "http://x'",
  'http://u:p@x',
])('the address %s is refused', (typed) => {
  expect(() => readAddress(typed)).toThrow('is not an address');
});

describe('workflows', () => {
  const info = objectInfo();
  const graphs = import.meta.glob<ComfyGraph>('../chunks/comfyui/*.json', { eager: true, import: 'default' });
  const ids = Object.keys(graphs)
    .map((path) => /([^/]+)\.json$/.exec(path)?.[1] ?? '')
    .filter((id) => !id.endsWith('.mapping'));
  const read = (id: string) => graphs[`../chunks/comfyui/${id}.json`];

  test('are there', () => {
    expect(ids.length).toBeGreaterThanOrEqual(15);
  });

  test.each(ids)('%s is what the nodes of ComfyUI 0.33 take', (id) => {
    expect(faultsOf(read(id), info)).toEqual([]);
  });

  test.each(ids)('%s has a config whose fields are those that its mapping fills', (id) => {
    const mapping = v.parse(mappingSchema, read(`${id}.mapping`));
    const graph = read(id);
    for (const place of Object.values(mapping.parameters).flat()) {
      const [node, input] = place.split(/\.(.*)/s);
      expect(graph[node]?.inputs, place).toHaveProperty([input]);
    }
    const config = Object.values(catalogue.configs).find(({ parameters }) => parameters.WORKFLOW === id);
    const files =
      mapping.files.length === 0
        ? []
        : [mapping.files.length === 1 && config?.fields?.includes('image') ? 'image' : 'images'];
    expect(new Set(config?.fields)).toEqual(new Set([...Object.keys(mapping.parameters), ...files]));
    // What the form begins with is what the graph says.
    for (const [name, value] of Object.entries(config?.parameters ?? {})) {
      for (const place of mapping.parameters[name] ?? []) {
        const [node, input] = place.split(/\.(.*)/s);
        expect(graph[node].inputs[input], `${name} at ${place}`).toEqual(value);
      }
    }
  });

  test('lose the places of pictures that are not given', () => {
    const mapping = v.parse(mappingSchema, read('qwen_2511_multi.mapping'));
    const one = fillWorkflow(read('qwen_2511_multi'), mapping, { prompt: 'x', seed: '18446744073709551615' }, [
      new Blob(['a']),
    ]);
    expect(Object.keys(one.files)).toEqual([mapping.files[0].place]);
    expect(faultsOf(one.graph, info)).toEqual([]);
    expect(JSON.stringify(one.graph)).toContain('"18446744073709551615"');
    expect(Object.values(one.graph).filter((node) => node.class_type === 'LoadImage')).toHaveLength(1);
    expect(() => fillWorkflow(read('qwen'), v.parse(mappingSchema, read('qwen.mapping')), { lyrics: 'la' })).toThrow(
      'This workflow takes no lyrics',
    );
    expect(() => fillWorkflow(read('qwen_img2img'), v.parse(mappingSchema, read('qwen_img2img.mapping')), {})).toThrow(
      'takes one file',
    );
  });

  test('with a node, an input, a link or a value of another kind are found', () => {
    const changed = (change: (graph: ComfyGraph) => void) => {
      const graph = structuredClone(read('sd15'));
      change(graph);
      return faultsOf(graph, info);
    };
    expect(changed((graph) => (graph['5'].class_type = 'None'))).toContain('5: there is no None');
    expect(changed((graph) => delete graph['5'].inputs.steps)).toEqual(['5: steps is missing']);
    expect(changed((graph) => (graph['5'].inputs.model = ['1', 1]))).toEqual(['5: model takes "MODEL", not "CLIP"']);
    expect(changed((graph) => (graph['5'].inputs.steps = 0))).toHaveLength(1);
    expect(changed((graph) => (graph['5'].inputs.scheduler = 'none'))).toHaveLength(1);
    expect(changed((graph) => (graph['5'].inputs.nothing = 1))).toEqual(['5: nothing is no input']);
  });
});

describe("somebody's own workflow", () => {
  const graph = graphOf('sd_txt2img');

  test('is read as it was exported, and from what wraps it, and nothing else is', () => {
    expect(readGraph(graph)).toEqual(graph);
    expect(readGraph({ prompt: graph })).toEqual(graph);
    for (const strange of [null, [], {}, 'x', { 1: { class_type: 'A' } }, { 1: null }]) {
      expect(() => readGraph(strange)).toThrow('holds no ComfyUI workflow');
    }
  });

  test('offers its words, numbers and models, and its seeds and files have places', () => {
    expect(fieldsOfGraph(graph).map(({ place, kind }) => [place, kind])).toEqual([
      ['1.ckpt_name', 'choice'],
      ['2.text', 'text'],
      ['3.text', 'text'],
      ['4.width', 'number'],
      ['4.height', 'number'],
      ['4.batch_size', 'number'],
      ['5.steps', 'number'],
      ['5.cfg', 'number'],
      ['5.denoise', 'number'],
    ]);
    const withPicture = { ...graph, '10': { class_type: 'LoadImage', inputs: { image: 'x.png' } } };
    expect(mappingOf(withPicture)).toEqual({
      parameters: { seed: ['5.seed'] },
      files: [{ place: '10.image', kind: 'image', nodes: [] }],
    });
  });

  test('as the editor saves it becomes what the official frontend makes of it, with and without the names of its values', () => {
    const info = objectInfo();
    for (const { name, ui, api } of frontendPairs()) {
      expect(
        graphOfEditor(v.parse(editorSchema, ui), (type) => info[type] ?? null),
        name,
      ).toEqual(api);
      // Nested values stand in no order that the definitions tell.
      if (name !== 'dynamic_combo') {
        const unnamed = JSON.parse(
          JSON.stringify(ui, (key, value: unknown) => (key === 'widgets_values_named' ? undefined : value)),
        ) as unknown;
        expect(
          graphOfEditor(v.parse(editorSchema, unnamed), (type) => info[type] ?? null),
          name,
        ).toEqual(api);
      }
    }
    const [{ ui }] = frontendPairs();
    expect(() => graphOfEditor(v.parse(editorSchema, ui), () => null)).toThrow(
      'The server has no node "CheckpointLoaderSimple"',
    );
    expect(classesOf(v.parse(editorSchema, ui))).not.toContain('Note');
  });

  test('as the editor saves it is made into a graph by what the server knows', async () => {
    const fake = await fakeServer('sd_txt2img');
    const [{ ui, api }] = frontendPairs();
    expect(await (await pool([fake.url])).convert(ui)).toEqual(api);
  });

  test('runs as it is, with another seed and the pictures that are given', async () => {
    const fake = await fakeServer('sd_txt2img');
    const mapping = mappingOf(graph);
    const filled = fillWorkflow(graph, mapping, { seed: '7' });
    await (await pool([fake.url])).run(filled.graph, filled.files);
    expect(fake.accepted).toEqual({ ...graph, '5': { ...graph['5'], inputs: { ...graph['5'].inputs, seed: '7' } } });
  });
});

/** Workflows as the editor saves them, and what the official frontend sends for them. */
function frontendPairs(): { name: string; ui: unknown; api: ComfyGraph }[] {
  const text = readFileSync(new URL('goldens/comfyui/ui_to_api.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { cases: ReturnType<typeof frontendPairs> }).cases;
}

/** As `POST /prompt` validates, as far as it shows in `/object_info`; models count as there. */
function faultsOf(graph: ComfyGraph, info: Record<string, ObjectInfo>): string[] {
  const faults: string[] = [];
  for (const [id, { class_type: type, inputs }] of Object.entries(graph)) {
    if (!Object.hasOwn(info, type)) {
      faults.push(`${id}: there is no ${type}`);
      continue;
    }
    const { required = {}, optional = {} } = info[type].input;
    const declared = { ...required, ...optional };
    faults.push(
      ...Object.keys(required)
        .filter((name) => !(name in inputs))
        .map((name) => `${id}: ${name} is missing`),
    );
    for (const [name, value] of Object.entries(inputs)) {
      const [wanted, options = {}] = (declared[name.split('.')[0]] ?? []) as [unknown, Record<string, unknown>?];
      if (wanted === undefined) {
        // The flat form of servers up to 0.8 stands beside the nested one.
        faults.push(...(type === 'SaveVideo' && name === 'codec' ? [] : [`${id}: ${name} is no input`]));
      } else if (Array.isArray(value)) {
        const [from, slot] = value as [string, number];
        const given = Object.hasOwn(graph, from) ? info[graph[from].class_type]?.output[slot] : undefined;
        faults.push(
          ...(given === wanted ? [] : [`${id}: ${name} takes ${JSON.stringify(wanted)}, not ${JSON.stringify(given)}`]),
        );
      } else if (wanted === 'INT' || wanted === 'FLOAT') {
        const { min = -Infinity, max = Infinity } = options as { min?: number; max?: number };
        const isIn =
          Number(value) >= min && Number(value) <= max && (wanted === 'FLOAT' || /^[0-9]+$/.test(String(value)));
        faults.push(...(isIn ? [] : [`${id}: ${name} is ${String(value)}`]));
      } else {
        const list = Array.isArray(wanted) ? wanted : wanted === 'COMBO' ? (options.options as unknown[]) : null;
        const isFile = /\.safetensors$/.test(String(value)) || type === 'LoadImage';
        faults.push(
          ...(list === null || isFile || list.includes(value) ? [] : [`${id}: ${name} has no ${String(value)}`]),
        );
      }
    }
  }
  return faults;
}

/** The same against a real server, whose address is in `COMFYUI_URL`: pictures, a cached graph, cancelling. */
describe.runIf(process.env.COMFYUI_URL)('a real server', () => {
  const url = process.env.COMFYUI_URL ?? '';
  const graph = (color: number): ComfyGraph => ({
    '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 64, batch_size: 1, color } },
    '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'darkroom/test' } },
  });

  test('makes a picture, and once more from its cache', async () => {
    const color = Number(BigInt.asUintN(24, BigInt(`0x${crypto.randomUUID().slice(0, 8)}`)));
    for (let time = 0; time < 2; time++) {
      const { result } = await run([url], graph(color));
      expect(result.files.map(({ kind }) => kind)).toEqual(['image']);
    }
  });

  test('refuses what it does not have', async () => {
    const strange: ComfyGraph = { ...graph(1), '3': { class_type: 'NoSuchNode', inputs: {} } };
    expect((await failure(run([url], strange))).message).toContain('lacks the node "NoSuchNode"');
  });

  test('says what it is', async () => {
    const probe = await probeServer(serverAt(url), {
      key: null,
      origin: 'http://localhost',
      signal: new AbortController().signal,
    });
    expect(probe.sentence).toMatch(/^ComfyUI \d+\.\d+/);
  });
});
