/** What a loaded model accepts besides a prompt: LoRAs and weights in another form; and what it reports about them. */
import 'fake-indexeddb/auto';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { SampleRequest } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';
import { openModel, type LoadedModel, type ModelLora } from '../src/models/family.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensors } from '../src/weights/safetensors.ts';
import { folderFiles, type Contents } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';

/** Its weights are float32, so that a change merged into its files equals a LoRA's change exactly. */
const TURBO = join(import.meta.dirname, 'checkpoints', 'tiny-turbo');
/** Wide enough for blocks of 4 bits. */
const SD21 = join(import.meta.dirname, 'checkpoints', 'tiny-sd21');
const OPTIMUM = join(import.meta.dirname, 'onnx_repositories', 'optimum');

const LAYERS = {
  unet: 'mid_block.attentions.0.transformer_blocks.0.attn2.to_v',
  text_encoder: 'text_model.encoder.layers.0.mlp.fc1',
};

describe('LoRAs', () => {
  test('change the pictures as the merged weights would, and leave no trace when they are taken off', async () => {
    const hex = expect.stringMatching(/^[0-9a-f]{64}$/) as string;
    const both = [lora('a', 0.75, ['unet', 'text_encoder']), lora('b', -0.5, ['unet'])];
    const merged = await open((contents) => {
      for (const { matrices, strength } of both) {
        for (const { network, up, down, rank } of matrices) {
          merge(contents, network, up, down, rank, strength);
        }
      }
    });
    const expected = await latents(merged.model);

    const { model, log } = await open();
    const plain = await latents(model);
    await model.useLoras(both);
    const changed = await latents(model);
    expect(largest(changed, plain)).toBeGreaterThan(1e-2);
    expect(largest(changed, expected)).toBeLessThanOrEqual(1e-4);
    expect((await model.provenance()).loras).toEqual([
      { name: 'a.safetensors', weight: 0.75, sha256: hex, data_sha256: hex },
      { name: 'b.safetensors', weight: -0.5, sha256: hex, data_sha256: hex },
    ]);

    await model.useLoras([]);
    expect(largest(await latents(model), plain)).toBe(0);
    expect(await model.provenance()).not.toHaveProperty('loras');
    await model.release();
    expect(log.released).toBe(log.created);
  });

  test('bring only those networks anew to the device that they change, and none when the list stays as it is', async () => {
    const { model, log } = await open();
    await latents(model);
    const before = log.created;
    await model.useLoras([lora('a', 1, ['unet'])]);
    await latents(model);
    // The denoiser and its text projections; not the text encoder.
    expect(log.created - before).toBe(2);
    await model.useLoras([lora('a', 1, ['unet'])]);
    await latents(model);
    expect(log.created - before).toBe(2);
    await model.useLoras([lora('a', 0.5, ['unet'])]);
    await latents(model);
    expect(log.created - before).toBe(4);
    // One that only changes the text encoder leaves the denoiser alone, and one with weight 0 leaves everything alone.
    const words = lora('b', 1, ['text_encoder']);
    await model.useLoras([lora('a', 0.5, ['unet']), words]);
    await latents(model);
    expect(log.created - before).toBe(5);
    await model.useLoras([lora('a', 0.5, ['unet']), words, lora('c', 0, ['unet', 'text_encoder'])]);
    await latents(model);
    expect(log.created - before).toBe(5);
    // The library returns the same file as a new Blob each time.
    const stored = (strength: number) => ({ ...lora('d', strength, ['unet']), sha256: 'ab'.repeat(32) });
    await model.useLoras([stored(1)]);
    await latents(model);
    const changed = log.created;
    await model.useLoras([{ ...stored(1), file: new Blob([stored(1).file]) }]);
    await latents(model);
    expect(log.created).toBe(changed);
  });

  test('count in a part of the steps, for which the denoiser is loaded anew, also where it is gone on with', async () => {
    const { model, log } = await open();
    const [on, half] = [lora('a', 1, ['unet']), { ...lora('a', 1, ['unet']), start: 0.5 }];
    await model.useLoras([on]);
    const whole = await latents(model);
    await model.useLoras([]);
    const plain = await latents(model);
    await model.useLoras([half]);
    const before = log.created;
    const kept: unknown[] = [];
    const expected = await latents(model, { keep: (state) => kept.push(structuredClone(state)) });
    // Without it for the first step the network stays as it was.
    expect(log.created - before).toBe(2);
    expect(largest(expected, plain)).toBeGreaterThan(1e-4);
    expect(largest(expected, whole)).toBeGreaterThan(1e-4);
    expect(largest(await latents(model), expected)).toBe(0);
    expect(largest(await latents(model, { resume: kept[0] }), expected)).toBe(0);
    await model.useLoras([on]);
    expect(largest(await latents(model), whole)).toBe(0);
  });

  test('are judged before they are used', async () => {
    const { model } = await open();
    await model.checkLora(lora('a', 1, ['unet']));
    const foreign = new Blob([
      writeSafetensors([
        ['lora_te2_text_model_x.lora_down.weight', { dims: [2, 8], data: new Float32Array(16) }],
        ['lora_te2_text_model_x.lora_up.weight', { dims: [8, 2], data: new Float32Array(16) }],
      ]),
    ]);
    await expect(model.checkLora({ file: foreign, name: 'XL', strength: 1 })).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
      message: expect.stringMatching(
        /^The LoRA XL changes "lora_te2_.*", which this checkpoint does not have; /,
      ) as string,
    });
    expect(await model.provenance()).not.toHaveProperty('loras');
    expect(model.summary.takesLoras).toBe(true);
  });

  test('of other models are refused, and those in use stay', async () => {
    const { model } = await open();
    const used = lora('a', 1, ['unet']);
    await model.useLoras([used]);
    const before = await latents(model);
    const foreign = new Blob([
      writeSafetensors([
        ['unet.no_such_block.to_q.lora_A.weight', { dims: [2, 8], data: new Float32Array(16) }],
        ['unet.no_such_block.to_q.lora_B.weight', { dims: [8, 2], data: new Float32Array(16) }],
      ]),
    ]);
    await expect(
      model.useLoras([used, { file: foreign, name: 'other.safetensors', strength: 1 }]),
    ).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
      message: expect.stringMatching(/^The LoRA other\.safetensors changes "unet\.no_such_block\.to_q"/) as string,
    });
    expect(largest(await latents(model), before)).toBe(0);
  });

  test('may bear the name of a file of the checkpoint, or of each other', async () => {
    const { model } = await open();
    const [one, two] = [lora('x', 1, ['unet']), lora('y', 1, ['unet'])];
    await model.useLoras([one, two]);
    const expected = await latents(model);
    const name = 'unet/diffusion_pytorch_model.safetensors';
    await model.useLoras([
      { ...one, name },
      { ...two, name },
    ]);
    expect(largest(await latents(model), expected)).toBe(0);
  });

  test('cannot be merged into ready-made ONNX, which says so', async () => {
    const model = await openModel(folderFiles(OPTIMUM), startNodeEngine().engine);
    await expect(model.useLoras([lora('a', 1, ['unet'])])).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
      message: expect.stringMatching(/is ready-made ONNX, into which no LoRA can be merged/) as string,
    });
    await model.useLoras([]);
  });
});

describe('weights', () => {
  test('in blocks of 8 and 4 bits give nearly the same picture, take less, and are told of', async () => {
    const openIn = (weights: 'full' | 'q8' | 'q4') =>
      openModel(folderFiles(SD21), startNodeEngine().engine, { weights });
    const full = await openIn('full');
    const expected = await latents(full);
    const magnitude = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    let bytes = full.summary.memoryBytes;
    expect((await full.provenance()).weights).toBe('full');
    for (const [weights, limit] of [
      ['q8', 0.02],
      ['q4', 0.2],
    ] as const) {
      const model = await openIn(weights);
      const difference = largest(await latents(model), expected);
      console.log(`${weights}: latents ${difference.toExponential(1)} of ${magnitude.toFixed(1)}`);
      expect(difference).toBeGreaterThan(0);
      expect(difference).toBeLessThanOrEqual(limit * magnitude);
      expect(model.summary.variants).toEqual(['full', 'q8', 'q4']);
      expect(model.summary.memoryBytes).toBeLessThan(bytes);
      bytes = model.summary.memoryBytes;
      expect((await model.provenance()).weights).toBe(weights);
    }
  });
});

test('a summary names the files that a run needs, and no others', async () => {
  const { model } = await open((contents) => {
    for (const path of ['README.md', 'unet/diffusion_pytorch_model.bin', 'safety_checker/model.safetensors']) {
      contents.set(path, new Uint8Array(8));
    }
  });
  expect([...model.summary.needs].sort()).toEqual(
    folderFiles(TURBO)
      .paths()
      .filter((path) => !path.endsWith('.md'))
      .sort(),
  );
  expect(model.summary.parameters).toBeGreaterThan(1_000_000);
});

async function open(change?: (contents: Contents) => void) {
  const { engine, log } = startNodeEngine();
  return { model: await openModel(folderFiles(TURBO, change), engine), log };
}

async function latents(model: LoadedModel, more: Partial<SampleRequest> = {}): Promise<Float32Array> {
  const text = await model.encodeText({ prompt: 'a red house', negative_prompt: '', guidance_scale: 2, batch_size: 1 });
  const result = await model.sample(text, {
    width: 64,
    height: 64,
    batch_size: 1,
    steps: 2,
    guidance_scale: 2,
    strength: 1,
    guidance_mode: 'auto',
    random: new TorchGenerator('3'),
    start: undefined,
    mask: undefined,
    previews: false,
    signal: new AbortController().signal,
    resume: null,
    keep: () => undefined,
    onStart: () => undefined,
    onStep: () => undefined,
    ...more,
  });
  return result.read();
}

function largest(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
}

// LoRAs, and the same merged by hand

type Network = keyof typeof LAYERS;

interface MadeLora extends ModelLora {
  matrices: { network: Network; up: Float32Array<ArrayBuffer>; down: Float32Array<ArrayBuffer>; rank: number }[];
}

function lora(name: string, strength: number, networks: Network[]): MadeLora {
  const rank = 4;
  const files = folderFiles(TURBO);
  expect(files.paths()).toContain('unet/diffusion_pytorch_model.safetensors');
  const matrices = networks.map((network, i) => {
    const [rows, columns] = SHAPES[network];
    const wave = (count: number, phase: number) =>
      Float32Array.from({ length: count }, (_, k) => 0.25 * Math.sin(phase + name.charCodeAt(0) + 0.7 * k));
    return { network, up: wave(rows * rank, i), down: wave(rank * columns, i + 9), rank };
  });
  const tensors = matrices.flatMap(
    ({ network, up, down }): [string, { dims: number[]; data: Float32Array<ArrayBuffer> }][] => {
      const module = `${network}.${LAYERS[network]}`;
      return [
        [`${module}.lora_A.weight`, { dims: [rank, down.length / rank], data: down }],
        [`${module}.lora_B.weight`, { dims: [up.length / rank, rank], data: up }],
      ];
    },
  );
  const file = new File([writeSafetensors(tensors)], `${name}.safetensors`, { lastModified: 1 });
  return { file, name: file.name, strength, matrices };
}

/** [rows, columns] of the layers that are changed. */
const SHAPES: Record<Network, [number, number]> = { unet: [32, 32], text_encoder: [128, 32] };
const PATHS: Record<Network, string> = {
  unet: 'unet/diffusion_pytorch_model.safetensors',
  text_encoder: 'text_encoder/model.safetensors',
};

/** Adds strength · up @ down to the stored weights; without an alpha of its own a LoRA's scale is 1. */
function merge(
  contents: Contents,
  network: Network,
  up: Float32Array,
  down: Float32Array,
  rank: number,
  strength: number,
): void {
  const bytes = contents.get(PATHS[network]) as Uint8Array<ArrayBuffer>;
  const length = safetensorsHeaderLength(bytes.subarray(0, 8), bytes.length, network);
  const { tensors } = parseSafetensorsHeader(bytes.subarray(8, 8 + length), bytes.length, network);
  const tensor = tensors.get(`${LAYERS[network]}.weight`);
  const [rows, columns] = SHAPES[network];
  expect(tensor).toMatchObject({ dtype: 'F32', shape: [rows, columns] });
  const view = new DataView(bytes.buffer, bytes.byteOffset + (tensor?.offset ?? 0), 4 * rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) {
        sum += up[row * rank + k] * down[k * columns + column];
      }
      const at = 4 * (row * columns + column);
      view.setFloat32(at, view.getFloat32(at, true) + strength * sum, true);
    }
  }
}
