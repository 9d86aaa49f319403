/**
 * What a file of this folder exports as `medium`: one medium, from values in memory to files and back. The folder is the registry
 * (`registry.ts`), so a new medium is one file here and one viewer in `src/app/media`. Every file is loaded wherever recordings are
 * read, the service worker included, so whatever is large (encoders, decoders) has to be behind a lazy import.
 */
import type { Inscription, Metadata } from '../formats/metadata.ts';

/** One kind of file that a medium is written to or read from. */
export interface MediaFormat {
  /** As people know it: `WAV`, `JPEG`. */
  label: string;
  /** Without parameters, such as `audio/wav`. */
  mime: string;
  /** Without the dot, in lower case. */
  extension: string;
  /** Other MIME types and extensions that such files go by. */
  aliases?: readonly string[];
}

/** One way to save a result. */
export interface SaveChoice {
  /** Unique within the medium. */
  id: string;
  /** For a button. */
  label: string;
  format: MediaFormat;
}

/** A file on its way out. */
export interface Saved {
  file: Blob;
  /** What was lost on the way, as whole sentences; empty when nothing was. */
  notices: string[];
}

/** What is asked of a small picture of a file. */
export interface PreviewLook {
  /** Pixels of the square that it stands in; the shape of the picture is up to the medium. */
  size: number;
  /** CSS colours. */
  ink: string;
  paper: string;
  accent: string;
}

export interface Medium<Value = unknown> {
  /** Equals the file's name: `image`, `audio`, `text`, `code`. */
  id: string;
  /** As people call it, for headings and filters. */
  label: { en: string; de: string };
  /** The first is what results are written as; the others are read, and offered by "save as" where {@link saving} writes them. */
  formats: readonly [MediaFormat, ...MediaFormat[]];
  /** Entity types of results beside `output_<id>`. */
  entities?: readonly string[];
  /**
   * In which turn {@link recognise} is asked: `own` files have a signature that no other file has; `shared` ones look like others too (any
   * sketch is also a text), so that MIME type and name are heard before.
   */
  turn: 'own' | 'shared';
  /**
   * The format that these bytes are of, by their beginning.
   * @param head the first bytes of a file, 512 or all of it
   */
  recognise(head: Uint8Array): MediaFormat | null;
  /** Whether it is a value of this medium; results of chunks are foreign until they are checked. */
  accepts(value: unknown): value is Value;
  /**
   * As a file of the first format.
   * @throws StudioError `result_invalid` for a value that no file can hold, such as samples that are no numbers
   */
  encode(value: Value): Promise<Blob>;
  /** @throws StudioError `image_unreadable`, `media_unreadable` for a file that is damaged */
  decode(file: Blob): Promise<Value>;
  /** What is recorded beside it: pixels, seconds, channels, words. */
  facts(value: Value): Record<string, number | string>;
  /** The same file with its recipe written into it, without touching what it holds; null where its format has no place for one. */
  inscribe: ((file: Blob, inscription: Inscription | null) => Promise<Blob>) | null;
  /** The texts that a file carries beside what it holds; null for one of another medium. */
  readMetadata: ((bytes: Uint8Array<ArrayBuffer>) => Promise<Metadata | null>) | null;
  /** How results leave the page; null = as they were recorded, and in no other way. */
  saving: Saving | null;
  /** A small picture of a file, for lists; null where there is nothing to draw. */
  preview: ((file: Blob, look: PreviewLook) => Promise<ImageBitmap>) | null;
}

export interface Saving {
  /** Those that this browser can write, the recorded one first. */
  choices(): Promise<readonly SaveChoice[]>;
  /**
   * @param file as recorded
   * @param choice the id of one of the {@link choices}
   * @param inscription the recipe to write into it; null = it leaves with none
   * @throws StudioError `image_unreadable`, `media_unreadable`, also where the browser cannot write the format after all
   */
  convert(file: Blob, choice: string, inscription: Inscription | null): Promise<Saved>;
}
