/**
 * The networks of a Stable Diffusion checkpoint as our own graphs over its files: built on first use, for the size that is
 * asked for, with the weights of the LoRAs that are on.
 */
import type { CheckedAddition } from '../../core/additions.ts';
import { StudioError } from '../../core/errors.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { PixelImage } from '../../core/media.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { NetworkShelf } from '../../engine/network_shelf.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import * as unet2d from '../../graphs/unet2d_condition.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoraNetwork } from '../../weights/lora_names.ts';
import { factorOf, type Autoencoder } from '../../weights/vae_file.ts';
import type { ModelAddition, ModelAdditions, ModelLora } from '../family.ts';
import { encodeWithClip } from './clip_encoding.ts';
import { filesOf, hasEncoder, storedVariant, type Components } from './components.ts';
import { GraphCosts, type NetworkRequest, type PlannedNetwork } from './estimate.ts';
import { ControlNets } from './control_nets.ts';
import { ImagePrompts } from './image_prompts.ts';
import { FIRST_DECODER, OtherVaes } from './other_vaes.ts';
import { plannedNetworks } from './planned_networks.ts';
import { MergedLoras } from './merged_loras.ts';
import type {
  Conditions,
  Decoder,
  Denoiser,
  DenoiserRequest,
  EncodedPicture,
  EncodedText,
  LatentSize,
  LatentSpace,
  NamedEmbedding,
  Networks,
  ReadingOptions,
  SeenPictures,
  Sizes,
} from './networks.ts';

/** The largest activation for batched guidance, to keep buffers reasonable. */
const WIDEST_ACTIVATION_BYTES = 256 * 2 ** 20;
/** Latents per side of the picture for fitting preview colours. */
const PREVIEW_SIZE = 16;

/** Which networks on the device contain which component's weights. */
const HOLDERS: Partial<Record<LoraNetwork, string[]>> = {
  text_encoder: ['text_encoder'],
  text_encoder_2: ['text_encoder_2'],
  unet: ['unet', 'unet_context'],
};

export class GraphNetworks implements Networks {
  readonly shelf: NetworkShelf;
  readonly #costs = new GraphCosts();
  readonly #loras: MergedLoras;
  readonly #controls: ControlNets;
  readonly #images: ImagePrompts;
  readonly #vaes: OtherVaes;
  readonly #firsts: OtherVaes;

  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
    readonly components: Components,
    readonly weights: WeightVariant,
  ) {
    const { textEncoders, unetComponent } = components;
    this.#loras = new MergedLoras(
      files,
      {
        ...Object.fromEntries(textEncoders.map(({ name, component }) => [name, component.weights])),
        unet: unetComponent.weights,
      },
      textEncoders.map(({ config }) => config.hidden_size),
    );
    const blob = (path: string) => {
      const beside =
        this.#loras.file(path) ??
        this.#controls.file(path) ??
        this.#images.file(path) ??
        this.#vaes.file(path) ??
        this.#firsts.file(path);
      return beside ? Promise.resolve(beside) : files.blob(path);
    };
    this.shelf = new NetworkShelf(engine, { blob }, new Set(Object.values(HOLDERS).flat()));
    const { unet, vae } = components;
    this.#vaes = new OtherVaes(this.shelf, { files, vae });
    this.#firsts = new OtherVaes(this.shelf, { files, vae }, true);
    this.#controls = new ControlNets(engine, this.shelf, { files, unet, own: unetComponent.weights, weights });
    this.#images = new ImagePrompts(engine, this.shelf, { files, unet, weights });
  }

  get latents(): LatentSpace {
    const { vae } = this.#autoencoder;
    return { channels: this.components.unet.out_channels, factor: factorOf(vae), scale: vae.config.scaling_factor };
  }

  get conditions(): Conditions {
    const { unet, motion } = this.components;
    return {
      motion: motion !== undefined,
      pooled: unet.addition_embed_type !== null,
      mask: unet2d.maskChannels(unet) > 0,
    };
  }

  get embeddings(): NamedEmbedding[] {
    return this.#loras.embeddings;
  }

  get textWidths(): number[] {
    return this.components.textEncoders.map(({ config }) => config.hidden_size);
  }

  async encodeText(ids: readonly Int32Array<ArrayBuffer>[], options: ReadingOptions = {}): Promise<EncodedText> {
    const encoded: EncodedText[] = [];
    // Whether or not this text has one, so that prompt and negative prompt are read by the same network.
    const injects = this.embeddings.length > 0;
    try {
      for (const [index, encoder] of this.components.textEncoders.entries()) {
        const weights = this.#loras.weightsOf(encoder.name);
        const own = { skip: options.skip, vectors: options.vectors?.[index], injects };
        encoded.push(await encodeWithClip(this, encoder, weights, ids[index], own));
      }
      return { states: this.#sideBySide(encoded.map(({ states }) => states)), pooled: encoded.at(-1)?.pooled ?? null };
    } catch (error) {
      encoded.forEach(({ pooled }) => pooled?.dispose());
      throw error;
    } finally {
      encoded.slice(encoded.length === 1 ? 1 : 0).forEach(({ states }) => {
        states.dispose();
      });
    }
  }

  /** Several [1, tokens, width] joined along their width; one stays itself. */
  #sideBySide(all: DeviceTensor[]): DeviceTensor {
    if (all.length === 1) {
      return all[0];
    }
    const { arithmetic } = this.engine;
    const [, tokens] = all[0].dims;
    const width = all.reduce((sum, { dims }) => sum + dims[2], 0);
    const joined = arithmetic.empty([1, tokens, width]);
    let column = 0;
    for (const states of all) {
      const own = states.dims[2];
      for (let token = 0; token < tokens; token++) {
        arithmetic.copy(states, token * own, joined, token * width + column, own);
      }
      column += own;
    }
    return joined;
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { vae, weights } = this.#autoencoder;
    this.#requireEncoder();
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    const network = await this.shelf.get('vae_encoder', { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildEncoder(vae.config, weights, sized)
        : vae.graphs.buildEncoder(vae.config, weights, sized);
    });
    const gaussian = vae.kind === 'gaussian';
    const tensor = this.engine.arithmetic.empty([
      1,
      gaussian ? 2 * channels : channels,
      height / factor,
      width / factor,
    ]);
    await this.engine.run(network, { sample: pixels }, { [gaussian ? 'latent_parameters' : 'latents']: tensor });
    return { kind: gaussian ? 'moments' : 'latents', tensor };
  }

  seePictures(
    pictures: readonly (readonly PixelImage[])[],
    guided: boolean,
    hold: (dims: readonly number[]) => DeviceTensor,
  ): Promise<SeenPictures[]> {
    return this.#images.see(pictures, guided, hold);
  }

  async denoiser(request: DenoiserRequest): Promise<Denoiser> {
    const { batch, height, width, embeddings, masked, imagePrompts = [] } = request;
    const { engine } = this;
    const { arithmetic } = engine;
    const { unet, motion } = this.components;
    const sized = { batch, height, width, sequence: embeddings[0].dims[1] };
    const controlled = request.controls !== undefined;
    const images = this.#images.tokens(imagePrompts.map(({ seen }) => seen.positive.dims[0]));
    const shape = {
      ...sized,
      ...(controlled && { controlled: 1 }),
      ...Object.fromEntries(images.map((tokens, place) => [`image.${place}`, tokens])),
    };
    const network = await this.shelf.get('unet', shape, (options) =>
      unet2d.build(unet, this.#loras.weightsOf('unet'), {
        ...options,
        ...sized,
        motion,
        controlled,
        images,
        projected: true,
        weights: this.weights,
      }),
    );
    const held: DeviceTensor[] = [];
    const hold = (dims: readonly number[]): DeviceTensor => {
      const tensor = arithmetic.empty(dims);
      held.push(tensor);
      return tensor;
    };
    const dispose = () => {
      held.forEach((tensor) => {
        tensor.dispose();
      });
    };
    try {
      // What depends on the text alone is the same at every step, so it is computed once.
      const contexts: Record<string, DeviceTensor>[] = [];
      const texts = embeddings.map((embedding, k) =>
        this.#textInputs(embedding, request.pooled?.[k], request.sizes, hold),
      );
      for (const inputs of texts) {
        contexts.push(await this.#context(inputs, hold));
      }
      const seen = await this.#images.inputs(imagePrompts, request.sides ?? [], batch, hold);
      const controls =
        request.controls && (await this.#controls.lead(request.controls, sized, texts, request.sides ?? [], hold));
      const outputs: DeviceTensor[] = [];
      const time = hold([1, unet.block_out_channels[0]]);
      const fixed: Record<string, DeviceTensor> = { time_proj: time, ...(masked && { masked }) };
      if (unet.time_cond_proj_dim !== null) {
        fixed.timestep_cond = hold([1, unet.time_cond_proj_dim]);
        arithmetic.write(fixed.timestep_cond, unet2d.guidanceProjection(unet, request.guidance));
      }
      return {
        async predict(sample, timestep, which = contexts.map((_, k) => k), call = 0) {
          arithmetic.write(time, unet2d.timeProjection(unet, timestep));
          for (const [place, k] of which.entries()) {
            outputs[place] ??= hold([batch, unet.out_channels, height, width]);
            const added = await controls?.residuals(sample, time, k, call);
            await engine.run(
              network,
              { sample, ...fixed, ...contexts[k], ...seen[k], ...added },
              { out_sample: outputs[place] },
            );
          }
          return outputs.slice(0, which.length);
        },
        dispose,
      };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  decoder(size: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    return this.#decoderOf(this.#autoencoder, size, purpose === 'picture' ? 'vae_decoder' : 'preview_decoder');
  }

  firstDecoder(size: LatentSize): Promise<Decoder> | null {
    return this.#firsts.current && this.#decoderOf(this.#firsts.current, size, FIRST_DECODER);
  }

  /** @param name of its network; only that of pictures stays on the device */
  async #decoderOf(
    { vae, weights }: { vae: Autoencoder; weights: WeightIndex },
    { height, width }: LatentSize,
    name: 'vae_decoder' | 'preview_decoder' | typeof FIRST_DECODER,
  ): Promise<Decoder> {
    const { engine } = this;
    const { channels } = this.latents;
    const [factor, scale] = [factorOf(vae), vae.config.scaling_factor];
    const network = await this.shelf.get(name, { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildDecoder(vae.config, weights, sized)
        : vae.graphs.buildDecoder(vae.config, weights, sized);
    });
    const { arithmetic } = engine;
    const input = arithmetic.empty([1, channels, height, width]);
    const output = arithmetic.empty([1, 3, height * factor, width * factor]);
    return {
      async decode(latents) {
        arithmetic.combine(input, 1 / scale, latents, 0, null);
        await engine.run(network, { latent_sample: input }, { sample: output });
        return output;
      },
      dispose: async () => {
        input.dispose();
        output.dispose();
        if (name !== 'vae_decoder') {
          await this.shelf.drop(name);
        }
      },
    };
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    if (request.startsFromPicture) {
      this.#requireEncoder();
    }
    return Promise.resolve(plannedNetworks(this.#costs, this.components, this.engine.provider, request));
  }

  embedsGuidance(): Promise<boolean> {
    return Promise.resolve(this.components.unet.time_cond_proj_dim !== null);
  }

  batchesGuidance(rows: number, { height, width }: LatentSize): Promise<boolean> {
    if (this.components.motion) {
      // All that is in one batch is one video.
      return Promise.resolve(false);
    }
    // The GEGLU of the first transformer block has eight times the channels for every latent.
    const widest = rows * height * width * 8 * this.components.unet.block_out_channels[0] * 4;
    return Promise.resolve(
      widest <= Math.min(WIDEST_ACTIVATION_BYTES, this.engine.report.limits?.maxStorageBufferBindingSize ?? Infinity),
    );
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  async useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    for (const network of await this.#loras.use(loras)) {
      await this.#renew(network);
    }
    return this.#loras.leftOut;
  }

  async moveLoras(call: number, calls: number): Promise<boolean> {
    const isOther = this.#loras.moveTo(call, calls);
    if (isOther) {
      await this.#renew('unet');
    }
    return isOther;
  }

  async #renew(network: LoraNetwork): Promise<void> {
    for (const name of HOLDERS[network] ?? []) {
      await this.shelf.renew(name);
    }
  }

  checkLora(lora: ModelLora): Promise<string | null> {
    return this.#loras.check(lora);
  }

  async useAdditions({
    controlnets = [],
    ip_adapters: adapters = [],
    image_encoders: encoders = [],
    vaes = [],
    first_vaes: firsts = [],
  }: Partial<ModelAdditions>): Promise<boolean> {
    const before = this.#autoencoder.weights;
    const takes = [
      await this.#controls.prepare(controlnets),
      await this.#images.prepare(adapters, encoders),
      await this.#vaes.prepare(vaes),
      await this.#firsts.prepare(firsts),
    ];
    for (const take of takes) {
      await take();
    }
    return this.#autoencoder.weights !== before;
  }

  checkAddition(kind: CheckedAddition, addition: ModelAddition): Promise<void> {
    const kinds = { controlnet: this.#controls, ip_adapter: this.#images, vae: this.#vaes };
    return kinds[kind].check(addition);
  }

  async provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }> {
    const { textEncoders, unetComponent } = this.components;
    const [loras, controlnets, ip_adapters, [vae], [first]] = await Promise.all(
      [this.#loras, this.#controls, this.#images, this.#vaes, this.#firsts].map((each) => each.facts()),
    );
    return {
      files: filesOf(this.components, this.#vaes.current === null),
      facts: {
        precision: {
          ...Object.fromEntries(textEncoders.map(({ name }) => [name, 'f32'])),
          unet: this.engine.report.precision,
          vae: 'f32',
        },
        weights:
          storedVariant(this.files, [...textEncoders.map(({ component }) => component), unetComponent]) ?? this.weights,
        ...(loras.length > 0 && { loras }),
        ...(controlnets.length > 0 && { controlnets }),
        ...(ip_adapters.length > 0 && { ip_adapters }),
        ...(this.#vaes.current && { vae }),
        ...(this.#firsts.current && { first_vae: first }),
      },
    };
  }

  clear(): Promise<void> {
    return this.shelf.clear();
  }

  /** The checkpoint's own, or what takes its place. */
  get #autoencoder(): { vae: Autoencoder; weights: WeightIndex } {
    const { vae, vaeComponent } = this.components;
    return this.#vaes.current ?? { vae, weights: vaeComponent.weights };
  }

  #requireEncoder(): void {
    if (!hasEncoder(this.#autoencoder.weights)) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${this.#vaes.name ?? this.files.name}" has no encoder in its autoencoder (VAE), so it cannot start from a picture; make one from words alone, or choose a checkpoint that is complete.`,
      );
    }
  }

  /** What the denoiser computes from text and sizes alone: keys and values of every cross-attention, and an addition to the time embedding. */
  async #context(
    inputs: Record<string, DeviceTensor>,
    hold: (dims: readonly number[]) => DeviceTensor,
  ): Promise<Record<string, DeviceTensor>> {
    const { unet } = this.components;
    const [batch, sequence] = inputs.encoder_hidden_states.dims;
    const network = await this.shelf.get('unet_context', { batch, sequence }, (options) =>
      unet2d.buildContext(unet, this.#loras.weightsOf('unet'), {
        ...options,
        batch,
        sequence,
        height: 0,
        width: 0,
        weights: this.weights,
      }),
    );
    // All dimensions of our own graphs are static.
    const context = Object.fromEntries(network.outputs.map(({ name, dims }) => [name, hold(dims as number[])]));
    await this.engine.run(network, inputs, context);
    return context;
  }

  /** Text and sizes as the inputs of a network that makes of them what does not change. */
  #textInputs(
    embeddings: DeviceTensor,
    pooled: DeviceTensor | undefined,
    sizes: Sizes | undefined,
    hold: (dims: readonly number[]) => DeviceTensor,
  ): Record<string, DeviceTensor> {
    const { unet } = this.components;
    const [batch] = embeddings.dims;
    const inputs: Record<string, DeviceTensor> = { encoder_hidden_states: embeddings };
    if (pooled && sizes) {
      const { original, corner, target } = sizes;
      const projection = unet2d.sizeProjection(unet, [...original, ...corner, ...target]);
      const rows = new Float32Array(batch * projection.length);
      for (let row = 0; row < batch; row++) {
        rows.set(projection, row * projection.length);
      }
      inputs.text_embeds = pooled;
      inputs.added_time = hold([batch, projection.length]);
      this.engine.arithmetic.write(inputs.added_time, rows);
    }
    return inputs;
  }
}
