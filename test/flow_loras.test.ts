/** LoRAs of flow transformers in their trainers' layouts: merged weights against PEFT's, and what is said about those that do not fit. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { CpuTensor } from '../src/core/media.ts';
import type { StoredTensor } from '../src/graphs/graph.ts';
import { openModel } from '../src/models/family.ts';
import { familiesOf } from '../src/weights/lora_families.ts';
import { readLora } from '../src/weights/lora.ts';
import type { LoraTargets } from '../src/weights/lora_names.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { filesOf } from './checkpoint_folder.ts';
import { flowLora, flowLoraCases, flowLoraStrength, mergedFlowLora } from './flow_lora_goldens.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const WEIGHTLESS = join(import.meta.dirname, 'weightless');

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
});

/** A checkpoint of each family whose LoRAs are taken, and what people call the family. */
const FAMILIES: Record<string, string> = {
  'tiny-flux1-dev': 'FLUX.1',
  'tiny-flux2-klein': 'FLUX.2',
  'tiny-flux3': 'FLUX.3',
  'tiny-ltx': 'LTX-Video',
  'tiny-qwen-image': 'Qwen-Image',
  'tiny-sd35': 'Stable Diffusion 3',
  'tiny-wan': 'Wan',
  'tiny-z-image': 'Z-Image',
  'tiny-animatediff': 'Stable Diffusion',
};

describe('a LoRA for another family', () => {
  /** The layers that LoRAs change, from the list of a checkpoint's tensors. */
  function layersOf(checkpoint: string): Map<string, StoredTensor> {
    const { files } = JSON.parse(readFileSync(join(WEIGHTLESS, checkpoint, 'weights.json'), 'utf8')) as {
      files: { path: string; tensors: { name: string; shape: number[] }[] }[];
    };
    const all = files.filter(({ path }) => /^(?:transformer|unet)\//.test(path)).flatMap(({ tensors }) => tensors);
    return new Map(
      all.map(({ name, shape }) => [name, { file: 'x', offset: 0, length: 0, dtype: 'F32', name, shape }]),
    );
  }

  function targetsOf(checkpoint: string): LoraTargets {
    const layers = layersOf(checkpoint);
    const index = { get: (name: string) => layers.get(name), names: () => layers.keys() };
    return checkpoint === 'tiny-animatediff' ? { unet: index } : { transformer: index };
  }

  /** A LoRA of all linear layers of a checkpoint, by diffusers' names, or as kohya's trainers write these. */
  function loraOf(checkpoint: string, writes: (path: string) => string): Blob {
    const pairs = [...layersOf(checkpoint)].flatMap(([name, { shape }]) =>
      shape.length === 2 && name.endsWith('.weight') ? [{ path: writes(name.slice(0, -'.weight'.length)), shape }] : [],
    );
    const data = (count: number) => new Float32Array(count).fill(0.1);
    return new Blob([
      writeSafetensors(
        pairs.flatMap(({ path, shape: [rows, columns] }): [string, CpuTensor][] => [
          [`${path}.lora_down.weight`, { dims: [1, columns], data: data(columns) }],
          [`${path}.lora_up.weight`, { dims: [rows, 1], data: data(rows) }],
        ]),
      ),
    ]);
  }

  /** Others' layers are called as those that `sd35-peft` changes, and at this scale they are as wide. */
  const NAMESAKES = ['tiny-flux1-dev', 'tiny-flux2-klein', 'tiny-qwen-image'];

  const LAYOUTS: Record<string, (path: string) => string> = {
    diffusers: (path) => `${/^(?:down|mid|up)_block/.test(path) ? 'unet' : 'transformer'}.${path}`,
    kohya: (path) => `lora_unet_${path.replaceAll('.', '_')}`,
    bare: (path) => path,
  };
  const made = Object.keys(FAMILIES).flatMap((of) =>
    Object.entries(LAYOUTS).map(([layout, writes]) => ({ name: `${of} by ${layout}`, of, file: loraOf(of, writes) })),
  );
  // LoRAs of trainers' kinds may change so few layers that more than one family comes into question.
  const trained = flowLoraCases.map(({ name, checkpoint: of }) => ({ name, of, file: new Blob([flowLora(name)]) }));
  const targets = Object.fromEntries(Object.keys(FAMILIES).map((checkpoint) => [checkpoint, targetsOf(checkpoint)]));

  test('is told by widths where names are shared', () => {
    const to_q = (columns: number) => [{ name: 'transformer.transformer_blocks.0.attn.to_q', rows: columns, columns }];
    expect(familiesOf(to_q(1536))).toEqual(['Stable Diffusion 3']);
    expect(familiesOf(to_q(3072))).toEqual(['FLUX.1', 'FLUX.2', 'Qwen-Image', 'Stable Diffusion 3']);
    const text = (columns: number) => [
      { name: 'lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k', rows: 1280, columns },
    ];
    expect([768, 1024, 2048, 32].map((columns) => familiesOf(text(columns)))).toEqual([
      ['Stable Diffusion 1'],
      ['Stable Diffusion 2'],
      ['Stable Diffusion XL'],
      ['Stable Diffusion'],
    ]);
    const linear1 = (rows: number) => [{ name: 'diffusion_model.single_blocks.3.linear1', rows, columns: 3072 }];
    expect(familiesOf(linear1(7 * 3072))).toEqual(['FLUX.1']);
    expect(familiesOf(linear1(9 * 3072))).toEqual(['FLUX.2']);
    expect(familiesOf([{ name: 'lora_te1_text_model_encoder_layers_0_mlp_fc1' }])).toEqual([]);
  });

  test.each([...made, ...trained])('$name is refused by all others in a sentence that names both', async (lora) => {
    const { of, file } = lora;
    const own = await readLora(file, 'x', targets[of]);
    expect(Object.values(own).some((changes) => changes instanceof Map && changes.size > 0)).toBe(true);
    for (const [checkpoint, family] of Object.entries(FAMILIES)) {
      if (checkpoint !== of && !(lora.name === 'sd35-peft' && NAMESAKES.includes(checkpoint))) {
        const refused = readLora(file, 'x', targets[checkpoint]);
        await expect(refused, checkpoint).rejects.toThrow(
          new RegExp(
            `^The LoRA x looks like one for (?:.* / )?${FAMILIES[of]}(?: / .*)?, and this checkpoint is ${family}; choose a LoRA for ${family}, or a checkpoint of `,
          ),
        );
      }
    }
  });
});
