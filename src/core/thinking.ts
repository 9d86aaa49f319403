/** Separates a model's thoughts from its answer as the text arrives, by the marks chat models put around them. */
import type { TextDelta } from './text_service.ts';

/** Opening and closing marks of several model families. */
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

/** Whether a special token is (part of) a mark of thoughts, and so must not be dropped before the text is split. */
export function isThinkingToken(token: string): boolean {
  return TOKENS.has(token);
}

/** Takes text and returns pieces; a possible start of a mark waits for the rest. */
export class ThinkingSplitter {
  /** The mark that closes the current thoughts; null outside them. */
  #close: string | null = null;
  #waiting = '';
  /** Nothing of this part was returned yet, so leading white space is dropped. */
  #isFresh = true;
  #thought = false;

  /** @param prompt the text the model continues: its template may already have opened the thoughts */
  constructor(prompt: string) {
    const open = MARKS.find(([mark]) => prompt.trimEnd().endsWith(mark));
    if (open) {
      this.#begin(open[1]);
    }
  }

  /** The pieces that are certain once `text` has arrived. */
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

  /** The rest, at the end of the text. */
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

  /** Length of the longest end of the waiting text that is a prefix of a mark. */
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
    // Only around marks: an answer keeps its own leading spaces.
    const shown = this.#isFresh && this.#thought ? text.trimStart() : text;
    if (shown !== '') {
      this.#isFresh = false;
      pieces.push({ text: shown, thinking });
    }
  }
}
