/** What CLIP sees, what IP-Adapters refuse and record; the pictures made with them are compared by test/fidelity/pictures.ts. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { parameters } from '../chunks/output_image_stable_diffusion.ts';
import { clipPicture } from '../src/formats/clip_picture.ts';
import * as clipVision from '../src/graphs/clip_vision.ts';
import { openModel } from '../src/models/family.ts';
import { pngPixels } from '../src/package/node_picture.ts';
import { readClipVision } from '../src/weights/clip_vision_file.ts';
import { additionIn, requireAddition } from '../src/weights/library/addition_kinds.ts';
import { architectureFile, architectureFiles, renamed, same } from './architecture_checkpoints.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { startNodeEngine } from './node_engine.ts';
import { readTensors, run } from './onnx_node.ts';

const SEEN = join(import.meta.dirname, 'goldens', 'clip_vision');
const seen = readTensors(join(SEEN, 'expected.safetensors'));
const expected = (name: string) => seen.get(name)?.data ?? new Float32Array();

test.each(['wide', 'tall', 'small', 'same'])('CLIP sees a %s picture as its processor gives it', (name) => {
  const { dims, data } = clipPicture(pngPixels(readFileSync(join(SEEN, `${name}.png`))), 32);
  expect(dims).toEqual([1, 3, 32, 32]);
  // One step of a colour is 0.015.
  expect(greatestDifference(data, expected(`pixels.${name}`))).toBeLessThan(1e-5);
});

describe.each(['vision-h', 'vision-g'])('the vision encoder %s', (name) => {
  test.each(['wasm', 'webgpu'] as const)('gives what the reference gives (nodes for %s)', async (provider) => {
    const blob = new Blob([architectureFile(`${name}.safetensors`)]);
    const { config, weights } = await readClipVision(blob, name, name);
    const options = { provider, dtype: 'f32', batch: 1, height: 0, width: 0 } as const;
    const index = {
      get: (tensor: string) => weights.get(tensor),
      names: () => weights.names(),
      blobs: new Map([[name, blob]]),
    };
    for (const [output, golden] of [
      ['image_embeds', 'embeds'],
      ['penultimate_hidden_state', 'states'],
    ] as const) {
      const given = await run(clipVision.build(config, weights, options, output), index, {
        pixel_values: expected('pixels.wide'),
      });
      expect(greatestDifference(given[output], expected(`${name}.${golden}`))).toBeLessThan(1e-4);
    }
  });
});

const encoder = (name: string) => ({ file: renamed(name, same), name });
const adapter = (name: string) => ({ file: renamed(name, same), name });

describe('an IP-Adapter', () => {
  const open = () => openModel(architectureFiles('sd1'), startNodeEngine().engine);

  test('is known by its header, as its encoder is', async () => {
    for (const [name, kind] of [
      ['ip-adapter-sd1', 'ip_adapter'],
      ['ip-adapter-plus-sd1', 'ip_adapter'],
      ['ip-adapter-full-sd1', 'ip_adapter'],
      ['vision-h', 'image_encoder'],
      ['control-sd1', 'controlnet'],
      ['sdxl-kohya', 'lora'],
    ]) {
      expect(await additionIn(renamed(name, same), name)).toBe(kind);
      expect(await requireAddition(renamed(name, same), name)).toBe(kind);
    }
  });

  test.each<[string, Blob, string]>([
    [
      'for faces',
      renamed('ip-adapter-plus-sd1', (name) => name.replace('image_proj.', 'image_proj.perceiver_resampler.')),
      'x is an IP-Adapter for faces (FaceID), which sees them by a network that Darkroom does not have; choose a plain, plus or full-face one.',
    ],
    [
      'of a flow transformer',
      renamed('ip-adapter-sd1', (name) => name.replace('ip_adapter.1.', 'double_blocks.0.processor.ip_adapter_')),
      'x is an IP-Adapter of a flow transformer, which Darkroom cannot run; choose one for Stable Diffusion 1 or XL.',
    ],
    [
      'of an unknown kind',
      renamed('ip-adapter-sd1', (name) => name.replace('image_proj.proj.', 'image_proj.more.')),
      'x is not an IP-Adapter of a kind that Darkroom knows; choose a plain, plus or full-face one for Stable Diffusion 1 or XL.',
    ],
    [
      "'s encoder in OpenCLIP's layout",
      renamed('vision-h', (name) => name.replace('vision_model.embeddings.patch_embedding', 'visual.conv1')),
      "x is a CLIP in OpenCLIP's own layout; get its vision encoder as image_encoder/model.safetensors, as it lies beside IP-Adapters.",
    ],
  ])('%s is not stored', async (_, file, message) => {
    await expect(requireAddition(file, 'x')).rejects.toMatchObject({ code: 'checkpoint_unsupported', message });
  });

  test.each<[string, Blob, { file: Blob; name: string }[], string]>([
    [
      'of Stable Diffusion XL',
      renamed('ip-adapter-xl', same),
      [encoder('vision-g')],
      'The IP-Adapter "x" was made for another kind of model: its cross_attention_dim is 80, and that of "sd1" is 32; choose one for this kind of checkpoint.',
    ],
    [
      'with fewer attentions',
      renamed('ip-adapter-sd1', (name) => (name.startsWith('ip_adapter.7.') ? null : name)),
      [encoder('vision-h')],
      'The IP-Adapter "x" was made for another kind of model: its number of cross-attentions is 3, and that of "sd1" is 4; choose one for this kind of checkpoint.',
    ],
    [
      'that is incomplete',
      renamed('ip-adapter-sd1', (name) => (name === 'image_proj.norm.bias' ? null : name)),
      [encoder('vision-h')],
      'The checkpoint lacks the tensor "image_proj.norm.bias" of its IP-Adapter; download or copy it again, or choose another checkpoint.',
    ],
    [
      'without an encoder',
      renamed('ip-adapter-sd1', same),
      [],
      'The IP-Adapter "x" needs a CLIP vision encoder, and none is stored here; add image_encoder/model.safetensors, which lies beside the IP-Adapter.',
    ],
    [
      'with an encoder of another size',
      renamed('ip-adapter-sd1', same),
      [encoder('vision-g')],
      'The IP-Adapter "x" needs a CLIP vision encoder that gives 48 numbers for a picture, and "vision-g" gives others; add the one that lies beside the IP-Adapter.',
    ],
    [
      'that sees parts, with an encoder of another size',
      renamed('ip-adapter-plus-sd1', same),
      [encoder('vision-g')],
      'The IP-Adapter "x" needs a CLIP vision encoder that gives 64 numbers for each part of a picture, and "vision-g" gives others; add the one that lies beside the IP-Adapter.',
    ],
  ])('%s is refused in one sentence, and nothing is changed', async (_, file, encoders, message) => {
    const model = await open();
    await model.useAdditions?.({ ip_adapters: [adapter('ip-adapter-sd1')], image_encoders: [encoder('vision-h')] });
    const refused = model.useAdditions?.({ ip_adapters: [{ file, name: 'x' }], image_encoders: encoders });
    await expect(refused).rejects.toMatchObject({ message });
    expect((await model.provenance()).ip_adapters).toMatchObject([{ name: 'ip-adapter-sd1' }]);
  });

  test('is recorded with its encoder and how it is used', async () => {
    const model = await open();
    const used = (name: string, weight: number) => ({
      ...adapter(name),
      ref: `ip_adapter:import:${name}`,
      sha256: 'abc',
      use: { weight, images: 1 },
    });
    await model.useAdditions?.({
      ip_adapters: [used('ip-adapter-sd1', 0.6), used('ip-adapter-plus-sd1', 1)],
      image_encoders: [encoder('vision-g'), { ...encoder('vision-h'), ref: 'image_encoder:import:h', sha256: 'def' }],
    });
    const image_encoder = { image_encoder: 'image_encoder:import:h', name: 'vision-h', sha256: 'def' };
    expect((await model.provenance()).ip_adapters).toEqual([
      {
        ip_adapter: 'ip_adapter:import:ip-adapter-sd1',
        name: 'ip-adapter-sd1',
        sha256: 'abc',
        weight: 0.6,
        images: 1,
        image_encoder,
      },
      {
        ip_adapter: 'ip_adapter:import:ip-adapter-plus-sd1',
        name: 'ip-adapter-plus-sd1',
        sha256: 'abc',
        weight: 1,
        images: 1,
        image_encoder,
      },
    ]);
  });

  test('counts in the estimate, with the encoder that most need', async () => {
    const model = await open();
    const toLoad = await model.toLoad({
      operation: 'image_generation',
      width: 32,
      height: 32,
      batch_size: 1,
      steps: 4,
      guidance_scale: 7,
      imagePrompts: [1],
    });
    // As many numbers as transformers' class has.
    expect(toLoad.get('image_encoder.0')).toBe(4 * 632_076_800);
    expect(toLoad.get('ip_adapter.0')).toBeGreaterThan(0);
  });
});

test('an operation has as many pictures as its IP-Adapters say', () => {
  const wrong = (more: object) => {
    const result = v.safeParse(parameters, { operation: 'image_generation', prompt: 'a fox', ...more });
    return result.issues?.[0].message;
  };
  const picture = 'data:image/png;base64,AA==';
  const use = { ip_adapter: 'plus' };
  expect(wrong({ ip_adapters: [use], ip_adapter_images: [picture] })).toBeUndefined();
  expect(wrong({ ip_adapters: [use, { ...use, images: 2 }], ip_adapter_images: [picture, picture, picture] })).toBe(
    undefined,
  );
  expect(wrong({ ip_adapters: [use], ip_adapter_images: [picture, picture] })).toBe(
    'ip_adapter_images must be as many pictures as the ip_adapters say together, in the same order; give each IP-Adapter its pictures.',
  );
  expect(wrong({ ip_adapters: [{ ...use, weight: -1 }], ip_adapter_images: [picture] })).toBe(
    'weight must be a number from 0 to 4.',
  );
  expect(wrong({ ip_adapters: [{ ...use, images: 0 }] })).toBe('images must be a whole number from 1 to 8.');
});
