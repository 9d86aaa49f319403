/**
 * The chunks of a WAV file. Reference: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991), "RIFF" and
 * "WAVE"; RF64 in EBU Tech 3306.
 */
import { latin1, latin1Bytes, viewOf } from '../../formats/bytes.ts';
import { StudioError } from '../../core/errors.ts';

/** Chunks beside the samples. */
const MAX_CHUNKS = 1_000;
/** A program's placeholder for a length it does not know yet; in an RF64 the real one is in `ds64`. */
const UNKNOWN = 0xffffffff;
const HEADER = 12;

export interface Chunk {
  /** Four characters. */
  id: string;
  data: Uint8Array<ArrayBuffer>;
}

/** @throws StudioError `media_unreadable` */
export function chunksOf(bytes: Uint8Array<ArrayBuffer>): Chunk[] {
  const view = viewOf(bytes);
  const chunks: Chunk[] = [];
  let dataLength: number | null = null;
  for (let position = HEADER; position + 8 <= bytes.length;) {
    const id = latin1(bytes.subarray(position, position + 4));
    const claimed = view.getUint32(position + 4, true);
    const left = bytes.length - position - 8;
    const length = id === 'data' && claimed === UNKNOWN ? Math.min(dataLength ?? left, left) : claimed;
    if (length > left) {
      throw damagedSound(`a part of it claims ${length} bytes where ${left} are left`);
    }
    const data = bytes.subarray(position + 8, position + 8 + length);
    if (id === 'ds64' && length >= 16) {
      dataLength = Number(viewOf(data).getBigUint64(8, true));
    }
    chunks.push({ id, data });
    if (chunks.length > MAX_CHUNKS) {
      throw damagedSound(`it has more than ${MAX_CHUNKS} parts`);
    }
    // Each begins at an even place.
    position += 8 + length + (length % 2);
  }
  return chunks;
}

/**
 * A WAV file of these chunks, as parts for a Blob: samples are not copied.
 * @throws StudioError `media_unreadable` beyond a WAV's limit of 4 GiB
 */
export function wavOf(chunks: readonly { id: string; data: Uint8Array<ArrayBuffer> }[]): Uint8Array<ArrayBuffer>[] {
  const parts = chunks.flatMap(({ id, data }) => [
    header(id, data.length),
    data,
    ...(data.length % 2 === 1 ? [new Uint8Array(1)] : []),
  ]);
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  if (length > UNKNOWN) {
    throw new StudioError('media_unreadable', 'This sound is longer than a WAV file can be (4 GiB); save it as FLAC.');
  }
  return [header('RIFF', length), latin1Bytes('WAVE'), ...parts];
}

/** @param what completes "…, because"; no full stop */
export function damagedSound(what: string): StudioError {
  return new StudioError(
    'media_unreadable',
    `This sound cannot be read, because ${what}; use an undamaged copy of it.`,
  );
}

function header(id: string, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8);
  bytes.set(latin1Bytes(id));
  viewOf(bytes).setUint32(4, length, true);
  return bytes;
}
