/** Songs that HeartMuLa writes in the browser, on the processor and on the software GPU, against heartlib's. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
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

interface Case {
  parameters: Record<string, unknown>;
  stride: number;
}

const made = mkdtempSync(join(tmpdir(), 'darkroom-songs-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

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
  for (const name of [UNGUIDED, SONG]) {
    test(`${name} on ${backend}`, async ({ page }) => {
      await openDoor(page, backend);
      await openFolder(page, writeWeightless(join(made, backend), 'tiny-heartmula'));
      const json = (file: string) => JSON.parse(readFileSync(join(GOLDENS, name, file), 'utf8')) as Case;
      const { parameters } = json('operation.json');
      const { lyrics, tags, ...others } = parameters;
      const { error, files } = await recorded(page, {
        operation: 'audio_generation',
        config: 'heartmula',
        parameters: { ...others, TEXT_1: lyrics, TEXT_2: tags },
        record: ['latents'],
      });
      expect(error).toBeNull();
      const bytes = (type: string) =>
        new Uint8Array(Buffer.from(files.find(([own]) => own === type)?.[1] ?? '', 'base64'));
      const expected = new Uint8Array(readFileSync(join(GOLDENS, name, 'expected.safetensors')));
      const tokens = Array.from(new Float32Array(tensorBytes(bytes('latents'), 'tokens').buffer));
      expect(tokens).toEqual(Array.from(new Int32Array(tensorBytes(expected, 'tokens').buffer)));
      const { stride } = json('case.json');
      const { channels } = readWav(bytes('output_audio')) as Sound;
      const samples = channels.flatMap((plane) => Array.from(plane).filter((_, i) => i % stride === 0));
      const waveforms = greatestDifference(samples, new Float32Array(tensorBytes(expected, 'waveforms').buffer));
      console.log(`${name} on ${backend}: ${tokens.length} codes equal, waveforms ${waveforms.toExponential(2)}`);
      expect(waveforms).toBeLessThanOrEqual(LIMIT);
    });
  }
}
