/**
 * The networks of FLUX.2 as our own graphs over a checkpoint's files: Qwen3 (klein) or Mistral (dev) encodes the text, a transformer paints,
 * optionally from reference pictures, and its own autoencoder decodes. All compute in f32, with 8- or 4-bit weights if requested.
 */
import type { WeightVariant } from '../../core/model.ts';
import type { Engine } from '../../engine/engine.ts';
import * as flux2 from '../../graphs/flux2_transformer2d.ts';
import * as mistral from '../../graphs/mistral.ts';
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
import { LayerText } from './layer_text.ts';
import { mistralReader } from './mistral_text.ts';
import { qwen3Reader } from './qwen3_text.ts';

/** The layers of Qwen3 whose hidden states FLUX.2 klein reads. */
const READ_AFTER = [9, 18, 27];
const F32 = { batch: 1, dtype: 'f32' as const };

export interface Flux2Components {
  textEncoder: Component;
  transformer: Component;
  vae: Component;
}

export class Flux2Networks extends Flux2Services implements FlowNetworks {
  readonly leastGuidance: number;
  readonly config: flux2.Config;
  readonly text: LayerText;
  readonly pictures: Flux2Pictures;
  readonly #transformer: Component;

  /** @param isDistilled whether it was distilled to need no guidance */
  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, vae }: Flux2Components,
    tokenizer: ChatTokenizer,
    weights: WeightVariant,
    isDistilled: boolean,
  ) {
    super(engine, files, 'FLUX.2', [textEncoder, transformer, vae], weights);
    this.#transformer = this.withLoras(transformer);
    this.config = flux2.parseConfig(transformer.config);
    this.leastGuidance = isDistilled || this.config.guidance_embeds ? Infinity : 1;
    const reader =
      textEncoder.className === mistral.className
        ? mistralReader(textEncoder)
        : qwen3Reader(textEncoder, { after: READ_AFTER, padded: true });
    this.text = new LayerText(engine, this.shelf, files, tokenizer, weights, reader);
    this.pictures = new Flux2Pictures(engine, this.shelf, vae);
  }

  async denoiser({ height, width, texts, shown, guidance }: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { engine, config } = this;
    const { arithmetic } = engine;
    const text = this.text.tokenizer.limit;
    const { extents, shape } = sizesOfShown(shown);
    const { provider } = engine;
    const options: flux2.Options = { provider, ...F32, height, width, text, shown: extents, weights: this.weights };
    const network = await this.shelf.get('transformer', { height, width, ...shape }, () =>
      flux2.build(config, this.#transformer.weights, options),
    );
    const held = new Held();
    const half = config.attention_head_dim / 2;
    const { cos, sin } = flux2.angles(config, text, { height, width }, extents);
    const dims = [cos.length / half, half];
    const fixed = {
      cos: held.hold(arithmetic.upload(cos, dims)),
      sin: held.hold(arithmetic.upload(sin, dims)),
      time_proj: held.hold(arithmetic.empty([1, config.timestep_guidance_channels])),
      ...(config.guidance_embeds && {
        guidance_proj: held.hold(
          arithmetic.upload(flux2.guidanceProjection(config, guidance), [1, config.timestep_guidance_channels]),
        ),
      }),
      ...Object.fromEntries(shown.map((tensor, k) => [`shown_${k}`, tensor])),
    };
    const outputs = texts.map(() => held.hold(arithmetic.empty([1, config.in_channels, height, width])));
    return {
      async predict(sample, timestep) {
        arithmetic.write(fixed.time_proj, flux2.timeProjection(config, timestep));
        for (const [k, { tensors }] of texts.entries()) {
          const inputs = { sample, ...fixed, prompt_embeds: tensors.prompt_embeds };
          await engine.run(network, inputs, { out_sample: outputs[k] });
        }
        return outputs;
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  course({ height, width }: LatentSize): Omit<FlowCourse, 'steps'> {
    return { tokens: height * width, shift: 'empirical', least: 'step' };
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width } = request;
    const { provider } = this.engine;
    const { weights } = this.#transformer;
    const shape = { provider, batch: 1, height, width, text: this.text.tokenizer.limit, shown: [] };
    const runs = rows * calls;
    return Promise.resolve([
      this.text.planned(this.costs, texts),
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        shape,
        (options) => flux2.build(this.config, weights, options),
      ),
      this.pictures.planned(this.costs, request),
    ]);
  }
}
