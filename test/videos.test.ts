/** Videos made here: refusals, and how they are written without an encoder. Their frames are compared in `test/fidelity/videos.ts`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  ALL_FORMATS,
  BlobSource,
  BufferTarget,
  EncodedPacket,
  EncodedPacketSink,
  EncodedVideoPacketSource,
  Input,
  MkvOutputFormat,
  Mp4OutputFormat,
  Output,
  WebMOutputFormat,
} from 'mediabunny';
import { describe, expect, test, vi } from 'vitest';
import * as v from 'valibot';
import { LONG, outlookOf } from '../src/app/studio/outlook.ts';
import { parameters } from '../chunks/output_video_animatediff.ts';
import { parameters as wanParameters } from '../chunks/output_video_wan.ts';
import type { Context } from '../src/core/chunk.ts';
import { cancelled } from '../src/core/errors.ts';
import { film } from '../src/core/filming.ts';
import { estimateRequest } from '../src/core/fit.ts';
import { FrameNoise } from '../src/core/frame_noise.ts';
import type { EstimateRequest, Latents, Model } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';
import * as autoencoder from '../src/graphs/autoencoder_kl_wan.ts';
import type { Graph, WeightIndex } from '../src/graphs/graph.ts';
import { LayerWriter } from '../src/graphs/layers.ts';
import { OnnxWriter } from '../src/graphs/onnx.ts';
import * as t5 from '../src/graphs/t5_encoder.ts';
import * as wan from '../src/graphs/wan_transformer3d.ts';
import { openModel } from '../src/models/family.ts';
import { ZipWriter, frameName, readStoredFiles } from '../src/formats/media/zip.ts';
import { beginningOf } from '../src/media/video/shortening.ts';
import { openVideoWriter } from '../src/media/video/writing.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { flowLora } from './flow_lora_goldens.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { paint, type GoldenCase } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import shapes from './goldens/wan_shapes.json';
import { indexOf } from './published_shapes.ts';
import { splitAnimateDiff } from './split_files.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

function open(name: string, change: (contents: Contents) => void = () => undefined) {
  const contents = weightlessContents(name);
  change(contents);
  return openModel(filesOf(name, contents), startNodeEngine().engine);
}

const replaced = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
  const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
  change(values);
  contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
};

describe.each([
  ['wan', 'tiny-wan21-i2v', 4],
  ['ltx', 'tiny-ltx', 8],
])('planning a video of %s', (_, name, piece) => {
  const circumstances = () => ({
    device: startNodeEngine().engine.report,
    budget: { bytes: 2 ** 33, source: 'set' as const },
    rates: { measured: {}, pictures: {} },
    downloadBytes: 0,
  });
  const request = (latents: number): EstimateRequest => ({
    operation: 'video_generation',
    width: 832,
    height: 480,
    batch_size: piece * (latents - 1) + 1,
    steps: 20,
    guidance_scale: 5,
    startsFromPicture: true,
  });
  /** Nodes of all graphs that an estimate builds. */
  const nodesFor = async (latents: number) => {
    const graphs = vi.spyOn(OnnxWriter.prototype, 'graph');
    await (await open(name)).estimate(request(latents), circumstances());
    const built = graphs.mock.results.map(({ value }) => (value as Graph).nodes);
    graphs.mockRestore();
    return built.reduce((sum, nodes) => sum + nodes, 0);
  };

  test('takes no more nodes the longer it is', async () => {
    const few = await nodesFor(21);
    expect(few).toBeGreaterThan(100);
    // What does not fit is planned a second time, with plain convolutions.
    expect(await nodesFor(128)).toBeLessThan(2.5 * few);
  });
});

test('attention that is planned with counts what the one that runs does', () => {
  const [queries, heads, width] = [5000, 2, 32];
  const weights: WeightIndex = { get: () => undefined, names: () => [] };
  const made = [false, true].map((isPlanned) => {
    const options = { provider: 'wasm', dtype: 'f32', batch: 1, height: 1, width: 1, isPlanned } as const;
    const g = new LayerWriter('test', weights, options);
    const [q, k, v] = ['q', 'k', 'v'].map((part) => g.floats(part, [queries, width]));
    g.output('mixed', g.attention('attention', q, k, v, heads, { bias: g.floats('bias', [1, 1, queries, queries]) }));
    return g.graph();
  });
  const [whole, planned] = made;
  expect(planned.flops).toBeCloseTo(whole.flops, -3);
  expect(planned.activationBytes / whole.activationBytes).toBeCloseTo(1, 1);
  expect(planned.nodes).toBeLessThan(whole.nodes / 3);
});

describe('a checkpoint of AnimateDiff', () => {
  test('says how many frames its videos have at most, whichever way its modules lie', async () => {
    const whole = await open('tiny-animatediff');
    expect(whole.summary).toMatchObject({ pipelineClass: 'AnimateDiffPipeline', mostFrames: 24 });
    const beside = await open('tiny-sd15-motion');
    expect(beside.summary).toMatchObject({ pipelineClass: 'AnimateDiffPipeline', mostFrames: 24 });
    expect(beside.summary.needs).toEqual(
      expect.arrayContaining(['motion_adapter/config.json', 'motion_adapter/diffusion_pytorch_model.safetensors']),
    );
  });

  test('of two files, its own and one of modules, however these are called', async () => {
    vi.stubGlobal('fetch', (url: URL) => Promise.resolve(new Response(readFileSync(fileURLToPath(url)))));
    const contents = splitAnimateDiff();
    const modules = contents.get('mm_sd_v15_v2.safetensors') as Uint8Array<ArrayBuffer>;
    contents.delete('mm_sd_v15_v2.safetensors');
    contents.set('a.safetensors', modules);
    const { summary } = await openModel(filesOf('two files', contents), startNodeEngine().engine);
    expect(summary).toMatchObject({ pipelineClass: 'AnimateDiffPipeline', mostFrames: 24 });
    expect([...summary.needs].sort()).toEqual(['a.safetensors', 'sd1.safetensors']);
    contents.delete('a.safetensors');
    const still = await openModel(filesOf('one file', contents), startNodeEngine().engine);
    expect(still.summary.pipelineClass).toBe('StableDiffusionPipeline');
    vi.unstubAllGlobals();
  });

  test('without its folder of modules makes pictures', async () => {
    const { summary } = await open('tiny-sd15-motion', (contents) => {
      [...contents.keys()]
        .filter((path) => path.startsWith('motion_adapter/'))
        .forEach((path) => contents.delete(path));
    });
    expect(summary.pipelineClass).toBe('StableDiffusionPipeline');
    expect(summary.mostFrames).toBeUndefined();
  });

  test.each([
    [
      'tiny-animatediff',
      'a plain UNet and no modules',
      (contents: Contents) => {
        replaced('model_index.json', (index) => (index.unet = ['diffusers', 'UNet2DConditionModel']))(contents);
        replaced('unet/config.json', (config) => {
          config.down_block_types = ['CrossAttnDownBlock2D', 'DownBlock2D'];
          config.up_block_types = ['UpBlock2D', 'CrossAttnUpBlock2D'];
        })(contents);
        contents.delete('motion_adapter/config.json');
      },
      /has no motion modules; put a motion adapter for Stable Diffusion 1.5 into its folder motion_adapter/,
    ],
    [
      'tiny-sd15-motion',
      'modules for another UNet',
      replaced('motion_adapter/config.json', (config) => (config.block_out_channels = [32, 32])),
      /it was made for a UNet of other widths and layers \(32, 64 are those of this one\)/,
    ],
    [
      'tiny-sd15-motion',
      'modules that are shown pictures',
      replaced('motion_adapter/config.json', (config) => (config.conv_in_channels = 9)),
      /has "conv_in_channels": 9, which Darkroom cannot run/,
    ],
    [
      'tiny-sd15-motion',
      'no weights of its modules',
      (contents: Contents) => contents.delete('motion_adapter/diffusion_pytorch_model.safetensors'),
      /has no \.safetensors weights in motion_adapter\//,
    ],
  ] as const)('%s with %s is refused in a sentence', async (name, _, change, message) => {
    await expect(open(name, change)).rejects.toThrow(message);
  });

  test('more frames than it has places for are refused, and the nearest number is said', async () => {
    const model = await open('tiny-animatediff');
    const operation = { operation: 'video_generation', config: 'animatediff' };
    await expect(paint(model, { ...operation, parameters: { prompt: '', frames: 30 } }, '')).rejects.toThrow(
      '"tiny-animatediff" makes videos of at most 24 frames, not 30; the nearest is 24.',
    );
  });

  test('takes more memory and time for more frames', async () => {
    const model = await open('tiny-animatediff');
    const planned = async (frames: number, image?: Blob) => {
      const step = { operation: 'video_generation', parameters: { steps: 4, guidance_scale: 2, frames, image } };
      const request = estimateRequest(step, model.summary);
      const estimate = await model.estimate(request as NonNullable<typeof request>, {
        device: startNodeEngine().engine.report,
        budget: { bytes: 2 ** 32, source: 'set' },
        rates: { measured: {}, pictures: {} },
        downloadBytes: 0,
      });
      return { flops: estimate.flops?.total ?? 0, peak: estimate.variants[0].memory.peak };
    };
    const [few, many, given] = [await planned(4), await planned(16), await planned(4, new Blob([]))];
    expect(many.flops).toBeGreaterThan(3.5 * few.flops);
    expect(many.peak).toBeGreaterThan(few.peak);
    expect(given.peak).toBeGreaterThan(few.peak);
  });
});

describe('a checkpoint of Wan', () => {
  const operation = { operation: 'video_generation', config: 'wan' };

  test.each([
    ['tiny-wan', 'WanPipeline', 16, undefined, undefined],
    ['tiny-wan-ti2v', 'WanPipeline', 32, 'may', undefined],
    ['tiny-wan-experts', 'WanPipeline', 16, undefined, undefined],
    ['tiny-wan-i2v', 'WanImageToVideoPipeline', 16, 'must', 'may'],
    ['tiny-wan21-i2v', 'WanImageToVideoPipeline', 16, 'must', undefined],
    ['tiny-wan21-flf2v', 'WanImageToVideoPipeline', 16, 'must', 'must'],
  ] as const)('%s says what its videos are like', async (name, pipelineClass, multiple, firstFrame, lastFrame) => {
    const { summary } = await open(name);
    expect(summary).toMatchObject({ pipelineClass, multiple, mostFrames: 4093 });
    expect(summary.takesLoras).toBe(true);
    expect(summary.firstFrame).toBe(firstFrame);
    expect(summary.lastFrame).toBe(lastFrame);
    expect(summary.needs.includes('image_encoder/model.safetensors')).toBe(/wan21/.test(name));
    expect(summary.needs.some((path) => path.startsWith('transformer_2/'))).toBe(/wan-(?:experts|i2v)$/.test(name));
  });

  test.each([
    ['tiny-wan', { image: 'image.png' }, '"tiny-wan" makes videos from words alone; leave image out'],
    ['tiny-wan-i2v', {}, '"tiny-wan-i2v" makes videos that begin with a picture; give one as image'],
    [
      'tiny-wan21-i2v',
      { image: 'image.png', last_image: 'image.png' },
      '"tiny-wan21-i2v" makes no videos that end with a given picture; leave last_image out',
    ],
    ['tiny-wan21-flf2v', { image: 'image.png' }, 'makes videos that begin and end with a picture; give both'],
    ['tiny-wan-i2v', { last_image: 'image.png' }, 'makes videos that begin with a picture; give one as image'],
    ['tiny-wan-ti2v', { width: 48, height: 64 }, 'multiples of 32 pixels, not 48×64; the nearest size is 64×64.'],
  ] as const)('%s refuses %j in a sentence', async (name, more, message) => {
    const asked = { ...operation, parameters: { prompt: '', frames: 5, width: 32, height: 32, steps: 1, ...more } };
    await expect(paint(await open(name), asked, '')).rejects.toThrow(message);
  });

  test.each([
    [
      'a vision encoder that lies nowhere',
      'transformer/config.json',
      { image_dim: 1280, added_kv_proj_dim: 32 },
      /image_encoder/,
    ],
    [
      'keys of pictures of another width',
      'transformer/config.json',
      { image_dim: 1280, added_kv_proj_dim: 64 },
      /added_kv_proj_dim and image_dim do not fit/,
    ],
    [
      'latents of another width',
      'transformer/config.json',
      { in_channels: 8, out_channels: 8 },
      /takes latents of 8 channels/,
    ],
    [
      'channels that nothing here makes',
      'transformer/config.json',
      { in_channels: 48 },
      /is shown 32 channels beside the video/,
    ],
    ['text of another width', 'transformer/config.json', { text_dim: 64 }, /reads 64 numbers of each token/],
    ['attention in its autoencoder', 'vae/config.json', { attn_scales: [0.5] }, /has "attn_scales/],
  ] as const)('with %s is refused in a sentence', async (_, path, wrong, message) => {
    const change = replaced(path, (values) => Object.assign(values, wrong));
    await expect(open('tiny-wan', change)).rejects.toThrow(message);
  });

  test('a transformer that sees other numbers than its vision encoder gives is refused in a sentence', async () => {
    const change = replaced('image_encoder/config.json', (values) => Object.assign(values, { hidden_size: 64 }));
    await expect(open('tiny-wan21-i2v', change)).rejects.toThrow(
      'The transformer of "tiny-wan21-i2v" takes 32 numbers of each part of a picture and its image encoder gives 64; take both from one checkpoint.',
    );
  });

  test('a last picture wants frames between the two', () => {
    const given = { operation: 'video_generation', prompt: '', frames: 1, image: new Blob(), last_image: new Blob() };
    const { issues } = v.safeParse(wanParameters, given);
    expect(issues?.map((issue) => issue.message)).toEqual([
      'A video that ends with a given picture has at least 5 frames.',
    ]);
  });

  test('LoRAs change the expert that their names say, or both', async () => {
    const model = await open('tiny-wan-experts');
    const file = new Blob([flowLora('wan-comfyui')]);
    const named = (name: string) => ({ file, name, strength: 0.8 });
    const asked = {
      ...operation,
      parameters: { prompt: 'a fox', frames: 1, width: 32, height: 32, steps: 2, seed: '1' },
    };
    const latentsWith = async (...names: string[]) => {
      expect(await model.useLoras(names.map(named))).toEqual([]);
      return (await paint(model, asked, '')).latents.data;
    };
    const [plain, high, low, both] = [
      await latentsWith(),
      await latentsWith('wan2.2-lightning_high_noise_model'),
      await latentsWith('lightning-LOW.safetensors'),
      await latentsWith('a style'),
    ];
    expect(await model.provenance()).toMatchObject({ loras: [{ name: 'a style', weight: 0.8 }] });
    const pair = await latentsWith('x_high_noise', 'x_low_noise');
    expect(await model.provenance()).toMatchObject({
      loras: [
        { name: 'x_high_noise', noise: 'high' },
        { name: 'x_low_noise', noise: 'low' },
      ],
    });
    expect([...pair]).toEqual([...both]);
    const all = [plain, high, low, both];
    all.forEach((one, i) => {
      all.slice(i + 1).forEach((other) => expect(greatestDifference(one, other)).toBeGreaterThan(1e-3));
    });
    expect([...(await latentsWith())]).toEqual([...plain]);
    await expect(
      model.useLoras([{ file: new Blob([flowLora('flux1-kohya')]), name: 'x_low_noise', strength: 1 }]),
    ).rejects.toThrow(/looks like one for FLUX\.1, and this checkpoint is Wan; choose a LoRA for Wan/);
    expect(await model.provenance()).not.toHaveProperty('loras');
    await model.release();
  });

  test.each([
    [6, 'frames must be 1 more than a multiple of 4, from 1 to 1021; the nearest is 5.'],
    [2000, 'frames must be 1 more than a multiple of 4, from 1 to 1021; the nearest is 1021.'],
    ['many', 'frames must be 1 more than a multiple of 4, from 1 to 1021.'],
  ])('frames: %j is refused, and the nearest number is said', (frames, message) => {
    const { issues } = v.safeParse(wanParameters, { operation: 'video_generation', prompt: '', frames });
    expect(issues?.map((issue) => issue.message)).toEqual([message]);
  });

  test('takes more memory and time for more frames, and for a picture to begin with', async () => {
    const model = await open('tiny-wan-ti2v');
    const planned = async (frames: number, image?: Blob) => {
      const step = { operation: 'video_generation', parameters: { steps: 4, guidance_scale: 2, frames, image } };
      const request = estimateRequest(step, model.summary);
      const estimate = await model.estimate(request as NonNullable<typeof request>, {
        device: startNodeEngine().engine.report,
        budget: { bytes: 2 ** 36, source: 'set' },
        rates: { measured: {}, pictures: {} },
        downloadBytes: 0,
      });
      return estimate.flops?.total ?? 0;
    };
    const [few, many, given] = [await planned(5), await planned(17), await planned(5, new Blob([]))];
    expect(many).toBeGreaterThan(2 * few);
    expect(given).toBeGreaterThan(few);
  });

  test.each(Object.entries(shapes))('%s is planned at full size, with every tensor that it has', (_, published) => {
    const { transformer, vae } = published;
    const config = wan.parseConfig(transformer.config);
    const index = indexOf(transformer.tensors, 'blocks', config.num_layers);
    const options = { provider: 'webgpu', dtype: 'f32', batch: 1 } as const;
    const video = { frames: 21, height: 60, width: 104 };
    const graph = wan.build(config, index, { ...options, ...video, weights: 'full' });
    expect([...index.names()].filter((name) => !index.used.has(name))).toEqual([]);
    expect(graph.weightBytes).toBeGreaterThanOrEqual(4 * transformer.parameters);
    expect(graph.weightBytes).toBeLessThan(4.01 * transformer.parameters);
    const small = wan.build(config, index, { ...options, ...video, weights: 'q4' });
    expect(small.weightBytes).toBeLessThan(0.75 * transformer.parameters);

    const pictures = autoencoder.parseConfig(vae.config);
    const own = indexOf(vae.tensors);
    for (const isFirst of [true, false]) {
      autoencoder.buildDecoder(pictures, own, { ...options, height: 30, width: 52, isFirst });
      autoencoder.buildEncoder(pictures, own, { ...options, height: 480, width: 832, isFirst });
    }
    expect([...own.names()].filter((name) => !own.used.has(name))).toEqual([]);
  });
});

test('a table of words, whose rows are read from its file, is no tensor that the GPU has to take', async () => {
  const checkpoint = await Checkpoint.open(filesOf('tiny-wan', weightlessContents('tiny-wan')));
  const { config, weights } = await checkpoint.component('text_encoder');
  const options = { provider: 'webgpu', dtype: 'f32', batch: 1, height: 0, width: 0, sequence: 16 } as const;
  const { largestBytes } = t5.build(t5.parseConfig(config), weights, options);
  const bytes = (name: string) => weights.get(name)?.length ?? 0;
  const table = t5.embeddingTable(weights);
  const others = [...weights.names()].filter((name) => name !== table);
  expect(largestBytes).toBe(Math.max(...others.map(bytes)));
  expect(bytes(table)).toBeGreaterThan(largestBytes);
});

test.each([
  [{ width: 50 }, 'width must be a multiple of 8 from 16 to 2048 pixels; the nearest is 48.'],
  [{ height: 5000 }, 'height must be a multiple of 8 from 16 to 2048 pixels; the nearest is 2048.'],
  [{ width: 'wide' }, 'width must be a multiple of 8 from 16 to 2048 pixels.'],
  [{ frames: 2.5 }, 'frames must be a whole number from 1 to 256.'],
  [{ rate: 0 }, 'rate must be a number from 1 to 60.'],
  [{ format: 'gif' }, 'format must be auto, mp4, webm or zip.'],
  [{ strength: 0.5 }, /^strength and background count only where an image is given/],
])('%j is refused in a sentence', (wrong, message) => {
  const { issues } = v.safeParse(parameters, { operation: 'video_generation', prompt: '', ...wrong });
  expect(issues?.map((issue) => issue.message).join(' ')).toMatch(message);
});

test('the noise of a video is drawn channel by channel, over all its frames', () => {
  const dims = [2, 3, 4, 4] as const;
  const drawn = new TorchGenerator('5').ofStart([1, 3, 8, 4]);
  const noise = new FrameNoise(new TorchGenerator('5'), false).ofStart(dims);
  for (const [frame, channel] of [
    [0, 0],
    [1, 0],
    [0, 2],
    [1, 2],
  ]) {
    const own = noise.subarray((frame * 3 + channel) * 16, (frame * 3 + channel + 1) * 16);
    expect([...own]).toEqual([...drawn.subarray((channel * 2 + frame) * 16, (channel * 2 + frame + 1) * 16)]);
  }
});

test.each([
  [0, []],
  [3, ['Cancelled after 3 of 9 frames, which are kept as a shorter video.']],
])('of a video that is cancelled after %i frames, those are kept, and that is told', async (decoded, told) => {
  const controller = new AbortController();
  const [notices, kept, written]: [string[], unknown[], number[]] = [[], [], []];
  const writer = {
    add: () => Promise.resolve(void written.push(1)),
    finish: () => Promise.resolve({ frames: written.length }),
    discard: () => Promise.resolve(),
  };
  const context = {
    progress: () => undefined,
    signal: controller.signal,
    notice: (sentence: string) => notices.push(sentence),
    writeVideo: () => Promise.resolve(writer),
    keepPart: (output: string, video: unknown) => Promise.resolve(void kept.push([output, video])),
  };
  const model = {
    async decode(_: unknown, { take }: { take: (frame: unknown) => Promise<void> }) {
      for (let frame = 0; frame < decoded; frame++) {
        await take({});
      }
      controller.abort();
      throw cancelled();
    },
  };
  const filming = film(
    { frames: 9, rate: 8, format: 'auto' },
    { width: 16, height: 16 },
    {} as Latents,
    model as unknown as Model,
    context as unknown as Context,
  );
  await expect(filming).rejects.toThrow('cancelled');
  expect(notices).toEqual(told);
  expect(kept).toEqual(decoded > 0 ? [['video', { frames: decoded }]] : []);
});

describe('before a run that takes long on this device', () => {
  const hours = {
    operation: 'video_generation',
    width: 832,
    height: 480,
    batch_size: 81,
    steps: 50,
    guidance_scale: 5,
  };
  const frames = { min: 5, step: 4 };
  /** As if time went with all pixels. */
  const rate = (seconds: number) => (one: EstimateRequest) =>
    Promise.resolve((seconds * one.width * one.height * one.batch_size) / (832 * 480 * 81));

  test('fewer frames and a smaller size are offered, each the most that stays short', async () => {
    expect(await outlookOf(hours, { multiple: 16 }, frames, rate(3600))).toEqual({
      seconds: 3600,
      shorter: [
        { values: { frames: 37 }, seconds: (3600 * 37) / 81 },
        { values: { width: 416, height: 240 }, seconds: 900 },
      ],
    });
    const found = await outlookOf(hours, { multiple: 16 }, frames, rate(100 * 3600));
    expect(found?.shorter.map(({ values }) => values)).toEqual([{ frames: 5 }, { width: 416, height: 240 }]);
  });

  test('nothing is said where it is short, or not known, and nothing offered that would help little', async () => {
    expect(await outlookOf(hours, {}, frames, rate(LONG - 1))).toBeNull();
    expect(await outlookOf(hours, {}, frames, () => Promise.resolve(null))).toBeNull();
    expect(await outlookOf(hours, {}, frames, () => Promise.resolve(LONG))).toEqual({ seconds: LONG, shorter: [] });
    const sound = await outlookOf({ ...hours, width: 1024, height: 1 }, { multiple: 1 }, null, rate(LONG * 500));
    expect(sound?.shorter.map(({ values }) => Object.keys(values))).not.toContainEqual(['frames']);
  });
});

test('a video whose sampling was broken off goes on from its last point, to the same frames', async () => {
  const model = await open('tiny-wan21-i2v');
  const folder = join(import.meta.dirname, 'goldens', 'videos', 'wan21-i2v-picture-single');
  const one = JSON.parse(readFileSync(join(folder, 'operation.json'), 'utf8')) as GoldenCase;
  const points: unknown[] = [];
  const whole = await paint(model, one, folder, { keep: (state: unknown) => void points.push(structuredClone(state)) });
  const resumed: string[] = [];
  const point = points.filter((state) => state !== null).at(1);
  const rest = await paint(model, one, folder, {
    resume: point,
    progress: (stage: string, done?: number, steps?: number) => void resumed.push(`${stage} ${done} ${steps}`),
  });
  expect([...rest.latents.data]).toEqual([...whole.latents.data]);
  expect(rest.images.map(({ data }) => data)).toEqual(whole.images.map(({ data }) => data));
  const steps = resumed.filter((line) => line.endsWith(' 3')).map((line) => Number(line.split(' ')[1]));
  expect(Math.min(...steps)).toBeGreaterThan(1);
  await model.release();
});

describe('the beginning of a video, where there is no room for the whole', () => {
  test.each([
    ['video/mp4', 'vp9', 'vp09.00.10.08', new Mp4OutputFormat({ fastStart: false })],
    ['video/webm', 'vp8', 'vp8', new WebMOutputFormat()],
    ['video/x-matroska', 'vp8', 'vp8', new MkvOutputFormat()],
  ] as const)('of %s is one of its own that begins with the same frames', async (type, kind, codec, format) => {
    const output = new Output({ format, target: new BufferTarget() });
    const source = new EncodedVideoPacketSource(kind);
    output.addVideoTrack(source);
    await output.start();
    for (let frame = 0; frame < 7; frame++) {
      const data = Uint8Array.from({ length: 50 }, (_, i) => 2 * frame + i);
      const packet = new EncodedPacket(data, frame === 0 ? 'key' : 'delta', frame / 8, 1 / 8);
      await source.add(packet, { decoderConfig: { codec, codedWidth: 16, codedHeight: 8 } });
    }
    await output.finalize();
    const file = new Blob([output.target.buffer!], { type });
    const packets = async (blob: Blob) => {
      const track = await new Input({ source: new BlobSource(blob), formats: ALL_FORMATS }).getPrimaryVideoTrack();
      const all: [number, Uint8Array][] = [];
      for await (const { data, timestamp } of new EncodedPacketSink(track!).packets()) {
        all.push([timestamp, data]);
      }
      return all;
    };
    const half = await beginningOf(file, 1 / 2);
    expect(half).toMatchObject({ frames: 3, width: 16, height: 8 });
    expect(half?.seconds).toBeCloseTo(3 / 8, 2);
    expect(half?.file.type).toBe(type);
    expect(await packets(half!.file)).toEqual((await packets(file)).slice(0, 3));
    expect(await beginningOf(file, 1 / 8)).toBeNull();
  });

  test('of a ZIP has its first pictures and says how many', async () => {
    const zip = new ZipWriter();
    [1, 2, 3, 4, 5].forEach((value, frame) => zip.add(frameName(frame), Uint8Array.of(value)));
    zip.add('video.json', new TextEncoder().encode('{"width":16,"height":8,"rate":4,"frames":5}'));
    const half = await beginningOf(zip.finish('application/zip'), 1 / 2);
    expect(half).toMatchObject({ width: 16, height: 8, frames: 2, seconds: 0.5 });
    const names = readStoredFiles(await half!.file.bytes()).map(({ name }) => name);
    expect(names).toEqual([frameName(0), frameName(1), 'video.json']);
    expect(await beginningOf(zip.finish('application/zip'), 1 / 8)).toBeNull();
  });
});

describe('where nothing encodes videos, as in Node', () => {
  const request = { width: 16, height: 16, rate: 8 };

  test('one becomes a ZIP of its frames, and that is said', async () => {
    const { notice } = await openVideoWriter({ ...request, format: 'auto' });
    expect(notice).toMatch(/^This browser encodes no videos, so the frames are kept as pictures in a ZIP/);
    expect((await openVideoWriter({ ...request, format: 'zip' })).notice).toBeNull();
  });

  test('a format that is asked for by name is refused', async () => {
    await expect(openVideoWriter({ ...request, format: 'webm' })).rejects.toThrow(
      'This browser has no encoder for WebM (VP9 or AV1) of 16×16 pixels; choose auto, which takes one that it has.',
    );
  });
});
