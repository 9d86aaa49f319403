/** Reads rows of an embedding table in place: a language model's table has gigabytes, and a prompt needs a few hundred rows. */
import type { StoredTensor } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { BYTES } from './conversion.ts';
import { BLOCKS, unpackBlocks } from './gguf_blocks.ts';
import { asFloats } from './quantise.ts';
import { applyScale, scaleCount } from './scaled_weights.ts';

/**
 * @param table [rows, width], or a tensor whose leading dimensions together are its rows
 * @param ids below the number of rows
 * @returns [ids.length, width]
 */
export async function readRows(
  files: Pick<CheckpointFiles, 'blob'>,
  table: StoredTensor,
  ids: ArrayLike<number>,
): Promise<Float32Array<ArrayBuffer>> {
  const width = table.shape.at(-1) as number;
  // A row is whole blocks, where the file keeps it in such.
  const bytes = table.blocks
    ? (width / BLOCKS[table.blocks].elements) * BLOCKS[table.blocks].bytes
    : width * BYTES[table.dtype];
  const blob = await files.blob(table.file);
  const scales = await scalesOf(files, table);
  const rows = new Map<number, Float32Array>();
  await Promise.all(
    neighbours(ids).map(async ([first, count]) => {
      const offset = table.offset + first * bytes;
      const part = blob.slice(offset, offset + count * bytes);
      const read = new Uint8Array(await part.arrayBuffer());
      const values = table.blocks ? unpackBlocks(read, table.blocks) : asFloats(read, table.dtype);
      if (scales) {
        applyScale(values, 0, width, scales.length === 1 ? scales : scales.subarray(first, first + count));
      }
      for (let row = 0; row < count; row++) {
        rows.set(first + row, values.subarray(row * width, (row + 1) * width));
      }
    }),
  );
  const all = new Float32Array(ids.length * width);
  Array.from(ids).forEach((id, at) => {
    all.set(rows.get(id) as Float32Array, at * width);
  });
  return all;
}

/** Of all rows, where the table has such. */
async function scalesOf(
  files: Pick<CheckpointFiles, 'blob'>,
  { scale }: StoredTensor,
): Promise<Float32Array<ArrayBuffer> | null> {
  if (!scale) {
    return null;
  }
  const { file, offset, dtype } = scale;
  const bytes = (await files.blob(file)).slice(offset, offset + scaleCount(scale) * BYTES[dtype]);
  return asFloats(new Uint8Array(await bytes.arrayBuffer()), dtype);
}

/** The distinct rows, in contiguous runs that are read together. */
function neighbours(ids: ArrayLike<number>): [first: number, count: number][] {
  const runs: [number, number][] = [];
  for (const id of [...new Set(Array.from(ids))].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && id === last[0] + last[1]) {
      last[1]++;
    } else {
      runs.push([id, 1]);
    }
  }
  return runs;
}
