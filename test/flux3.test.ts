/**
 * FLUX.3 on the processor: what its text encoder reads against diffusers' own step, how it is shown pictures, its folder, and refusals. Its
 * pictures are compared in `test/fidelity/pictures.ts`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { CpuTensor, PixelImage } from '../src/core/media.ts';
import { referenceCanvas } from '../src/core/reference_canvas.ts';
import type { StoredTensor } from '../src/graphs/graph.ts';
import { paddedMask } from '../src/graphs/qwen3.ts';
import * as qwen3Vl from '../src/graphs/qwen3_vl.ts';
import { folderSource } from '../src/jobs/folder_source.ts';
import { openModel } from '../src/models/family.ts';
import { onCanvas } from '../src/models/flow_transformer/shown_pictures.ts';
import { ChatTokenizer } from '../src/text/chat_tokenizer.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { readRows } from '../src/weights/embedding_rows.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import { run } from './onnx_node.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const golden = <T>(name: string) =>
  (JSON.parse(readFileSync(join(import.meta.dirname, 'goldens', name), 'utf8')) as { cases: T[] }).cases;

const rows: Record<string, string>[] = [];
afterAll(() => {
  console.table(rows);
});

async function open(name: string, change?: (contents: Contents) => void) {
  const contents = weightlessContents(name);
  change?.(contents);
  return openModel(filesOf(name, contents), startNodeEngine().engine);
}

const replaced = (path: string, change: (values: Record<string, unknown>) => void) => (contents: Contents) => {
  const values = JSON.parse(new TextDecoder().decode(contents.get(path))) as Record<string, unknown>;
  change(values);
  contents.set(path, new TextEncoder().encode(JSON.stringify(values)));
};

interface States {
  checkpoint: string;
  prompt: string;
  ids: number[];
  length: number;
  kept: number;
  tokens: number[];
  states: number[][];
}

describe('its text encoder reads what diffusers reads', () => {
  test.each(golden<States>('qwen3_vl_states.json').map((one, i) => ({ i, ...one })))('$i $prompt', async (one) => {
    const { i, checkpoint, prompt, ids, length: sequence, kept, tokens, states } = one;
    const files = filesOf(checkpoint, weightlessContents(checkpoint));
    const opened = await Checkpoint.open(files);
    const texts = new Map<string, string>();
    for (const path of files.paths().filter((each) => each.startsWith('tokenizer/'))) {
      texts.set(path.slice('tokenizer/'.length), (await opened.text(path)) ?? '');
    }
    const tokenizer = new ChatTokenizer({ read: (name) => texts.get(name) }, 8192, {});
    expect([...tokenizer.encode(prompt).ids]).toEqual(ids);
    expect(sequence).toBe(Math.ceil(kept / 80) * 80);

    const { config: values, weights, files: paths } = await opened.component('text_encoder');
    const config = qwen3Vl.parseConfig(values);
    const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
    const all = [...ids, ...Array.from({ length: sequence - kept }, () => tokenizer.pad)];
    const inputs = {
      inputs_embeds: await readRows(files, weights.get(qwen3Vl.EMBEDDING_TABLE) as StoredTensor, all),
      ...qwen3Vl.angles(config, sequence, kept),
      attention_bias: paddedMask(sequence, kept),
    };
    const after = [4, 8, 12, 16, 20, 24, 28, 32];
    const shape = { batch: 1, height: 0, width: 0, dtype: 'f32', sequence, after, padded: true } as const;
    let worst = 0;
    // The graphs differ in their attention alone, which Qwen3 shares.
    for (const provider of i === 0 ? (['wasm', 'webgpu'] as const) : (['wasm'] as const)) {
      const graph = qwen3Vl.build(config, weights, { ...shape, provider });
      const source = { get: (n: string) => weights.get(n), names: () => weights.names(), blobs };
      const { hidden_states } = await run(graph, source, inputs);
      const width = hidden_states.length / sequence;
      for (const [k, token] of tokens.entries()) {
        const own = hidden_states.subarray(token * width, (token + 1) * width);
        expect(own.length).toBe(states[k].length);
        worst = states[k].reduce((most, value, at) => Math.max(most, Math.abs(value - own[at])), worst);
      }
    }
    rows.push({ case: `${kept} of ${sequence} tokens`, hidden: worst.toExponential(1) });
    expect(worst).toBeLessThanOrEqual(1e-4);
  });
});

interface Canvas {
  width: number;
  height: number;
  canvas: [width: number, height: number];
  picture: [left: number, top: number, width: number, height: number];
  reds?: number[];
  row?: number[];
  column?: number[];
}

/** A grey picture. */
function grey(width: number, height: number, values: ArrayLike<number>): PixelImage {
  const data = Uint8ClampedArray.from({ length: 4 * width * height }, (_, i) => (i % 4 === 3 ? 255 : values[i >> 2]));
  return { width, height, data };
}

describe('a picture that is shown alone', () => {
  test.each(golden<Canvas>('flux3_canvases.json'))('of $width×$height pixels lies whole on its canvas', (one) => {
    const { canvas, picture: box, reds, row, column, ...sides } = one;
    const { width, height, picture } = referenceCanvas(sides, 16);
    expect([width, height]).toEqual(canvas);
    expect([picture.left, picture.top, picture.width, picture.height]).toEqual(box);
    if (reds) {
      const { data } = onCanvas(grey(sides.width, sides.height, reds), 16);
      expect(Array.from({ length: width }, (_, x) => data[4 * x])).toEqual(row);
      expect(Array.from({ length: height }, (_, y) => data[4 * y * width])).toEqual(column);
    }
  });

  test('is shown at another size than among others', async () => {
    const model = await open('tiny-flux3');
    const image = grey(74, 66, new Uint8Array(74 * 66).fill(100));
    expect((await model.encodeShown?.(image))?.dims).toEqual([1, 32, 5, 5]);
    expect((await model.encodeShown?.(image, 2))?.dims).toEqual([1, 32, 4, 4]);
    await expect(model.encodeShown?.(grey(15, 64, new Uint8Array(960)), 2)).rejects.toThrow(
      'A picture of 15×64 pixels is too small to be shown to this checkpoint; give one of at least 16 pixels on each side.',
    );
  });
});

describe('a checkpoint', () => {
  test('is summarised from its headers', async () => {
    const { summary } = await open('tiny-flux3');
    expect(summary).toMatchObject({
      pipelineClass: 'Flux3DistilledModularPipeline',
      multiple: 16,
      samplers: ['euler'],
      ignores: ['guidance_scale', 'negative_prompt'],
      takesLoras: true,
      variants: ['full', 'q8', 'q4'],
      defaults: { width: 1024, height: 1024, steps: 16, guidance_scale: 1, sampler: 'euler', schedule: 'shifted' },
    });
    expect(summary.needs).toContain('modular_model_index.json');
    expect(summary.needs.filter((path) => path.startsWith('tokenizer/'))).toHaveLength(3);
    const { summary: base } = await open('tiny-flux3-base');
    expect(base).toMatchObject({
      pipelineClass: 'Flux3ModularPipeline',
      samplers: expect.arrayContaining(['euler', 'dpmpp_2m']) as unknown,
      defaults: { steps: 50, guidance_scale: 3.5 },
    });
    expect(base.ignores).toBeUndefined();
  });

  test('is found in a folder by the index of its blocks', () => {
    const file = (path: string) => ({ path, file: new File(['{}'], path.split('/').at(-1) ?? path) });
    const paths = ['config.json', 'klein/modular_model_index.json', 'klein/transformer/config.json'];
    expect(folderSource(paths.map((path) => file(`chosen/${path}`)))).toMatchObject({
      name: 'klein',
      files: [{ path: 'modular_model_index.json' }, { path: 'transformer/config.json' }],
    });
  });

  test('may bring a scheduler of its own', async () => {
    const operation = {
      operation: 'image_generation',
      config: 'flux3',
      parameters: { prompt: 'x', steps: 2, width: 48, height: 48, seed: '1' },
    };
    const levels = async (shift: number | null) => {
      const model = await open('tiny-flux3', (contents) => {
        if (shift !== null) {
          replaced(
            'modular_model_index.json',
            (c) => (c.scheduler = ['diffusers', 'FlowMatchEulerDiscreteScheduler', {}]),
          )(contents);
          const config = JSON.stringify({ _class_name: 'FlowMatchEulerDiscreteScheduler', shift });
          contents.set('scheduler/scheduler_config.json', new TextEncoder().encode(config));
        }
      });
      return (await paint(model, operation, '')).latents;
    };
    const data = async (latents: Promise<CpuTensor>) => (await latents).data;
    const usual = await data(levels(null));
    expect(await data(levels(6.93))).toEqual(usual);
    expect(await data(levels(1))).not.toEqual(usual);
  });

  test('says what counted for nothing', async () => {
    const notices: string[] = [];
    const notice = (text: string) => void notices.push(text);
    const parameters = { prompt: 'x', negative_prompt: 'y', guidance_scale: 4, steps: 1, width: 48, height: 48 };
    const operation = { operation: 'image_generation', config: 'flux3', parameters: { ...parameters, seed: '1' } };
    await paint(await open('tiny-flux3'), operation, '', { notice });
    expect(notices).toEqual([
      '"tiny-flux3" was taught to do without guidance, so a guidance_scale of 4 changed nothing.',
      '"tiny-flux3" reads no negative prompt, so it changed nothing.',
    ]);
  });

  test.each([
    [
      'too few layers in its text encoder',
      replaced('text_encoder/config.json', (c) => ((c.text_config as Record<string, unknown>).num_hidden_layers = 28)),
      'The text encoder has 28 layers and FLUX.3 reads what comes after the 32th; choose the text encoder that FLUX.3 comes with.',
    ],
    [
      'another text encoder',
      replaced('transformer/config.json', (c) => (c.joint_attention_dim = 256)),
      /reads 256 numbers of each token and its text encoder gives 128/,
    ],
    [
      'a text encoder of another class',
      replaced('modular_model_index.json', (c) => (c.text_encoder = ['transformers', 'Qwen3ForCausalLM', {}])),
      /text_encoder of .* is a Qwen3ForCausalLM/,
    ],
    [
      'parts that lie in another repository',
      (c: Contents) => c.delete('vae/diffusion_pytorch_model.safetensors'),
      /has no .safetensors weights in vae\//,
    ],
    [
      'an index that is torn',
      (c: Contents) => c.set('modular_model_index.json', new TextEncoder().encode('{')),
      /modular_model_index.json of "tiny-flux3" is not valid JSON/,
    ],
    [
      'a pipeline of blocks that is not known',
      replaced('modular_model_index.json', (c) => (c._class_name = 'CosmosModularPipeline')),
      /is a CosmosModularPipeline, which Darkroom cannot run yet/,
    ],
  ] as const)('with %s is refused in a sentence', async (_, change, message) => {
    await expect(open('tiny-flux3', change)).rejects.toThrow(message);
  });

  test('runs in 8 and 4 bits, nearly the same', async () => {
    const operation = {
      operation: 'image_generation',
      config: 'flux3',
      parameters: { prompt: 'a red house', steps: 2, width: 48, height: 64, seed: '1' },
    };
    const { data: full } = (await paint(await open('tiny-flux3'), operation, '')).latents;
    for (const weights of ['q8', 'q4'] as const) {
      const files = filesOf('tiny-flux3', weightlessContents('tiny-flux3'));
      const model = await openModel(files, startNodeEngine().engine, { weights });
      const { data } = (await paint(model, operation, '')).latents;
      const worst = data.reduce((most, value, i) => Math.max(most, Math.abs(value - full[i])), 0);
      rows.push({ case: weights, hidden: worst.toExponential(1) });
      expect(worst).toBeLessThanOrEqual(0.5);
    }
  });
});
