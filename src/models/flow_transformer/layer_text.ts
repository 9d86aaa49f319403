/** Prompts encoded by a language model: hidden states of some of its layers. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import type { Graph, GraphOptions, StoredTensor } from '../../graphs/graph.ts';
import type { RotaryTables } from '../../graphs/rotary.ts';
import type { ChatTokenizer } from '../../text/chat_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { EncodedText } from './flow_networks.ts';

/** A language model as a reader of prompts. */
export interface LayerReader {
  /** For people. */
  name: string;
  component: Component;
  /** The table of embeddings, whose rows are read on the processor. */
  table: string;
  /** Elements of a token within the model, of a head's angles, and of what is read. */
  widths: { hidden: number; angles: number; read: number };
  /** Where prompts are filled up to the tokenizer's limit, and the padding is read, too. */
  padding: 'none' | 'before' | 'after';
  /** Where they are filled up to the next multiple of so many tokens instead; and how long a prompt usually is. */
  window?: { multiple: number; usual: number };
  /** @param kept tokens that are no padding */
  angles(sequence: number, kept: number): RotaryTables;
  /** Further inputs, by which padding is told from the `kept` tokens. */
  inputs(sequence: number, kept: number): Record<string, { data: Float32Array<ArrayBuffer>; dims: readonly number[] }>;
  /** Output `hidden_states` [1, sequence, width that is read]. */
  build(options: GraphOptions): Graph;
}

export class LayerText {
  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: CheckpointFiles,
    readonly tokenizer: Pick<ChatTokenizer, 'limit' | 'pad' | 'encode'>,
    readonly weights: WeightVariant,
    readonly reader: LayerReader,
  ) {}

  /** Elements of a token. */
  get width(): number {
    return this.reader.widths.read;
  }

  count(prompt: string): TokenCount {
    const { tokens } = this.tokenizer.encode(prompt);
    return { encoder: this.reader.name, tokens, limit: this.tokenizer.limit, rows: 1 };
  }

  /** @returns `prompt_embeds` [1, tokens, {@link width}] */
  async encode(prompt: string): Promise<EncodedText & { tensors: { prompt_embeds: DeviceTensor } }> {
    const { reader, tokenizer, engine, files } = this;
    const { arithmetic } = engine;
    const { ids, tokens, text } = tokenizer.encode(prompt);
    const sequence = reader.padding === 'none' ? ids.length : this.#window(ids.length);
    const all = new Int32Array(sequence).fill(tokenizer.pad);
    all.set(ids, reader.padding === 'before' ? sequence - ids.length : 0);
    const network = await this.shelf.get('text_encoder', { sequence }, ({ provider }) =>
      reader.build(this.#options(provider, sequence)),
    );
    const table = reader.component.weights.get(reader.table) as StoredTensor;
    const { cos, sin } = reader.angles(sequence, ids.length);
    const { hidden, angles } = reader.widths;
    const inputs: Record<string, DeviceTensor> = {
      inputs_embeds: arithmetic.upload(await readRows(files, table, all), [sequence, hidden]),
      cos: arithmetic.upload(cos, [sequence, angles]),
      sin: arithmetic.upload(sin, [sequence, angles]),
    };
    for (const [name, { data, dims }] of Object.entries(reader.inputs(sequence, ids.length))) {
      inputs[name] = arithmetic.upload(data, dims);
    }
    const states = arithmetic.empty([1, sequence, this.width]);
    try {
      await engine.run(network, inputs, { hidden_states: states });
    } catch (error) {
      states.dispose();
      throw error;
    } finally {
      Object.values(inputs).forEach((input) => {
        input.dispose();
      });
    }
    return { tensors: { prompt_embeds: states }, tokens, limit: tokenizer.limit, text };
  }

  /** @param texts to be read, each as long as can be, or usual */
  planned(costs: GraphCosts, texts: number): PlannedNetwork {
    const { reader } = this;
    const { provider } = this.engine;
    return costs.network(
      { name: 'text_encoder', phase: 'read', runs: texts, runsPerStep: 0, precision: 'f32' },
      { provider, batch: 1, height: 0, width: 0, sequence: this.plannedTokens },
      (options) => reader.build(options),
    );
  }

  /** Length of prompts that are not known yet. */
  get plannedTokens(): number {
    const { limit } = this.tokenizer;
    return Math.min(this.reader.window?.usual ?? limit, limit);
  }

  /** Length that a prompt of so many tokens is filled up to. */
  #window(tokens: number): number {
    const { limit } = this.tokenizer;
    const { multiple = limit } = this.reader.window ?? {};
    return Math.min(Math.ceil(tokens / multiple) * multiple, limit);
  }

  #options(provider: GraphOptions['provider'], sequence: number): GraphOptions {
    return { provider, dtype: 'f32', batch: 1, height: 0, width: 0, sequence, weights: this.weights };
  }
}
