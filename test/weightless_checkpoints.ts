/** The tiny checkpoints of `test/weightless`, whose weights are made here by the formula stated in their weights.json. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { folderContents, type Contents } from './checkpoint_folder.ts';
import { hashed } from './hashed_weights.ts';

const ROOT = join(import.meta.dirname, 'weightless');

interface HashedTensor {
  number: number;
  name: string;
  shape: number[];
  scale: number;
  add: number;
}

interface Weights {
  files: { path: string; tensors: HashedTensor[] }[];
}

/** The files of a checkpoint as it would be downloaded. */
export function weightlessContents(name: string): Contents {
  const contents = folderContents(join(ROOT, name));
  contents.delete('weights.json');
  const { files } = JSON.parse(readFileSync(join(ROOT, name, 'weights.json'), 'utf8')) as Weights;
  for (const { path, tensors } of files) {
    contents.set(path, safetensorsOf(tensors));
  }
  return contents;
}

/** A checkpoint of one file, of `test/original_layouts`; see `reference/mmdit_files.py`. */
export function originalLayoutFile(name: string): Uint8Array<ArrayBuffer> {
  const path = join(import.meta.dirname, 'original_layouts', `${name}.json`);
  const { tensors } = JSON.parse(readFileSync(path, 'utf8')) as { tensors: HashedTensor[] };
  return safetensorsOf(tensors);
}

function safetensorsOf(tensors: readonly HashedTensor[]): Uint8Array<ArrayBuffer> {
  return writeSafetensors(
    tensors.map(({ number, name, shape, scale, add }) => {
      const count = shape.reduce((product, dim) => product * dim, 1);
      return [name, { dims: shape, data: hashed(number, count, scale, add) }];
    }),
  );
}
