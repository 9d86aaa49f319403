/**
 * EXIF, XMP and the comment in JPEG files: segments before the pixels.
 * Reference: ITU-T T.81, annex B; XMP in APP1 as in ISO 16684-3.
 */
import { StudioError } from '../core/errors.ts';
import { join, latin1Bytes, startsWith, utf8, utf8Bytes, viewOf } from './bytes.ts';
import { damaged } from './damage.ts';
import { EXIF_PREFIX, readExif, writeExif } from './exif.ts';
import { MAX_PARTS, emptyMetadata } from './metadata.ts';
import type { Inscription, Metadata } from './metadata.ts';
import { writeXmp } from './xmp.ts';

const [SOI, EOI, SOS, APP0, APP1, COM] = [0xd8, 0xd9, 0xda, 0xe0, 0xe1, 0xfe];
const XMP_PREFIX = latin1Bytes('http://ns.adobe.com/xap/1.0/\0');
/** A segment's length has 16 bits and counts itself. */
const MAX_SEGMENT = 0xffff - 2;

interface Segment {
  marker: number;
  data: Uint8Array<ArrayBuffer>;
  /** With its marker and length. */
  bytes: Uint8Array<ArrayBuffer>;
}

/** @throws StudioError `image_unreadable` */
export function readJpeg(bytes: Uint8Array<ArrayBuffer>): Metadata {
  const metadata = emptyMetadata();
  for (const { marker, data } of segmentsOf(bytes).segments) {
    if (isExif({ marker, data })) {
      metadata.exif = readExif(data);
    } else if (isXmp({ marker, data })) {
      metadata.xmp ??= utf8(data.subarray(XMP_PREFIX.length));
    } else if (marker === COM) {
      metadata.comment ??= utf8(data).replace(/\0+$/, '');
    }
  }
  return metadata;
}

/** @throws StudioError `image_unreadable`, also when the inscription needs more than 64 KiB */
export function writeJpeg(bytes: Uint8Array<ArrayBuffer>, inscription: Inscription | null): Uint8Array<ArrayBuffer> {
  const { segments, rest } = segmentsOf(bytes);
  const kept = segments.filter((segment) => !isExif(segment) && !isXmp(segment) && segment.marker !== COM);
  // JFIF wants to be first.
  const jfif = kept[0]?.marker === APP0 ? kept.splice(0, 1) : [];
  const added = inscription
    ? [
        segmentBytes(APP1, join([EXIF_PREFIX, writeExif(inscription.software, inscription.parameters)])),
        segmentBytes(APP1, join([XMP_PREFIX, utf8Bytes(writeXmp(inscription))])),
      ]
    : [];
  return join([
    Uint8Array.of(0xff, SOI),
    ...jfif.map((segment) => segment.bytes),
    ...added,
    ...kept.map((segment) => segment.bytes),
    rest,
  ]);
}

function isExif({ marker, data }: Pick<Segment, 'marker' | 'data'>): boolean {
  return marker === APP1 && startsWith(data, EXIF_PREFIX);
}

function isXmp({ marker, data }: Pick<Segment, 'marker' | 'data'>): boolean {
  return marker === APP1 && startsWith(data, XMP_PREFIX);
}

/** The segments before the pixels; `rest` begins with the one that starts them. */
function segmentsOf(bytes: Uint8Array<ArrayBuffer>): { segments: Segment[]; rest: Uint8Array<ArrayBuffer> } {
  const view = viewOf(bytes);
  const segments: Segment[] = [];
  let position = 2;
  for (;;) {
    const start = position;
    if (bytes[position] !== 0xff) {
      throw damaged('JPEG', 'a segment does not begin where the one before ends');
    }
    // Any number of fill bytes may precede a marker.
    while (bytes[position] === 0xff) {
      position++;
    }
    const marker = bytes[position++];
    if (marker === SOS || marker === EOI) {
      return { segments, rest: bytes.subarray(start) };
    }
    if (position + 2 > bytes.length) {
      throw damaged('JPEG', 'it ends before its pixels');
    }
    const length = view.getUint16(position);
    if (length < 2 || length > bytes.length - position) {
      throw damaged('JPEG', `a segment claims ${length} bytes where ${bytes.length - position} are left`);
    }
    const end = position + length;
    segments.push({ marker, data: bytes.subarray(position + 2, end), bytes: bytes.subarray(start, end) });
    if (segments.length > MAX_PARTS) {
      throw damaged('JPEG', `it has more than ${MAX_PARTS} segments`);
    }
    position = end;
  }
}

function segmentBytes(marker: number, data: Uint8Array): Uint8Array<ArrayBuffer> {
  if (data.length > MAX_SEGMENT) {
    throw new StudioError(
      'image_unreadable',
      'The prompt is too long to be written into a JPEG file; save the picture as PNG or WebP.',
    );
  }
  const bytes = new Uint8Array(4 + data.length);
  const view = viewOf(bytes);
  view.setUint16(0, 0xff00 | marker);
  view.setUint16(2, 2 + data.length);
  bytes.set(data, 4);
  return bytes;
}
