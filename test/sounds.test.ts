/**
 * Stable Audio on the processor: decoding in pieces, refusals, metadata. Its sounds are compared with the reference's in
 * `test/fidelity/sounds.ts`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import * as chunk from '../chunks/output_audio_stable_audio.ts';
import { noiseWithMotion } from '../src/core/noise_sources.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { openSoundModel, play } from './golden_sounds.ts';
import * as oobleck from '../src/graphs/autoencoder_oobleck.ts';
import { resampled } from '../src/media/audio/resampling.ts';
import { StudioError } from '../src/core/errors.ts';
import type { Contents } from './checkpoint_folder.ts';
import { isMusical, isSounding, isWriting, openModel } from '../src/models/family.ts';
import type { StableAudioModel } from '../src/models/sound_diffusion/stable_audio_model.ts';
import { stableAudioTold } from '../src/weights/stable_audio_layout.ts';
import { filesOf } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const NAME = 'tiny-stable-audio';
const AUTHORS = 'tiny-stable-audio-authors';
const TEXT = { prompt: 'rain on a roof', seconds: 0.4, steps: 2, guidance_scale: 2, seed: '5' };

describe('pieces', () => {
  const nobody = { signal: new AbortController().signal, onPart: () => undefined };

  test.each(['tiny-stable-audio', 'tiny-stable-audio-mono'])('of %s are what the whole is', async (name) => {
    const { sounds, config } = ((await openSoundModel(name)) as StableAudioModel).networks;
    const overlap = oobleck.overlapOf(sounds.config);
    const { hop, channels } = sounds;
    const length = config.sample_size;
    const random = noiseWithMotion('1');
    const latents = random.ofStart([1, channels, 1, length]);
    const planes = Array.from({ length: sounds.config.audio_channels }, (_, n) =>
      random.ofStart([1, 1, 1, length * hop]).map((value) => (value * (n + 1)) / 8),
    );
    const parts: number[] = [];
    const run = async (piece: number) => {
      sounds.piece = piece;
      const decoded = await sounds.decode(latents, 0, length * hop, { ...nobody, onPart: (_, all) => parts.push(all) });
      return { decoded, encoded: await sounds.encode(planes, nobody) };
    };
    const whole = await run(length);
    const inPieces = await run(2 * overlap + 9);
    expect(parts[0]).toBe(1);
    expect(parts.at(-1)).toBeGreaterThan(2);
    const [decoded, encoded] = [
      Math.max(...whole.decoded.map((plane, n) => greatestDifference(inPieces.decoded[n], plane))),
      greatestDifference(inPieces.encoded, whole.encoded),
    ];
    console.log(`${name}: decoded in pieces ${decoded.toExponential(1)}, encoded ${encoded.toExponential(1)}`);
    expect(decoded).toBeLessThanOrEqual(1e-4);
    expect(encoded).toBeLessThanOrEqual(1e-4);
    // A part of it needs only the pieces it overlaps, and is the same.
    const [from, until] = [3 * hop + 5, 7 * hop - 3];
    const part = await sounds.decode(latents, from, until, nobody);
    part.forEach((plane, n) => {
      expect(greatestDifference(plane, whole.decoded[n].subarray(from, until))).toBeLessThanOrEqual(1e-4);
    });
  });
});

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    const { summary, form } = await openSoundModel(NAME);
    expect(form).toEqual({ rate: 8000, channels: 2, seconds: 1.152 });
    expect(summary).toMatchObject({
      pipelineClass: 'StableAudioPipeline',
      seconds: 1.152,
      takesLoras: false,
      variants: ['full', 'q8', 'q4'],
      defaults: { width: 72, height: 1, prediction_type: 'v_prediction' },
    });
    expect(summary.needs).toEqual(
      expect.arrayContaining(['projection_model/diffusion_pytorch_model.safetensors', 'tokenizer/tokenizer.json']),
    );
  });

  test('is planned: weights that are there, more with guidance and with a sound to start from', async () => {
    const model = await openSoundModel(NAME);
    const request = {
      operation: 'audio_generation',
      width: 72,
      height: 1,
      batch_size: 1,
      steps: 10,
      guidance_scale: 1,
    };
    const circumstances = {
      device: startNodeEngine().engine.report,
      budget: { bytes: 2 ** 30, source: 'set' as const },
      rates: { measured: { f32: 1e9 }, pictures: {} },
      downloadBytes: 0,
    };
    const plain = await model.estimate(request, circumstances);
    const guided = await model.estimate({ ...request, guidance_scale: 7 }, circumstances);
    const given = await model.estimate({ ...request, fromSound: true }, circumstances);
    const half = await model.estimate({ ...request, fromSound: true, strength: 0.5 }, circumstances);
    expect(plain.recommended).toBe('full');
    expect(guided.flops?.step).toBe(2 * (plain.flops?.step ?? 0));
    expect(given.variants[0].memory.weights).toBeGreaterThan(plain.variants[0].memory.weights);
    expect(half.flops?.total).toBeLessThan(given.flops?.total ?? 0);
    expect((await model.toLoad(request)).size).toBe(3);
    await play(model, { ...TEXT, seconds: 0.1 });
    expect([...(await model.toLoad(request)).keys()]).toEqual([]);
    expect(model.onDevice).toEqual(['text_encoder', 'projection_model', 'transformer', 'vae_decoder']);
    await model.release();
    expect(model.onDevice).toEqual([]);
  });

  test('runs on weights of 8 and 4 bits', async () => {
    const { engine } = startNodeEngine();
    const { openCheckpoint } = await import('../src/models/family.ts');
    const [full, ...fewer] = await Promise.all(
      (['full', 'q8', 'q4'] as const).map(async (weights) => {
        const model = await openCheckpoint(filesOf(NAME, weightlessContents(NAME)), engine, { weights });
        if (!isSounding(model) || isMusical(model) || isWriting(model)) {
          throw new Error('It makes sounds.');
        }
        return (await play(model, { ...TEXT, guidance_scale: 1 })).latents.data;
      }),
    );
    const [q8, q4] = fewer.map((latents) => greatestDifference(latents, full));
    expect(q8).toBeGreaterThan(0);
    expect(q8).toBeLessThan(q4);
    expect(q8).toBeLessThan(0.3);
  });

  const replaced = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
    const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
    change(values);
    contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
  };

  test.each([
    [
      'a missing part',
      (c: Contents) => void c.delete('projection_model/config.json'),
      /projection_model\/config\.json/,
    ],
    [
      'no weights',
      (c: Contents) => void c.delete('vae/diffusion_pytorch_model.safetensors'),
      /no \.safetensors weights in vae/,
    ],
    [
      'no scheduler',
      (c: Contents) => void c.delete('scheduler/scheduler_config.json'),
      /has no scheduler\/scheduler_config\.json/,
    ],
    [
      'another scheduler',
      replaced('scheduler/scheduler_config.json', (s) => (s._class_name = 'DDIMScheduler')),
      /asks for DDIMScheduler; sounds are sampled with Cosine/,
    ],
    [
      'an end that divides by zero',
      replaced('scheduler/scheduler_config.json', (s) => (s.final_sigmas_type = 'sigma_min')),
      /sets final_sigmas_type to "sigma_min"/,
    ],
    [
      'another width of words',
      replaced('projection_model/config.json', (s) => (s.text_encoder_dim = 64)),
      /reads 64 numbers of each token and its text encoder gives 96/,
    ],
    [
      'odd ratios',
      replaced('vae/config.json', (s) => (s.downsampling_ratios = [2, 3, 4, 4])),
      /not all of its downsampling_ratios are even/,
    ],
    ['no vocabulary', (c: Contents) => void c.delete('tokenizer/tokenizer.json'), /lacks tokenizer\/tokenizer\.json/],
  ])('with %s is refused with one sentence', async (_, change, sentence) => {
    await expect(openSoundModel(NAME, change)).rejects.toThrow(sentence);
    await openSoundModel(NAME, change).catch((error: unknown) => {
      expect(StudioError.from(error).message.match(/[.!?](\s|$)/g)).toHaveLength(1);
    });
  });

  const T5_FILE = 't5_base.safetensors';
  const MAIN = 'stable_audio_open_1.0.safetensors';

  test.each([
    [
      'T5',
      (c: Contents) => void c.delete(T5_FILE),
      /without what reads words; choose .*: model\.safetensors \(google-t5/,
    ],
    [
      'its vocabulary',
      (c: Contents) => void c.delete('tokenizer.json'),
      /holds all of it: tokenizer\.json \(google-t5/,
    ],
    [
      'one main file',
      (c: Contents) => void c.set(`again/${MAIN}`, c.get(MAIN) ?? new Uint8Array()),
      /hold the same part of a model; choose only the files that belong together/,
    ],
    [
      'the first of its numbers',
      (c: Contents) => {
        const text = (bytes = new Uint8Array()) => Buffer.from(bytes).toString('latin1');
        const small = text(c.get(MAIN)).replaceAll('conditioners.seconds_start.', 'conditioners.seconds_other.');
        c.set(MAIN, Uint8Array.from(Buffer.from(small, 'latin1')));
      },
      /is a Stable Audio that Darkroom cannot run, such as Stable Audio Open Small/,
    ],
    [
      'a configuration that is whole',
      (c: Contents) => void c.set('model_config.json', new TextEncoder().encode('{')),
      /model_config\.json of ".*" is not valid JSON; download it again/,
    ],
  ])("in its authors' layout without %s is refused with one sentence", async (_, change, sentence) => {
    await expect(openSoundModel(AUTHORS, change)).rejects.toThrow(sentence);
  });

  test("in its authors' layout needs no configuration where it is the published one, and tells which files it needs", async () => {
    const { summary, form } = await openSoundModel(AUTHORS);
    expect(form).toEqual({ rate: 8000, channels: 2, seconds: 1.152 });
    expect([...summary.needs].sort()).toEqual(
      ['model_config.json', MAIN, T5_FILE, 'tokenizer.json', 'tokenizer_config.json'].sort(),
    );
    const published = { rate: 44_100, samples: 2_097_152, head: 64, least: 0, greatest: 512, tokens: 128 };
    expect(stableAudioTold(undefined)).toEqual(published);
  });

  test('that makes sounds is none that paints, and the other way round', async () => {
    const files = filesOf(NAME, weightlessContents(NAME));
    await expect(openModel(files, startNodeEngine().engine)).rejects.toThrow('makes sounds and paints nothing');
    await expect(openSoundModel('tiny-sd3')).rejects.toThrow('"tiny-sd3" makes no sounds');
  });
});

describe('an operation', () => {
  const problem = (parameters: object) => {
    const result = v.safeParse(chunk.parameters, { operation: 'audio_generation', ...TEXT, ...parameters });
    return result.success ? null : result.issues[0].message;
  };

  test('is judged with one sentence', () => {
    expect(problem({})).toBeNull();
    expect(problem({ seconds: 0 })).toMatch(/^seconds must be a number above 0/);
    expect(problem({ seconds_start: -1 })).toMatch(/^seconds_start must be a number from 0/);
    expect(problem({ strength: 0.5 })).toMatch(/^strength counts only where an audio is given/);
    expect(problem({ audio: 'data:image/png;base64,AA' })).toMatch(/^audio must be a sound/);
    expect(problem({ audio: new Blob(['x'], { type: 'text/plain' }) })).toMatch(/^audio must be a sound/);
    expect(problem({ audio: new Blob(['x'], { type: 'audio/ogg' }), strength: 0.5 })).toBeNull();
    expect(problem({ width: 512 })).toMatch(/width/);
  });

  test('beyond the model, or shorter than a sample, is refused', async () => {
    const model = await openSoundModel(NAME);
    await expect(play(model, { ...TEXT, seconds: 1.2 })).rejects.toThrow(
      '"tiny-stable-audio" makes at most 1.15 seconds of sound, and this would end at second 1.2; choose fewer seconds or an earlier beginning.',
    );
    await expect(play(model, { ...TEXT, seconds: undefined, seconds_start: 2 })).rejects.toThrow(
      'at most 1.15 seconds',
    );
    await expect(play(model, { ...TEXT, seconds: 0.00001 })).rejects.toThrow('has no sample at 8000');
    expect(model.onDevice).toEqual([]);
  });

  test('that was broken off goes on to the same sound', async () => {
    const model = await openSoundModel(NAME);
    const kept: unknown[] = [];
    const whole = await play(model, { ...TEXT, steps: 4 }, '', { keep: (state) => kept.push(structuredClone(state)) });
    expect(kept.length).toBeGreaterThan(1);
    for (const resume of [kept[0], kept.at(-1)]) {
      const { sounds } = await play(model, { ...TEXT, steps: 4 }, '', { resume });
      expect(sounds).toEqual(whole.sounds);
    }
  });

  test('is as long as the model where nothing says how long, and tells what was cut', async () => {
    const model = await openSoundModel(NAME);
    const { sounds, notices } = await play(model, {
      ...TEXT,
      seconds: undefined,
      prompt: 'a fox and a hen, '.repeat(9),
    });
    expect(sounds[0].channels.map(({ length }) => length)).toEqual([9216, 9216]);
    expect(notices).toEqual([expect.stringMatching(/^The prompt has \d+ tokens, and this checkpoint reads 24 /)]);
  });
});

test('sounds at other rates are those of scipy', () => {
  const path = join(import.meta.dirname, 'goldens', 'sound_rates.json');
  const { cases } = JSON.parse(readFileSync(path, 'utf8')) as {
    cases: { of: number; to: number; sound: string[]; expected: string[] }[];
  };
  for (const { of, to, sound, expected } of cases) {
    const { rate, channels } = resampled({ rate: of, channels: [Float32Array.from(sound, Number)] }, to);
    expect(rate).toBe(to);
    expect(greatestDifference(channels[0], expected.map(Number))).toBeLessThan(1e-6);
  }
});
