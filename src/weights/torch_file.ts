/**
 * A tensor that was saved alone by `torch.save`: a ZIP whose files are stored as they are, the numbers in one of them. Its pickle, which could run
 * code, is only looked through for the words that say type and shape.
 * Reference: torch/serialization.py, torch/_utils.py (_rebuild_tensor_v2); PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16
 */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor, StoredType } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { BYTES } from './conversion.ts';

const TYPES: Partial<Record<string, StoredType>> = { Float: 'F32', Half: 'F16', BFloat16: 'BF16', Double: 'F64' };

const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const [LOCAL_SIZE, CENTRAL_SIZE, END_SIZE] = [30, 46, 22];
/** More than the pickle and the list of files of a single tensor take. */
const MOST_TEXT = 65_536;

interface Entry {
  name: string;
  offset: number;
  length: number;
}

/**
 * @param name what the tensor is to be called
 * @throws StudioError `checkpoint_damaged` for anything but one contiguous tensor of floats
 */
export async function readTorchTensor(
  files: Pick<CheckpointFiles, 'blob'>,
  file: string,
  name: string,
): Promise<StoredTensor> {
  const blob = await files.blob(file);
  const bytesOf = async (start: number, end: number) =>
    new Uint8Array(await blob.slice(Math.max(0, start), end).arrayBuffer());
  const entries = await entriesOf(blob.size, bytesOf);
  const pickle = entries?.find((entry) => entry.name.endsWith('/data.pkl'));
  const numbers = entries?.filter((entry) => /\/data\/[^/]+$/.test(entry.name)) ?? [];
  if (pickle && pickle.length <= MOST_TEXT && numbers.length === 1) {
    const [{ offset, length }] = numbers;
    const told = read(await bytesOf(pickle.offset, pickle.offset + pickle.length));
    if (told && told.shape.reduce((product, dim) => product * dim, BYTES[told.dtype]) === length) {
      return { name, ...told, file, offset, length };
    }
  }
  throw new StudioError('checkpoint_damaged', `${file} is not the one tensor that it should be; download it again.`);
}

/** The files of an archive, where none is compressed; null for what is no such archive. */
async function entriesOf(
  size: number,
  bytesOf: (start: number, end: number) => Promise<Uint8Array<ArrayBuffer>>,
): Promise<Entry[] | null> {
  const tail = viewOf(await bytesOf(size - END_SIZE, size));
  if (tail.byteLength < END_SIZE || tail.getUint32(0, true) !== END) {
    return null;
  }
  const [length, start] = [tail.getUint32(12, true), tail.getUint32(16, true)];
  if (length > MOST_TEXT || start + length > size) {
    return null;
  }
  const central = await bytesOf(start, start + length);
  const entries: Entry[] = [];
  for (let at = 0; at + CENTRAL_SIZE <= central.length;) {
    const view = viewOf(central, at);
    const [method, stored] = [view.getUint16(10, true), view.getUint32(20, true)];
    const [named, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(offset, true));
    if (view.getUint32(0, true) !== CENTRAL || method !== 0) {
      return null;
    }
    const header = view.getUint32(42, true);
    const local = viewOf(await bytesOf(header, header + LOCAL_SIZE));
    if (local.byteLength < LOCAL_SIZE || local.getUint32(0, true) !== LOCAL) {
      return null;
    }
    // Padded by torch, so that the numbers are aligned: the two headers' extra fields differ.
    const offset = header + LOCAL_SIZE + local.getUint16(26, true) + local.getUint16(28, true);
    if (offset + stored > size) {
      return null;
    }
    const name = new TextDecoder().decode(central.subarray(at + CENTRAL_SIZE, at + CENTRAL_SIZE + named));
    entries.push({ name, offset, length: stored });
    at += CENTRAL_SIZE + named + extra + comment;
  }
  return entries;
}

/** Type and shape; null for a tensor that is a view of other numbers. */
function read(pickle: Uint8Array<ArrayBuffer>): { dtype: StoredType; shape: number[] } | null {
  const text = String.fromCharCode(...pickle);
  const dtype = TYPES[/ctorch\n(\w+)Storage\n/.exec(text)?.[1] ?? ''];
  // After the storage follow its first element, the sizes and the strides, as two tuples.
  const storage = text.indexOf('Q', text.indexOf('Storage\n'));
  if (!dtype || storage < 0) {
    return null;
  }
  const [first, ...dims] = numbersFrom(viewOf(pickle, storage + 1));
  const [shape, strides] = [dims.slice(0, dims.length / 2), dims.slice(dims.length / 2)];
  const isContiguous = strides.every(
    (stride, at) => stride === shape.slice(at + 1).reduce((product, dim) => product * dim, 1),
  );
  return first === 0 && shape.length === strides.length && isContiguous ? { dtype, shape } : null;
}

/** The integers that are put on the stack up to the first other thing than tuples of them and memos. */
function numbersFrom(view: DataView<ArrayBuffer>): number[] {
  const numbers: number[] = [];
  for (let at = 0; at < view.byteLength;) {
    const code = String.fromCharCode(view.getUint8(at));
    if (code === 'K') {
      numbers.push(view.getUint8(at + 1));
      at += 2;
    } else if (code === 'M') {
      numbers.push(view.getUint16(at + 1, true));
      at += 3;
    } else if (code === 'J') {
      numbers.push(view.getInt32(at + 1, true));
      at += 5;
    } else if (code === 'q') {
      at += 2;
    } else if (/[(t\x85-\x87]/.test(code)) {
      at += 1;
    } else {
      break;
    }
  }
  return numbers;
}

function viewOf(bytes: Uint8Array<ArrayBuffer>, offset = 0): DataView<ArrayBuffer> {
  return new DataView(bytes.buffer, bytes.byteOffset + offset, bytes.byteLength - offset);
}
