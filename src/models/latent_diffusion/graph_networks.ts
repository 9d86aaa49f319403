/**
 * The networks of a checkpoint of the Stable Diffusion family as graphs of our own over its files: built when they are first needed, for the size that is
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
  Conditions,
  Decoder,
  Denoiser,
  DenoiserRequest,
  EncodedPicture,
  EncodedText,
  LatentSize,
  LatentSpace,
  Networks,
  Sizes,
} from './networks.ts';

/** The widest activation for which guidance runs as one batch, so that it stays in reasonable buffers. */
const WIDEST_ACTIVATION_BYTES = 256 * 2 ** 20;
/** Latents per side of the picture that preview colours are fitted on. */
const PREVIEW_SIZE = 16;

/** The two autoencoders differ in what the encoder gives: a Gaussian's moments, or latents. */
export type Autoencoder =
  | { kind: 'gaussian'; config: autoencoderKl.Config; graphs: typeof autoencoderKl }
  | { kind: 'plain'; config: autoencoderTiny.Config; graphs: typeof autoencoderTiny };

export interface TextEncoder {
  /** Its name is that of the component. */
  name: Exclude<LoraNetwork, 'unet'>;
  component: Component;
  config: clipText.Config;
  outputs: clipText.TextOutputs;
}

export interface Components {
  /** Their states lie side by side; the last one's text as a whole counts. */
  textEncoders: TextEncoder[];
  unetComponent: Component;
  unet: unet2d.Config;
  vaeComponent: Component;
  vae: Autoencoder;
}

/** Which networks on the device hold whose weights. */
const HOLDERS: Record<LoraNetwork, string[]> = {
  text_encoder: ['text_encoder'],
  text_encoder_2: ['text_encoder_2'],
  unet: ['unet', 'unet_context'],
};

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
    const { textEncoders, unetComponent } = components;
    this.#loras = new MergedLoras(files, {
      ...Object.fromEntries(textEncoders.map(({ name, component }) => [name, component.weights])),
      unet: unetComponent.weights,
    });
    this.shelf = new NetworkShelf(engine, {
      blob: (path) => {
        const lora = this.#loras.file(path);
        return lora ? Promise.resolve(lora) : files.blob(path);
      },
    });
  }

  get latents(): LatentSpace {
    const { unet, vae } = this.components;
    return { channels: unet.out_channels, factor: factorOf(vae), scale: vae.config.scaling_factor };
  }

  get conditions(): Conditions {
    const { unet } = this.components;
    return { pooled: unet.addition_embed_type !== null, mask: unet2d.maskChannels(unet) > 0 };
  }

  async encodeText(ids: readonly Int32Array<ArrayBuffer>[]): Promise<EncodedText> {
    const encoded: EncodedText[] = [];
    try {
      for (const [index, encoder] of this.components.textEncoders.entries()) {
        encoded.push(await this.#encodeText(encoder, ids[index]));
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

  async #encodeText({ name, config, outputs }: TextEncoder, ids: Int32Array<ArrayBuffer>): Promise<EncodedText> {
    const { arithmetic } = this.engine;
    const sequence = ids.length;
    const network = await this.shelf.get(name, { sequence }, (options) =>
      clipText.build(
        config,
        this.#loras.weightsOf(name),
        { ...options, batch: 1, height: 0, width: 0, dtype: 'f32', sequence, weights: this.weights },
        outputs,
      ),
    );
    const inputs = [arithmetic.upload(ids, [1, sequence])];
    const states = arithmetic.empty([1, sequence, config.hidden_size]);
    const pooled = outputs.isPooled ? arithmetic.empty([1, config.projection_dim]) : null;
    if (pooled) {
      inputs.push(arithmetic.upload(Int32Array.of(clipText.endOf(config, ids)), [1]));
    }
    try {
      await this.engine.run(
        network,
        { input_ids: inputs[0], ...(pooled && { end: inputs[1] }) },
        { [`${outputs.states}_hidden_state`]: states, ...(pooled && { text_embeds: pooled }) },
      );
      return { states, pooled };
    } catch (error) {
      states.dispose();
      pooled?.dispose();
      throw error;
    } finally {
      inputs.forEach((input) => {
        input.dispose();
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

  async denoiser(request: DenoiserRequest): Promise<Denoiser> {
    const { batch, height, width, embeddings, masked } = request;
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
      for (const [k, embedding] of embeddings.entries()) {
        contexts.push(await this.#context(embedding, request.pooled?.[k], request.sizes, hold));
      }
      const outputs = embeddings.map(() => hold([batch, unet.out_channels, height, width]));
      const time = hold([1, unet.block_out_channels[0]]);
      const fixed: Record<string, DeviceTensor> = { time_proj: time, ...(masked && { masked }) };
      if (unet.time_cond_proj_dim !== null) {
        fixed.timestep_cond = hold([1, unet.time_cond_proj_dim]);
        arithmetic.write(fixed.timestep_cond, unet2d.guidanceProjection(unet, request.guidance));
      }
      return {
        async predict(sample, timestep) {
          arithmetic.write(time, unet2d.timeProjection(unet, timestep));
          for (const [k, context] of contexts.entries()) {
            await engine.run(network, { sample, ...fixed, ...context }, { out_sample: outputs[k] });
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
    const { textEncoders, unetComponent, unet, vaeComponent, vae } = this.components;
    const { rows, calls, steps, texts, decodings, decoded, startsFromPicture, height, width } = request;
    const { provider } = this.engine;
    const sequence = textEncoders[0].config.max_position_embeddings;
    const latents = { provider, batch: 1, ...decoded, weights: 'full' as const };
    const pixels = { ...latents, height: height * factorOf(vae), width: width * factorOf(vae) };
    const context = { provider, batch: rows, sequence, height: 0, width: 0 };
    const once = { runsPerStep: 0, precision: 'f32' as const };
    const networks = [
      ...textEncoders.map(({ name, component: { weights }, config, outputs }) =>
        this.#costs.network(
          { name, phase: 'read', runs: texts, ...once },
          weights,
          { ...context, batch: 1 },
          (options) => clipText.build(config, weights, options, outputs),
        ),
      ),
      this.#costs.network(
        { name: 'unet_context', phase: 'sample', runs: calls, runsPerStep: 0, precision: null },
        unetComponent.weights,
        context,
        (options) => unet2d.buildContext(unet, unetComponent.weights, options),
      ),
      this.#costs.network(
        { name: 'unet', phase: 'sample', runs: calls * steps, runsPerStep: calls, precision: null },
        unetComponent.weights,
        { ...context, height, width, projected: true },
        (options) => unet2d.build(unet, unetComponent.weights, options),
      ),
      this.#costs.network(
        { name: 'vae_decoder', phase: 'decode', runs: decodings, ...once },
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
        this.#costs.network(
          { name: 'vae_encoder', phase: 'read', runs: 1, ...once },
          vaeComponent.weights,
          pixels,
          (options) =>
            vae.kind === 'gaussian'
              ? vae.graphs.buildEncoder(vae.config, vaeComponent.weights, options)
              : vae.graphs.buildEncoder(vae.config, vaeComponent.weights, options),
        ),
      );
    }
    return Promise.resolve(networks);
  }

  embedsGuidance(): Promise<boolean> {
    return Promise.resolve(this.components.unet.time_cond_proj_dim !== null);
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
    const { textEncoders, unetComponent } = this.components;
    const loras = await this.#loras.facts();
    return {
      files: filesOf(this.components),
      facts: {
        precision: {
          ...Object.fromEntries(textEncoders.map(({ name }) => [name, 'f32'])),
          unet: this.engine.report.precision,
          vae: 'f32',
        },
        weights:
          storedVariant(this.files, [...textEncoders.map(({ component }) => component), unetComponent]) ?? this.weights,
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

  /** What the denoiser makes of text and sizes alone: keys and values of every attention to the text, and an addition to the time. */
  async #context(
    embeddings: DeviceTensor,
    pooled: DeviceTensor | undefined,
    sizes: Sizes | undefined,
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
    await this.engine.run(network, inputs, context);
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

export function filesOf({ textEncoders, unetComponent, vaeComponent }: Components): string[] {
  const components = [...textEncoders.map(({ component }) => component), unetComponent, vaeComponent];
  return [...new Set(components.flatMap(({ files }) => files))];
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
