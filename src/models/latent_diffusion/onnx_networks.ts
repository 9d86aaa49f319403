/**
 * Networks from ready-made ONNX files. No two exports agree on names, types, ranks and batch, so everything comes from the session's
 * metadata: inputs are identified by rank, dynamic dimensions fixed by position, and rows fed in as many calls as the network's batch
 * requires.
 */
import { StudioError } from '../../core/errors.ts';
import type { Phase } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network, TensorPort } from '../../engine/runtime.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readOnnxFile, type OnnxFile } from '../../weights/onnx_file.ts';
import type {
  Decoder,
  Denoiser,
  DenoiserRequest,
  EncodedPicture,
  EncodedText,
  LatentSize,
  LatentSpace,
  Networks,
  ReadingOptions,
} from './networks.ts';
import type { NetworkRequest, PlannedNetwork } from './estimate.ts';
import type { OnnxLayout, Role } from './onnx_layout.ts';
import { Feeder, Taker, fixDimensions, fixed, isGuidance, isHalf, numeric, type Places } from './onnx_ports.ts';

/** Latents per side of the picture that preview colours are fitted on, where the decoder takes any size. */
const PREVIEW_SIZE = 16;
/** Fewer cannot distinguish the channels' colours. */
const SMALLEST_PREVIEW = 4;
/** The most latents for batched guidance if the network takes any batch: two pictures of 512 pixels. */
const BATCHED_LATENTS = 2 * 64 * 64;
/** In latents. torch's exporters bake in that each level halves the one before, which holds for multiples of this. */
const EXPORTED_STEP = 8;
/** The largest offset the asyncify build can read. */
const OFFSET_LIMIT = 2 ** 32;

const PHASES: Record<Role, Phase> = {
  text_encoder: 'read',
  vae_encoder: 'read',
  unet: 'sample',
  vae_decoder: 'decode',
};

export class OnnxNetworks implements Networks {
  readonly shelf: NetworkShelf;
  readonly conditions = { pooled: false, mask: false };
  readonly #opened = new Map<Role, Promise<OnnxFile>>();

  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
    readonly layout: OnnxLayout,
  ) {
    this.shelf = new NetworkShelf(engine, files);
  }

  get latents(): LatentSpace {
    return this.layout.latents;
  }

  readonly textWidths = null;
  readonly embeddings = [];

  async encodeText(
    [ids]: readonly Int32Array<ArrayBuffer>[],
    { skip, vectors }: ReadingOptions = {},
  ): Promise<EncodedText> {
    const { engine } = this;
    if (skip !== undefined || vectors !== undefined) {
      throw new StudioError(
        'checkpoint_unsupported',
        `The text encoder of "${this.files.name}" is ready-made and can only be read as it is; leave out clip_skip and embeddings, or choose another checkpoint.`,
      );
    }
    const network = await this.#network('text_encoder', { batch: 1, sequence: ids.length });
    const input = this.#only(network.inputs, 'text_encoder', ({ type }) => type === 'int32' || type === 'int64');
    const [batch, sequence] = fixed(input.dims, [1, ids.length]);
    if (sequence !== ids.length) {
      throw this.#unsupported('text_encoder', `it reads ${sequence} tokens and its tokenizer gives ${ids.length}`);
    }
    const output = this.#find(
      network.outputs,
      'text_encoder',
      'it gives no embeddings',
      ({ dims }) => dims.length === 3,
    );
    const width = numeric(output.dims[2]) ?? (await this.#textWidth());
    // Rows beyond the first repeat it: a fixed batch needs them, but nobody reads them.
    const rows = Array.from({ length: batch }, () => [...ids]).flat();
    const feed = engine.hostTensor(input.type, rows, [batch, sequence]);
    const taken = new Taker(engine, output, [batch, sequence, width]);
    const embeddings = engine.arithmetic.empty([1, sequence, width]);
    try {
      await engine.run(network, { [input.name]: feed }, { [output.name]: taken.target });
      taken.give(embeddings, 0, 1);
      return { states: embeddings, pooled: null };
    } catch (error) {
      embeddings.dispose();
      throw error;
    } finally {
      taken.dispose();
    }
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { engine } = this;
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    if (this.layout.networks.vae_encoder === null) {
      throw new StudioError(
        'checkpoint_unsupported',
        `"${this.files.name}" has no encoder for pictures, so it can only start from words; choose another checkpoint to start from a picture.`,
      );
    }
    const network = await this.#network('vae_encoder', { batch: 1, channels: 3, height, width });
    const input = this.#only(network.inputs, 'vae_encoder', ({ dims }) => dims.length === 4);
    const output = this.#find(network.outputs, 'vae_encoder', 'it gives no latents', ({ dims }) => dims.length === 4);
    const [batch] = this.#sized('vae_encoder', input, [1, 3, height, width], 1);
    const moments =
      (numeric(output.dims[1]) ?? (output.name === 'latent_parameters' ? 2 * channels : channels)) > channels;
    const shape = [moments ? 2 * channels : channels, height / factor, width / factor];
    const fed = new Feeder(engine, input, [batch, 3, height, width]);
    const taken = new Taker(engine, output, [batch, ...shape]);
    const tensor = engine.arithmetic.empty([1, ...shape]);
    try {
      await engine.run(network, { [input.name]: fed.put(pixels, 0) }, { [output.name]: taken.target });
      taken.give(tensor, 0, 1);
      return { kind: moments ? 'moments' : 'latents', tensor };
    } catch (error) {
      tensor.dispose();
      throw error;
    } finally {
      fed.dispose();
      taken.dispose();
    }
  }

  async denoiser(request: DenoiserRequest): Promise<Denoiser> {
    const { engine } = this;
    const { batch: rows, height, width, embeddings } = request;
    const { channels } = this.latents;
    const [, sequence, embeddingWidth] = embeddings[0].dims;
    const network = await this.#network('unet', { batch: rows, channels, height, width, sequence });
    const ports = this.#unetPorts(network);
    const [batch] = this.#sized('unet', ports.sample, [rows, channels, height, width], this.latents.factor);
    const [, tokens, textWidth] = fixed(ports.context.dims, [batch, sequence, embeddingWidth]);
    if (tokens !== sequence || textWidth !== embeddingWidth) {
      throw this.#unsupported(
        'unet',
        `it reads text as [${tokens}, ${textWidth}] and the text encoder gives [${sequence}, ${embeddingWidth}]`,
      );
    }
    const shape = [channels, height, width];
    const starts = Array.from({ length: Math.ceil(rows / batch) }, (_, n) => n * batch);

    const held: { dispose(): void }[] = [];
    const hold = <T extends { dispose(): void }>(one: T): T => {
      held.push(one);
      return one;
    };
    // For each of the embeddings, and each call for its rows.
    const contexts = embeddings.map((embedding) =>
      starts.map((start) => hold(new Feeder(engine, ports.context, [batch, tokens, textWidth])).put(embedding, start)),
    );
    const samples = starts.map(() => hold(new Feeder(engine, ports.sample, [batch, ...shape])));
    const taken = hold(new Taker(engine, ports.output, [batch, ...shape]));
    const outputs: DeviceTensor[] = [];
    const { factor } = this.latents;
    const explain = (thrown: unknown): never => {
      const error = StudioError.from(thrown);
      if (error.code !== 'internal' || (height % EXPORTED_STEP === 0 && width % EXPORTED_STEP === 0)) {
        throw error;
      }
      throw new StudioError(
        'invalid_operation',
        `The unet of "${this.files.name}" failed at ${width * factor}×${height * factor} pixels; many exports take multiples of ${EXPORTED_STEP * factor} only, so choose such a size.`,
        { cause: thrown },
      );
    };
    const guidance = ports.guidance && this.#guidanceTensor(ports.guidance, request.guidance, batch);
    return {
      async predict(sample, timestep, which = contexts.map((_, k) => k)) {
        const shapeOfTime = fixed(ports.time.dims, [batch]);
        const count = shapeOfTime.reduce((product, dim) => product * dim, 1);
        const time = engine.hostTensor(ports.time.type, new Array<number>(count).fill(timestep), shapeOfTime);
        const feeds = samples.map((feeder, n) => feeder.put(sample, starts[n]));
        for (const [place, k] of which.entries()) {
          outputs[place] ??= hold(engine.arithmetic.empty([rows, ...shape]));
          const output = outputs[place];
          for (const [n, start] of starts.entries()) {
            const inputs = {
              [ports.sample.name]: feeds[n],
              [ports.time.name]: time,
              [ports.context.name]: contexts[k][n],
              ...(ports.guidance && guidance && { [ports.guidance.name]: guidance }),
            };
            const whole = taken.isWhole(output);
            await engine.run(network, inputs, { [ports.output.name]: whole ? output : taken.target }).catch(explain);
            if (!whole) {
              taken.give(output, start, Math.min(batch, rows - start));
            }
          }
        }
        return outputs.slice(0, which.length);
      },
      dispose() {
        held.forEach((one) => {
          one.dispose();
        });
      },
    };
  }

  async decoder({ height, width }: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    const { engine } = this;
    const { arithmetic } = engine;
    const { channels, factor, scale } = this.latents;
    const name = purpose === 'picture' ? 'vae_decoder' : 'preview_decoder';
    const network = await this.#network('vae_decoder', { batch: 1, channels, height, width }, name);
    const input = this.#only(network.inputs, 'vae_decoder', ({ dims }) => dims.length === 4);
    const output = this.#find(network.outputs, 'vae_decoder', 'it gives no picture', ({ dims }) => dims.length === 4);
    const [batch] = this.#sized('vae_decoder', input, [1, channels, height, width], factor);
    const fed = new Feeder(engine, input, [batch, channels, height, width]);
    const taken = new Taker(engine, output, [batch, 3, height * factor, width * factor]);
    const scaled = arithmetic.empty([1, channels, height, width]);
    const picture = arithmetic.empty([1, 3, height * factor, width * factor]);
    return {
      async decode(latents) {
        arithmetic.combine(scaled, 1 / scale, latents, 0, null);
        await engine.run(network, { [input.name]: fed.put(scaled, 0) }, { [output.name]: taken.target });
        taken.give(picture, 0, 1);
        return picture;
      },
      dispose: async () => {
        for (const one of [fed, taken, scaled, picture]) {
          one.dispose();
        }
        if (purpose === 'preview') {
          await this.shelf.drop(name);
        }
      },
    };
  }

  async planned({ calls, steps, texts, decodings, startsFromPicture }: NetworkRequest): Promise<PlannedNetwork[]> {
    const runs = {
      text_encoder: texts,
      unet: calls * steps,
      vae_decoder: decodings,
      vae_encoder: startsFromPicture ? 1 : 0,
    };
    const planned: PlannedNetwork[] = [];
    for (const [role, path] of Object.entries(this.layout.networks) as [Role, string | null][]) {
      if (path !== null && runs[role] > 0) {
        const sizes = await Promise.all(
          dataFiles(this.files, path).map(async (one) => (await this.files.blob(one)).size),
        );
        const weightBytes = sizes.reduce((sum, size) => sum + size, 0);
        const { largestTensorBytes } = this.layout.weights ?? (await this.#file(role));
        const cost = { flops: null, weightBytes, heldBytes: weightBytes, activationSizes: null, largestTensorBytes };
        const runsPerStep = role === 'unet' ? calls : 0;
        planned.push({
          name: role,
          phase: PHASES[role],
          runs: runs[role],
          runsPerStep,
          precision: null,
          isOurs: false,
          cost: () => cost,
        });
      }
    }
    return planned;
  }

  async embedsGuidance(): Promise<boolean> {
    const { inputs } = await this.#file('unet');
    return inputs.some(isGuidance);
  }

  async batchesGuidance(rows: number, { height, width }: LatentSize): Promise<boolean> {
    const { inputs } = await this.#file('unet');
    const batch = inputs.find(({ dims }) => dims?.length === 4)?.dims?.[0];
    return typeof batch === 'number' ? rows <= batch : rows * height * width <= BATCHED_LATENTS;
  }

  async previewSize(): Promise<number | null> {
    const { inputs } = await this.#file('vae_decoder');
    const [height, width] = inputs.find(({ dims }) => dims?.length === 4)?.dims?.slice(2) ?? [];
    if (typeof height !== 'number' && typeof width !== 'number') {
      return PREVIEW_SIZE;
    }
    return typeof height === 'number' && height === width && height >= SMALLEST_PREVIEW ? height : null;
  }

  useLoras(loras: readonly unknown[]): Promise<string[]> {
    return loras.length === 0 ? Promise.resolve([]) : this.checkLora();
  }

  checkLora(): Promise<never> {
    return Promise.reject(
      new StudioError(
        'checkpoint_unsupported',
        `"${this.files.name}" is ready-made ONNX, into which no LoRA can be merged; use its diffusers folder instead.`,
      ),
    );
  }

  provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }> {
    return Promise.resolve({
      files: weightFiles(this.files, this.layout),
      facts: { precision: 'as exported', weights: 'full', export: this.layout.published ?? 'optimum' },
    });
  }

  clear(): Promise<void> {
    return this.shelf.clear();
  }

  /** The file without its weights, read once. */
  #file(role: Role): Promise<OnnxFile> {
    let file = this.#opened.get(role);
    if (!file) {
      file = readOnnxFile(this.files, this.layout.networks[role] ?? '');
      this.#opened.set(role, file);
      file.catch(() => this.#opened.delete(role));
    }
    return file;
  }

  /** The network with its dynamic dimensions fixed for these sizes. */
  async #network(role: Role, places: Places, name: string = role): Promise<Network> {
    const file = await this.#file(role);
    const { engine } = this;
    if (engine.report.runtime === 'asyncify' && file.furthestByte > OFFSET_LIMIT) {
      throw this.#unsupported(
        role,
        'one of its weight files is larger than 4 GiB, which only browsers with JSPI can read',
      );
    }
    if (engine.device && !engine.device.features.has('shader-f16') && [...file.inputs, ...file.outputs].some(isHalf)) {
      throw new StudioError(
        'checkpoint_unsupported',
        `The ${role} of "${this.files.name}" computes in half precision, which this GPU does not offer (shader-f16); open the page with ?backend=wasm, or choose another checkpoint.`,
      );
    }
    const freeDimensions = fixDimensions(file.inputs, places, this.layout.freeDimensions[role] ?? {});
    try {
      return await this.shelf.get(name, freeDimensions, () => ({
        bytes: file.bytes,
        externals: file.externals,
        freeDimensions,
        cpuNodes: file.cpuNodes,
      }));
    } catch (thrown) {
      const error = StudioError.from(thrown);
      if (error.code !== 'internal') {
        throw error;
      }
      throw new StudioError(
        'checkpoint_unsupported',
        `${file.path} of "${this.files.name}" cannot be run by the engine here; get the file again, or choose another checkpoint.`,
        { cause: error.cause ?? error },
      );
    }
  }

  /** The text encoder's last dimension if its own file does not say: the denoiser's input. */
  async #textWidth(): Promise<number> {
    const { inputs } = await this.#file('unet');
    const width = inputs.find(({ dims }) => dims?.length === 3)?.dims?.[2];
    if (typeof width !== 'number') {
      throw this.#unsupported('text_encoder', 'nothing says how wide its embeddings are');
    }
    return width;
  }

  /** The denoiser's inputs by rank, since every export has its own names. */
  #unetPorts(network: Network) {
    const missing = 'it lacks an input that every denoiser has';
    const { inputs } = network;
    const guidance = inputs.find(({ name, dims }) => isGuidance({ name, dims }));
    const ports = {
      sample: this.#find(inputs, 'unet', missing, ({ dims }) => dims.length === 4),
      context: this.#find(inputs, 'unet', missing, ({ dims }) => dims.length === 3),
      time: this.#find(inputs, 'unet', missing, ({ dims }) => dims.length <= 1),
      guidance,
      output: this.#find(network.outputs, 'unet', 'it gives no prediction', ({ dims }) => dims.length === 4),
    };
    const known = [ports.sample, ports.context, ports.time, guidance];
    const other = inputs.filter((port) => !known.includes(port));
    if (other.length > 0) {
      throw this.#unsupported('unet', `it also asks for ${other.map(({ name }) => name).join(', ')}`);
    }
    return ports;
  }

  /** The sinusoid of the guidance scale: diffusers, pipeline_latent_consistency_text2img.py, get_guidance_scale_embedding. */
  #guidanceTensor(port: TensorPort, scale: number, batch: number): DeviceTensor {
    const width = numeric(port.dims[1]) ?? 256;
    const half = Math.floor(width / 2);
    const row = new Array<number>(width).fill(0);
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(
        Math.fround((scale - 1) * 1000) * Math.fround(Math.exp((-Math.log(10000) * i) / (half - 1))),
      );
      row[i] = Math.sin(angle);
      row[half + i] = Math.cos(angle);
    }
    return this.engine.hostTensor(port.type, Array.from({ length: batch }, () => row).flat(), [batch, width]);
  }

  /** The single input of a network. */
  #only(ports: TensorPort[], role: Role, fits: (port: TensorPort) => boolean): TensorPort {
    const [port, ...other] = ports;
    if (other.length > 0 || !fits(port)) {
      throw this.#unsupported(role, `it asks for ${ports.map(({ name, type }) => `${name} (${type})`).join(', ')}`);
    }
    return port;
  }

  #find(ports: TensorPort[], role: Role, otherwise: string, fits: (port: TensorPort) => boolean): TensorPort {
    const port = ports.find(fits);
    if (!port) {
      throw this.#unsupported(role, otherwise);
    }
    return port;
  }

  /**
   * The dimensions of a picture or latents for the network; only the batch may differ.
   * @param unit pixels per step of height and width
   */
  #sized(role: Role, port: TensorPort, wanted: number[], unit: number): number[] {
    const dims = fixed(port.dims, wanted);
    if (dims[1] !== wanted[1]) {
      throw this.#unsupported(role, `it takes ${dims[1]} channels where ${wanted[1]} were expected`);
    }
    if (dims[2] !== wanted[2] || dims[3] !== wanted[3]) {
      throw new StudioError(
        'invalid_operation',
        `"${this.files.name}" was exported for ${dims[3] * unit}×${dims[2] * unit} pixels only; choose that size.`,
      );
    }
    return dims;
  }

  #unsupported(role: Role, why: string): StudioError {
    return new StudioError(
      'checkpoint_unsupported',
      `The ${role} of "${this.files.name}" cannot be run here: ${why}; choose another checkpoint.`,
    );
  }
}

/** Paths of the networks and of the files beside them that may contain their weights. */
export function weightFiles(files: CheckpointFiles, { networks }: OnnxLayout): string[] {
  const models = Object.values(networks).filter((path) => path !== null);
  return [...new Set([...models, ...models.flatMap((model) => dataFiles(files, model))])];
}

/** A network's file and the files beside it that may contain its weights. */
function dataFiles(files: CheckpointFiles, model: string): string[] {
  const folder = model.slice(0, model.lastIndexOf('/') + 1);
  return files
    .paths()
    .filter(
      (path) =>
        path.startsWith(folder) &&
        !path.slice(folder.length).includes('/') &&
        (path === model ||
          path === `${folder}weights.pb` ||
          path.startsWith(`${model}_data`) ||
          path.startsWith(`${model}.data`)),
    );
}
