/**
 * Flow transformers at their published width with a few blocks (`test/goldens/large_flows.json`), whose weights of 4 bits are made while they are
 * read, so that no file has to hold them. `reference/large_flows.py` makes the same numbers.
 */
import * as flux2 from '../src/graphs/flux2_transformer2d.ts';
import type { Graph, Provider, StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import * as qwenImage from '../src/graphs/qwen_image_transformer2d.ts';
import * as sd3 from '../src/graphs/sd3_transformer2d.ts';
import * as zImage from '../src/graphs/z_image_transformer2d.ts';
import golden from '../test/goldens/large_flows.json';
import { hashed } from '../test/hashed_weights.ts';
import { MadeFile, blocks, numbers, type MadeTensor } from '../test/made_weights.ts';

export type TransformerName = keyof typeof golden.blocks;

export interface Input {
  dims: number[];
  data: Float32Array<ArrayBuffer>;
}

/** Networks that run one after another: what each gives is an input of those behind it. */
export interface Transformer {
  graphs: Graph[];
  inputs: Record<string, Input>;
}

/** Inputs are numbered from here. */
const FIRST_INPUT = 10_000;

const product = (shape: readonly number[]) => shape.reduce((all, dim) => all * dim, 1);

/** Tensors made by the formula, a file each. */
export function madeWeights(tensors: readonly MadeTensor[]): { blobs: Map<string, Blob>; index: WeightIndex } {
  const blobs = new Map<string, Blob>();
  const stored = new Map<string, StoredTensor>();
  tensors.forEach((tensor, number) => {
    const { name, shape, bits } = tensor;
    const file = `made/${name}`;
    const about = { name, dtype: 'F32' as const, shape, file, offset: 0 };
    if (bits === 4 || bits === 8) {
      const [data, scales] = blocks(tensor, number, 'F32');
      blobs.set(file, new MadeFile(file, [data, scales]));
      stored.set(name, {
        ...about,
        length: data.length,
        quantised: { bits, dataOffset: 0, scalesOffset: data.length },
      });
    } else {
      const all = numbers(tensor, number);
      blobs.set(file, new MadeFile(file, [all]));
      stored.set(name, { ...about, length: all.length });
    }
  });
  return { blobs, index: { get: (name) => stored.get(name), names: () => stored.keys() } };
}

/** What a case of the reference was given, by the names of our graphs. */
export function madeInputs(shapes: Record<string, number[]>): Record<string, Input> {
  return Object.fromEntries(
    Object.entries(shapes).map(([name, dims], k) => [
      name,
      { dims, data: hashed(FIRST_INPUT + k, product(dims), 1, 0) },
    ]),
  );
}

function rotary({ cos, sin }: { cos: Input['data']; sin: Input['data'] }, half: number, ending = '') {
  const dims = [cos.length / half, half];
  return { [`cos${ending}`]: { dims, data: cos }, [`sin${ending}`]: { dims, data: sin } };
}

/** Of the size and the prompt that the inputs have. */
interface Case {
  config: unknown;
  timestep: number;
  inputs: Record<string, Input>;
}

/** A klein transformer of any width. */
export function flux2Transformer(
  { config: json, timestep, inputs }: Case,
  index: WeightIndex,
  provider: Provider,
): Transformer {
  const config = flux2.parseConfig(json);
  const [, , height, width] = inputs.sample.dims;
  const [, text] = inputs.prompt_embeds.dims;
  const graph = flux2.build(config, index, { provider, dtype: 'f32', batch: 1, height, width, text });
  const time = flux2.timeProjection(config, timestep);
  return {
    graphs: [graph],
    inputs: {
      ...inputs,
      ...rotary(flux2.angles(config, text, { height, width }, []), config.attention_head_dim / 2),
      time_proj: { dims: [1, time.length], data: time },
    },
  };
}

const FAMILIES: Record<TransformerName, (one: Case, index: WeightIndex, provider: Provider) => Transformer> = {
  'klein-4b': flux2Transformer,
  'z-image': ({ config: json, timestep, inputs }, index, provider) => {
    const config = zImage.parseConfig(json);
    const [, , height, width] = inputs.sample.dims;
    const [, tokens] = inputs.prompt_embeds.dims;
    const text = zImage.textLength(tokens);
    const half = config.dim / config.n_heads / 2;
    const options = { provider, dtype: 'f32' as const, batch: 1 };
    const time = zImage.timeProjection(config, timestep);
    return {
      graphs: [
        zImage.buildContext(config, index, { ...options, height: 0, width: 0, tokens }),
        zImage.build(config, index, { ...options, height, width, text }),
      ],
      inputs: {
        ...inputs,
        ...rotary(zImage.textAngles(config, tokens), half, '@0'),
        ...rotary(zImage.angles(config, { height, width, tokens, text }), half, '@1'),
        time_proj: { dims: [1, time.length], data: time },
      },
    };
  },
  'sd35-large': ({ config: json, timestep, inputs }, index, provider) => {
    const config = sd3.parseConfig(json);
    const [, , height, width] = inputs.sample.dims;
    const [, text] = inputs.prompt_embeds.dims;
    const time = sd3.timeProjection(timestep);
    const { caption_projection_dim: dim } = config;
    // As large as the picture, so that its rows are the picture's.
    const number = [...index.names()].indexOf(sd3.POSITIONS);
    const { scale, add = 0 } = golden.blocks['sd35-large'].tensors[number] as MadeTensor;
    const rows = sd3.positionRows(config, height, width);
    return {
      graphs: [sd3.build(config, index, { provider, dtype: 'f32', batch: 1, height, width, text })],
      inputs: {
        ...inputs,
        positions: { dims: [rows.length, dim], data: hashed(number, rows.length * dim, scale, add) },
        time_proj: { dims: [1, time.length], data: time },
      },
    };
  },
  'qwen-image': ({ config: json, timestep, inputs }, index, provider) => {
    const config = qwenImage.parseConfig(json);
    const [, , height, width] = inputs.sample.dims;
    const [, text] = inputs.prompt_embeds.dims;
    const half = config.attention_head_dim / 2;
    const tables = qwenImage.angles(config, text, [{ height, width }]);
    const rows = tables.cos.length / half;
    return {
      graphs: [qwenImage.build(config, index, { provider, dtype: 'f32', batch: 1, height, width, text })],
      inputs: {
        ...inputs,
        ...rotary(tables, half),
        time_proj: { dims: [2, 256], data: qwenImage.timeProjection(timestep) },
        mask: { dims: [1, 1, 1, rows], data: qwenImage.wordsMask(text, text, rows - text) },
      },
    };
  },
};

export function publishedTransformer(
  name: TransformerName,
  provider: Provider,
): Transformer & { blobs: Map<string, Blob>; expected: Expected } {
  const { config, timestep, inputs, tensors, length, square, values } = golden.blocks[name];
  const { blobs, index } = madeWeights(tensors);
  const one = { config, timestep, inputs: madeInputs(inputs) };
  return { ...FAMILIES[name](one, index, provider), blobs, expected: { length, square, values } };
}

export interface Expected {
  length: number;
  square: number;
  /** Those at {@link placeOf}. */
  values: number[];
}

export const placeOf = (n: number, length: number): number =>
  Number((BigInt(n) * 2654435761n + 12345n) % BigInt(length));
