/** Weights as ComfyUI keeps them in 8 bits with a scale for each matrix; see `dequantised` in `reference/split_flows.py`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What a tensor is in a file. */
export interface FileTensor {
  dtype: 'F32' | 'F8_E4M3' | 'U8';
  shape: readonly number[];
  bytes: Uint8Array;
}

/**
 * How the scales are called, and what stands beside them: the older spelling (`scaled_fp8`), and the newer one (`comfy_quant`).
 */
export type Spelling = 'scale_weight' | 'weight_scale';

const GREATEST = 448;
const SCALED = /^(?:transformer_blocks|blocks|double_blocks|single_blocks|.*\.(?:block|layers))\.\d+\..*\.weight$/;

const { F8_E4M3: values } = JSON.parse(
  readFileSync(join(import.meta.dirname, 'goldens', 'float8.json'), 'utf8'),
) as Record<'F8_E4M3', (number | null)[]>;
/** Codes of the numbers from 0 up, which are in order. */
const positive = values.slice(0, 127) as number[];

/** The nearest code, of two that are as near the even one. */
function codeOf(value: number): number {
  const magnitude = Math.abs(value);
  let high = positive.findIndex((each) => each >= magnitude);
  high = high < 0 ? positive.length - 1 : high;
  const low = Math.max(0, high - 1);
  const [below, above] = [magnitude - positive[low], positive[high] - magnitude];
  const code = below < above || (below === above && low % 2 === 0) ? low : high;
  return value < 0 ? code | 0x80 : code;
}

const bytesOf = (floats: Float32Array) => new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);

/** The tensors of one part's file, those of its blocks' matrices in 8 bits. */
export function scaledFloat8(
  tensors: Iterable<readonly [name: string, shape: readonly number[], data: Float32Array]>,
  spelling: Spelling,
): Map<string, FileTensor> {
  const made = new Map<string, FileTensor>();
  if (spelling === 'scale_weight') {
    made.set('scaled_fp8', { dtype: 'F8_E4M3', shape: [0], bytes: new Uint8Array() });
  }
  for (const [name, shape, data] of tensors) {
    if (shape.length !== 2 || !SCALED.test(name) || name.includes('relative_attention_bias')) {
      made.set(name, { dtype: 'F32', shape, bytes: bytesOf(data) });
      continue;
    }
    const scale = Math.fround(data.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / GREATEST);
    const layer = name.replace(/\.weight$/, '');
    made.set(name, {
      dtype: 'F8_E4M3',
      shape,
      bytes: Uint8Array.from(data, (value) => codeOf(Math.fround(value / scale))),
    });
    const number = (value: number): FileTensor => ({ dtype: 'F32', shape: [], bytes: bytesOf(Float32Array.of(value)) });
    made.set(`${layer}.${spelling}`, number(scale));
    made.set(`${layer}.${spelling === 'scale_weight' ? 'scale_input' : 'input_scale'}`, number(1));
    if (spelling === 'weight_scale') {
      const said = new TextEncoder().encode(JSON.stringify({ format: 'float8_e4m3fn' }));
      made.set(`${layer}.comfy_quant`, { dtype: 'U8', shape: [said.length], bytes: said });
    }
  }
  return made;
}
