/**
 * Prompts of any length for a text encoder that reads 77 tokens: as many rows as are needed, each with begin and end, and a weight for each
 * token. AUTOMATIC1111 and ComfyUI cut in different places.
 *
 * Reference: modules/sd_hijack_clip.py (tokenize_line) of stable-diffusion-webui, comfy/sd1_clip.py (tokenize_with_weights) of ComfyUI
 */
import type { ClipTokenizer } from './clip_tokenizer.ts';
import { automatic1111Weights, comfyuiWeights } from './weighted_words.ts';

/** One row of the encoder. */
export interface PromptChunk {
  /** Begin, text, end, padding. */
  ids: Int32Array<ArrayBuffer>;
  /** 1 for begin, end and padding. */
  weights: Float32Array<ArrayBuffer>;
  /** Where vectors of an embedding stand in place of tokens. */
  vectors: { at: number; embedding: string; vector: number }[];
}

/** Embeddings by name: how many tokens each takes. */
export interface KnownEmbeddings {
  /** The known name that a prompt's words begin with, and how many vectors it has; null where there is none. */
  find(name: string): { name: string; vectors: number } | null;
}

export interface ChunkedPrompt {
  chunks: PromptChunk[];
  /** Of the text, without begin, end and padding. */
  tokens: number;
}

/** A row that is full is broken at a comma among its last tokens, this many at most, so that a phrase stays in one row. */
const BACKTRACK = 20;
/** ComfyUI keeps groups shorter than this in one row. */
const LONGEST_WORD = 8;

interface Piece {
  id: number;
  weight: number;
  vector?: { embedding: string; vector: number };
}

/** Rows in the making. */
class Rows {
  readonly #rows: Piece[][] = [[]];

  constructor(readonly room: number) {}

  get row(): Piece[] {
    return this.#rows[this.#rows.length - 1];
  }

  next(first: Piece[] = []): void {
    this.#rows.push(first);
  }

  chunks(tokenizer: ClipTokenizer): PromptChunk[] {
    return this.#rows.map((pieces) => {
      const ids = tokenizer.row(pieces.map(({ id }) => id));
      const weights = new Float32Array(ids.length).fill(1);
      pieces.forEach(({ weight }, i) => (weights[i + 1] = weight));
      const vectors = pieces.flatMap(({ vector }, i) => (vector ? [{ at: i + 1, ...vector }] : []));
      return { ids, weights, vectors };
    });
  }

  /** Drops a row that was begun and stayed empty, unless it is the only one. */
  dropEmptyEnd(): void {
    if (this.#rows.length > 1 && this.row.length === 0) {
      this.#rows.pop();
    }
  }

  get tokens(): number {
    return (this.#rows.length - 1) * this.room + this.row.length;
  }
}

/** As AUTOMATIC1111 with its emphasis: rows end at a comma where one is near, and at BREAK. */
export function automatic1111Chunks(
  prompt: string,
  tokenizer: ClipTokenizer,
  embeddings: KnownEmbeddings | null,
): ChunkedPrompt {
  const rows = new Rows(tokenizer.length - 2);
  const [comma] = tokenizer.tokens(',');
  let lastComma = -1;
  const next = (first: Piece[] = []): void => {
    lastComma = -1;
    rows.next(first);
  };
  for (const { text, weight, isBreak } of automatic1111Weights(prompt)) {
    if (isBreak) {
      next();
      continue;
    }
    for (const part of withEmbeddings(text, embeddings)) {
      if (typeof part !== 'string') {
        if (rows.row.length + part.vectors > rows.room) {
          next();
        }
        rows.row.push(...vectorsOf(part, weight));
        continue;
      }
      for (const id of tokenizer.tokens(part)) {
        if (id === comma) {
          lastComma = rows.row.length;
        } else if (rows.row.length === rows.room && lastComma !== -1 && rows.row.length - lastComma <= BACKTRACK) {
          next(rows.row.splice(lastComma + 1));
        }
        if (rows.row.length === rows.room) {
          next();
        }
        rows.row.push({ id, weight });
      }
    }
  }
  rows.dropEmptyEnd();
  return { chunks: rows.chunks(tokenizer), tokens: rows.tokens };
}

/** As ComfyUI: rows end where they are full, and short groups of words stay together. */
export function comfyuiChunks(
  prompt: string,
  tokenizer: ClipTokenizer,
  embeddings: KnownEmbeddings | null,
): ChunkedPrompt {
  const rows = new Rows(tokenizer.length - 2);
  for (const { text, weight } of comfyuiWeights(prompt)) {
    for (const part of markedEmbeddings(text, embeddings)) {
      let group =
        typeof part === 'string'
          ? tokenizer.tokens(part).map((id): Piece => ({ id, weight }))
          : vectorsOf(part, weight);
      const isLarge = group.length >= LONGEST_WORD;
      while (group.length > 0) {
        const left = rows.room - rows.row.length;
        if (group.length <= left) {
          rows.row.push(...group);
          group = [];
        } else {
          rows.row.push(...group.slice(0, isLarge ? left : 0));
          group = group.slice(isLarge ? left : 0);
          rows.next();
        }
      }
    }
  }
  return { chunks: rows.chunks(tokenizer), tokens: rows.tokens };
}

interface Embedding {
  name: string;
  vectors: number;
}

function vectorsOf({ name, vectors }: Embedding, weight: number): Piece[] {
  return Array.from({ length: vectors }, (_, vector) => ({ id: 0, weight, vector: { embedding: name, vector } }));
}

/** AUTOMATIC1111 finds the names of embeddings among the words. */
function withEmbeddings(text: string, embeddings: KnownEmbeddings | null): (string | Embedding)[] {
  if (!embeddings) {
    return [text];
  }
  const parts: (string | Embedding)[] = [];
  let words = '';
  // Names begin where a word does.
  for (let at = 0; at < text.length;) {
    const isStart = at === 0 || !/[\p{L}\p{N}_]/u.test(text[at - 1]);
    const found = isStart ? embeddings.find(text.slice(at)) : null;
    if (found) {
      parts.push(words, found);
      words = '';
      at += found.name.length;
    } else {
      words += text[at++];
    }
  }
  return [...parts, words].filter((part) => part !== '');
}

const MARK = 'embedding:';

/** ComfyUI wants them marked, `embedding:name`; a name that is not known is left out there, as here. */
function markedEmbeddings(text: string, embeddings: KnownEmbeddings | null): (string | Embedding)[] {
  const [first, ...marked] = text.split(new RegExp(`[ \\n]${MARK}`));
  const words = [first, ...marked.map((one) => `${MARK}${one}`)].filter((word) => word !== '');
  return words.flatMap((word): (string | Embedding)[] => {
    if (!embeddings || !word.startsWith(MARK)) {
      return [word];
    }
    const name = word.slice(MARK.length).replace(/^\n+|\n+$/g, '');
    const found = embeddings.find(name);
    const rest = found ? name.slice(found.name.length) : name.replace(/^\S*/, '');
    return [...(found ? [found] : []), ...(rest.trim() === '' ? [] : [rest])];
  });
}
