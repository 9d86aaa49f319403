/** Small tensors that are read on the processor. */
import { StudioError } from '../../core/errors.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';

/** @param length of the whole tensor @throws StudioError `checkpoint_damaged` where it is missing, or has another length */
export async function storedNumbers(
  files: Pick<CheckpointFiles, 'blob'>,
  { name: part, weights }: Component,
  name: string,
  length: number,
): Promise<Float32Array<ArrayBuffer>> {
  const tensor = weights.get(name);
  const size = tensor?.shape.reduce((product, dim) => product * dim, 1);
  if (!tensor || size !== length) {
    throw new StudioError(
      'checkpoint_damaged',
      `"${name}" of the ${part} is missing or has another length than its config.json says; download the checkpoint again.`,
    );
  }
  const rows = size / (tensor.shape.at(-1) ?? 1);
  return readRows(
    files,
    tensor,
    Array.from({ length: rows }, (_, row) => row),
  );
}
