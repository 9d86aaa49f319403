/**
 * Transforming a weight file piece by piece as it arrives, such as quantising it, and assembling the stored pieces into the file the
 * engine reads. Everything is derived from the file's header, so it can be rebuilt at any time.
 */
export interface PieceTransform {
  /** Source offsets where pieces end, ascending, the last = file size; each piece <= 16 MiB. */
  cuts: number[];
  /** Source bytes of piece n -> what is stored. The same bytes give the same result. */
  apply(n: number, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
  /** The stored file as Darkroom reads it: its parts in order, each a literal or a range of a stored piece. */
  layout: ({ bytes: Uint8Array<ArrayBuffer> } | { piece: number; begin: number; end: number })[];
}

/**
 * @param path the file's, in its checkpoint
 * @param header its first 8 + n bytes: the length and the JSON of a safetensors file
 * @param fileSize bytes of the whole file
 * @returns null for a file that is kept as it is
 */
export type TransformMaker = (path: string, header: Uint8Array<ArrayBuffer>, fileSize: number) => PieceTransform | null;

/** The maker of each variant that is not `full`; `src/weights/quantise.ts` exports `transformMakers` of this type. */
export type TransformMakers = Record<'q8' | 'q4', TransformMaker>;

/** Bytes of the stored file as it will be read. */
export function layoutSize({ layout }: PieceTransform): number {
  return layout.reduce((sum, part) => sum + ('bytes' in part ? part.bytes.length : part.end - part.begin), 0);
}
