/** Songs that HeartMuLa writes in the browser, on the processor and on the software GPU, against heartlib's. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { readWav } from '../src/media/audio/wav.ts';
import type { Sound } from '../src/core/media.ts';
import { greatestDifference } from '../test/fidelity/fidelity.ts';
import { openDoor, openFolder, tensorBytes } from './fixtures/door.ts';
import { writeWeightless } from './fixtures/weightless.ts';

const GOLDENS = join(import.meta.dirname, '..', 'test', 'goldens', 'heartmula');
const LIMIT = 1e-3;
/** The one that is used as the pipeline is, of 201 frames. */
const SONG = 'heartmula-song';
/** Without guidance, so that networks have a single row. */
const UNGUIDED = 'heartmula-unguided';
/** Guided, and over by itself after 19 frames: on the software GPU a song of 201 takes minutes. */
const SHORT = 'heartmula-ends';

interface Case {
  parameters: Record<string, unknown>;
  stride: number;
  /** The number of the token that ends a song, which a checkpoint's `gen_config.json` names. */
  ends: number;
}

type Files = [type: string, base64: string][];

const caseOf = (name: string, file: string) => JSON.parse(readFileSync(join(GOLDENS, name, file), 'utf8')) as Case;
const expectedOf = (name: string) => new Uint8Array(readFileSync(join(GOLDENS, name, 'expected.safetensors')));
const tokensOf = (file: Uint8Array) => Array.from(new Int32Array(tensorBytes(file, 'tokens').buffer));
const codesOf = (file: Uint8Array) => Array.from(new Float32Array(tensorBytes(file, 'tokens').buffer));
const bytesOf = (files: Files, type: string) =>
  new Uint8Array(Buffer.from(files.find(([own]) => own === type)?.[1] ?? '', 'base64'));

/** As the pipeline names lyrics and tags. */
function asked(name: string) {
  const { lyrics, tags, ...others } = caseOf(name, 'operation.json').parameters;
  const parameters = { ...others, TEXT_1: lyrics, TEXT_2: tags };
  return { operation: 'audio_generation', config: 'heartmula', parameters, record: ['latents'] };
}

const made = mkdtempSync(join(tmpdir(), 'darkroom-songs-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

/** @returns the checkpoint's folder */
function written(name: string, place: string): string {
  const folder = writeWeightless(join(made, place), 'tiny-heartmula');
  const file = join(folder, 'gen_config.json');
  const signs = JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>;
  writeFileSync(file, JSON.stringify({ ...signs, audio_eos_id: caseOf(name, 'case.json').ends }));
  return folder;
}

/** What an operation recorded. @param writes whether it is cancelled once the song is written */
async function recorded(
  page: Page,
  operation: unknown,
  writes = false,
): Promise<{ error: string | null; files: Files }> {
  return page.evaluate(
    async ([given, stops]) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const { id } = await door.submit(given);
      if (stops) {
        door.follow(id, ({ progress }) => {
          if (progress?.stage === 'decode') {
            void door.cancel(id);
          }
        });
      }
      const ended = await door.wait(id);
      const files: Files = [];
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
    },
    [operation, writes] as const,
  );
}

for (const name of [UNGUIDED, SONG]) {
  test(`${name} on the processor`, async ({ page }) => {
    await openDoor(page, 'wasm');
    await openFolder(page, written(name, name));
    const { error, files } = await recorded(page, asked(name));
    expect(error).toBeNull();
    const expected = expectedOf(name);
    expect(codesOf(bytesOf(files, 'latents'))).toEqual(tokensOf(expected));
    const { stride } = caseOf(name, 'case.json');
    const { channels } = readWav(bytesOf(files, 'output_audio')) as Sound;
    const samples = channels.flatMap((plane) => Array.from(plane).filter((_, i) => i % stride === 0));
    const waveforms = greatestDifference(samples, new Float32Array(tensorBytes(expected, 'waveforms').buffer));
    console.log(`${name}: ${tokensOf(expected).length} codes equal, waveforms ${waveforms.toExponential(2)}`);
    expect(waveforms).toBeLessThanOrEqual(LIMIT);
  });
}

test(`${SHORT} on the GPU, as far as it is written`, async ({ page }) => {
  await openDoor(page, 'webgpu');
  await openFolder(page, written(SHORT, 'gpu'));
  // On a software GPU the codec takes many minutes, so it is cancelled where that begins.
  const { files } = await recorded(page, asked(SHORT), true);
  const expected = tokensOf(expectedOf(SHORT));
  expect(codesOf(bytesOf(files, 'latents'))).toEqual(expected);
  console.log(`${SHORT}: ${expected.length} codes equal on the GPU`);
});
