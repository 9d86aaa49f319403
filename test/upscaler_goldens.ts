/** The upscaled pictures of `reference/upscalers.py`: tiny networks with formula weights, and the one that comes with the page. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { PixelImage } from '../src/core/media.ts';
import { FolderFiles, type CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { folderFiles } from './checkpoint_folder.ts';
import { hashed } from './hashed_weights.ts';
import { readTensors } from './onnx_node.ts';
import { pngPixels } from '../src/package/node_picture.ts';

const ROOT = join(import.meta.dirname, 'goldens', 'upscalers');
export const SHIPPED = 'realesr-animevideov3';

export interface UpscalerGolden {
  name: string;
  about: string;
  className: string;
  scale: number;
  /** The bytes of its `.safetensors`. */
  file: Uint8Array<ArrayBuffer>;
  picture: PixelImage;
  /** [3, scale·height, scale·width] around [0, 1]. */
  expected: Float32Array;
}

type Row = [number: number, name: string, shape: number[], scale: number, add: number];

export function upscalerGoldens(): UpscalerGolden[] {
  return readdirSync(ROOT)
    .filter((name) => name !== SHIPPED)
    .sort()
    .map((name) => {
      const golden = JSON.parse(readFileSync(join(ROOT, name, 'case.json'), 'utf8')) as {
        about: string;
        class: string;
        scale: number;
        width: number;
        height: number;
        tensors: Row[];
      };
      const { about, scale, width, height, tensors } = golden;
      const file = writeSafetensors(
        tensors.map(([number, tensor, shape, size, add]) => {
          const count = shape.reduce((product, dim) => product * dim, 1);
          return [tensor, { dims: shape, data: hashed(number, count, size, add) }];
        }),
      );
      const expected = readTensors(join(ROOT, name, 'expected.safetensors')).get('image')?.data as Float32Array;
      return { name, about, className: golden.class, scale, file, picture: formulaPicture(width, height), expected };
    });
}

/** The file of a golden as a person opens it. */
export function upscalerFiles({ name, file }: Pick<UpscalerGolden, 'name' | 'file'>): CheckpointFiles {
  const path = `${name}.safetensors`;
  return new FolderFiles(path, [{ path, file: new File([file], path) }]);
}

/** The ncnn library's result for a picture with the weights that come with the page, by scale: [3, height, width]. */
export function shippedGolden(): { files: CheckpointFiles; picture: PixelImage; expected: Map<number, Uint8Array> } {
  const folder = join(ROOT, SHIPPED);
  const bytes = readFileSync(join(folder, 'expected.safetensors'));
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const expected = [4, 3, 2].map((scale): [number, Uint8Array] => {
    const [from, to] = header[`x${scale}`].data_offsets;
    return [scale, Uint8Array.from(bytes.subarray(8 + length + from, 8 + length + to))];
  });
  return {
    files: folderFiles(join(import.meta.dirname, '..', 'public', 'checkpoints', SHIPPED)),
    picture: pngPixels(readFileSync(join(folder, 'image.png'))),
    expected: new Map(expected),
  };
}

/** Tensor 0 of the formula, as bytes. */
function formulaPicture(width: number, height: number): PixelImage {
  const planes = hashed(0, 3 * width * height, 0.5, 0.5);
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < width * height; i++) {
      data[4 * i + c] = 255 * planes[c * width * height + i];
    }
  }
  return { width, height, data };
}
