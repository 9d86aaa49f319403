/** Tells a model's thoughts from its answer while the text arrives, by the marks that chat models put around them. */
import type { TextDelta } from '../core/text_service.ts';

/** Opening and closing marks; several families' words for the same thing. */
const MARKS: readonly (readonly [open: string, close: string])[] = [
  ['<think>', '</think>'],
  ['<thinking>', '</thinking>'],
  ['<thought>', '</thought>'],
  ['<reasoning>', '</reasoning>'],
  ['[THINK]', '[/THINK]'],
  ['<|START_THINKING|>', '<|END_THINKING|>'],
  ['<|channel|>analysis<|message|>', '<|channel|>final<|message|>'],
  ['<|channel>thought', '<channel|>'],
];

const TOKENS = new Set(MARKS.flat().flatMap((mark) => mark.match(/<\|[^|>]+\|?>|<[^>]+\|>|\[[^\]]+\]|<[^>]+>/g) ?? []));

/** Whether a special token is, or is part of, a mark of thoughts, so that it must not be dropped before the text is split. */
export function isThinkingToken(token: string): boolean {
  return TOKENS.has(token);
}

/** Feeds text in, gives pieces out; what may be the beginning of a mark waits for the rest. */
export class ThinkingSplitter {
  /** The closing mark that ends the thoughts; null outside of them. */
  #close: string | null = null;
  #waiting = '';
  /** Nothing of this part was given out yet, so white space at its beginning is dropped. */
  #isFresh = true;
  #thought = false;

  /** @param prompt what the model goes on from: a template may have opened the thoughts already */
  constructor(prompt: string) {
    const open = MARKS.find(([mark]) => prompt.trimEnd().endsWith(mark));
    if (open) {
      this.#begin(open[1]);
    }
  }

  /** What can be told for sure after `text` came. */
  push(text: string): TextDelta[] {
    this.#waiting += text;
    const pieces: TextDelta[] = [];
    for (let mark = this.#nextMark(); mark; mark = this.#nextMark()) {
      this.#give(pieces, this.#waiting.slice(0, mark.at));
      this.#waiting = this.#waiting.slice(mark.at + mark.length);
      if (mark.close === null) {
        this.#close = null;
        this.#isFresh = true;
      } else {
        this.#begin(mark.close);
      }
    }
    const held = this.#beginningOfMark();
    this.#give(pieces, this.#waiting.slice(0, this.#waiting.length - held));
    this.#waiting = this.#waiting.slice(this.#waiting.length - held);
    return pieces;
  }

  /** The rest, when nothing more comes. */
  end(): TextDelta[] {
    const pieces: TextDelta[] = [];
    this.#give(pieces, this.#waiting);
    this.#waiting = '';
    return pieces;
  }

  #begin(close: string): void {
    this.#close = close;
    this.#isFresh = true;
    this.#thought = true;
  }

  #nextMark(): { at: number; length: number; close: string | null } | null {
    if (this.#close !== null) {
      const at = this.#waiting.indexOf(this.#close);
      return at < 0 ? null : { at, length: this.#close.length, close: null };
    }
    const found = MARKS.flatMap(([open, close]) => {
      const at = this.#waiting.indexOf(open);
      return at < 0 ? [] : [{ at, length: open.length, close }];
    });
    return found.sort((a, b) => a.at - b.at)[0] ?? null;
  }

  /** Length of the longest end of what waits that a mark begins with. */
  #beginningOfMark(): number {
    const marks = this.#close === null ? MARKS.map(([open]) => open) : [this.#close];
    const longest = Math.max(...marks.map(({ length }) => length)) - 1;
    for (let length = Math.min(longest, this.#waiting.length); length > 0; length--) {
      const end = this.#waiting.slice(-length);
      if (marks.some((mark) => mark.startsWith(end))) {
        return length;
      }
    }
    return 0;
  }

  #give(pieces: TextDelta[], text: string): void {
    const thinking = this.#close !== null;
    // Only around marks: an answer that begins with spaces by itself keeps them.
    const shown = this.#isFresh && this.#thought ? text.trimStart() : text;
    if (shown !== '') {
      this.#isFresh = false;
      pieces.push({ text: shown, thinking });
    }
  }
}
