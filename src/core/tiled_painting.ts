/**
 * Paints a large picture tile by tile; `tiled.ts` has the parameters, `tiling.ts` reckons sizes.
 *
 * 1. The picture is enlarged to `tiled_scale` times its size, sides rounded down to multiples of 8: by the upscaler, if one is named, and then
 *    by Pillow's Lanczos.
 * 2. Tiles of one size lie in a grid of the fewest rows and columns with which neighbours share at least the overlap, evenly spread
 *    (`picture_tiles.ts`). As in AUTOMATIC1111's "SD upscale", tile n, row by row, is painted with the seed plus n.
 * 3. Each tile goes from picture to picture like any other one.
 * 4. The results, in 8 bits, are blended: along each side the share of a tile rises linearly from 0 to 1 over the overlap, around the middle
 *    of what it shares with the tile before, and that one's falls alike; the share of a pixel is the product of both sides'.
 */
import * as v from 'valibot';
import { requireUsableSize, upscaled } from './enlarging.ts';
import { StudioError, cancelled } from './errors.ts';
import type { CpuTensor, PixelImage } from './media.ts';
import type { Conditioning, Latents, Model, SampleRequest, Upscaler } from './model.ts';
import type { NoiseRequest } from './noise.ts';
import { noiseSource } from './noise_sources.ts';
import { partOf } from './picture_part.ts';
import { TileJoiner, layTiles, type Seam } from './picture_tiles.ts';
import { resizeLanczos } from './pillow_resize.ts';
import type { TiledRequest } from './tiled.ts';
import { overlapProblem, tileSide, tiling, usualOverlap } from './tiling.ts';

type Input = TiledRequest &
  NoiseRequest & { width?: number | undefined; height?: number | undefined; tile_size?: number | undefined };

const HIGHEST_SEED = 2n ** 64n - 1n;
const SMALLEST_SIDE = 16;

/** How far encoding and decoding are, in tiles. Sampling reports steps of all tiles together to the request. */
interface Watch {
  onEncoded: (done: number, tiles: number) => void;
  /** When everything is sampled. */
  onSampled: (latents: CpuTensor) => Promise<void>;
  onDecoded: (done: number, tiles: number) => void;
}

/**
 * @param request of one tile, but for its size, its start and its noise
 * @param picture before it is enlarged
 * @param loadUpscaler opens the one that `tiled_upscaler` names, if it does
 * @returns `batch_size` large pictures. What an interrupted attempt kept are the latents of finished tiles.
 * @throws StudioError `invalid_operation` for tiles or a picture of a size that cannot be, `cancelled`
 */
export async function paintInTiles(
  model: Model,
  text: Conditioning,
  request: Omit<SampleRequest, 'width' | 'height' | 'start' | 'random'>,
  input: Input,
  picture: PixelImage,
  loadUpscaler: (ref: string) => Promise<Upscaler>,
  { onEncoded, onSampled, onDecoded }: Watch,
): Promise<PixelImage[]> {
  if (!model.latentsFrom) {
    throw new StudioError(
      'invalid_operation',
      `"${model.summary.name}" does not paint in tiles; leave tiled_scale out, or choose another checkpoint.`,
    );
  }
  const { whole, tile: size, side, seam } = grid(input, picture, model);
  const tiles = layTiles(whole, side, seam);
  const { batch_size, signal, phased } = request;
  const kept = keptTiles(request.resume, [batch_size, size.height, size.width], tiles.length);
  const left = tiles.slice(kept?.tiles.length ?? 0);
  const done = tiles.length - left.length;
  const finished: Float32Array<ArrayBuffer>[] = [...(kept?.tiles ?? [])];
  let dims = kept?.dims;
  const starts: { start: Latents; random: SampleRequest['random'] }[] = [];
  try {
    const enlarged = left.length === 0 ? picture : await enlarge(picture, whole, input, signal, loadUpscaler);
    for (const [n, tile] of left.entries()) {
      throwIfCancelled(signal);
      const random = noiseSource({ ...input, seed: seedOf(input.seed, done + n) });
      const encoding = { ...size, batch_size, random, tile_size: input.tile_size };
      starts.push({ start: await model.encodeImage(partOf(enlarged, tile), encoding), random });
      onEncoded(done + n + 1, tiles.length);
    }
    const controls = request.controls?.map((control) => ({
      ...control,
      picture: resizeLanczos(control.picture, whole.width, whole.height),
    }));
    for (const [n, { start, random }] of starts.entries()) {
      throwIfCancelled(signal);
      const latents = await model.sample(text, {
        ...request,
        ...size,
        start,
        random,
        controls: controls?.map((control) => ({ ...control, picture: partOf(control.picture, left[n]) })),
        // The networks of the phase are here since the first one.
        phased: n === 0 && phased,
        resume: null,
        keep: () => undefined,
        onStart: (steps) => {
          request.onStart(tiles.length * steps, (done + n) * steps);
        },
        onStep: (report) =>
          request.onStep({
            ...report,
            step: (done + n) * report.steps + report.step,
            steps: tiles.length * report.steps,
          }),
      });
      try {
        dims = [...latents.dims];
        finished.push(await latents.read());
      } finally {
        latents.dispose();
        start.dispose();
      }
      request.keep({ dims, tiles: [...finished] } satisfies KeptTiles);
    }
  } finally {
    for (const { start } of starts) {
      start.dispose();
    }
  }
  const [batch, ...rest] = dims ?? [];
  await onSampled({ dims: [batch * tiles.length, ...rest], data: joined(finished) });

  const pictures = Array.from({ length: batch_size }, () => new Uint8ClampedArray(4 * whole.width * whole.height));
  const joiners = pictures.map((data) => new TileJoiner(whole, side, seam, 1, writerInto(data, whole.width)));
  for (const [n, tile] of tiles.entries()) {
    throwIfCancelled(signal);
    const latents = model.latentsFrom({ dims: [batch, ...rest], data: finished[n] });
    const part = { tile_size: input.tile_size, phased: n === 0 && phased, signal, onPart: () => undefined };
    try {
      const painted = await model.decode(latents, part);
      painted.forEach((one, at) => {
        joiners[at].add(tile, planesOf(one));
      });
    } finally {
      latents.dispose();
    }
    onDecoded(n + 1, tiles.length);
  }
  return pictures.map((data) => ({ ...whole, data }));
}

/** @throws StudioError `invalid_operation` */
function grid(input: Input, given: PixelImage, { summary: { defaults } }: Model) {
  const before = { width: input.width ?? given.width, height: input.height ?? given.height };
  const { whole, tile } = tiling(input, before, defaults);
  const side = tileSide(input, defaults);
  const overlap = input.tiled_overlap ?? usualOverlap(side);
  if (Math.min(whole.width, whole.height) < SMALLEST_SIDE) {
    throw new StudioError(
      'invalid_operation',
      `The picture to start from is only ${given.width}×${given.height} pixels; give a larger one, or width and height.`,
    );
  }
  const problem = overlapProblem(overlap, side);
  if (problem !== null) {
    throw new StudioError('invalid_operation', problem);
  }
  requireUsableSize(whole);
  const seam: Seam = { margin: overlap / 2, fade: overlap / 2 };
  return { whole, tile, side, seam };
}

async function enlarge(
  picture: PixelImage,
  { width, height }: { width: number; height: number },
  { tiled_upscaler: how = 'lanczos' }: Input,
  signal: AbortSignal,
  loadUpscaler: (ref: string) => Promise<Upscaler>,
): Promise<PixelImage> {
  const larger = how === 'lanczos' ? picture : await upscaled(await loadUpscaler(how), picture, { width, signal });
  return resizeLanczos(larger, width, height);
}

/** Beyond the highest seed comes the lowest. */
function seedOf(seed: string, tile: number): string {
  return String((BigInt(seed) + BigInt(tile)) & HIGHEST_SEED);
}

function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) {
    throw cancelled();
  }
}

function joined(parts: readonly Float32Array[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** [3, height, width], from 0 to 255. */
function planesOf({ width, height, data }: PixelImage): Float32Array {
  const plane = width * height;
  return Float32Array.from({ length: 3 * plane }, (_, i) => data[4 * (i % plane) + Math.floor(i / plane)]);
}

function writerInto(data: Uint8ClampedArray, width: number): TileJoiner['write'] {
  return (y, colours) => {
    for (let x = 0; x < width; x++) {
      const at = 4 * (y * width + x);
      colours.forEach((line, c) => {
        data[at + c] = line[x];
      });
      data[at + 3] = 255;
    }
  };
}

const keptSchema = v.object({
  /** Of one tile's latents, its batch first. */
  dims: v.pipe(v.array(v.number()), v.length(4)),
  tiles: v.array(
    v.custom<Float32Array<ArrayBuffer>>((data) => data instanceof Float32Array && data.every(Number.isFinite)),
  ),
});
type KeptTiles = v.InferOutput<typeof keptSchema>;

/** What was kept of these very tiles; null for anything else. */
function keptTiles(
  resume: unknown,
  [batch, height, width]: readonly [batch: number, height: number, width: number],
  count: number,
): KeptTiles | null {
  const result = v.safeParse(keptSchema, resume);
  if (!result.success) {
    return null;
  }
  const { dims, tiles } = result.output;
  const length = dims.reduce((product, dim) => product * dim, 1);
  const areIts = dims[0] === batch && dims[2] * width === dims[3] * height;
  return areIts && tiles.length <= count && tiles.every((one) => one.length === length) ? result.output : null;
}
