/**
 * A picture file's metadata, the same for PNG, WebP, JPEG and GIF.
 * Files come from anywhere: lengths are verified, and work and memory are bounded.
 */
/** The most bytes of a text once decompressed; longer ones are skipped. */
export const MAX_TEXT = 2 ** 20;
/** The same for all texts of a file together, including skipped ones, to bound decompression. */
export const MAX_TEXTS = 8 * MAX_TEXT;
/** Chunks or segments beside the pixels. */
export const MAX_PARTS = 1_000;

export interface Metadata {
  /** PNG text chunks by keyword; the first of each counts. */
  texts: Map<string, string>;
  /** Text values of EXIF, by tag; see {@link ExifTag}. */
  exif: Map<number, string>;
  xmp: string | null;
  /** Of a JPEG or a GIF. */
  comment: string | null;
}

/** What is written into a saved or recorded picture. */
export interface Inscription {
  /** The infotext: PNG text `parameters`, a GIF's comment, else EXIF UserComment. */
  parameters: string;
  /** Our JSON, ASCII only: PNG text `darkroom`, a GIF's comment, else in the XMP. */
  darkroom: string;
  /** Name and version of the program. */
  software: string;
  /** Whether an existing picture was edited rather than a new one made; for the label of its origin. */
  isComposite: boolean;
}

export function emptyMetadata(): Metadata {
  return { texts: new Map(), exif: new Map(), xmp: null, comment: null };
}
