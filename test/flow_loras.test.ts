/** LoRAs of flow transformers in their trainers' layouts: merged weights against PEFT's, and what is said about those that do not fit. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { StoredTensor } from '../src/graphs/graph.ts';
import { openModel } from '../src/models/family.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { readLora, withLora } from '../src/weights/lora.ts';
import { readSafetensorsHeader, writeSafetensors } from '../src/weights/safetensors.ts';
import { filesOf } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';
import { readExternal } from './onnx_node.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const GOLDENS = join(import.meta.dirname, 'goldens', 'flow_loras');
const read = (name: string) => new Uint8Array(readFileSync(join(GOLDENS, name)));
const { scale, cases } = JSON.parse(readFileSync(join(GOLDENS, 'cases.json'), 'utf8')) as {
  scale: number;
  cases: Record<string, { checkpoint: string }>;
};
const COLUMN = 3;

async function transformerOf(checkpoint: string) {
  const files = filesOf(checkpoint, weightlessContents(checkpoint));
  const { weights, files: paths } = await (await Checkpoint.open(files)).component('transformer');
  const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
  return { files, weights, blobs };
}

describe.each(Object.entries(cases))('%s', (name, { checkpoint }) => {
  test('merges to the weights of PEFT', async () => {
    const bytes = read('expected.safetensors');
    const { tensors } = await readSafetensorsHeader(new Blob([bytes]), 'expected.safetensors');
    const expected = [...tensors.values()].filter((tensor) => tensor.name.startsWith(`${name}/`));
    const { weights, blobs } = await transformerOf(checkpoint);
    const file = new Blob([read(`${name}.safetensors`)]);
    const lora = await readLora(file, 'lora.safetensors', { transformer: weights });
    expect(lora.leftOut).toEqual([]);
    expect([...lora.transformer.keys()].map((path) => `${name}/${path}.weight`).sort()).toEqual(
      expected.map((tensor) => tensor.name).sort(),
    );
    const merged = withLora(weights, lora.transformer, scale);
    blobs.set('lora.safetensors', file);
    let worst = 0;
    for (const { name: key, offset, length } of expected) {
      const tensor = merged.get(key.slice(name.length + 1)) as StoredTensor;
      const [rows, columns] = tensor.shape;
      const all = await readExternal(
        { location: 'x', kind: 'cast', tensor, to: 'f32', length: 4 * rows * columns },
        blobs,
      );
      const values = new Float32Array(all.slice().buffer);
      const middle = Math.floor(rows / 2);
      const own = [
        ...Array.from({ length: rows }, (_, row) => values[row * columns + COLUMN]),
        ...values.subarray(middle * columns, (middle + 1) * columns),
      ];
      const golden = new Float32Array(bytes.slice(offset, offset + length).buffer);
      expect(own).toHaveLength(golden.length);
      worst = golden.reduce((most, value, i) => Math.max(most, Math.abs(value - own[i])), worst);
    }
    console.log(`${name}: ${worst.toExponential(1)}`);
    expect(worst).toBeLessThanOrEqual(1e-6);
  });
});

describe('a model', () => {
  const open = (checkpoint: string) =>
    openModel(filesOf(checkpoint, weightlessContents(checkpoint)), startNodeEngine().engine);
  const lora = (name: string) => ({ file: new Blob([read(`${name}.safetensors`)]), name, strength: scale });

  test('takes it, records it, and is as before without it', async () => {
    const model = await open('tiny-flux1-dev');
    expect(model.summary.takesLoras).toBe(true);
    expect(await model.useLoras([lora('flux1-kohya')])).toEqual([]);
    expect(await model.provenance()).toMatchObject({ loras: [{ name: 'flux1-kohya', weight: scale }] });
    await model.useLoras([]);
    expect(await model.provenance()).not.toHaveProperty('loras');
  });

  test('names what it has no place for', async () => {
    const model = await open('tiny-flux1-dev');
    const data = new Float32Array(4 * 64).fill(0.1);
    const file = new Blob([
      writeSafetensors([
        ['transformer.transformer_blocks.0.attn.to_q.lora_A.weight', { dims: [1, 32], data: data.slice(0, 32) }],
        ['transformer.transformer_blocks.0.attn.to_q.lora_B.weight', { dims: [32, 1], data: data.slice(0, 32) }],
        ['lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight', { dims: [4, 64], data }],
        ['lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight', { dims: [64, 4], data }],
      ]),
    ]);
    const [sentence] = await model.useLoras([{ file, name: 'mixed', strength: 1 }]);
    expect(sentence).toMatch(/lora_te2_encoder_block_0_layer_0_SelfAttention_q/);
  });

  test.each([
    ['tiny-z-image', 'flux1-kohya'],
    ['tiny-flux1-dev', 'z-image-ai-toolkit'],
    ['tiny-sd35', 'flux2-comfyui'],
  ])('%s refuses %s, which is of another family', async (checkpoint, name) => {
    const model = await open(checkpoint);
    await expect(model.useLoras([lora(name)])).rejects.toThrow(
      new RegExp(
        `^The LoRA ${name} changes ".*", which this checkpoint does not have; choose a LoRA that was made for this kind`,
      ),
    );
  });
});
