/**
 * Stable Audio 3 on the processor: words, noise levels, pieces, refusals, sizes. Its sounds are compared with the reference's in
 * `test/fidelity/sounds.ts`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterAll, describe, expect, test } from 'vitest';
import * as chunk from '../chunks/output_audio_stable_audio_3.ts';
import { StudioError } from '../src/core/errors.ts';
import { noiseSource } from '../src/core/noise_sources.ts';
import * as same from '../src/graphs/autoencoder_same.ts';
import type { StoredTensor } from '../src/graphs/graph.ts';
import * as dit from '../src/graphs/stable_audio3_dit.ts';
import { paddingMask } from '../src/graphs/t5_encoder.ts';
import * as t5gemma from '../src/graphs/t5gemma_encoder.ts';
import { noiseLevels } from '../src/models/sound_diffusion/ping_pong.ts';
import type { StableAudio3Model } from '../src/models/sound_diffusion/stable_audio_3_model.ts';
import { GemmaTokenizer } from '../src/text/gemma_tokenizer.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { readRows } from '../src/weights/embedding_rows.ts';
import { withWeightNorm } from '../src/weights/weight_norm.ts';
import { stableAudio3Tensors } from '../src/weights/stable_audio_3_layout.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { STABLE_AUDIO_3, openSoundModel, play3 } from './golden_sounds.ts';
import shapes from './goldens/stable_audio_3_shapes.json';
import { startNodeEngine } from './node_engine.ts';
import { run } from './onnx_node.ts';
import { indexOf } from './published_shapes.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const NAME = 'tiny-stable-audio-3';
const AUTHORS = 'tiny-stable-audio-3-authors';
const TEXT = { prompt: 'rain on a roof', seconds: 0.1, steps: 2, seed: '5' };
/** In the folder of goldens, 0.3 seconds of stereo. */
const SOUND = { audio: join('stable-audio-3-anew', 'audio.wav') };

const rows: Record<string, string>[] = [];
afterAll(() => {
  console.table(rows);
});

interface States {
  checkpoint: string;
  prompt: string;
  ids: number[];
  all: number;
  tokens: number[];
  states: number[][];
}

describe('T5Gemma reads what transformers reads', () => {
  const path = join(import.meta.dirname, 'goldens', 't5gemma_states.json');
  const { cases } = JSON.parse(readFileSync(path, 'utf8')) as { cases: States[] };

  test.each(cases.map((entry, i) => ({ i, ...entry })))('$checkpoint $i $prompt', async (entry) => {
    const { checkpoint, prompt, ids, tokens, states } = entry;
    const files = filesOf(checkpoint, weightlessContents(checkpoint));
    const opened = await Checkpoint.open(files);
    const texts = new Map<string, string | undefined>();
    for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
      texts.set(name, await opened.text(`tokenizer/${name}`));
    }
    const encoded = new GemmaTokenizer({ read: (name) => texts.get(name) }, 256).encode(prompt);
    expect([...encoded.ids]).toEqual(ids);
    expect(encoded.tokens).toBe(entry.all);
    if (encoded.tokens <= 24) {
      expect(encoded.text).toBe(prompt);
    }

    const { config: values, weights, files: paths } = await opened.component('text_encoder');
    const config = t5gemma.parseConfig(values);
    const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
    const sequence = 24;
    const table = weights.get(t5gemma.embeddingTable(weights)) as StoredTensor;
    const all = [...ids, ...Array.from({ length: sequence - ids.length }, () => 0)];
    const scale = t5gemma.embeddingScale(config);
    let worst = 0;
    for (const provider of ['wasm', 'webgpu'] as const) {
      const { last_hidden_state } = await run(
        t5gemma.build(config, weights, { provider, dtype: 'f32', batch: 1, height: 0, width: 0, sequence }),
        { get: (n) => weights.get(n), names: () => weights.names(), blobs },
        {
          inputs_embeds: (await readRows(files, table, all)).map((value) => value * scale),
          ...t5gemma.angles(config, sequence),
          mask: paddingMask(sequence, ids.length),
        },
      );
      const width = config.encoder.hidden_size;
      for (const [k, token] of tokens.entries()) {
        const own = last_hidden_state.subarray(token * width, (token + 1) * width);
        worst = Math.max(worst, greatestDifference(own, states[k]));
      }
    }
    rows.push({ case: `${checkpoint} reads ${ids.length} tokens`, hidden: worst.toExponential(1) });
    expect(worst).toBeLessThanOrEqual(1e-4);
  });
});

test('noise levels lie between noise and nearly nothing, and rise once where less than noise is begun with', () => {
  // logsnr_sigma_schedule of diffusers.
  expect(noiseLevels(4, 1)).toEqual([1, 0.9844802021980286, 0.8909031748771667, 0.5124973654747009]);
  const [first, second, ...rest] = noiseLevels(8, 0.6);
  expect([first, second, rest.at(-1)]).toEqual([0.6000000238418579, 0.9092903137207031, 0.2002071738243103]);
  expect(second).toBeGreaterThan(first);
  expect([second, ...rest]).toEqual([second, ...rest].sort((a, b) => b - a));
});

describe('pieces', () => {
  const nobody = { signal: new AbortController().signal, onPart: () => undefined };

  test.each([NAME, 'tiny-stable-audio-3-base'])('of %s are what the whole is', async (name) => {
    const { sounds } = ((await openSoundModel(name)) as StableAudio3Model).networks;
    const overlap = same.overlapOf(sounds.config);
    const { hop, channels } = sounds;
    const length = 40;
    const random = noiseSource({ seed: '1', batch_size: 1 });
    const latents = random.ofStart([1, channels, 1, length]);
    const planes = Array.from({ length: sounds.config.audio_channels }, (_, n) =>
      random.ofStart([1, 1, 1, length * hop]).map((value) => (value * (n + 1)) / 8),
    );
    const parts: number[] = [];
    const convert = async (piece: number) => {
      sounds.piece = piece;
      const decoded = await sounds.decode(latents, 0, length * hop, { ...nobody, onPart: (_, all) => parts.push(all) });
      return { decoded, encoded: await sounds.encode(planes, nobody) };
    };
    const whole = await convert(length);
    const inPieces = await convert(2 * overlap + 7);
    expect(parts[0]).toBe(1);
    expect(parts.at(-1)).toBeGreaterThan(2);
    const decoded = Math.max(...whole.decoded.map((plane, n) => greatestDifference(inPieces.decoded[n], plane)));
    const encoded = greatestDifference(inPieces.encoded, whole.encoded);
    console.log(`${name}: decoded in pieces ${decoded.toExponential(1)}, encoded ${encoded.toExponential(1)}`);
    expect(decoded).toBeLessThanOrEqual(1e-4);
    expect(encoded).toBeLessThanOrEqual(1e-4);
    // A part of it needs only the pieces it overlaps, and is the same.
    const [from, until] = [3 * hop + 5, 7 * hop - 3];
    const part = await sounds.decode(latents, from, until, nobody);
    part.forEach((plane, n) => {
      expect(greatestDifference(plane, whole.decoded[n].subarray(from, until))).toBeLessThanOrEqual(1e-4);
    });
    // Nothing further on is encoded than what is wanted needs.
    const few = await sounds.latents(planes, 5, nobody.signal);
    expect(few.length).toBe(5);
    few.values.forEach((value, i) => {
      expect(Math.abs(value - whole.encoded[Math.floor(i / 5) * length + (i % 5)])).toBeLessThanOrEqual(1e-4);
    });
  });
});

describe('a checkpoint', () => {
  const request = { operation: 'audio_generation', width: 63, height: 1, batch_size: 1, steps: 10, guidance_scale: 1 };

  test('is summarised from its headers, and says how many steps suit it', async () => {
    const { summary, form } = await openSoundModel(NAME);
    expect(form).toEqual({ rate: 8000, channels: 2, seconds: 0.7 });
    expect(summary).toMatchObject({
      pipelineClass: 'StableAudio3Pipeline',
      seconds: 0.7,
      latentsPerSecond: 62.5,
      takesLoras: false,
      variants: ['full', 'q8', 'q4'],
      defaults: { width: 44, height: 1, prediction_type: 'flow_prediction', steps: 8, guidance_scale: 1 },
    });
    expect(summary.needs).toEqual(
      expect.arrayContaining(['duration_embedder/diffusion_pytorch_model.safetensors', 'tokenizer/tokenizer.json']),
    );
    expect((await openSoundModel('tiny-stable-audio-3-base')).summary.defaults.steps).toBe(100);
  });

  test('is planned: as long as the sound is, and with all steps whatever the strength is', async () => {
    const model = await openSoundModel(NAME);
    const circumstances = {
      device: startNodeEngine().engine.report,
      budget: { bytes: 2 ** 30, source: 'set' as const },
      rates: { measured: { f32: 1e9 }, pictures: {} },
      downloadBytes: 0,
    };
    const plain = await model.estimate(request, circumstances);
    const guided = await model.estimate({ ...request, guidance_scale: 7 }, circumstances);
    const long = await model.estimate({ ...request, width: 126 }, circumstances);
    const given = await model.estimate({ ...request, fromSound: true }, circumstances);
    const half = await model.estimate({ ...request, fromSound: true, strength: 0.5 }, circumstances);
    expect(guided.flops?.step).toBe(2 * (plain.flops?.step ?? 0));
    expect(long.flops?.step).toBeGreaterThan(1.5 * (plain.flops?.step ?? 0));
    expect(given.variants[0].memory.weights).toBeGreaterThan(plain.variants[0].memory.weights);
    expect(half.flops?.total).toBe(given.flops?.total);
    await play3(model, TEXT);
    expect(model.onDevice).toEqual(['text_encoder', 'transformer', 'vae_decoder']);
    expect([...(await model.toLoad(request)).keys()]).toEqual([]);
    await model.release();
    expect(model.onDevice).toEqual([]);
  });

  const replaced = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
    const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
    change(values);
    contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
  };

  test.each([
    [
      'a missing part',
      (c: Contents) => void c.delete('duration_embedder/config.json'),
      /duration_embedder\/config\.json/,
    ],
    ['no vocabulary', (c: Contents) => void c.delete('tokenizer/tokenizer.json'), /lacks tokenizer\/tokenizer\.json/],
    [
      'another scheduler',
      replaced('scheduler/scheduler_config.json', (s) => (s._class_name = 'DDIMScheduler')),
      /asks for DDIMScheduler; Stable Audio 3 is sampled with FlowMatchEuler/,
    ],
    [
      'levels that would be moved',
      replaced('scheduler/scheduler_config.json', (s) => (s.shift = 3)),
      /sets shift to 3/,
    ],
    [
      'another width of the duration',
      replaced('duration_embedder/config.json', (s) => (s.output_dim = 16)),
      /reads 32 numbers of the duration and its duration_embedder gives 16/,
    ],
    ['several levels', replaced('vae/config.json', (s) => (s.encoder_strides = [4, 2])), /has "encoder_strides/],
    ['patches of latents', replaced('transformer/config.json', (s) => (s.patch_size = 2)), /has "patch_size": 2/],
  ])('with %s is refused with one sentence', async (_, change, sentence) => {
    await expect(openSoundModel(NAME, change)).rejects.toThrow(sentence);
    await openSoundModel(NAME, change).catch((error: unknown) => {
      expect(StudioError.from(error).message.match(/[.!?](\s|$)/g)).toHaveLength(1);
    });
  });

  const without = (path: string) => (c: Contents) => void c.delete(path);

  test.each([
    [
      'its weights',
      without('model.safetensors'),
      /model_config\.json without its weights; choose the model\.safetensors/,
    ],
    ['its configuration', without('model_config.json'), /holds all of it: model_config\.json\. A diffusers/],
    [
      'T5Gemma',
      (c: Contents) => {
        [...c.keys()].filter((path) => path.startsWith('t5gemma')).forEach((path) => c.delete(path));
      },
      /model\.safetensors \(google\/t5gemma-b-b-ul2\), config\.json \(.*\), tokenizer\.json \(/,
    ],
  ])("in its authors' layout without %s is refused with one sentence", async (_, change, sentence) => {
    await expect(openSoundModel(AUTHORS, change)).rejects.toThrow(sentence);
  });

  test("in its authors' layout tells which files it needs, and may have its text encoder in the same file", async () => {
    const { summary, form } = await openSoundModel(AUTHORS);
    expect(form).toEqual({ rate: 44_100, channels: 2, seconds: 384 });
    expect(summary.defaults).toMatchObject({ steps: 8, guidance_scale: 1 });
    const reader = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
    expect([...summary.needs].sort()).toEqual(
      ['model.safetensors', 'model_config.json', ...reader.map((name) => `t5gemma-b-b-ul2/${name}`)].sort(),
    );
    const name = 'conditioner.conditioners.prompt.model.encoder.norm.weight';
    const tensor = { name, dtype: 'F32' as const, shape: [32], file: 'x', offset: 0, length: 128 };
    expect([...(stableAudio3Tensors([tensor]).get('text_encoder')?.keys() ?? [])]).toEqual(['encoder.norm.weight']);
  });
});

describe('an operation', () => {
  const problem = (parameters: object) => {
    const result = v.safeParse(chunk.parameters, { operation: 'audio_generation', ...TEXT, ...parameters });
    return result.success ? null : result.issues[0].message;
  };

  test('is judged with one sentence', () => {
    const audio = new Blob(['x'], { type: 'audio/ogg' });
    expect(problem({})).toBeNull();
    expect(problem({ seconds: 0 })).toMatch(/^seconds must be a number above 0/);
    expect(problem({ strength: 0.5 })).toMatch(/^strength counts only where an audio is given/);
    expect(problem({ repaint_start: 1 })).toMatch(/^repaint_start and repaint_end count only where an audio is given/);
    expect(problem({ audio, strength: 0.5, repaint_end: 1 })).toMatch(/give one or the other/);
    expect(problem({ audio, repaint_start: 2, repaint_end: 1 })).toMatch(/must lie before/);
    expect(problem({ audio, strength: 0 })).toMatch(/^strength must be a number above 0/);
    expect(problem({ audio, repaint_start: 1 })).toBeNull();
    expect(problem({ audio: new Blob(['x'], { type: 'text/plain' }) })).toMatch(/^audio must be a sound/);
  });

  test('beyond the model, shorter than a sample or a latent, or behind the sound, is refused', async () => {
    const model = await openSoundModel(NAME);
    const asked = (parameters: object) => play3(model, { ...TEXT, ...parameters }, STABLE_AUDIO_3);
    await expect(asked({ seconds: 0.8 })).rejects.toThrow(
      '"tiny-stable-audio-3" makes at most 0.7 seconds of sound, and this would be 0.8; choose fewer seconds.',
    );
    await expect(asked({ seconds: 0.00001 })).rejects.toThrow('has no sample at 8000');
    await expect(asked({ ...SOUND, repaint_start: 0.2 })).rejects.toThrow(
      'The sound that is made is 0.1 seconds long, so nothing of it lies after second 0.2;',
    );
    await expect(asked({ ...SOUND, repaint_start: 0.05, repaint_end: 0.051 })).rejects.toThrow(
      '"tiny-stable-audio-3" makes pieces of 0.016 seconds anew, and between repaint_start and repaint_end lies none;',
    );
    await expect(asked({ ...SOUND, seconds: undefined, repaint_start: 5 })).rejects.toThrow('is 0.3 seconds long');
  });

  test('tells what was cut, what was left out and what has nothing to follow', async () => {
    const model = await openSoundModel(NAME);
    const cut = await play3(model, { ...TEXT, ...SOUND, prompt: 'a fox and a hen, '.repeat(9) }, STABLE_AUDIO_3);
    expect(cut.notices).toEqual([
      'The sound to start from is longer than the 0.1 seconds that are made; what comes after them was left out.',
      expect.stringMatching(/^The prompt has \d+ tokens, and this checkpoint reads 24 /),
    ]);
    const beyond = { ...TEXT, ...SOUND, seconds: 0.5, repaint_end: 0.1 };
    expect((await play3(model, beyond, STABLE_AUDIO_3)).notices).toEqual([
      'The given sound ends at second 0.3; what comes after that and is not made anew has nothing to follow.',
    ]);
  });

  test('is as long as the given sound where nothing says how long, and without one as long as is usual', async () => {
    const model = await openSoundModel(NAME);
    const lengths = async (parameters: object) => {
      const { sounds } = await play3(model, { ...TEXT, seconds: undefined, steps: 1, ...parameters }, STABLE_AUDIO_3);
      return sounds[0].channels.map(({ length }) => length);
    };
    expect(await lengths(SOUND)).toEqual([2400, 2400]);
    expect(await lengths({})).toEqual([5600, 5600]);
  });

  test.each([
    ['words', {}],
    ['a part anew', { ...SOUND, repaint_start: 0.05 }],
  ])('of %s that was broken off goes on to the same sound', async (_, more) => {
    const model = await openSoundModel(NAME);
    const kept: unknown[] = [];
    const asked = { ...TEXT, ...more, steps: 4 };
    const whole = await play3(model, asked, STABLE_AUDIO_3, { keep: (state) => kept.push(structuredClone(state)) });
    expect(kept.length).toBeGreaterThan(1);
    for (const resume of [kept[0], kept.at(-1)]) {
      const { sounds } = await play3(model, asked, STABLE_AUDIO_3, { resume });
      expect(sounds).toEqual(whole.sounds);
    }
  });
});

describe('at full size', () => {
  const options = { provider: 'webgpu', dtype: 'f32', batch: 1, height: 1 } as const;

  test('the transformer reads every published tensor', () => {
    const { parameters, tensors } = shapes.transformer;
    const config = dit.parseConfig({});
    const index = indexOf(tensors, 'transformer_blocks', config.depth);
    const graph = dit.build(config, index, { ...options, width: 324, text: 257, keeps: true });
    // What is read on the processor.
    const apart = [dit.SPEEDS, dit.PADDING];
    expect([...index.names()].filter((name) => !index.used.has(name))).toEqual(apart.sort());
    expect(graph.weightBytes / 4).toBeGreaterThan(0.99 * parameters);
    console.log(`30 s: ${(graph.flops / 1e12).toFixed(2)} TFLOP a step`);
  });

  test.each(Object.entries(shapes.vaes))('%s reads every published tensor', (_, vae) => {
    const config = same.parseConfig(vae.config);
    const index = indexOf(vae.tensors);
    const { weights } = withWeightNorm({
      name: 'vae',
      className: same.className,
      config: {},
      weights: index,
      files: [],
    });
    const read = new Set<string>();
    const watched = {
      names: () => weights.names(),
      get(name: string) {
        read.add(name);
        return weights.get(name);
      },
    };
    same.buildDecoder(config, watched, { ...options, width: 32 });
    same.buildEncoder(config, watched, { ...options, width: 32 * same.hopOf(config) });
    expect([...weights.names()].filter((name) => !read.has(name))).toEqual([]);
  });
});
