/**
 * The networks of the benchmark: ours, and what `torch.onnx` exports from the same modules, on the same weights. The exports are committed
 * without weights (`reference/export_bench.py`); the same hash makes the weights here and there, so all graphs compute the same function.
 */
import * as autoencoderKl from '../src/graphs/autoencoder_kl.ts';
import type { RunnableGraph } from '../src/engine/runtime.ts';
import * as controlnet from '../src/graphs/controlnet.ts';
import * as flux2 from '../src/graphs/flux2_transformer2d.ts';
import type { Graph, Provider, StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import * as rrdbnet from '../src/graphs/rrdbnet.ts';
import * as srvgg from '../src/graphs/srvgg_net_compact.ts';
import * as unet2d from '../src/graphs/unet2d_condition.ts';
import { writeSafetensorsHeader } from '../src/weights/safetensors.ts';
import { upscalerNetwork } from '../src/weights/upscaler_layout.ts';
import { hashed } from '../test/hashed_weights.ts';
import manifest from './graphs/weights.json';

export type NetworkName = Exclude<keyof typeof manifest, 'about'>;
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

const xlConfig = unet2d.parseConfig({
  block_out_channels: [64, 128, 256],
  down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
  up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
  transformer_layers_per_block: [1, 2, 4],
  attention_head_dim: [1, 2, 4],
  cross_attention_dim: 256,
  use_linear_projection: true,
  addition_embed_type: 'text_time',
  addition_time_embed_dim: 64,
  projection_class_embeddings_input_dim: 128 + 6 * 64,
});
const XL_SIZE = 512;

const controlConfig = controlnet.parseConfig({
  block_out_channels: [64, 128, 256, 256],
  cross_attention_dim: 128,
  attention_head_dim: 8,
});

export const LATENTS = { batch: 2, height: 16, width: 16 };

/** Ours of a network: as the sampling loop runs it, and what runs once per picture before it. */
interface OurGraphs {
  graph: Graph;
  before: Graph[];
}

/** Ours of each network: its graphs, and the inputs that the exports do not have. */
interface Ours {
  graphs: (index: WeightIndex, provider: Provider) => OurGraphs;
  inputs?: () => Record<string, { dims: number[]; data: Float32Array<ArrayBuffer> }>;
}

const sized = (provider: Provider) => ({ provider, dtype: 'f32' as const, ...LATENTS, sequence: 77 });

const timed = (config: unet2d.Config) => {
  const data = unet2d.timeProjection(config, TIMESTEP);
  return { time_proj: { dims: [1, data.length], data } };
};

const denoiser =
  (config: unet2d.Config): Ours['graphs'] =>
  (index, provider) => ({
    graph: unet2d.build(config, index, { ...sized(provider), projected: true }),
    before: [unet2d.buildContext(config, index, sized(provider))],
  });

const upscaler = (name: 'rrdbnet' | 'srvgg'): Ours => ({
  graphs: (index, provider) => {
    const [{ shape }] = manifest[name].inputs;
    const tensors = [...index.names()].flatMap((tensor) => index.get(tensor) ?? []);
    const network = upscalerNetwork(tensors, name);
    const options = { provider, dtype: 'f32' as const, batch: 1, height: shape[2], width: shape[3] };
    const graph =
      network.className === rrdbnet.className
        ? rrdbnet.build(network.config, network.weights, options)
        : srvgg.build(network.config, network.weights, options);
    return { graph, before: [] };
  },
});

const OURS: Record<NetworkName, Ours> = {
  unet: { graphs: denoiser(unetConfig), inputs: () => timed(unetConfig) },
  vae_decoder: {
    graphs: (index, provider) => ({
      graph: autoencoderKl.buildDecoder(vaeConfig, index, { provider, dtype: 'f32', ...LATENTS, batch: 1 }),
      before: [],
    }),
  },
  klein: {
    graphs: (index, provider) => ({
      graph: flux2.build(kleinConfig, index, { provider, dtype: 'f32', batch: 1, ...KLEIN }),
      before: [],
    }),
    inputs: () => {
      const data = flux2.timeProjection(kleinConfig, KLEIN_TIMESTEP);
      const half = kleinConfig.attention_head_dim / 2;
      const { cos, sin } = flux2.angles(kleinConfig, KLEIN.text, KLEIN, []);
      const dims = [cos.length / half, half];
      return { time_proj: { dims: [1, data.length], data }, cos: { dims, data: cos }, sin: { dims, data: sin } };
    },
  },
  unet_xl: {
    graphs: denoiser(xlConfig),
    inputs: () => {
      const { batch } = LATENTS;
      const data = unet2d.sizeProjection(xlConfig, Array<number>(batch * unet2d.SIZE_IDS).fill(XL_SIZE));
      return { ...timed(xlConfig), added_time: { dims: [batch, data.length / batch], data } };
    },
  },
  controlnet: {
    graphs: (index, provider) => ({
      graph: controlnet.build(controlConfig, index, sized(provider)),
      before: [
        controlnet.buildHint(controlConfig, index, sized(provider)),
        controlnet.buildContext(controlConfig, index, sized(provider)),
      ],
    }),
    inputs: () => timed(controlConfig),
  },
  rrdbnet: upscaler('rrdbnet'),
  srvgg: upscaler('srvgg'),
};

export const ourGraphs = (name: NetworkName, index: WeightIndex, provider: Provider): OurGraphs =>
  OURS[name].graphs(index, provider);

export async function exportedGraph(name: NetworkName, exporter: Exporter): Promise<RunnableGraph> {
  const bytes = new Uint8Array(await (await fetch(exports[`./graphs/${name}/${exporter}.onnx`])).arrayBuffer());
  const files = [WEIGHTS, ...transposedBy(name, exporter).map((tensor) => `T/${tensor}`)];
  return {
    bytes,
    externals: files.map((file) => ({ location: file, kind: 'file', file })),
  };
}

/** Names of an export's inputs. */
export const exportedInputs = (name: NetworkName): string[] => manifest[name].inputs.map(({ name: input }) => input);

/** Inputs by the exporters' names, and by ours where they differ. */
export function makeInputs(name: NetworkName): Record<string, { dims: number[]; data: Float32Array<ArrayBuffer> }> {
  const inputs: Record<string, { dims: number[]; data: Float32Array<ArrayBuffer> }> = {};
  for (const [k, { name: input, shape, scale, add }] of manifest[name].inputs.entries()) {
    inputs[input] = { dims: shape, data: hashed(FIRST_INPUT + k, size(shape), scale, add) };
  }
  return { ...inputs, ...OURS[name].inputs?.() };
}

/** An output, and some of what torch computed for these inputs. */
export interface Expected {
  name: string;
  dims: number[];
  /** Of all of it. */
  largest: number;
  /** Number n is of the element ⌊n · size / values⌋. */
  values: Float32Array<ArrayBuffer>;
}

export async function expectedOutputs(name: NetworkName): Promise<Expected[]> {
  const file = await (await fetch(expectedFiles[`./graphs/${name}/expected.safetensors`])).arrayBuffer();
  const length = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length))) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  return manifest[name].outputs.map(({ name: output, shape, largest }) => {
    const [begin, end] = header[output].data_offsets;
    const values = new Float32Array(file.slice(8 + length + begin, 8 + length + end));
    return { name: output, dims: shape, largest, values };
  });
}

/** The largest difference from torch, relative to its largest value. */
export function differenceFrom({ values, largest }: Expected, computed: Float32Array): number {
  const worst = values.reduce(
    (most, value, n) => Math.max(most, Math.abs(value - computed[Math.floor((n * computed.length) / values.length)])),
    0,
  );
  return worst / largest;
}
