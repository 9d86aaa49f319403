/**
 * The networks of a Stable Diffusion checkpoint as graphs of our own over its files: built when they are first needed, for the size that is
 * asked for, with the weights of the LoRAs that are on.
 */
import { StudioError } from '../../core/errors.ts';
import { WEIGHT_VARIANTS, type WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { NetworkShelf } from '../../engine/network_shelf.ts';
import type * as autoencoderKl from '../../graphs/autoencoder_kl.ts';
import type * as autoencoderTiny from '../../graphs/autoencoder_tiny.ts';
import * as clipText from '../../graphs/clip_text.ts';
import * as unet2d from '../../graphs/unet2d_condition.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoraNetwork } from '../../weights/lora_names.ts';
import type { ModelLora } from '../family.ts';
import { GraphCosts, type NetworkRequest, type PlannedNetwork } from './estimate.ts';
import { MergedLoras } from './merged_loras.ts';
import type {
  Decoder,
  Denoiser,
  DenoiserRequest,
  EncodedPicture,
  LatentSize,
  LatentSpace,
  Networks,
} from './networks.ts';

/** The widest activation for which guidance runs as one batch, so that it stays in reasonable buffers. */
const WIDEST_ACTIVATION_BYTES = 256 * 2 ** 20;
/** Latents per side of the picture that preview colours are fitted on. */
const PREVIEW_SIZE = 16;

/** The two autoencoders differ in what the encoder gives: a Gaussian's moments, or latents. */
export type Autoencoder =
  | { kind: 'gaussian'; config: autoencoderKl.Config; graphs: typeof autoencoderKl }
  | { kind: 'plain'; config: autoencoderTiny.Config; graphs: typeof autoencoderTiny };

export interface Components {
  textEncoder: Component;
  text: clipText.Config;
  unetComponent: Component;
  unet: unet2d.Config;
  vaeComponent: Component;
  vae: Autoencoder;
}

/** Which networks on the device hold whose weights. */
const HOLDERS: Record<LoraNetwork, string[]> = { text_encoder: ['text_encoder'], unet: ['unet', 'unet_context'] };

export class GraphNetworks implements Networks {
  readonly shelf: NetworkShelf;
  readonly #costs = new GraphCosts();
  readonly #loras: MergedLoras;

  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
    readonly components: Components,
    readonly weights: WeightVariant,
  ) {
    const { textEncoder, unetComponent } = components;
    this.#loras = new MergedLoras(files, { text_encoder: textEncoder.weights, unet: unetComponent.weights });
    this.shelf = new NetworkShelf(engine, {
      blob: (path) => {
        const lora = this.#loras.file(path);
        return lora ? Promise.resolve(lora) : files.blob(path);
      },
    });
  }

  get latents(): LatentSpace {
    const { unet, vae } = this.components;
    return { channels: unet.in_channels, factor: factorOf(vae), scale: vae.config.scaling_factor };
  }

  async encodeText(ids: Int32Array<ArrayBuffer>): Promise<DeviceTensor> {
    const { arithmetic } = this.engine;
    const { text } = this.components;
    const sequence = ids.length;
    const network = await this.shelf.get('text_encoder', { sequence }, (options) =>
      clipText.build(text, this.#loras.weightsOf('text_encoder'), {
        ...options,
        batch: 1,
        height: 0,
        width: 0,
        dtype: 'f32',
        sequence,
        weights: this.weights,
      }),
    );
    const input = arithmetic.upload(ids, [1, sequence]);
    const output = arithmetic.empty([1, sequence, text.hidden_size]);
    try {
      await this.engine.run(network, { input_ids: input }, { last_hidden_state: output });
    } finally {
      input.dispose();
    }
    return output;
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { vae, vaeComponent } = this.components;
    this.#requireEncoder();
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    const network = await this.shelf.get('vae_encoder', { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildEncoder(vae.config, vaeComponent.weights, sized)
        : vae.graphs.buildEncoder(vae.config, vaeComponent.weights, sized);
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

  async denoiser({ batch, height, width, embeddings }: DenoiserRequest): Promise<Denoiser> {
    const { engine } = this;
    const { arithmetic } = engine;
    const { unet } = this.components;
    const sized = { batch, height, width, sequence: embeddings[0].dims[1] };
    const network = await this.shelf.get('unet', sized, (options) =>
      unet2d.build(unet, this.#loras.weightsOf('unet'), {
        ...options,
        ...sized,
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
      // What the network makes of the text alone is the same at every step, so it is computed once.
      const contexts: Record<string, DeviceTensor>[] = [];
      for (const embedding of embeddings) {
        contexts.push(await this.#context(embedding, hold));
      }
      const outputs = embeddings.map(() => hold([batch, unet.out_channels, height, width]));
      const time = hold([1, unet.block_out_channels[0]]);
      return {
        async predict(sample, timestep) {
          arithmetic.write(time, unet2d.timeProjection(unet, timestep));
          for (const [k, context] of contexts.entries()) {
            await engine.run(network, { sample, time_proj: time, ...context }, { out_sample: outputs[k] });
          }
          return outputs;
        },
        dispose,
      };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  async decoder({ height, width }: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    const { engine } = this;
    const { vae, vaeComponent } = this.components;
    const { channels, factor, scale } = this.latents;
    const name = purpose === 'picture' ? 'vae_decoder' : 'preview_decoder';
    const network = await this.shelf.get(name, { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildDecoder(vae.config, vaeComponent.weights, sized)
        : vae.graphs.buildDecoder(vae.config, vaeComponent.weights, sized);
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
        if (purpose === 'preview') {
          await this.shelf.drop(name);
        }
      },
    };
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { textEncoder, text, unetComponent, unet, vaeComponent, vae } = this.components;
    const { rows, calls, steps, texts, decodings, decoded, startsFromPicture, height, width } = request;
    const { provider } = this.engine;
    const sequence = text.max_position_embeddings;
    const latents = { provider, batch: 1, ...decoded, weights: 'full' as const };
    const pixels = { ...latents, height: height * factorOf(vae), width: width * factorOf(vae) };
    const context = { provider, batch: rows, sequence, height: 0, width: 0 };
    const once = { runsPerStep: 0, precision: 'f32' as const };
    const networks = [
      this.#costs.network(
        { name: 'text_encoder', runs: texts, ...once },
        textEncoder.weights,
        { ...context, batch: 1 },
        (options) => clipText.build(text, textEncoder.weights, options),
      ),
      this.#costs.network(
        { name: 'unet_context', runs: calls, runsPerStep: 0, precision: null },
        unetComponent.weights,
        context,
        (options) => unet2d.buildContext(unet, unetComponent.weights, options),
      ),
      this.#costs.network(
        { name: 'unet', runs: calls * steps, runsPerStep: calls, precision: null },
        unetComponent.weights,
        { ...context, height, width, projected: true },
        (options) => unet2d.build(unet, unetComponent.weights, options),
      ),
      this.#costs.network(
        { name: 'vae_decoder', runs: decodings, ...once },
        vaeComponent.weights,
        latents,
        (options) =>
          vae.kind === 'gaussian'
            ? vae.graphs.buildDecoder(vae.config, vaeComponent.weights, options)
            : vae.graphs.buildDecoder(vae.config, vaeComponent.weights, options),
      ),
    ];
    if (startsFromPicture) {
      this.#requireEncoder();
      networks.push(
        this.#costs.network({ name: 'vae_encoder', runs: 1, ...once }, vaeComponent.weights, pixels, (options) =>
          vae.kind === 'gaussian'
            ? vae.graphs.buildEncoder(vae.config, vaeComponent.weights, options)
            : vae.graphs.buildEncoder(vae.config, vaeComponent.weights, options),
        ),
      );
    }
    return Promise.resolve(networks);
  }

  embedsGuidance(): Promise<boolean> {
    return Promise.resolve(false);
  }

  batchesGuidance(rows: number, { height, width }: LatentSize): Promise<boolean> {
    // The GEGLU of the first transformer block: eight times the channels for every latent.
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
      for (const name of HOLDERS[network]) {
        await this.shelf.drop(name);
      }
    }
    return this.#loras.leftOut;
  }

  checkLora(lora: ModelLora): Promise<string | null> {
    return this.#loras.check(lora);
  }

  async provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }> {
    const { textEncoder, unetComponent } = this.components;
    const loras = await this.#loras.facts();
    return {
      files: filesOf(this.components),
      facts: {
        precision: { text_encoder: 'f32', unet: this.engine.report.precision, vae: 'f32' },
        weights: storedVariant(this.files, [textEncoder, unetComponent]) ?? this.weights,
        ...(loras.length > 0 && { loras }),
      },
    };
  }

  clear(): Promise<void> {
    return this.shelf.clear();
  }

  #requireEncoder(): void {
    if (!hasEncoder(this.components)) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${this.files.name}" has no encoder in its autoencoder (VAE), so it cannot start from a picture; make one from words alone, or choose a checkpoint that is complete.`,
      );
    }
  }

  /** Keys and values of every attention to the text, for `embeddings` [batch, tokens, width]. */
  async #context(
    embeddings: DeviceTensor,
    hold: (dims: readonly number[]) => DeviceTensor,
  ): Promise<Record<string, DeviceTensor>> {
    const { unet } = this.components;
    const [batch, sequence] = embeddings.dims;
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
    // Every dimension of our own graphs is a number.
    const context = Object.fromEntries(network.outputs.map(({ name, dims }) => [name, hold(dims as number[])]));
    await this.engine.run(network, { encoder_hidden_states: embeddings }, context);
    return context;
  }
}

/** Whether its autoencoder can also read pictures; some files keep only the half that makes them. */
export function hasEncoder({ vaeComponent }: Components): boolean {
  return [...vaeComponent.weights.names()].some((name) => name.startsWith('encoder.'));
}

export function factorOf(vae: Autoencoder): number {
  const blocks = vae.kind === 'gaussian' ? vae.config.block_out_channels : vae.config.decoder_block_out_channels;
  return 2 ** (blocks.length - 1);
}

export function filesOf({ textEncoder, unetComponent, vaeComponent }: Components): string[] {
  return [...new Set([textEncoder, unetComponent, vaeComponent].flatMap((component) => component.files))];
}

/** The variant in which the files keep their weights quantised already; null where they are whole. */
export function storedVariant({ ref }: CheckpointFiles, components: Component[]): WeightVariant | null {
  const named = WEIGHT_VARIANTS.find((variant) => ref.endsWith(`#${variant}`));
  if (named) {
    return named;
  }
  const bits = components.flatMap(({ weights }) =>
    [...weights.names()].flatMap((name) => weights.get(name)?.quantised?.bits ?? []),
  );
  return bits.length === 0 ? null : bits.includes(4) ? 'q4' : 'q8';
}
