/**
 * SentencePiece's own file, `spiece.model`, read as far as T5's tokenizer needs it.
 * Reference: sentencepiece/src/sentencepiece_model.proto
 */
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { StudioError } from '../core/errors.ts';

export interface SentencePieceFile {
  pieces: [piece: string, score: number][];
  /** Id of the piece for what has none. */
  unknown: number;
  /** See `precompiled_rules.ts`; empty where the text is taken as it is. */
  charsmap: Uint8Array;
}

/** ModelProto, its SentencePiece and its NormalizerSpec. */
const PIECES = 1;
const NORMALIZER = 3;
const PIECE = 1;
const SCORE = 2;
const TYPE = 3;
const CHARSMAP = 2;
const UNKNOWN = 2;

/** @throws StudioError `checkpoint_damaged` */
export function readSentencePieceFile(bytes: Uint8Array): SentencePieceFile {
  const file: SentencePieceFile = { pieces: [], unknown: -1, charsmap: new Uint8Array() };
  try {
    eachField(bytes, (number, reader) => {
      if (number === PIECES) {
        const { piece, score, type } = readPiece(reader.bytes());
        if (type === UNKNOWN) {
          file.unknown = file.pieces.length;
        }
        file.pieces.push([piece, score]);
        return true;
      }
      if (number === NORMALIZER) {
        eachField(reader.bytes(), (inner, part) => {
          if (inner !== CHARSMAP) {
            return false;
          }
          file.charsmap = part.bytes();
          return true;
        });
        return true;
      }
      return false;
    });
  } catch (cause) {
    throw damaged(cause);
  }
  if (file.unknown < 0) {
    throw damaged();
  }
  return file;
}

function readPiece(bytes: Uint8Array): { piece: string; score: number; type: number } {
  const read = { piece: '', score: 0, type: 1 };
  eachField(bytes, (number, reader) => {
    if (number === PIECE) {
      read.piece = reader.string();
    } else if (number === SCORE) {
      read.score = reader.float();
    } else if (number === TYPE) {
      read.type = reader.int32();
    } else {
      return false;
    }
    return true;
  });
  return read;
}

/** @param take reads a field's value, or returns false to have it passed over */
function eachField(bytes: Uint8Array, take: (number: number, reader: BinaryReader) => boolean): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (type === WireType.EndGroup || !take(number, reader)) {
      reader.skip(type, number);
    }
  }
}

function damaged(cause?: unknown): StudioError {
  const message = 'The file spiece.model of this checkpoint is damaged; get it again.';
  return new StudioError('checkpoint_damaged', message, { cause });
}
