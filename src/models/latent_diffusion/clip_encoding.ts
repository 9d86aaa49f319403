/** Encodes a text with a CLIP text encoder, as in Stable Diffusion 1 to 3 and FLUX.1. */
import { StudioError } from '../../core/errors.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { Arithmetic, DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as clipText from '../../graphs/clip_text.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { TextNetwork } from '../../weights/lora_names.ts';
import type { EncodedText, PlacedVector } from './networks.ts';

export interface TextEncoder {
  /** Its name is that of the component. */
  name: TextNetwork;
  component: Component;
  config: clipText.Config;
  outputs: clipText.TextOutputs;
}

/**
 * @param weights of the encoder, possibly with LoRAs
 * @param ids exactly as many as the encoder reads
 * @param skip the layer to read, counted from the last, 1; undefined = the one the checkpoint was trained with
 * @param vectors that replace tokens
 * @param injects whether the network is the one that can do that
 * @throws StudioError `invalid_operation` if no layer is left
 */
export async function encodeWithClip(
  { engine, shelf, weights: variant }: { engine: Engine; shelf: NetworkShelf; weights: WeightVariant },
  { name, config, outputs }: TextEncoder,
  weights: WeightIndex,
  ids: Int32Array<ArrayBuffer>,
  {
    skip: layer,
    vectors = [],
    injects = vectors.length > 0,
  }: { skip?: number | undefined; vectors?: readonly PlacedVector[] | undefined; injects?: boolean } = {},
): Promise<EncodedText> {
  const { arithmetic } = engine;
  const sequence = ids.length;
  const skip = layer === undefined ? 0 : layer - clipText.usualLayer(outputs);
  if (config.num_hidden_layers - skip - (outputs.states === 'penultimate' ? 1 : 0) < 1) {
    throw new StudioError(
      'invalid_operation',
      `clip_skip leaves out all ${config.num_hidden_layers} layers of this checkpoint's text encoder; choose less than that.`,
    );
  }
  const shape = { sequence, ...(skip !== 0 && { skip }), ...(injects && { injects: 1 }) };
  const network = await shelf.get(name, shape, (options) =>
    clipText.build(
      config,
      weights,
      { ...options, batch: 1, height: 0, width: 0, dtype: 'f32', sequence, weights: variant, skip, injects },
      outputs,
    ),
  );
  const inputs = [arithmetic.upload(ids, [1, sequence])];
  const states = arithmetic.empty([1, sequence, config.hidden_size]);
  const pooled = outputs.isPooled ? arithmetic.empty([1, clipText.pooledWidth(config, outputs)]) : null;
  const end = pooled && arithmetic.upload(Int32Array.of(clipText.endOf(config, ids)), [1]);
  const injected = injects ? injection(arithmetic, vectors, sequence, config.hidden_size) : {};
  inputs.push(...(end ? [end] : []), ...Object.values(injected));
  try {
    await engine.run(
      network,
      { input_ids: inputs[0], ...injected, ...(end && { end }) },
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

/** Vectors where they stand, and 0 for their tokens. */
function injection(
  arithmetic: Arithmetic,
  vectors: readonly PlacedVector[],
  sequence: number,
  width: number,
): Record<string, DeviceTensor> {
  const [stays, values] = [new Float32Array(sequence).fill(1), new Float32Array(sequence * width)];
  for (const vector of vectors) {
    stays[vector.at] = 0;
    values.set(vector.values, vector.at * width);
  }
  return {
    stays: arithmetic.upload(stays, [1, sequence, 1]),
    vectors: arithmetic.upload(values, [1, sequence, width]),
  };
}
