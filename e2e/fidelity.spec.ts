/**
 * Golden pictures of the reference (diffusers on the CPU, f32), reproduced in the browser: same checkpoint, prompt, seed and settings. On wasm
 * nearly all of them; on WebGPU, where CI has a slow software GPU, what takes a way of its own. Prints the table of differences.
 */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { ARCHITECTURE_GOLDENS, ArchitectureFolders } from './fixtures/architectures.ts';
import {
  CHECKPOINTS,
  PIPELINE_GOLDENS,
  openDoor,
  openFile,
  openFolder,
  readGolden,
  runOperation,
  storeAddition,
  type Golden,
} from './fixtures/door.ts';
import { additionsOf } from '../test/architecture_checkpoints.ts';
import { originalLayoutFile } from '../test/weightless_checkpoints.ts';
import { asExpected } from '../test/golden_pixels.ts';
import { splitFlux1Gguf, splitZImage } from '../test/split_files.ts';
import { writeFiles, writeWeightless } from './fixtures/weightless.ts';

const LATENTS = 1e-3;
const PIXELS = 2;
const SHARE_WITHIN_ONE = 0.995;

/** Goldens with a LoRA would need it in the library, as in journeys/loras.spec.ts; test/architectures.test.ts compares them. */
const architectures = readdirSync(ARCHITECTURE_GOLDENS)
  .filter((name) => !name.endsWith('-lora'))
  .sort();
/** Of the other architectures, one for each operation; what Stable Diffusion 2 has of its own, its text encoder and its widths, is no kernel's. */
const ON_WEBGPU = [
  'bk-sdm-text',
  'control-sdxl-transform',
  'image-prompt-sdxl-text',
  'sd1-inpaint-06',
  'sdxl-inpaint-07',
  'sdxl-text',
  'ssd-1b-text',
];

const TRANSFORMER_GOLDENS = join(PIPELINE_GOLDENS, '..', 'transformers');
const ORIGINAL_LAYOUTS = join(PIPELINE_GOLDENS, '..', 'original_layouts');
const VIDEO_GOLDENS = join(PIPELINE_GOLDENS, '..', 'videos');
const SPLIT_FILES = join(PIPELINE_GOLDENS, '..', 'split_files');
/**
 * Left to Node: of FLUX.3 what differs in words and guidance alone; of networks that are shown pictures to edit at a megapixel, which takes seconds, all but one for each kind of checkpoint, and of
 * LTX-Video, of which a second pass wants another checkpoint stored, and whose decoder is a network for each stage, what differs only in words, lengths and levels.
 * Of masks what is the same arithmetic with other numbers.
 */
const NOT_HERE =
  /^(?:sd15-inpaint-(?:shrunk|nothing|noise|soft)|(?:sd3|z-image|qwen-image)-outpaint|z-image-turbo-inpaint|try-on|flux3-(?:batch|base|base-unguided)|qwen-edit-(?:german|plus|plus-two|2511)|ltx-(?:text|text-plain|text-long|text-single|picture-scaled|095-text|095-text-clean|095-last|distilled-text|distilled-ends|upsampled|upsampled-again|upsampled-only))$/;

/**
 * Of pipelines, flow transformers and videos what WebGPU runs in a way of its own: with those of the other architectures, one of each
 * architecture and operation, and one of each kernel. Samplers and schedules are numbers that one kernel is given, and types of weights are
 * read before the GPU has them, so wasm and Node tell those apart. Z-Image is compared in blocks (blocks.spec.ts).
 */
const ON_GPU = new Set([
  'sd15-defaults',
  'sd15-transform-euler-03',
  'sd15-inpaint-06',
  'sd15-hires-upscaler',
  'sd21-apg-rescaled',
  'flux2-klein-picture',
  'flux3-picture-sized',
  'sd35-skip-layers',
  'flux1-dev-transform',
  'qwen-image-german',
  'qwen-image-transform',
  'qwen-image-inpaint',
  'animatediff-picture-all',
  'wan-text-short',
  'wan21-flf2v-ends-plain',
  'ltx-text-single',
]);

/** The magnitude of latents from random networks that were given only noise. */
function spreadOf(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

const made = mkdtempSync(join(tmpdir(), 'darkroom-transformers-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

const goldens = [PIPELINE_GOLDENS, TRANSFORMER_GOLDENS, VIDEO_GOLDENS].flatMap((root) =>
  readdirSync(root)
    .sort()
    .map((name) => ({ root, name })),
);

for (const backend of ['wasm', 'webgpu'] as const) {
  test.describe(`on ${backend}`, () => {
    const rows: string[] = [];
    let page: Page;
    let opened = '';
    let folders: ArchitectureFolders;

    test.beforeAll(async ({ browser }) => {
      page = await (await browser.newContext()).newPage();
      await openDoor(page, backend);
      folders = new ArchitectureFolders();
    });

    test.afterAll(async () => {
      console.log(
        `\nDifferences from diffusers on ${backend} (latents: max abs; pixels: max of 255, share within 1)\n${rows.join('\n')}`,
      );
      await page.close();
      folders.remove();
    });

    /** @param limit of the latents */
    async function compare(golden: Golden, limit: number) {
      const { job, latents, pictures } = await runOperation(page, golden.operation);
      expect(job.error).toBeNull();
      expect(latents?.length).toBe(golden.latents.length);

      const worst = golden.latents.reduce(
        (most, value, i) => Math.max(most, Math.abs(value - (latents?.[i] ?? NaN))),
        0,
      );
      const rgb = asExpected(
        pictures.map(({ rgba }) => rgba),
        golden.pixels.length,
      );
      expect(rgb.length).toBe(golden.pixels.length);
      const differences = rgb.map((value, i) => Math.abs(value - golden.pixels[i]));
      const most = differences.reduce((a, b) => Math.max(a, b), 0);
      const share = differences.filter((difference) => difference <= 1).length / differences.length;
      rows.push(`${golden.name.padEnd(32)} ${worst.toExponential(2)}  ${most}  ${(share * 100).toFixed(2)} %`);

      expect(worst).toBeLessThanOrEqual(limit);
      expect(most).toBeLessThanOrEqual(PIXELS);
      expect(share).toBeGreaterThanOrEqual(SHARE_WITHIN_ONE);
    }

    const here = goldens.filter(({ name }) => (backend === 'wasm' ? !NOT_HERE.test(name) : ON_GPU.has(name)));
    for (const { root, name } of here) {
      test(name, async () => {
        const golden = readGolden(name, root);
        const isNamed = golden.operation.checkpoint !== undefined;
        if (!isNamed && opened !== golden.checkpoint) {
          await openFolder(
            page,
            root === PIPELINE_GOLDENS ? join(CHECKPOINTS, golden.checkpoint) : writeWeightless(made, golden.checkpoint),
          );
          opened = golden.checkpoint;
        }
        if (root === VIDEO_GOLDENS) {
          // Lossless, for comparison.
          golden.operation.parameters.format = 'zip';
        }
        await compare(golden, root === VIDEO_GOLDENS ? LATENTS * spreadOf(golden.latents) : LATENTS);
      });
    }

    // A software GPU is slow, and the folders are compared on it already.
    if (backend === 'wasm') {
      test('sd35 of one file', async () => {
        const golden = readGolden('sd35', ORIGINAL_LAYOUTS);
        const path = join(made, golden.checkpoint);
        writeFileSync(path, originalLayoutFile('sd35'));
        opened = await openFile(page, path);
        await compare(golden, LATENTS);
      });
    }

    if (backend === 'wasm') {
      test('flux1 in files of their own, its transformer a GGUF', async () => {
        const golden = readGolden('flux1-gguf', SPLIT_FILES);
        opened = await openFile(page, writeFiles(made, splitFlux1Gguf()));
        await compare(golden, LATENTS);
      });

      test('z-image in files of their own', async () => {
        const golden = readGolden('z-image', SPLIT_FILES);
        opened = await openFile(page, writeFiles(made, splitZImage()));
        await compare(golden, LATENTS);
      });
    }

    for (const name of backend === 'wasm' ? architectures : ON_WEBGPU) {
      test(`${name}, of another architecture`, async () => {
        const golden = readGolden(name, ARCHITECTURE_GOLDENS);
        const { checkpoint } = golden;
        if (opened !== checkpoint) {
          const path = folders.write(checkpoint);
          await (checkpoint.endsWith('.safetensors') ? openFile(page, path) : openFolder(page, path));
          opened = checkpoint;
        }
        for (const { name, file } of Object.values(additionsOf(golden.operation.parameters)).flat()) {
          await storeAddition(page, name, new Uint8Array(await file.arrayBuffer()));
        }
        const { latents } = golden;
        const mean = latents.reduce((sum, value) => sum + value, 0) / latents.length;
        const spread = Math.sqrt(latents.reduce((sum, value) => sum + (value - mean) ** 2, 0) / latents.length);
        await compare(golden, LATENTS * spread);
      });
    }
  });
}
