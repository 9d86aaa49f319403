/** Text files as saved by editors and shells: UTF-8, or as a byte order mark says. */
import { Failure } from './failure.js';
import { placeOf } from './json.js';

/** @type {readonly { encoding: 'UTF-8' | 'UTF-16LE' | 'UTF-16BE', mark: readonly number[] }[]} */
const MARKS = [
  { encoding: 'UTF-8', mark: [0xef, 0xbb, 0xbf] },
  { encoding: 'UTF-16LE', mark: [0xff, 0xfe] },
  { encoding: 'UTF-16BE', mark: [0xfe, 0xff] },
];

/**
 * @param {Uint8Array} bytes
 * @param {string} path for the message
 * @returns {{ text: string, encoding: 'UTF-8' | 'UTF-16LE' | 'UTF-16BE' }} the text without its byte order mark
 * @throws {Failure} `invalid_operation` for text in another encoding, which would silently lose characters
 */
export function decodeText(bytes, path) {
  const marked = MARKS.find(({ mark }) => mark.every((byte, i) => bytes[i] === byte));
  if (!marked && bytes.subarray(0, 2).includes(0)) {
    throw new Failure(
      'invalid_operation',
      `${path} looks like UTF-16 text without a byte order mark; save it as UTF-8.`,
    );
  }
  const { encoding } = marked ?? MARKS[0];
  try {
    return { text: new TextDecoder(encoding, { fatal: true }).decode(bytes), encoding };
  } catch {
    const text = new TextDecoder(encoding).decode(bytes);
    const place = placeOf(text, Math.max(0, text.indexOf('\ufffd')));
    throw new Failure('invalid_operation', `${path} is not ${encoding} text at ${place}; save it as UTF-8.`);
  }
}
