/** Single-file checkpoints in the original layout: read in place, recognised by their shapes, with diffusers' pictures. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { SampleRequest } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';
import * as unet2d from '../src/graphs/unet2d_condition.ts';
import { openModel, type LoadedModel } from '../src/models/family.ts';
import { ClipTokenizer } from '../src/text/clip_tokenizer.ts';
import { clipTokenizerFiles } from '../src/text/clip_vocabulary.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { convert } from '../src/weights/conversion.ts';
import {
  parseSafetensorsHeader,
  safetensorsHeaderLength,
  writeSafetensors,
  writeSafetensorsHeader,
} from '../src/weights/safetensors.ts';
import { SingleFile } from '../src/weights/single_file.ts';
import { startNodeEngine } from './node_engine.ts';
import { quantisedFile } from './quantised_file.ts';
import * as xl from './stable_diffusion_shapes.ts';

const HERE = import.meta.dirname;
const bytesOf = (path: string) => new Uint8Array(readFileSync(join(HERE, path)));
const checkpoint = (name: string) => bytesOf(`single_files/${name}.safetensors`);

interface Golden {
  parameters: { prompt: string; negative_prompt: string; steps: number; guidance_scale: number; seed: string };
  latents: Float32Array;
  pixels: Uint8Array;
}

function golden(name: string): Golden {
  const folder = `goldens/single_files/${name}`;
  const { parameters } = JSON.parse(readFileSync(join(HERE, folder, 'operation.json'), 'utf8')) as Golden;
  const file = bytesOf(`${folder}/expected.safetensors`);
  const tensor = (key: string) => {
    const { offset, length } = headerOf(file).tensors.get(key)!;
    return file.slice(offset, offset + length);
  };
  return { parameters, latents: new Float32Array(tensor('latents').buffer), pixels: tensor('pixels') };
}

function headerOf(file: Uint8Array) {
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, 'file');
  return parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, 'file');
}

function asFile(bytes: BlobPart | Blob, name = 'model.safetensors'): FolderFiles {
  return new FolderFiles(name, [{ path: name, file: new File([bytes], name) }]);
}

function openFile(bytes: BlobPart, name?: string): Promise<LoadedModel> {
  return openModel(asFile(bytes, name), startNodeEngine().engine);
}

async function latentsOf(model: LoadedModel, { parameters }: Golden, chosen: Partial<SampleRequest> = {}) {
  const text = await model.encodeText({ ...parameters, batch_size: 1 });
  return model.sample(text, {
    ...parameters,
    width: 64,
    height: 64,
    batch_size: 1,
    strength: 1,
    guidance_mode: 'auto',
    random: new TorchGenerator(parameters.seed),
    start: undefined,
    mask: undefined,
    previews: false,
    signal: new AbortController().signal,
    onStart: () => undefined,
    onStep: () => undefined,
    resume: null,
    keep: () => undefined,
    ...chosen,
  });
}

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

// The vocabulary is an asset of the page, which Node reads from the disk.
beforeAll(() => {
  vi.stubGlobal('fetch', (url: URL) => Promise.resolve(new Response(readFileSync(fileURLToPath(url)))));
});
afterAll(() => {
  vi.unstubAllGlobals();
});

describe.each(['sd1', 'sd2'])('%s', (name) => {
  test('gives the picture that diffusers makes with the same networks', async () => {
    const expected = golden(name);
    const model = await openFile(checkpoint(name), `${name}.safetensors`);
    const latents = await latentsOf(model, expected);
    const worst = largest(await latents.read(), expected.latents);
    const [picture] = await model.decode(latents, { signal: new AbortController().signal, onPart: () => undefined });
    const rgb = picture.data.filter((_, i) => i % 4 !== 3);
    const pixels = largest(rgb, expected.pixels);
    console.log(`${name}: latents ${worst.toExponential(1)}, pixels ${pixels}`);
    expect(worst).toBeLessThanOrEqual(1e-3);
    expect(rgb.length).toBe(expected.pixels.length);
    expect(pixels).toBeLessThanOrEqual(2);
    await model.release();
  });

  test('says what it is', async () => {
    const bytes = checkpoint(name);
    const { summary, provenance } = await openFile(bytes, `${name}.safetensors`).then(async (model) => ({
      summary: model.summary,
      provenance: await model.provenance(),
    }));
    expect(summary).toMatchObject({
      ref: `folder:${name}.safetensors`,
      name,
      pipelineClass: 'StableDiffusionPipeline',
      needs: [`${name}.safetensors`],
      bytes: bytes.length,
      variants: ['full', 'q8', 'q4'],
      takesLoras: true,
      defaults: { width: 64, height: 64, sampler: name === 'sd1' ? 'plms' : 'ddim' },
    });
    expect(provenance).toMatchObject({
      checkpoint: { name, sha256: { [`${name}.safetensors`]: expect.stringMatching(/^[0-9a-f]{64}$/) as string } },
      scheduler_config: { prediction_type: name === 'sd1' ? 'epsilon' : 'v_prediction' },
    });
  });

  test('its words become the tokens of transformers, with CLIP’s own vocabulary', async () => {
    const expected = JSON.parse(
      readFileSync(join(HERE, 'goldens/single_files', name, 'tokens.json'), 'utf8'),
    ) as number[][];
    const tokenizer = new ClipTokenizer(await clipTokenizerFiles(name === 'sd1' ? '<|endoftext|>' : '!'));
    const prompts = [golden(name).parameters.prompt, "Ça va? naïve 3D!! don't 🙂 __proto__"];
    expect(prompts.map((prompt) => [...tokenizer.encode(prompt).ids])).toEqual(expected);
  });

  test('is quantised as it arrives like a folder, and runs from that', async () => {
    const whole = checkpoint(name);
    const kept = new File(quantisedFile('q8', `${name}.safetensors`, whole), 'model.safetensors');
    expect(kept.size).toBeLessThan(whole.length);
    const model = await openFile(kept);
    expect(model.summary.variants).toEqual(['q8']);
    // A random network under strong guidance amplifies the 8-bit error; a wrong layer would change everything.
    const latents = await (await latentsOf(model, golden(name))).read();
    const greatest = largest(golden(name).latents, new Float32Array(golden(name).latents.length));
    const difference = largest(latents, golden(name).latents) / greatest;
    expect(difference).toBeGreaterThan(0.01);
    expect(difference).toBeLessThan(0.2);
  });
});

test('a LoRA in kohya’s names fits a single file of its kind', async () => {
  const model = await openFile(checkpoint('sd1'));
  const wave = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
  const lora = new Blob([
    writeSafetensors([
      ['lora_unet_mid_block_attentions_0_proj_in.lora_down.weight', { dims: [2, 64, 1, 1], data: wave(128) }],
      ['lora_unet_mid_block_attentions_0_proj_in.lora_up.weight', { dims: [64, 2, 1, 1], data: wave(128) }],
      ['lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight', { dims: [2, 32], data: wave(64) }],
      ['lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight', { dims: [128, 2], data: wave(256) }],
    ]),
  ]);
  const expected = golden('sd1');
  const plain = await (await latentsOf(model, expected)).read();
  await model.useLoras([{ file: lora, name: 'Wave', strength: 1 }]);
  expect(largest(await (await latentsOf(model, expected)).read(), plain)).toBeGreaterThan(1e-2);
});

describe('put together from their shapes are', () => {
  /** Of a file that is only a header, as large as it says. */
  class Header extends Blob {
    override readonly size: number;
    constructor(shapes: Map<string, number[]>, metadata: Record<string, string> = {}) {
      let end = 0;
      const entries = [...shapes].map(([name, shape]) => {
        const begin = end;
        end += 2 * shape.reduce((product, side) => product * side, 1);
        return [name, { dtype: 'F16', shape, data_offsets: [begin, end] }];
      });
      const json = new TextEncoder().encode(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
      const length = new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer);
      super([length, json]);
      this.size = 8 + json.length + end;
    }
  }

  const CHANNELS = [320, 640, 1280, 1280];

  /** The published UNets, as their code numbers the layers. */
  function unet(context: number, linear: boolean, inputs = 4): Map<string, number[]> {
    const shapes = new Map<string, number[]>();
    const add = (path: string, shape: number[], bias = true) => {
      shapes.set(`model.diffusion_model.${path}.weight`, shape);
      if (bias) {
        shapes.set(`model.diffusion_model.${path}.bias`, [shape[0]]);
      }
    };
    const resnet = (path: string, from: number, to: number) => {
      add(`${path}.in_layers.0`, [from]);
      add(`${path}.in_layers.2`, [to, from, 3, 3]);
      add(`${path}.emb_layers.1`, [to, 1280]);
      add(`${path}.out_layers.0`, [to]);
      add(`${path}.out_layers.3`, [to, to, 3, 3]);
      if (from !== to) {
        add(`${path}.skip_connection`, [to, from, 1, 1]);
      }
    };
    const transformer = (path: string, width: number) => {
      add(`${path}.norm`, [width]);
      add(`${path}.proj_in`, linear ? [width, width] : [width, width, 1, 1]);
      add(`${path}.proj_out`, linear ? [width, width] : [width, width, 1, 1]);
      for (const [attention, from] of [
        ['attn1', width],
        ['attn2', context],
      ] as const) {
        const base = `${path}.transformer_blocks.0.${attention}`;
        add(`${base}.to_q`, [width, width], false);
        add(`${base}.to_k`, [width, from], false);
        add(`${base}.to_v`, [width, from], false);
        add(`${base}.to_out.0`, [width, width]);
      }
      [1, 2, 3].forEach((n) => add(`${path}.transformer_blocks.0.norm${n}`, [width]));
      add(`${path}.transformer_blocks.0.ff.net.0.proj`, [8 * width, width]);
      add(`${path}.transformer_blocks.0.ff.net.2`, [width, 4 * width]);
    };
    add('time_embed.0', [1280, 320]);
    add('time_embed.2', [1280, 1280]);
    add('input_blocks.0.0', [320, inputs, 3, 3]);
    const skips = [320];
    let [width, place] = [320, 1];
    CHANNELS.forEach((to, block) => {
      for (let layer = 0; layer < 2; layer++, place++) {
        resnet(`input_blocks.${place}.0`, width, to);
        if (block < 3) {
          transformer(`input_blocks.${place}.1`, to);
        }
        skips.push((width = to));
      }
      if (block < 3) {
        add(`input_blocks.${place++}.0.op`, [to, to, 3, 3]);
        skips.push(to);
      }
    });
    resnet('middle_block.0', 1280, 1280);
    transformer('middle_block.1', 1280);
    resnet('middle_block.2', 1280, 1280);
    place = 0;
    [...CHANNELS].reverse().forEach((to, block) => {
      for (let layer = 0; layer < 3; layer++, place++) {
        resnet(`output_blocks.${place}.0`, width + skips.pop()!, to);
        width = to;
        if (block > 0) {
          transformer(`output_blocks.${place}.1`, to);
        }
        if (block < 3 && layer === 2) {
          add(`output_blocks.${place}.${block > 0 ? 2 : 1}.conv`, [to, to, 3, 3]);
        }
      }
    });
    add('out.0', [320]);
    add('out.2', [4, 320, 3, 3]);
    return shapes;
  }

  const part = (name: string): [string, number[]][] => [[name, [4]]];
  const clip = new Map([
    ['cond_stage_model.transformer.text_model.embeddings.token_embedding.weight', [49408, 768]],
    ['cond_stage_model.transformer.text_model.embeddings.position_embedding.weight', [77, 768]],
    ...Array.from({ length: 12 }, (_, n): [string, number[]] => [
      `cond_stage_model.transformer.text_model.encoder.layers.${n}.mlp.fc1.weight`,
      [3072, 768],
    ]),
  ]);
  const openClip = new Map([
    ['cond_stage_model.model.token_embedding.weight', [49408, 1024]],
    ['cond_stage_model.model.positional_embedding', [77, 1024]],
    ...Array.from({ length: 24 }, (_, n): [string, number[]] => [
      `cond_stage_model.model.transformer.resblocks.${n}.mlp.c_fc.weight`,
      [4096, 1024],
    ]),
  ]);
  const vae = part('first_stage_model.decoder.conv_in.weight');

  test.each([
    ['Stable Diffusion 1.5', clip, 768, false, 8, 12],
    ['Stable Diffusion 2.1', openClip, 1024, true, [5, 10, 20, 20], 23],
  ] as const)('%s', async (_, text, context, linear, heads, layers) => {
    const shapes = unet(context, linear);
    const file = new Header(new Map([...shapes, ...vae, ...text]), { 'modelspec.prediction_type': 'epsilon' });
    const files = { ...asFile(''), blob: () => Promise.resolve(file) } as unknown as FolderFiles;
    const opened = await SingleFile.open(files, 'model.safetensors');
    const component = await opened.component('unet');
    expect(component.config).toMatchObject({
      block_out_channels: CHANNELS,
      layers_per_block: 2,
      cross_attention_dim: context,
      attention_head_dim: heads,
      use_linear_projection: linear,
      sample_size: [64, 64],
      down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'],
      up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
    });
    expect((await opened.component('text_encoder')).config).toMatchObject({
      num_hidden_layers: layers,
      num_attention_heads: context / 64,
      hidden_act: linear ? 'gelu' : 'quick_gelu',
    });
    // Every weight of the graph is found, with none left over.
    const options = { provider: 'webgpu', dtype: 'f16', batch: 1, height: 64, width: 64 } as const;
    unet2d.build(unet2d.parseConfig(component.config), component.weights, options);
    expect([...component.weights.names()]).toHaveLength(shapes.size);
  });

  test('Stable Diffusion XL, whose depths differ from block to block', async () => {
    const bigG = new Map([
      ['conditioner.embedders.1.model.token_embedding.weight', [49408, 1280]],
      ['conditioner.embedders.1.model.positional_embedding', [77, 1280]],
      ['conditioner.embedders.1.model.text_projection', [1280, 1280]],
      ...Array.from({ length: 32 }, (_, n): [string, number[]] => [
        `conditioner.embedders.1.model.transformer.resblocks.${n}.mlp.c_fc.weight`,
        [5120, 1280],
      ]),
    ] as [string, number[]][]);
    const clipL = Array.from(clip, ([name, shape]): [string, number[]] => [
      name.replace('cond_stage_model', 'conditioner.embedders.0'),
      shape,
    ]);
    const shapes = new Map(
      Array.from(xl.unetShapes(2048), ([name, shape]) => [`model.diffusion_model.${originalName(name)}`, shape]),
    );
    const marked: [string, number[]][] = [
      ['v_pred', [0]],
      ['ztsnr', [0]],
    ];
    const file = new Header(new Map([...shapes, ...vae, ...clipL, ...bigG, ...marked]));
    const files = { ...asFile(''), blob: () => Promise.resolve(file) } as unknown as FolderFiles;
    const opened = await SingleFile.open(files, 'model.safetensors');
    expect(opened.pipelineClass).toBe('StableDiffusionXLPipeline');
    const component = await opened.component('unet');
    expect(component.config).toMatchObject({
      block_out_channels: [320, 640, 1280],
      down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
      up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
      transformer_layers_per_block: [0, 2, 10],
      mid_block_type: 'UNetMidBlock2DCrossAttn',
      attention_head_dim: [5, 10, 20],
      cross_attention_dim: 2048,
      projection_class_embeddings_input_dim: 2816,
      sample_size: [128, 128],
    });
    expect(component.config).not.toHaveProperty('reverse_transformer_layers_per_block');
    const options = { provider: 'webgpu', dtype: 'f16', batch: 1, height: 128, width: 128 } as const;
    unet2d.build(unet2d.parseConfig(component.config), component.weights, options);
    expect([...component.weights.names()]).toHaveLength(shapes.size);
    expect((await opened.component('text_encoder_2')).config).toMatchObject({
      num_hidden_layers: 32,
      num_attention_heads: 20,
      projection_dim: 1280,
      hidden_act: 'gelu',
    });
    expect((await opened.component('text_encoder')).config).toMatchObject({ num_attention_heads: 12 });
    expect((await opened.component('vae')).config).toMatchObject({ scaling_factor: 0.13025 });
    expect(JSON.parse((await opened.text('scheduler/scheduler_config.json'))!)).toMatchObject({
      _class_name: 'EulerDiscreteScheduler',
      prediction_type: 'v_prediction',
      rescale_betas_zero_snr: true,
      timestep_spacing: 'trailing',
    });
  });

  test('files that are something else, or not whole, refused with a next step', async () => {
    const of = (...parts: Iterable<[string, number[]]>[]) => new Header(new Map(parts.flatMap((one) => [...one])));
    const core = unet(768, false);
    for (const [file, message] of [
      [
        of(core, clip),
        /^model\.safetensors has no autoencoder \(VAE\) in it, so what it makes cannot become a picture; choose a checkpoint that is complete/,
      ],
      [of(core, vae), /^model\.safetensors has no text encoder in it, so words cannot be read; choose/],
      [
        of(core),
        /^model\.safetensors has no text encoder and no autoencoder \(VAE\) in it, so words .* picture; choose/,
      ],
      [
        of(core, clip, part('first_stage_model.encoder.conv_in.weight')),
        /has no autoencoder \(VAE\) in it, so what it makes cannot become a picture/,
      ],
      [
        of(clip, vae, part('model_ema.diffusion_modelinput_blocks00weight')),
        /is a copy for training: it has only averaged weights \(EMA\), .*; get the pruned or the full version/,
      ],
      [
        of(core, vae, part('conditioner.embedders.0.transformer.text_model.x.weight')),
        /^model\.safetensors has no second text encoder in it, so words cannot be read; choose/,
      ],
      [
        of(core, vae, part('conditioner.embedders.0.model.ln_final.weight')),
        /^model\.safetensors is the refiner of Stable Diffusion XL, which .*; choose the base checkpoint\.$/,
      ],
      [of(part('lora_unet_a.lora_down.weight')), /is a LoRA and no checkpoint; add it to the LoRAs/],
      [of(part('down_blocks.0.resnets.0.conv1.weight')), /is one part of a diffusers folder; open the whole folder/],
      [of(part('model.diffusion_model.double_blocks.0.x.weight')), /is in a layout that Darkroom cannot run; it runs/],
    ] as const) {
      const files = { ...asFile(''), blob: () => Promise.resolve(file) } as unknown as FolderFiles;
      await expect(SingleFile.open(files, 'model.safetensors')).rejects.toThrow(message);
    }
  });
});

/** Stability AI's name for a layer of Stable Diffusion XL's UNet, with two layers per block. */
function originalName(name: string): string {
  const known: Record<string, string> = {
    conv_in: 'input_blocks.0.0',
    conv_norm_out: 'out.0',
    conv_out: 'out.2',
    'time_embedding.linear_1': 'time_embed.0',
    'time_embedding.linear_2': 'time_embed.2',
    'add_embedding.linear_1': 'label_emb.0.0',
    'add_embedding.linear_2': 'label_emb.0.2',
    norm1: 'in_layers.0',
    conv1: 'in_layers.2',
    time_emb_proj: 'emb_layers.1',
    norm2: 'out_layers.0',
    conv2: 'out_layers.3',
    conv_shortcut: 'skip_connection',
  };
  const [, path, ending] = /^(.*)\.(weight|bias)$/.exec(name)!;
  if (path in known) {
    return `${known[path]}.${ending}`;
  }
  const [, middle, index, inside] = /^mid_block\.(resnets|attentions)\.(\d)\.(.+)$/.exec(path) ?? [];
  if (middle) {
    return `middle_block.${middle === 'attentions' ? 1 : 2 * Number(index)}.${known[inside] ?? inside}.${ending}`;
  }
  const [, side, block, kind, number, rest] = /^(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)$/.exec(path)!;
  const [isScaling, isDown] = [kind.endsWith('samplers'), side === 'down'];
  const place = 3 * Number(block) + (isScaling ? 2 : Number(number)) + (isDown ? 1 : 0);
  const part = isScaling ? (isDown ? 0 : 2) : kind === 'attentions' ? 1 : 0;
  const layer = isScaling ? (isDown ? 'op' : 'conv') : kind === 'resnets' ? known[rest] : rest;
  return `${isDown ? 'input' : 'output'}_blocks.${place}.${part}.${layer}.${ending}`;
}

/** The same file with other metadata and empty marker tensors. */
function said(
  name: string,
  metadata: Record<string, string>,
  markers: string[] = [],
  change = (tensors: string[]) => tensors,
) {
  const whole = checkpoint(name);
  const { tensors } = headerOf(whole);
  const kept = change([...tensors.keys()]).map((key) => tensors.get(key)!);
  const header = writeSafetensorsHeader(
    [
      ...kept.map((tensor) => [tensor.name, tensor] as const),
      ...markers.map((marker) => [marker, { dtype: 'F32', shape: [0] }] as const),
    ],
    metadata,
  );
  return new Blob([header, ...kept.map(({ offset, length }) => whole.slice(offset, offset + length))]);
}

const SIZE = { 'modelspec.resolution': '64x64' };

describe('what a Stable Diffusion 1 says of itself', () => {
  const zero = { prediction_type: 'v_prediction', rescale_betas_zero_snr: true, timestep_spacing: 'trailing' };
  test.each<[string, Record<string, string>, string[], Record<string, unknown>]>([
    ['nothing', {}, [], { prediction_type: 'epsilon', _class_name: 'PNDMScheduler' }],
    ['noise', { 'modelspec.prediction_type': 'epsilon' }, [], { prediction_type: 'epsilon' }],
    ['velocity', { 'modelspec.prediction_type': 'v' }, [], { prediction_type: 'v_prediction' }],
    ['velocity in full', { 'modelspec.prediction_type': 'v_prediction' }, [], { prediction_type: 'v_prediction' }],
    [
      'velocity, written otherwise',
      { 'modelspec.prediction_type': ' V-Prediction' },
      [],
      { prediction_type: 'v_prediction' },
    ],
    [
      'velocity by its kind',
      { 'modelspec.architecture': 'stable-diffusion-v2-768-v' },
      [],
      { prediction_type: 'v_prediction' },
    ],
    ['velocity by a mark', {}, ['v_pred'], { prediction_type: 'v_prediction', timestep_spacing: 'leading' }],
    [
      'the mark against a tool’s default',
      { 'modelspec.prediction_type': 'epsilon' },
      ['v_pred'],
      { prediction_type: 'v_prediction' },
    ],
    ['velocity from pure noise', {}, ['v_pred', 'ztsnr'], zero],
    ['velocity in words, pure noise by a mark', { 'modelspec.prediction_type': 'v' }, ['ztsnr'], zero],
    ['pure noise alone, which ComfyUI passes over', {}, ['ztsnr'], { prediction_type: 'epsilon' }],
  ])('%s', async (_, metadata, markers, expected) => {
    const model = await openModel(asFile(said('sd1', { ...SIZE, ...metadata }, markers)), startNodeEngine().engine);
    const config = (await model.provenance()).scheduler_config as Record<string, unknown>;
    expect(config).toMatchObject(expected);
    expect(config.rescale_betas_zero_snr).toBe(expected.rescale_betas_zero_snr);
    expect(model.summary.defaults).toMatchObject({
      prediction_type: expected.prediction_type,
      ...(expected.rescale_betas_zero_snr === true && { rescale_betas_zero_snr: true }),
      width: 64,
    });
  });

  test('counts as the same choice by hand does, and is recorded', async () => {
    const marked = await openModel(asFile(said('sd1', SIZE, ['v_pred', 'ztsnr'])), startNodeEngine().engine);
    const silent = await openFile(checkpoint('sd1'));
    const expected = golden('sd1');
    const noise = await (await latentsOf(silent, expected)).read();
    const own = await (await latentsOf(marked, expected)).read();
    const byHand = { prediction_type: 'v_prediction', rescale_betas_zero_snr: true } as const;
    const chosen = await (await latentsOf(silent, expected, byHand)).read();
    expect(largest(own, noise)).toBeGreaterThan(0.1);
    expect(largest(chosen, own)).toBe(0);
    expect(await silent.provenance()).toMatchObject({ scheduler_config: byHand, sampler: 'ddim' });
    const back = { prediction_type: 'epsilon', rescale_betas_zero_snr: false } as const;
    await latentsOf(marked, expected, back);
    expect(await marked.provenance()).toMatchObject({ scheduler_config: back });
  });
});

test('without the autoencoder’s encoder it makes pictures from words, and says that it cannot start from one', async () => {
  const half = said('sd1', SIZE, [], (names) =>
    names.filter((name) => !/^first_stage_model\.(encoder\.|quant_conv)/.test(name)),
  );
  const model = await openModel(asFile(half, 'half.safetensors'), startNodeEngine().engine);
  expect(model.summary.lacks).toEqual([
    '"half" has no encoder in its autoencoder (VAE): it makes pictures from words, but cannot start from a picture.',
  ]);
  const expected = golden('sd1');
  const latents = await latentsOf(model, expected);
  const [picture] = await model.decode(latents, { signal: new AbortController().signal, onPart: () => undefined });
  expect(
    largest(
      picture.data.filter((_, i) => i % 4 !== 3),
      expected.pixels,
    ),
  ).toBeLessThanOrEqual(2);
  const start = { width: 64, height: 64, data: new Uint8ClampedArray(64 * 64 * 4) };
  await expect(
    model.encodeImage(start, { width: 64, height: 64, batch_size: 1, random: new TorchGenerator('1') }),
  ).rejects.toThrow(
    /has no encoder in its autoencoder \(VAE\), so it cannot start from a picture; make one from words/,
  );
  expect((await openFile(checkpoint('sd1'))).summary).not.toHaveProperty('lacks');
});

test('weights in types that cannot be read are called by their name, and never damaged', async () => {
  const first = 'model.diffusion_model.input_blocks.0.0.weight';
  const retyped = (dtype: string, extra: [string, { dtype: string; shape: number[]; length: number }][] = []) => {
    const whole = checkpoint('sd1');
    const { tensors } = headerOf(whole);
    const entries = [...tensors.values()].map(({ name, length, ...rest }) => {
      const size = name === first ? { dtype, length: rest.shape.reduce((n, side) => n * side, 1) } : { length };
      return [name, { ...rest, ...size }] as [string, { dtype: string; shape: number[]; length: number }];
    });
    const header = writeSafetensorsHeader([...entries, ...extra], SIZE);
    const bytes =
      entries.reduce((sum, [, { length }]) => sum + length, 0) + extra.reduce((sum, [, { length }]) => sum + length, 0);
    return asFile(new Blob([header, new Uint8Array(bytes)]));
  };
  for (const dtype of ['I8', 'U8', 'F8_E8M0', 'F8_E4M3FNUZ', 'NF4']) {
    await expect(openModel(retyped(dtype), startNodeEngine().engine)).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
      message: `model.safetensors has its weights stored as ${dtype} (such as "${first}"), which Darkroom cannot run; get this checkpoint in F16, BF16 or F32.`,
    });
  }
  await openModel(retyped('F8_E4M3'), startNodeEngine().engine);
  const scales = retyped('F8_E4M3', [
    ['model.diffusion_model.input_blocks.0.0.weight_scale_inv', { dtype: 'F32', shape: [1, 1], length: 4 }],
  ]);
  await expect(openModel(scales, startNodeEngine().engine)).rejects.toThrow(
    /in 8 bits with scales of their own \(".*weight_scale_inv"\)/,
  );
});

test.each([
  ['noise', 0.02, 'epsilon'],
  ['velocity', 0.2, 'v_prediction'],
])(
  'what a Stable Diffusion 2 predicts, the %s, shows in its weights where nothing says it',
  async (_, spread, expected) => {
    const whole = checkpoint('sd2');
    const { tensors, headerBytes } = headerOf(whole);
    const last = [...tensors.values()]
      .filter(({ name }) => /output_blocks\.\d+\.1\.transformer_blocks\.0\.norm1\.bias$/.test(name))
      .sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }))
      .at(-1)!;
    const values = Float32Array.from({ length: last.shape[0] }, (__, i) => (i % 2 ? spread : -spread));
    const bias = convert(new Uint8Array(values.buffer), 'F32', 'F16');
    whole.set(bias, last.offset);
    const text = new TextDecoder().decode(whole.subarray(8, headerBytes));
    const silent = text
      .replace('"modelspec.prediction_type":"v"', '"modelspec.prediction_typo":"v"')
      .replace('"modelspec.prediction_type": "v"', '"modelspec.prediction_typo": "v"');
    expect(silent).not.toBe(text);
    whole.set(new TextEncoder().encode(silent), 8);
    const model = await openFile(whole);
    expect(await model.provenance()).toMatchObject({ scheduler_config: { prediction_type: expected } });
  },
);
