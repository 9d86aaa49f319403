/**
 * Encodes a prompt the way the tool with its syntax does: as many rows of 77 tokens as needed, with word weights applied to the encoder's
 * output.
 *
 * Reference: modules/sd_hijack_clip.py and sd_emphasis.py (Original) of stable-diffusion-webui, comfy/sd1_clip.py (ClipTokenWeightEncoder)
 */
import { assert } from '../../core/errors.ts';
import type { PromptSyntax } from '../../core/model.ts';
import type { Arithmetic, DeviceTensor } from '../../engine/arithmetic.ts';
import type { ClipTokenizer } from '../../text/clip_tokenizer.ts';
import {
  automatic1111Chunks,
  comfyuiChunks,
  type ChunkedPrompt,
  type KnownEmbeddings,
  type PromptChunk,
} from '../../text/prompt_chunks.ts';
import type { EncodedText, NamedEmbedding, Networks, ReadingOptions } from './networks.ts';

/** A tokenized text. */
export interface TokenizedText {
  /** Of each tokenizer. */
  prompts: ChunkedPrompt[];
}

export class PromptReader {
  constructor(
    readonly networks: Pick<Networks, 'encodeText' | 'textWidths' | 'embeddings'>,
    readonly arithmetic: Arithmetic,
    readonly tokenizers: readonly ClipTokenizer[],
    readonly syntax: Exclude<PromptSyntax, 'literal'>,
    readonly options: Pick<ReadingOptions, 'skip'>,
  ) {}

  tokenize(text: string): TokenizedText {
    const chunked = this.syntax === 'automatic1111' ? automatic1111Chunks : comfyuiChunks;
    const known = knownAmong(this.networks.embeddings);
    return { prompts: this.tokenizers.map((tokenizer) => chunked(text, tokenizer, known)) };
  }

  /** @param texts the successive texts of one prompt; AUTOMATIC1111 encodes them together, so all have equally many rows and share a mean */
  async read(texts: readonly TokenizedText[]): Promise<EncodedText[]> {
    if (this.syntax === 'comfyui') {
      const all: EncodedText[] = [];
      for (const text of texts) {
        all.push(await this.#readComfyui(text));
      }
      return all;
    }
    const count = Math.max(...texts.map(({ prompts }) => prompts[0].chunks.length));
    const rows: EncodedText[][] = texts.map(() => []);
    for (let i = 0; i < count; i++) {
      const chunks = texts.map(({ prompts }) => prompts.map((prompt, k) => prompt.chunks.at(i) ?? this.#emptyChunk(k)));
      const encoded: EncodedText[] = [];
      for (const chunk of chunks) {
        encoded.push(await this.#encode(chunk));
      }
      const weighted = chunks.some(([{ weights }]) => weights.some((weight) => weight !== 1));
      if (weighted) {
        await this.#emphasise(
          encoded,
          chunks.map(([{ weights }]) => weights),
        );
      }
      encoded.forEach((one, n) => rows[n].push(one));
    }
    return rows.map((own) => this.#joined(own));
  }

  async #readComfyui({ prompts }: TokenizedText): Promise<EncodedText> {
    const isWeighted = prompts[0].chunks.some(({ weights }) => weights.some((weight) => weight !== 1));
    const rows: EncodedText[] = [];
    for (let i = 0; i < prompts[0].chunks.length; i++) {
      rows.push(await this.#encode(prompts.map(({ chunks }) => chunks[i])));
    }
    if (isWeighted) {
      const empty = await this.#encode(this.tokenizers.map((_, k) => this.#emptyChunk(k)));
      const nothing = await this.arithmetic.read(empty.states);
      dispose(empty);
      for (const [i, row] of rows.entries()) {
        const { weights } = prompts[0].chunks[i];
        const states = await this.arithmetic.read(row.states);
        const width = states.length / weights.length;
        states.forEach((value, at) => {
          const weight = weights[Math.floor(at / width)];
          states[at] = weight === 1 ? value : Math.fround(Math.fround(value - nothing[at]) * weight) + nothing[at];
        });
        this.arithmetic.write(row.states, states);
      }
    }
    return this.#joined(rows);
  }

  /** Scales words by their weights, then everything so that the mean stays the same, separately for each encoder. */
  async #emphasise(encoded: readonly EncodedText[], weights: readonly Float32Array[]): Promise<void> {
    const all = await Promise.all(encoded.map(({ states }) => this.arithmetic.read(states)));
    const [, , width] = encoded[0].states.dims;
    const { textWidths } = this.networks;
    let column = 0;
    for (const own of textWidths ?? [width]) {
      const [from, to] = [column, column + own];
      const mean = () => {
        let sum = 0;
        for (const states of all) {
          for (let at = 0; at < states.length; at += width) {
            for (let k = from; k < to; k++) {
              sum += states[at + k];
            }
          }
        }
        return sum;
      };
      const change = (by: (token: number, text: number) => number) => {
        all.forEach((states, text) => {
          for (let at = 0; at < states.length; at += width) {
            const factor = by(at / width, text);
            for (let k = from; k < to; k++) {
              states[at + k] *= factor;
            }
          }
        });
      };
      const before = mean();
      change((token, text) => weights[text][token]);
      const factor = before / mean();
      change(() => factor);
      column = to;
    }
    encoded.forEach(({ states }, text) => {
      this.arithmetic.write(states, all[text]);
    });
  }

  #encode(chunks: readonly PromptChunk[]): Promise<EncodedText> {
    const vectors = chunks.map((chunk, encoder) =>
      chunk.vectors.map(({ at, embedding, vector }) => ({ at, values: this.#vectorsOf(embedding)[encoder][vector] })),
    );
    return this.networks.encodeText(
      chunks.map(({ ids }) => ids),
      { ...this.options, ...(vectors.some((own) => own.length > 0) && { vectors }) },
    );
  }

  #vectorsOf(name: string): NamedEmbedding['vectors'] {
    const embedding = this.networks.embeddings.find((one) => one.name === name);
    assert(embedding !== undefined, 'it was found among them');
    return embedding.vectors;
  }

  #emptyChunk(tokenizer: number): PromptChunk {
    const ids = this.tokenizers[tokenizer].row([]);
    return { ids, weights: new Float32Array(ids.length).fill(1), vectors: [] };
  }

  /** Concatenates rows; the pooled text is the first row's. */
  #joined(rows: readonly EncodedText[]): EncodedText {
    const [first, ...others] = rows;
    if (others.length === 0) {
      return first;
    }
    const [, tokens, width] = first.states.dims;
    const states = this.arithmetic.empty([1, rows.length * tokens, width]);
    rows.forEach((row, i) => {
      this.arithmetic.copy(row.states, 0, states, i * tokens * width, tokens * width);
      row.states.dispose();
    });
    others.forEach(({ pooled }) => pooled?.dispose());
    return { states, pooled: first.pooled };
  }
}

/** Finds names at the start of words, ignoring case: the longest match, and never part of a longer word. */
function knownAmong(embeddings: readonly NamedEmbedding[]): KnownEmbeddings | null {
  const longestFirst = [...embeddings].sort((a, b) => b.name.length - a.name.length);
  return embeddings.length === 0
    ? null
    : {
        find(words) {
          const found = longestFirst.find(
            ({ name }) =>
              words.slice(0, name.length).toLowerCase() === name.toLowerCase() &&
              !/[\p{L}\p{N}_]/u.test(words.charAt(name.length)),
          );
          return found ? { name: found.name, vectors: found.vectors[0].length } : null;
        },
      };
}

/** Pads a text to the wanted number of tokens by repeating the last one (AUTOMATIC1111), or the whole text, which changes nothing. */
export function lengthened(
  arithmetic: Arithmetic,
  states: DeviceTensor,
  tokens: number,
  by: 'last' | 'turn',
): DeviceTensor {
  const [, own, width] = states.dims;
  const longer = arithmetic.empty([1, tokens, width]);
  arithmetic.copy(states, 0, longer, 0, own * width);
  for (let at = own; at < tokens; at += by === 'last' ? 1 : own) {
    const [from, count] = by === 'last' ? [own - 1, 1] : [0, own];
    arithmetic.copy(states, from * width, longer, at * width, count * width);
  }
  return longer;
}

function dispose({ states, pooled }: EncodedText): void {
  states.dispose();
  pooled?.dispose();
}
