/** What does not fit, in a list of what does: nothing of the list is used, and the weights on the device stay what they were. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BlockMode } from '../src/core/job.ts';
import type { CpuTensor } from '../src/core/media.ts';
import {
  openModel,
  type LoadedModel,
  type ModelAddition,
  type ModelAdditions,
  type ModelLora,
} from '../src/models/family.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { useBeside } from '../workers/beside.ts';
import { architectureFile, architectureFiles } from './architecture_checkpoints.ts';
import { startNodeEngine } from './node_engine.ts';
import { sampleRequest } from './sample_request.ts';

const PROMPT = 'Ein roter Fuchs neben kettle';
const SETTINGS = { width: 32, height: 32, batch_size: 1, steps: 1, guidance_scale: 3 };
const NONE: ModelAdditions = { controlnets: [], ip_adapters: [], image_encoders: [], vaes: [], first_vaes: [] };

const addition = (name: string): ModelAddition => ({ file: new Blob([architectureFile(`${name}.safetensors`)]), name });
const fitting: ModelLora = { ...addition('sdxl-kohya'), strength: 0.75 };
/** Of a Stable Diffusion 1. */
const foreign: ModelLora = {
  file: new Blob([readFileSync(join(import.meta.dirname, 'goldens', 'lora', 'old.safetensors'))]),
  name: 'foreign',
  strength: 1,
};
/** Of the text encoders of Stable Diffusion XL, as small as here. */
const WIDTHS = [32, 48] as const;

/** Vectors for a name in the prompt, all alike. */
function embedding(name: string, vectors: Record<string, [width: number, value: number]>, strength = 1): ModelLora {
  const tensors = Object.entries(vectors).map(([tensor, [width, value]]): [string, CpuTensor] => [
    tensor,
    { dims: [2, width], data: new Float32Array(2 * width).fill(value) },
  ]);
  return { file: new Blob([writeSafetensors(tensors)]), name, strength };
}
const kettle = embedding('kettle', { clip_l: [WIDTHS[0], 0.3], clip_g: [WIDTHS[1], -0.2] });
/** Under the same name, of a Stable Diffusion 1. */
const foreignKettle = embedding('kettle', { emb_params: [WIDTHS[0], 0.3] });

describe.each<[weights: string, BlockMode]>([
  ['merged', 'off'],
  ['bound', 'resident'],
])('weights that are %s', (_, blocks) => {
  const { engine, log } = startNodeEngine(undefined, blocks);
  let model: LoadedModel;
  let before: Float32Array;

  async function sampled(): Promise<Float32Array> {
    const text = await model.encodeText({
      ...SETTINGS,
      prompt: PROMPT,
      // With the name here too, as a text encoder that is given vectors is another network.
      negative_prompt: 'blau kettle',
      prompt_syntax: 'automatic1111',
    });
    const latents = await model.sample(text, sampleRequest(SETTINGS));
    const data = await latents.read();
    text.dispose();
    latents.dispose();
    return data;
  }
  const facts = async () => JSON.stringify(await model.provenance());
  const work = () => ({ written: engine.ledger.uploads.tensors, sessions: log.created });

  beforeAll(async () => {
    model = await openModel(architectureFiles('sdxl'), engine);
    const plain = await sampled();
    await useBeside(model, [fitting], NONE);
    const withLora = await sampled();
    expect(withLora).not.toEqual(plain);
    await useBeside(model, [fitting, kettle], NONE);
    before = await sampled();
    expect(before).not.toEqual(withLora);
  });
  afterAll(() => model.release());

  test.each<[what: string, loras: ModelLora[], Partial<ModelAdditions>]>([
    ['a LoRA behind one of another strength', [{ ...fitting, strength: -1 }, foreign], {}],
    ['a LoRA before it', [foreign, { ...fitting, strength: -1 }], {}],
    ['a LoRA beside a VAE that fits', [foreign], { vaes: [addition('vae-kl-xl')] }],
    ['a ControlNet behind one that fits', [], { controlnets: [addition('control-xl'), addition('control-sd1')] }],
    ['a VAE beside a ControlNet', [], { controlnets: [addition('control-xl')], vaes: [addition('control-sd1')] }],
    [
      'an IP-Adapter beside a VAE',
      [],
      {
        vaes: [addition('vae-kl-xl')],
        ip_adapters: [addition('ip-adapter-sd1')],
        image_encoders: [addition('vision-h')],
      },
    ],
    ['an embedding behind a LoRA of another strength', [{ ...fitting, strength: -1 }, foreignKettle], {}],
    ['an embedding before one that fits', [foreignKettle, { ...fitting, strength: -1 }, kettle], {}],
    ['an embedding beside a VAE that fits', [foreignKettle], { vaes: [addition('vae-kl-xl')] }],
    ['a ControlNet where an embedding goes', [fitting], { controlnets: [addition('control-sd1')] }],
    ['a LoRA where an embedding goes', [foreign], {}],
    ['a ControlNet beside another LoRA', [{ ...fitting, strength: 2 }], { controlnets: [addition('control-sd1')] }],
  ])('%s', async (_, loras, additions) => {
    const [known, done] = [await facts(), work()];
    await expect(useBeside(model, loras, { ...NONE, ...additions })).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
    });
    expect(await facts()).toBe(known);
    expect(await sampled()).toEqual(before);
    expect(work()).toEqual(done);
  });
});
