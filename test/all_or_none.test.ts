/** What does not fit, in a list of what does: nothing of the list is used, and the weights on the device stay what they were. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BlockMode } from '../src/core/job.ts';
import {
  openModel,
  type LoadedModel,
  type ModelAddition,
  type ModelAdditions,
  type ModelLora,
} from '../src/models/family.ts';
import { useBeside } from '../workers/beside.ts';
import { architectureFile, architectureFiles } from './architecture_checkpoints.ts';
import { startNodeEngine } from './node_engine.ts';
import { sampleRequest } from './sample_request.ts';

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

describe.each<[weights: string, BlockMode]>([
  ['merged', 'off'],
  ['bound', 'resident'],
])('weights that are %s', (_, blocks) => {
  const { engine, log } = startNodeEngine(undefined, blocks);
  let model: LoadedModel;
  let before: Float32Array;

  async function sampled(): Promise<Float32Array> {
    const text = await model.encodeText({ ...SETTINGS, prompt: 'Ein roter Fuchs', negative_prompt: 'blau' });
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
    before = await sampled();
    expect(before).not.toEqual(plain);
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
