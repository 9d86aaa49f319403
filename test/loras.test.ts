/** LoRA files as found in the wild: which layers they change, in which spelling, by how much, and what is said about the rest. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { convert } from '../src/weights/conversion.ts';
import { leftOutOf, readLora, type Lora } from '../src/weights/lora.ts';
import { isLora, requireLora } from '../src/weights/lora_contents.ts';
import type { ProductLayer } from '../src/weights/lora_layers.ts';
import { LORA_NETWORKS } from '../src/weights/lora_names.ts';
import { originalNames } from '../src/weights/original_layout.ts';
import { readSafetensorsHeader, writeSafetensorsHeader, type NewTensor } from '../src/weights/safetensors.ts';
import { SingleFile } from '../src/weights/single_file.ts';
import { loraTags, takeLoraTags } from '../src/core/lora_tags.ts';
import type { LoraUse } from '../src/core/loras.ts';
import { blockFactor, blockFinder, blocksNotThere } from '../src/weights/lora_blocks.ts';
import { isEmbedding, readEmbedding } from '../src/weights/textual_inversion.ts';
import { CheckpointFolder } from './onnx_node.ts';

const HERE = import.meta.dirname;
const folder = (name: string) => ({
  unet: new CheckpointFolder(`${HERE}/checkpoints/${name}/unet`),
  text_encoder: new CheckpointFolder(`${HERE}/checkpoints/${name}/text_encoder`),
});
const sd15 = folder('tiny-sd15');

const TO_Q = 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q';
const TO_OUT = 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0';
const Q_PROJ = 'text_model.encoder.layers.0.self_attn.q_proj';
const OUT_PROJ = 'text_model.encoder.layers.0.self_attn.out_proj';
const kohya = (path: string, prefix = 'lora_unet') => `${prefix}_${path.replaceAll('.', '_')}`;

type Made = [name: string, shape: number[], dtype?: string, bytes?: Uint8Array];

/** A file with these tensors, f32 and zero unless stated otherwise. */
function file(tensors: Made[], metadata: Record<string, string> = {}): Blob {
  const widths: Record<string, number> = { F64: 8, I64: 8, F16: 2, BF16: 2, F32: 4, I32: 4 };
  const bytes = tensors.map(
    ([, shape, dtype = 'F32', given]) =>
      given ?? new Uint8Array(shape.reduce((product, side) => product * side, widths[dtype] ?? 1)),
  );
  const entries = tensors.map(([name, shape, dtype = 'F32'], i): [string, NewTensor] => [
    name,
    { dtype, shape, length: bytes[i].length },
  ]);
  return new Blob([writeSafetensorsHeader(entries, metadata), ...bytes.map((one) => one.slice())]);
}

const read = (tensors: Made[], metadata = {}, networks = sd15) =>
  readLora(file(tensors, metadata), 'kettle.safetensors', networks);

/** Both matrices for a layer with this many rows and columns. */
const pair = (
  module: string,
  [down, up]: string[] = ['.lora_down.weight', '.lora_up.weight'],
  side = 32,
  dtype = 'F32',
): Made[] => [
  [`${module}${down}`, [2, side], dtype],
  [`${module}${up}`, [side, 2], dtype],
];
const PEFT = ['.lora_A.weight', '.lora_B.weight'];

const changed = (lora: Lora) => LORA_NETWORKS.flatMap((network) => [...lora[network].keys()]);

describe('spellings', () => {
  const old = (name: string) => [`.${name}.down.weight`, `.${name}.up.weight`];
  const adapter = (name: string) => [`.lora_A.${name}.weight`, `.lora_B.${name}.weight`];
  const attn1 = TO_Q.slice(0, -'.to_q'.length);
  const self_attn = Q_PROJ.slice(0, -'.q_proj'.length);

  test.each<[string, string, string[], string]>([
    ['kohya', kohya(TO_Q), old('lora').map((end) => end.replace('lora.', 'lora_')), TO_Q],
    ['kohya over original names', 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q', PEFT, TO_Q],
    ['OneTrainer', `lora_unet.${TO_Q}`, PEFT, TO_Q],
    ['ComfyUI', 'diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q', PEFT, TO_Q],
    ['a checkpoint’s own names', 'model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q', PEFT, TO_Q],
    ['SimpleTuner’s LyCORIS', kohya(TO_Q, 'lycoris'), PEFT, TO_Q],
    ['diffusers', `unet.${TO_Q}`, PEFT, TO_Q],
    ['diffusers without the network', TO_Q, PEFT, TO_Q],
    ['PEFT', `base_model.model.${TO_Q}`, PEFT, TO_Q],
    ['PEFT below the network', `unet.base_model.model.${TO_Q}`, PEFT, TO_Q],
    ['PEFT with an adapter’s name', `unet.${TO_Q}`, adapter('default'), TO_Q],
    ['PEFT with any adapter’s name', `base_model.model.${TO_Q}`, adapter('default_0'), TO_Q],
    ['PEFT with an adapter’s name, not as weights', `unet.${TO_Q}`, ['.lora_A.kettle', '.lora_B.kettle'], TO_Q],
    ['diffusers 0.15', `unet.${attn1}.processor`, old('to_q_lora'), TO_Q],
    ['diffusers 0.14', `${attn1}.processor`, old('to_q_lora'), TO_Q],
    ['diffusers 0.15, the list of the last layer', `unet.${attn1}.processor`, old('to_out_lora'), TO_OUT],
    ['diffusers 0.18', `unet.${TO_Q}`, old('lora'), TO_Q],
    ['kohya, text', kohya(Q_PROJ, 'lora_te'), PEFT, Q_PROJ],
    ['kohya, text, as for two encoders', kohya(Q_PROJ, 'lora_te1'), PEFT, Q_PROJ],
    ['OneTrainer, text', `lora_te.${Q_PROJ}`, PEFT, Q_PROJ],
    ['ComfyUI, text', `text_encoders.clip_l.transformer.${Q_PROJ}`, PEFT, Q_PROJ],
    ['ComfyUI, text, without its transformer', `text_encoders.clip_l.${Q_PROJ}`, PEFT, Q_PROJ],
    ['ComfyUI, text of the second kind', `text_encoders.clip_h.transformer.${Q_PROJ}`, PEFT, Q_PROJ],
    ['a checkpoint’s own names, text', `cond_stage_model.transformer.${Q_PROJ}`, PEFT, Q_PROJ],
    ['LyCORIS, text', kohya(Q_PROJ, 'lycoris'), PEFT, Q_PROJ],
    ['diffusers, text', `text_encoder.${Q_PROJ}`, PEFT, Q_PROJ],
    ['diffusers with transformers 5, text', `text_encoder.${Q_PROJ.replace('text_model.', '')}`, PEFT, Q_PROJ],
    ['PEFT, text', `base_model.model.${Q_PROJ}`, adapter('text'), Q_PROJ],
    ['diffusers 0.15, text', `text_encoder.${self_attn}`, old('to_q_lora'), Q_PROJ],
    ['diffusers 0.15, text, last layer', `text_encoder.${self_attn}`, old('to_out_lora'), OUT_PROJ],
    ['diffusers 0.16, text', `text_encoder.${Q_PROJ}`, old('to_q_lora'), Q_PROJ],
    ['diffusers 0.16, text, last layer', `text_encoder.${OUT_PROJ}`, old('to_out_lora'), OUT_PROJ],
    ['diffusers 0.18, text', `text_encoder.${Q_PROJ}`, old('lora_linear_layer'), Q_PROJ],
  ])('%s', async (_, module, ends, path) => {
    const blob = file(pair(module, ends, path.startsWith('text_model') ? 48 : 32));
    const lora = await readLora(blob, 'kettle.safetensors', sd15);
    expect(changed(lora)).toEqual([path]);
    expect([...lora.unet.values(), ...lora.text_encoder.values()]).toMatchObject([{ alpha: 2, scale: 1 }]);
    expect(leftOutOf(lora, 'kettle')).toBeNull();
    expect(await isLora(blob, 'kettle.safetensors')).toBe(true);
    await requireLora(blob, 'kettle.safetensors');
  });

  test.each(['unet', 'text_encoder'] as const)(
    'every layer of the %s is found by its own name, dotted and not',
    async (network) => {
      for (const name of [`${network}.`, network === 'unet' ? 'lora_unet_' : 'lora_te_']) {
        const tensors: Made[] = [];
        const paths: string[] = [];
        for (const key of sd15[network].names()) {
          const shape = sd15[network].get(key)?.shape ?? [];
          if (key.endsWith('.weight') && shape.length > 1) {
            const path = key.slice(0, -'.weight'.length);
            const module = `${name}${name.endsWith('_') ? path.replaceAll('.', '_') : path}`;
            paths.push(path);
            tensors.push(
              [`${module}.lora_down.weight`, [1, ...shape.slice(1)]],
              [`${module}.lora_up.weight`, [shape[0], 1]],
            );
          }
        }
        const lora = await read(tensors);
        expect(changed(lora).sort()).toEqual(paths.sort());
        expect(lora.leftOut).toEqual([]);
      }
    },
  );

  // The names were checked against diffusers' own conversion when the files were written (reference/single_files.py).
  test.each(['sd1', 'sd2'])(
    'every layer of %s is found by the name that its checkpoint has in one file',
    async (name) => {
      const path = `${name}.safetensors`;
      const blob = new File([readFileSync(`${HERE}/single_files/${path}`)], path);
      const opened = await SingleFile.open(new FolderFiles(path, [{ path, file: blob }]), path);
      const [unet, text_encoder] = await Promise.all(['unet', 'text_encoder'].map((one) => opened.component(one)));
      const { tensors } = await readSafetensorsHeader(blob, path);
      const meaningsOf = originalNames(tensors.keys());
      for (const [separator, prefixes] of [
        ['.', { 'model.diffusion_model.': 'diffusion_model.', 'cond_stage_model.': 'cond_stage_model.' }],
        [
          '_',
          {
            'model.diffusion_model.': 'lora_unet_',
            'cond_stage_model.transformer.': 'lora_te_',
            'cond_stage_model.model.': 'lora_te_',
          },
        ],
      ] as const) {
        const made: Made[] = [];
        const expected: string[] = [];
        for (const { name: tensor, shape } of tensors.values()) {
          const [start, prefix] = Object.entries(prefixes).find(([one]) => tensor.startsWith(one)) ?? [];
          const layer = tensor.replace(/\.attn\.in_proj_weight$/, '.attn.in_proj.weight');
          if (start && layer.endsWith('.weight') && shape.length > 1) {
            const module = `${prefix}${layer.slice(start.length, -'.weight'.length).replaceAll('.', separator)}`;
            made.push(
              [`${module}.lora_down.weight`, [1, ...shape.slice(1)]],
              [`${module}.lora_up.weight`, [shape[0], 1]],
            );
            expected.push(...meaningsOf(tensor).map((meaning) => meaning.name.replace(/\.weight$/, '')));
          }
        }
        const lora = await readLora(file(made), 'a', { unet: unet.weights, text_encoder: text_encoder.weights });
        expect(changed(lora).sort()).toEqual(expected.sort());
        // The last layer of OpenCLIP, which Stable Diffusion 2 does not run.
        expect(lora.leftOut.every(({ name: left }) => name === 'sd2' && /resblocks.23/.test(left))).toBe(true);
      }
    },
  );

  test('queries, keys and values that are one layer in the original get their thirds of the rows', async () => {
    const module = 'lora_te_transformer_resblocks_1_attn_in_proj';
    const sd21 = folder('tiny-sd21');
    const { text_encoder } = await read(
      [
        [`${module}.lora_down.weight`, [2, 64]],
        [`${module}.lora_up.weight`, [192, 2]],
      ],
      {},
      sd21,
    );
    const layers = [...text_encoder.values()] as ProductLayer[];
    expect([...text_encoder.keys()]).toEqual(
      ['q', 'k', 'v'].map((part) => `text_model.encoder.layers.1.self_attn.${part}_proj`),
    );
    expect(layers.map(({ up }) => [up.shape, up.length, up.offset - layers[0].up.offset])).toEqual(
      [0, 512, 1024].map((offset) => [[64, 2], 512, offset]),
    );
    expect(new Set(layers.map(({ down }) => down.offset)).size).toBe(1);
  });
});

describe('in prompts', () => {
  const BLOCKS = '1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,-0.5';
  const blocks = BLOCKS.split(',').map(Number);
  const x = (use: Partial<LoraUse> = {}): LoraUse => ({ lora: 'x', weight: 1, ...use });

  test.each<[string, string, LoraUse[]]>([
    ['a <lora:x> b', 'a  b', [x()]],
    ['<lora:x:0.5:0.8>', '', [x({ weight: 0.8, text_weight: 0.5 })]],
    ['<lora:x:te=0.5:unet=0.8>', '', [x({ weight: 0.8, text_weight: 0.5 })]],
    ['<lora:x:unet=0.8>', '', [x({ weight: 0.8, text_weight: 1 })]],
    [`<lora:x:0.7:lbw=${BLOCKS}>`, '', [x({ weight: 0.7, blocks })]],
    [`<lora:x:1:1:${BLOCKS}>`, '', [x({ blocks })]],
    ['<lora:x:1:start=0.2:stop=0.8>', '', [x({ start: 0.2, end: 0.8 })]],
    ['<lora:x:1:step=2-8>', '', [x({ start: 0.2, end: 0.8 })]],
    ['[<lora:x:1>::0.5]', '', [x({ end: 0.5 })]],
    ['a [<lora:x:1>:5], b', 'a , b', [x({ start: 0.5 })]],
    ['[<lora:x:1>:<lora:y:1>:0.3]', '', [x({ end: 0.3 }), { lora: 'y', weight: 1, start: 0.3 }]],
    ['[<lora:x:1> dog:cat:0.3]', '[ dog:cat:0.3]', [x({ end: 0.3 })]],
    ['[[<lora:x:1>:0.2]::0.6]', '', [x({ start: 0.2, end: 0.6 })]],
    ['[<lora:x:1>:0.6] <lora:y:1>', ' ', [x({ start: 0.6 }), { lora: 'y', weight: 1 }]],
    ['[cat:dog:0.5] [::0.5]', '[cat:dog:0.5] [::0.5]', []],
    ['[[<lora:x:1>:0.6]::0.2]', '', []],
  ])('%s', (prompt, words, loras) => {
    expect(takeLoraTags(prompt, 10)).toEqual({ words, loras });
  });

  test.each([
    ['<lora:>', /is not a LoRA's name and one weight from -4 to 4; write it as <lora:name:0\.8>\.$/],
    ['<lora:x:9>', /is not a LoRA's name and one weight/],
    ['<lora:x:1@0,0@1>', /whose weight changes from step to step, .* \[<lora:name:0\.8>::0\.5\]\.$/],
    ['<lora:x:1:lbw=MIDD>', /whose weights of blocks are not 12, 17, 20 or 26 numbers from -4 to 4; names of presets/],
    ['<lora:x:1:lbw=1,0,1>', /are not 12, 17, 20 or 26 numbers/],
    [`<lora:x:1:lbw=${BLOCKS.replace('-0.5', 'R')}>`, /are not 12, 17, 20 or 26 numbers/],
    ['<lora:x:1:start=0.8:stop=0.2>', /ends before it begins/],
    ['<lora:x:1:lbwe=ATTN>', /is not a LoRA's name and one weight/],
  ])('%s is refused', (tag, sentence) => {
    expect(() => takeLoraTags(`a ${tag}`, 10)).toThrow(sentence);
  });

  test('come back from what is written for other programs', () => {
    const use = { weight: 0.5, blocks, start: 0.25, end: 0.75 };
    expect(takeLoraTags(loraTags([{ name: 'x', ...use }])).loras).toEqual([{ lora: 'x', ...use }]);
  });
});

describe('blocks', () => {
  test.each(['sd1', 'sd2'])('every layer of %s lies in the block that its original name says', async (name) => {
    const path = `${name}.safetensors`;
    const blob = new File([readFileSync(`${HERE}/single_files/${path}`)], path);
    const opened = await SingleFile.open(new FolderFiles(path, [{ path, file: blob }]), path);
    const { weights } = await opened.component('unet');
    const blockOf = blockFinder(weights);
    const { tensors } = await readSafetensorsHeader(blob, path);
    const meaningsOf = originalNames(tensors.keys());
    const found = new Set<string>();
    for (const original of tensors.keys()) {
      const [, block = '', number = '0'] =
        /^model\.diffusion_model\.(input_blocks|middle_block|output_blocks)\.(\d+)\./.exec(original) ?? [];
      const kind = { input_blocks: 'IN', middle_block: 'M', output_blocks: 'OUT' }[block];
      const expected = kind === undefined ? null : `${kind}${kind === 'M' ? '00' : number.padStart(2, '0')}`;
      for (const meaning of meaningsOf(original).filter(({ component }) => component === 'unet')) {
        expect([original, blockOf(meaning.name)]).toEqual([original, expected]);
        found.add(expected ?? '');
      }
    }
    expect(found.size).toBeGreaterThan(10);
  });

  test('are weighted by the form, and those that it does not have count as nothing', () => {
    const numbers = Array.from({ length: 17 }, (_, i) => i / 10);
    expect(['BASE', 'IN01', 'IN03', 'M00', 'OUT03', 'OUT11', null].map((name) => blockFactor(numbers, name))).toEqual([
      0, 0.1, 0, 0.7, 0.8, 1.6, 1,
    ]);
    expect(blockFactor(undefined, 'IN01')).toBe(1);
  });

  test('that a checkpoint does not have are found', () => {
    const xl = new Map(
      ['conv_in', 'down_blocks.0.resnets.0', 'down_blocks.0.resnets.1', 'mid_block.x'].map((path) => [path, 0]),
    );
    const weights = { get: () => undefined, names: () => xl.keys() };
    expect(blocksNotThere(Array<number>(12).fill(1), weights).slice(0, 3)).toEqual(['IN04', 'IN05', 'IN07']);
  });
});

describe('lengths of DoRA', () => {
  const lengthsOf = async (shape: number[], end = 'dora_scale', module = kohya(TO_Q)) =>
    (await read([...pair(module), [`${module}.${end}`, shape]])).unet.get(TO_Q)?.lengths;

  test.each<[string, number[], string, string]>([
    ['LyCORIS’', [32, 1], 'dora_scale', 'rows'],
    ['LyCORIS’ of before, OneTrainer’s', [1, 32], 'dora_scale', 'inputs'],
    ['PEFT’s', [32], 'lora_magnitude_vector', 'rows'],
    ['PEFT’s with an adapter’s name', [32], 'lora_magnitude_vector.default.weight', 'rows'],
    ['PEFT’s of a convolution', [1, 32, 1, 1], 'lora_magnitude_vector', 'rows'],
  ])('%s', async (_, shape, end, of) => {
    expect(await lengthsOf(shape, end)).toMatchObject({ of, by: end === 'dora_scale' ? 'LyCORIS' : 'PEFT' });
  });
});

describe('scales', () => {
  const scaleOf = async (tensors: Made[], metadata = {}) => (await read(tensors, metadata)).unet.get(TO_Q)?.scale;

  const f64 = (value: number) => new Uint8Array(Float64Array.of(value).buffer);
  const f32 = (value: number) => new Uint8Array(Float32Array.of(value).buffer);
  const i64 = (value: bigint) => new Uint8Array(BigInt64Array.of(value).buffer);
  test.each<[string, number[], Uint8Array, number]>([
    ['F32', [], f32(3), 1.5],
    ['F32', [1], f32(3), 1.5],
    ['F32', [1, 1], f32(3), 1.5],
    ['F32', [1, 1, 1, 1], f32(0), 0],
    ['F16', [], convert(f32(0.5), 'F32', 'F16'), 0.25],
    ['BF16', [1], f32(1).slice(2), 0.5],
    ['F64', [], f64(8), 4],
    ['F64', [1, 1], f64(0), 0],
    ['F8_E4M3', [1], Uint8Array.of(0x40), 1],
    ['F8_E5M2', [], Uint8Array.of(0x44), 2],
    ['I64', [], i64(8n), 4],
    ['I64', [1], i64(-2n), -1],
    ['U64', [1], i64(4n), 2],
    ['I32', [1, 1], new Uint8Array(Int32Array.of(-6).buffer), -3],
    ['U16', [], Uint8Array.of(0, 1), 128],
    ['I8', [], Uint8Array.of(0xff), -0.5],
    ['U8', [1], Uint8Array.of(255), 127.5],
    ['BOOL', [], Uint8Array.of(1), 0.5],
  ])('an alpha of the type %s and shape %j', async (dtype, shape, bytes, expected) => {
    const alpha: Made = [`${kohya(TO_Q)}.alpha`, shape, dtype, bytes];
    expect(await scaleOf([alpha, ...pair(kohya(TO_Q))])).toBe(expected);
  });

  test('an alpha in diffusers’ old names, and one for every adapter', async () => {
    const alpha = (module: string): Made => [`${module}.alpha`, [1], 'F32', f32(6)];
    const attn1 = `unet.${TO_Q.slice(0, -'.to_q'.length)}.processor`;
    expect(
      await scaleOf([...pair(`${attn1}.to_q_lora`, ['.down.weight', '.up.weight']), alpha(`${attn1}.to_q_lora`)]),
    ).toBe(3);
    expect(await scaleOf([...pair(TO_Q, ['.lora_A.x.weight', '.lora_B.x.weight']), alpha(TO_Q)])).toBe(3);
  });

  test('of PEFT: by pattern, for all, by the root of the rank, and none where they cannot be read', async () => {
    const scaleFor = (adapter: Record<string, unknown>) =>
      scaleOf(
        [
          [`unet.${TO_Q}.lora_A.weight`, [4, 32]],
          [`unet.${TO_Q}.lora_B.weight`, [32, 4]],
        ],
        { lora_adapter_metadata: JSON.stringify(adapter) },
      );
    expect(await scaleFor({})).toBe(1);
    expect(await scaleFor({ 'unet.r': 4, 'unet.lora_alpha': 8 })).toBe(2);
    expect(await scaleFor({ 'unet.lora_alpha': 8, 'unet.alpha_pattern': { 'attn1.to_q': 2 } })).toBe(0.5);
    expect(await scaleFor({ 'unet.lora_alpha': 8, 'unet.use_rslora': true, 'unet.alpha_pattern': null })).toBe(4);
    expect(await scaleFor({ 'unet.lora_alpha': null, 'unet.use_dora': null })).toBe(1);
    expect(await scaleFor({ 'text_encoder.lora_alpha': 8 })).toBe(1);
  });
});

const BUNDLE: Made[] = [
  ['bundle_emb.kettle.clip_l', [2, 48]],
  ['bundle_emb.kettle.string_to_param.*', [2, 48]],
];
const stray = pair('lora_unet_down_blocks_9_attentions_0_proj_in');

describe('what has no place or cannot be applied is left out and named, and the rest used', () => {
  const good = [...pair(kohya(TO_Q)), ...pair(kohya(Q_PROJ, 'lora_te'), PEFT, 48)];
  const second = kohya(TO_Q.replace('attn1', 'attn2'));

  test.each<[string, Made[], RegExp]>([
    [
      'embeddings that came with it',
      BUNDLE,
      /^The LoRA kettle is used without "bundle_emb\.kettle\.clip_l", "bundle_emb\.kettle\.string_to_param\.\*" \(an embedding, which Darkroom cannot use yet\)\.$/,
    ],
    [
      'a layer that is not there',
      stray,
      /without "lora_unet_down_blocks_9_attentions_0_proj_in" \(not in this checkpoint\)\.$/,
    ],
    [
      'many layers',
      [0, 1, 2, 3].flatMap((n) => pair(`lora_te2_text_model_encoder_layers_${n}_mlp_fc1`)),
      /"lora_te2_[^ ]*0_mlp_fc1", "lora_te2_[^ ]*1_mlp_fc1" and 2 more \(not in .*was probably made for another kind of model\.$/,
    ],
    ['a layer of another size', pair(second, undefined, 64), /attn2\.to_q" \(of another size in this checkpoint\)\.$/],
    ['a layer with a strange name', pair('my.own.thing'), /"my\.own\.thing" \(a name that Darkroom does not know\)\.$/],
    ['a bias', [[`${kohya(TO_Q)}.diff_b`, [32]]], /\(a change of a bias, which Darkroom cannot apply\)\.$/],
    [
      'a bias of PEFT',
      [[`${kohya(TO_Q)}.lora_B.bias`, [32]]],
      /\(a change of a bias, which Darkroom cannot apply\)\.$/,
    ],
    [
      'a whole weight',
      [['lora_unet_conv_norm_out.set_weight', [32]]],
      /"lora_unet_conv_norm_out" \(whole weights, which/,
    ],
    [
      'a LoKr layer of another size',
      [
        [`${second}.lokr_w1`, [4, 4]],
        [`${second}.lokr_w2`, [8, 4]],
        [`${second}.alpha`, []],
      ],
      /attn2\.to_q" \(of another size in this checkpoint\)\.$/,
    ],
    [
      'a DoRA layer with lengths of another size',
      [...pair(second), [`${second}.dora_scale`, [64, 1]]],
      /attn2\.to_q" \(of another size in this checkpoint\)\.$/,
    ],
    ['lengths without a change', [[`${second}.dora_scale`, [32, 1]]], /attn2_to_q" \(incomplete in the file\)\.$/],
    [
      'half a GLoRA layer',
      [
        [`${second}.a1.weight`, [32, 2]],
        [`${second}.b1.weight`, [32, 2]],
      ],
      /attn2_to_q" \(incomplete in the file\)\.$/,
    ],
    [
      'a layer in three parts that is no convolution here',
      [...pair(second), [`${second}.lora_mid.weight`, [2, 2, 3, 3]]],
      /attn2\.to_q" \(of another size in this checkpoint\)\.$/,
    ],
    [
      'a layer in whole numbers',
      pair(second, undefined, 32, 'I8'),
      /attn2_to_q" \(stored as I8, which Darkroom cannot read\)\.$/,
    ],
    [
      'a layer in a type of the future',
      [
        [`${second}.lora_down.weight`, [2, 32], 'F4', new Uint8Array(32)],
        [`${second}.lora_up.weight`, [32, 2], 'F4', new Uint8Array(32)],
      ],
      /\(stored as F4, which/,
    ],
    ['half a layer', pair(second).slice(1), /attn2_to_q" \(incomplete in the file\)\.$/],
    ['an alpha without a layer', [[`${second}.alpha`, []]], /attn2_to_q" \(incomplete in the file\)\.$/],
    [
      'an alpha of two numbers',
      [...pair(second), [`${second}.alpha`, [2]]],
      /attn2_to_q" \(an alpha that is not one number\)\.$/,
    ],
    [
      'an alpha that is none',
      [...pair(second), [`${second}.alpha`, [], 'F32', Uint8Array.of(0, 0, 0xc0, 0x7f)]],
      /\(an alpha that is not one number\)\.$/,
    ],
    ['the same layer in another spelling', pair(TO_Q), /to_q" \(in the file a second time\)\.$/],
    [
      'something else',
      [
        ['lora_unet_x.whatever', [3]],
        ['kettle', []],
      ],
      /"lora_unet_x\.whatever", "kettle" \(no part of a LoRA that Darkroom knows\)\.$/,
    ],
    [
      'several of these',
      [...BUNDLE, ...stray],
      /\(an embedding, which Darkroom cannot use yet\)\. The LoRA kettle is used without "lora_unet_down_blocks_9_attentions_0_proj_in" \(not in this checkpoint\)\.$/,
    ],
  ])('%s', async (_, others, sentence) => {
    for (const tensors of [
      [...good, ...others],
      [...good.slice(0, 2), ...others, ...good.slice(2)],
    ]) {
      const lora = await read(tensors);
      expect(changed(lora)).toEqual([TO_Q, Q_PROJ]);
      expect(leftOutOf(lora, 'kettle')).toMatch(sentence);
    }
  });

  test('two adapters of one layer: the first', async () => {
    const lora = await read([
      ...pair(TO_Q, ['.lora_A.default_0.weight', '.lora_B.default_0.weight']),
      ...pair(TO_Q, ['.lora_A.default_1.weight', '.lora_B.default_1.weight']),
    ]);
    const layer = lora.unet.get(TO_Q) as ProductLayer;
    expect(layer.down.name).toContain('default_0');
    expect(layer.up.name).toContain('default_0');
    expect(leftOutOf(lora, 'kettle')).toMatch(/in the file a second time/);
  });

  test('scales that cannot be read', async () => {
    const lora = await read(pair(TO_Q, PEFT), { lora_adapter_metadata: '{' });
    expect(lora.unet.get(TO_Q)?.scale).toBe(1);
    expect(leftOutOf(lora, 'kettle')).toMatch(/"lora_adapter_metadata" \(its own scales, which cannot be read\)\.$/);
  });

  test.each(['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'])('matrices of the type %s are used', async (dtype) => {
    const lora = await read(pair(kohya(TO_Q), undefined, 32, dtype));
    expect(lora.unet.get(TO_Q)).toMatchObject({ up: { dtype }, down: { dtype }, scale: 1 });
    expect(lora.leftOut).toEqual([]);
  });
});

describe('a file of which nothing can be used is refused for the right reason', () => {
  const to_q = kohya(TO_Q);
  test.each<[string, Made[], RegExp, Record<string, string>?]>([
    ['nothing in it', [], / is empty; get it again\.$/],
    [
      'layers of another model',
      stray,
      /changes "lora_unet_down_blocks_9_attentions_0_proj_in", which this checkpoint does not have; choose a LoRA that was made for this kind of model\.$/,
    ],
    [
      'a second text encoder',
      pair('text_encoder_2.encoder.layers.0.mlp.fc1', PEFT),
      /"text_encoder_2\.encoder\.layers\.0\.mlp\.fc1", which this checkpoint does not have/,
    ],
    [
      'Flux',
      pair('transformer.single_transformer_blocks.0.attn.to_q', PEFT),
      /^The LoRA [^ ]+ looks like one for FLUX\.1 \/ FLUX\.3, and this checkpoint is Stable Diffusion; choose/,
    ],
    [
      'Flux, original',
      pair('diffusion_model.double_blocks.0.img_attn.qkv'),
      /looks like one for FLUX\.1 \/ FLUX\.2, and this checkpoint is Stable Diffusion; choose/,
    ],
    [
      'names of nothing known',
      pair('my.own.thing'),
      /names its layers in a way that Darkroom does not know, such as "my\.own\.thing"; get it in the form of kohya or diffusers\.$/,
    ],
    [
      'another input width',
      [
        [`${to_q}.lora_down.weight`, [2, 64]],
        [`${to_q}.lora_up.weight`, [32, 2]],
      ],
      /changes "down_blocks.*to_q" by \[32, 2\] times \[2, 64\], but this checkpoint has \[32, 32\] there; choose/,
    ],
    [
      'another output width',
      [
        [`${to_q}.lora_down.weight`, [2, 32]],
        [`${to_q}.lora_up.weight`, [64, 2]],
      ],
      /\[64, 2\] times \[2, 32\]/,
    ],
    [
      'two ranks',
      [
        [`${to_q}.lora_down.weight`, [2, 32]],
        [`${to_q}.lora_up.weight`, [32, 4]],
      ],
      /made for this kind/,
    ],
    [
      'no rank',
      [
        [`${to_q}.lora_down.weight`, [0, 32]],
        [`${to_q}.lora_up.weight`, [32, 0]],
      ],
      /made for this kind/,
    ],
    ['no down', pair(to_q).slice(1), /has only part of its change of "lora_unet_down.*"; get it again\.$/],
    ['only an alpha', [[`${to_q}.alpha`, []]], /only part of its change/],
    [
      'an alpha of two numbers',
      [...pair(to_q), [`${to_q}.alpha`, [2]]],
      /has an alpha for ".*to_q" that is not one number/,
    ],
    [
      'whole numbers',
      pair(to_q, undefined, 32, 'I8'),
      /is stored as I8, which Darkroom cannot read; get it in F16, BF16 or F32\.$/,
    ],
    [
      'a type of the future',
      [[`${to_q}.lora_down.weight`, [2, 32], 'F6_E2M3', new Uint8Array(48)], ...pair(to_q).slice(1)],
      /is stored as F6_E2M3, which Darkroom cannot read/,
    ],
    [
      'half a LoHa',
      [
        [`${to_q}.hada_w1_a`, [32, 2]],
        [`${to_q}.alpha`, []],
      ],
      /has only part of its change of "/,
    ],
    [
      'DoRA without its lengths',
      pair(`unet.${TO_Q}`, PEFT),
      /has only part of its change of "/,
      { lora_adapter_metadata: '{"unet.use_dora": true}' },
    ],
    [
      'GLoRA of another size',
      (['a1', 'a2', 'b1', 'b2'] as const).map((part): Made => [`${to_q}.${part}.weight`, [2, 2]]),
      /by matrices of \[2, 2\], .* but this checkpoint has \[32, 32\] there/,
    ],
    ['an embedding alone', BUNDLE, /holds an embedding \("bundle_emb\.kettle\.clip_l"\) and no layers/],
  ])('%s', async (_, tensors, sentence, metadata = {}) => {
    await expect(read(tensors, metadata)).rejects.toThrow(
      expect.objectContaining({
        code: 'checkpoint_unsupported',
        message: expect.stringMatching(sentence) as string,
      }),
    );
  });

  test('what is no safetensors file', async () => {
    const blob = new Blob(['PK\u0003\u0004 a zip file']);
    await expect(readLora(blob, 'a', sd15)).rejects.toMatchObject({ code: 'checkpoint_damaged' });
  });

  test('relatives of LoRA are known as such before a checkpoint is open, checkpoints are not taken for them', async () => {
    for (const end of ['hada_w1_a', 'lokr_w2', 'diff', 'oft_blocks']) {
      const blob = file([[`${to_q}.${end}`, [4, 4]]]);
      expect(await isLora(blob, 'a.safetensors')).toBe(true);
      const required = requireLora(blob, 'a.safetensors');
      await (end === 'oft_blocks'
        ? expect(required).rejects.toThrow(/is a relative of LoRA \(OFT\)/)
        : expect(required).resolves.toBeUndefined());
    }
    for (const name of [
      'model.diffusion_model.input_blocks.0.0.weight',
      'down_blocks.0.attentions.0.proj_in.weight',
      'v_pred',
    ]) {
      const blob = file([[name, [4, 4]]]);
      expect(await isLora(blob, 'a.safetensors')).toBe(false);
      await expect(requireLora(blob, 'a.safetensors')).rejects.toThrow(/^a\.safetensors is not a LoRA; /);
    }
  });
});

describe('embeddings', () => {
  const vectors: Made = ['emb_params', [3, 48]];

  test.each<[string, Made[], number[], number[]]>([
    ['AUTOMATIC1111’s', [vectors], [48], [3]],
    ['diffusers’, of one token', [['<kettle>', [48]]], [48], [1]],
    [
      'Stable Diffusion XL’s',
      [
        ['clip_g', [2, 64]],
        ['clip_l', [2, 48]],
      ],
      [48, 64],
      [2, 2],
    ],
  ])('%s', async (_, tensors, widths, counts) => {
    expect(await isEmbedding(file(tensors), 'a')).toBe(true);
    expect(await isLora(file(tensors), 'a')).toBe(true);
    await expect(requireLora(file(tensors), 'a')).resolves.toBeUndefined();
    const read = await readEmbedding(file(tensors), 'a', widths);
    expect(read.map((own) => own.length)).toEqual(counts);
    expect(read.map(([first]) => first.length)).toEqual(widths);
  });

  test.each<[string, Made[], number[], RegExp]>([
    ['another width', [vectors], [64], /has vectors of 48 numbers, and this checkpoint reads 64; choose one/],
    ['Stable Diffusion 1’s for XL', [vectors], [48, 64], /reads 48 and 64/],
    [
      'XL’s for Stable Diffusion 1',
      [
        ['clip_g', [2, 64]],
        ['clip_l', [2, 48]],
      ],
      [48],
      /reads 48; choose/,
    ],
  ])('%s is refused', async (_, tensors, widths, sentence) => {
    await expect(readEmbedding(file(tensors), 'kettle', widths)).rejects.toThrow(
      expect.objectContaining({
        code: 'checkpoint_unsupported',
        message: expect.stringMatching(sentence) as string,
      }),
    );
  });

  test('what changes layers is none', async () => {
    for (const tensors of [
      pair(kohya(TO_Q)),
      [['conv.weight', [4, 4]] satisfies Made],
      [['x.alpha', []] satisfies Made],
    ]) {
      expect(await isEmbedding(file(tensors), 'a')).toBe(false);
    }
  });
});
