/** LoRAs of flow transformers in their trainers' layouts: merged weights against PEFT's, and what is said about those that do not fit. */
import { describe, expect, test } from 'vitest';
import { openModel } from '../src/models/family.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { filesOf } from './checkpoint_folder.ts';
import { flowLora, flowLoraCases, flowLoraStrength, mergedFlowLora } from './flow_lora_goldens.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

describe.each(flowLoraCases)('$name', ({ name }) => {
  test('merges to the weights of PEFT', async () => {
    const { leftOut, changed, expected, difference } = await mergedFlowLora(name);
    expect(leftOut).toEqual([]);
    expect(changed).toEqual(expected);
    expect(difference).toBeLessThanOrEqual(1e-6);
  });
});

describe('a model', () => {
  const open = (checkpoint: string) =>
    openModel(filesOf(checkpoint, weightlessContents(checkpoint)), startNodeEngine().engine);
  const lora = (name: string) => ({ file: new Blob([flowLora(name)]), name, strength: flowLoraStrength });

  test('takes it, records it, and is as before without it', async () => {
    const model = await open('tiny-flux1-dev');
    expect(model.summary.takesLoras).toBe(true);
    expect(await model.useLoras([lora('flux1-kohya')])).toEqual([]);
    expect(await model.provenance()).toMatchObject({ loras: [{ name: 'flux1-kohya', weight: flowLoraStrength }] });
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
