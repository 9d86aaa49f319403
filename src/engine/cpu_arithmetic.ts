/** The arithmetic on plain arrays, for the wasm backend: the same formulas as the kernels. */
import type * as Ort from 'onnxruntime-web';
import type { PixelImage } from '../core/media.ts';
import type { GuidanceWeights, Moments } from '../guidance/guidance.ts';
import { applyStep } from '../samplers/apply.ts';
import { convert } from '../weights/conversion.ts';
import {
  elements,
  type Arithmetic,
  type DeviceTensor,
  type PreviewColours,
  type Snapshots,
  type StepArguments,
  type TwoPredictions,
} from './arithmetic.ts';
import { requireFinite, toPixels } from './pixels.ts';
import type { OrtModule } from './runtime.ts';

class CpuTensor implements DeviceTensor {
  readonly ort: Ort.Tensor;

  constructor(
    ort: OrtModule,
    readonly data: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
    readonly dims: readonly number[],
  ) {
    if (data instanceof Int32Array) {
      this.ort = new ort.Tensor('int32', data, [...dims]);
    } else if (data instanceof Uint16Array) {
      this.ort = new ort.Tensor('float16', data, [...dims]);
    } else {
      this.ort = new ort.Tensor('float32', data, [...dims]);
    }
  }

  dispose(): void {
    // Left to the garbage collector.
  }
}

export class CpuArithmetic implements Arithmetic {
  constructor(readonly ort: OrtModule) {}

  upload(data: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>, dims: readonly number[]): CpuTensor {
    return new CpuTensor(this.ort, data.slice(), dims);
  }

  empty(dims: readonly number[], type: 'float32' | 'float16' = 'float32'): CpuTensor {
    const count = elements(dims);
    return new CpuTensor(this.ort, type === 'float32' ? new Float32Array(count) : new Uint16Array(count), dims);
  }

  convert(out: DeviceTensor, from: DeviceTensor): void {
    const narrow = (out as CpuTensor).data instanceof Uint16Array;
    bytes(out).set(convert(bytes(from), narrow ? 'F32' : 'F16', narrow ? 'F16' : 'F32'));
  }

  write(tensor: DeviceTensor, data: Float32Array<ArrayBuffer>): void {
    values(tensor).set(data);
  }

  copy(from: DeviceTensor, start: number, to: DeviceTensor, at: number, count: number): void {
    values(to).set(values(from).subarray(start, start + count), at);
  }

  read(tensor: DeviceTensor): Promise<Float32Array<ArrayBuffer>> {
    return Promise.resolve(values(tensor).slice());
  }

  combine(out: DeviceTensor, a: number, x: DeviceTensor, b: number, y: DeviceTensor | null, copies = 1): void {
    const [to, from, other] = [values(out), values(x), y ? values(y) : undefined];
    const count = to.length / copies;
    for (let i = 0; i < count; i++) {
      to[i] = a * from[i % from.length] + (other ? b * other[i % other.length] : 0);
    }
    for (let c = 1; c < copies; c++) {
      to.copyWithin(c * count, 0, count);
    }
  }

  posterior(out: DeviceTensor, moments: DeviceTensor, noise: DeviceTensor, scale: number): void {
    const [to, from, random] = [values(out), values(moments), values(noise)];
    for (let i = 0; i < to.length; i++) {
      const logvar = Math.min(Math.max(from[to.length + i], -30), 20);
      to[i] = (from[i] + Math.exp(0.5 * logvar) * random[i]) * scale;
    }
  }

  moments({ uncond, cond, condOffset, count }: TwoPredictions, pictures: number): Promise<Moments[]> {
    const [u, c] = [values(uncond), values(cond).subarray(condOffset)];
    const size = count / pictures;
    const all = Array.from({ length: pictures }, (_, n) => {
      const sums: Moments = { count: size, c: 0, u: 0, cc: 0, cu: 0, uu: 0 };
      for (let i = n * size; i < (n + 1) * size; i++) {
        sums.c += c[i];
        sums.u += u[i];
        sums.cc += c[i] * c[i];
        sums.cu += c[i] * u[i];
        sums.uu += u[i] * u[i];
      }
      return sums;
    });
    return Promise.resolve(all);
  }

  guide(out: DeviceTensor, predictions: TwoPredictions, weights: readonly GuidanceWeights[]): void {
    const { count, condOffset } = predictions;
    const [to, u, c] = [values(out), values(predictions.uncond), values(predictions.cond).subarray(condOffset)];
    const size = count / weights.length;
    for (let i = 0; i < count; i++) {
      const weight = weights[Math.floor(i / size)];
      to[i] = weight.c * c[i] + weight.u * u[i];
    }
  }

  step({ step, state, uncond, cond, condOffset, guidance, noise, nextInputScale, blend }: StepArguments): void {
    const x = values(state.x);
    const count = x.length;
    const { history, historyLength, historyHead } = state;
    const ring = history ? values(history) : new Float32Array(0);
    const slots = Array.from({ length: historyLength }, (_, k) => {
      const at = ((historyHead + k) % historyLength) * count;
      return ring.subarray(at, at + count);
    });
    const kept = state.blend ? values(state.blend) : null;
    applyStep(step, {
      x,
      cond: values(cond).subarray(condOffset, condOffset + count),
      uncond: uncond ? values(uncond).subarray(0, count) : null,
      guidance,
      noise: noise && values(noise),
      history: slots,
      denoised: values(state.denoised),
      inpaint:
        kept && blend
          ? {
              image: kept.subarray(0, count),
              noise: kept.subarray(count, 2 * count),
              mask: kept.subarray(2 * count, 3 * count),
              level: blend,
            }
          : undefined,
    });
    if (step.shift && history) {
      state.historyHead = (historyHead + historyLength - 1) % historyLength;
    }
    this.combine(state.input, nextInputScale, state.x, 0, null, state.copies);
  }

  snapshots(): Snapshots {
    return {
      take: (tensors, taken) => {
        taken(tensors.map((tensor) => values(tensor).slice()));
        return true;
      },
      dispose: () => undefined,
    };
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- what is wrong with the numbers rejects, as on the GPU
  async toPixels(decoded: DeviceTensor, latents: DeviceTensor): Promise<PixelImage[]> {
    requireFinite(values(latents));
    return toPixels(values(decoded), decoded.dims);
  }

  preview(latents: DeviceTensor, colours: PreviewColours, canvas: OffscreenCanvas): void {
    const [, channels, height, width] = latents.dims;
    const context = canvas.getContext('2d');
    if (!context) {
      return;
    }
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const source = values(latents);
    const image = context.createImageData(width, height);
    const plane = width * height;
    for (let i = 0; i < plane; i++) {
      for (let k = 0; k < 3; k++) {
        let value = colours[channels][k];
        for (let c = 0; c < channels; c++) {
          value += source[c * plane + i] * colours[c][k];
        }
        image.data[i * 4 + k] = value * 255;
      }
      image.data[i * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  /** Everything here is synchronous; yielding lets the browser show the preview and deliver a cancel. */
  settle(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve));
  }
}

function bytes(tensor: DeviceTensor): Uint8Array<ArrayBuffer> {
  const { buffer, byteOffset, byteLength } = (tensor as CpuTensor).data;
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function values(tensor: DeviceTensor): Float32Array<ArrayBuffer> {
  return (tensor as CpuTensor).data as Float32Array<ArrayBuffer>;
}
