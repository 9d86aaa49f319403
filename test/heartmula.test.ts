/** HeartMuLa on the processor: pieces, what is refused, what is told, what is gone on with, full size. Its songs are compared with the reference's in `test/fidelity/sounds.ts`. */
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import * as chunk from '../chunks/output_audio_heartmula.ts';
import { StudioError } from '../src/core/errors.ts';
import type { Sound } from '../src/core/media.ts';
import { TorchGenerator } from '../src/core/random.ts';
import * as heartCodec from '../src/graphs/heart_codec.ts';
import * as heartMula from '../src/graphs/heart_mula.ts';
import { asMusicModel, asSongModel, asSoundModel, openCheckpoint, openModel } from '../src/models/family.ts';
import { estimate } from '../src/models/latent_diffusion/estimate.ts';
import { HeartNetworks } from '../src/models/song_writing/heart_networks.ts';
import { HeartPlaying } from '../src/models/song_writing/heart_playing.ts';
import { samplesOf } from '../src/models/song_writing/song_parts.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { FakeWeights } from './fake_weights.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { HEART, ending, openHeart, sing } from './golden_heart.ts';
import { openMusicModel } from './golden_music.ts';
import { heartCodecShapes, heartMulaShapes } from './heart_shapes.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

/** Five frames. */
const TEXT = { lyrics: '[verse]\nSoft notes', tags: 'piano', seconds: 0.32, steps: 2, seed: '5' };
const FRAMES = 5;

describe('pieces', () => {
  test('of a part are what the whole is', async () => {
    const { sounds } = (await openHeart()).networks;
    const { before, after } = heartCodec.seenLatents(sounds.config);
    const latents = new TorchGenerator('1').randn(200 * 256);
    const length = 200 * heartCodec.hopOf(sounds.config);
    const made = async (piece: number) => {
      sounds.piece = piece;
      const planes = [0, 1].map(() => new Float32Array(length));
      let count = 0;
      await sounds.waveform(latents, length, new AbortController().signal, (at, parts) => {
        parts.forEach((part, channel) => {
          planes[channel].set(part, at);
        });
        count += 1;
      });
      return { planes, count };
    };
    const whole = await made(200);
    const inPieces = await made(before + after + 23);
    const difference = Math.max(...whole.planes.map((plane, n) => greatestDifference(inPieces.planes[n], plane)));
    console.log(`${inPieces.count} pieces, ${difference.toExponential(1)} from the whole`);
    expect(whole.count).toBe(1);
    expect(inPieces.count).toBeGreaterThan(4);
    expect(difference).toBeLessThanOrEqual(1e-4);
  });

  test('are told of with what is finished of the song', async () => {
    const { networks } = await openHeart();
    const { sounds } = networks;
    const song = { codes: 8, values: new Int32Array(8 * 400).map((_, i) => i % 64) };
    const told: { done: number; length: number; first: number }[] = [];
    let all = 0;
    let last: Sound | undefined;
    const playing = new HeartPlaying(sounds, {
      seed: '1',
      steps: 1,
      signal: new AbortController().signal,
      onPart: (done, parts, finished) => {
        last = finished();
        told.push({ done, length: last.channels[0].length, first: last.channels[0][0] });
        all = parts;
      },
    });
    const planes = await playing.finish(song);
    expect(planes[0].length).toBe(samplesOf(400, sounds.rate));
    expect(told.at(-1)).toEqual({ done: all, length: planes[0].length, first: planes[0][0] });
    expect(last?.channels).toEqual(planes);
    // Of the first part, what the second one fades into is not finished before.
    const hop = 25.6 * sounds.rate;
    expect(told.some(({ length }) => length === hop)).toBe(true);
    expect(told.map(({ length }) => length)).toEqual(told.map(({ length }) => length).sort((a, b) => a - b));
  });
});

test('played while it is written, a song is what it is when it is played as a whole', async () => {
  const { networks } = await openHeart();
  const { sounds } = networks;
  const FRAMES_OF_PART = 372;
  const values = new Int32Array(8 * 692).map((_, i) => (i * 7) % 64);
  for (const frames of [692]) {
    const song = { codes: 8, values: values.subarray(0, 8 * frames) };
    const play = (told: Sound[] = [], at: number[] = []) =>
      new HeartPlaying(sounds, {
        seed: '1',
        steps: 1,
        signal: new AbortController().signal,
        onPart: () => undefined,
        onSound: (from, sound) => {
          at.push(from);
          told.push(sound);
        },
      });
    const whole = await play().finish(song);
    const [told, at]: [Sound[], number[]] = [[], []];
    const playing = play(told, at);
    let heard = 0;
    for (let frame = 1; frame <= frames; frame++) {
      await playing.advance({ codes: 8, values: values.subarray(0, 8 * frame) });
      heard ||= told.length > 0 ? frame : 0;
    }
    expect(heard).toBe(FRAMES_OF_PART);
    const written = told.reduce((sum, { channels }) => sum + channels[0].length, 0);
    expect(written / sounds.rate).toBeCloseTo(frames === 692 ? 51.2 : 25.6, 6);
    expect(await playing.finish(song)).toEqual(whole);
    const [left, right] = [0, 1].map((channel) => told.flatMap(({ channels }) => Array.from(channels[channel])));
    expect(greatestDifference(left, whole[0])).toBe(0);
    expect(greatestDifference(right, whole[1])).toBe(0);
    expect(at).toEqual(at.toSorted((a, b) => a - b));
  }
});

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    const { summary, form, framesPerSecond } = await openHeart();
    expect(form).toEqual({ rate: 3200, channels: 2, seconds: 40.96 });
    expect(framesPerSecond).toBe(12.5);
    expect(summary).toMatchObject({
      pipelineClass: 'HeartMuLaGenPipeline',
      latentsPerSecond: 12.5,
      takesLoras: false,
      variants: ['full', 'q8', 'q4'],
      defaults: { steps: 10, guidance_scale: 1.5 },
    });
    expect([...summary.needs].sort()).toEqual([
      'HeartCodec-oss/config.json',
      'HeartCodec-oss/model.safetensors',
      'HeartMuLa-oss-3B/config.json',
      'HeartMuLa-oss-3B/model.safetensors',
      'gen_config.json',
      'tokenizer.json',
    ]);
  });

  test('of later versions is found by the beginning of its folders', async () => {
    const renamed = await openHeart((contents) => {
      for (const [path, bytes] of [...contents]) {
        contents.delete(path);
        contents.set(
          path.replace('HeartMuLa-oss-3B', 'HeartMuLa-RL-oss-3B-20260123').replace('-oss/', '-oss-20260123/'),
          bytes,
        );
      }
    });
    expect(renamed.summary.needs).toContain('HeartCodec-oss-20260123/model.safetensors');
  });

  const without = (beginning: string) => (contents: Contents) => {
    for (const path of [...contents.keys()].filter((one) => one.startsWith(beginning))) {
      contents.delete(path);
    }
  };
  const changed = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
    const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
    change(values);
    contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
  };

  test.each([
    ['no codec', without('HeartCodec'), /lacks its codec, without which there is no sound; choose a folder that holds/],
    ['no writer', without('HeartMuLa'), /lacks the model that writes songs; choose a folder that holds/],
    ['no tokenizer', without('tokenizer'), /lacks tokenizer\.json; choose a folder/],
    ['no signs', without('gen_config'), /lacks gen_config\.json; choose a folder/],
    [
      'the writer alone, as its repository has it',
      (contents: Contents) => {
        const config = contents.get('HeartMuLa-oss-3B/config.json') as Uint8Array<ArrayBuffer>;
        contents.clear();
        contents.set('config.json', config);
      },
      /lacks the model that writes songs; choose a folder that holds HeartMuLa-oss-3B/,
    ],
    [
      'two versions',
      (contents: Contents) => void contents.set('HeartMuLa-RL/config.json', new Uint8Array()),
      /several models of one kind \(HeartMuLa-RL, HeartMuLa-oss-3B\)|several models of one kind \(HeartMuLa-oss-3B, HeartMuLa-RL\)/,
    ],
    [
      'an unknown flavour',
      changed('HeartMuLa-oss-3B/config.json', (config) => (config.backbone_flavor = 'llama-1T')),
      /This HeartMuLa has "backbone_flavor": "llama-1T"/,
    ],
    [
      'another rate',
      changed('HeartCodec-oss/config.json', (config) => (config.sample_rate = 44100)),
      /its sample_rate and upsample_factors do not fit: a second is 25 latents/,
    ],
    [
      'signs that are no numbers',
      changed('gen_config.json', (signs) => (signs.audio_eos_id = 'end')),
      /gen_config\.json of "tiny-heartmula" does not say where texts and songs end/,
    ],
    [
      'fewer codes than the codec reads',
      changed('HeartCodec-oss/config.json', (config) => (config.num_quantizers = 4)),
      /8 codes a frame and its codec reads 4/,
    ],
  ])('with %s is refused with one sentence', async (_, change, sentence) => {
    const error: unknown = await openHeart(change).catch((thrown: unknown) => thrown);
    expect(StudioError.from(error).message).toMatch(sentence);
    expect(StudioError.from(error).message.match(/[.!?](\s|$)/g)).toHaveLength(1);
  });

  test('that writes songs is none of another kind', async () => {
    const files = filesOf(HEART, weightlessContents(HEART));
    const { engine } = startNodeEngine();
    await expect(openModel(files, engine)).rejects.toThrow('makes sounds and paints nothing');
    const opened = await openCheckpoint(files, engine);
    expect(() => asSoundModel(opened)).toThrow('"tiny-heartmula" makes no sounds');
    expect(() => asMusicModel(opened)).toThrow('"tiny-heartmula" sings no lyrics');
    const other = await openMusicModel('tiny-ace-step-turbo');
    expect(() => asSongModel(other)).toThrow('"tiny-ace-step-turbo" writes no songs of lyrics and tags');
  });

  test('runs on weights of 8 bits, and leaves the device in turns', async () => {
    const { engine } = startNodeEngine();
    const opened = await openCheckpoint(filesOf(HEART, weightlessContents(HEART)), engine, { weights: 'q8' });
    const model = asSongModel(opened) as Awaited<ReturnType<typeof openHeart>>;
    const { sounds } = await sing(model, { ...TEXT, phased: true });
    expect(sounds[0].channels[0].length).toBe(FRAMES * 256);
    expect([...model.onDevice].sort()).toEqual(['codec_codes', 'codec_decoder', 'codec_flow']);
    await model.release();
    expect(model.onDevice).toEqual([]);
  });

  test('is planned: more for longer songs, more with guidance, all of it loaded then', async () => {
    const model = await openHeart();
    const request = {
      operation: 'audio_generation',
      width: 50,
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
    const planned = (more: object) => model.estimate({ ...request, ...more }, circumstances);
    const { seconds: once } = await planned({});
    expect((await planned({ width: 400 })).seconds).toBeGreaterThan(once as number);
    expect((await planned({ width: 400 })).variants[0].memory.peak).toBeGreaterThan(
      (await planned({})).variants[0].memory.peak,
    );
    expect((await planned({ guidance_scale: 2 })).variants[0].memory.peak).toBeGreaterThan(
      (await planned({})).variants[0].memory.peak,
    );
    await sing(model, { ...TEXT, guidance_scale: 1 });
    expect([...(await model.toLoad(request)).keys()]).toEqual([]);
    await model.release();
  });
});

describe('an operation', () => {
  const problem = (parameters: object) => {
    const result = v.safeParse(chunk.parameters, { operation: 'audio_generation', ...TEXT, ...parameters });
    return result.success ? null : result.issues[0].message;
  };

  test('is judged with one sentence', () => {
    expect(problem({})).toBeNull();
    expect(problem({ lyrics: '', tags: '' })).toBeNull();
    expect(problem({ seconds: 0 })).toBe('seconds must be a number above 0.');
    expect(problem({ tags: undefined })).toMatch(/^tags must be text/);
    expect(problem({ guidance_scale: 0.5 })).toMatch(/^guidance_scale must be a number from 1 to 20/);
    expect(problem({ temperature: 0 })).toMatch(/^temperature must be a number from 0\.05/);
    expect(problem({ top_k: 0 })).toMatch(/^top_k must be a whole number from 1/);
  });

  test('beyond the model is refused, its words counted', async () => {
    const model = await openHeart();
    await expect(sing(model, { ...TEXT, seconds: 60 })).rejects.toThrow(
      '"tiny-heartmula" makes at most 40.96 seconds of music, and this would be 60; choose fewer seconds.',
    );
    await expect(sing(model, { ...TEXT, seconds: 40 })).rejects.toThrow(
      /"tiny-heartmula" has room for 3\d seconds beside these lyrics and tags, and this would be 40; choose fewer seconds, or shorter lyrics\./,
    );
    await expect(sing(model, { ...TEXT, lyrics: 'one two three '.repeat(300) })).rejects.toThrow(
      /^These lyrics and tags are \d+ tokens long, and "tiny-heartmula" remembers 512 in all; write shorter lyrics\.$/,
    );
  });

  test('tells of lyrics without sections, which the reference reads as they are, and of a song that ended', async () => {
    const plain = await sing(await openHeart(), { ...TEXT, lyrics: 'Soft notes' });
    expect(plain.notices).toEqual([expect.stringMatching(/^The lyrics have no sections; the model sings best/)]);
    const ends = await sing(await openHeart(ending(60)), { ...TEXT, seconds: 20 }).catch((error: unknown) => error);
    const told = ends instanceof Error ? [ends.message] : (ends as { notices: string[] }).notices;
    expect(told.join()).toMatch(/^The model ended the song (?:after [\d.]+ seconds|before it began)/);
  });

  test('of which a code is no sound is refused', async () => {
    const { networks } = await openHeart();
    const song = { codes: 8, values: new Int32Array(16).fill(72) };
    const request = { seed: '1', steps: 1, signal: new AbortController().signal, onPart: () => undefined };
    await expect(new HeartPlaying(networks.sounds, request).finish(song)).rejects.toThrow(
      'The model wrote a sign that is no sound',
    );
  });

  test('that was broken off goes on to the same song', async () => {
    const model = await openHeart();
    const kept: unknown[] = [];
    const keep = (state: unknown) => kept.push(structuredClone(state));
    const now = performance.now.bind(performance);
    let tick = 0;
    // Each frame is kept.
    performance.now = () => (tick += 1000);
    const whole = await sing(model, TEXT, { keep }).finally(() => {
      performance.now = now;
    });
    expect(kept).toHaveLength(FRAMES);
    for (const resume of [kept[1], kept[FRAMES - 1]]) {
      const again = await sing(model, TEXT, { resume });
      expect(again.tokens).toEqual(whole.tokens);
      expect(again.sounds).toEqual(whole.sounds);
    }
    await model.release();
  });

  test('is cancelled between two frames, and half way to the sound it leaves a shorter song', async () => {
    const model = await openHeart();
    const writing = new AbortController();
    let frames = 0;
    const parts: Sound[] = [];
    const keepPart = (_: string, part: unknown) => Promise.resolve(void parts.push(part as Sound));
    const cancelled = sing(model, TEXT, {
      signal: writing.signal,
      keepPart,
      progress: (stage) => {
        frames += stage === 'sample' ? 1 : 0;
        if (frames === 2) {
          writing.abort();
        }
      },
    });
    await expect(cancelled).rejects.toMatchObject({ code: 'cancelled' });
    expect([frames, parts.length]).toEqual([2, 0]);

    const decoding = new AbortController();
    const { sounds } = model.networks;
    const { before, after } = heartCodec.seenLatents(sounds.config);
    sounds.piece = before + after + 4;
    const broken = sing(
      model,
      { ...TEXT, seconds: 6 },
      {
        signal: decoding.signal,
        keepPart,
        progress: (stage, done = 0) => {
          if (stage === 'decode' && done === TEXT.steps + 2) {
            decoding.abort();
          }
        },
      },
    );
    await expect(broken).rejects.toMatchObject({ code: 'cancelled' });
    const [part] = parts;
    const { length } = part.channels[0];
    expect(length).toBeGreaterThan(0);
    expect(length).toBeLessThan(6 * sounds.rate);
  });
});

test('at full size has the parameters of the published classes, and is planned without weights', async () => {
  const { engine } = startNodeEngine();
  const [mula, codec] = [heartMulaShapes(), heartCodecShapes()].map((shapes) => new FakeWeights(shapes));
  const part = (name: string, className: string, weights: FakeWeights) => ({
    name,
    className,
    config: {},
    weights,
    files: [],
  });
  const networks = new HeartNetworks(
    engine,
    filesOf('full', new Map()),
    part('HeartMuLa-oss-3B', heartMula.className, mula),
    part('HeartCodec-oss', heartCodec.className, codec),
    'q4',
  );
  // Counted on the classes of heartlib; of the codec without its encoder.
  expect([mula.parameters, codec.parameters]).toEqual([3_938_113_536, 1_573_098_645]);
  expect(networks.form).toEqual({ rate: 48000, channels: 2, seconds: 655.36 });
  const minute = {
    operation: 'audio_generation',
    width: 750,
    height: 1,
    batch_size: 1,
    steps: 10,
    guidance_scale: 1.5,
  };
  const circumstances = {
    device: engine.report,
    budget: { bytes: 16 * 2 ** 30, source: 'set' as const },
    rates: { measured: { f32: 2e12 }, pictures: {} },
    downloadBytes: 0,
  };
  for (const phased of [false, true]) {
    const { variants } = await estimate(networks, ['full', 'q8', 'q4'], { ...minute, phased }, circumstances);
    const gigabytes = variants
      .filter(({ precision }) => precision === 'f32')
      .map(({ variant, memory: { weights, peak }, seconds }) => ({ variant, weights, peak, seconds }));
    console.log(
      `${phased ? 'in turns' : 'together'}: ${gigabytes.map(({ variant, weights, peak, seconds }) => `${variant} ${(weights / 1e9).toFixed(2)}, ${(peak / 1e9).toFixed(2)} GB, ${Math.round(seconds ?? 0)} s`).join('; ')}`,
    );
    const q4 = gigabytes.find(({ variant }) => variant === 'q4');
    expect(q4?.peak).toBeLessThan(phased ? 8e9 : 10e9);
  }
});
