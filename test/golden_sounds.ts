/** Makes sounds in Node the way a job does, for comparison with the reference's. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import * as chunk from '../chunks/output_audio_stable_audio.ts';
import * as chunk3 from '../chunks/output_audio_stable_audio_3.ts';
import type { Context, Outputs } from '../src/core/chunk.ts';
import type { CpuTensor, Sound } from '../src/core/media.ts';
import { readWav } from '../src/media/audio/wav.ts';
import { resampled } from '../src/media/audio/resampling.ts';
import { asSoundModel, openCheckpoint, type LoadedSoundModel } from '../src/models/family.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { goldenTensor, type GoldenCase } from './golden_pictures.ts';
import { greatestDifference, relativeDifference } from './fidelity/fidelity.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

export const SOUNDS = join(import.meta.dirname, 'goldens', 'sounds');
export const STABLE_AUDIO_3 = join(import.meta.dirname, 'goldens', 'stable_audio_3');

export interface SoundDifferences {
  /** Relative to the spread of the expected ones. */
  latents: number;
  /** Per sample; full scale is −1 to 1. */
  waveforms: number;
}

export async function openSoundModel(name: string, change?: (contents: Contents) => void): Promise<LoadedSoundModel> {
  const contents = weightlessContents(name);
  change?.(contents);
  return asSoundModel(await openCheckpoint(filesOf(name, contents), startNodeEngine().engine));
}

export interface Played {
  sounds: Sound[];
  latents: CpuTensor;
  notices: string[];
}

/** Runs the Stable Audio chunk. @param folder contains the file that `audio` names */
export function play(
  model: LoadedSoundModel,
  parameters: Record<string, unknown>,
  folder = '',
  more: Partial<Context> = {},
): Promise<Played> {
  return playChunk(chunk, { loadSoundModel: () => Promise.resolve(model) }, parameters, folder, more);
}

/** The same of the Stable Audio 3 chunk. */
export function play3(
  model: LoadedSoundModel,
  parameters: Record<string, unknown>,
  folder = '',
  more: Partial<Context> = {},
): Promise<Played> {
  return playChunk(chunk3, { loadSoundModel: () => Promise.resolve(model) }, parameters, folder, more);
}

/** Where operations name files of sounds. */
const SOUND_PARAMETERS = ['audio', 'reference_audio'];

/** Runs any chunk that makes sounds with a model. */
export async function playChunk<S extends v.GenericSchema>(
  {
    parameters: schema,
    execute,
  }: { parameters: S; execute: (input: v.InferOutput<S>, context: Context) => Promise<Outputs> },
  models: Partial<Context['models']>,
  parameters: Record<string, unknown>,
  folder: string,
  more: Partial<Context>,
): Promise<Played> {
  const recorded: Record<string, CpuTensor> = {};
  const notices: string[] = [];
  const context = {
    operation: 'audio_generation',
    checkpoint: '',
    models,
    readSound: (source: string, rate: number) =>
      Promise.resolve(resampled(readWav(readFileSync(join(folder, source.split(',')[1]))) as Sound, rate)),
    wants: () => true,
    record: () => Promise.resolve(''),
    recordBeside: () => undefined,
    recordTensors: (type: string, tensors: Record<string, CpuTensor>) => {
      Object.assign(recorded, tensors);
      return Promise.resolve(type);
    },
    progress: () => undefined,
    sound: () => undefined,
    notice: (sentence: string) => notices.push(sentence),
    keep: () => undefined,
    resume: null,
    signal: new AbortController().signal,
    ...more,
  } as unknown as Context;
  const given = SOUND_PARAMETERS.filter((name) => typeof parameters[name] === 'string').map((name) => [
    name,
    `data:audio/wav;base64,${parameters[name] as string}`,
  ]);
  const input = v.parse(schema, {
    operation: 'audio_generation',
    ...parameters,
    ...(Object.fromEntries(given) as Record<string, string>),
  });
  const { sounds } = (await execute(input, context)) as { sounds: Sound[] };
  return { sounds, latents: recorded.latents, notices };
}

/** Runs a case of `goldenCases(root)`. */
export async function soundDifferences(
  root: string,
  { name, checkpoint, config, parameters }: GoldenCase,
): Promise<SoundDifferences> {
  const model = await openSoundModel(checkpoint);
  const folder = join(root, name);
  const played = await (config === 'stable_audio_3' ? play3 : play)(model, parameters, folder);
  await model.release();
  return differencesOfSounds(played, new Uint8Array(readFileSync(join(folder, 'expected.safetensors'))));
}

/** @param expected a file of the reference's `latents` and `waveforms` */
export function differencesOfSounds({ sounds, latents }: Played, expected: Uint8Array<ArrayBuffer>): SoundDifferences {
  const waveforms = sounds.flatMap(({ channels }) => channels.flatMap((plane) => Array.from(plane)));
  return {
    latents: relativeDifference(latents.data, goldenTensor(expected, 'latents')),
    waveforms: greatestDifference(waveforms, goldenTensor(expected, 'waveforms')),
  };
}
