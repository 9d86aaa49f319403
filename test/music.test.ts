/** ACE-Step 1.5 on the processor: what is refused, what is told, full size. Its songs are compared with the reference's in `test/fidelity/sounds.ts`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import * as chunk from '../chunks/output_audio_ace_step.ts';
import { StudioError } from '../src/core/errors.ts';
import { noiseSource } from '../src/core/noise_sources.ts';
import * as detokenizer from '../src/graphs/ace_step_audio_token_detokenizer.ts';
import * as audioTokenizer from '../src/graphs/ace_step_audio_tokenizer.ts';
import * as oobleck from '../src/graphs/autoencoder_oobleck.ts';
import * as dit from '../src/graphs/ace_step_transformer1d.ts';
import * as encoder from '../src/graphs/ace_step_condition_encoder.ts';
import * as qwen3 from '../src/graphs/qwen3.ts';
import { estimate } from '../src/models/latent_diffusion/estimate.ts';
import { asSoundModel, isMusical, openCheckpoint, openModel } from '../src/models/family.ts';
import type { AceStepModel } from '../src/models/sound_diffusion/ace_step_model.ts';
import { AceStepNetworks } from '../src/models/sound_diffusion/ace_step_networks.ts';
import { PlainTokenizer } from '../src/text/plain_tokenizer.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { aceStepShapes, oobleckShapes, qwen3EmbeddingShapes } from './ace_step_shapes.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { FakeWeights } from './fake_weights.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { MUSIC, openMusicModel, perform } from './golden_music.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const NAME = 'tiny-ace-step';
const TURBO = 'tiny-ace-step-turbo';
const AUTHORS = 'tiny-ace-step-authors';
const TEXT = { prompt: 'rain on a roof', lyrics: '[verse]\nSoft notes', seconds: 0.4, steps: 2, seed: '5' };
const COVER = join(MUSIC, 'ace-step-cover');

describe('pieces', () => {
  test('of a sound that is no whole number of latents long are what the whole is', async () => {
    const { sounds } = ((await openMusicModel(NAME)) as AceStepModel).networks;
    const nobody = { signal: new AbortController().signal, onPart: () => undefined };
    const [length, rest] = [80, 77];
    const random = noiseSource({ seed: '1', batch_size: 1 });
    const latents = random.ofStart([1, sounds.channels, 1, length]);
    const planes = [1, 2].map((n) => random.ofStart([1, 1, 1, length * sounds.hop + rest]).map((x) => (x * n) / 8));
    const run = async (piece: number) => {
      sounds.piece = piece;
      const decoded = await sounds.decode(latents, 0, length * sounds.hop, nobody);
      return { decoded, encoded: await sounds.encode(planes, nobody) };
    };
    const whole = await run(length);
    const inPieces = await run(2 * oobleck.overlapOf(sounds.config) + 9);
    const [decoded, encoded] = [
      Math.max(...whole.decoded.map((plane, n) => greatestDifference(inPieces.decoded[n], plane))),
      greatestDifference(inPieces.encoded, whole.encoded),
    ];
    console.log(`decoded in pieces ${decoded.toExponential(1)}, encoded ${encoded.toExponential(1)}`);
    expect(decoded).toBeLessThanOrEqual(1e-4);
    expect(encoded).toBeLessThanOrEqual(1e-4);
  });
});

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    const { summary, form, tasks } = await openMusicModel(NAME);
    expect(form).toEqual({ rate: 3200, channels: 2, seconds: 8 });
    expect(tasks).toEqual(['text2music', 'repaint', 'cover']);
    expect(summary).toMatchObject({
      pipelineClass: 'AceStepPipeline',
      seconds: 8,
      latentsPerSecond: 25,
      takesLoras: false,
      variants: ['full', 'q8', 'q4'],
      defaults: { width: 200, height: 1, steps: 50, guidance_scale: 7 },
    });
    expect(summary.needs).toContain('condition_encoder/diffusion_pytorch_model.safetensors');
    const turbo = await openMusicModel(TURBO);
    expect(turbo.tasks).toEqual(['text2music', 'repaint']);
    expect(turbo.summary).toMatchObject({
      ignores: ['guidance_scale'],
      defaults: { steps: 8, guidance_scale: 1 },
    });
  });

  test('is planned: more for longer songs, twice with guidance that counts, all of it loaded then', async () => {
    const model = await openMusicModel(NAME);
    const turbo = await openMusicModel(TURBO);
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
    const steps = async (one: typeof model, more: object) =>
      (await one.estimate({ ...request, ...more }, circumstances)).flops?.step ?? 0;
    expect(await steps(model, { guidance_scale: 7 })).toBe(2 * (await steps(model, {})));
    expect(await steps(turbo, { guidance_scale: 7 })).toBe(await steps(turbo, {}));
    expect(await steps(model, { width: 100 })).toBeGreaterThan(await steps(model, {}));
    expect((await model.toLoad(request)).size).toBe(6);
    await perform(model, { ...TEXT, guidance_scale: 1 });
    expect([...(await model.toLoad(request)).keys()]).toEqual([]);
    await model.release();
    expect(model.onDevice).toEqual([]);
  });

  test('runs on weights of 8 and 4 bits', async () => {
    const { engine } = startNodeEngine();
    const [full, ...fewer] = await Promise.all(
      (['full', 'q8', 'q4'] as const).map(async (weights) => {
        const model = await openCheckpoint(filesOf(TURBO, weightlessContents(TURBO)), engine, { weights });
        if (!isMusical(model)) {
          throw new Error('It makes music.');
        }
        return (await perform(model, TEXT)).latents.data;
      }),
    );
    const [q8, q4] = fewer.map((latents) => greatestDifference(latents, full));
    expect(q8).toBeGreaterThan(0);
    // Layers as small as these keep 8 bits, see `quantisation.ts`.
    expect(q8).toBeLessThanOrEqual(q4);
    expect(q8).toBeLessThan(0.1);
  });

  const changed = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
    const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
    change(values);
    contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
  };
  const replaced =
    (...files: [path: string, bytes: Uint8Array<ArrayBuffer>][]) =>
    (contents: Contents) => {
      contents.clear();
      files.forEach(([path, bytes]) => contents.set(path, bytes));
    };
  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const file = (...names: string[]) =>
    writeSafetensors(names.map((name) => [name, { dims: [1], data: new Float32Array(1) }]));

  test.each([
    ['no lyrics encoder', (c: Contents) => void c.delete('condition_encoder/config.json'), /condition_encoder\/config/],
    [
      'another scheduler',
      changed('scheduler/scheduler_config.json', (s) => (s._class_name = 'DDIMScheduler')),
      /asks for DDIMScheduler; ACE-Step is sampled with FlowMatchEulerDiscreteScheduler/,
    ],
    [
      'levels that are moved twice',
      changed('scheduler/scheduler_config.json', (s) => (s.shift = 3)),
      /sets shift to 3/,
    ],
    [
      'a text encoder of another width',
      changed('condition_encoder/config.json', (s) => (s.text_hidden_dim = 64)),
      /reads 64 numbers of each token and its text encoder gives 24/,
    ],
    ['no vocabulary', (c: Contents) => void c.delete('tokenizer/tokenizer.json'), /lacks tokenizer\/tokenizer\.json/],
    [
      "the first version's folders",
      replaced(['ace_step_transformer/config.json', json({})], ['music_dcae_f8c8/config.json', json({})]),
      /is ACE-Step 1\.0, whose networks are other ones/,
    ],
    [
      "the first version's file",
      replaced([
        'ace_step_v1_3.5b.safetensors',
        file('model.diffusion_model.lyric_embs.weight', 'model.diffusion_model.speaker_embedder.weight'),
      ]),
      /is ACE-Step 1\.0/,
    ],
    [
      'one folder of its authors alone',
      replaced(['config.json', json({ architectures: ['AceStepConditionGenerationModel'] })]),
      /is ACE-Step 1\.5 without its autoencoder; open the folder that holds vae, Qwen3-Embedding-0\.6B and/,
    ],
    [
      'one file',
      replaced(['ace_step_1.5_turbo_aio.safetensors', file('model.diffusion_model.null_condition_emb')]),
      /in one file, which lacks what silence sounds like; choose the folder that its authors publish/,
    ],
  ])('with %s is refused with one sentence', async (_, change, sentence) => {
    await expect(openMusicModel(NAME, change)).rejects.toThrow(sentence);
    await openMusicModel(NAME, change).catch((error: unknown) => {
      expect(StudioError.from(error).message.match(/[.!?](\s|$)/g)).toHaveLength(1);
    });
  });

  const SILENCE = 'acestep-v15-base/silence_latent.pt';
  const cut = (contents: Contents) =>
    contents.set(SILENCE, (contents.get(SILENCE) as Uint8Array<ArrayBuffer>).slice(9));
  const copied = (contents: Contents) =>
    contents.set('second/config.json', contents.get('acestep-v15-base/config.json') as Uint8Array<ArrayBuffer>);
  test.each([
    [
      'its silence',
      (c: Contents) => c.delete(SILENCE),
      /lacks acestep-v15-base\/silence_latent\.pt; get that file, too/,
    ],
    ['a whole silence', cut, /silence_latent\.pt is not the one tensor that it should be; download it again/],
    ['the text encoder', (c: Contents) => c.delete('Qwen3-Embedding-0.6B/config.json'), /without its text encoder/],
    ['one model alone', copied, /several models of one kind \(acestep-v15-base, second\); leave only one of them/],
  ])("in its authors' layout without %s is refused with one sentence", async (_, change, sentence) => {
    await expect(openMusicModel(AUTHORS, change)).rejects.toThrow(sentence);
  });

  test("in its authors' layout is opened in any folder, and tells which files it needs", async () => {
    const { summary, form, tasks } = await openMusicModel(AUTHORS);
    expect(form).toEqual({ rate: 3200, channels: 2, seconds: 8 });
    expect(tasks).toEqual(['text2music', 'repaint', 'cover']);
    const deeper = await openMusicModel(AUTHORS, (contents) => {
      const all = [...contents];
      contents.clear();
      all.forEach(([path, bytes]) => contents.set(`checkpoints/${path}`, bytes));
      contents.set('readme.md', new Uint8Array());
    });
    expect(deeper.summary.needs).toEqual(summary.needs.map((path) => `checkpoints/${path}`));
    const networks = ['acestep-v15-base/config.json', 'acestep-v15-base/model.safetensors', SILENCE, 'vae/config.json'];
    expect(summary.needs.filter((path) => !path.startsWith('Qwen3')).sort()).toEqual([
      ...networks,
      'vae/diffusion_pytorch_model.safetensors',
    ]);
  });

  test('that sings is none that paints, nor one of sounds alone', async () => {
    const files = filesOf(NAME, weightlessContents(NAME));
    const { engine } = startNodeEngine();
    await expect(openModel(files, engine)).rejects.toThrow('makes sounds and paints nothing');
    const opened = await openCheckpoint(files, engine);
    expect(() => asSoundModel(opened)).toThrow('"tiny-ace-step" makes no sounds');
    await expect(openMusicModel('tiny-stable-audio')).rejects.toThrow('"tiny-stable-audio" sings no lyrics');
  });
});

describe('an operation', () => {
  const problem = (parameters: object) => {
    const result = v.safeParse(chunk.parameters, { operation: 'audio_generation', ...TEXT, ...parameters });
    return result.success ? null : result.issues[0].message;
  };
  const audio = new Blob(['x'], { type: 'audio/ogg' });
  const given = { audio, seconds: undefined };

  test('is judged with one sentence', () => {
    expect(problem({})).toBeNull();
    expect(problem({ seconds: 0 })).toMatch(/^seconds must be a number above 0/);
    expect(problem({ bpm: 0 })).toMatch(/^bpm must be a whole number from 1/);
    expect(problem({ vocal_language: 'English' })).toMatch(/^vocal_language must be the code/);
    expect(problem({ timesignature: '5' })).toMatch(/^timesignature must be 2, 3, 4 or 6/);
    expect(problem({ shift: 0 })).toMatch(/^shift must be a number above 0/);
    expect(problem({ task: 'repaint' })).toMatch(/count only together; give both, or neither/);
    expect(problem({ audio, task: 'cover' })).toMatch(/^seconds counts only without an audio/);
    expect(problem({ ...given, task: 'cover', repaint_start: 1 })).toMatch(/^repaint_start and repaint_end count only/);
    expect(problem({ ...given, task: 'repaint', repaint_start: 2, repaint_end: 1 })).toMatch(/must lie before/);
    expect(problem({ ...given, task: 'repaint', cover_strength: 0.5 })).toMatch(/^cover_strength counts only/);
    expect(problem({ ...given, task: 'repaint', repaint_start: 1 })).toBeNull();
  });

  test('beyond the model, or of a sound that does not reach there, is refused', async () => {
    const model = await openMusicModel(TURBO);
    await expect(perform(model, { ...TEXT, seconds: 8.5 })).rejects.toThrow(
      '"tiny-ace-step-turbo" makes at most 8 seconds of music, and this would be 8.5; choose fewer seconds.',
    );
    const whole = { ...TEXT, seconds: undefined, audio: 'audio.wav' };
    await expect(perform(model, { ...whole, task: 'repaint', repaint_start: 2 }, COVER)).rejects.toThrow(
      'The given sound is 1.1 seconds long, so nothing of it lies after second 2;',
    );
    await expect(perform(model, { ...whole, task: 'cover' }, COVER)).rejects.toThrow('lacks the networks that covers');
    const short = { readSound: () => Promise.resolve({ rate: 3200, channels: [new Float32Array(50)] }) };
    await expect(perform(model, { ...whole, task: 'repaint' }, COVER, short)).rejects.toThrow(
      'has only 50 samples at 3200 per second, and "tiny-ace-step-turbo" needs at least 128; choose a longer one.',
    );
  });

  test('tells of lyrics without sections, of what was cut, and of guidance that does nothing', async () => {
    const model = await openMusicModel(TURBO);
    const plain = await perform(model, { ...TEXT, lyrics: 'Soft notes\nin the morning light', guidance_scale: 5 });
    expect(plain.notices).toEqual([
      expect.stringMatching(/^The lyrics have no sections; the model sings best where lines such as \[verse\]/),
      expect.stringMatching(/guidance_scale of 5 changed nothing/),
    ]);
    const long = await perform(model, { ...TEXT, prompt: 'a fox and a hen, '.repeat(40) });
    expect(long.notices).toEqual([expect.stringMatching(/^The prompt has \d+ tokens, and this checkpoint reads 256 /)]);
    expect((await perform(model, { ...TEXT, lyrics: '' })).notices).toEqual([]);
  });

  test('that was broken off goes on to the same song, what guidance remembers included', async () => {
    const model = await openMusicModel(NAME);
    const kept: unknown[] = [];
    const asked = { ...TEXT, steps: 4, guidance_scale: 6 };
    const keep = (state: unknown) => kept.push(structuredClone(state));
    const now = performance.now.bind(performance);
    let tick = 0;
    // Each step is kept.
    performance.now = () => (tick += 1000);
    const whole = await perform(model, asked, '', { keep }).finally(() => {
      performance.now = now;
    });
    expect(kept).toHaveLength(4);
    for (const resume of [kept[1], kept[3]]) {
      const { sounds } = await perform(model, asked, '', { resume });
      expect(sounds).toEqual(whole.sounds);
    }
  });
});

test('at full size has the parameters of the published classes, and is planned without weights', async () => {
  const shapes = aceStepShapes();
  const all = Object.fromEntries(Object.entries(shapes).map(([name, own]) => [name, new FakeWeights(own)])) as Record<
    keyof typeof shapes,
    FakeWeights
  >;
  // Counted on the classes of diffusers.
  expect(Object.values(all).map(({ parameters }) => parameters)).toEqual([
    1_575_458_880, 609_329_664, 105_032_198, 105_011_776,
  ]);
  const { engine } = startNodeEngine();
  const part = (name: string, className: string, weights: FakeWeights, config = {}) => ({
    name,
    className,
    config,
    weights,
    files: [],
  });
  const codes = new PlainTokenizer({ read: () => tokenizerJson });
  const networks = new AceStepNetworks(
    engine,
    filesOf('full', new Map()),
    {
      textEncoder: part('text_encoder', qwen3.headlessClassName, new FakeWeights(qwen3EmbeddingShapes()), {
        hidden_size: 1024,
        intermediate_size: 3072,
        num_hidden_layers: 28,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        vocab_size: 151669,
        rope_theta: 1e6,
      }),
      encoder: part('condition_encoder', encoder.className, all.condition_encoder),
      transformer: part('transformer', dit.className, all.transformer),
      tokenizer: part('audio_tokenizer', audioTokenizer.className, all.audio_tokenizer),
      detokenizer: part('audio_token_detokenizer', detokenizer.className, all.audio_token_detokenizer),
      vae: part('vae', oobleck.className, new FakeWeights(oobleckShapes()), {
        downsampling_ratios: [2, 4, 4, 6, 10],
        sampling_rate: 48000,
      }),
    },
    codes,
    'q4',
  );
  expect(networks.form).toEqual({ rate: 48000, channels: 2, seconds: 600 });
  const minute = { operation: 'audio_generation', width: 1500, height: 1, batch_size: 1, steps: 8, guidance_scale: 1 };
  const circumstances = {
    device: engine.report,
    budget: { bytes: 8 * 2 ** 30, source: 'set' as const },
    rates: { measured: {}, pictures: {} },
    downloadBytes: 0,
  };
  const { variants, flops } = await estimate(networks, ['full', 'q8', 'q4'], minute, circumstances);
  const gigabytes = variants
    .filter(({ precision }) => precision === 'f32')
    .map(({ variant, memory }) => [variant, memory.weights / 1e9, memory.peak / 1e9] as const);
  console.log(gigabytes.map(([name, held, peak]) => `${name} ${held.toFixed(2)}, ${peak.toFixed(2)} GB`).join('; '));
  console.log(`${((flops?.step ?? 0) / 1e12).toFixed(2)} TFLOP a step of a minute`);
  // 1575 M and 609 M and 440 M of the text encoder's layers, and 169 M of the autoencoder's decoder in f32.
  expect(gigabytes[0][1]).toBeGreaterThan(4 * 2.6);
  expect(gigabytes[2][1]).toBeLessThan(2.6);
  // 2.4 TFLOP for a minute, as counted on the class.
  expect((flops?.step ?? 0) / 1e12).toBeGreaterThan(2);
  expect((flops?.step ?? 0) / 1e12).toBeLessThan(3);
  // The longest song: windows keep the work from growing with the square of the length where they can.
  const longest = await estimate(networks, ['q4'], { ...minute, width: 15000 }, circumstances);
  expect((longest.flops?.step ?? 0) / (flops?.step ?? 1)).toBeLessThan(16);
  const fresh = Object.fromEntries(
    Object.entries(shapes).map(([name, own]) => [name, new FakeWeights(own)]),
  ) as typeof all;
  const shape = { provider: 'webgpu', dtype: 'f32', batch: 1, height: 1, width: 0 } as const;
  dit.build(dit.parseConfig({}), fresh.transformer, { ...shape, width: 1500, text: 512 });
  const told = encoder.parseConfig({});
  encoder.buildText(told, fresh.condition_encoder, { ...shape, sequence: 256 });
  encoder.buildLyrics(told, fresh.condition_encoder, { ...shape, sequence: 2048 });
  encoder.buildTimbre(told, fresh.condition_encoder, { ...shape, sequence: 750 });
  audioTokenizer.build(audioTokenizer.parseConfig({}), fresh.audio_tokenizer, { ...shape, batch: 300 });
  detokenizer.build(detokenizer.parseConfig({}), fresh.audio_token_detokenizer, { ...shape, batch: 300 });
  // What no network reads: rows that are looked up, and a token that the reference's encoder does not read either.
  const left = Object.values(fresh).flatMap((weights) =>
    [...weights.names()].filter((name) => !weights.asked.has(name)),
  );
  expect(left.sort()).toEqual(['null_condition_emb', 'silence_latent', 'timbre_encoder.special_token']);
});

const tokenizerJson = readFileSync(
  join(import.meta.dirname, 'weightless', NAME, 'tokenizer', 'tokenizer.json'),
  'utf8',
);
