/** Models in files of their own, as ComfyUI users have them: their pictures, and the numbers that GGUF and scaled 8 bits become. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StoredTensor } from '../../src/graphs/graph.ts';
import { readWeightFile } from '../../src/weights/weight_file.ts';
import { filesOf } from '../checkpoint_folder.ts';
import { flowLoraCases, mergedFlowLora } from '../flow_lora_goldens.ts';
import { differencesFrom, goldenCases, type GoldenCase, type PictureDifferences } from '../golden_pictures.ts';
import { readExternal, readTensors } from '../onnx_node.ts';
import { SPLIT_CASES } from '../split_files.ts';
import { greatestDifference, type FidelityArea, type FidelityCell } from './fidelity.ts';

const GOLDENS = join(import.meta.dirname, '..', 'goldens');

const measured = new Map<string, Promise<PictureDifferences>>();

function pictures(measure: (differences: PictureDifferences) => number): FidelityCell[] {
  return SPLIT_CASES.map(({ what, goldens, name, contents }) => {
    const root = join(GOLDENS, goldens);
    const one = goldenCases(root).find((each) => each.name === name) as GoldenCase;
    return {
      at: [name, what, one.operation],
      difference: async () => {
        // Latents and pixels come from one run.
        const run = measured.get(what) ?? differencesFrom(root, one, filesOf(name, contents()));
        measured.set(what, run);
        return measure(await run);
      },
    };
  });
}

/** Of every tensor of a file, whose numbers lie in `expected.safetensors` beside it. */
function numbers(folder: string, path: string): FidelityCell[] {
  const bytes = new Uint8Array(readFileSync(join(GOLDENS, folder, path)));
  return [...readTensors(join(GOLDENS, folder, 'expected.safetensors'))].map(([name, { data }]) => ({
    at: [path, name],
    difference: async () => {
      const { tensors } = await readWeightFile(filesOf(folder, new Map([[path, bytes]])), path);
      const tensor = tensors.find((each) => each.name === name) as StoredTensor;
      const external = { location: 'x', kind: 'cast', tensor, to: 'f32', length: 4 * data.length } as const;
      const read = await readExternal(external, new Map([[path, new Blob([bytes])]]));
      return greatestDifference(new Float32Array(read.slice().buffer), data);
    },
  }));
}

const columns = ['case', 'files', 'operation'];

export const areas: FidelityArea[] = [
  {
    title: 'Split files and GGUF: latents',
    about:
      'Transformer, text encoders and autoencoder in files of their own, in the names of ComfyUI and llama.cpp, also as GGUF and in 8 bits with scales, with weights that follow from a formula (`reference/mmdit_files.py`, `reference/split_files.py`, `reference/split_flows.py`), against what diffusers makes of the same numbers through its own conversion: what the sampler leaves, in units of the spread of the expected latents.',
    columns,
    limit: 1e-3,
    cells: pictures(({ latents }) => latents),
  },
  {
    title: 'Split files and GGUF: pixels',
    about: 'The same runs, decoded: the greatest difference of a colour, of 255.',
    columns,
    limit: 2,
    cells: pictures(({ pixels }) => pixels),
  },
  {
    title: 'Numbers of GGUF and scaled 8 bits',
    about:
      'What weights become on their way to the device: of every type of GGUF against the `gguf` package (`reference/gguf_files.py`), and of float8 times a scale, one or one for each row, against torch (`reference/float8.py`). They are equal.',
    columns: ['file', 'tensor'],
    limit: 0,
    cells: [...numbers('gguf', 'types.gguf'), ...numbers('scaled_float8', 'weights.safetensors')],
  },
  {
    title: 'Merged LoRAs of flow transformers',
    about:
      'LoRAs in the layouts of kohya, ai-toolkit, PEFT and ComfyUI, merged by diffusers and PEFT (`reference/flow_loras.py`), and here while a weight streams to the device: the greatest difference of a number, of weights around 0.1.',
    columns: ['file', 'checkpoint'],
    limit: 1e-6,
    cells: flowLoraCases.map(({ name, checkpoint }) => ({
      at: [name, checkpoint],
      difference: async () => (await mergedFlowLora(name)).difference,
    })),
  },
];
