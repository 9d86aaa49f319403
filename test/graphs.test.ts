/** Every network of every test checkpoint against diffusers, on the CPU; what is refused; the size of a real graph. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import * as ortWeb from 'onnxruntime-web';
import { afterAll, describe, expect, test } from 'vitest';
import type { Graph, GraphOptions, Provider, WeightIndex } from '../src/graphs/graph.ts';
import * as autoencoderKl from '../src/graphs/autoencoder_kl.ts';
import * as autoencoderTiny from '../src/graphs/autoencoder_tiny.ts';
import * as controlnet from '../src/graphs/controlnet.ts';
import * as clipText from '../src/graphs/clip_text.ts';
import * as unet2d from '../src/graphs/unet2d_condition.ts';
import { StudioError } from '../src/core/errors.ts';
import { LayerWriter } from '../src/graphs/layers.ts';
import { CheckpointFolder, CpuNetwork, parseModel, readTensors, run } from './onnx_node.ts';
import { FakeWeights } from './fake_weights.ts';
import { autoencoderShapes, controlNetShapes, unetShapes } from './stable_diffusion_shapes.ts';

const CHECKPOINTS = `${import.meta.dirname}/checkpoints`;
const GOLDENS = `${import.meta.dirname}/goldens/components`;
const TOLERANCE = 1e-4;

const rows: { checkpoint: string; network: string; wasm?: string; webgpu?: string }[] = [];

function largestDifference(actual: Float32Array, expected: Float32Array | Int32Array): number {
  expect(actual.length).toBe(expected.length);
  return actual.reduce((largest, value, index) => Math.max(largest, Math.abs(value - expected[index])), 0);
}

function report(checkpoint: string, network: string, provider: Provider, difference: number) {
  let row = rows.find((each) => each.checkpoint === checkpoint && each.network === network);
  if (!row) {
    row = { checkpoint, network };
    rows.push(row);
  }
  row[provider] = Math.max(difference, Number(row[provider] ?? 0)).toExponential(1);
}

afterAll(() => {
  console.table(rows);
});

const names = readdirSync(CHECKPOINTS).filter((name) => existsSync(`${GOLDENS}/${name}.safetensors`));

describe.each(names)('%s', (name) => {
  const goldens = readTensors(`${GOLDENS}/${name}.safetensors`);
  const golden = (key: string) => {
    const tensor = goldens.get(key);
    if (!tensor) {
      throw new Error(`no golden ${key}`);
    }
    return tensor;
  };
  const numbered = (pattern: RegExp) => [...goldens.keys()].filter((key) => pattern.test(key));

  describe.each(['wasm', 'webgpu'] as const)('nodes for %s', (provider) => {
    const base = { provider, dtype: 'f32', batch: 1, height: 0, width: 0 } as const;

    /** Runs `graph` once per case; `row` picks the picture of the batch to compare. */
    const compare = async (
      network: string,
      graph: Graph,
      weights: CheckpointFolder,
      cases: { inputs: Record<string, Float32Array | Int32Array>; expected: string; row?: number }[],
    ) => {
      const session = await CpuNetwork.open(graph, weights);
      for (const { inputs, expected, row } of cases) {
        const results = await session.run(inputs);
        const { dims, data } = golden(expected);
        const length = data.length / dims[0];
        const [from, to] = row === undefined ? [0, data.length] : [row * length, (row + 1) * length];
        const actual = results[graph.outputs[0].name].subarray(from, to);
        judge(network, actual, data.subarray(from, to));
      }
      await session.release();
    };

    const judge = (network: string, actual: Float32Array, data: Float32Array | Int32Array) => {
      const difference = largestDifference(actual, data);
      report(name, network, provider, difference);
      // Relative to the output's range where that exceeds 1: the encoder's moments reach 30, and torch's own f32 encoder is
      // 3e-4 away from its f64 one there.
      const range = Math.max(1, ...Float32Array.from(data, Math.abs));
      expect(difference).toBeLessThan(TOLERANCE * range);
    };

    test('text encoder', async () => {
      const weights = new CheckpointFolder(`${CHECKPOINTS}/${name}/text_encoder`);
      const graph = clipText.build(clipText.parseConfig(weights.config), weights, base);
      const cases = numbered(/^input_ids/).map((key) => ({
        inputs: { input_ids: golden(key).data },
        expected: key.replace('input_ids', 'prompt_embeds'),
      }));
      await compare('text encoder', graph, weights, cases);
    });

    test('UNet, with the text in every step and once before them', async () => {
      const weights = new CheckpointFolder(`${CHECKPOINTS}/${name}/unet`);
      const config = unet2d.parseConfig(weights.config);
      for (const key of numbered(/^unet\.\d+\.sample$/)) {
        const prefix = key.replace('.sample', '');
        const { dims, data: sample } = golden(key);
        const [batch, , height, width] = dims;
        const options = { ...base, batch, height, width };
        const encoder_hidden_states = golden(`${prefix}.encoder_hidden_states`).data;
        const context = unet2d.buildContext(config, weights, options);
        const variants = [
          { graph: unet2d.build(config, weights, options), text: { encoder_hidden_states } },
          {
            graph: unet2d.build(config, weights, { ...options, projected: true }),
            text: await run(context, weights, { encoder_hidden_states }),
          },
        ];
        for (const [index, { graph, text }] of variants.entries()) {
          const network = `unet [${dims.join()}]${index === 1 ? ' projected' : ''}`;
          // The goldens have a timestep per picture, the graph one for all: one run for each, compared on its own picture.
          const cases = Array.from(golden(`${prefix}.timestep`).data, (timestep, row) => {
            const time_proj = unet2d.timeProjection(config, timestep);
            return { inputs: { sample, time_proj, ...text }, expected: `${prefix}.out`, row };
          });
          await compare(network, graph, weights, cases);
        }
      }
    });

    test('autoencoder', async () => {
      const weights = new CheckpointFolder(`${CHECKPOINTS}/${name}/vae`);
      const kl = goldens.has('vae.moments');
      const architecture = kl ? autoencoderKl : autoencoderTiny;
      const config = architecture.parseConfig(weights.config) as autoencoderKl.Config & autoencoderTiny.Config;
      const { dims, data } = golden('vae.decode_in');
      const [batch, , height, width] = dims;
      const decoder = architecture.buildDecoder(config, weights, { ...base, batch, height, width });
      await compare('decoder', decoder, weights, [{ inputs: { latent_sample: data }, expected: 'vae.decode_out' }]);
      const image = golden('vae.image');
      const options = { ...base, batch: image.dims[0], height: image.dims[2], width: image.dims[3] };
      const encoder = architecture.buildEncoder(config, weights, options);
      const expected = kl ? 'vae.moments' : 'vae.latents';
      await compare('encoder', encoder, weights, [{ inputs: { sample: image.data }, expected }]);
    });
  });
});

describe('half precision', () => {
  const name = 'tiny-sd15-f16';
  const half = { provider: 'webgpu', dtype: 'f16', batch: 1, height: 8, width: 8 } as const;
  const goldens = readTensors(`${GOLDENS}/${name}.safetensors`);
  const data = (key: string) => goldens.get(key)?.data ?? new Float32Array();

  test('the UNet uses the stored bytes and is near the f32 result', async () => {
    const weights = new CheckpointFolder(`${CHECKPOINTS}/${name}/unet`);
    const config = unet2d.parseConfig(weights.config);
    const graph = unet2d.build(config, weights, half);
    // The time embedding is computed in f32, and biases are summed in f32.
    const converted = graph.externals.flatMap((external) => (external.kind === 'cast' ? [external] : []));
    const matrices = converted.filter(({ tensor }) => tensor.shape.length > 1).map(({ tensor }) => tensor.name);
    expect(matrices).toEqual(['time_embedding.linear_1.weight', 'time_embedding.linear_2.weight']);
    expect(converted.every(({ to }) => to === 'f32')).toBe(true);
    const { out_sample } = await run(graph, weights, {
      sample: data('unet.0.sample'),
      time_proj: unet2d.timeProjection(config, data('unet.0.timestep')[0]),
      encoder_hidden_states: data('unet.0.encoder_hidden_states'),
    });
    const difference = largestDifference(out_sample, data('unet.0.out'));
    report(name, 'unet.0 in f16', 'webgpu', difference);
    expect(difference).toBeLessThan(0.05);
  });

  test('the other networks build and run', async () => {
    const text = new CheckpointFolder(`${CHECKPOINTS}/${name}/text_encoder`);
    const encoder = clipText.build(clipText.parseConfig(text.config), text, half);
    const { last_hidden_state } = await run(encoder, text, { input_ids: data('input_ids.0') });
    report(name, 'input_ids.0 in f16', 'webgpu', largestDifference(last_hidden_state, data('prompt_embeds.0')));
    expect(largestDifference(last_hidden_state, data('prompt_embeds.0'))).toBeLessThan(0.05);

    const vae = new CheckpointFolder(`${CHECKPOINTS}/${name}/vae`);
    const [, , height, width] = goldens.get('vae.decode_in')?.dims ?? [];
    const decoder = autoencoderKl.buildDecoder(autoencoderKl.parseConfig(vae.config), vae, { ...half, height, width });
    const { sample } = await run(decoder, vae, { latent_sample: data('vae.decode_in') });
    report(name, 'decoder in f16', 'webgpu', largestDifference(sample, data('vae.decode_out')));
    expect(largestDifference(sample, data('vae.decode_out'))).toBeLessThan(0.1);
  });

  test('scores that exceed f16 are computed in f32 where config.json says so', () => {
    const weights = new CheckpointFolder(`${CHECKPOINTS}/tiny-sd21/unet`);
    const casts = (graph: Graph) =>
      parseModel(graph.bytes).graph?.node.filter(({ opType }) => opType === 'Cast').length;
    const config = unet2d.parseConfig(weights.config);
    expect(config.upcast_attention).toBe(true);
    const plain = casts(unet2d.build({ ...config, upcast_attention: false }, weights, half)) ?? 0;
    expect(casts(unet2d.build(config, weights, half))).toBe(plain + 32 * 4);
    expect(casts(unet2d.build(config, weights, { ...half, dtype: 'f32' }))).toBe(0);
  });
});

/** The configuration of stabilityai/stable-diffusion-xl-base-1.0. */
const SDXL = {
  addition_embed_type: 'text_time',
  addition_time_embed_dim: 256,
  attention_head_dim: [5, 10, 20],
  block_out_channels: [320, 640, 1280],
  cross_attention_dim: 2048,
  down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
  projection_class_embeddings_input_dim: 2816,
  transformer_layers_per_block: [1, 2, 10],
  up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
  use_linear_projection: true,
};

describe('a whole UNet', () => {
  const sd21 = {
    block_out_channels: [320, 640, 1280, 1280],
    attention_head_dim: [5, 10, 20, 20],
    cross_attention_dim: 1024,
    use_linear_projection: true,
  };
  const options = { provider: 'webgpu', dtype: 'f32', batch: 2, height: 64, width: 64 } as const;

  test('of Stable Diffusion 2.1 has 865.9 million parameters, all of which stay in their file', () => {
    const weights = new FakeWeights(unetShapes(1024));
    const config = unet2d.parseConfig(sd21);
    const begin = performance.now();
    const graph = unet2d.build(config, weights, options);
    const ms = Math.round(performance.now() - begin);
    console.log(`Stable Diffusion 2.1: ${graph.nodes} nodes, ${graph.bytes.length} bytes, built in ${ms} ms`);
    expect(weights.parameters).toBe(865_910_724);
    expect([...weights.names()].filter((name) => !weights.asked.has(name))).toEqual([]);
    const file = 'unet.safetensors';
    expect(graph.externals.filter(({ kind }) => kind !== 'fill')).toEqual([
      { location: file, kind: 'file', file, ranges: expect.any(Array) as unknown },
    ]);
    expect(graph.inputs.map(({ name, dims }) => [name, dims])).toEqual([
      ['sample', [2, 4, 64, 64]],
      ['time_proj', [1, 320]],
      ['encoder_hidden_states', [2, 77, 1024]],
    ]);
    expect(graph.outputs).toEqual([{ name: 'out_sample', dtype: 'float32', dims: [2, 4, 64, 64] }]);
    expect(graph.bytes.length).toBeLessThan(500_000);
    const model = parseModel(graph.bytes);
    const attention = model.graph?.node.find(({ name }) =>
      name.endsWith('up_blocks.3.attentions.2.transformer_blocks.0.attn2'),
    );
    expect(attention?.opType).toBe('MultiHeadAttention');
    expect(attention?.attribute[0]).toMatchObject({ name: 'num_heads', i: 5n });
    expect(new Set(model.graph?.node.map(({ name }) => name)).size).toBe(graph.nodes);
  });

  test('of Stable Diffusion XL it has 2567.5 million, and takes the text as a whole and sizes', () => {
    const weights = new FakeWeights(unetShapes(2048));
    const config = unet2d.parseConfig(SDXL);
    const large = { ...options, height: 128, width: 128 };
    const graph = unet2d.build(config, weights, { ...large, projected: true });
    const context = unet2d.buildContext(config, weights, large);
    expect(weights.parameters).toBe(2_567_463_684);
    expect([...weights.names()].filter((name) => !weights.asked.has(name))).toEqual([]);
    // TFLOP of one call, counted on the class of diffusers.
    expect((graph.flops + context.flops) / 2e12).toBeCloseTo(6.761, 1);
    expect(context.inputs.map(({ name, dims }) => [name, dims])).toEqual([
      ['encoder_hidden_states', [2, 77, 2048]],
      ['text_embeds', [2, 1280]],
      ['added_time', [2, 1536]],
    ]);
    expect(graph.inputs.find(({ name }) => name === 'added_embedding')?.dims).toEqual([2, 1280]);
    expect(graph.bytes.length).toBeLessThan(1_500_000);
  });

  test.each([768, 1024, 2048])(
    'for inpainting (text of %d) it takes the mask and what stays beside the latents',
    (width) => {
      const weights = new FakeWeights(unetShapes(width, 9));
      const json =
        width === 2048 ? SDXL : width === 1024 ? sd21 : { ...sd21, attention_head_dim: 8, cross_attention_dim: 768 };
      const config = unet2d.parseConfig({ ...json, in_channels: 9 });
      const { inputs, outputs } = unet2d.build(config, weights, options);
      expect(inputs.slice(0, 2).map(({ name, dims }) => [name, dims])).toEqual([
        ['sample', [2, 4, 64, 64]],
        ['masked', [2, 5, 64, 64]],
      ]);
      expect(outputs[0].dims).toEqual([2, 4, 64, 64]);
      expect([...weights.names()].filter((name) => !weights.asked.has(name))).toEqual([]);
    },
  );

  // Counted on the class of diffusers.
  test.each([
    [768, 361_279_120, { ...sd21, attention_head_dim: 8, cross_attention_dim: 768, use_linear_projection: false }, 13],
    [1024, 364_228_240, sd21, 13],
    [2048, 1_251_014_160, SDXL, 10],
  ])('has a ControlNet (text of %d) of %d parameters, which gives what it takes', (context, count, json, residuals) => {
    const shapes = controlNetShapes(context);
    // A projection by convolution has as many numbers.
    const weights = new FakeWeights(shapes);
    expect(weights.parameters).toBe(count);
    const config = controlnet.parseConfig(json);
    const network = controlnet.build(config, weights, options);
    controlnet.buildContext(config, weights, options);
    const hint = controlnet.buildHint(config, weights, { ...options, batch: 1 });
    expect(hint.inputs[0].dims).toEqual([1, 3, 512, 512]);
    expect([...weights.names()].filter((name) => !weights.asked.has(name))).toEqual([]);
    const unet = unet2d.build(unet2d.parseConfig(json), new FakeWeights(unetShapes(context)), {
      ...options,
      projected: true,
      controlled: true,
    });
    const named = ({ name }: { name: string }) => name.includes('_additional_residual');
    expect(network.outputs).toEqual(unet.inputs.filter(named));
    expect(network.outputs).toHaveLength(residuals);
  });

  test('tensors beyond 4 GiB of a file get locations of their own', () => {
    const weights = new FakeWeights(unetShapes(1024), 2 ** 32 - 1_000_000_000);
    const { externals } = unet2d.build(unet2d.parseConfig(sd21), weights, options);
    const casts = externals.flatMap((external) => (external.kind === 'cast' ? [external] : []));
    expect(casts.length).toBeGreaterThan(100);
    for (const { tensor, to, length } of casts) {
      expect(tensor.offset + tensor.length).toBeGreaterThan(2 ** 32);
      expect([to, length]).toEqual(['f32', tensor.length]);
    }
  });
});

describe('what a graph says of itself', () => {
  const vae = {
    block_out_channels: [128, 256, 512, 512],
    down_block_types: Array<string>(4).fill('DownEncoderBlock2D'),
    up_block_types: Array<string>(4).fill('UpDecoderBlock2D'),
    layers_per_block: 2,
  };
  const size = { provider: 'webgpu', dtype: 'f16', batch: 1, height: 64, width: 64 } as const;

  // The expected figures were counted on diffusers' classes.
  test('flops of Stable Diffusion 2.1 at 512×512, and bytes', () => {
    const unet = unet2d.parseConfig({
      attention_head_dim: [5, 10, 20, 20],
      cross_attention_dim: 1024,
      use_linear_projection: true,
    });
    const unetWeights = new FakeWeights(unetShapes(1024));
    const whole = unet2d.build(unet, unetWeights, size);
    const step = unet2d.build(unet, unetWeights, { ...size, projected: true });
    const context = unet2d.buildContext(unet, unetWeights, size);
    const q4 = unet2d.build(unet, unetWeights, { ...size, projected: true, weights: 'q4' });
    const vaeWeights = new FakeWeights(autoencoderShapes());
    const config = autoencoderKl.parseConfig(vae);
    const decoder = autoencoderKl.buildDecoder(config, vaeWeights, { ...size, dtype: 'f32' });
    const encoder = autoencoderKl.buildEncoder(config, vaeWeights, { ...size, dtype: 'f32', height: 512, width: 512 });
    console.table(
      Object.entries({ whole, step, context, q4, decoder, encoder }).map(
        ([graph, { flops, activationBytes, weightBytes }]) => ({
          graph,
          TFLOP: (flops / 1e12).toFixed(3),
          'activations MiB': (activationBytes / 2 ** 20).toFixed(1),
          'weights MiB': (weightBytes / 2 ** 20).toFixed(1),
        }),
      ),
    );
    expect(vaeWeights.parameters).toBe(83_653_863);
    expect(whole.flops / 1e12).toBeCloseTo(0.804, 2);
    expect(decoder.flops / 1e12).toBeCloseTo(2.51, 1);
    expect(encoder.flops / 1e12).toBeCloseTo(1.12, 1);
    // The last projections' bias passes through them once, in addition to what moves out of the step.
    expect((step.flops + context.flops) / whole.flops).toBeCloseTo(1, 3);
    expect(q4.flops).toBe(step.flops);
    expect(q4.weightBytes).toBeLessThan(step.weightBytes - 300 * 2 ** 20);
    expect(unet2d.build(unet, unetWeights, { ...size, batch: 2 }).flops).toBeCloseTo(2 * whole.flops, -11);
    // Two bytes per parameter, plus unit scales, the f32 time embedding and shared biases.
    expect(whole.weightBytes / (2 * unetWeights.parameters)).toBeCloseTo(1.005, 2);
  });

  test('activations are those alive at the same time, at the width of the graph', () => {
    const weights = new FakeWeights(
      new Map([
        ['a.weight', [8, 4]],
        ['b.weight', [4, 8]],
      ]),
    );
    const bytesFor = (dtype: 'f32' | 'f16') => {
      const g = new LayerWriter('test', weights, { provider: 'wasm', dtype, batch: 1, height: 1, width: 1 });
      const x = g.floats('x', [6, 4]);
      const wide = g.linear('a', x, 8, { bias: false });
      // Another shape of the same bytes.
      const reshaped = g.reshape('reshape', g.reshape('there', wide, [48]), [6, 8]);
      const narrow = g.linear('b', g.silu('silu', reshaped), 4, { bias: false });
      g.output('y', g.add('add', narrow, x));
      return g.graph().activationBytes;
    };
    // In f32 the input is not counted: 48 elements and 48 of their SiLU.
    expect(bytesFor('f32')).toBe(4 * (48 + 48));
    // In f16 its cast is counted: it lives from the first node to the last, and 24 more become the output.
    expect(bytesFor('f16')).toBe(2 * (24 + 48 + 48));
  });
});

describe('every architecture of src/graphs', () => {
  type Builder = (config: unknown, weights: WeightIndex, options: GraphOptions) => Graph;
  interface Architecture {
    className: string;
    parseConfig: (json: unknown) => unknown;
    build?: Builder;
    buildDecoder?: Builder;
    buildEncoder?: Builder;
    buildContext?: Builder;
  }
  const modules = Object.entries(import.meta.glob<Partial<Architecture>>('../src/graphs/*.ts', { eager: true }));
  // Upscalers have no config.json: their architecture is read from their tensors.
  const architectures = modules.filter((entry): entry is [string, Architecture] => entry[1].parseConfig !== undefined);

  /** Options that the reference has and we refuse. */
  const refused: Record<string, Record<string, unknown>> = {
    HeartMuLa: { backbone_flavor: 'llama-1T', decoder_flavor: { num_heads: 7 }, model_type: 'csm' },
    HeartCodec: {
      causal: false,
      in_channels: 512,
      norm_type: 'layer_norm',
      num_bands: 2,
      out_channels: 64,
      sample_rate: 44100,
      upsample_kernel_sizes: [3, 3, 3, 3, 3],
      use_cosine_sim: true,
    },
    CLIPTextModel: { hidden_act: 'gelu_new', hidden_size: 0, num_attention_heads: 7, vocab_size: '49408' },
    CLIPVisionModelWithProjection: {
      hidden_act: 'gelu_new',
      num_attention_heads: 7,
      num_channels: 1,
      num_hidden_layers: 1,
    },
    UNet2DConditionModel: {
      act_fn: 'gelu',
      addition_embed_type: 'image',
      attention_type: 'gated',
      block_out_channels: [320, 'wide'],
      class_embed_type: 'projection',
      class_embeddings_concat: true,
      conv_in_kernel: 2,
      cross_attention_norm: 'group_norm',
      down_block_types: ['SimpleCrossAttnDownBlock2D'],
      downsample_padding: 3,
      dual_cross_attention: true,
      encoder_hid_dim: 768,
      encoder_hid_dim_type: 'text_proj',
      layers_per_block: [2, 2],
      mid_block_scale_factor: 2,
      mid_block_type: 'UNetMidBlock2DSimpleCrossAttn',
      norm_num_groups: null,
      num_attention_heads: 7,
      num_class_embeds: 10,
      resnet_out_scale_factor: 2,
      resnet_skip_time_act: true,
      resnet_time_scale_shift: 'scale_shift',
      reverse_transformer_layers_per_block: [[1], [1]],
      time_cond_proj_dim: 0,
      time_embedding_act_fn: 'silu',
      time_embedding_dim: 512,
      time_embedding_type: 'fourier',
      timestep_post_act: 'silu',
      up_block_types: ['AttnUpBlock2D'],
    },
    UNetMotionModel: {
      act_fn: 'gelu',
      down_block_types: ['SimpleCrossAttnDownBlockMotion'],
      mid_block_layers: 2,
      motion_max_seq_length: 0,
      motion_num_attention_heads: 7,
      temporal_transformer_layers_per_block: [1, 2],
      temporal_transformer_layers_per_mid_block: 2,
    },
    ControlNetModel: {
      conditioning_channels: 4,
      controlnet_conditioning_channel_order: 'bgr',
      global_pool_conditions: true,
      class_embed_type: 'projection',
      addition_embed_type: 'text',
      conditioning_embedding_out_channels: [],
    },
    AutoencoderKL: {
      act_fn: 'relu',
      down_block_types: ['AttnDownEncoderBlock2D'],
      norm_num_groups: 0,
      up_block_types: ['UpDecoderBlock2D', 'UpDecoderBlock2D'],
    },
    AceStepAudioTokenDetokenizer: { attention_bias: true, num_key_value_heads: 5, pool_window_size: 0 },
    AceStepAudioTokenizer: { attention_bias: true, fsq_input_num_quantizers: 2, num_key_value_heads: 5 },
    AceStepConditionEncoder: { attention_bias: true, layer_types: ['causal_attention'], num_key_value_heads: 5 },
    AceStepTransformer1DModel: { attention_bias: true, layer_types: ['causal_attention'], num_hidden_layers: 0 },
    AutoencoderOobleck: { downsampling_ratios: [2, 4], sampling_rate: 0 },
    AutoencoderSAME: {
      dim_heads: 100,
      encoder_channels: 0,
      encoder_strides: [4, 4],
      encoder_transformer_depths: [3, 3],
      sampling_rate: '44100',
    },
    StableAudio3DiTModel: { depth: 0, embed_dim: 1000, local_add_cond_dim: 256, num_heads: '24', patch_size: 2 },
    T5GemmaEncoderModel: {
      encoder: { hidden_activation: 'gelu' },
      is_encoder_decoder: true,
    },
    StableAudioDiTModel: { in_channels: 32, num_layers: 0, sample_size: '1024' },
    StableAudioProjectionModel: { text_encoder_dim: 0, conditioning_dim: '768' },
    AutoencoderTiny: { act_fn: 'silu', num_decoder_blocks: [3], upsample_fn: 'bilinear' },
    AutoencoderKLFlux2: {
      act_fn: 'relu',
      decoder_block_out_channels: [96, 192, 384, 384],
      down_block_types: ['AttnDownEncoderBlock2D'],
      norm_num_groups: 7,
      patch_size: [1, 1],
    },
    Flux2Transformer2DModel: {
      attention_head_dim: 64,
      axes_dims_rope: [16, 56, 56],
      out_channels: 64,
      patch_size: 2,
    },
    Flux3Transformer2DModel: {
      attention_head_dim: 64,
      axes_dims_rope: [16, 56, 56],
      cond_in_channels: 64,
      num_layers: 0,
    },
    Qwen3VLForConditionalGeneration: { text_config: { rope_scaling: { rope_type: 'yarn' } } },
    Mistral3ForConditionalGeneration: {
      head_dim: 0,
      hidden_act: 'gelu',
      num_key_value_heads: 5,
      rope_scaling: { rope_type: 'yarn' },
      sliding_window: 4096,
    },
    Qwen3ForCausalLM: {
      attention_bias: true,
      head_dim: 0,
      hidden_act: 'gelu',
      rope_scaling: { rope_type: 'yarn' },
      use_sliding_window: true,
    },
    FluxTransformer2DModel: {
      attention_head_dim: 64,
      axes_dims_rope: [16, 56],
      in_channels: 66,
      out_channels: 32,
      patch_size: 2,
    },
    SD3Transformer2DModel: {
      attention_head_dim: 32,
      out_channels: 32,
      patch_size: 1,
      qk_norm: 'layer_norm',
    },
    AutoencoderKLQwenImage: {
      attn_scales: [0.5],
      input_channels: 1,
      latents_std: [1, 1],
      temperal_downsample: [true],
    },
    Qwen2_5_VisionTransformerPretrainedModel: {
      hidden_act: 'gelu',
      in_channels: 4,
      num_heads: 15,
      spatial_merge_size: 4,
      window_size: 100,
    },
    QwenImageTransformer2DModel: {
      axes_dims_rope: [16, 56, 58],
      guidance_embeds: true,
      out_channels: 32,
      patch_size: 1,
    },
    Qwen2_5_VLForConditionalGeneration: {
      hidden_act: 'gelu',
      num_key_value_heads: 7,
      rope_scaling: { mrope_section: [16, 24, 25] },
      use_sliding_window: true,
    },
    T5EncoderModel: { feed_forward_proj: 'gated-silu', is_decoder: true, num_layers: 0 },
    AutoencoderKLWan: { attn_scales: [0.5], base_dim: 0, dim_mult: [], non_linearity: 'relu', z_dim: '16' },
    AutoencoderKLLTXVideo: {
      block_out_channels: [],
      decoder_inject_noise: [true, false],
      down_block_types: ['CogVideoXDownBlock3D'],
      downsample_type: ['spatial'],
      encoder_causal: false,
      in_channels: 1,
      patch_size_t: 2,
      upsample_factor: [2],
    },
    LTXLatentUpsamplerModel: { dims: 1, mid_channels: 100, spatial_upsample: false, temporal_upsample: true },
    LTXVideoTransformer3DModel: {
      activation_fn: 'geglu',
      attention_head_dim: 128,
      norm_elementwise_affine: true,
      num_layers: 0,
      out_channels: 64,
      patch_size: 2,
      qk_norm: 'rms_norm',
    },
    WanTransformer3DModel: {
      added_kv_proj_dim: 5120,
      image_dim: 1280,
      num_layers: 0,
      patch_size: [1, 1, 1],
      qk_norm: 'layer_norm',
    },
    ZImageTransformer2DModel: {
      all_f_patch_size: [2],
      all_patch_size: [1],
      qk_norm: false,
      siglip_feat_dim: 1152,
    },
  };

  /** Of the classes in diffusers and transformers. */
  /** Values for which the reference class has no default. */
  const needed: Record<string, Record<string, unknown>> = {
    StableAudioProjectionModel: { text_encoder_dim: 768, conditioning_dim: 768, min_value: 0, max_value: 512 },
  };

  const aceStep = {
    hidden_size: 2048,
    intermediate_size: 6144,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    head_dim: 128,
    rope_theta: 1_000_000,
    rms_norm_eps: 1e-6,
    sliding_window: 128,
  };

  const defaults: Record<string, Record<string, unknown>> = {
    HeartMuLa: {
      audio_num_codebooks: 8,
      audio_vocab_size: 8197,
      backbone_flavor: { embed_dim: 3072, intermediate_dim: 8192, num_heads: 24, num_kv_heads: 8, num_layers: 28 },
      decoder_flavor: { embed_dim: 3072, intermediate_dim: 8192, num_heads: 8, num_kv_heads: 4, num_layers: 3 },
      muq_dim: 512,
      text_vocab_size: 128256,
    },
    HeartCodec: {
      attention_head_dim: 64,
      codebook_dim: 32,
      codebook_size: 8192,
      dim: 512,
      in_channels: 1024,
      num_attention_heads: 24,
      num_layers: 24,
      num_layers_2: 6,
      num_quantizers: 8,
      sample_rate: 48000,
      upsample_factors: [5, 4, 4, 4, 3],
    },
    AceStepAudioTokenDetokenizer: {
      ...aceStep,
      audio_acoustic_hidden_dim: 64,
      pool_window_size: 5,
      num_attention_pooler_hidden_layers: 2,
    },
    AceStepAudioTokenizer: {
      ...aceStep,
      audio_acoustic_hidden_dim: 64,
      pool_window_size: 5,
      fsq_dim: 2048,
      fsq_input_num_quantizers: 1,
      num_attention_pooler_hidden_layers: 2,
    },
    AceStepConditionEncoder: {
      ...aceStep,
      text_hidden_dim: 1024,
      timbre_hidden_dim: 64,
      num_lyric_encoder_hidden_layers: 8,
      num_timbre_encoder_hidden_layers: 4,
    },
    AceStepTransformer1DModel: {
      ...aceStep,
      num_hidden_layers: 24,
      in_channels: 192,
      audio_acoustic_hidden_dim: 64,
      patch_size: 2,
      is_turbo: false,
    },
    AutoencoderKLWan: {
      base_dim: 96,
      decoder_base_dim: null,
      z_dim: 16,
      dim_mult: [1, 2, 4, 4],
      num_res_blocks: 2,
      temperal_downsample: [false, true, true],
      is_residual: false,
      in_channels: 3,
      out_channels: 3,
      patch_size: null,
    },
    AutoencoderKLLTXVideo: {
      in_channels: 3,
      out_channels: 3,
      latent_channels: 128,
      block_out_channels: [128, 256, 512, 512],
      down_block_types: Array.from({ length: 4 }, () => 'LTXVideoDownBlock3D'),
      decoder_block_out_channels: [128, 256, 512, 512],
      layers_per_block: [4, 3, 3, 3, 4],
      decoder_layers_per_block: [4, 3, 3, 3, 4],
      spatio_temporal_scaling: [true, true, true, false],
      decoder_spatio_temporal_scaling: [true, true, true, false],
      decoder_inject_noise: [false, false, false, false, false],
      downsample_type: ['conv', 'conv', 'conv', 'conv'],
      upsample_residual: [false, false, false, false],
      upsample_factor: [1, 1, 1, 1],
      timestep_conditioning: false,
      patch_size: 4,
      patch_size_t: 1,
      resnet_norm_eps: 1e-6,
      scaling_factor: 1,
      encoder_causal: true,
      decoder_causal: false,
    },
    LTXLatentUpsamplerModel: {
      in_channels: 128,
      mid_channels: 512,
      num_blocks_per_stage: 4,
      dims: 3,
      spatial_upsample: true,
      temporal_upsample: false,
    },
    LTXVideoTransformer3DModel: {
      in_channels: 128,
      out_channels: 128,
      patch_size: 1,
      patch_size_t: 1,
      num_attention_heads: 32,
      attention_head_dim: 64,
      cross_attention_dim: 2048,
      num_layers: 28,
      norm_eps: 1e-6,
      caption_channels: 4096,
      attention_bias: true,
      attention_out_bias: true,
    },
    WanTransformer3DModel: {
      patch_size: [1, 2, 2],
      num_attention_heads: 40,
      attention_head_dim: 128,
      in_channels: 16,
      out_channels: 16,
      text_dim: 4096,
      freq_dim: 256,
      ffn_dim: 13824,
      num_layers: 40,
      cross_attn_norm: true,
      eps: 1e-6,
      rope_max_seq_len: 1024,
    },
    AutoencoderOobleck: {
      encoder_hidden_size: 128,
      downsampling_ratios: [2, 4, 4, 8, 8],
      channel_multiples: [1, 2, 4, 8, 16],
      decoder_channels: 128,
      decoder_input_channels: 64,
      audio_channels: 2,
      sampling_rate: 44100,
    },
    StableAudioDiTModel: {
      sample_size: 1024,
      in_channels: 64,
      num_layers: 24,
      attention_head_dim: 64,
      num_attention_heads: 24,
      num_key_value_attention_heads: 12,
      out_channels: 64,
      cross_attention_dim: 768,
      time_proj_dim: 256,
      global_states_input_dim: 1536,
      cross_attention_input_dim: 768,
    },
    StableAudioProjectionModel: {},
    AutoencoderSAME: {
      audio_channels: 2,
      patch_size: 256,
      encoder_channels: 128,
      encoder_c_mults: [6],
      encoder_strides: [16],
      encoder_transformer_depths: [6],
      latent_dim: 256,
      use_differential_attention: true,
      dim_heads: 64,
      ff_mult: 3,
      sliding_window: 1,
      encoder_sinusoidal_blocks: [0],
      decoder_sinusoidal_blocks: [0],
      sampling_rate: 44100,
    },
    StableAudio3DiTModel: {
      io_channels: 256,
      patch_size: 1,
      embed_dim: 1536,
      depth: 24,
      num_heads: 24,
      cond_token_dim: 768,
      global_cond_dim: 768,
      local_add_cond_dim: 257,
      timestep_features_dim: 256,
      ff_mult: 4,
      num_memory_tokens: 64,
      use_differential_attention: true,
    },
    T5GemmaEncoderModel: {
      encoder: {
        vocab_size: 256000,
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 256,
        rms_norm_eps: 1e-6,
        query_pre_attn_scalar: 256,
        attn_logit_softcapping: 50,
        sliding_window: 4096,
      },
    },
    UNetMotionModel: {
      unet: {
        block_out_channels: [320, 640, 1280, 1280],
        cross_attention_dim: 1280,
        attention_head_dim: 8,
        layers_per_block: 2,
      },
      motion: { heads: [8, 8, 8, 8], layers: 1, longest: 32, inMiddle: true },
    },
    CLIPTextModel: {
      hidden_act: 'quick_gelu',
      hidden_size: 512,
      intermediate_size: 2048,
      layer_norm_eps: 1e-5,
      max_position_embeddings: 77,
      num_attention_heads: 8,
      num_hidden_layers: 12,
      projection_dim: 512,
      eos_token_id: 49407,
      vocab_size: 49408,
    },
    CLIPVisionModelWithProjection: {
      hidden_act: 'quick_gelu',
      hidden_size: 768,
      image_size: 224,
      intermediate_size: 3072,
      layer_norm_eps: 1e-5,
      num_attention_heads: 12,
      num_channels: 3,
      num_hidden_layers: 12,
      patch_size: 32,
      projection_dim: 512,
    },
    UNet2DConditionModel: {
      act_fn: 'silu',
      attention_head_dim: 8,
      block_out_channels: [320, 640, 1280, 1280],
      center_input_sample: false,
      cross_attention_dim: 1280,
      down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'],
      downsample_padding: 1,
      flip_sin_to_cos: true,
      freq_shift: 0,
      layers_per_block: 2,
      mid_block_type: 'UNetMidBlock2DCrossAttn',
      addition_embed_type: null,
      reverse_transformer_layers_per_block: null,
      time_cond_proj_dim: null,
      norm_eps: 1e-5,
      norm_num_groups: 32,
      num_attention_heads: null,
      only_cross_attention: false,
      transformer_layers_per_block: 1,
      up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
      upcast_attention: false,
      use_linear_projection: false,
    },
    ControlNetModel: {
      attention_head_dim: 8,
      block_out_channels: [320, 640, 1280, 1280],
      conditioning_channels: 3,
      conditioning_embedding_out_channels: [16, 32, 96, 256],
      controlnet_conditioning_channel_order: 'rgb',
      cross_attention_dim: 1280,
      down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'],
      in_channels: 4,
      layers_per_block: 2,
      mid_block_type: 'UNetMidBlock2DCrossAttn',
      norm_eps: 1e-5,
      norm_num_groups: 32,
      transformer_layers_per_block: 1,
    },
    AutoencoderKL: {
      act_fn: 'silu',
      block_out_channels: [64],
      force_upcast: true,
      latent_channels: 4,
      layers_per_block: 1,
      mid_block_add_attention: true,
      norm_num_groups: 32,
      scaling_factor: 0.18215,
      shift_factor: null,
      use_post_quant_conv: true,
      use_quant_conv: true,
    },
    AutoencoderKLFlux2: {
      batch_norm_eps: 1e-4,
      block_out_channels: [128, 256, 512, 512],
      latent_channels: 32,
      layers_per_block: 2,
      norm_num_groups: 32,
      use_post_quant_conv: true,
      use_quant_conv: true,
    },
    Flux2Transformer2DModel: {
      attention_head_dim: 128,
      axes_dims_rope: [32, 32, 32, 32],
      eps: 1e-6,
      guidance_embeds: true,
      in_channels: 128,
      joint_attention_dim: 15360,
      mlp_ratio: 3,
      num_attention_heads: 48,
      num_layers: 8,
      num_single_layers: 48,
      rope_theta: 2000,
      timestep_guidance_channels: 256,
    },
    Flux3Transformer2DModel: {
      attention_head_dim: 128,
      axes_dims_rope: [32, 32, 32, 32],
      cond_in_channels: 128,
      eps: 1e-6,
      flow_map: false,
      in_channels: 128,
      joint_attention_dim: 20480,
      mlp_ratio: 3,
      num_attention_heads: 24,
      num_layers: 5,
      num_single_layers: 28,
      rope_theta: 10_000,
      timestep_channels: 256,
    },
    AutoencoderKLQwenImage: {
      base_dim: 96,
      dim_mult: [1, 2, 4, 4],
      num_res_blocks: 2,
      temperal_downsample: [false, true, true],
      z_dim: 16,
    },
    Qwen2_5_VisionTransformerPretrainedModel: {
      depth: 32,
      fullatt_block_indexes: [7, 15, 23, 31],
      hidden_size: 3584,
      intermediate_size: 3420,
      num_heads: 16,
      out_hidden_size: 3584,
      patch_size: 14,
      temporal_patch_size: 2,
      window_size: 112,
    },
    QwenImageTransformer2DModel: {
      attention_head_dim: 128,
      axes_dims_rope: [16, 56, 56],
      in_channels: 64,
      joint_attention_dim: 3584,
      num_attention_heads: 24,
      num_layers: 60,
      out_channels: 16,
      patch_size: 2,
      zero_cond_t: false,
    },
    Qwen2_5_VLForConditionalGeneration: {
      head_dim: 128,
      hidden_size: 8192,
      intermediate_size: 29568,
      num_attention_heads: 64,
      num_hidden_layers: 80,
      num_key_value_heads: 8,
      rms_norm_eps: 1e-5,
      vocab_size: 152064,
    },
    Mistral3ForConditionalGeneration: {
      head_dim: 128,
      hidden_size: 4096,
      intermediate_size: 14336,
      num_attention_heads: 32,
      num_hidden_layers: 32,
      num_key_value_heads: 8,
      rms_norm_eps: 1e-6,
      vocab_size: 32000,
    },
    Qwen3ForCausalLM: {
      head_dim: 128,
      hidden_size: 4096,
      intermediate_size: 22016,
      num_attention_heads: 32,
      num_hidden_layers: 32,
      num_key_value_heads: 32,
      rms_norm_eps: 1e-6,
      vocab_size: 151936,
    },
    Qwen3VLForConditionalGeneration: {
      head_dim: 128,
      hidden_size: 4096,
      intermediate_size: 22016,
      num_attention_heads: 32,
      num_hidden_layers: 32,
      num_key_value_heads: 32,
      rms_norm_eps: 1e-6,
      vocab_size: 151936,
    },
    FluxTransformer2DModel: {
      attention_head_dim: 128,
      axes_dims_rope: [16, 56, 56],
      guidance_embeds: false,
      in_channels: 64,
      joint_attention_dim: 4096,
      num_attention_heads: 24,
      num_layers: 19,
      num_single_layers: 38,
      out_channels: null,
      pooled_projection_dim: 768,
    },
    SD3Transformer2DModel: {
      attention_head_dim: 64,
      caption_projection_dim: 1152,
      dual_attention_layers: [],
      in_channels: 16,
      joint_attention_dim: 4096,
      num_attention_heads: 18,
      num_layers: 18,
      out_channels: 16,
      pooled_projection_dim: 2048,
      pos_embed_max_size: 96,
      qk_norm: 'none',
      sample_size: 128,
    },
    T5EncoderModel: {
      d_ff: 2048,
      d_kv: 64,
      d_model: 512,
      feed_forward_proj: 'relu',
      layer_norm_epsilon: 1e-6,
      num_heads: 8,
      num_layers: 6,
      relative_attention_max_distance: 128,
      relative_attention_num_buckets: 32,
      vocab_size: 32128,
    },
    ZImageTransformer2DModel: {
      axes_dims: [32, 48, 48],
      cap_feat_dim: 2560,
      dim: 3840,
      in_channels: 16,
      n_heads: 30,
      n_layers: 30,
      n_refiner_layers: 2,
      norm_eps: 1e-5,
      rope_theta: 256,
      t_scale: 1000,
    },
    AutoencoderTiny: {
      act_fn: 'relu',
      decoder_block_out_channels: [64, 64, 64, 64],
      encoder_block_out_channels: [64, 64, 64, 64],
      latent_magnitude: 3,
      latent_shift: 0.5,
      num_decoder_blocks: [3, 3, 3, 1],
      num_encoder_blocks: [1, 3, 3, 3],
      scaling_factor: 1,
    },
  };

  const refusal = (attempt: () => unknown): StudioError => {
    try {
      attempt();
    } catch (error) {
      if (error instanceof StudioError) {
        return error;
      }
      throw error;
    }
    throw new Error('nothing was refused');
  };

  test('are found', () => {
    expect(architectures.map(([, { className }]) => className).sort()).toEqual(Object.keys(refused).sort());
  });

  describe.each(architectures)('%s', (_, architecture) => {
    const { className, build, buildDecoder, buildEncoder, buildContext } = architecture;
    const parseConfig = (json: object) => architecture.parseConfig({ ...needed[className], ...json });

    test('has the defaults of the reference, and ignores keys that it does not know', () => {
      expect(parseConfig({})).toMatchObject(defaults[className]);
      expect(parseConfig({})).toEqual(parseConfig({ _class_name: className, something_new: { of: 'later' } }));
    });

    test.each(Object.entries(refused[className]))('refuses %s: %j', (key, value) => {
      const error = refusal(() => parseConfig({ [key]: value }));
      expect(error.code).toBe('checkpoint_unsupported');
      expect(error.message).toMatch(/^This \w+ .*\.$/);
      if (!/lists|divide|add up|others than|do not fit|fit neither|for each of/.test(error.message)) {
        expect(error.message).toContain(`"${key}`);
      }
    });

    test('names a tensor that is missing', () => {
      const weights: WeightIndex = { get: () => undefined, names: () => [] };
      const sizes = { batch: 1, height: 8, width: 8, sequence: 8, text: 8, frequencies: 4 };
      const options = { provider: 'webgpu', dtype: 'f32', ...sizes } as const;
      for (const builder of [build, buildDecoder, buildEncoder, buildContext]) {
        if (builder) {
          const error = refusal(() => builder(parseConfig({}), weights, options));
          expect(error.code).toBe('checkpoint_incomplete');
          expect(error.message).toMatch(/lacks the tensor "[\w.]+"/);
        }
      }
    });
  });

  test('a tensor of another size than config.json says is damage', () => {
    const weights = new CheckpointFolder(`${CHECKPOINTS}/${names[0]}/text_encoder`);
    const config = { ...clipText.parseConfig(weights.config), vocab_size: 5 };
    const options = { provider: 'wasm', dtype: 'f32', batch: 1, height: 0, width: 0 } as const;
    const error = refusal(() => clipText.build(config, weights, options));
    expect(error.code).toBe('checkpoint_damaged');
    expect(error.message).toContain('token_embedding.weight');
  });
});

/** ONNX Runtime's own attention kernel fails on wasm for all of these; the tokens are those of the pictures' sizes, an eighth of them per side. */
describe.each([
  ['Stable Diffusion 2 at 512×512', 5, 64, 64],
  ['Stable Diffusion 1 at 640×640', 8, 40, 80],
  ['the autoencoder at 512×512', 1, 512, 64],
])('attention on the processor: %s', (_, heads, head, side) => {
  test('runs in blocks of queries, and gives what the formula gives', async () => {
    const [tokens, width] = [side ** 2, heads * head];
    const writer = new LayerWriter(
      'attention',
      { get: () => undefined, names: () => [] },
      { provider: 'wasm', dtype: 'f32', batch: 1, height: 0, width: 0 },
    );
    const [q, k, v] = ['q', 'k', 'v'].map((name) => writer.input(name, 'float32', [tokens, width]));
    writer.output('out', writer.attention('attention', q, k, v, heads));
    const graph = writer.graph();
    // Scores of one block, before and after softmax, plus the tokens.
    expect(graph.activationBytes).toBeLessThan(2 * 2 ** 23 + 8 * 4 * tokens * width);
    expect(graph.flops).toBe(4 * tokens ** 2 * width);

    const wasm = new URL('../node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm', import.meta.url);
    ortWeb.env.wasm.wasmBinary = new Uint8Array(readFileSync(wasm)).buffer;
    ortWeb.env.wasm.numThreads = 1;
    const session = await ortWeb.InferenceSession.create(graph.bytes);
    const waves = (phase: number) =>
      Float32Array.from({ length: tokens * width }, (_, i) => Math.sin(phase + i * 0.37) + Math.cos(phase * i * 0.011));
    const values = { q: waves(1), k: waves(2), v: waves(3) };
    const tensors = Object.entries(values).map(([name, data]) => [
      name,
      new ortWeb.Tensor('float32', data, [tokens, width]),
    ]);
    const { out } = await session.run(Object.fromEntries(tensors) as Record<string, ortWeb.Tensor>);
    const computed = out.data as Float32Array;
    for (const row of [0, 1, Math.floor(tokens / 2), tokens - 1]) {
      for (let part = 0; part < heads; part++) {
        const expected = attended(values, row * width + part * head, part * head, tokens, width, head);
        const found = computed.subarray(row * width + part * head, row * width + (part + 1) * head);
        expect(largestDifference(found, expected)).toBeLessThan(2e-5);
      }
    }
    await session.release();
  });
});

/** One row of one head, in double precision. */
function attended(
  { q, k, v }: Record<'q' | 'k' | 'v', Float32Array>,
  at: number,
  first: number,
  tokens: number,
  width: number,
  head: number,
): Float32Array {
  const scores = Float64Array.from({ length: tokens }, (_, token) => {
    let dot = 0;
    for (let d = 0; d < head; d++) {
      dot += q[at + d] * k[token * width + first + d];
    }
    return dot / Math.sqrt(head);
  });
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = scores.map((score) => Math.exp(score - largest));
  const sum = weights.reduce((a, b) => a + b, 0);
  return Float32Array.from(
    { length: head },
    (_, d) => weights.reduce((total, weight, token) => total + weight * v[token * width + first + d], 0) / sum,
  );
}
