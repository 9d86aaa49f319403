/**
 * What a picture file says beside its pixels, and what is written there: the same in PNG, WebP and JPEG.
 * Files come from anywhere: lengths are checked before they are believed, and work and memory have limits.
 */
/** One text is at most this many bytes, decompressed; a longer one is left out. */
export const MAX_TEXT = 2 ** 20;
/** All texts of a file together, left out ones included: what decompressing may cost. */
export const MAX_TEXTS = 8 * MAX_TEXT;
/** Chunks or segments beside the pixels. */
export const MAX_PARTS = 1_000;

export interface Metadata {
  /** PNG text chunks by keyword; the first of each counts. */
  texts: Map<string, string>;
  /** Text values of EXIF, by tag; see {@link ExifTag}. */
  exif: Map<number, string>;
  xmp: string | null;
  /** A JPEG comment. */
  comment: string | null;
}

/** What is written into a picture that leaves or is recorded. */
export interface Inscription {
  /** The infotext: PNG text `parameters`, else EXIF UserComment. */
  parameters: string;
  /** Our JSON, ASCII only: PNG text `darkroom`, else in the XMP. */
  darkroom: string;
  /** Name and version of the program. */
  software: string;
  /** Whether a given picture was changed, and not one made from nothing: for the label of its origin. */
  isComposite: boolean;
}

export function emptyMetadata(): Metadata {
  return { texts: new Map(), exif: new Map(), xmp: null, comment: null };
}
