/** Songs made in Node, as a job makes them, and those that the reference made of the same. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as chunk from '../chunks/output_audio_ace_step.ts';
import type { Context } from '../src/core/chunk.ts';
import { asMusicModel, openCheckpoint, type LoadedMusicModel } from '../src/models/family.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import type { GoldenCase } from './golden_pictures.ts';
import { differencesOfSounds, playChunk, type Played, type SoundDifferences } from './golden_sounds.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

export const MUSIC = join(import.meta.dirname, 'goldens', 'music');

export async function openMusicModel(name: string, change?: (contents: Contents) => void): Promise<LoadedMusicModel> {
  const contents = weightlessContents(name);
  change?.(contents);
  return asMusicModel(await openCheckpoint(filesOf(name, contents), startNodeEngine().engine));
}

/** Runs the chunk. @param folder holds the files that are named where parameters are sounds */
export function perform(
  model: LoadedMusicModel,
  parameters: Record<string, unknown>,
  folder = '',
  more: Partial<Context> = {},
): Promise<Played> {
  return playChunk(chunk, { loadMusicModel: () => Promise.resolve(model) }, parameters, folder, more);
}

/** Runs a case of `goldenCases(MUSIC)`. */
export async function musicDifferences({ name, checkpoint, parameters }: GoldenCase): Promise<SoundDifferences> {
  const model = await openMusicModel(checkpoint);
  const played = await perform(model, parameters, join(MUSIC, name));
  await model.release();
  return differencesOfSounds(played, new Uint8Array(readFileSync(join(MUSIC, name, 'expected.safetensors'))));
}
