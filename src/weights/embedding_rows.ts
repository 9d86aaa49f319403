/** Rows of an embedding table, read where they lie: a language model's table is gigabytes, and a prompt needs a few hundred of its rows. */
import type { StoredTensor } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { BYTES } from './conversion.ts';
import { asFloats } from './quantise.ts';

/**
 * @param table [rows, width]
 * @param ids below the number of rows
 * @returns [ids.length, width]
 */
export async function readRows(
  files: Pick<CheckpointFiles, 'blob'>,
  table: StoredTensor,
  ids: ArrayLike<number>,
): Promise<Float32Array<ArrayBuffer>> {
  const [, width] = table.shape;
  const bytes = width * BYTES[table.dtype];
  const blob = await files.blob(table.file);
  const known = new Map<number, Promise<Float32Array>>();
  const row = async (id: number) => {
    const begin = table.offset + id * bytes;
    return asFloats(new Uint8Array(await blob.slice(begin, begin + bytes).arrayBuffer()), table.dtype);
  };
  const rows = Array.from(ids, (id) => {
    const asked = known.get(id) ?? row(id);
    known.set(id, asked);
    return asked;
  });
  const all = new Float32Array(ids.length * width);
  (await Promise.all(rows)).forEach((values, at) => {
    all.set(values, at * width);
  });
  return all;
}
