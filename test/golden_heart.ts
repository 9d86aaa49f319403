/** Songs that HeartMuLa writes in Node, as a job makes them, and those that heartlib made of the same. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as chunk from '../chunks/output_audio_heartmula.ts';
import type { Context } from '../src/core/chunk.ts';
import type { CpuTensor, Sound } from '../src/core/media.ts';
import { asSongModel, openCheckpoint } from '../src/models/family.ts';
import type { HeartModel } from '../src/models/song_writing/heart_model.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { goldenTensor, goldenTokens, type GoldenCase } from './golden_pictures.ts';
import { greatestDifference, relativeDifference } from './fidelity/fidelity.ts';
import { playChunk, type Played } from './golden_sounds.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

export const SONGS = join(import.meta.dirname, 'goldens', 'heartmula');
export const HEART = 'tiny-heartmula';

/** Latents are kept of every so many frames and channels. */
const [EVERY_FRAME, EVERY_CHANNEL] = [4, 8];
const LATENT_WIDTH = 256;

export interface SongDifferences {
  /** How many codes are others. */
  codes: number;
  /** Relative to the spread of the expected ones. */
  latents: number;
  /** Per sample; full scale is −1 to 1. */
  waveforms: number;
}

export async function openHeart(
  change?: (contents: Contents) => void,
  engine = startNodeEngine().engine,
): Promise<HeartModel> {
  const contents = weightlessContents(HEART);
  change?.(contents);
  return asSongModel(await openCheckpoint(filesOf(HEART, contents), engine)) as HeartModel;
}

/** The same with another number for what ends a song. */
export function ending(at: number) {
  return (contents: Contents): void => {
    const path = 'gen_config.json';
    const signs = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, number>;
    contents.set(path, new TextEncoder().encode(JSON.stringify({ ...signs, audio_eos_id: at })));
  };
}

export function sing(
  model: HeartModel,
  parameters: Record<string, unknown>,
  more: Partial<Context> = {},
): Promise<Omit<Played, 'latents'> & { latents: CpuTensor; tokens: CpuTensor }> {
  const recorded: Record<string, CpuTensor> = {};
  const recordTensors = (type: string, tensors: Record<string, CpuTensor>) => {
    Object.assign(recorded, tensors);
    return Promise.resolve(type);
  };
  const keepPart = () => Promise.resolve();
  const models = { loadSongModel: () => Promise.resolve(model) };
  return playChunk(chunk, models, parameters, '', { recordTensors, keepPart, ...more }).then((played) => ({
    ...played,
    tokens: recorded.tokens,
  }));
}

/** What is kept of the latents of all parts, [parts, 744, 256]: those of the song itself. */
export function sparse(latents: readonly Float32Array[], frames: number): number[] {
  return latents.flatMap((part) => {
    const kept = Math.min(part.length / LATENT_WIDTH, 2 * frames);
    const values: number[] = [];
    for (let at = 0; at < kept; at += EVERY_FRAME) {
      for (let channel = 0; channel < LATENT_WIDTH; channel += EVERY_CHANNEL) {
        values.push(part[at * LATENT_WIDTH + channel]);
      }
    }
    return values;
  });
}

export function everyOf({ channels }: Sound, stride: number): number[] {
  return channels.flatMap((plane) => Array.from(plane).filter((_, i) => i % stride === 0));
}

/** Runs a case of `goldenCases(SONGS)`. */
export async function songDifferences({ name, parameters }: GoldenCase): Promise<SongDifferences> {
  const expected = new Uint8Array(readFileSync(join(SONGS, name, 'expected.safetensors')));
  const { ends, stride } = JSON.parse(readFileSync(join(SONGS, name, 'case.json'), 'utf8')) as {
    ends: number;
    stride: number;
  };
  const model = await openHeart(ending(ends));
  const { networks } = model;
  const flow = networks.sounds.flow.bind(networks.sounds);
  const latents: Float32Array[] = [];
  networks.sounds.flow = async (...given) => {
    const made = await flow(...given);
    latents.push(made);
    return made;
  };
  const { sounds, tokens } = await sing(model, parameters);
  await model.release();
  const codes = goldenTokens(expected, 'tokens');
  return {
    codes: codes.length === tokens.data.length ? tokens.data.filter((code, i) => code !== codes[i]).length : Infinity,
    latents: relativeDifference(sparse(latents, tokens.dims[1]), goldenTensor(expected, 'latents')),
    waveforms: greatestDifference(everyOf(sounds[0], stride), goldenTensor(expected, 'waveforms')),
  };
}
