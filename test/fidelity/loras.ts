/** Pictures with a LoRA that is weighted by block, or counts in a part of the steps: every folder of test/goldens/lora_uses. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LoraUse } from '../../src/core/loras.ts';
import type { ModelLora } from '../../src/models/family.ts';
import { folderFiles } from '../checkpoint_folder.ts';
import { differencesFrom, goldenCases, type GoldenCase } from '../golden_pictures.ts';
import type { FidelityArea } from './fidelity.ts';

const GOLDENS = join(import.meta.dirname, '..', 'goldens');
const ROOT = join(GOLDENS, 'lora_uses');

async function latents(one: GoldenCase): Promise<number> {
  const loras = (one.parameters.loras as LoraUse[]).map(({ lora, weight, ...use }): ModelLora => {
    const file = new Blob([readFileSync(join(GOLDENS, 'lora', `${lora}.safetensors`))]);
    return { file, name: lora, strength: weight, ...use };
  });
  const files = folderFiles(join(GOLDENS, '..', 'checkpoints', one.checkpoint));
  return (await differencesFrom(ROOT, one, files, { loras })).latents;
}

export const areas: FidelityArea[] = [
  {
    title: 'LoRAs by block and by step: latents',
    about:
      "Against diffusers' `set_adapters` with weights by block, and called between steps (`reference/loras.py`): what the sampler leaves, in units of the spread of the expected latents.",
    columns: ['case', 'checkpoint'],
    limit: 1e-3,
    cells: goldenCases(ROOT).map((one) => ({ at: [one.name, one.checkpoint], difference: () => latents(one) })),
  },
];
