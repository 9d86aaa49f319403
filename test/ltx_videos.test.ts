/** LTX-Video's autoencoder as a whole and in pieces, what its checkpoints say, and refusals. Its frames are compared in `test/fidelity/videos.ts`. */
import { describe, expect, test, vi } from 'vitest';
import * as v from 'valibot';
import { parameters } from '../chunks/output_video_ltx.ts';
import { estimateRequest } from '../src/core/fit.ts';
import { parseOperation } from '../src/core/operation.ts';
import { plan } from '../src/core/plan.ts';
import { NetworkShelf } from '../src/engine/network_shelf.ts';
import * as autoencoder from '../src/graphs/autoencoder_kl_ltx.ts';
import * as ltx from '../src/graphs/ltx_transformer3d.ts';
import { asLatentUpsampler, openCheckpoint, openModel } from '../src/models/family.ts';
import { DeviceLatents } from '../src/models/latent_diffusion/device_latents.ts';
import { LtxVideos } from '../src/models/video_diffusion/ltx_videos.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { readLora } from '../src/weights/lora.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { hashed } from './hashed_weights.ts';
import { goldenCases, paint, type GoldenCase } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import shapes from './goldens/ltx_shapes.json';
import { indexOf } from './published_shapes.ts';
import { readTensors, run, type NetworkWeights } from './onnx_node.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const CHECKPOINTS = ['tiny-ltx', 'tiny-ltx-095'] as const;
const base = { dtype: 'f32', batch: 1 } as const;

function open(name: string, change: (contents: Contents) => void = () => undefined) {
  const contents = weightlessContents(name);
  change(contents);
  return openModel(filesOf(name, contents), startNodeEngine().engine);
}

const replaced = (path: string, wrong: Record<string, unknown>) => (contents: Contents) => {
  const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
  contents.set(path, new TextEncoder().encode(JSON.stringify({ ...values, ...wrong })));
};

async function vaeOf(name: string) {
  const files = filesOf(name, weightlessContents(name));
  return { files, component: await (await Checkpoint.open(files)).component('vae') };
}

describe.each(CHECKPOINTS)('the autoencoder of %s', (name) => {
  test('decodes in pieces what it decodes as a whole', async () => {
    const { files, component } = await vaeOf(name);
    const { engine } = startNodeEngine();
    const { arithmetic } = engine;
    const [frames, rows, width] = [7, 1, 1];
    const dims = [1, 16, frames * rows, width];
    const latents = arithmetic.upload(hashed(77, 16 * frames * rows * width, 2, 0), dims);
    const decoded = async (step: number) => {
      const shelf = new NetworkShelf(engine, files);
      const videos = new LtxVideos(engine, shelf, files, component, 1000, step);
      const pieces = videos
        .given(frames)
        .slice(0, -1)
        .map((count, stage) => videos.pieces(stage, count).length);
      const parts: Float32Array[] = [];
      const toPixels = vi.spyOn(arithmetic, 'toPixels').mockImplementation(async (made) => {
        parts.push(await new DeviceLatents(made, engine).read());
        return [];
      });
      await videos.decode(latents, frames, {
        signal: new AbortController().signal,
        take: () => Promise.resolve(),
      });
      toPixels.mockRestore();
      await shelf.clear();
      return { pieces, colours: parts.flatMap((part) => [...part]) };
    };
    const whole = await decoded(1000);
    expect(whole.pieces.every((count) => count === 1)).toBe(true);
    expect(whole.colours).toHaveLength(49 * 3 * 32 * 32);
    const { pieces, colours } = await decoded(3);
    expect(pieces.at(-1)).toBeGreaterThan(3);
    expect(greatestDifference(colours, whole.colours)).toBeLessThan(1e-4);
  });

  test('encodes a video of 17 frames as diffusers does', async () => {
    const { files, component } = await vaeOf(name);
    const config = autoencoder.parseConfig(component.config);
    const blobs = new Map<string, Blob>();
    for (const path of component.files) {
      blobs.set(path, await files.blob(path));
    }
    const weights: NetworkWeights = Object.assign(component.weights, { blobs });
    const expected = readTensors(`${import.meta.dirname}/goldens/ltx_encodings.safetensors`).get(name);
    const video = hashed(9000 + CHECKPOINTS.indexOf(name), 3 * 17 * 64 * 32, 1, 0);
    // There it is [3, frames, …].
    const plane = 64 * 32;
    const sample = new Float32Array(video.length);
    for (let frame = 0; frame < 17; frame++) {
      for (let channel = 0; channel < 3; channel++) {
        const from = (channel * 17 + frame) * plane;
        sample.set(video.subarray(from, from + plane), (frame * 3 + channel) * plane);
      }
    }
    for (const provider of ['wasm', 'webgpu'] as const) {
      const graph = autoencoder.buildEncoder(config, weights, { ...base, provider, height: 64, width: 32, frames: 17 });
      const { latents } = await run(graph, weights, { sample, noise: new Float32Array(expected?.data.length ?? 0) });
      const difference = latents.reduce(
        (most, value, n) => Math.max(most, Math.abs(value - (expected?.data[n] ?? NaN))),
        0,
      );
      expect(difference).toBeLessThan(1e-4);
    }
  });
});

describe('a checkpoint of LTX-Video', () => {
  test.each(CHECKPOINTS)('%s says what its videos are like', async (name) => {
    const { summary } = await open(name);
    const isOlder = name === 'tiny-ltx';
    expect(summary).toMatchObject({ multiple: 32, mostFrames: 1025, firstFrame: 'may', takesLoras: true });
    expect(summary.pipelineClass).toBe(isOlder ? 'LTXPipeline' : 'LTXConditionPipeline');
    expect(summary.lastFrame).toBe(isOlder ? undefined : 'may');
    expect(summary.ignores).toEqual(isOlder ? ['decode_timestep', 'decode_noise_scale'] : undefined);
  });

  test.each([
    [
      'latents of another width',
      'transformer/config.json',
      { in_channels: 8, out_channels: 8 },
      /takes latents of 8 channels/,
    ],
    ['text of another width', 'transformer/config.json', { caption_channels: 64 }, /reads 64 numbers of each token/],
    [
      'noise in its decoder',
      'vae/config.json',
      { decoder_inject_noise: [true, true, true, true, false] },
      /has "decoder_inject_noise/,
    ],
  ] as const)('with %s is refused in a sentence', async (_, path, wrong, message) => {
    await expect(open('tiny-ltx', replaced(path, wrong))).rejects.toThrow(message);
  });

  test('a size that is no multiple of 32 is refused, and the nearest is said', async () => {
    const operation = {
      operation: 'video_generation',
      config: 'ltx',
      parameters: { prompt: '', frames: 9, width: 48, height: 32 },
    };
    await expect(paint(await open('tiny-ltx'), operation, '')).rejects.toThrow(
      /^width must be a multiple of 32 .* the nearest is 64\.$/,
    );
  });

  test.each(['transformer.', 'diffusion_model.', ''])('takes a LoRA whose names begin with "%s"', async (prefix) => {
    const files = filesOf('tiny-ltx', weightlessContents('tiny-ltx'));
    const { weights: transformer } = await (await Checkpoint.open(files)).component('transformer');
    const layers = [
      'transformer_blocks.0.attn1.to_q',
      'transformer_blocks.1.attn2.to_out.0',
      'transformer_blocks.1.ff.net.2',
    ];
    const tensors = layers.flatMap((layer): [string, { dims: number[]; data: Float32Array<ArrayBuffer> }][] => {
      const [rows, columns] = transformer.get(`${layer}.weight`)?.shape ?? [];
      return [
        [`${prefix}${layer}.lora_A.weight`, { dims: [2, columns], data: hashed(1, 2 * columns, 1, 0) }],
        [`${prefix}${layer}.lora_B.weight`, { dims: [rows, 2], data: hashed(2, 2 * rows, 1, 0) }],
      ];
    });
    const lora = await readLora(new Blob([writeSafetensors(tensors)]), 'lora.safetensors', { transformer });
    expect(lora.leftOut).toEqual([]);
    expect([...lora.transformer.keys()].sort()).toEqual([...layers].sort());
  });

  test('that cannot be given a last frame refuses one in a sentence', async () => {
    const parameters = { prompt: '', frames: 9, width: 32, height: 32, last_image: 'image.png' };
    const operation = { operation: 'video_generation', config: 'ltx', parameters };
    await expect(paint(await open('tiny-ltx'), operation, '')).rejects.toThrow(
      '"tiny-ltx" makes no videos that end with a given picture; leave last_image out',
    );
  });

  test('takes more memory and time for more frames, and for a picture to begin with', async () => {
    const model = await open('tiny-ltx');
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
    const [few, many, given] = [await planned(9), await planned(33), await planned(9, new Blob([]))];
    expect(many).toBeGreaterThan(2 * few);
    expect(given).toBeGreaterThan(few);
  });

  test('of 2B is planned at full size, with every tensor that it has', () => {
    const { transformer, vaes } = shapes;
    const config = ltx.parseConfig(transformer.config);
    const index = indexOf(transformer.tensors, 'transformer_blocks', config.num_layers);
    const options = { ...base, provider: 'webgpu' } as const;
    const video = { frames: 13, height: 15, width: 22 };
    const graph = ltx.build(config, index, { ...options, ...video, weights: 'full' });
    expect([...index.names()].filter((name) => !index.used.has(name))).toEqual([]);
    expect(graph.weightBytes).toBeGreaterThanOrEqual(4 * transformer.parameters);
    expect(graph.weightBytes).toBeLessThan(4.01 * transformer.parameters);

    for (const vae of Object.values(vaes)) {
      const pictures = autoencoder.parseConfig(vae.config);
      const own = indexOf(vae.tensors);
      const sharing: boolean[] = [];
      autoencoder.decoderStages(pictures).forEach(({ scale, reach }, stage) => {
        const size = { height: scale * video.height, width: scale * video.width };
        const piece = { frames: reach + 4, isFirst: true, isLast: false };
        const shape = { ...options, ...size, ...piece, stage };
        const decoder = autoencoder.buildDecoder(pictures, own, shape);
        // Large frames are convolved each by itself with the same kernels, which are to be on the device once; small ones at once.
        const kernels = decoder.repeated.size;
        expect([0, ...Array.from({ length: 40 }, (_, n) => n + 6)]).toContain(kernels);
        sharing.push(kernels > 0);
      });
      expect(sharing[0]).toBe(false);
      expect(sharing.at(-1)).toBe(true);
      autoencoder.buildEncoder(pictures, own, { ...options, height: 480, width: 704 });
      const tiny = { height: 2, width: 2, frames: 6, isFirst: true, isLast: true, stage: 0, togetherBytes: 0 };
      const first = autoencoder.buildDecoder(pictures, own, { ...options, ...tiny });
      const [{ weights }] = first.adjustable(first.repeated).blocks;
      const bound = new Set(weights.map(({ name }) => name));
      expect([...first.repeated].filter((name) => !bound.has(name))).toEqual([]);
      // The processor reads constants where they lie.
      expect(autoencoder.buildDecoder(pictures, own, { ...options, ...tiny, provider: 'wasm' }).repeated.size).toBe(0);
      // The number is read on the processor.
      const left = [...own.names()].filter((name) => !own.used.has(name));
      expect(left).toEqual(pictures.timestep_conditioning ? ['decoder.timestep_scale_multiplier'] : []);
    }
  });
});

test.each([
  [{ timesteps: [1000, 500], steps: 3 }, 'timesteps has 2 values, so steps must be 2, not 3; change one of them.'],
  [{ timesteps: [500, 500], steps: 2 }, /^timesteps must be numbers that fall, from 1000 at most to above 0/],
  [{ timesteps: [1000, 0], steps: 2 }, /^timesteps must be numbers that fall/],
  [
    { timesteps: [1000, 500], steps: 2, schedule: 'karras' },
    /^timesteps go with the sampler euler and with no schedule/,
  ],
])('timesteps: %j is refused in a sentence', (values, message) => {
  const { issues } = v.safeParse(parameters, { operation: 'video_generation', prompt: '', ...values });
  expect(issues).toHaveLength(1);
  expect(issues?.[0].message).toMatch(message);
});

test('a distilled config brings its timesteps, whatever the checkpoint', async () => {
  const { summary } = await open('tiny-ltx-095');
  const config = catalogue.configs.ltx_distilled;
  const operation = parseOperation({ operation: 'video_generation', config: config.id, parameters: { prompt: '' } });
  const result = plan(operation, catalogue, () => summary, startNodeEngine().engine.report);
  expect(result).toMatchObject({ ok: true, plan: { steps: [{ parameters: { steps: 8, guidance_scale: 1 } }] } });
});

test.each([
  [16, 'frames must be 1 more than a multiple of 8, from 1 to 1025; the nearest is 17.'],
  [2000, 'frames must be 1 more than a multiple of 8, from 1 to 1025; the nearest is 1025.'],
  ['many', 'frames must be 1 more than a multiple of 8, from 1 to 1025.'],
])('frames: %j is refused, and the nearest number is said', (frames, message) => {
  const { issues } = v.safeParse(parameters, { operation: 'video_generation', prompt: '', frames });
  expect(issues?.map((issue) => issue.message)).toEqual([message]);
});

describe('a latent upsampler', () => {
  const openUpsampler = (name: string, contents = weightlessContents(name)) =>
    openCheckpoint(filesOf(name, contents), startNodeEngine().engine);

  test('is the same in one file, whose configuration follows from its tensors', async () => {
    const folder = weightlessContents('tiny-ltx-upsampler');
    const weights = folder.get('latent_upsampler/diffusion_pytorch_model.safetensors') as Uint8Array<ArrayBuffer>;
    const single = asLatentUpsampler(
      await openUpsampler('upscaler.safetensors', new Map([['upscaler.safetensors', weights]])),
    );
    const whole = asLatentUpsampler(await openUpsampler('tiny-ltx-upsampler'));
    expect(single.summary).toMatchObject({ name: 'upscaler', pipelineClass: 'LTXLatentUpsamplePipeline' });
    const latents = { dims: [1, 16, 6, 3], data: hashed(5, 16 * 6 * 3, 1, 0) };
    const { signal } = new AbortController();
    const [one, other] = [await single.upsample(latents, 3, signal), await whole.upsample(latents, 3, signal)];
    expect(one).toEqual(other);
    expect(one.dims).toEqual([1, 16, 12, 6]);
  });

  test('goes on with its second pass after a kill, and samples the first no more', async () => {
    const root = `${import.meta.dirname}/goldens/videos`;
    const one = goldenCases(root).find(({ name }) => name === 'ltx-upsampled-again') as GoldenCase;
    const kept: unknown[] = [];
    const whole = await paint(await open('tiny-ltx-095'), one, '', { keep: (state) => void kept.push(state) });
    // Three steps, then two of five.
    expect(kept.length).toBeGreaterThan(3);
    const model = await open('tiny-ltx-095');
    const sample = vi.spyOn(model, 'sample');
    const resumed = await paint(model, one, '', { resume: structuredClone(kept[3]) });
    expect(sample).toHaveBeenCalledTimes(1);
    expect(resumed).toEqual(whole);
  });

  test('makes nothing by itself, and nothing else is one', async () => {
    await expect(open('tiny-ltx-upsampler')).rejects.toThrow(/makes none by itself; choose a checkpoint that does/);
    const other = await open('tiny-ltx');
    expect(() => asLatentUpsampler(other)).toThrow(/enlarges no latents; choose a latent upsampler of LTX-Video/);
  });

  test('is planned with what it makes', async () => {
    const { summary } = await open('tiny-ltx-095');
    const step = { operation: 'video_generation', parameters: { steps: 8, frames: 9, width: 64, height: 32 } };
    const twice = { ...step, parameters: { ...step.parameters, latent_upsampler: 'import:x', upsampled_steps: 5 } };
    expect(estimateRequest(twice, summary)).toMatchObject({ width: 128, height: 64, steps: 4 });
    expect(estimateRequest(step, summary)).toMatchObject({ width: 64, height: 32, steps: 8 });
  });

  test.each([
    [{ adain_factor: 1 }, /^adain_factor counts only in a second pass; name a latent_upsampler/],
    [{ latent_upsampler: 'none' }, /^latent_upsampler must be the ref of a stored latent upsampler/],
    [
      { latent_upsampler: 'import:x', upsampled_steps: 3, upsampled_timesteps: [900] },
      'upsampled_timesteps has 1 values, so upsampled_steps must be 1, not 3; change one of them.',
    ],
  ])('%j is refused in a sentence', (values, message) => {
    const { issues } = v.safeParse(parameters, { operation: 'video_generation', prompt: '', ...values });
    expect(issues?.[0].message).toMatch(message);
  });
});
