/** A flow transformer's CLIP text encoders, and what each reads of a prompt. */
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import * as clipText from '../../graphs/clip_text.ts';
import type { ClipTokenizer } from '../../text/clip_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import { encodeWithClip, type TextEncoder } from '../latent_diffusion/clip_encoding.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { EncodedText } from '../latent_diffusion/networks.ts';

export interface ClipStates {
  /** Of each encoder. */
  encoded: EncodedText[];
  /** Tokens for the encoder that needs the most, and the number that are read. */
  tokens: number;
  limit: number;
  /** What was read of the prompt. */
  text: string;
}

export class ClipTexts {
  readonly encoders: readonly TextEncoder[];

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    components: readonly Component[],
    readonly tokenizers: readonly ClipTokenizer[],
    readonly weights: WeightVariant,
    states: clipText.TextOutputs['states'],
  ) {
    this.encoders = components.map((component) => ({
      name: component.name as TextEncoder['name'],
      component,
      config: clipText.parseConfig(component.config),
      outputs: { states, isPooled: true, isProjected: component.className === clipText.projectedClassName },
    }));
  }

  /** Widths of each encoder's token states, and of its pooled text. */
  get widths(): { token: number; pooled: number }[] {
    return this.encoders.map(({ config, outputs }) => ({
      token: config.hidden_size,
      pooled: clipText.pooledWidth(config, outputs),
    }));
  }

  async encode(prompt: string): Promise<ClipStates> {
    const encoded: EncodedText[] = [];
    const all = this.tokenizers.map((tokenizer) => tokenizer.encode(prompt));
    const longest = all.reduce((most, each) => (each.tokens > most.tokens ? each : most));
    try {
      for (const [k, encoder] of this.encoders.entries()) {
        encoded.push(await encodeWithClip(this, encoder, encoder.component.weights, all[k].ids));
      }
    } catch (error) {
      disposeAll(encoded);
      throw error;
    }
    return { encoded, tokens: longest.tokens, limit: longest.ids.length, text: longest.text };
  }

  /** @param texts to be read */
  planned(costs: GraphCosts, texts: number): PlannedNetwork[] {
    const { provider } = this.engine;
    return this.encoders.map(({ name, component, config, outputs }) =>
      costs.network(
        { name, phase: 'read', runs: texts, runsPerStep: 0, precision: 'f32' },
        { provider, batch: 1, height: 0, width: 0, sequence: config.max_position_embeddings },
        (options) => clipText.build(config, component.weights, options, outputs),
      ),
    );
  }
}

export function disposeAll(encoded: readonly EncodedText[]): void {
  for (const { states, pooled } of encoded) {
    states.dispose();
    pooled?.dispose();
  }
}

/** How much of each encoder a prompt takes. */
export function tokensOfClip(tokenizers: readonly ClipTokenizer[], prompt: string): TokenCount[] {
  return tokenizers.map((one, n) => {
    return { encoder: nameOfClip(n), tokens: one.encode(prompt).tokens, limit: one.length, rows: 1 };
  });
}

/** What people call the CLIP encoders of a checkpoint, from 0. */
export function nameOfClip(n: number): string {
  return n === 0 ? 'CLIP' : `CLIP-${n + 1}`;
}

/** The part of a prompt that CLIP dropped but T5 still reads. */
export function readByT5Alone({ tokens, limit }: Pick<ClipStates, 'tokens' | 'limit'>): string[] {
  return tokens > limit
    ? [
        `CLIP, the smaller text encoder, reads ${limit} of the ${tokens} tokens of this text; the rest is read by T5 alone.`,
      ]
    : [];
}
