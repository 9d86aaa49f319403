/**
 * The networks of FLUX.3 as our own graphs over a checkpoint's files: Qwen3-VL encodes the text, a transformer paints, optionally from
 * reference pictures, and FLUX.2's autoencoder decodes. All compute in f32, with 8- or 4-bit weights if requested.
 * Reference: diffusers/modular_pipelines/flux3
 */
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as flux3 from '../../graphs/flux3_transformer2d.ts';
import { paddedMask } from '../../graphs/qwen3.ts';
import * as qwen3Vl from '../../graphs/qwen3_vl.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { ChatTokenizer } from '../../text/chat_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { LatentSize } from '../latent_diffusion/networks.ts';
import { Held } from './base_networks.ts';
import type { FlowDenoiser, FlowDenoiserRequest, FlowNetworks } from './flow_networks.ts';
import { Flux2Pictures } from './flux2_pictures.ts';
import { Flux2Services, sizesOfShown } from './flux2_services.ts';
import { LayerText, type LayerReader } from './layer_text.ts';
import { inWholeTokens, onCanvas } from './shown_pictures.ts';

/** The layers of Qwen3-VL whose hidden states FLUX.3 reads. */
const READ_AFTER = [4, 8, 12, 16, 20, 24, 28, 32];
/** Padding is read, too, so the length that prompts are filled up to is a part of what was trained; captions have some hundred words. */
const WINDOW = { multiple: 80, usual: 480 };

/** @throws StudioError `checkpoint_unsupported` for one with too few layers */
function reader(component: Component): LayerReader {
  const config = qwen3Vl.parseConfig(component.config);
  const last = Math.max(...READ_AFTER);
  if (config.num_hidden_layers < last) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The text encoder has ${config.num_hidden_layers} layers and FLUX.3 reads what comes after the ${last}th; choose the text encoder that FLUX.3 comes with.`,
    );
  }
  return {
    name: 'Qwen3-VL',
    component,
    table: qwen3Vl.EMBEDDING_TABLE,
    widths: {
      hidden: config.hidden_size,
      angles: config.head_dim / 2,
      read: config.hidden_size * READ_AFTER.length,
    },
    padding: 'after',
    window: WINDOW,
    angles: (sequence, kept) => qwen3Vl.angles(config, sequence, kept),
    inputs: (sequence, kept) => ({
      attention_bias: { data: paddedMask(sequence, kept), dims: [1, 1, sequence, sequence] },
    }),
    build: (options) => qwen3Vl.build(config, component.weights, { ...options, after: READ_AFTER, padded: true }),
  };
}

export interface Flux3Components {
  textEncoder: Component;
  transformer: Component;
  vae: Component;
}

export class Flux3Networks extends Flux2Services implements FlowNetworks {
  readonly leastGuidance: number;
  readonly config: flux3.Config;
  readonly text: LayerText;
  readonly pictures: Flux2Pictures;
  readonly #transformer: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, vae }: Flux3Components,
    tokenizer: ChatTokenizer,
    weights: WeightVariant,
  ) {
    super(engine, files, 'FLUX.3', [textEncoder, transformer, vae], weights);
    this.#transformer = this.withLoras(transformer);
    this.config = flux3.parseConfig(transformer.config);
    this.leastGuidance = this.config.flow_map ? Infinity : 1;
    this.text = new LayerText(engine, this.shelf, files, tokenizer, weights, reader(textEncoder));
    this.pictures = new Flux2Pictures(engine, this.shelf, vae);
  }

  sizedToShow(image: PixelImage, together: number): PixelImage {
    const { factor } = this.latents;
    return together === 1 ? onCanvas(image, factor) : inWholeTokens(image, factor);
  }

  async denoiser({ height, width, texts, shown }: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { engine, config } = this;
    const { arithmetic } = engine;
    const lengths = texts.map(({ tensors }) => tensors.prompt_embeds.dims[1]);
    const text = Math.max(...lengths);
    const masked = lengths.some((length) => length < text);
    const { extents, shape } = sizesOfShown(shown);
    const network = await this.shelf.get(
      'transformer',
      { height, width, text, masked: Number(masked), ...shape },
      ({ provider }) =>
        flux3.build(config, this.#transformer.weights, {
          provider,
          dtype: 'f32',
          batch: 1,
          height,
          width,
          text,
          masked,
          shown: extents,
          weights: this.weights,
        }),
    );
    const held = new Held();
    const hold = (tensor: DeviceTensor) => held.hold(tensor);
    const half = config.attention_head_dim / 2;
    const { cos, sin } = flux3.angles(config, text, { height, width }, extents);
    const dims = [cos.length / half, half];
    const target = config.flow_map ? hold(arithmetic.empty([1, config.timestep_channels])) : null;
    const fixed = {
      cos: hold(arithmetic.upload(cos, dims)),
      sin: hold(arithmetic.upload(sin, dims)),
      time_proj: hold(arithmetic.empty([2, config.timestep_channels])),
      ...(target && { target_proj: target }),
      ...Object.fromEntries(shown.map((tensor, k) => [`shown_${k}`, tensor])),
    };
    const inputs = texts.map(({ tensors: { prompt_embeds } }, k) => {
      const [, length, read] = prompt_embeds.dims;
      if (length < text) {
        const filled = hold(arithmetic.upload(new Float32Array(text * read), [1, text, read]));
        arithmetic.copy(prompt_embeds, 0, filled, 0, length * read);
        prompt_embeds = filled;
      }
      const mask = masked && { mask: hold(arithmetic.upload(flux3.textMask(text, lengths[k]), [1, 1, 1, text])) };
      return { ...fixed, prompt_embeds, ...mask };
    });
    const outputs = texts.map(() => hold(arithmetic.empty([1, config.in_channels, height, width])));
    return {
      async predict(sample, timestep, _, next = 0) {
        arithmetic.write(fixed.time_proj, flux3.timeProjection(config, timestep));
        if (target) {
          arithmetic.write(target, flux3.targetProjection(config, next));
        }
        for (const [k, own] of inputs.entries()) {
          await engine.run(network, { sample, ...own }, { out_sample: outputs[k] });
        }
        return outputs;
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  course({ height, width }: LatentSize): Omit<FlowCourse, 'steps'> {
    return { tokens: height * width, shift: 'linear', least: 'step' };
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width } = request;
    const { weights } = this.#transformer;
    const shape = { provider: this.engine.provider, batch: 1, height, width, text: this.text.plannedTokens, shown: [] };
    const runs = rows * calls;
    return Promise.resolve([
      this.text.planned(this.costs, texts),
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        shape,
        (options) => flux3.build(this.config, weights, options),
      ),
      this.pictures.planned(this.costs, request),
    ]);
  }
}
