/** The tiny checkpoints of `test/weightless`, whose weights are made here by the formula that their weights.json states. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { folderContents, type Contents } from './checkpoint_folder.ts';
import { hashed } from './hashed_weights.ts';

const ROOT = join(import.meta.dirname, 'weightless');

interface Weights {
  files: { path: string; tensors: { number: number; name: string; shape: number[]; scale: number; add: number }[] }[];
}

/** The files of a checkpoint as it would be downloaded. */
export function weightlessContents(name: string): Contents {
  const contents = folderContents(join(ROOT, name));
  contents.delete('weights.json');
  const { files } = JSON.parse(readFileSync(join(ROOT, name, 'weights.json'), 'utf8')) as Weights;
  for (const { path, tensors } of files) {
    const made = tensors.map(({ number, name: tensor, shape, scale, add }) => {
      const count = shape.reduce((product, dim) => product * dim, 1);
      return [tensor, { dims: shape, data: hashed(number, count, scale, add) }] as const;
    });
    contents.set(path, writeSafetensors(made.map(([tensor, values]) => [tensor, values])));
  }
  return contents;
}
