/** Engines behind an API, against servers that answer like the measured real ones: what each sends, reads, refuses, and never does. */
import { afterEach, describe, expect, test } from 'vitest';
import { StudioError } from '../src/core/errors.ts';
import { readRemoteModel, remoteModel } from '../src/core/remote.ts';
import type { RemoteServer, Usage } from '../src/core/remote.ts';
import type { TextDelta, TextRequest } from '../src/core/text_service.ts';
import { probeServer, signIn } from '../src/engines/engine.ts';
import type { EngineSurroundings } from '../src/engines/engine.ts';
import type { ServiceMeans } from '../src/engines/http/service.ts';
import type { MadePictures, PictureNews } from '../src/core/picture_service.ts';
import { webUi } from '../src/engines/automatic1111.ts';
import type { WebUiRequest } from '../src/engines/automatic1111.ts';
import { gemini } from '../src/engines/gemini.ts';
import { openAiImages } from '../src/engines/openai_images.ts';
import { textServiceOf } from '../src/engines/openai_chat.ts';
import { openRouter } from '../src/engines/openrouter.ts';
import { FakeService, drip, events, huge, inTurn, json, silence } from './fake_service.ts';
import type { Answering, Routes } from './fake_service.ts';

const KEY = 'sk-a-key-that-nobody-may-find';
const QUICK: ServiceMeans = { wait: 1 };

const started: FakeService[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((fake) => fake.stop()));
});

async function service(routes: Routes): Promise<FakeService> {
  const fake = await FakeService.start(routes);
  started.push(fake);
  return fake;
}

interface Around extends EngineSurroundings {
  usage: Usage[];
}

function around(
  server: Partial<RemoteServer> & Pick<RemoteServer, 'engine' | 'address'>,
  options: { key?: string | null; signal?: AbortSignal } = {},
): Around {
  const { key = KEY, signal = new AbortController().signal } = options;
  const usage: Usage[] = [];
  return {
    servers: () => Promise.resolve([{ id: 'one', settings: {}, hasKey: key !== null, ...server }]),
    secret: (name) =>
      name === 'server:one' && key !== null ? Promise.resolve(key) : Promise.reject(new Error('no key')),
    used: (_, took) => usage.push(took),
    signal,
    usage,
  };
}

async function failure(promise: Promise<unknown>): Promise<StudioError> {
  return promise.then(
    () => {
      throw new Error('It did not fail.');
    },
    (error: unknown) => StudioError.from(error),
  );
}

/** The form of every refusal and failure, whatever its source. */
function expectSentence({ message }: StudioError): void {
  expect(message).toMatch(/^[^\n]+\.$/);
  expect(message).not.toMatch(/undefined|\[object|NaN/);
  expect(message).not.toContain(KEY);
}

describe('a language model on a server', () => {
  const CHAT = 'POST /v1/chat/completions';
  const said = (content: string, more: object = {}) => ({
    choices: [{ index: 0, delta: { content }, finish_reason: null, ...more }],
  });
  const stop = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] };
  const usage = { choices: [], usage: { prompt_tokens: 12, completion_tokens: 3, total_tokens: 15 } };
  const OLLAMA = [said('A red '), said('apple.'), stop, usage, 'data: [DONE]'];

  async function write(answer: Answering, request: Partial<TextRequest> = {}, signal?: AbortSignal, means = QUICK) {
    const fake = await service({ [CHAT]: answer });
    const address = `${fake.url}/v1`;
    const surroundings = around({ engine: 'openai_chat', address }, { signal });
    const deltas: TextDelta[] = [];
    const result = textServiceOf(surroundings, means).generate(
      {
        model: remoteModel({ engine: 'openai_chat', address, model: 'qwen3:8b' }),
        messages: [{ role: 'user', content: 'an apple' }],
        max_new_tokens: 300,
        temperature: 0.7,
        seed: '42',
        ...request,
      },
      (delta) => deltas.push(delta),
      surroundings.signal,
    );
    result.catch(() => undefined);
    return { fake, deltas, result, usage: surroundings.usage };
  }

  test('writes, tells its words as they come, and what it took', async () => {
    const { fake, deltas, result, usage: took } = await write(events(OLLAMA));
    expect(await result).toMatchObject({
      text: 'A red apple.',
      thinking: '',
      finish: 'stop',
      tokens: { prompt: 12, generated: 3 },
    });
    expect(deltas.map(({ text }) => text)).toEqual(['A red ', 'apple.']);
    expect(took).toEqual([{ input: 12, output: 3 }]);
    const [sent] = fake.sentTo('/v1/chat/completions');
    expect(sent).toEqual({
      model: 'qwen3:8b',
      messages: [{ role: 'user', content: 'an apple' }],
      stream: true,
      temperature: 0.7,
      seed: 42,
      max_tokens: 300,
      stream_options: { include_usage: true },
    });
    expect(fake.heard.map(({ headers }) => headers.authorization)).toEqual([`Bearer ${KEY}`]);
    // Preflights of compatible servers refuse any other header.
    expect(Object.keys(fake.heard[0].headers).filter((name) => /^x-/.test(name))).toEqual([]);
  });

  test.each([
    ['reasoning_content', [{ choices: [{ delta: { reasoning_content: 'Hm.' } }] }, said('Yes.'), stop]],
    ['reasoning', [{ choices: [{ delta: { reasoning: 'Hm.', content: '' } }] }, said('Yes.'), stop]],
    ['marks', [said('<th'), said('ink>Hm.</thi'), said('nk>\n\nYes.'), stop]],
  ])('tells thoughts from the answer by %s', async (_, list) => {
    const { deltas, result } = await write(events(list));
    expect(await result).toMatchObject({ text: 'Yes.', thinking: 'Hm.' });
    expect(deltas.map(({ thinking }) => thinking)).toEqual([true, false]);
  });

  test('takes an answer in one piece, an answer that was cut off, and events that are split anywhere', async () => {
    const whole = {
      choices: [{ message: { role: 'assistant', content: 'Yes.' }, finish_reason: 'length' }],
      usage: { prompt_tokens: 1, completion_tokens: 2 },
    };
    expect(await (await write(json(200, whole))).result).toMatchObject({ text: 'Yes.', finish: 'length' });
    const bytes = Buffer.from(
      `: PROCESSING\n\ndata: ${JSON.stringify(said('Grün'))}\r\n\r\ndata: ${JSON.stringify(stop)}`,
    );
    const inBytes: Answering = (response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
      bytes.forEach((byte) => response.write(Buffer.from([byte])));
      response.end();
    };
    expect(await (await write(inBytes)).result).toMatchObject({ text: 'Grün' });
  });

  test('learns what a server does not take from its refusal, once', async () => {
    const refuses = (param: string, hint = '') =>
      json(400, {
        error: {
          message: `Unsupported parameter: '${param}' is not supported with this model.${hint}`,
          type: 'invalid_request_error',
          param,
          code: 'unsupported_parameter',
        },
      });
    const { fake, result } = await write(
      inTurn(
        refuses('max_tokens', " Use 'max_completion_tokens' instead."),
        refuses('stream_options'),
        events([said('Yes.'), stop]),
      ),
    );
    expect(await result).toMatchObject({ text: 'Yes.' });
    expect(
      fake
        .sentTo('/v1/chat/completions')
        .map((sent) => Object.keys(sent as object).filter((name) => /max|options/.test(name))),
    ).toEqual([
      ['max_tokens', 'stream_options'],
      ['max_completion_tokens', 'stream_options'],
      ['max_completion_tokens'],
    ]);
  });

  test('asks a busy server again, and one whose model is still being loaded', async () => {
    const loading = json(503, { error: { code: 503, message: 'Loading model', type: 'unavailable_error' } });
    const { fake, result } = await write(inTurn(loading, loading, events(OLLAMA)));
    expect(await result).toMatchObject({ text: 'A red apple.' });
    expect(fake.heard).toHaveLength(3);
  });

  test.each<[string, Answering, StudioError['code'], RegExp]>([
    [
      'a model that is not there',
      json(404, { error: { message: 'model "qwen3:8b" not found, try pulling it first', type: 'api_error' } }),
      'invalid_operation',
      /has no model "qwen3:8b"/,
    ],
    [
      'a wrong key',
      json(401, { error: { message: `Incorrect API key provided: ${KEY}.`, code: 'invalid_api_key' } }),
      'invalid_operation',
      /does not take this key/,
    ],
    [
      'words that do not fit',
      json(400, {
        error: {
          code: 400,
          message: 'the request exceeds the available context size',
          type: 'exceed_context_size_error',
          n_ctx: 4096,
        },
      }),
      'context_too_long',
      /longer than what/,
    ],
    [
      'want of memory',
      json(500, { error: { message: 'CUDA error: out of memory' } }),
      'out_of_memory',
      /ran out of memory/,
    ],
    [
      'a failure in the stream',
      events([said('A'), { error: { message: 'llama runner process has terminated', code: 500 } }]),
      'origin_unavailable',
      /llama runner process/,
    ],
    [
      'a held-back answer',
      events([{ choices: [{ delta: {}, finish_reason: 'content_filter' }] }]),
      'invalid_operation',
      /holds its answer back/,
    ],
    [
      'no language server',
      (response) => void response.writeHead(200, { 'Content-Type': 'text/html' }).end('<html>'),
      'result_invalid',
      /no language server/,
    ],
  ])('refuses in one sentence: %s', async (_, answer, code, sentence) => {
    const { fake, result, usage: took } = await write(answer);
    const error = await failure(result);
    expectSentence(error);
    expect(error).toMatchObject({ code });
    expect(error.message).toMatch(sentence);
    expect(fake.heard).toHaveLength(1);
    expect(took).toEqual([]);
  });

  test('is not asked again when its answer broke off', async () => {
    const { fake, result } = await write(events([said('A red')], 'cut'));
    const error = await failure(result);
    expect(error).toMatchObject({ code: 'origin_unavailable', retry: 'same' });
    expect(error.message).toMatch(/broke off; it may have made and charged/);
    expect(fake.heard).toHaveLength(1);
  });

  test('is stopped by closing its connection', async () => {
    const controller = new AbortController();
    let isClosed = false;
    const { deltas, result } = await write(
      (response, heard) => {
        response.on('close', () => (isClosed = true));
        events([said('A')], 'hold')(response, heard);
      },
      {},
      controller.signal,
    );
    await expect.poll(() => deltas.length).toBe(1);
    controller.abort();
    expect(await failure(result)).toMatchObject({ code: 'cancelled' });
    await expect.poll(() => isClosed).toBe(true);
  });

  test('takes nothing that servers do not take, and says so', async () => {
    expect((await failure((await write(silence, { top_k: 40 })).result)).message).toContain('top_k');
    expect((await failure((await write(silence, { seed: '99999999999' })).result)).message).toContain(
      'seed must be at most',
    );
  });

  test('is named by its address, and nothing else is taken for one', () => {
    const named = { engine: 'openai_chat', address: 'http://127.0.0.1:11434/v1', model: 'qwen3:8b#x' };
    expect(readRemoteModel(remoteModel(named))).toEqual(named);
    for (const ref of ['hub:org/name@0123', 'url:https://host/file.safetensors#q8', 'folder:x', '']) {
      expect(readRemoteModel(ref)).toBeNull();
    }
  });

  test('that is not on the list is not asked', async () => {
    const fake = await service({});
    const stranger = await service({ [CHAT]: events(OLLAMA) });
    const surroundings = around({ engine: 'openai_chat', address: `${fake.url}/v1` });
    const asked = textServiceOf(surroundings, QUICK).generate(
      { model: `openai_chat@${stranger.url}/v1#m`, messages: [], max_new_tokens: 1, temperature: 0, seed: '1' },
      () => undefined,
      surroundings.signal,
    );
    expect((await failure(asked)).message).toBe(
      `${stranger.url}/v1 is not entered; enter it under "Engines", then try again.`,
    );
    expect(stranger.heard).toEqual([]);
  });

  test('is probed', async () => {
    const models = (...ids: string[]) =>
      json(200, { object: 'list', data: ids.map((id) => ({ id, object: 'model' })) });
    const fake = await service({ 'GET /v1/models': models('qwen3:8b', 'llama3.2') });
    const ask = (address: string, key: string | null = null) =>
      probeServer(
        { id: 'one', engine: 'openai_chat', address, settings: {}, hasKey: key !== null },
        { key, origin: 'http://localhost:5173', signal: new AbortController().signal },
      );
    expect(await ask(`${fake.url}/v1`)).toEqual({
      isUp: true,
      sentence: 'The language server answers.',
      models: ['qwen3:8b', 'llama3.2'],
    });
    expect((await ask(fake.url)).sentence).toContain('most likely ends with /v1');
    fake.routes = { 'GET /v1/models': models() };
    expect(await ask(`${fake.url}/v1`)).toMatchObject({
      isUp: false,
      sentence: 'The language server answers and has no model yet; get one there, then look again.',
    });
    fake.routes = { 'GET /v1/models': json(401, { error: { message: `Invalid key ${KEY}` } }) };
    expect((await ask(`${fake.url}/v1`, KEY)).sentence).toMatch(/does not take this key/);
    fake.routes = { 'GET /v1/models': (response) => void response.writeHead(200).end('<html>') };
    expect((await ask(`${fake.url}/v1`)).sentence).toContain('is no language server');
    await fake.stop();
    started.length = 0;
    expect((await ask(`${fake.url}/v1`)).sentence).toContain('Nothing answers at');
  });
});

/** One pixel. */
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const picture = () => new Blob([Buffer.from(PNG, 'base64')], { type: 'image/png' });

/** Requests of the suite that all picture engines go through. */
interface Kind {
  id: string;
  /** Below the server's origin. */
  base: string;
  /** Of a request from words alone. */
  route: string;
  /** The service's answer with a picture, and the usage it reports. */
  done: Answering;
  usage: Usage;
  sentKey: (headers: Record<string, unknown>) => unknown;
  make: (
    around: EngineSurroundings,
    news: PictureNews,
    means: ServiceMeans,
    given?: { images?: Blob[] },
  ) => Promise<MadePictures>;
}

const common = { prompt: 'a red apple', images: [], mask: undefined, model: 'some-model', server: undefined };
const openAiDone = {
  created: 1,
  data: [{ b64_json: PNG, revised_prompt: 'A red apple.' }],
  usage: { input_tokens: 9, output_tokens: 272, total_tokens: 281 },
};
const webUiRequest: WebUiRequest = {
  ...common,
  negative_prompt: 'blur',
  strength: 0.5,
  width: 64,
  height: 64,
  steps: 4,
  guidance_scale: 7,
  seed: '42',
  batch_size: 1,
};
const bearer = (headers: Record<string, unknown>) => headers.authorization;

const KINDS: Kind[] = [
  {
    id: 'automatic1111',
    base: '',
    route: '/sdapi/v1/txt2img',
    done: json(200, {
      images: [PNG],
      parameters: {},
      info: JSON.stringify({ all_seeds: [42], sd_model_name: 'v1-5' }),
    }),
    usage: {},
    sentKey: bearer,
    make: (surroundings, news, means, given) =>
      webUi(surroundings, { ...means, poll: 5 }).make({ ...webUiRequest, ...given }, news),
  },
  {
    id: 'openai_images',
    base: '/v1',
    route: '/v1/images/generations',
    done: json(200, openAiDone),
    usage: { input: 9, output: 272 },
    sentKey: bearer,
    make: (surroundings, news, means, given) =>
      openAiImages(surroundings, means).make({ ...common, n: 1, partial_images: 0, ...given }, news),
  },
  {
    id: 'gemini',
    base: '/v1beta',
    route: '/v1beta/models/some-model:generateContent',
    done: json(200, {
      candidates: [
        {
          content: {
            parts: [
              { thought: true, inlineData: { mimeType: 'image/png', data: 'AAAA' } },
              { text: 'Here it is.' },
              { inlineData: { mimeType: 'image/png', data: PNG }, thoughtSignature: 'x' },
            ],
          },
          finishReason: 'STOP',
        },
      ],
      usageMetadata: { promptTokenCount: 9, candidatesTokenCount: 200, thoughtsTokenCount: 72 },
    }),
    usage: { input: 9, output: 272 },
    sentKey: ({ 'x-goog-api-key': key }) => (typeof key === 'string' ? `Bearer ${key}` : undefined),
    make: (surroundings, news, means, given) => gemini(surroundings, means).make({ ...common, ...given }, news),
  },
  {
    id: 'openrouter',
    base: '/api/v1',
    route: '/api/v1/images',
    done: json(200, { ...openAiDone, usage: { prompt_tokens: 9, completion_tokens: 272, cost: 0.04 } }),
    usage: { input: 9, output: 272, cost: 0.04 },
    sentKey: bearer,
    make: (surroundings, news, means, given) =>
      openRouter(surroundings, means).make({ ...common, n: 1, ...given }, news),
  },
];

interface Told {
  previews: Blob[];
  waits: number[];
  /** `sent` and `refused`, in order. */
  turns: string[];
}

async function askFor(
  kind: Kind,
  answer: Answering,
  options: {
    key?: string | null;
    signal?: AbortSignal;
    means?: ServiceMeans;
    given?: { images?: Blob[] };
    routes?: Routes;
  } = {},
) {
  const fake = await service({ [`POST ${kind.route}`]: answer, ...options.routes });
  const surroundings = around({ engine: kind.id, address: `${fake.url}${kind.base}` }, options);
  const told: Told = { previews: [], waits: [], turns: [] };
  const made = kind.make(
    surroundings,
    {
      onSent: () => told.turns.push('sent'),
      onRefused: () => told.turns.push('refused'),
      onWaiting: (seconds) => told.waits.push(seconds),
      onProgress: () => undefined,
      onPreview: (one) => told.previews.push(one),
    },
    options.means ?? QUICK,
    options.given,
  );
  made.catch(() => undefined);
  /** The requests that cost. */
  const asked = () => fake.heard.filter(({ method, path }) => method === 'POST' && path === kind.route);
  return { fake, made, told, asked, usage: surroundings.usage };
}

describe.each(KINDS)('pictures of $id', (kind) => {
  test('come as they were made, with what they took, and the key in a header alone', async () => {
    const { fake, made, asked, usage, told } = await askFor(kind, kind.done);
    const { pictures, server } = await made;
    expect(pictures).toHaveLength(1);
    expect(Buffer.from(await pictures[0].file.arrayBuffer()).toString('base64')).toBe(PNG);
    expect(server).toBe(`${fake.url}${kind.base}`);
    expect(usage).toEqual([kind.usage]);
    expect(told.turns).toEqual(['sent']);
    expect(kind.sentKey(asked()[0].headers)).toBe(`Bearer ${KEY}`);
    expect(fake.heard.filter(({ path, body }) => path.includes(KEY) || body.includes(KEY))).toEqual([]);
    expect(asked()[0].body.toString()).toContain('a red apple');
  });

  test.each<[string, number, object, StudioError['code'], RegExp]>([
    [
      'a key that expired',
      401,
      { error: { message: `Key ${KEY} expired` } },
      'invalid_operation',
      /does not take this key/,
    ],
    [
      'no credit',
      402,
      { error: { code: 402, message: 'Insufficient credits' } },
      'origin_unavailable',
      /add credit or raise the limit/,
    ],
    ['too large a request', 413, {}, 'invalid_operation', /no request of this size/],
    [
      'what it does not allow',
      403,
      { error: { message: 'Not for your region' } },
      'invalid_operation',
      /does not allow this \(Not for your region\)/,
    ],
    [
      'a failure of its own',
      500,
      { error: { message: `It broke\nwith ${KEY}.` } },
      'origin_unavailable',
      /failed \(500: It broke with …\)/,
    ],
    [
      'values that it does not take',
      422,
      { detail: [{ loc: ['body', 'steps'], msg: 'too many' }] },
      'invalid_operation',
      /steps: too many/,
    ],
  ])('are refused in one sentence: %s', async (_, status, body, code, sentence) => {
    const { made, asked, usage, told } = await askFor(kind, json(status, body));
    const error = await failure(made);
    expectSentence(error);
    expect(error).toMatchObject({ code });
    expect(error.message).toMatch(sentence);
    expect(asked()).toHaveLength(1);
    expect(told.turns).toEqual(['sent', 'refused']);
    expect(usage).toEqual([]);
  });

  test('are asked for again only where the service is busy, when it says or a little later each time', async () => {
    const busy = json(429, { error: { message: 'Slow down', code: 'rate_limit_exceeded' } }, { 'retry-after-ms': '3' });
    const first = await askFor(kind, inTurn(busy, json(503, { error: { message: 'Overloaded' } }), kind.done));
    expect((await first.made).pictures).toHaveLength(1);
    expect(first.told.turns).toEqual(['sent', 'refused', 'sent', 'refused', 'sent']);
    expect(first.told.waits).toEqual([1, 1]);

    const always = await askFor(kind, json(429, { error: { message: 'Slow down', code: 'rate_limit_exceeded' } }));
    const error = await failure(always.made);
    expectSentence(error);
    expect(error.message).toContain('takes no more requests for now');
    expect(always.asked()).toHaveLength(4);

    // Asked to wait an hour, the person is left to try again.
    const later = await askFor(kind, json(429, { error: { message: 'Later' } }, { 'retry-after': '3600' }));
    expect((await failure(later.made)).message).toContain('takes no more requests for now');
    expect(later.asked()).toHaveLength(1);
  });

  test('that broke off are not asked for again', async () => {
    const cut = await askFor(kind, (response) => {
      response.writeHead(200, { 'Content-Type': 'application/json' });
      response.write('{"data":[', () => response.destroy());
    });
    const error = await failure(cut.made);
    expect(error).toMatchObject({ code: 'origin_unavailable', retry: 'same' });
    expect(error.message).toContain('broke off');
    expect(cut.asked()).toHaveLength(1);
  });

  test('that drip, or never end, or are none, end in a sentence', async () => {
    const slow = await askFor(kind, drip('application/json', 10), { means: { patience: { trickle: 60 } } });
    expect((await failure(slow.made)).message).toContain('broke off');
    const large = await askFor(kind, huge('application/json', 200 * 2 ** 20));
    expect(await failure(large.made)).toMatchObject({ code: 'result_invalid' });
    const none = await askFor(kind, json(200, { data: [], images: [], candidates: [] }));
    const error = await failure(none.made);
    expectSentence(error);
    expect(error).toMatchObject({ code: 'result_invalid' });
    const silent = await askFor(kind, silence, { means: { patience: { answer: 60 } } });
    expect((await failure(silent.made)).message).toContain('gave this page no answer that it may read');
  });

  test('are cancelled by letting go of the request', async () => {
    const controller = new AbortController();
    let isClosed = false;
    const { made, asked } = await askFor(kind, (response) => response.on('close', () => (isClosed = true)), {
      signal: controller.signal,
    });
    await expect.poll(() => asked().length).toBe(1);
    controller.abort();
    expect(await failure(made)).toMatchObject({ code: 'cancelled' });
    await expect.poll(() => isClosed).toBe(true);
  });

  test('are asked of nobody where nothing is entered', async () => {
    const surroundings = {
      ...around({ engine: kind.id, address: 'http://127.0.0.1:1' }),
      servers: () => Promise.resolve([]),
    };
    const news: PictureNews = {
      onSent: () => undefined,
      onRefused: () => undefined,
      onWaiting: () => undefined,
      onProgress: () => undefined,
      onPreview: () => undefined,
    };
    expect((await failure(kind.make(surroundings, news, QUICK))).message).toMatch(
      /is not entered; enter it under "Engines"/,
    );
  });
});

const [WEB_UI, OPENAI, GEMINI, OPENROUTER] = KINDS;

describe.each([WEB_UI, OPENAI])('two servers of $id', (kind) => {
  /** Answers once `release` is called. */
  function held() {
    const waiting: (() => void)[] = [];
    const answer: Answering = (response, heard) => waiting.push(() => kind.done(response, heard));
    return { answer, release: () => waiting.splice(0).forEach((give) => give()), waiting };
  }

  async function pool(one: Answering, other: Answering) {
    const fakes = [await service({ [`POST ${kind.route}`]: one }), await service({ [`POST ${kind.route}`]: other })];
    const addresses = fakes.map(({ url }) => `${url}${kind.base}`);
    const surroundings: EngineSurroundings = {
      ...around({ engine: kind.id, address: addresses[0] }),
      servers: () =>
        Promise.resolve(
          addresses.map((address, at) => ({ id: `${at}`, engine: kind.id, address, settings: {}, hasKey: false })),
        ),
    };
    const told: string[] = [];
    const make = (given: object = {}) => {
      const made = kind.make(
        surroundings,
        {
          onSent: () => told.push('sent'),
          onRefused: () => told.push('refused'),
          onWaiting: () => told.push('waits'),
          onProgress: () => undefined,
          onPreview: () => undefined,
          onServer: (server) => told.push(server),
          onHandedOn: () => told.push('handed on'),
        },
        QUICK,
        given,
      );
      made.catch(() => undefined);
      return made;
    };
    const asked = () => fakes.map(({ heard }) => heard.filter(({ path }) => path === kind.route).length);
    return { fakes, addresses, make, told, asked };
  }

  test('make one job each at once, and one that is named makes all', async () => {
    const [one, other] = [held(), held()];
    const { make, asked, addresses } = await pool(one.answer, other.answer);
    const both = [make(), make()];
    await expect.poll(asked).toEqual([1, 1]);
    one.release();
    other.release();
    expect((await Promise.all(both)).map(({ server }) => server).sort()).toEqual([...addresses].sort());
    const named = [make({ server: addresses[1] }), make({ server: addresses[1] })];
    await expect.poll(asked).toEqual([1, 3]);
    other.release();
    await Promise.all(named);
  });

  test('take a job from one that is gone or too busy to begin, and from none that accepted it', async () => {
    const { make, asked, told, addresses, fakes } = await pool(json(503, { error: { message: 'full' } }), kind.done);
    expect(await make()).toMatchObject({ server: addresses[1] });
    expect(told).toEqual([addresses[0], 'sent', 'refused', 'handed on', addresses[1], 'sent']);
    expect(asked()).toEqual([1, 1]);

    fakes[0].routes = { [`POST ${kind.route}`]: (response) => response.destroy() };
    expect((await failure(make())).code).toBe('origin_unavailable');
    expect(asked()).toEqual([2, 1]);

    await fakes[0].stop();
    expect(await make()).toMatchObject({ server: addresses[1] });
    await fakes[1].stop();
    expect((await failure(make())).message).toMatch(/does not answer; see that it runs/);
  });

  test('that are all too busy are waited for', async () => {
    const busy = json(503, { error: { message: 'full' } });
    const { make, told } = await pool(busy, inTurn(busy, kind.done));
    await make();
    expect(told.filter((one) => !one.startsWith('http'))).toEqual([
      'sent',
      'refused',
      'handed on',
      'sent',
      'refused',
      'waits',
      'sent',
    ]);
  });
});

describe('AUTOMATIC1111', () => {
  const progress = (active: boolean, more: object = {}) =>
    json(200, {
      active,
      queued: !active,
      progress: 0.5,
      live_preview: `data:image/jpeg;base64,${PNG}`,
      id_live_preview: 1,
      ...more,
    });

  test('is sent its own names, a picture and a mask', async () => {
    const fake = await service({ 'POST /sdapi/v1/img2img': WEB_UI.done });
    const news: PictureNews = {
      onSent: () => undefined,
      onRefused: () => undefined,
      onWaiting: () => undefined,
      onProgress: () => undefined,
      onPreview: () => undefined,
    };
    const made = await webUi(around({ engine: 'automatic1111', address: fake.url }, { key: 'user:password' }), {
      poll: 5,
      newId: () => 'id',
    }).make({ ...webUiRequest, images: [picture()], mask: picture(), sampler: 'Euler a' }, news);
    expect(made).toMatchObject({ model: 'v1-5', pictures: [{ says: { seed: '42' } }] });
    expect(fake.sentTo('/sdapi/v1/img2img')).toEqual([
      {
        prompt: 'a red apple',
        negative_prompt: 'blur',
        steps: 4,
        cfg_scale: 7,
        width: 64,
        height: 64,
        seed: 42,
        batch_size: 1,
        force_task_id: 'darkroom-id',
        sampler_name: 'Euler a',
        override_settings: { sd_model_checkpoint: 'some-model' },
        init_images: [PNG],
        denoising_strength: 0.5,
        mask: PNG,
        inpainting_fill: 1,
        inpaint_full_res: false,
      },
    ]);
    expect(fake.heard[0].headers.authorization).toBe(`Basic ${btoa('user:password')}`);
  });

  test('shows previews of this job, and interrupts it, and no other', async () => {
    const controller = new AbortController();
    const routes: Routes = {
      'POST /internal/progress': inTurn(progress(false), progress(true)),
      'POST /sdapi/v1/interrupt': json(200, {}),
    };
    const { fake, made, told } = await askFor(WEB_UI, silence, { signal: controller.signal, routes });
    await expect.poll(() => told.previews.length).toBe(1);
    controller.abort();
    expect(await failure(made)).toMatchObject({ code: 'cancelled' });
    await expect.poll(() => fake.heard.filter(({ path }) => path === '/sdapi/v1/interrupt').length).toBe(1);

    const other = new AbortController();
    // A server without job ids that was already busy: its work may be somebody else's.
    const busy: Routes = {
      'GET /sdapi/v1/progress': json(200, { progress: 0.3, current_image: PNG }),
      'POST /sdapi/v1/interrupt': json(200, {}),
    };
    const job = await askFor(WEB_UI, silence, { signal: other.signal, routes: busy });
    await expect
      .poll(() => job.fake.heard.filter(({ path }) => path.startsWith('/sdapi/v1/progress')).length)
      .toBeGreaterThan(3);
    other.abort();
    expect(await failure(job.made)).toMatchObject({ code: 'cancelled' });
    expect(job.told.previews).toEqual([]);
    expect(job.fake.heard.filter(({ path }) => path === '/sdapi/v1/interrupt')).toEqual([]);
  });

  test('says that it has no API, no memory, no such sampler', async () => {
    const refusal = async (status: number, body: object) => failure((await askFor(WEB_UI, json(status, body))).made);
    expect((await refusal(404, { detail: 'Not Found' })).message).toContain('start it with --api');
    expect(
      await refusal(500, { error: 'OutOfMemoryError', detail: '', body: '', errors: 'CUDA out of memory. Tried …' }),
    ).toMatchObject({ code: 'out_of_memory' });
    expect((await refusal(400, { detail: 'Sampler not found' })).message).toContain('Sampler not found');
  });
});

describe('OpenAI', () => {
  const partial = (at: number) => ({ type: 'image_generation.partial_image', b64_json: PNG, partial_image_index: at });
  const completed = {
    type: 'image_generation.completed',
    b64_json: PNG,
    usage: { input_tokens: 9, output_tokens: 300 },
  };
  const streamed = {
    ...OPENAI,
    make: ((surroundings, news, means) =>
      openAiImages(surroundings, means).make({ ...common, n: 1, partial_images: 2 }, news)) as Kind['make'],
  };

  test('shows drafts while a picture is made', async () => {
    const { fake, made, told, usage } = await askFor(streamed, events([partial(0), ': keep', partial(1), completed]));
    expect((await made).pictures).toHaveLength(1);
    expect(told.previews).toHaveLength(2);
    expect(usage).toEqual([{ input: 9, output: 300 }]);
    expect(fake.sentTo(OPENAI.route)).toEqual([
      { model: 'some-model', prompt: 'a red apple', n: 1, stream: true, partial_images: 2 },
    ]);
  });

  test.each<[string, Answering, RegExp]>([
    [
      'moderation',
      json(400, {
        error: {
          message: 'Your request was rejected. safety_violations=[violence].',
          type: 'image_generation_user_error',
          code: 'moderation_blocked',
        },
      }),
      /does not make this \(.*violence/,
    ],
    [
      'quota',
      json(429, { error: { message: 'You exceeded your current quota', code: 'insufficient_quota' } }),
      /add credit or raise the limit/,
    ],
    [
      'billing',
      json(400, { error: { message: 'Billing hard limit has been reached', code: 'billing_hard_limit_reached' } }),
      /add credit or raise the limit/,
    ],
    [
      'an organization that is not verified',
      json(403, { error: { message: 'Your organization must be verified to use the model' } }),
      /verified organizations only/,
    ],
    [
      'a model that was shut down',
      json(404, { error: { message: 'The model `gpt-image-1` does not exist', code: 'model_not_found' } }),
      /no such model, or no longer/,
    ],
    [
      'a failure in the stream',
      events([partial(0), { type: 'error', error: { message: 'The server had an error', code: 'server_error' } }]),
      /failed \(500: The server had an error\)/,
    ],
    [
      'an address in place of a picture',
      json(200, { data: [{ url: 'https://elsewhere.example/picture.png' }] }),
      /not followed/,
    ],
  ])('is understood when it refuses: %s', async (_, answer, sentence) => {
    const { made, asked } = await askFor(streamed, answer);
    const error = await failure(made);
    expectSentence(error);
    expect(error.message).toMatch(sentence);
    expect(asked()).toHaveLength(1);
  });

  test('gets pictures and a mask as a form', async () => {
    const fake = await service({ 'POST /v1/images/edits': OPENAI.done });
    const news: PictureNews = {
      onSent: () => undefined,
      onRefused: () => undefined,
      onWaiting: () => undefined,
      onProgress: () => undefined,
      onPreview: () => undefined,
    };
    await openAiImages(around({ engine: 'openai_images', address: `${fake.url}/v1` }), {
      transparentMask: () => Promise.resolve(new Blob(['mask'])),
    }).make(
      {
        ...common,
        images: [picture(), picture()],
        mask: picture(),
        n: 1,
        partial_images: 0,
        quality: 'high',
        moderation: 'low',
      },
      news,
    );
    const [{ headers, body }] = fake.heard;
    expect(headers['content-type']).toMatch(/^multipart\/form-data; boundary=/);
    const names = [...body.toString('latin1').matchAll(/name="([^"]*)"(?:; filename="([^"]*)")?/g)].map(
      ([, name, file]) => (file ? `${name} ${file}` : name),
    );
    expect(names).toEqual(['model', 'prompt', 'n', 'quality', 'image[] 1.png', 'image[] 2.png', 'mask mask.png']);
  });
});

describe('Gemini', () => {
  test('gets pictures, aspect and size, and its drafts are left out', async () => {
    const kind = {
      ...GEMINI,
      make: ((surroundings, news, means) =>
        gemini(surroundings, means).make(
          { ...common, images: [picture()], aspect_ratio: '16:9', image_size: '2K' },
          news,
        )) as Kind['make'],
    };
    const { fake, made } = await askFor(kind, GEMINI.done);
    expect((await made).pictures[0].says).toEqual({ text: 'Here it is.' });
    expect(fake.sentTo(GEMINI.route)).toEqual([
      {
        contents: [
          { role: 'user', parts: [{ text: 'a red apple' }, { inlineData: { mimeType: 'image/png', data: PNG } }] },
        ],
        generationConfig: {
          responseModalities: ['TEXT', 'IMAGE'],
          imageConfig: { aspectRatio: '16:9', imageSize: '2K' },
        },
      },
    ]);
  });

  test.each<[string, object, RegExp]>([
    [
      'a prompt that it does not take',
      { promptFeedback: { blockReason: 'PROHIBITED_CONTENT' } },
      /does not take these words or pictures \(PROHIBITED_CONTENT\)/,
    ],
    [
      'a picture that is held back',
      { candidates: [{ finishReason: 'IMAGE_SAFETY', finishMessage: 'Unsafe.' }] },
      /held it back as unsafe \(Unsafe\)/,
    ],
    [
      'what it may not make',
      { candidates: [{ finishReason: 'IMAGE_PROHIBITED_CONTENT' }] },
      /not allowed to make this/,
    ],
    ['what exists', { candidates: [{ finishReason: 'IMAGE_RECITATION' }] }, /too much like one that exists/],
    [
      'too long a thought',
      { candidates: [{ finishReason: 'MAX_TOKENS', content: { parts: [{ text: 'x', thought: true }] } }] },
      /used all of its tokens/,
    ],
    [
      'words alone',
      { candidates: [{ finishReason: 'STOP', content: { parts: [{ text: 'Which apple?' }] } }] },
      /without a picture \(Which apple\?\)/,
    ],
    ['no reason', { candidates: [{ finishReason: 'IMAGE_OTHER' }] }, /does not say more than IMAGE_OTHER/],
  ])('explains every kind of no picture: %s', async (_, answer, sentence) => {
    const { made, usage } = await askFor(GEMINI, json(200, { ...answer, usageMetadata: { promptTokenCount: 5 } }));
    const error = await failure(made);
    expectSentence(error);
    expect(error.message).toMatch(sentence);
    // It is charged anyway.
    expect(usage).toEqual([{ input: 5, output: 0 }]);
  });

  test('waits as long as it says in its own words, and not for a quota that is none', async () => {
    const said = (details: object[]) =>
      json(429, {
        error: { code: 429, message: 'You exceeded your current quota.', status: 'RESOURCE_EXHAUSTED', details },
      });
    const waited = await askFor(GEMINI, inTurn(said([{ '@type': 'RetryInfo', retryDelay: '0.01s' }]), GEMINI.done));
    expect((await waited.made).pictures).toHaveLength(1);
    const none = await askFor(GEMINI, said([]));
    expect((await failure(none.made)).message).toContain('add credit or raise the limit');
    const key = await askFor(
      GEMINI,
      json(400, {
        error: {
          code: 400,
          message: 'API key not valid.',
          status: 'INVALID_ARGUMENT',
          details: [{ reason: 'API_KEY_INVALID' }],
        },
      }),
    );
    expect((await failure(key.made)).message).toContain('does not take this key');
  });

  test('takes 20 MB at once', async () => {
    const { made, asked } = await askFor(GEMINI, GEMINI.done, {
      given: { images: [new Blob([new Uint8Array(16 * 2 ** 20)])] },
    });
    expect((await failure(made)).message).toContain('takes 20 MB at once');
    expect(asked()).toEqual([]);
  });
});

describe('OpenRouter', () => {
  test('passes pictures on, streams, and says why it does not', async () => {
    const completed = {
      type: 'image_generation.completed',
      b64_json: PNG,
      usage: { prompt_tokens: 9, completion_tokens: 2, cost: 0.01 },
    };
    const { fake, made, usage } = await askFor(OPENROUTER, events([': OPENROUTER PROCESSING', completed]), {
      given: { images: [picture()] },
    });
    expect((await made).pictures).toHaveLength(1);
    expect(usage).toEqual([{ input: 9, output: 2, cost: 0.01 }]);
    expect(fake.sentTo(OPENROUTER.route)).toEqual([
      {
        model: 'some-model',
        prompt: 'a red apple',
        n: 1,
        input_references: [{ type: 'image_url', image_url: { url: `data:image/png;base64,${PNG}` } }],
        stream: true,
      },
    ]);
    const blocked = await askFor(
      OPENROUTER,
      json(403, { error: { code: 403, message: 'Flagged', metadata: { reasons: ['violence'], flagged_input: 'x' } } }),
    );
    expect((await failure(blocked.made)).message).toContain('does not make this (violence)');
    const inStream = await askFor(OPENROUTER, events([{ error: { code: 529, message: 'Overloaded' } }]));
    expect((await failure(inStream.made)).message).toContain('takes no more requests for now');
    expect(inStream.asked()).toHaveLength(1);
  });

  test('gives a key to who signed in', async () => {
    const fake = await service({
      'POST /api/v1/auth/keys': inTurn(json(200, { key: KEY }), json(403, { error: 'Invalid code' })),
    });
    const server = { id: 'one', engine: 'openrouter', address: `${fake.url}/api/v1`, settings: {}, hasKey: false };
    const proof = { code: 'code', verifier: 'verifier' };
    const { signal } = new AbortController();
    expect(await signIn(server, proof, signal)).toBe(KEY);
    expect(fake.sentTo('/api/v1/auth/keys')).toEqual([
      { code: 'code', code_verifier: 'verifier', code_challenge_method: 'S256' },
    ]);
    expectSentence(await failure(signIn(server, proof, signal)));
  });
});

describe('a probe', () => {
  const models = json(200, { data: [{ id: 'gpt-image-2' }, { id: 'gpt-5' }] });
  const GOOD: Record<string, Routes> = {
    automatic1111: { 'GET /sdapi/v1/sd-models': json(200, [{ title: 'v1-5.safetensors [abc]', model_name: 'v1-5' }]) },
    openai_images: { 'GET /v1/models': models },
    gemini: {
      'GET /v1beta/models': json(200, {
        models: [{ name: 'models/gemini-3-pro-image' }, { name: 'models/gemini-3-pro' }],
      }),
    },
    openrouter: {
      'GET /api/v1/key': json(200, { data: { limit_remaining: 4.5 } }),
      'GET /api/v1/models': json(200, { data: [{ id: 'google/gemini-3-pro-image' }] }),
    },
  };
  const ask = (kind: Kind, url: string, key: string | null = KEY) =>
    probeServer(
      { id: 'one', engine: kind.id, address: `${url}${kind.base}`, settings: {}, hasKey: key !== null },
      { key, origin: 'http://localhost:5173', signal: new AbortController().signal },
    );

  test.each(KINDS)('of $id says what is there, or what is wrong', async (kind) => {
    const fake = await service(GOOD[kind.id]);
    const probe = await ask(kind, fake.url);
    expect(probe).toMatchObject({ isUp: true });
    expect(probe.models).toHaveLength(1);
    const routes = Object.keys(GOOD[kind.id]);
    fake.routes = Object.fromEntries(routes.map((route) => [route, json(401, { error: { message: `No ${KEY}` } })]));
    expect((await ask(kind, fake.url)).sentence).toMatch(/does not take this key/);
    expect((await ask(kind, fake.url, null)).sentence).toMatch(/wants a key/);
    fake.routes = {};
    expect(await ask(kind, fake.url)).toMatchObject({ isUp: false });
    fake.routes = Object.fromEntries(routes.map((route) => [route, json(200, '<html>')]));
    expect(await ask(kind, fake.url)).toMatchObject({ isUp: false });
    await fake.stop();
    started.length = 0;
    expect((await ask(kind, fake.url)).sentence).toContain('Nothing answers at');
  });
});
