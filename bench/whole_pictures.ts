/** Stable Diffusion at its full size, with weights of 4 bits that are made while they are read. */
import * as chunk from '../chunks/output_image_stable_diffusion.ts';
import type { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { stableDiffusionFiles, type Version } from '../test/stable_diffusion_checkpoint.ts';
import { controlNetShapes } from '../test/stable_diffusion_shapes.ts';
import { madeFile, madeFolder, type WholeCase } from './whole.ts';

/** What of the whole family differs in size. */
const PICTURES = {
  'sd-1.5': { version: 1, inputs: 4, isLed: false },
  'sd-1.5-controlnet': { version: 1, inputs: 4, isLed: true },
  sdxl: { version: 'XL', inputs: 4, isLed: false },
  'sdxl-inpainting': { version: 'XL', inputs: 9, isLed: false },
  'sdxl-controlnet': { version: 'XL', inputs: 4, isLed: true },
} as const satisfies Record<string, { version: Version; inputs: number; isLed: boolean }>;

export type WholePictureName = keyof typeof PICTURES;

export const pictureNames = Object.keys(PICTURES) as WholePictureName[];

const shapesIn = (shapes: Map<string, number[]>) => Array.from(shapes, ([name, shape]) => ({ name, shape }));
/** Whatever it holds, a picture is made up in its place. */
const GIVEN = 'data:image/png;base64,AAAA';
const WORDS = { prompt: 'a', seed: '1', steps: 1, guidance_scale: 5, width: 256, height: 256 };

export function pictureFiles(name: WholePictureName): FolderFiles {
  const { version, inputs } = PICTURES[name];
  return madeFolder(
    name,
    stableDiffusionFiles(version, inputs, (path, shapes) => madeFile(path, shapesIn(shapes))),
  );
}

export function pictureCase(name: WholePictureName): WholeCase {
  const { version, inputs, isLed } = PICTURES[name];
  const paints = inputs === 9;
  return {
    chunk: chunk as unknown as WholeCase['chunk'],
    operation: paints ? 'image_inpaint' : 'image_generation',
    parameters: {
      ...WORDS,
      ...(paints && { image: GIVEN, mask_image: GIVEN, strength: 1 }),
      ...(isLed && { controlnets: [{ controlnet: 'made', weight: 1 }], control_images: [GIVEN] }),
    },
    isPhased: true,
    ...(isLed && { additions: { controlnets: [{ file: controlNet(version === 1 ? 768 : 2048), name: 'made' }] } }),
  };
}

const controlNet = (context: number): File => madeFile('made', shapesIn(controlNetShapes(context)));
