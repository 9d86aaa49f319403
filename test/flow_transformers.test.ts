/** Flow transformers on the processor against diffusers: what their text encoders read, whole pictures, and what is refused. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { PixelImage } from '../src/core/media.ts';
import type { Latents, SampleRequest } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';
import * as qwen3 from '../src/graphs/qwen3.ts';
import type { StoredTensor } from '../src/graphs/graph.ts';
import { openModel, type LoadedModel } from '../src/models/family.ts';
import { ChatTokenizer } from '../src/text/chat_tokenizer.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../src/weights/safetensors.ts';
import { readRows } from '../src/weights/embedding_rows.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';
import { readGolden, tensorBytes } from '../e2e/fixtures/door.ts';
import { run } from './onnx_node.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const GOLDENS = join(import.meta.dirname, 'goldens');
const PIPELINES = join(GOLDENS, 'transformers');

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
  image?: string;
  mask_image?: string;
  images?: string[];
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
  pictures: PixelImage[] = [],
  more: Partial<SampleRequest> = {},
) {
  const { width, height, guidance_scale, batch_size = 1, strength = 1 } = parameters;
  const random = new TorchGenerator(parameters.seed);
  const { signal } = new AbortController();
  const text = await model.encodeText({ ...parameters, negative_prompt: parameters.negative_prompt ?? '', batch_size });
  const start = picture && (await model.encodeImage(picture, { width, height, batch_size, random }));
  // One after another, as networks of one name take each other's place.
  const shown: Latents[] = [];
  for (const one of pictures) {
    shown.push((await model.encodeShown?.(one)) as Latents);
  }
  const latents = await model.sample(text, {
    ...parameters,
    batch_size,
    strength,
    shown,
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
  for (const one of [text, start, latents, ...shown]) {
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

  test.each(cases.map((entry, i) => ({ i, ...entry })))('$checkpoint $i $prompt', async (entry) => {
    const { checkpoint, prompt, after, thinking, padded, ids, length: sequence, kept, tokens, states } = entry;
    const files = filesOf(checkpoint, weightlessContents(checkpoint));
    const opened = await Checkpoint.open(files);
    const texts = new Map<string, string>();
    for (const path of files.paths().filter((each) => each.startsWith('tokenizer/'))) {
      texts.set(path.slice('tokenizer/'.length), (await opened.text(path)) ?? '');
    }
    const reader = { read: (name: string) => texts.get(name) };
    const tokenizer = new ChatTokenizer(reader, 512, { enable_thinking: thinking });
    const encoded = tokenizer.encode(prompt);
    expect([...encoded.ids]).toEqual(ids);
    const all = [...ids, ...Array.from({ length: sequence - kept }, () => tokenizer.pad)];
    expect(prompt.startsWith(encoded.text)).toBe(true);
    expect(encoded.text === prompt).toBe(encoded.tokens <= 512);

    const { config: values, weights, files: paths } = await opened.component('text_encoder');
    const config = qwen3.parseConfig(values);
    const table = weights.get(qwen3.embeddingTable(weights)) as StoredTensor;
    const options = { batch: 1, height: 0, width: 0, dtype: 'f32', sequence, after, padded: padded !== null } as const;
    const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
    let worst = 0;
    for (const provider of ['wasm', 'webgpu'] as const) {
      const graph = qwen3.build(config, weights, { ...options, provider });
      const inputs = {
        inputs_embeds: await readRows(files, table, all),
        ...qwen3.angles(config, sequence),
        ...(padded !== null && { attention_bias: qwen3.paddedMask(sequence, kept) }),
      };
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

describe('pictures are those of diffusers', () => {
  test.each(readdirSync(PIPELINES).sort())('%s', async (name) => {
    const { checkpoint, operation, latents, pixels } = readGolden(name, PIPELINES);
    const parameters = operation.parameters as unknown as Parameters;
    const { model, log } = await open(checkpoint);
    const shown = parameters.images?.map((_, n) => givenPicture(name, `image_${n}`)) ?? [];
    const start = parameters.image ? givenPicture(name, 'image') : undefined;
    const mask = parameters.mask_image ? givenPicture(name, 'mask_image') : undefined;
    const { data, pictures } = await make(model, parameters, start, shown, { mask });
    await model.release();
    expect(log.released).toBe(log.created);

    expect(data.length).toBe(latents.length);
    const spread = Math.sqrt(latents.reduce((sum, value) => sum + value * value, 0) / latents.length);
    const worst = data.reduce((most, value, i) => Math.max(most, Math.abs(value - latents[i])), 0) / spread;
    const rgb = pictures.flatMap(({ data: rgba }) => [...rgba.filter((_, i) => i % 4 !== 3)]);
    expect(rgb.length).toBe(pixels.length);
    const most = rgb.reduce((largest, value, i) => Math.max(largest, Math.abs(value - pixels[i])), 0);
    rows.push({ case: name, latents: worst.toExponential(1), pixels: String(most) });
    expect(worst).toBeLessThanOrEqual(1e-3);
    expect(most).toBeLessThanOrEqual(2);
  });
});

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    const { model } = await open('tiny-z-image-turbo');
    const { summary } = model;
    expect(summary).toMatchObject({
      pipelineClass: 'ZImagePipeline',
      multiple: 16,
      samplers: ['euler'],
      takesLoras: false,
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

  test('takes no LoRAs, and pictures only as large as they can be seen', async () => {
    const { model } = await open('tiny-flux2-klein');
    const lora = { file: new Blob(), name: 'paper', strength: 1 };
    await expect(model.useLoras([lora])).rejects.toThrow(/^FLUX\.2 cannot be run with LoRAs yet; take paper off/);
    const picture = (width: number, height: number) => ({
      width,
      height,
      data: new Uint8ClampedArray(4 * width * height),
    });
    await expect(model.encodeShown?.(picture(63, 200))).rejects.toThrow(/too small to be shown/);
    await expect(model.encodeShown?.(picture(64, 640))).rejects.toThrow(/too long to be shown/);
  });

  test('runs in 8 and 4 bits, nearly the same', async () => {
    const parameters = { prompt: 'a red house', width: 64, height: 48, steps: 2, guidance_scale: 0, seed: '1' };
    const { model } = await open('tiny-z-image');
    const { data: full } = await make(model, parameters);
    for (const weights of ['q8', 'q4'] as const) {
      const files = filesOf('tiny-z-image', weightlessContents('tiny-z-image'));
      const quantised = await openModel(files, startNodeEngine().engine, { weights });
      expect(quantised.summary.memoryBytes).toBeLessThanOrEqual(model.summary.memoryBytes);
      const { data } = await make(quantised, parameters);
      const worst = data.reduce((most, value, i) => Math.max(most, Math.abs(value - full[i])), 0);
      expect(worst).toBeLessThanOrEqual(0.5);
    }
  });

  test('goes on where an attempt was broken off, with the same bits', async () => {
    const parameters = { prompt: 'x', width: 48, height: 48, steps: 3, guidance_scale: 2, seed: '5' };
    const { model } = await open('tiny-z-image');
    const whole = await make(model, parameters);
    let state: unknown;
    await make(model, parameters, undefined, [], { keep: (kept) => (state = state ?? structuredClone(kept)) });
    const rest = await make((await open('tiny-z-image')).model, parameters, undefined, [], { resume: state });
    expect(rest.data).toEqual(whole.data);
  });

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
    const { data } = await make(model, parameters, picture, [], { mask });
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

/** A picture that a golden starts from, or is shown. */
function givenPicture(name: string, tensor: string): PixelImage {
  const file = new Uint8Array(readFileSync(join(PIPELINES, name, 'expected.safetensors')));
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, name);
  const [height, width] =
    parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, name).tensors.get(tensor)?.shape ?? [];
  const rgb = tensorBytes(file, tensor);
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let i = 0; i < width * height; i++) {
    data.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
  }
  return { width, height, data };
}
