/**
 * ONNX Runtime's attention kernel silently returns wrong numbers on adapters with very small subgroups. So before a device is trusted, it
 * computes one small attention, which is compared with plain arithmetic.
 */
import { MICROSOFT, OnnxWriter } from '../graphs/onnx.ts';
import type { Runtime } from './runtime.ts';

const QUERIES = 64;
const KEYS = 77;
const HEADS = 2;
const HEAD_SIZE = 40;
const WIDTH = HEADS * HEAD_SIZE;
/** A correct kernel is within 1e-5; a wrong one is off by 0.05 or more. */
const TOLERANCE = 1e-3;

export async function attentionIsRight(runtime: Runtime, device: GPUDevice): Promise<boolean> {
  const writer = new OnnxWriter(
    'attention check',
    { get: () => undefined, names: () => [] },
    { provider: 'webgpu', dtype: 'f32', batch: 1, height: 0, width: 0 },
  );
  const inputs = { q: waves(QUERIES, 1), k: waves(KEYS, 2), v: waves(KEYS, 3) };
  const ports = [
    writer.input('q', 'float32', [1, QUERIES, WIDTH]),
    writer.input('k', 'float32', [1, KEYS, WIDTH]),
    writer.input('v', 'float32', [1, KEYS, WIDTH]),
  ];
  writer.output(
    'out',
    writer.node('attention', 'MultiHeadAttention', ports, [1, QUERIES, WIDTH], {
      domain: MICROSOFT,
      attributes: { num_heads: HEADS },
    }),
  );
  const network = await runtime.createNetwork(writer.graph(), new Map(), { name: 'webgpu', device });
  const { ort } = runtime;
  const bytes = QUERIES * WIDTH * 4;
  const buffer = device.createBuffer({
    size: bytes,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  const staging = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  try {
    const tensor = (data: Float32Array<ArrayBuffer>) =>
      new ort.Tensor('float32', data, [1, data.length / WIDTH, WIDTH]);
    await network.run(
      { q: tensor(inputs.q), k: tensor(inputs.k), v: tensor(inputs.v) },
      { out: ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: [1, QUERIES, WIDTH] }) },
    );
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const computed = new Float32Array(staging.getMappedRange());
    return attention(inputs.q, inputs.k, inputs.v).every((value, i) => Math.abs(value - computed[i]) <= TOLERANCE);
  } finally {
    staging.destroy();
    buffer.destroy();
    await network.release();
  }
}

/** Smooth and different everywhere, so that a wrong index cannot hide. */
function waves(rows: number, phase: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length: rows * WIDTH },
    (_, i) => Math.sin(phase + i * 0.37) + Math.cos(phase * i * 0.011),
  );
}

function attention(q: Float32Array, k: Float32Array, v: Float32Array): Float32Array {
  const out = new Float32Array(QUERIES * WIDTH);
  const scores = new Float64Array(KEYS);
  for (let head = 0; head < HEADS; head++) {
    const first = head * HEAD_SIZE;
    for (let row = 0; row < QUERIES; row++) {
      for (let key = 0; key < KEYS; key++) {
        let dot = 0;
        for (let d = 0; d < HEAD_SIZE; d++) {
          dot += q[row * WIDTH + first + d] * k[key * WIDTH + first + d];
        }
        scores[key] = dot / Math.sqrt(HEAD_SIZE);
      }
      const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      const weights = scores.map((score) => Math.exp(score - largest));
      const sum = weights.reduce((a, b) => a + b, 0);
      for (let d = 0; d < HEAD_SIZE; d++) {
        let value = 0;
        for (let key = 0; key < KEYS; key++) {
          value += weights[key] * v[key * WIDTH + first + d];
        }
        out[row * WIDTH + first + d] = value / sum;
      }
    }
  }
  return out;
}
