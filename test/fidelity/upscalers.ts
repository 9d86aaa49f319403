/** Enlarged pictures: every folder of test/goldens/upscalers, run in Node as the chunk runs them. */
import { asUpscaler, openCheckpoint } from '../../src/models/family.ts';
import type { PixelImage } from '../../src/core/media.ts';
import type { CheckpointFiles } from '../../src/weights/checkpoint_files.ts';
import { startNodeEngine } from '../node_engine.ts';
import { SHIPPED, shippedGolden, upscalerFiles, upscalerGoldens } from '../upscaler_goldens.ts';
import { greatestDifference, type FidelityArea, type FidelityCell } from './fidelity.ts';

async function difference(
  files: CheckpointFiles,
  picture: PixelImage,
  scale: number,
  expected: ArrayLike<number>,
): Promise<number> {
  const upscaler = asUpscaler(await openCheckpoint(files, startNodeEngine().engine));
  const request = { scale, tile_size: 256, signal: new AbortController().signal, onTile: () => undefined };
  const { data } = await upscaler.upscale(picture, request);
  await upscaler.release();
  const planes = [0, 1, 2].flatMap((c) => [...data.filter((_, i) => i % 4 === c)]);
  return greatestDifference(planes, expected);
}

const tiny = upscalerGoldens().map((golden): FidelityCell => ({
  at: [golden.name, golden.className === 'RRDBNet' ? 'RRDBNet' : 'SRVGGNetCompact', golden.about, `${golden.scale}`],
  difference: () =>
    difference(
      upscalerFiles(golden),
      golden.picture,
      golden.scale,
      Uint8ClampedArray.from(golden.expected, (value) => 255 * value),
    ),
}));

const shipped = shippedGolden();

export const areas: FidelityArea[] = [
  {
    title: 'Upscalers',
    about:
      "Against spandrel's classes, which chaiNNer and ComfyUI run such files with, on the CPU in f32 (`reference/upscalers.py`); `realesr-animevideov3` against the ncnn library over the files that it was converted from. The greatest difference of a colour, of 255, in Node's ONNX Runtime; `e2e/journeys/upscaling.spec.ts` holds the same cases in the browser.",
    columns: ['case', 'network', 'about', 'scale'],
    limit: 2,
    cells: [
      ...tiny,
      ...Array.from(shipped.expected, ([scale, expected]): FidelityCell => ({
        at: [`${SHIPPED}-x${scale}`, 'SRVGGNetCompact', 'the one that comes with the page', `${scale}`],
        difference: () => difference(shipped.files, shipped.picture, scale, expected),
      })),
    ],
  },
];
