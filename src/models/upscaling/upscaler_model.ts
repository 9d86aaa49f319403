/** An upscaler: one network, run tile by tile over a picture, and over its alpha channel if it has one. */
import { requireUsableSize } from '../../core/enlarging.ts';
import { StudioError, cancelled } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import { TileJoiner, layTiles, type Extent, type Seam, type Tile } from '../../core/picture_tiles.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, UpscaleRequest } from '../../core/model.ts';
import { EMPTY, NOT_FINITE } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { NetworkShelf, type Loading } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import { isOpaque, spreadColours } from '../../formats/background.ts';
import type { Graph, GraphOptions } from '../../graphs/graph.ts';
import * as rrdbnet from '../../graphs/rrdbnet.ts';
import * as srvgg from '../../graphs/srvgg_net_compact.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import type { UpscalerNetwork } from '../../weights/upscaler_layout.ts';
import type { Circumstances, LoadedUpscaler, ModelLora } from '../family.ts';
import { GraphCosts, estimate, type EstimatedNetworks } from '../latent_diffusion/estimate.ts';
import { reduceBicubic } from './reduction.ts';

const NAME = 'upscaler';
/** Only the inner parts of tiles are used: 20 is the reach of as many convolutions. */
const SEAM: Seam = { margin: 24, fade: 4 };
const BYTES = { f32: 4, f16: 2 } as const;

export class UpscalerModel implements LoadedUpscaler {
  readonly #shelf: NetworkShelf;
  readonly #costs = new GraphCosts();
  /** Of the last picture. */
  #used: { scale?: number } = {};

  private constructor(
    readonly files: CheckpointFiles,
    readonly path: string,
    readonly engine: Engine,
    readonly network: UpscalerNetwork,
    readonly summary: CheckpointSummary,
  ) {
    this.#shelf = new NetworkShelf(engine, files);
  }

  static async open(
    files: CheckpointFiles,
    path: string,
    engine: Engine,
    network: UpscalerNetwork,
  ): Promise<UpscalerModel> {
    const counts = Array.from(network.weights.names(), (name) =>
      (network.weights.get(name)?.shape ?? []).reduce((product, dim) => product * dim, 1),
    );
    const parameters = counts.reduce((sum, count) => sum + count, 0);
    const each = BYTES[engine.report.precision];
    return new UpscalerModel(files, path, engine, network, {
      ref: files.ref,
      name: files.name.replace(/\.safetensors$/i, ''),
      pipelineClass: network.className,
      parameters,
      needs: [path],
      variants: ['full'],
      takesLoras: false,
      multiple: 1,
      scale: scaleOf(network),
      bytes: (await files.blob(path)).size,
      memoryBytes: parameters * each,
      largestTensorBytes: Math.max(...counts) * each,
      // If the picture's size is unknown.
      defaults: { width: 512, height: 512, sampler: '', schedule: '' },
      prompts: [],
    });
  }

  set onLoading(listener: ((loading: Loading) => void) | null) {
    this.#shelf.onLoading = listener;
  }

  async provenance(): Promise<Record<string, unknown>> {
    const { name, ref, pipelineClass } = this.summary;
    return {
      checkpoint: {
        name,
        ref,
        pipeline_class: pipelineClass,
        sha256: { [this.path]: await fingerprint(this.files, this.path) },
      },
      precision: { [NAME]: this.engine.report.precision },
      ...this.#used,
    };
  }

  async upscale(image: PixelImage, request: UpscaleRequest): Promise<PixelImage> {
    const { scale = this.#scale, tile_size: side } = request;
    this.#requireScale(image, scale);
    this.#used = { scale };
    const tiles = layTiles(image, side, SEAM);
    const isWhole = isOpaque(image);
    const total = isWhole ? tiles.length : 2 * tiles.length;
    let done = 0;
    const onTile = () => {
      request.onTile(++done, total);
    };
    const pass = async (picture: PixelImage) => this.#enlarge(picture, tiles, side, scale, request.signal, onTile);
    const colours = await pass(isWhole ? image : spreadColours(image));
    if (!isWhole) {
      const grey = await pass(alphaOf(image));
      for (let i = 0; i < grey.data.length; i += 4) {
        colours.data[i + 3] = (grey.data[i] + grey.data[i + 1] + grey.data[i + 2]) / 3;
      }
    }
    return colours;
  }

  async #enlarge(
    image: PixelImage,
    tiles: readonly Tile[],
    side: number,
    scale: number,
    signal: AbortSignal,
    onTile: () => void,
  ): Promise<PixelImage> {
    const { arithmetic } = this.engine;
    const [width, height] = [image.width * scale, image.height * scale];
    const data = new Uint8ClampedArray(4 * width * height).fill(255);
    const joiner = new TileJoiner(image, side, SEAM, scale, (y, colours) => {
      colours.forEach((line, c) => {
        for (let x = 0; x < width; x++) {
          data[4 * (y * width + x) + c] = 255 * line[x];
        }
      });
    });
    const given = this.#padded(tiles[0]);
    const taken = { width: given.width * this.#scale, height: given.height * this.#scale };
    const network = await this.#network(given);
    const output = arithmetic.empty([1, 3, taken.height, taken.width]);
    try {
      for (const tile of tiles) {
        if (signal.aborted) {
          throw cancelled();
        }
        const cut = cutTile(image, tile, given);
        const input = arithmetic.upload(cut, [1, 3, given.height, given.width]);
        try {
          await this.engine.run(network, { image: input }, { enlarged: output });
          const enlarged = judged(await arithmetic.read(output), cut);
          const own = crop(enlarged, taken, { width: tile.width * this.#scale, height: tile.height * this.#scale });
          joiner.add(tile, scale === this.#scale ? own.planes : reduceBicubic(own.planes, own, timesSize(tile, scale)));
        } finally {
          input.dispose();
        }
        onTile();
      }
    } finally {
      output.dispose();
    }
    return { width, height, data };
  }

  get onDevice(): readonly string[] {
    return this.#shelf.names;
  }

  async prepare({ width, height, tile_size: side = Infinity }: EstimateRequest): Promise<void> {
    const given = this.#padded(layTiles({ width, height }, side, SEAM)[0]);
    const network = await this.#network(given);
    if (this.engine.provider === 'webgpu') {
      const { arithmetic } = this.engine;
      const input = arithmetic.empty([1, 3, given.height, given.width]);
      const output = arithmetic.empty([1, 3, given.height * this.#scale, given.width * this.#scale]);
      await this.engine.run(network, { image: input }, { enlarged: output });
      input.dispose();
      output.dispose();
    }
  }

  /** LoRAs exist only for checkpoints that paint. */
  useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    return loras.length === 0
      ? Promise.resolve([])
      : Promise.reject(
          new StudioError(
            'checkpoint_unsupported',
            `"${this.summary.name}" is an upscaler, which takes no LoRAs; leave them out.`,
          ),
        );
  }

  async checkLora(lora: ModelLora): Promise<string | null> {
    await this.useLoras([lora]);
    return null;
  }

  estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return estimate(this.#planned, this.summary.variants, request, circumstances);
  }

  toLoad({ width, height, tile_size: side = Infinity }: EstimateRequest): Promise<Map<string, number>> {
    const isHere = this.#shelf.names.includes(NAME);
    const [tile] = layTiles({ width, height }, side, SEAM);
    const { weightBytes } = this.#cost(tile, 1).cost(this.engine.report.precision, 'full');
    return Promise.resolve(new Map(isHere ? [] : [[NAME, weightBytes]]));
  }

  isFrom(files: CheckpointFiles): boolean {
    return files.has(this.path) && files.version(this.path) === this.files.version(this.path);
  }

  usePlainConvolutions(isPlain: boolean): void {
    this.#shelf.plainConvolutions = isPlain;
  }

  release(): Promise<void> {
    return this.#shelf.clear();
  }

  get #scale(): number {
    return scaleOf(this.network);
  }

  /** What estimates need from any kind of network; pixels take the place of latents. */
  get #planned(): EstimatedNetworks {
    return {
      latents: { channels: 3, factor: 1, scale: 1 },
      embedsGuidance: () => Promise.resolve(false),
      batchesGuidance: () => Promise.resolve(false),
      planned: ({ rows, decoded, width, height }) => {
        const side = Math.max(decoded.width, decoded.height);
        return Promise.resolve([this.#cost(decoded, rows * layTiles({ width, height }, side, SEAM).length)]);
      },
    };
  }

  #cost(tile: Extent, runs: number) {
    const { provider } = this.engine;
    const { width, height } = this.#padded(tile);
    return this.#costs.network(
      { name: NAME, runs, runsPerStep: runs, precision: null },
      { provider, batch: 1, width, height },
      (options) => this.#build(options),
    );
  }

  #network({ width, height }: Extent): Promise<Network> {
    return this.#shelf.get(NAME, { height, width }, (options) => this.#build({ ...options, batch: 1, height, width }));
  }

  #build(options: GraphOptions): Graph {
    const { network } = this;
    return network.className === rrdbnet.className
      ? rrdbnet.build(network.config, network.weights, options)
      : srvgg.build(network.config, network.weights, options);
  }

  /** The tile for the network: sides are padded to multiples if pixels become channels. */
  #padded({ width, height }: Extent): Extent {
    const { network } = this;
    const multiple = network.className === rrdbnet.className ? network.config.unshuffle : 1;
    return { width: Math.ceil(width / multiple) * multiple, height: Math.ceil(height / multiple) * multiple };
  }

  #requireScale({ width, height }: Extent, scale: number): void {
    const least = Math.min(2, this.#scale);
    if (scale > this.#scale || scale < least) {
      throw new StudioError(
        'invalid_operation',
        `scale is ${scale}, but "${this.summary.name}" takes ${least} to ${this.#scale}; choose another scale or another upscaler.`,
      );
    }
    requireUsableSize({ width: width * scale, height: height * scale });
  }
}

function scaleOf(network: UpscalerNetwork): number {
  return network.className === rrdbnet.className ? rrdbnet.scaleOf(network.config) : srvgg.scaleOf(network.config);
}

function timesSize({ width, height }: Extent, scale: number): Extent {
  return { width: width * scale, height: height * scale };
}

/** [3, size.height, size.width] from 0 to 1, padded beyond the tile by reflection without repeating the border, like torch. */
function cutTile({ width, data }: PixelImage, tile: Tile, size: Extent): Float32Array<ArrayBuffer> {
  const cut = new Float32Array(3 * size.height * size.width);
  const mirrored = (at: number, length: number) => (at < length ? at : Math.max(0, 2 * length - 2 - at));
  for (let y = 0; y < size.height; y++) {
    for (let x = 0; x < size.width; x++) {
      const from = (tile.top + mirrored(y, tile.height)) * width + tile.left + mirrored(x, tile.width);
      for (let c = 0; c < 3; c++) {
        cut[(c * size.height + y) * size.width + x] = data[4 * from + c] / 255;
      }
    }
  }
  return cut;
}

function crop(planes: Float32Array, size: Extent, to: Extent): Extent & { planes: Float32Array } {
  if (size.width === to.width && size.height === to.height) {
    return { ...to, planes };
  }
  const cropped = new Float32Array(3 * to.height * to.width);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < to.height; y++) {
      const from = (c * size.height + y) * size.width;
      cropped.set(planes.subarray(from, from + to.width), (c * to.height + y) * to.width);
    }
  }
  return { ...to, planes: cropped };
}

/** @throws StudioError `result_invalid` for NaN or infinity, and for a buffer that was never written */
function judged(enlarged: Float32Array, given: Float32Array): Float32Array {
  if (!enlarged.every(Number.isFinite)) {
    throw new StudioError('result_invalid', NOT_FINITE);
  }
  if (enlarged.every((value) => value === 0) && given.some((value) => value !== 0)) {
    throw new StudioError('result_invalid', EMPTY, { retry: 'same' });
  }
  return enlarged;
}

/** Its alpha channel as a grey picture. */
function alphaOf({ width, height, data }: PixelImage): PixelImage {
  const grey = new Uint8ClampedArray(data.length).fill(255);
  for (let i = 0; i < data.length; i += 4) {
    grey.fill(data[i + 3], i, i + 3);
  }
  return { width, height, data: grey };
}
