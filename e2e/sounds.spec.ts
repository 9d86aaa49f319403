/** Every golden sound of the reference (diffusers on the CPU, f32), reproduced in the browser on the processor, and one of each family on the software GPU. */
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { greatestDifference, relativeDifference } from '../test/fidelity/fidelity.ts';
import { readWav } from '../src/media/audio/wav.ts';
import { openDoor, openFolder, tensorBytes } from './fixtures/door.ts';
import { writeWeightless } from './fixtures/weightless.ts';

const GOLDENS = ['sounds', 'stable_audio_3', 'music'].map((name) =>
  join(import.meta.dirname, '..', 'test', 'goldens', name),
);
const LIMIT = 1e-3;
/** From a sound and with guidance, so that every network runs. */
const ON_GPU = ['stable-audio-sound', 'stable-audio-3-guided-sound', 'ace-step-cover'];
/** Of ACE-Step those that together run everything; the others run in Node (`test/fidelity/sounds.ts`). */
const SONGS = ['ace-step-cover', 'ace-step-guided', 'ace-step-voice'];

interface Case {
  name: string;
  folder: string;
  checkpoint: string;
  operation: string;
  config: string;
  parameters: Record<string, unknown>;
}

const cases = GOLDENS.flatMap((root) =>
  readdirSync(root)
    .sort()
    .map((name): Case => {
      const folder = join(root, name);
      const json = (file: string) => JSON.parse(readFileSync(join(folder, file), 'utf8')) as Case;
      return { ...json('operation.json'), checkpoint: json('case.json').checkpoint, name, folder };
    }),
);

const floats = (file: Uint8Array, name: string) => new Float32Array(tensorBytes(file, name).buffer);

const made = mkdtempSync(join(tmpdir(), 'darkroom-sounds-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

/** What an operation recorded: files as base64, by type, in order. */
async function recorded(page: Page, operation: unknown): Promise<{ error: string | null; files: [string, string][] }> {
  return page.evaluate(async (given) => {
    const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
    const ended = await door.wait((await door.submit(given)).id);
    const files: [string, string][] = [];
    for (const { type, filename } of ended.entities) {
      const blob = ended.run === null ? null : await door.entity(ended.run, filename);
      if (blob && (type === 'output_audio' || type === 'latents')) {
        let text = '';
        for (const byte of new Uint8Array(await blob.arrayBuffer())) {
          text += String.fromCharCode(byte);
        }
        files.push([type, btoa(text)]);
      }
    }
    return { error: ended.error?.message ?? null, files };
  }, operation);
}

for (const backend of ['wasm', 'webgpu'] as const) {
  test.describe(`on ${backend}`, () => {
    const rows: string[] = [];
    let page: Page;
    let opened = '';

    test.beforeAll(async ({ browser }) => {
      page = await (await browser.newContext()).newPage();
      await openDoor(page, backend);
    });

    test.afterAll(async () => {
      console.log(
        `\nDifferences from diffusers on ${backend} (latents: of their spread; waveforms)\n${rows.join('\n')}`,
      );
      await page.close();
    });

    for (const one of cases.filter(({ name }) =>
      backend === 'wasm' ? !name.startsWith('ace-step') || SONGS.includes(name) : ON_GPU.includes(name),
    )) {
      test(one.name, async () => {
        const { name, folder, checkpoint, operation, config, parameters } = one;
        if (opened !== checkpoint) {
          await openFolder(page, writeWeightless(made, checkpoint));
          opened = checkpoint;
        }
        const given = Object.entries(parameters).filter(([, value]) => /\.wav$/.test(String(value)));
        const sounds = given.map(([key, file]) => [
          key,
          `data:audio/wav;base64,${readFileSync(join(folder, String(file))).toString('base64')}`,
        ]);
        const asked = {
          operation,
          config,
          parameters: { ...parameters, ...(Object.fromEntries(sounds) as Record<string, string>) },
          record: ['latents'],
        };
        const { error, files } = await recorded(page, asked);
        expect(error).toBeNull();
        const bytes = (type: string) =>
          files.filter(([own]) => own === type).map(([, text]) => new Uint8Array(Buffer.from(text, 'base64')));
        const expected = new Uint8Array(readFileSync(join(folder, 'expected.safetensors')));
        const samples = bytes('output_audio').flatMap((wav) =>
          (readWav(wav)?.channels ?? []).flatMap((plane) => Array.from(plane)),
        );
        const [latents, waveforms] = [
          relativeDifference(floats(bytes('latents')[0], 'latents'), floats(expected, 'latents')),
          greatestDifference(samples, floats(expected, 'waveforms')),
        ];
        rows.push(`${name.padEnd(32)} ${latents.toExponential(2)}  ${waveforms.toExponential(2)}`);
        expect(latents).toBeLessThanOrEqual(LIMIT);
        expect(waveforms).toBeLessThanOrEqual(LIMIT);
      });
    }
  });
}
