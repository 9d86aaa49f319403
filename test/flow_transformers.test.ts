/**
 * Flow transformers on the processor: their text encoders' input against transformers, and refusals. Their pictures are compared in
 * `test/fidelity/pictures.ts`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { PixelImage } from '../src/core/media.ts';
import type { SampleRequest } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';
import * as mistral from '../src/graphs/mistral.ts';
import * as qwen3 from '../src/graphs/qwen3.ts';
import * as t5 from '../src/graphs/t5_encoder.ts';
import type { StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import { openModel, type LoadedModel } from '../src/models/family.ts';
import { FLUX2_CONVERSATION } from '../src/models/flow_transformer/mistral_text.ts';
import { ChatTokenizer } from '../src/text/chat_tokenizer.ts';
import { T5Tokenizer } from '../src/text/t5_tokenizer.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { readRows } from '../src/weights/embedding_rows.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensors } from '../src/weights/safetensors.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { differencesFrom, goldenCases, paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import { quantisedFile } from './quantised_file.ts';
import { run } from './onnx_node.ts';
import { originalLayoutFile, weightlessContents } from './weightless_checkpoints.ts';

const GOLDENS = join(import.meta.dirname, 'goldens');

const FLOW_SAMPLERS = expect.arrayContaining([
  'euler',
  'heun',
  'dpmpp_2m',
  'res_multistep',
  'uni_pc',
  'lcm',
  'er_sde',
]) as unknown;

const rows: Record<string, string>[] = [];
afterAll(() => {
  console.table(rows);
});

interface Parameters {
  prompt: string;
  negative_prompt?: string;
  width: number;
  height: number;
  steps: number;
  guidance_scale: number;
  batch_size?: number;
  strength?: number;
  seed: string;
}

const json = <T>(...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8')) as T;

async function open(name: string, change?: (contents: Contents) => void) {
  const contents = weightlessContents(name);
  change?.(contents);
  const { engine, log } = startNodeEngine();
  return { model: await openModel(filesOf(name, contents), engine), log };
}

/** The latents and pictures of an operation. */
async function make(
  model: LoadedModel,
  parameters: Parameters,
  picture?: PixelImage,
  more: Partial<SampleRequest> = {},
) {
  const { width, height, guidance_scale, batch_size = 1, strength = 1 } = parameters;
  const random = new TorchGenerator(parameters.seed);
  const { signal } = new AbortController();
  const text = await model.encodeText({ ...parameters, negative_prompt: parameters.negative_prompt ?? '', batch_size });
  const start = picture && (await model.encodeImage(picture, { width, height, batch_size, random }));
  const latents = await model.sample(text, {
    ...parameters,
    batch_size,
    strength,
    random,
    start,
    guidance_scale,
    guidance_mode: 'auto',
    mask: undefined,
    previews: false,
    signal,
    resume: null,
    keep: () => undefined,
    onStart: () => undefined,
    onStep: () => undefined,
    ...more,
  });
  const data = await latents.read();
  const results = await model.decode(latents, { signal, onPart: () => undefined });
  for (const one of [text, start, latents]) {
    one?.dispose();
  }
  return { text, data, pictures: results };
}

interface HiddenStates {
  checkpoint: string;
  prompt: string;
  after: number[];
  thinking: boolean;
  padded: number | null;
  ids: number[];
  length: number;
  kept: number;
  tokens: number[];
  states: number[][];
}

describe('text encoders read what transformers reads', () => {
  const { cases } = json<{ cases: HiddenStates[] }>(GOLDENS, 'hidden_states.json');
  const ofQwen3 = (config: qwen3.Config, weights: WeightIndex) => ({
    table: qwen3.embeddingTable(weights),
    build: (options: qwen3.Qwen3Options) => qwen3.build(config, weights, options),
    inputs: (sequence: number, kept: number, padded: boolean): Record<string, Float32Array> => ({
      ...qwen3.angles(config, sequence),
      ...(padded && { attention_bias: qwen3.paddedMask(sequence, kept) }),
    }),
  });
  const ofMistral = (config: mistral.Config, weights: WeightIndex) => ({
    table: mistral.embeddingTable(weights),
    build: (options: mistral.MistralOptions) => mistral.build(config, weights, options),
    inputs: (sequence: number, kept: number): Record<string, Float32Array> => ({
      ...mistral.angles(config, sequence),
      ...mistral.sightOf(sequence, kept),
    }),
  });

  test.each(cases.map((entry, i) => ({ i, ...entry })))('$checkpoint $i $prompt', async (entry) => {
    const { checkpoint, prompt, after, thinking, padded, ids, length: sequence, kept, tokens, states } = entry;
    const files = filesOf(checkpoint, weightlessContents(checkpoint));
    const opened = await Checkpoint.open(files);
    const texts = new Map<string, string>();
    for (const path of files.paths().filter((each) => each.startsWith('tokenizer/'))) {
      texts.set(path.slice('tokenizer/'.length), (await opened.text(path)) ?? '');
    }
    const reader = { read: (name: string) => texts.get(name) };
    const { className, config: values, weights, files: paths } = await opened.component('text_encoder');
    const isMistral = className === mistral.className;
    const tokenizer = isMistral
      ? new ChatTokenizer(reader, 512, {}, undefined, FLUX2_CONVERSATION)
      : new ChatTokenizer(reader, 512, { enable_thinking: thinking });
    const encoded = tokenizer.encode(prompt);
    expect([...encoded.ids]).toEqual(ids);
    const padding = Array.from({ length: sequence - kept }, () => tokenizer.pad);
    const all = isMistral ? [...padding, ...ids] : [...ids, ...padding];
    const read = isMistral ? prompt.replaceAll('[IMG]', '') : prompt;
    expect(read.startsWith(encoded.text)).toBe(true);
    expect(encoded.text === read).toBe(encoded.tokens <= 512);

    const {
      table: name,
      build,
      inputs: ofTokens,
    } = isMistral ? ofMistral(mistral.parseConfig(values), weights) : ofQwen3(qwen3.parseConfig(values), weights);
    const table = weights.get(name) as StoredTensor;
    const options = { batch: 1, height: 0, width: 0, dtype: 'f32', sequence, after, padded: padded !== null } as const;
    const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
    let worst = 0;
    for (const provider of ['wasm', 'webgpu'] as const) {
      const graph = build({ ...options, provider });
      const inputs = { inputs_embeds: await readRows(files, table, all), ...ofTokens(sequence, kept, padded !== null) };
      const { hidden_states } = await run(
        graph,
        { get: (n) => weights.get(n), names: () => weights.names(), blobs },
        inputs,
      );
      const width = hidden_states.length / sequence;
      for (const [k, token] of tokens.entries()) {
        const own = hidden_states.subarray(token * width, (token + 1) * width);
        expect(own.length).toBe(states[k].length);
        worst = states[k].reduce((most, value, i) => Math.max(most, Math.abs(value - own[i])), worst);
      }
    }
    rows.push({ case: `${checkpoint} reads ${kept} tokens`, hidden: worst.toExponential(1) });
    expect(worst).toBeLessThanOrEqual(1e-4);
  });
});

interface T5Case {
  checkpoint: string;
  folder: string;
  prompt: string;
  masked: boolean;
  length: number;
  ids: number[];
  all: number;
  tokens: number[];
  states: number[][];
}

describe('T5 and UMT5 read what transformers reads', () => {
  const { cases } = json<{ cases: T5Case[] }>(GOLDENS, 't5_states.json');
  const spiece = new Uint8Array(
    readFileSync(join(import.meta.dirname, 'weightless', 'tiny-flux1-schnell', 'tokenizer_2', 'spiece.model')),
  );
  /** A folder's tokenizer, and the same one from the alternative files it may have. */
  const tokenizers = (folder: string, definition: string, limit: number) => {
    const files = (text?: string) => ({
      folder,
      read: (name: string) => (name === 'tokenizer.json' ? text : undefined),
    });
    const older = JSON.parse(definition) as Record<string, unknown>;
    const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true };
    older.normalizer = {
      type: 'Sequence',
      normalizers: [
        older.normalizer,
        { type: 'Strip', strip_left: false, strip_right: true },
        { type: 'Replace', pattern: { Regex: ' {2,}' }, content: '▁' },
      ],
    };
    older.pre_tokenizer = metaspace;
    return [
      new T5Tokenizer(files(definition), limit),
      new T5Tokenizer(files(JSON.stringify(older)), limit),
      new T5Tokenizer({ ...files(), spiece }, limit),
    ];
  };

  test.each(cases.map((entry, i) => ({ i, ...entry })))('$checkpoint $i $prompt', async (entry) => {
    const { checkpoint, folder, prompt, masked, length: sequence, ids, tokens, states } = entry;
    const files = filesOf(checkpoint, weightlessContents(checkpoint));
    const opened = await Checkpoint.open(files);
    const definition = (await opened.text(`${folder.replace('text_encoder', 'tokenizer')}/tokenizer.json`)) ?? '';
    for (const tokenizer of tokenizers(folder, definition, sequence)) {
      const encoded = tokenizer.encode(prompt);
      expect([...encoded.ids]).toEqual(ids);
      expect(encoded.tokens).toBe(entry.all);
      expect(prompt.startsWith(encoded.text)).toBe(true);
    }

    const { config: values, weights, files: paths } = await opened.component(folder);
    const config = t5.parseConfig(values);
    const table = weights.get(t5.embeddingTable(weights)) as StoredTensor;
    const options = { batch: 1, height: 0, width: 0, dtype: 'f32', sequence, masked } as const;
    const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
    const all = [...ids, ...Array.from({ length: sequence - ids.length }, () => 0)];
    let worst = 0;
    for (const provider of ['wasm', 'webgpu'] as const) {
      const { last_hidden_state } = await run(
        t5.build(config, weights, { ...options, provider }),
        { get: (n) => weights.get(n), names: () => weights.names(), blobs },
        {
          inputs_embeds: await readRows(files, table, all),
          buckets: t5.distanceBuckets(config, sequence),
          ...(masked && { mask: t5.paddingMask(sequence, ids.length) }),
        },
      );
      const width = config.d_model;
      for (const [k, token] of tokens.entries()) {
        const own = last_hidden_state.subarray(token * width, (token + 1) * width);
        worst = states[k].reduce((most, value, i) => Math.max(most, Math.abs(value - own[i])), worst);
      }
    }
    rows.push({ case: `${checkpoint} reads ${ids.length} tokens`, hidden: worst.toExponential(1) });
    expect(worst).toBeLessThanOrEqual(1e-4);
  });

  test('distances are as far as torch puts them, up to 512 tokens', () => {
    const { buckets } = json<{ buckets: number[] }>(GOLDENS, 't5_states.json');
    const own = t5.distanceBuckets(t5.parseConfig({}), 512);
    expect([...own.subarray(511 * 512)].reverse()).toEqual(buckets);
  });
});

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    const { model } = await open('tiny-z-image-turbo');
    const { summary } = model;
    expect(summary).toMatchObject({
      pipelineClass: 'ZImagePipeline',
      multiple: 16,
      samplers: FLOW_SAMPLERS,
      takesLoras: true,
      variants: ['full', 'q8', 'q4'],
      defaults: {
        width: 1024,
        height: 1024,
        sampler: 'euler',
        schedule: 'shifted',
        prediction_type: 'flow_prediction',
      },
    });
    expect(summary.needs.filter((path) => path.startsWith('tokenizer/'))).toHaveLength(3);
    expect((await open('tiny-flux2-klein')).model.summary).toMatchObject({
      multiple: 16,
      ignores: ['guidance_scale'],
      defaults: { steps: 4, guidance_scale: 1 },
    });
    expect((await open('tiny-flux2-klein-base')).model.summary.ignores).toBeUndefined();
    const { summary: dev } = (await open('tiny-flux2-dev')).model;
    expect(dev).toMatchObject({
      pipelineClass: 'Flux2Pipeline',
      multiple: 16,
      defaults: { steps: 50, guidance_scale: 4 },
    });
    expect(dev.ignores).toBeUndefined();

    const { summary: newer } = (await open('tiny-sd35')).model;
    expect(newer).toMatchObject({
      pipelineClass: 'StableDiffusion3Pipeline',
      multiple: 16,
      longestSide: 192,
      samplers: FLOW_SAMPLERS,
      defaults: { width: 128, height: 128, sampler: 'euler', schedule: 'shifted' },
    });
    expect(newer.lacks).toBeUndefined();
    expect(newer.needs.filter((path) => path.startsWith('tokenizer_3/'))).toHaveLength(2);
    expect((await open('tiny-sd3')).model.summary.lacks).toEqual([
      expect.stringMatching(/^"tiny-sd3" has no T5, its largest text encoder/),
    ]);
    const { summary: schnell } = (await open('tiny-flux1-schnell')).model;
    expect(schnell).toMatchObject({
      ignores: ['guidance_scale'],
      defaults: { width: 1024, height: 1024, steps: 4, guidance_scale: 0 },
    });
    expect(schnell.needs).toContain('tokenizer_2/spiece.model');
    expect((await open('tiny-flux1-dev')).model.summary).toMatchObject({
      pipelineClass: 'FluxPipeline',
      multiple: 16,
      defaults: { steps: 28, guidance_scale: 3.5 },
    });
  });

  test('is sampled by every sampler that it names, and by no other', async () => {
    const { model } = await open('tiny-z-image-turbo');
    const parameters = { prompt: 'x', width: 32, height: 32, steps: 3, guidance_scale: 0, seed: '1' };
    const plain = await make(model, parameters);
    for (const sampler of model.summary.samplers ?? []) {
      const { data } = await make(model, parameters, undefined, { sampler, schedule: 'simple' });
      expect(data.every(Number.isFinite), sampler).toBe(true);
      if (sampler !== 'euler') {
        expect(data, sampler).not.toEqual(plain.data);
      }
    }
    await expect(make(model, parameters, undefined, { sampler: 'euler_cfg_pp' })).rejects.toThrow(
      /^The sampler euler_cfg_pp does not go with this checkpoint, whose noise levels are a flow's; choose euler, /,
    );
  });

  test('whose T5 was left out of the folder is one without it', async () => {
    const { model } = await open('tiny-sd35', (contents) => {
      for (const path of [...contents.keys()].filter((each) => each.startsWith('text_encoder_3/'))) {
        contents.delete(path);
      }
    });
    expect(model.summary.lacks).toHaveLength(1);
    const { data } = await make(model, { prompt: 'x', width: 32, height: 32, steps: 1, guidance_scale: 1, seed: '1' });
    expect(data.every(Number.isFinite)).toBe(true);
  });

  test('says where CLIP stops reading and T5 goes on', async () => {
    const prompt = 'a fox and a hen, '.repeat(13);
    const request = { prompt, negative_prompt: '', guidance_scale: 2, batch_size: 1 };
    for (const name of ['tiny-sd35', 'tiny-flux1-dev']) {
      const { model } = await open(name);
      const { tokens, notices } = await model.encodeText(request);
      expect(tokens.prompt).toBeLessThanOrEqual(tokens.limit);
      expect(notices).toEqual([
        expect.stringMatching(
          /^CLIP, the smaller text encoder, reads 77 of the \d+ tokens of this text; the rest is read by T5/,
        ),
      ]);
    }
    const { tokens, notices, texts } = await (await open('tiny-sd3')).model.encodeText(request);
    expect(notices).toEqual([]);
    expect(tokens).toMatchObject({ limit: 77 });
    expect(tokens.prompt).toBeGreaterThan(77);
    expect(texts.prompt.length).toBeLessThan(prompt.length);
  });

  const replaced = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
    const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
    change(values);
    contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
  };

  test.each([
    [
      'another text encoder',
      replaced('transformer/config.json', (c) => (c.cap_feat_dim = 64)),
      /reads 64 numbers of each token and its text encoder gives 32/,
    ],
    [
      'another autoencoder',
      replaced('vae/config.json', (c) => (c.latent_channels = 4)),
      /takes latents of 16 channels and its autoencoder gives 4/,
    ],
    [
      'SigLIP',
      replaced('transformer/config.json', (c) => (c.siglip_feat_dim = 8)),
      /has "siglip_feat_dim": 8, which Darkroom cannot run/,
    ],
    [
      'another class',
      replaced('model_index.json', (c) => (c.text_encoder = ['transformers', 'T5EncoderModel'])),
      /text_encoder of .* is a T5EncoderModel/,
    ],
    [
      'no scheduler',
      (c: Contents) => c.delete('scheduler/scheduler_config.json'),
      /has no scheduler\/scheduler_config.json/,
    ],
    ['no tokenizer', (c: Contents) => c.delete('tokenizer/tokenizer.json'), /lacks tokenizer\/tokenizer.json/],
    ['no template', (c: Contents) => c.delete('tokenizer/chat_template.jinja'), /lacks tokenizer\/chat_template.jinja/],
    [
      'a torn tokenizer',
      (c: Contents) => c.set('tokenizer/tokenizer.json', new TextEncoder().encode('{')),
      /tokenizer\/tokenizer.json of this checkpoint is not valid JSON/,
    ],
    [
      'no transformer',
      (c: Contents) => c.delete('transformer/diffusion_pytorch_model.safetensors'),
      /has no .safetensors weights in transformer\//,
    ],
  ] as const)('with %s is refused in a sentence', async (_, change, message) => {
    await expect(open('tiny-z-image', change)).rejects.toThrow(message);
  });

  test.each([
    [
      'tiny-sd35',
      'another T5',
      replaced('text_encoder_3/config.json', (c) => (c.d_model = 64)),
      /reads 96 numbers of each token and its text encoder gives 64/,
    ],
    [
      'tiny-sd35',
      'another CLIP',
      replaced('text_encoder_2/config.json', (c) => (c.projection_dim = 32)),
      /takes 72 numbers of the text as a whole and its text encoders give 64; take all from one checkpoint/,
    ],
    [
      'tiny-sd35',
      'LayerNorms of queries and keys',
      replaced('transformer/config.json', (c) => (c.qk_norm = 'layer_norm')),
      /has "qk_norm": "layer_norm", which Darkroom cannot run/,
    ],
    [
      'tiny-sd35',
      'no tokenizer of T5',
      (c: Contents) => c.delete('tokenizer_3/tokenizer.json'),
      /lacks tokenizer_3\/tokenizer.json \(and has no tokenizer_3\/spiece.model\)/,
    ],
    [
      'tiny-sd35',
      'damaged rules for text',
      (c: Contents) => {
        const text = new TextDecoder().decode(c.get('tokenizer_3/tokenizer.json'));
        const torn = text.replace(/("precompiled_charsmap": ?")[^"]*/, '$1AAAA');
        c.set('tokenizer_3/tokenizer.json', new TextEncoder().encode(torn));
      },
      /rules for text in the tokenizer of this checkpoint are damaged/,
    ],
    [
      'tiny-flux1-schnell',
      'a torn spiece.model',
      (c: Contents) =>
        c.set('tokenizer_2/spiece.model', (c.get('tokenizer_2/spiece.model') ?? new Uint8Array()).slice(0, 500)),
      /spiece.model of this checkpoint is damaged/,
    ],
    [
      'tiny-flux1-dev',
      'the channels of a network that fills masks',
      replaced('transformer/config.json', (c) => {
        c.in_channels = 384;
        c.out_channels = 64;
      }),
      /cannot be run: its out_channels are others than its in_channels/,
    ],
    [
      'tiny-flux1-dev',
      'no T5',
      (c: Contents) => c.delete('text_encoder_2/model.safetensors'),
      /has no .safetensors weights in text_encoder_2\//,
    ],
  ] as const)('%s with %s is refused in a sentence', async (name, _, change, message) => {
    await expect(open(name, change)).rejects.toThrow(message);
  });

  test('refuses pictures beyond its positions, layers that it does not have, and layers left out without guidance', async () => {
    const { model } = await open('tiny-sd35');
    const parameters = { prompt: 'x', steps: 2, guidance_scale: 2, seed: '1', width: 64, height: 64 };
    const of = (more: Record<string, unknown>) => ({
      operation: 'image_generation',
      config: 'stable_diffusion_3',
      parameters: { ...parameters, ...more },
    });
    await expect(paint(model, of({ width: 208 }), '')).rejects.toThrow(
      '"tiny-sd35" makes pictures of at most 192 pixels per side, not 208×64; choose a smaller size.',
    );
    await expect(paint(model, of({ skip_guidance_layers: [4] }), '')).rejects.toThrow(
      '"tiny-sd35" has no layer 4 to leave out: its layers are 0 to 3; change skip_guidance_layers.',
    );
    await expect(paint(model, of({ skip_guidance_layers: [1], guidance_scale: 1 }), '')).rejects.toThrow(
      /counts only with a guidance_scale above 1/,
    );
    await expect(paint(model, of({ image: 'x.png' }), '')).rejects.toThrow(
      'image is given, but image_generation starts from nothing; use image_transform.',
    );
  });

  test('takes pictures only as large as they can be seen', async () => {
    const { model } = await open('tiny-flux2-klein');
    const picture = (width: number, height: number) => ({
      width,
      height,
      data: new Uint8ClampedArray(4 * width * height),
    });
    await expect(model.encodeShown?.(picture(63, 200))).rejects.toThrow(/too small to be shown/);
    await expect(model.encodeShown?.(picture(64, 640))).rejects.toThrow(/too long to be shown/);
  });

  test.each(['tiny-z-image', 'tiny-sd35', 'tiny-flux1-dev'])(
    '%s runs in 8 and 4 bits, nearly the same',
    async (name) => {
      const parameters = { prompt: 'a red house', width: 64, height: 48, steps: 2, guidance_scale: 0, seed: '1' };
      const { model } = await open(name);
      const { data: full } = await make(model, parameters);
      for (const weights of ['q8', 'q4'] as const) {
        const files = filesOf(name, weightlessContents(name));
        const quantised = await openModel(files, startNodeEngine().engine, { weights });
        expect(quantised.summary.memoryBytes).toBeLessThanOrEqual(model.summary.memoryBytes);
        const { data } = await make(quantised, parameters);
        const worst = data.reduce((most, value, i) => Math.max(most, Math.abs(value - full[i])), 0);
        expect(worst).toBeLessThanOrEqual(0.5);
      }
    },
  );

  test.each(['tiny-z-image', 'tiny-sd35', 'tiny-flux1-dev'])(
    '%s goes on where an attempt was broken off, with the same bits, and gives everything back',
    async (name) => {
      const parameters = { prompt: 'x', width: 48, height: 48, steps: 3, guidance_scale: 2, seed: '5' };
      const layers = { skip_guidance_layers: [1], skip_layer_guidance_scale: 1 };
      const { model, log } = await open(name);
      const whole = await make(model, parameters, undefined, layers);
      await model.release();
      expect(log.released).toBe(log.created);
      let state: unknown;
      const keep = (kept: unknown) => (state = state ?? structuredClone(kept));
      await make(model, parameters, undefined, { ...layers, keep });
      const again = (await open(name)).model;
      const rest = await make(again, parameters, undefined, { ...layers, resume: state });
      expect(rest.data).toEqual(whole.data);
    },
  );

  test('paints only in the white part of a mask', async () => {
    const { model } = await open('tiny-z-image');
    const [width, height] = [64, 48];
    const picture = {
      width,
      height,
      data: Uint8ClampedArray.from({ length: 4 * width * height }, (_, i) => (i * 7) % 256),
    };
    const mask = { width, height, data: picture.data.map((_, i) => ((i / 4) % width < width / 2 ? 0 : 255)) };
    const parameters = { prompt: 'x', width, height, steps: 3, guidance_scale: 0, strength: 0.8, seed: '4' };
    const { data } = await make(model, parameters, picture, { mask });
    const random = new TorchGenerator('4');
    const own = await (await model.encodeImage(picture, { width, height, batch_size: 1, random })).read();
    const columns = width / 8;
    const changes = data.map((value, i) => Math.abs(value - own[i]));
    expect(Math.max(...changes.filter((_, i) => i % columns < columns / 2))).toBeLessThanOrEqual(1e-5);
    expect(Math.max(...changes.filter((_, i) => i % columns >= columns / 2))).toBeGreaterThan(0.1);
  });

  test('is estimated with all its networks', async () => {
    const { model } = await open('tiny-flux2-klein');
    const request = {
      operation: 'image_generation',
      width: 128,
      height: 64,
      batch_size: 2,
      steps: 4,
      guidance_scale: 1,
    };
    expect([...(await model.toLoad(request)).keys()]).toEqual(['text_encoder', 'transformer', 'vae_decoder']);
    const { device, budget } = {
      device: startNodeEngine().engine.report,
      budget: { bytes: 2 ** 32, source: 'guess' as const },
    };
    const estimate = await model.estimate(request, {
      device,
      budget,
      rates: { measured: {}, pictures: {} },
      downloadBytes: 0,
    });
    expect(estimate.recommended).toBe('full');
    expect(estimate.flops?.total).toBeGreaterThan((estimate.flops?.step ?? 0) * 4);
  });
});

describe('one file of the original layout', () => {
  const ROOT = join(GOLDENS, 'original_layouts');
  const spiece = new Uint8Array(
    readFileSync(join(import.meta.dirname, 'weightless', 'tiny-flux1-schnell', 'tokenizer_2', 'spiece.model')),
  );
  // CLIP's vocabulary is an asset of the page, which Node reads from disk.
  beforeAll(() => {
    vi.stubGlobal('fetch', (url: URL) => Promise.resolve(new Response(readFileSync(fileURLToPath(url)))));
  });
  afterAll(() => {
    vi.unstubAllGlobals();
  });

  const contentsOf = (name: string, more: [string, Uint8Array<ArrayBuffer>][] = []): Contents =>
    new Map([[`${name}.safetensors`, originalLayoutFile(name)], ...more]);
  const openOne = (name: string, contents: Contents, weights: 'full' | 'q4' = 'full') =>
    openModel(filesOf(name, contents), startNodeEngine().engine, { weights });

  test.each(goldenCases(ROOT))('makes the picture that diffusers makes of it: $name', async (one) => {
    const files = filesOf(one.name, contentsOf(one.name, [['spiece.model', spiece]]));
    const { latents, pixels } = await differencesFrom(ROOT, one, files);
    expect(latents).toBeLessThanOrEqual(1e-3);
    expect(pixels).toBeLessThanOrEqual(2);
  });

  test('is summarised from its shapes, with T5 where its vocabulary lies beside it', async () => {
    const { summary } = await openOne('sd35', contentsOf('sd35'));
    expect(summary).toMatchObject({
      pipelineClass: 'StableDiffusion3Pipeline',
      needs: ['sd35.safetensors'],
      longestSide: 192,
      lacks: [
        expect.stringMatching(/is read without T5, its largest text encoder, whose vocabulary is in no such file/),
      ],
      defaults: { width: 1024, height: 1024, schedule: 'shifted' },
    });
    const { summary: flux } = await openOne('flux1', contentsOf('flux1', [['spiece.model', spiece]]));
    expect(flux).toMatchObject({
      pipelineClass: 'FluxPipeline',
      needs: ['flux1.safetensors', 'spiece.model'],
      defaults: { steps: 28, guidance_scale: 3.5 },
    });
  });

  test('is the same in 4 bits whether it is quantised on its way or as it was stored', async () => {
    const parameters = { prompt: 'a fox', width: 32, height: 32, steps: 1, guidance_scale: 1, seed: '1' };
    const contents = contentsOf('sd35');
    const onItsWay = await make(await openOne('sd35', contents, 'q4'), parameters);
    const file = contents.get('sd35.safetensors') as Uint8Array<ArrayBuffer>;
    const stored = new Uint8Array(await new Blob(quantisedFile('q4', 'sd35.safetensors', file)).arrayBuffer());
    expect(stored.length).toBeLessThan(file.length);
    const asStored = await make(await openOne('sd35', new Map([['sd35.safetensors', stored]]), 'q4'), parameters);
    const worst = asStored.data.reduce((most, value, i) => Math.max(most, Math.abs(value - onItsWay.data[i])), 0);
    expect(worst).toBeLessThanOrEqual(0.02);
  });

  test.each([
    [
      'flux1',
      [],
      /^flux1.safetensors does not have T5's vocabulary in it, .* choose spiece.model \(google\/t5-v1_1-xxl\) with it/,
    ],
    [
      'flux1',
      ['vae.'],
      /^flux1.safetensors is FLUX.1 without its autoencoder \(VAE\); choose what is missing with it, or a folder .*: ae\.safetensors \(/,
    ],
    ['sd35', ['text_encoders.'], /is Stable Diffusion 3 without its CLIP \(clip_l\) and OpenCLIP \(clip_g\);/],
  ] as const)('%s without %j is refused in a sentence', async (name, prefixes, message) => {
    const whole = originalLayoutFile(name);
    const header = parseSafetensorsHeader(
      whole.subarray(8, 8 + safetensorsHeaderLength(whole.subarray(0, 8), whole.length, name)),
      whole.length,
      name,
    );
    const kept = [...header.tensors.values()].filter(
      ({ name: each }) => !prefixes.some((start) => each.startsWith(start)),
    );
    const file = writeSafetensors(
      kept.map(({ name: each, shape, offset, length }) => [
        each,
        { dims: shape, data: new Float32Array(whole.slice(offset, offset + length).buffer) },
      ]),
    );
    await expect(openOne(name, new Map([[`${name}.safetensors`, file]]))).rejects.toThrow(message);
  });
});
