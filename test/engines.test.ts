/** Engines on other machines, against servers that replay recorded conversations, and against real ones where an address is given. */
import { exec } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import type { ComfyGraph, ComfyResult } from '../src/core/comfyui.ts';
import { classesOf, editorSchema, graphOfEditor } from '../src/core/editor_workflow.ts';
import type { StudioError } from '../src/core/errors.ts';
import { MadeFile, readAddress, type RemoteServer } from '../src/core/remote.ts';
import { ComfyPool, POOL_PATIENCE, type ComfyMeans } from '../src/engines/comfyui/pool.ts';
import { readOutputs } from '../src/engines/comfyui/outputs.ts';
import { refusalOf } from '../src/engines/comfyui/refusal.ts';
import { readMessage, readPicture } from '../src/engines/comfyui/socket_messages.ts';
import { probeServer } from '../src/engines/engine.ts';
import { fieldsOfGraph, fillWorkflow, mappingOf, mappingSchema, readGraph } from '../src/core/workflow.ts';
import { mediumNamed, recogniseFile } from '../src/media/registry.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { madeElsewhere, sortedByContent } from '../workers/made_files.ts';
import '../workers/media_files.ts';
import { FakeComfyUi, objectInfo, recording, type Faults, type ObjectInfo } from './fake_comfyui.ts';
import {
  RECORDINGS,
  ReplayedServer,
  ask,
  bodyOf,
  bytesOfFrame,
  conversation,
  listen,
  sentBody,
} from './replayed_server.ts';

const QUICK = { ...POOL_PATIENCE, poll: 5, silence: 500, reconnect: 5, gone: 3000, judge: 2000, back: 200 };
/** For recordings without a history, whose results only the socket tells: it has to be open, however busy the machine is. */
const HEARING = { patience: { ...QUICK, reconnect: 10_000 } };

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
      used: () => undefined,
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

/** The graph sent by a recording's first job. */
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
    const { result } = await run([fake.url], graphOf(name), HEARING);
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
    const { previews } = await run([fake.url], graphOf('sd_legacy_preview'), HEARING);
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

describe('every conversation that was recorded', () => {
  /** Event types that this test ignores. */
  const UNREAD = new Set(['feature_flags', 'execution_interrupted', 'logs']);

  test.each(RECORDINGS)('%s crosses byte for byte, both ways, and is understood', async (name) => {
    const { http, sockets } = conversation(name);
    const replay = await ReplayedServer.start(name);
    try {
      for (const { request, response } of http) {
        const { status, headers, body } = await ask(`${replay.url}${request.path}`, request);
        expect([status, headers], request.path).toEqual([response.status, response.headers?.['content-type'] ?? null]);
        expect(body.equals(bodyOf(response)), request.path).toBe(true);
      }
      expect(replay.heard.map(({ method, path, body }) => [method, path, body.toString('base64')])).toEqual(
        http.map(({ request }) => [request.method, request.path, sentBody(request).toString('base64')]),
      );
      for (const frames of sockets) {
        expect(await listen(replay, frames)).toEqual(frames.filter(({ dir }) => dir === 'in').map(bytesOfFrame));
      }
      expect(replay.told).toEqual(
        sockets
          .flat()
          .filter(({ dir }) => dir === 'out')
          .map(bytesOfFrame),
      );
    } finally {
      await replay.stop();
    }
    for (const frame of sockets.flat().filter(({ dir }) => dir === 'in')) {
      const bytes = Buffer.from(bytesOfFrame(frame), 'base64');
      if (frame.binary_base64 === undefined) {
        const { type } = frame.text as { type: string };
        expect(UNREAD.has(type) || readMessage(bytes.toString()) !== null, bytes.toString()).toBe(true);
      } else if ([1, 4].includes(bytes.readUInt32BE(0))) {
        const seen = readPicture(new Uint8Array(bytes).buffer);
        expect(Buffer.from(await seen!.picture.arrayBuffer())).toEqual(bytes.subarray(-seen!.picture.size));
      }
    }
  });

  test('holds what our client says: its first word on a socket, and the parts of a job', async () => {
    const [said] = conversation('sd_txt2img').sockets[0];
    const replay = await fakeServer('sd_txt2img');
    await run([replay.url], graphOf('sd_txt2img'));
    expect(said.dir).toBe('out');
    expect(replay.said).toEqual([JSON.stringify(said.text)]);
    const recorded = recording('sd_txt2img').http.find(({ request }) => request.path === '/prompt')?.request.json;
    const sent = replay.heard.find(({ method, path }) => method === 'POST' && path === '/prompt');
    const wanted = Object.keys(recorded as object).filter((key) => key !== 'extra_data');
    expect(Object.keys(JSON.parse(sent?.body.toString() ?? '') as object).sort()).toEqual(wanted.sort());
  });
});

describe('a connection that breaks', () => {
  const graph = graphOf('sd_txt2img');

  /** What was made, byte by byte. */
  const bytesOf = async ({ files, texts }: ComfyResult) => [
    ...(await Promise.all(files.map(async ({ file }) => Buffer.from(await file.arrayBuffer()).toString('base64')))),
    ...texts,
  ];

  test.each(['sd_txt2img', 'video', 'audio', 'image_cached'])(
    'before any message of %s ends with the same result',
    async (name) => {
      const whole = await bytesOf((await run([(await fakeServer(name)).url], graphOf(name))).result);
      const { http, websocket } = recording(name);
      const [, second] = http.filter(({ request }) => request.method === 'POST' && request.path === '/prompt');
      const said = websocket.filter(({ dir, t }) => dir === 'in' && t < (second?.t ?? Infinity)).length;
      expect(said).toBeGreaterThan(10);
      for (let cutAt = 0; cutAt < said; cutAt++) {
        // Every other time the job ends while the connection is down, so that no more messages come.
        const fake = await fakeServer(name, { cutAt, endsMeanwhile: cutAt % 2 === 0 && cutAt > 2 });
        const { result } = await run([fake.url], graphOf(name));
        expect(await bytesOf(result), `cut before message ${cutAt}`).toEqual(whole);
        expect(fake.heard.filter(({ method, path }) => method === 'POST' && path === '/prompt')).toHaveLength(1);
        await fake.stop();
        started.splice(started.indexOf(fake), 1);
      }
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

  test('of a graph of which a part is accepted, which is then stopped', async () => {
    const { request, response: answer } = recording('validation_errors').http[2];
    expect(answer.status).toBe(200);
    const fake = await fakeServer('sd_txt2img', {
      answers: { 'POST /prompt': (response) => response.end(JSON.stringify(answer.json)) },
    });
    const { prompt } = request.json as { prompt: ComfyGraph };
    const { code, message } = await failure(run([fake.url], prompt));
    expect(code).toBe('invalid_operation');
    expect(message).toMatch(/^ComfyUI refuses the workflow: "\w+" lacks width\.$/);
    const sent = fake.heard.find(({ method, path }) => method === 'POST' && path === '/prompt')?.body.toString() ?? '';
    const cancelled = fake.heard.find(({ path }) => path.endsWith('/cancel'));
    expect(cancelled?.path).toBe(`/api/jobs/${(JSON.parse(sent) as { prompt_id: string }).prompt_id}/cancel`);
  });

  test('where the server breaks over it, as it does over what the editor saves', async () => {
    const [{ ui, api }] = frontendPairs();
    const fake = await fakeServer('sd_txt2img', {
      answers: { 'POST /prompt': (response) => response.writeHead(500).end('500 Internal Server Error') },
    });
    const engine = await pool([fake.url]);
    const { code, message } = await failure(engine.run(await engine.convert(ui), {}));
    expect([code, message]).toEqual([
      'origin_unavailable',
      'ComfyUI answers with status 500; look at what it prints, then try again.',
    ]);
    // It is never sent in the editor's form.
    const [sent] = fake.heard.filter(({ method }) => method === 'POST');
    expect((JSON.parse(sent.body.toString()) as { prompt: unknown }).prompt).toEqual(api);
  });

  test('of an upload that is too large, before it is sent, and of a body that is', async () => {
    const graph = { ...graphOf('sd_txt2img'), '10': { class_type: 'LoadImage', inputs: { image: '' } } };
    const fake = await fakeServer('sd_txt2img', {
      answers: { 'GET /features': (response) => response.end('{"max_upload_size":3}') },
    });
    const upload = async () => (await pool([fake.url])).run(graph, { '10.image': new Blob(['four']) });
    expect(await failure(upload())).toMatchObject({ code: 'invalid_operation' });
    expect(fake.uploads.size).toBe(0);
    fake.faults = { answers: { 'POST /upload/image': (response) => response.writeHead(413).end() } };
    expect((await failure(upload())).message).toContain('start it with a larger --max-upload-size');
  });

  test('of a key that expires in the middle of a job, which is asked for once, and not of one that is renewed in time', async () => {
    const key = 'a-key-that-nobody-may-find';
    const expired: Faults['answers'] = Object.fromEntries(
      ['GET /queue', 'GET /history/ID'].map((route) => [
        route,
        (response) => response.writeHead(401).end(`{"error":"${key} has expired"}`),
      ]),
    );
    const begun = async () => {
      const fake = await fakeServer('sd_txt2img');
      const behindKey = await ComfyPool.open(
        {
          servers: () => Promise.resolve([{ ...serverAt(fake.url), hasKey: true }]),
          secret: () => Promise.resolve(key),
          used: () => undefined,
          signal: new AbortController().signal,
        },
        { socket: WebSocket, newId: () => crypto.randomUUID(), patience: QUICK },
      );
      const onAccepted = () => (fake.faults = { answers: expired });
      return { fake, made: behindKey.run(graphOf('sd_txt2img'), {}, { onAccepted }) };
    };
    const lost = await begun();
    const error = await failure(lost.made);
    expect(error).toMatchObject({ code: 'origin_unavailable', message: expect.stringContaining('key') as string });
    expect(error.message).not.toContain(key);
    expect(lost.fake.heard.filter(({ method, path }) => method === 'POST' && path === '/prompt')).toHaveLength(1);

    const renewed = await begun();
    await expect
      .poll(() => renewed.fake.heard.filter(({ path }) => path.startsWith('/history/')).length)
      .toBeGreaterThanOrEqual(2);
    renewed.fake.faults = {};
    expect((await renewed.made).files).toHaveLength(1);
  });

  test('of a result that comes a byte at a time', async () => {
    const fake = await fakeServer('sd_txt2img', {
      answers: {
        'GET /view': (response) => {
          const drip = setInterval(() => response.write('x'), 10);
          response.on('close', () => clearInterval(drip));
        },
      },
    });
    const means = { calls: { trickle: 60 }, patience: { ...QUICK, gone: 50, back: 50 } };
    expect(await failure(run([fake.url], graphOf('sd_txt2img'), means))).toMatchObject({
      code: 'origin_unavailable',
      retry: 'same',
    });
  });

  test('of an answer of 200 MB where a small one is due, and a result of 200 MB is taken', async () => {
    const flood = (response: ServerResponse) => {
      let left = 200;
      const pour = () => {
        let hasRoom = true;
        while (left > 0 && hasRoom) {
          left -= 1;
          hasRoom = response.write(Buffer.alloc(2 ** 20));
        }
        if (left === 0) {
          response.end();
        }
      };
      response.on('drain', pour);
      pour();
    };
    const fake = await fakeServer('sd_txt2img', { answers: { 'GET /history/ID': flood } });
    // The history is asked for by those whom no socket has told all.
    const { code, message } = await failure(run([fake.url], graphOf('sd_txt2img'), { socket: null }));
    expect([code, message]).toEqual([
      'result_invalid',
      'ComfyUI answers with more than 64 MB, which is too much to take in here; make something smaller, or look at what runs there.',
    ]);
    fake.faults = { answers: { 'GET /view': flood } };
    fake.rewind();
    const { result } = await run([fake.url], graphOf('sd_txt2img'));
    expect(result.files[0].file.size).toBeGreaterThanOrEqual(200 * 2 ** 20);
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
  // If another file has that name there, the server chooses a new one.
  fake.rewind();
  fake.faults = {
    answers: {
      'POST /upload/image': (response) => response.end('{"name":"in (1).png","subfolder":"golden","type":"input"}'),
    },
  };
  await (await pool([fake.url])).run(graph, { '10.image': picture });
  expect(fake.accepted?.['10'].inputs.image).toBe('golden/in (1).png');
});

test('a workflow can leave nothing on the server: pictures come over the socket', async () => {
  const fake = await fakeServer('misc');
  const graph = graphOf('misc');
  const { result } = await run([fake.url], graph);
  const [sent] = Object.entries(graph).filter(([, node]) => node.class_type === 'SaveImageWebsocket');
  const pictures = result.files.filter(({ node }) => node === sent[0]);
  expect(pictures.map(({ name, kind }) => [name, kind])).toEqual(Array(2).fill([null, 'image']));
  expect((await failure(run([fake.url], graph, { socket: null }))).message).toContain('behind a key');
});

test('a file that is another kind than its name is recorded as what it is', async () => {
  const bytes = (name: string, path: string) =>
    Buffer.from(
      recording(name).http.find(({ request }) => request.path.startsWith(path))?.response.body_base64 ?? '',
      'base64',
    );
  const video = new MadeFile(new Blob([bytes('video', '/view?filename=vid_00001_.mp4')]), {});
  const picture = new MadeFile(new Blob([bytes('image_ok', '/view?filename=pic_00001_.png')]), {});
  const told: string[] = [];
  const declared = { images: { medium: 'image', many: true }, videos: { medium: 'video', many: true } };
  const outputs = { images: [video, picture], videos: [] };
  expect(await sortedByContent(outputs, declared, (sentence) => told.push(sentence))).toEqual({
    images: [picture],
    videos: [video],
  });
  expect(told).toEqual(['The server calls a file as if it were another kind; it is recorded as what it is: Video.']);
  const image = mediumNamed('image');
  await expect(madeElsewhere(new MadeFile(new Blob(['<html>']), {}), image!, 'output')).rejects.toMatchObject({
    code: 'result_invalid',
    message: 'The step "output" was given a file that is no picture; look at what the server made, then try again.',
  });
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
    const choices = Object.values(graph).some((node) => node.class_type === 'SaveImage') ? ['leave_nothing'] : [];
    expect(new Set(config?.fields)).toEqual(new Set([...Object.keys(mapping.parameters), ...files, ...choices]));
    // The form's initial values are the graph's.
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
      // The definitions do not tell the order of nested values.
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

/** Validates like `POST /prompt`, as far as `/object_info` shows; models count as present. */
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
        // The flat form of servers up to 0.8 exists beside the nested one.
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

/**
 * The same against real servers: `COMFYUI_URL` and, for two, `COMFYUI_URL_2`. The command in `COMFYUI_RESTART`, if set, kills and restarts
 * the first one in the middle of a job. `COMFYUI_CHECKPOINT` names a checkpoint of theirs of Stable Diffusion 1 to sample with.
 */
describe.runIf(process.env.COMFYUI_URL)('a real server', () => {
  const url = process.env.COMFYUI_URL ?? '';
  const other = process.env.COMFYUI_URL_2 ?? '';
  const restart = process.env.COMFYUI_RESTART ?? '';
  const patience = { ...POOL_PATIENCE, poll: 200, silence: 2000 };
  const anyNumber = () => Number(BigInt.asUintN(24, BigInt(`0x${crypto.randomUUID().slice(0, 8)}`)));
  const graph = (color: number): ComfyGraph => ({
    '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 64, batch_size: 1, color } },
    '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'darkroom/test' } },
  });
  /** Takes its time across many nodes, as a job can only stop between two of them. */
  const slow = (color: number, nodes = 40): ComfyGraph => ({
    '1': { class_type: 'EmptyImage', inputs: { width: 1024, height: 1024, batch_size: 2, color } },
    ...Object.fromEntries(
      Array.from({ length: nodes }, (_, at) => [
        String(at + 2),
        {
          class_type: 'ImageScale',
          inputs: {
            image: [String(at + 1), 0],
            upscale_method: 'lanczos',
            width: 1024 + 8 * (at + 1),
            height: 1024,
            crop: 'disabled',
          },
        },
      ]),
    ),
    save: { class_type: 'SaveImage', inputs: { images: [String(nodes + 1), 0], filename_prefix: 'darkroom/slow' } },
  });
  const isThere = async (at: string, id: string) =>
    JSON.stringify(await (await fetch(`${at}/queue`)).json()).includes(id);

  test('makes a picture, and once more from its cache', async () => {
    const color = anyNumber();
    for (let time = 0; time < 2; time++) {
      const { result } = await run([url], graph(color), { patience });
      expect(result.files.map(({ kind }) => kind)).toEqual(['image']);
    }
  });

  test.runIf(process.env.COMFYUI_CHECKPOINT)(
    'samples from words, with previews and progress of each step',
    async () => {
      const words = graphOf('sd_txt2img');
      words['1'].inputs.ckpt_name = process.env.COMFYUI_CHECKPOINT;
      words['5'].inputs = { ...words['5'].inputs, seed: String(anyNumber()), steps: 2 };
      Object.assign(words['4'].inputs, { width: 32, height: 32 });
      const { result, previews, progress } = await run([url], words, { patience });
      expect(result.files.map(({ kind }) => kind)).toEqual(['image']);
      expect((await recogniseFile(result.files[0].file))?.medium.id).toBe('image');
      expect(previews.length).toBeGreaterThan(0);
      expect(progress.at(-1)?.[0]).toBe(progress.at(-1)?.[1]);
    },
    600_000,
  );

  test.each([
    ['audio', ['audio', 'audio', 'audio', 'audio']],
    ['video', ['video', 'video', 'animated', 'animated']],
    ['misc', ['image', 'image', 'text', 'other']],
  ])('makes %s', async (name, kinds) => {
    const { result } = await run([url], graphOf(name), { patience });
    expect(result.files.map(({ kind }) => kind)).toEqual(kinds);
    for (const { file, kind } of result.files.filter((one) => one.kind !== 'other' && one.kind !== 'text')) {
      expect((await recogniseFile(file))?.medium.id).toBe(kind === 'animated' ? 'image' : kind);
    }
  });

  test('takes a picture that is given, and follows a job without a socket', async () => {
    const { files } = (await run([url], graph(anyNumber()), { patience })).result;
    const again: ComfyGraph = {
      '1': { class_type: 'LoadImage', inputs: { image: '' } },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'darkroom/again' } },
    };
    const engine = await pool([url], { patience, socket: null });
    expect((await engine.run(again, { '1.image': files[0].file })).files.map(({ kind }) => kind)).toEqual(['image']);
  });

  test('stops a job in the middle, and no other one', async () => {
    const controller = new AbortController();
    const jobs: string[] = [];
    const engine = await pool([url], { patience }, controller.signal);
    const stopped = failure(
      engine.run(
        slow(anyNumber()),
        {},
        {
          onAccepted: ({ promptId }) => jobs.push(promptId),
          onProgress: (done) => done > 2 && controller.abort(),
        },
      ),
    );
    expect(await stopped).toMatchObject({ code: 'cancelled' });
    await expect.poll(() => isThere(url, jobs[0]), { timeout: 60_000 }).toBe(false);
    const { result } = await run([url], graph(anyNumber()), { patience });
    expect(result.files).toHaveLength(1);
  });

  test('is surveyed, with a workflow as the editor saves it', async () => {
    const [{ ui }] = frontendPairs();
    const { graph: made, servers, choices } = await (await pool([url], { patience })).survey(ui);
    expect(Object.keys(made).length).toBeGreaterThan(0);
    expect(servers).toHaveLength(1);
    expect(Object.keys(choices).length).toBeGreaterThan(0);
  });

  test.runIf(other)(
    'shares jobs with another one',
    async () => {
      const results = await Promise.all(
        Array.from({ length: 6 }, () => run([url, other], slow(anyNumber(), 6), { patience })),
      );
      expect(new Set(results.map(({ result }) => result.server))).toEqual(new Set([url, other]));
      expect(new Set(results.map(({ result }) => result.promptId)).size).toBe(6);
    },
    300_000,
  );

  test.runIf(restart).each(other ? ['with another one', 'alone'] : ['alone'])(
    'is killed and restarted in the middle, %s',
    async (how) => {
      const accepted: string[] = [];
      let isKilled = false;
      const engine = await pool(how === 'alone' ? [url] : [url, other], { patience });
      const result = await engine.run(
        slow(anyNumber()),
        {},
        {
          onAccepted: ({ server }) => accepted.push(server),
          onProgress: (done) => {
            if (done > 2 && accepted.at(-1) === url && !isKilled) {
              isKilled = true;
              exec(restart);
            }
          },
        },
      );
      expect(result.files.map(({ kind }) => kind)).toEqual(['image', 'image']);
      expect(isKilled || accepted[0] === other).toBe(true);
      expect(accepted.length).toBe(isKilled ? 2 : 1);
    },
    600_000,
  );

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
