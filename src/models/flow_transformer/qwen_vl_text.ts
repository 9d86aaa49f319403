/**
 * Prompts encoded by Qwen2.5-VL, within the sentences that Qwen-Image puts around them and with the pictures that they speak of: the states of
 * its last layer, without those of the first sentence.
 * Reference: diffusers/pipelines/qwenimage/pipeline_qwenimage.py
 */
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as qwenVl from '../../graphs/qwen2_5_vl.ts';
import type { QwenImageTokenizer } from '../../text/qwen_image_prompts.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { Held } from './base_networks.ts';
import type { EncodedText, SeenPicture } from './flow_networks.ts';

/** Networks read a whole multiple of so many tokens, so that a prompt that is a little longer needs no new one. */
const MULTIPLE = 64;

export class QwenVlText {
  readonly config: qwenVl.Config;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: CheckpointFiles,
    readonly component: Component,
    readonly tokenizer: QwenImageTokenizer,
    readonly weights: WeightVariant,
  ) {
    this.config = qwenVl.parseConfig(component.config);
  }

  /** Elements of a token. */
  get width(): number {
    return this.config.hidden_size;
  }

  /**
   * @param seen stand before the prompt
   * @returns `prompt_embeds` [1, tokens, {@link width}]
   */
  async encode(prompt: string, seen: readonly SeenPicture[] = []): Promise<EncodedText> {
    const { tokenizer } = this;
    const { ids, tokens, text } = tokenizer.encode(prompt, seen.length);
    const prompt_embeds = await this.#read(placed(ids, seen, tokenizer.picture ?? this.config.image_token_id));
    return { tensors: { prompt_embeds }, tokens, limit: tokenizer.limit, text };
  }

  /**
   * @param texts to be read
   * @param tokens of each
   */
  planned(costs: GraphCosts, texts: number, tokens: number): PlannedNetwork {
    const { config, component } = this;
    const sequence = paddedTokens(tokens);
    const shape = { provider: this.engine.provider, batch: 1, height: 0, width: 0, sequence };
    return costs.network(
      { name: 'text_encoder', phase: 'read', runs: texts, runsPerStep: 0, precision: 'f32' },
      shape,
      (options) => qwenVl.build(config, component.weights, options),
    );
  }

  async #read({ ids, positions, pictures }: PlacedText): Promise<DeviceTensor> {
    const { config, component, engine, files, weights, width } = this;
    const { arithmetic, provider } = engine;
    const sequence = paddedTokens(ids.length);
    const network = await this.shelf.get('text_encoder', { sequence }, () =>
      qwenVl.build(config, component.weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        height: 0,
        width: 0,
        sequence,
        weights,
      }),
    );
    const table = component.weights.get(qwenVl.embeddingTable(component.weights)) as StoredTensor;
    const embeds = new Float32Array(sequence * width);
    embeds.set(await readRows(files, table, ids));
    const padding = Array.from({ length: sequence - ids.length }, () => [0, 0, 0] as const);
    const { cos, sin } = qwenVl.angles(config, [...positions, ...padding]);
    const half = config.head_dim / 2;
    const held = new Held();
    const inputs_embeds = held.hold(arithmetic.upload(embeds, [sequence, width]));
    for (const { at, features } of pictures) {
      arithmetic.copy(features, 0, inputs_embeds, at * width, features.dims[0] * width);
    }
    const { dropped } = this.tokenizer.frame;
    const kept = arithmetic.empty([1, ids.length - dropped, width]);
    try {
      const states = held.hold(arithmetic.empty([1, sequence, width]));
      const inputs = {
        inputs_embeds,
        cos: held.hold(arithmetic.upload(cos, [sequence, half])),
        sin: held.hold(arithmetic.upload(sin, [sequence, half])),
      };
      await engine.run(network, inputs, { hidden_states: states });
      arithmetic.copy(states, dropped * width, kept, 0, kept.dims[1] * width);
      return kept;
    } catch (error) {
      kept.dispose();
      throw error;
    } finally {
      held.dispose();
    }
  }
}

interface PlacedText {
  ids: Int32Array;
  positions: qwenVl.Position[];
  /** From which token on they stand. */
  pictures: { at: number; features: DeviceTensor }[];
}

/** Puts as many tokens for each picture as it was seen to have; they stand on a grid (M-RoPE) and the text goes on behind its longer side. */
function placed(ids: Int32Array, seen: readonly SeenPicture[], mark: number): PlacedText {
  const all: number[] = [];
  const positions: qwenVl.Position[] = [];
  const pictures: PlacedText['pictures'] = [];
  let next = 0;
  for (const id of ids) {
    const picture = id === mark ? seen.at(pictures.length) : undefined;
    if (!picture) {
      all.push(id);
      positions.push([next, next, next]);
      next++;
      continue;
    }
    const { features, rows, columns } = picture;
    pictures.push({ at: all.length, features });
    for (let token = 0; token < rows * columns; token++) {
      all.push(id);
      positions.push([next, next + Math.floor(token / columns), next + (token % columns)]);
    }
    next += Math.max(rows, columns);
  }
  return { ids: Int32Array.from(all), positions, pictures };
}

const paddedTokens = (tokens: number) => Math.ceil(tokens / MULTIPLE) * MULTIPLE;
