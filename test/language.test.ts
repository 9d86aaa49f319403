/** The language engine without a browser: what it recognises, transformers' tokens and sounds, and its answers to bad input. */
import * as ort from 'onnxruntime-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { StudioError } from '../src/core/errors.ts';
import type { SpeechRequest } from '../src/core/speech_service.ts';
import type { TextDelta, TextRequest, TextResult } from '../src/core/text_service.ts';
import { LanguageCheckpoint } from '../src/language/language_checkpoint.ts';
import type { LanguageDevice } from '../src/language/language_checkpoint.ts';
import { LanguageClient } from '../src/language/language_client.ts';
import { LanguageEngine } from '../src/language/language_engine.ts';
import type { LanguageRuntime } from '../src/language/language_runtime.ts';
import { Sampler } from '../src/language/sampling.ts';
import { ThinkingSplitter } from '../src/core/thinking.ts';
import { TransformersLibrary } from '../src/language/transformers_library.ts';
import type { CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { mount } from '../src/weights/virtual_file.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import {
  LANGUAGE_MODELS,
  VOICE,
  WAVEFORMS,
  languageContents,
  languageGoldens,
  speechGoldens,
} from './language_checkpoints.ts';
import { readTensors, readVirtual } from './onnx_node.ts';

const PROCESSOR: LanguageDevice = { backend: 'wasm', hasF16: false };

/** The runtime for Node in place of the browser's. */
const runtime: LanguageRuntime = {
  ort: ort,
  device: PROCESSOR,
  providers: () => ['cpu'],
  mount: async (externals, blobs, onBytes) => ({
    files: await Promise.all(
      mount(externals, blobs, 'jspi', onBytes).files.map(async ({ path, data }) => ({
        path,
        data: await readVirtual(data as Blob),
      })),
    ),
    close: () => undefined,
  }),
  create: (make) => make(),
  guard: (work) => work,
};

let library: TransformersLibrary;
beforeAll(async () => {
  library = await TransformersLibrary.load(runtime.ort);
});

/** A client of an engine with these checkpoints, by `folder:<name>`. */
function startEngine(checkpoints: Record<string, CheckpointFiles>) {
  const broken: StudioError[] = [];
  const find = (ref: string) =>
    ref in checkpoints
      ? Promise.resolve(checkpoints[ref])
      : Promise.reject(new StudioError('checkpoint_incomplete', `The checkpoint "${ref}" is not in the library.`));
  const engine = new LanguageEngine(library, runtime, find, (error) => broken.push(error));
  const asked: number[] = [];
  const client = new LanguageClient({
    connect: () => {
      const { port1, port2 } = new MessageChannel();
      engine.serve(port1);
      return Promise.resolve({ port: port2, lock: null });
    },
    makeRoom: (bytes) => {
      asked.push(bytes);
      return Promise.resolve();
    },
  });
  return { engine, client, broken, asked };
}

function tiny(name: string, change: (contents: Contents) => void = () => undefined): CheckpointFiles {
  const contents = languageContents(name);
  change(contents);
  return filesOf(name, contents);
}

function asked(model: string, more: Partial<TextRequest> = {}): TextRequest {
  return {
    model,
    messages: [{ role: 'user', content: 'A red house at the edge of the forest.' }],
    max_new_tokens: 16,
    temperature: 0,
    seed: '0',
    ...more,
  };
}

const patience = new AbortController().signal;

async function refusal(work: Promise<unknown>): Promise<StudioError> {
  const error: unknown = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(StudioError);
  return error as StudioError;
}

function json(contents: Contents, path: string, change: (value: Record<string, unknown>) => void): void {
  const value = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
  change(value);
  contents.set(path, new TextEncoder().encode(JSON.stringify(value)));
}

describe('the tokens of transformers', () => {
  test.each(LANGUAGE_MODELS)('%s: greedy search over 22 chats', async (name) => {
    const { client } = startEngine({ [name]: tiny(name) });
    const { cases, max_new_tokens } = languageGoldens(name);
    expect(cases.length).toBeGreaterThanOrEqual(20);
    for (const { messages, ids, text, prompt_ids } of cases) {
      const deltas: TextDelta[] = [];
      const result = await client.generate(
        asked(name, { messages, max_new_tokens }),
        (delta) => deltas.push(delta),
        patience,
      );
      expect(result.ids).toEqual(ids);
      expect(result.tokens).toEqual({ prompt: prompt_ids.length, generated: ids.length, limit: 1024 });
      expect(result.finish).toBe(ids.length < max_new_tokens ? 'stop' : 'length');
      expect(deltas.map((delta) => delta.text).join('')).toBe(`${result.thinking}${result.text}`);
      // One random model writes bytes that are no letters; streaming shows more of them than a decoder that sees what follows.
      if (!text.includes('\u{fffd}')) {
        expect(result.text).toBe(text);
      }
    }
  });

  test('the chats of both models are written as their templates want them, one of which lies in a file of its own', async () => {
    expect(languageContents('tiny-qwen3').has('chat_template.jinja')).toBe(true);
    expect(languageContents('tiny-llama').has('chat_template.jinja')).toBe(false);
    const { client } = startEngine({ bare: tiny('tiny-qwen3', (contents) => contents.delete('chat_template.jinja')) });
    expect(await refusal(client.generate(asked('bare'), () => undefined, patience))).toMatchObject({
      code: 'checkpoint_unsupported',
      message: expect.stringContaining('no chat template') as string,
    });
  });

  test('a voice says what transformers says, to 1e-4', async () => {
    const { client } = startEngine({ [VOICE]: tiny(VOICE) });
    const expected = readTensors(WAVEFORMS);
    const { rate, cases } = speechGoldens();
    for (const [number, { text }] of cases.entries()) {
      const speech = await client.speak({ model: VOICE, text }, patience);
      const golden = expected.get(String(number))?.data as Float32Array;
      expect(speech.rate).toBe(rate);
      expect(speech.channels).toHaveLength(1);
      expect(speech.channels[0]).toHaveLength(golden.length);
      expect(Math.max(...speech.channels[0].map((value, i) => Math.abs(value - golden[i])))).toBeLessThanOrEqual(1e-4);
    }
  });
});

describe('what can be asked', () => {
  const ask = (more: Partial<TextRequest>, onDelta: (delta: TextDelta) => void = () => undefined, signal = patience) =>
    startEngine({ model: tiny('tiny-llama') }).client.generate(asked('model', more), onDelta, signal);

  test('a seed repeats a draw, another one draws anew, and the words do not depend on what was asked before', async () => {
    const { client } = startEngine({ model: tiny('tiny-llama') });
    const draw = async (seed: string, temperature = 1.3) =>
      (await client.generate(asked('model', { seed, temperature }), () => undefined, patience)).text;
    const [first, other, greedy, again] = [await draw('7'), await draw('8'), await draw('7', 0), await draw('7')];
    expect(again).toBe(first);
    expect(other).not.toBe(first);
    expect(greedy).not.toBe(first);
    expect(await draw('-7')).not.toBe(first);
  });

  test('top_k 1 and a tiny top_p are greedy search, whatever the temperature', async () => {
    const greedy = await ask({});
    expect((await ask({ temperature: 2, top_k: 1 })).ids).toEqual(greedy.ids);
    expect((await ask({ temperature: 2, top_p: 1e-6 })).ids).toEqual(greedy.ids);
  });

  test('a repetition penalty changes what is said', async () => {
    expect((await ask({ repetition_penalty: 3 })).ids).not.toEqual((await ask({})).ids);
  });

  test.each([
    [{ messages: [] }, 'no messages'],
    [{ max_new_tokens: 0 }, 'max_new_tokens'],
    [{ temperature: -1 }, 'temperature'],
    [{ top_p: 0 }, 'top_p'],
    [{ seed: 'tomorrow' }, 'seed'],
  ] as [Partial<TextRequest>, string][])('%o is refused', async (more, word) => {
    const error = await refusal(ask(more));
    expect(error).toMatchObject({ code: 'invalid_operation', message: expect.stringContaining(word) as string });
  });

  test('cancelling ends within one token, and the next request works', async () => {
    const { client, broken } = startEngine({ model: tiny('tiny-llama') });
    const controller = new AbortController();
    let tokens = 0;
    const work = client.generate(
      asked('model', { max_new_tokens: 900 }),
      () => {
        tokens += 1;
        controller.abort();
      },
      controller.signal,
    );
    expect(await refusal(work)).toMatchObject({ code: 'cancelled' });
    // The one reported, plus one for each message on the way there and back: here a token takes no longer than a message.
    expect(tokens).toBeLessThanOrEqual(3);
    expect((await client.generate(asked('model'), () => undefined, patience)).tokens.generated).toBe(16);
    expect(broken).toEqual([]);
  });

  test('what waits behind another request can be cancelled, and is not begun', async () => {
    const { client } = startEngine({ model: tiny('tiny-llama') });
    const controller = new AbortController();
    const first = client.generate(asked('model'), () => undefined, patience);
    let heard = 0;
    const second = client.generate(asked('model'), () => (heard += 1), controller.signal);
    controller.abort();
    expect(await refusal(second)).toMatchObject({ code: 'cancelled' });
    expect((await first).tokens.generated).toBe(16);
    expect(heard).toBe(0);
  });

  test('a reply ends where the context does, and a prompt that fills it is refused with numbers', async () => {
    const short = (contents: Contents) =>
      json(contents, 'config.json', (config) => (config.max_position_embeddings = 120));
    const { client } = startEngine({ model: tiny('tiny-llama', short) });
    const words = (count: number) => [{ role: 'user' as const, content: 'red '.repeat(count) }];
    const { tokens, finish } = await client.generate(
      asked('model', { messages: words(8), max_new_tokens: 500 }),
      () => undefined,
      patience,
    );
    expect(tokens.limit).toBe(120);
    expect(tokens.prompt + tokens.generated).toBe(120);
    expect(finish).toBe('length');
    const error = await refusal(client.generate(asked('model', { messages: words(200) }), () => undefined, patience));
    expect(error.code).toBe('context_too_long');
    expect(error.message).toMatch(/is \d[\d,]* tokens long, and "tiny-llama" takes 120 with its answer; shorten it/);
  });

  test('loading is told from nothing to all of its bytes', async () => {
    const { client } = startEngine({ model: tiny('tiny-llama') });
    const told: number[] = [];
    await client.generate(
      asked('model'),
      () => undefined,
      patience,
      ({ done, total }) => told.push(done / total),
    );
    expect(told.at(0)).toBe(0);
    expect(told.at(-1)).toBe(1);
    const again: number[] = [];
    await client.generate(
      asked('model'),
      () => undefined,
      patience,
      ({ done }) => again.push(done),
    );
    expect(again).toEqual([]);
    await client.release();
    await client.generate(
      asked('model'),
      () => undefined,
      patience,
      ({ done }) => again.push(done),
    );
    expect(again.length).toBeGreaterThan(0);
  });
});

describe('checkpoints', () => {
  const open = (name: string, change?: (contents: Contents) => void) => LanguageCheckpoint.open(tiny(name, change));
  const summary = async (change: (contents: Contents) => void, device = PROCESSOR) =>
    (await open('tiny-llama', change)).summary(device);
  /** The same networks again, under the names of other precisions. */
  const as =
    (...suffixes: string[]) =>
    (contents: Contents) => {
      const graph = contents.get('onnx/model.onnx') as Uint8Array<ArrayBuffer>;
      contents.delete('onnx/model.onnx');
      suffixes.forEach((suffix) => contents.set(`onnx/model${suffix}.onnx`, graph));
    };

  test('a look says what it is, what it takes and which files belong to it', async () => {
    const { kind, architecture, contextTokens, precisions, recommended } = await summary((contents) => {
      contents.set('README.md', new Uint8Array(10));
      contents.set('onnx/model_q4f16.onnx', new Uint8Array(10));
    });
    expect({ kind, architecture, contextTokens, recommended }).toEqual({
      kind: 'text',
      architecture: 'LlamaForCausalLM',
      contextTokens: 1024,
      recommended: 'fp32',
    });
    expect(precisions.map(({ precision }) => precision)).toEqual(['fp32', 'q4f16']);
    expect(precisions[0].files.sort()).toEqual([
      'config.json',
      'generation_config.json',
      'onnx/model.onnx',
      'onnx/model.onnx_data',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    // Two layers of two heads of eight, keys and values, four bytes each, of the whole context.
    expect(precisions[0].memoryBytes).toBeGreaterThan(2 * 4 * 2 * 2 * 8 * 1024);
  });

  test.each([
    ['a processor takes integers first and no half precision', PROCESSOR, ['q8', 'q4', 'fp32', 'q4f16', 'fp16'], 'q8'],
    [
      'a GPU without half precision takes four bits',
      { backend: 'webgpu', hasF16: false },
      ['q4', 'fp32', 'q8', 'q4f16', 'fp16'],
      'q4',
    ],
    [
      'a GPU with half precision takes four bits with it',
      { backend: 'webgpu', hasF16: true },
      ['q4f16', 'q4', 'fp16', 'fp32', 'q8'],
      'q4f16',
    ],
  ] as [string, LanguageDevice, string[], string][])('%s', async (_, device, order, recommended) => {
    const found = await summary(as('', '_fp16', '_q4', '_q4f16', '_quantized'), device);
    expect(found.precisions.map(({ precision }) => precision)).toEqual(order);
    expect(found.recommended).toBe(recommended);
  });

  test('one that is there in half precision only says so, and what to do', async () => {
    const files = tiny('tiny-llama', as('_fp16'));
    expect((await (await LanguageCheckpoint.open(files)).summary(PROCESSOR)).recommended).toBeNull();
    const { client } = startEngine({ model: files });
    expect(await refusal(client.generate(asked('model'), () => undefined, patience))).toMatchObject({
      code: 'checkpoint_unsupported',
      message: expect.stringMatching(
        /only as fp16.*half precision, which the processor cannot; take another one/,
      ) as string,
    });
  });

  test('networks of a model in several parts are taken in what they are there in', async () => {
    const checkpoint = await open('tiny-llama', (contents) => {
      const graph = contents.get('onnx/model.onnx') as Uint8Array<ArrayBuffer>;
      contents.delete('onnx/model.onnx');
      ['decoder_model_merged_q4', 'decoder_model_merged_fp16', 'embed_tokens', 'embed_tokens_fp16'].forEach((name) => {
        contents.set(`onnx/${name}.onnx`, graph);
      });
    });
    expect(checkpoint.networkPrecisions('q4')).toEqual({ embed_tokens: 'fp32', decoder_model_merged: 'q4' });
    expect(checkpoint.networkPrecisions('fp32')).toBeNull();
    expect((await checkpoint.precisions(PROCESSOR)).map(({ precision }) => precision)).toEqual(['q4', 'fp16']);
  });

  test.each([
    [
      'a folder of something else',
      'tiny-llama',
      (contents: Contents) => contents.delete('config.json'),
      'checkpoint_incomplete',
      'no language model for the browser',
    ],
    [
      'no tokenizer',
      'tiny-llama',
      (contents: Contents) => contents.delete('tokenizer.json'),
      'checkpoint_incomplete',
      'has no tokenizer.json',
    ],
    [
      'a torn configuration',
      'tiny-llama',
      (contents: Contents) => contents.set('config.json', new TextEncoder().encode('{"a":')),
      'checkpoint_damaged',
      'config.json',
    ],
    [
      'a picture classifier',
      'tiny-llama',
      (contents: Contents) =>
        json(contents, 'config.json', (config) => (config.architectures = ['ViTForImageClassification'])),
      'checkpoint_unsupported',
      'neither writes text nor speaks',
    ],
    [
      'an encoder of its own',
      'tiny-llama',
      (contents: Contents) => contents.set('onnx/encoder_model.onnx', new Uint8Array(1)),
      'checkpoint_unsupported',
      'encoder of its own',
    ],
    [
      'phonemes',
      VOICE,
      (contents: Contents) => json(contents, 'tokenizer_config.json', (config) => (config.phonemize = true)),
      'checkpoint_unsupported',
      'eSpeak',
    ],
    [
      'letters that have to be rewritten',
      VOICE,
      (contents: Contents) => json(contents, 'tokenizer_config.json', (config) => (config.is_uroman = true)),
      'checkpoint_unsupported',
      'uroman',
    ],
    [
      'a voice of a family that is not known',
      VOICE,
      (contents: Contents) =>
        json(contents, 'config.json', (config) => (config.model_type = 'text_to_speech_of_tomorrow')),
      'checkpoint_unsupported',
      'it runs: vits',
    ],
  ] as [string, string, (contents: Contents) => unknown, string, string][])(
    '%s',
    async (_, name, change, code, words) => {
      const error = await refusal(open(name, (contents) => void change(contents)));
      expect(error).toMatchObject({ code, message: expect.stringContaining(words) as string });
    },
  );

  test('weights that are missing are named, and nothing else suffers', async () => {
    const { client, broken } = startEngine({
      bad: tiny('tiny-llama', (contents) => contents.delete('onnx/model.onnx_data')),
      good: tiny('tiny-qwen3'),
    });
    const error = await refusal(client.generate(asked('bad'), () => undefined, patience));
    expect(error).toMatchObject({
      code: 'checkpoint_incomplete',
      message: expect.stringContaining('onnx/model.onnx_data') as string,
    });
    expect((await client.generate(asked('good'), () => undefined, patience)).tokens.generated).toBe(16);
    expect(broken).toEqual([]);
  });

  test('a chat template that throws is told with its reason', async () => {
    const throws = (contents: Contents) =>
      contents.set('chat_template.jinja', new TextEncoder().encode("{{ raise_exception('Only on Sundays') }}"));
    const { client } = startEngine({ model: tiny('tiny-qwen3', throws) });
    expect(await refusal(client.generate(asked('model'), () => undefined, patience))).toMatchObject({
      code: 'checkpoint_unsupported',
      message: expect.stringContaining('Only on Sundays') as string,
    });
  });

  test('a template that takes no system message gets it with the first message of the user', async () => {
    const template = `{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ message.content }}{% endfor %}`;
    const own = (contents: Contents) => contents.set('chat_template.jinja', new TextEncoder().encode(template));
    const { client } = startEngine({ model: tiny('tiny-qwen3', own) });
    const ask = async (messages: TextRequest['messages']): Promise<TextResult> =>
      client.generate(asked('model', { messages }), () => undefined, patience);
    const [apart, together] = [
      await ask([
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'A fox.' },
      ]),
      await ask([{ role: 'user', content: 'Be brief.\n\nA fox.' }]),
    ];
    expect(apart).toEqual(together);
  });

  test('a failed run ends the engine, which says so once it has answered', async () => {
    const torn = (contents: Contents) => {
      const graph = contents.get('onnx/model.onnx') as Uint8Array<ArrayBuffer>;
      // A renamed operator: the file can be read but not run.
      const text = new TextDecoder('latin1').decode(graph);
      contents.set(
        'onnx/model.onnx',
        Uint8Array.from(text.replaceAll('MatMul', 'MatMuI'), (letter) => letter.charCodeAt(0)),
      );
    };
    const { client, broken } = startEngine({ model: tiny('tiny-llama', torn), good: tiny('tiny-qwen3') });
    expect(await refusal(client.generate(asked('model'), () => undefined, patience))).toMatchObject({
      code: 'internal',
    });
    expect(broken).toHaveLength(1);
    expect(await refusal(client.generate(asked('good'), () => undefined, patience))).toMatchObject({
      code: 'internal',
    });
  });
});

describe('voices', () => {
  const speak = (more: Partial<SpeechRequest>) =>
    startEngine({ [VOICE]: tiny(VOICE), model: tiny('tiny-llama') }).client.speak(
      { model: VOICE, text: 'snow', ...more },
      patience,
    );

  test('letters without a sound are named', async () => {
    expect((await speak({ text: 'Snow, 3 × “more”!' })).unspoken).toBe(',3×“”!');
    expect((await speak({ text: 'snow' })).unspoken).toBe('');
  });

  test.each([
    [{ text: '  ' }, 'no text to speak'],
    [{ text: '3 × 4' }, 'none of these letters'],
    [{ voice: 'anna' }, 'a single voice'],
    [{ speed: 2 }, 'one speed only'],
    [{ model: 'model' }, 'writes and does not speak'],
  ] as [Partial<SpeechRequest>, string][])('%o is refused', async (more, words) => {
    expect((await refusal(speak(more))).message).toContain(words);
  });
});

describe('thoughts', () => {
  const split = (prompt: string, pieces: string[]) => {
    const splitter = new ThinkingSplitter(prompt);
    const deltas = [...pieces.flatMap((piece) => splitter.push(piece)), ...splitter.end()];
    const of = (thinking: boolean) =>
      deltas
        .filter((delta) => delta.thinking === thinking)
        .map(({ text }) => text)
        .join('');
    return { text: of(false), thinking: of(true) };
  };
  const reply = '<think>\nA fox?\n</think>\n\nA red fox.';

  test('are told from the answer wherever the pieces are cut', () => {
    for (let cut = 1; cut < reply.length; cut++) {
      expect(split('', [reply.slice(0, cut), reply.slice(cut)])).toEqual({ thinking: 'A fox?\n', text: 'A red fox.' });
    }
    expect(split('', [...reply])).toEqual({ thinking: 'A fox?\n', text: 'A red fox.' });
  });

  test.each([
    ['a template that opened them', 'assistant\n<think>\n', 'A fox?\n</think>\n\nA red fox.', 'A fox?\n', 'A red fox.'],
    ['an end that never comes', '', '<think>A fox? A', 'A fox? A', ''],
    ['none', '', '  a < b && c <the end>', '', '  a < b && c <the end>'],
    ['brackets', '', '[THINK]A fox?[/THINK]A red fox.', 'A fox?', 'A red fox.'],
    [
      'channels',
      '',
      '<|channel|>analysis<|message|>A fox?<|channel|>final<|message|>A red fox.',
      'A fox?',
      'A red fox.',
    ],
    ['a mark that was only begun', '', 'if (a <th', '', 'if (a <th'],
  ])('%s', (_, prompt, text, thinking, answer) => {
    expect(split(prompt, [text])).toEqual({ thinking, text: answer });
  });
});

describe('drawing', () => {
  const logits = Float32Array.from([1, 3, 2, -Infinity, 0]);
  const shares = (sampling: ConstructorParameters<typeof Sampler>[0]) => {
    const sampler = new Sampler(sampling, '1');
    const counts = new Array<number>(logits.length).fill(0);
    for (let i = 0; i < 20_000; i++) {
      counts[sampler.choose(logits)] += 1;
    }
    return counts.map((count) => count / 20_000);
  };
  const softmax = (values: number[], temperature: number) => {
    const powers = values.map((value) => Math.exp(value / temperature));
    return powers.map((power) => power / powers.reduce((sum, one) => sum + one, 0));
  };

  test.each([
    ['all tokens', { temperature: 1, topK: null, topP: 1 }, softmax([...logits], 1)],
    ['a temperature', { temperature: 2, topK: null, topP: 1 }, softmax([...logits], 2)],
    ['the two likeliest', { temperature: 1, topK: 2, topP: 1 }, softmax([-Infinity, 3, 2, -Infinity, -Infinity], 1)],
    ['a nucleus', { temperature: 1, topK: null, topP: 0.85 }, softmax([-Infinity, 3, 2, -Infinity, -Infinity], 1)],
    ['a nucleus of the likeliest', { temperature: 1, topK: 3, topP: 0.6 }, [0, 1, 0, 0, 0]],
  ])('%s', (_, sampling, expected) => {
    shares(sampling).forEach((share, token) => expect(share).toBeCloseTo(expected[token], 1));
    expect(shares(sampling)).toEqual(shares(sampling));
  });
});

describe('the memory that both engines share', () => {
  test('is asked for before a model comes to the device, not again while it is there, and given back if it is too much', async () => {
    const { client, asked: room } = startEngine({ one: tiny('tiny-llama'), other: tiny('tiny-qwen3') });
    const write = (model: string) => client.generate(asked(model, { max_new_tokens: 1 }), () => undefined, patience);
    await write('one');
    await write('one');
    expect(room).toHaveLength(1);
    const [bytes] = room;
    expect(bytes).toBeGreaterThan(100_000);
    await client.release(bytes);
    await write('one');
    expect(room).toHaveLength(1);
    await client.release(bytes - 1);
    await write('one');
    expect(room).toEqual([bytes, bytes]);
    await write('other');
    expect(room).toHaveLength(3);
  });

  test('that cannot be had ends the request, and the engine goes on', async () => {
    const files = tiny('tiny-llama');
    let isThere = false;
    const engine = new LanguageEngine(
      library,
      runtime,
      () => Promise.resolve(files),
      () => undefined,
    );
    const client = new LanguageClient({
      connect: () => {
        const { port1, port2 } = new MessageChannel();
        engine.serve(port1);
        return Promise.resolve({ port: port2, lock: null });
      },
      makeRoom: () =>
        isThere ? Promise.resolve() : Promise.reject(new StudioError('out_of_memory', 'There is no room.')),
    });
    const write = () => client.generate(asked('any', { max_new_tokens: 1 }), () => undefined, patience);
    expect(await refusal(write())).toMatchObject({ code: 'out_of_memory' });
    isThere = true;
    expect((await write()).ids).toHaveLength(1);
  });

  test('is not looked for where no engine runs', async () => {
    let connections = 0;
    const client = new LanguageClient({
      connect: () => Promise.reject(new Error('It was started.')),
      connectIfAlive: () => Promise.resolve(((connections += 1), null)),
    });
    await client.release();
    expect(connections).toBe(1);
  });
});
