/**
 * What a file of this folder exports: one medium, from values in memory to files and back. The folder is the registry
 * (`registry.ts`), so a new medium is one file here and one viewer in `src/app/media`.
 */
import type { Inscription, Metadata } from '../formats/metadata.ts';

/** One kind of file that a medium is written to or read from. */
export interface MediaFormat {
  /** Without parameters, such as `audio/wav`. */
  mime: string;
  /** Without the dot, in lower case. */
  extension: string;
}

export interface Medium<Value = unknown> {
  /** Equals the file's name: `image`, `audio`, `text`, `code`. */
  id: string;
  /** As people call it, for headings and filters. */
  label: { en: string; de: string };
  /** The first is what results are written as; the others are read, and offered by "save as" where {@link convert} takes them. */
  formats: readonly [MediaFormat, ...MediaFormat[]];
  /**
   * The format that these bytes are of, by their beginning.
   * @param head the first bytes of a file, 64 or all of it
   */
  recognise(head: Uint8Array): MediaFormat | null;
  /** Whether it is a value of this medium; results of chunks are foreign until they are checked. */
  accepts(value: unknown): value is Value;
  /** As a file of the first format. */
  encode(value: Value): Promise<Blob>;
  /** @throws StudioError `image_unreadable`, `media_unreadable` for a file that is damaged */
  decode(file: Blob): Promise<Value>;
  /** What is recorded beside it: pixels, seconds, channels, words. */
  facts(value: Value): Record<string, number | string>;
  /** The same file with its recipe written into it, without touching what it holds; null where its format has no place for one. */
  inscribe: ((file: Blob, inscription: Inscription | null) => Promise<Blob>) | null;
  /** The texts that a file carries beside what it holds; null for one of another medium. */
  readMetadata: ((bytes: Uint8Array<ArrayBuffer>) => Promise<Metadata | null>) | null;
}
