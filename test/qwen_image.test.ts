/** Qwen-Image on the processor: what its text encoder gives the transformer, against transformers, and what is refused. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import * as v from 'valibot';
import * as tryOn from '../chunks/try_on_pictures.ts';
import type { Context } from '../src/core/chunk.ts';
import { parseOperation } from '../src/core/operation.ts';
import { plan } from '../src/core/plan.ts';
import { openModel } from '../src/models/family.ts';
import type { PixelImage } from '../src/core/media.ts';
import type { StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import * as qwenImage from '../src/graphs/qwen_image_transformer2d.ts';
import { pngPixels } from '../src/package/node_picture.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { paint, tensorBytes } from './golden_pictures.ts';
import type { QwenImageNetworks } from '../src/models/flow_transformer/qwen_image_networks.ts';
import type { FlowModel } from '../src/models/flow_transformer/flow_model.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const GOLDENS = join(import.meta.dirname, 'goldens');

interface States {
  checkpoint: string;
  prompt: string;
  images: [width: number, height: number, variant: number][] | null;
  length: number;
  tokens: number[];
  states: number[][];
}

const { cases } = JSON.parse(readFileSync(join(GOLDENS, 'qwen_states.json'), 'utf8')) as { cases: States[] };

async function open(name: string, change?: (contents: Contents) => void): Promise<FlowModel> {
  const contents = weightlessContents(name);
  change?.(contents);
  return (await openModel(filesOf(name, contents), startNodeEngine().engine)) as FlowModel;
}

const edit = (parameters: object) => ({
  operation: 'image_generation',
  config: 'qwen_image_edit',
  parameters: { prompt: 'x', seed: '1', ...parameters },
});

const bytes = (value: unknown) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
const textOf = (contents: Contents, path: string) => new TextDecoder().decode(contents.get(path));

/** The vocabulary as it is published: in the files that tokenizers had before `tokenizer.json`. */
function withOlderVocabulary(contents: Contents): void {
  const { model, added_tokens } = JSON.parse(textOf(contents, 'tokenizer/tokenizer.json')) as {
    model: { vocab: Record<string, number>; merges: [string, string][] };
    added_tokens: { id: number; content: string; special: boolean }[];
  };
  contents.delete('tokenizer/tokenizer.json');
  contents.set('tokenizer/vocab.json', bytes(model.vocab));
  const merges = ['#version: 0.2', ...model.merges.map((pair) => pair.join(' ')), ''];
  contents.set('tokenizer/merges.txt', bytes(merges.join('\n')));
  const config = JSON.parse(textOf(contents, 'tokenizer/tokenizer_config.json')) as Record<string, unknown>;
  const added_tokens_decoder = Object.fromEntries(added_tokens.map(({ id, ...token }) => [id, token]));
  contents.set('tokenizer/tokenizer_config.json', bytes({ ...config, added_tokens_decoder }));
}

/** `picture` of reference/pictures.py. */
function drawnPicture([width, height, variant]: readonly [number, number, number]): PixelImage {
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  const [middle, level] = [
    Math.floor((width * (2 + (variant % 3))) / 6),
    Math.floor((height * (3 - (variant % 2))) / 5),
  ];
  const radius = Math.floor(Math.min(width, height) / 4);
  const discs = [
    [230, 40, 60],
    [20, 30, 120],
    [250, 230, 90],
  ];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const red = Math.floor((255 * x) / Math.max(width - 1, 1));
      const green = Math.floor((255 * y) / Math.max(height - 1, 1));
      const plain = [red, green, 255 - Math.floor((red + green) / 2)];
      let colour = [0, 1, 2].map((channel) => plain[(channel + variant) % 3]);
      if ((x - middle) ** 2 + (y - level) ** 2 < radius ** 2) {
        colour = discs[variant % 3];
      }
      if (x >= Math.floor((width * 2) / 3) && y >= Math.floor((height * 2) / 3)) {
        colour = (Math.floor(x / 4) + Math.floor(y / 4)) % 2 === 0 ? [255, 255, 255] : [0, 0, 0];
      }
      if (x < Math.floor(width / 4) && y >= Math.floor((height * 3) / 4) && (x + y) % 3 === 0) {
        colour = [0, 200, 0];
      }
      data.set(colour, 4 * (y * width + x));
    }
  }
  return { width, height, data };
}

const rows: Record<string, string>[] = [];
afterAll(() => {
  console.table(rows);
});

describe('the transformer is given what diffusers gives it', () => {
  const models = new Map<string, Promise<FlowModel>>();
  const model = (name: string, key = name, change?: (contents: Contents) => void) => {
    const opened = models.get(key) ?? open(name, change);
    models.set(key, opened);
    return opened;
  };
  const texts = cases.filter(({ images }) => images === null);

  const compare = async (opened: FlowModel, { prompt, length, tokens, states, checkpoint, images }: States) => {
    const { sight } = opened.networks as QwenImageNetworks;
    const seen = await sight?.vision.see((images ?? []).map(drawnPicture));
    const { tensors, text } = await opened.networks.encodeText(prompt, seen);
    const { prompt_embeds: embeds } = tensors;
    expect(embeds.dims.slice(0, 2)).toEqual([1, length]);
    expect(prompt.startsWith(text)).toBe(true);
    const [, , width] = embeds.dims;
    const data = await opened.engine.arithmetic.read(embeds);
    const worst = Math.max(
      ...tokens.flatMap((token, k) => states[k].map((value, i) => Math.abs(value - data[token * width + i]))),
    );
    rows.push({ case: `${checkpoint}: ${length} tokens`, hidden: worst.toExponential(1) });
    expect(worst).toBeLessThanOrEqual(1e-4);
  };

  test.each(cases)('$checkpoint $prompt', async (one) => {
    await compare(await model(one.checkpoint), one);
  });

  test.each(texts)('$checkpoint $prompt, with the vocabulary in its older files', async (one) => {
    await compare(await model(one.checkpoint, 'older', withOlderVocabulary), one);
  });
});

const replaced = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
  const values = JSON.parse(textOf(contents, path)) as Record<string, unknown>;
  change(values);
  contents.set(path, bytes(values));
};

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    expect((await open('tiny-qwen-image')).summary).toMatchObject({
      pipelineClass: 'QwenImagePipeline',
      multiple: 16,
      samplers: expect.arrayContaining(['euler', 'heun']) as string[],
      takesLoras: true,
      defaults: { width: 1024, height: 1024, steps: 50, guidance_scale: 4, schedule: 'shifted' },
    });
    const { summary } = await open('tiny-qwen-image-edit-2509');
    expect(summary).toMatchObject({ pipelineClass: 'QwenImageEditPlusPipeline', defaults: { steps: 40 } });
    expect(summary.needs).toContain('processor/preprocessor_config.json');
  });

  test('has the names of its text encoder as before transformers 5, too', async () => {
    const [one] = cases;
    const older = await open(one.checkpoint, (contents) => {
      const path = 'text_encoder/model.safetensors';
      const text = new TextDecoder('latin1').decode(contents.get(path));
      // As long as before, so that nothing else moves: blanks after a header are part of no JSON value.
      const header = text.slice(8, text.indexOf('}}') + 2);
      const renamed = header.replaceAll('model.language_model.', 'model.').replaceAll('model.visual.', 'visual.');
      const whole = contents.get(path) as Uint8Array<ArrayBuffer>;
      const changed = whole.slice();
      changed.set(new TextEncoder().encode(renamed.padEnd(header.length, ' ')), 8);
      contents.set(path, changed);
    });
    const { tensors } = await older.networks.encodeText(one.prompt);
    expect(tensors.prompt_embeds.dims[1]).toBe(one.length);
  });

  test.each([
    [
      'another text encoder',
      replaced('transformer/config.json', (c) => (c.joint_attention_dim = 32)),
      /reads 32 numbers of each token and its text encoder gives 64/,
    ],
    [
      'another autoencoder',
      replaced('transformer/config.json', (c) => {
        c.in_channels = 32;
        c.out_channels = 8;
      }),
      /takes latents of 8 channels and its autoencoder gives 16/,
    ],
    [
      'a guidance embedder',
      replaced('transformer/config.json', (c) => (c.guidance_embeds = true)),
      /"guidance_embeds": true, which Darkroom cannot run/,
    ],
    [
      'no text encoder',
      (c: Contents) => c.delete('text_encoder/model.safetensors'),
      /has no .safetensors weights in text_encoder\//,
    ],
    ['no vocabulary', (c: Contents) => c.delete('tokenizer/tokenizer.json'), /lacks tokenizer\/tokenizer.json/],
  ])('with %s is refused in a sentence', async (_, change, message) => {
    await expect(open('tiny-qwen-image', change)).rejects.toThrow(message);
  });

  test('for editing with a torn processor is refused in a sentence', async () => {
    const torn = (contents: Contents) => contents.set('processor/preprocessor_config.json', bytes('{"size": 3}'));
    await expect(open('tiny-qwen-image-edit', torn)).rejects.toThrow(
      /preprocessor_config.json of this checkpoint is not/,
    );
  });

  test('for editing says how many pictures it takes, and which are too long', async () => {
    const picture = drawnPicture([32, 32, 0]);
    const of = async (name: string, images: PixelImage[]) => {
      const request = { prompt: 'x', negative_prompt: '', guidance_scale: 1, batch_size: 1, images };
      return (await open(name)).encodeText(request);
    };
    await expect(of('tiny-qwen-image-edit', [picture, picture])).rejects.toThrow(
      '"tiny-qwen-image-edit" works from one picture, and 2 are given; leave the others out, or choose a checkpoint that works from several, such as Qwen-Image-Edit 2509 or 2511.',
    );
    await expect(
      of(
        'tiny-qwen-image-edit-2509',
        Array.from({ length: 4 }, () => picture),
      ),
    ).rejects.toThrow('"tiny-qwen-image-edit-2509" works from at most 3 pictures, and 4 are given; leave some out.');
    await expect(of('tiny-qwen-image-edit-2509', [drawnPicture([402, 2, 0])])).rejects.toThrow(
      /402×2 pixels is too long/,
    );
  });

  test('without pictures for editing is refused in a sentence', async () => {
    const operation = {
      operation: 'image_generation',
      config: 'qwen_image_edit',
      parameters: { prompt: 'x', seed: '1' },
    };
    await expect(paint(await open('tiny-qwen-image-edit'), operation, '')).rejects.toThrow();
    const none = { ...operation, parameters: { ...operation.parameters, images: [] } };
    await expect(paint(await open('tiny-qwen-image-edit'), none, '')).rejects.toThrow(/images is missing/);
  });

  test('for editing takes the proportions of the picture that it is told', async () => {
    const given = [drawnPicture([64, 32, 0]), drawnPicture([32, 64, 1])];
    // No size is small enough, so the refusal says which one it is.
    const summary = { name: 'x', multiple: 16, longestSide: 16, defaults: {} };
    const sizeOf = (more: object) =>
      paint({ summary } as unknown as FlowModel, edit({ images: ['0.png', '1.png'], ...more }), '', {
        readImage: (source) => Promise.resolve(given[Number(/(\d)\.png/.exec(source as string)?.[1])]),
      }).catch((error: unknown) => (error as Error).message);
    expect(await sizeOf({})).toMatch(/not 736×1440; choose/);
    expect(await sizeOf({ proportions_of: 2 })).toMatch(/not 736×1440; choose/);
    expect(await sizeOf({ proportions_of: 1 })).toMatch(/not 1440×736; choose/);
    expect(await sizeOf({ proportions_of: 3 })).toBe(
      'proportions_of is 3, and 2 pictures are given; choose one of these, or leave it out.',
    );
  });

  test('for layers takes areas in the proportions of the picture, as diffusers reckons them, and words', async () => {
    const sizes = JSON.parse(readFileSync(join(GOLDENS, 'qwen_layer_sizes.json'), 'utf8')) as {
      width: number;
      height: number;
      resolution: number;
      expected: [width: number, height: number];
    }[];
    const apart = (parameters: object) => ({
      operation: 'image_transform',
      config: 'qwen_image_layered',
      parameters: { prompt: 'a house', seed: '1', image: 'image.png', ...parameters },
    });
    // No size is small enough, so the refusal says which one it is.
    const summary = { name: 'x', multiple: 16, longestSide: 16, defaults: {} };
    for (const { width, height, resolution, expected } of sizes) {
      const made = paint({ summary } as unknown as FlowModel, apart({ resolution }), '', {
        readImage: () => Promise.resolve({ width, height, data: new Uint8ClampedArray(4 * width * height) }),
      });
      await expect(made).rejects.toThrow(`not ${expected.join('×')}; choose`);
    }
    const wordless = paint(await open('tiny-qwen-image-layered'), apart({ prompt: ' ' }), '');
    await expect(wordless).rejects.toThrow(/prompt is empty: Qwen-Image-Layered needs words/);
  });

  test('for layers is planned with the picture, all layers and one more in one run of the transformer', async () => {
    const { networks } = await open('tiny-qwen-image-layered');
    const planned = async (layers: number) => {
      const request = { height: 8, width: 8, rows: layers, calls: 2, steps: 3, texts: 2, encodings: 1 };
      const rest = { decodings: layers, decoded: { height: 8, width: 8 }, controlnets: 0, imagePrompts: [] };
      const all = await networks.planned({ ...request, ...rest, startsFromPicture: true });
      return all.map((one) => [one.name, one.runs, one.cost('f32', 'full').flops ?? 0] as const);
    };
    const [one, three] = [await planned(1), await planned(3)];
    expect(three.map(([name, runs]) => `${name} ${runs}`)).toEqual([
      'text_encoder 2',
      'transformer 6',
      'vae_decoder 3',
      'vae_encoder 1',
    ]);
    expect(three[1][2]).toBeGreaterThan(one[1][2]);
    expect(three[2][2]).toBe(one[2][2]);
  });

  test('runs in 8 and 4 bits, nearly the same', async () => {
    const parameters = { prompt: 'a red house', width: 64, height: 48, steps: 2, guidance_scale: 2, seed: '1' };
    const operation = { operation: 'image_generation', config: 'qwen_image', parameters };
    const { latents: full } = await paint(await open('tiny-qwen-image'), operation, '');
    for (const weights of ['q8', 'q4'] as const) {
      const files = filesOf('tiny-qwen-image', weightlessContents('tiny-qwen-image'));
      const quantised = await openModel(files, startNodeEngine().engine, { weights });
      const { latents } = await paint(quantised, operation, '');
      expect(Math.max(...latents.data.map((value, i) => Math.abs(value - full.data[i])))).toBeLessThanOrEqual(1);
    }
  });
});

/** A network of which nothing but the names and shapes of its tensors is there, told from how they are asked for. */
class Published implements WeightIndex {
  bytes = 0;
  constructor(readonly shapes: (name: string) => number[] | undefined) {}
  get(name: string): StoredTensor | undefined {
    const shape = this.shapes(name);
    return shape && { name, dtype: 'BF16', shape, file: 'x', offset: 0, length: 2 * shape.reduce((a, b) => a * b, 1) };
  }
  names(): Iterable<string> {
    return [];
  }
}

describe('at its published size', () => {
  const dim = 3072;
  const ofTransformer = (name: string): number[] | undefined => {
    const layer = name.replace(/^transformer_blocks\.\d+\./, '').replace(/\.(weight|bias)$/, '');
    const rows: Record<string, [number, number]> = {
      img_in: [dim, 64],
      txt_in: [dim, 3584],
      proj_out: [64, dim],
      'norm_out.linear': [2 * dim, dim],
      'time_text_embed.timestep_embedder.linear_1': [dim, 256],
      'time_text_embed.timestep_embedder.linear_2': [dim, dim],
      'img_mod.1': [6 * dim, dim],
      'txt_mod.1': [6 * dim, dim],
      'img_mlp.net.0.proj': [4 * dim, dim],
      'img_mlp.net.2': [dim, 4 * dim],
      'txt_mlp.net.0.proj': [4 * dim, dim],
      'txt_mlp.net.2': [dim, 4 * dim],
      txt_norm: [3584, 1],
    };
    const known =
      rows[layer] ?? (/norm_(added_)?[qk]$/.test(layer) ? [128, 1] : /^attn\./.test(layer) ? [dim, dim] : undefined);
    return known && (name.endsWith('.bias') || known[1] === 1 ? [known[0]] : [...known]);
  };

  test('the transformer is planned: 20 billion weights, 12 GiB in 4 bits, and with a picture that it is shown', () => {
    const config = qwenImage.parseConfig({});
    const options = { provider: 'webgpu', dtype: 'f32', batch: 1, height: 128, width: 128, text: 128 } as const;
    const weights = new Published(ofTransformer);
    const full = qwenImage.build(config, weights, options);
    expect(full.weightBytes / 4 / 1e9).toBeCloseTo(20.43, 1);
    const quarter = qwenImage.build(config, weights, { ...options, weights: 'q4' });
    expect(quarter.weightBytes / 2 ** 30).toBeLessThan(12.5);
    const shown = qwenImage.build(config, weights, { ...options, weights: 'q4', shown: [{ height: 128, width: 128 }] });
    expect(shown.weightBytes).toBe(quarter.weightBytes);
    expect(shown.flops / quarter.flops).toBeGreaterThan(2);
    console.log(
      `Qwen-Image at 1024²: ${(full.flops / 1e12).toFixed(1)} TFLOP a step, ${(quarter.weightBytes / 2 ** 30).toFixed(2)} GiB in 4 bits, activations ${(quarter.activationBytes / 2 ** 30).toFixed(2)} GiB; with a picture ${(shown.flops / 1e12).toFixed(1)} TFLOP`,
    );
  });
});

describe('trying clothes on', () => {
  const folder = join(GOLDENS, 'transformers', 'try-on-masked');
  const pictures: Record<string, PixelImage> = Object.fromEntries(
    ['person', 'cloth', 'mask'].map((name) => [name, pngPixels(readFileSync(join(folder, `${name}.png`)))]),
  );
  const context = {
    progress: () => undefined,
    readImage: (source: string) => Promise.resolve(pictures[source.split(',')[1]]),
  } as unknown as Context;
  const named = (name: string) => `data:image/png;base64,${name}`;
  /** As the pipeline hands it on. */
  const dressed = async (parameters: object) => {
    const operation = parseOperation({
      operation: 'image_generation',
      config: 'try_on',
      checkpoint: 'x',
      parameters: { person: named('person'), cloth: named('cloth'), seed: '1', ...parameters },
    });
    const planned = plan(operation, catalogue, () => undefined, null);
    if (!planned.ok) {
      throw new Error(planned.reasons[0].message);
    }
    const { steps } = planned.plan;
    const input = { ...steps[0].parameters, operation: steps[0].operation };
    const outputs = await tryOn.execute(v.parse(tryOn.parameters, input), context);
    return { steps, outputs: outputs as { images: PixelImage[]; prompt: string } };
  };

  test('Pillow lays the same grey on the person, and both pictures and all words go on', async () => {
    const { steps, outputs } = await dressed({ mask_image: named('mask'), prompt: ' Tuck the shirt in. ' });
    const expected = new Uint8Array(readFileSync(join(folder, 'expected.safetensors')));
    const [covered, cloth] = outputs.images.map(({ data }) => [...data.filter((_, i) => i % 4 !== 3)]);
    expect(covered).toEqual([...tensorBytes(expected, 'image_0')]);
    expect(cloth).toEqual([...tensorBytes(expected, 'image_1')]);
    const { INSTRUCTION, MASK_INSTRUCTION } = catalogue.configs.try_on.parameters;
    expect(outputs.prompt).toBe([INSTRUCTION, MASK_INSTRUCTION, 'Tuck the shirt in.'].join(' '));
    expect(steps.map(({ id, wired }) => [id, Object.keys(wired)])).toEqual([
      ['dressing', []],
      ['output', ['images', 'prompt']],
    ]);
    expect(steps[1].parameters).toMatchObject({ proportions_of: 1, steps: 40 });
  });

  test('without a mask the person stays, and nothing is said of one', async () => {
    const { outputs } = await dressed({});
    expect(outputs.images).toEqual([pictures.person, pictures.cloth]);
    expect(outputs.prompt).toBe(catalogue.configs.try_on.parameters.INSTRUCTION);
  });

  test('what is missing or does not fit is said in a sentence', async () => {
    await expect(dressed({ person: undefined })).rejects.toThrow(/person must be a picture/);
    await expect(dressed({ cloth: undefined })).rejects.toThrow(/cloth must be a picture/);
    await expect(dressed({ images: [named('cloth')] })).rejects.toThrow(/unknown field "images"/);
    await expect(dressed({ mask_image: named('cloth') })).rejects.toThrow(
      'The mask has 72×64 pixels and the picture of the person 60×90; paint the mask on that picture.',
    );
  });
});
