/** Autoencoders of videos as they are built for a GPU, with small frames in one value and large ones each by itself, beside what the processor is given; all computed in Node. */
import { expect, test, vi } from 'vitest';
import { NetworkShelf } from '../src/engine/network_shelf.ts';
import { DeviceLatents } from '../src/models/latent_diffusion/device_latents.ts';
import { LtxVideos } from '../src/models/video_diffusion/ltx_videos.ts';
import { WanVideos } from '../src/models/video_diffusion/wan_videos.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { filesOf } from './checkpoint_folder.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { hashed } from './hashed_weights.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

/** How graphs are built: for the processor, or for a GPU with so many bytes for frames in one value. */
type Built = 'processor' | number;

async function videosOf(name: string, built: Built) {
  const files = filesOf(name, weightlessContents(name));
  const component = await (await Checkpoint.open(files)).component('vae');
  const { engine } = startNodeEngine();
  const shelf = new NetworkShelf(engine, files);
  const get = shelf.get.bind(shelf);
  vi.spyOn(shelf, 'get').mockImplementation((network, shape, build) =>
    get(network, shape, (options) => {
      const forGpu = { ...options, provider: 'webgpu' as const, togetherBytes: built };
      const graph = build(built === 'processor' ? options : forGpu);
      // Node's runtime has no kernels that are bound.
      return { ...graph, repeated: new Set<string>() };
    }),
  );
  const videos = name.includes('ltx')
    ? new LtxVideos(engine, shelf, files, component, 1000, 3)
    : new WanVideos(engine, shelf, component);
  return { engine, videos };
}

async function decoded(name: string, built: Built, frames: number): Promise<number[]> {
  const { engine, videos } = await videosOf(name, built);
  const { arithmetic } = engine;
  const { channels } = videos.latents;
  const latents = arithmetic.upload(hashed(77, channels * frames, 2, 0), [1, channels, frames, 1]);
  const colours: number[] = [];
  vi.spyOn(arithmetic, 'toPixels').mockImplementation(async (made) => {
    colours.push(...(await new DeviceLatents(made, engine).read()));
    return [];
  });
  const signal = new AbortController().signal;
  await videos.decode(latents, frames, { signal, take: () => Promise.resolve() });
  return colours;
}

async function encoded(name: string, built: Built): Promise<number[]> {
  const { engine, videos } = await videosOf(name, built);
  if (!(videos instanceof WanVideos)) {
    throw new Error('Only Wan begins and ends with pictures.');
  }
  const { factor } = videos.latents;
  const side = factor;
  const picture = (seed: number) => engine.arithmetic.upload(hashed(seed, 3 * side * side, 1, 0), [1, 3, side, side]);
  return [...(await new DeviceLatents(await videos.encode(picture(5), 2, picture(6)), engine).read())];
}

test.each([
  ['tiny-wan', 3],
  ['tiny-wan-ti2v', 3],
  ['tiny-ltx-095', 7],
])('%s decodes %i latents as on the processor', async (name, frames) => {
  const expected = await decoded(name, 'processor', frames);
  expect(expected.some((colour) => colour > 0.1)).toBe(true);
  // With the second some layers have small frames and some large ones.
  for (const bytes of [2 ** 26, 2 ** 12]) {
    expect(greatestDifference(await decoded(name, bytes, frames), expected)).toBeLessThan(1e-4);
  }
});

test.each(['tiny-wan', 'tiny-wan-ti2v'])('%s encodes as on the processor', async (name) => {
  const expected = await encoded(name, 'processor');
  expect(greatestDifference(await encoded(name, 2 ** 26), expected)).toBeLessThan(1e-4);
});
