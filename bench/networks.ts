/**
 * The networks of the benchmark: ours, and what `torch.onnx` exports from the same modules, on the same weights. The exports are committed
 * without weights (`reference/export_bench.py`); the same hash makes the weights here and there, so all graphs compute the same function.
 */
import * as autoencoderKl from '../src/graphs/autoencoder_kl.ts';
import type { RunnableGraph } from '../src/engine/runtime.ts';
import * as flux2 from '../src/graphs/flux2_transformer2d.ts';
import type { Graph, Provider, StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import * as unet2d from '../src/graphs/unet2d_condition.ts';
import { writeSafetensorsHeader } from '../src/weights/safetensors.ts';
import { hashed } from '../test/hashed_weights.ts';
import manifest from './graphs/weights.json';

export type NetworkName = 'unet' | 'vae_decoder' | 'klein';
export type Exporter = 'torchscript' | 'dynamo' | 'opset23';

const EXPORTERS: readonly Exporter[] = ['torchscript', 'dynamo', 'opset23'];
const WEIGHTS = 'weights.safetensors';
/** Inputs are hashed as tensors number 1000 and up. */
const FIRST_INPUT = 1000;
/** Those of LoRAs as tensors from here on. */
const FIRST_LORA = 10_000;
const TIMESTEP = 481;
/** From 1000 to 0; the exports of klein are told its thousandth. */
const KLEIN_TIMESTEP = 500;

const exports = import.meta.glob<string>('./graphs/*/*.onnx', { eager: true, query: '?url', import: 'default' });
const expectedFiles = import.meta.glob<string>('./graphs/*/expected.safetensors', {
  eager: true,
  query: '?url',
  import: 'default',
});

const size = (shape: number[]) => shape.reduce((product, dim) => product * dim, 1);

/** The tensors that an export reads transposed. */
function transposedBy(name: NetworkName, exporter: Exporter): string[] {
  const graphs: Partial<Record<Exporter, { transposed: string[] }>> = manifest[name].graphs;
  return graphs[exporter]?.transposed ?? [];
}

/** All weights of a network, as one file and, for the exporters' folded transposes, one file per transposed tensor. */
export function makeWeights(name: NetworkName): { blobs: Map<string, Blob>; index: WeightIndex } {
  const { tensors, data_start } = manifest[name];
  const parts = tensors.map(({ shape, scale, add }, k) => hashed(k, size(shape), scale, add));
  const blobs = new Map([[WEIGHTS, new Blob([new Uint8Array(data_start), ...parts])]]);
  const stored = new Map<string, StoredTensor>();
  tensors.forEach(({ name: tensor, shape, offset }) => {
    stored.set(tensor, { name: tensor, dtype: 'F32', shape, file: WEIGHTS, offset, length: size(shape) * 4 });
  });
  const transposed = EXPORTERS.flatMap((exporter) => transposedBy(name, exporter));
  for (const tensor of new Set(transposed)) {
    const k = tensors.findIndex((entry) => entry.name === tensor);
    const [rows, columns] = tensors[k].shape;
    const turned = new Float32Array(rows * columns);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        turned[c * rows + r] = parts[k][r * columns + c];
      }
    }
    blobs.set(`T/${tensor}`, new Blob([turned]));
  }
  const index: WeightIndex = { get: (tensor) => stored.get(tensor), names: () => stored.keys() };
  return { blobs, index };
}

/**
 * A LoRA that changes all matrices of the UNet's transformers, hashed.
 * @param k another file for each
 */
export function makeLora(index: WeightIndex, rank: number, k: number): Blob {
  const paths = [...index.names()].flatMap((name) => /^(.*\.transformer_blocks\..*)\.weight$/.exec(name)?.[1] ?? []);
  const tensors = paths.flatMap((path, place): [string, number[], Float32Array<ArrayBuffer>][] => {
    const [rows = 0, columns] = index.get(`${path}.weight`)?.shape ?? [];
    const seed = FIRST_LORA + 1000 * k + 2 * place;
    return columns
      ? [
          [`unet.${path}.lora_A.weight`, [rank, columns], hashed(seed, rank * columns, 0.01, 0)],
          [`unet.${path}.lora_B.weight`, [rows, rank], hashed(seed + 1, rows * rank, 0.01, 0)],
        ]
      : [];
  });
  const entries = tensors.map(
    ([name, shape, { byteLength: length }]) => [name, { dtype: 'F32', shape, length }] as const,
  );
  return new Blob([
    writeSafetensorsHeader(
      entries.map(([name, entry]) => [name, entry]),
      {},
    ),
    ...tensors.map(([, , data]) => data),
  ]);
}

const unetConfig = unet2d.parseConfig({
  block_out_channels: [64, 128, 256, 256],
  cross_attention_dim: 128,
  attention_head_dim: 8,
  layers_per_block: 2,
  norm_num_groups: 32,
  in_channels: 4,
  out_channels: 4,
});

const vaeConfig = autoencoderKl.parseConfig({
  block_out_channels: [64, 128, 128, 128],
  down_block_types: Array<string>(4).fill('DownEncoderBlock2D'),
  up_block_types: Array<string>(4).fill('UpDecoderBlock2D'),
  layers_per_block: 2,
  norm_num_groups: 32,
  latent_channels: 4,
});

const kleinConfig = flux2.parseConfig({
  num_layers: 1,
  num_single_layers: 2,
  attention_head_dim: 128,
  num_attention_heads: 2,
  joint_attention_dim: 256,
  guidance_embeds: false,
});
const KLEIN = { height: 8, width: 8, text: 16 };

export const LATENTS = { batch: 2, height: 16, width: 16 };

/** Our graph as the sampling loop runs it, and for the UNet the small graph that runs once per picture before it. */
export function ourGraphs(
  name: NetworkName,
  index: WeightIndex,
  provider: Provider,
): { graph: Graph; before: Graph | null } {
  if (name === 'vae_decoder') {
    return {
      graph: autoencoderKl.buildDecoder(vaeConfig, index, { provider, dtype: 'f32', ...LATENTS, batch: 1 }),
      before: null,
    };
  }
  if (name === 'klein') {
    return { graph: flux2.build(kleinConfig, index, { provider, dtype: 'f32', batch: 1, ...KLEIN }), before: null };
  }
  const options = { provider, dtype: 'f32' as const, ...LATENTS, sequence: 77 };
  return {
    graph: unet2d.build(unetConfig, index, { ...options, projected: true }),
    before: unet2d.buildContext(unetConfig, index, options),
  };
}

export async function exportedGraph(name: NetworkName, exporter: Exporter): Promise<RunnableGraph> {
  const bytes = new Uint8Array(await (await fetch(exports[`./graphs/${name}/${exporter}.onnx`])).arrayBuffer());
  const files = [WEIGHTS, ...transposedBy(name, exporter).map((tensor) => `T/${tensor}`)];
  return {
    bytes,
    externals: files.map((file) => ({ location: file, kind: 'file', file })),
  };
}

/** Inputs by the exporters' names, and by ours where they differ. */
export function makeInputs(name: NetworkName): Record<string, { dims: number[]; data: Float32Array<ArrayBuffer> }> {
  const inputs = Object.fromEntries(
    manifest[name].inputs.map(({ name: input, shape, scale, add }, k) => [
      input,
      { dims: shape, data: hashed(FIRST_INPUT + k, size(shape), scale, add) },
    ]),
  );
  if (name === 'unet') {
    const data = unet2d.timeProjection(unetConfig, TIMESTEP);
    inputs.time_proj = { dims: [1, data.length], data };
  } else if (name === 'klein') {
    const data = flux2.timeProjection(kleinConfig, KLEIN_TIMESTEP);
    inputs.time_proj = { dims: [1, data.length], data };
    const half = kleinConfig.attention_head_dim / 2;
    const { cos, sin } = flux2.angles(kleinConfig, KLEIN.text, KLEIN, []);
    const dims = [cos.length / half, half];
    Object.assign(inputs, { cos: { dims, data: cos }, sin: { dims, data: sin } });
  }
  return inputs;
}

/** What torch computed for these inputs. */
export async function expectedOutput(
  name: NetworkName,
): Promise<{ name: string; dims: number[]; data: Float32Array<ArrayBuffer> }> {
  const { output } = manifest[name];
  const file = await (await fetch(expectedFiles[`./graphs/${name}/expected.safetensors`])).arrayBuffer();
  const length = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length))) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const [begin, end] = header[output.name].data_offsets;
  return {
    name: output.name,
    dims: output.shape,
    data: new Float32Array(file.slice(8 + length + begin, 8 + length + end)),
  };
}
