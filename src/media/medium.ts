/**
 * What a file in this folder exports as `medium`: one medium, from values in memory to files and back. The folder is the registry
 * (`registry.ts`), so a new medium is one file here and one viewer in `src/app/media`. Every file is loaded wherever recordings are read,
 * including the service worker, so anything large (encoders, decoders) must be behind a lazy import.
 */
import type { Inscription, Metadata } from '../formats/metadata.ts';

/** A file format of a medium. */
export interface MediaFormat {
  /** The name people know: `WAV`, `JPEG`. */
  label: string;
  /** Without parameters, such as `audio/wav`. */
  mime: string;
  /** Without the dot, in lower case. */
  extension: string;
  /** Alternative MIME types and extensions. */
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

/** A file to save. */
export interface Saved {
  file: Blob;
  /** Whole sentences on what was lost in conversion; empty if nothing was. */
  notices: string[];
}

/** A request for a thumbnail. */
export interface PreviewLook {
  /** Side of its square in pixels; the medium decides on the shape inside. */
  size: number;
  /** CSS colours. */
  ink: string;
  paper: string;
  accent: string;
}

export interface Medium<Value = unknown> {
  /** Equals the file's name: `image`, `audio`, `text`, `code`. */
  id: string;
  /** Its name for people, in headings and filters. */
  label: { en: string; de: string };
  /** Results are written in the first; the others can be read, and offered by "save as" if {@link saving} writes them. */
  formats: readonly [MediaFormat, ...MediaFormat[]];
  /** Entity types of results beside `output_<id>`. */
  entities?: readonly string[];
  /**
   * When {@link recognise} is called: `own` files have a unique signature; `shared` ones look like others, too (any sketch is also text),
   * so MIME type and name are checked first.
   */
  turn: 'own' | 'shared';
  /**
   * Recognises a format by a file's first bytes.
   * @param head the first bytes of a file, 512 or all of it
   */
  recognise(head: Uint8Array): MediaFormat | null;
  /** Whether it is a value of this medium; chunks' results are untrusted until checked. */
  accepts(value: unknown): value is Value;
  /**
   * Encodes a value in the first format.
   * @throws StudioError `result_invalid` for a value that cannot be stored, such as samples that are NaN
   */
  encode(value: Value): Promise<Blob>;
  /** Loads what {@link encode} and {@link inscribe} take, so that the first result is written as quickly as later ones. */
  warmUp?(): Promise<unknown>;
  /** @throws StudioError `image_unreadable`, `media_unreadable` for a damaged file */
  decode(file: Blob): Promise<Value>;
  /** Facts recorded beside it: pixels, seconds, channels, words. */
  facts(value: Value): Record<string, number | string>;
  /** The facts of a file where they are known without all of its value; as strict as {@link decode}. */
  measure?(file: Blob): Promise<Record<string, number | string>>;
  /** The same file with its recipe written into it, content untouched; null if its format has no place for one. */
  inscribe: ((file: Blob, inscription: Inscription | null) => Promise<Blob>) | null;
  /** A file's metadata texts; null for a file of another medium. */
  readMetadata: ((bytes: Uint8Array<ArrayBuffer>) => Promise<Metadata | null>) | null;
  /** How results are saved; null = only as recorded. */
  saving: Saving | null;
  /**
   * The beginning of a file as a value of its own, for a disk that has no room for the whole; absent where a part is of no use.
   * @param share of it, from 0 to 1
   * @returns null where nothing would be left
   */
  beginning?: (file: Blob, share: number) => Promise<Value | null>;
  /** What another program made keeps what that one wrote into it, instead of ours. */
  keepsOrigin?: true;
  /** Its files move: where they are small, they play while somebody points at them. */
  moves?: true;
  /** A thumbnail of a file, for lists; null if there is nothing to draw. */
  preview: ((file: Blob, look: PreviewLook) => Promise<ImageBitmap>) | null;
}

export interface Saving {
  /** The formats this browser can write, starting with the recorded one, which is that of the file or the first of all. */
  choices(file: Blob): Promise<readonly SaveChoice[]>;
  /**
   * @param file as recorded
   * @param choice the id of one of the {@link choices}
   * @param inscription the recipe to write into it; null = none
   * @throws StudioError `image_unreadable`, `media_unreadable`, also if the browser cannot write the format after all
   */
  convert(file: Blob, choice: string, inscription: Inscription | null): Promise<Saved>;
}
