/**
 * A plain loop over torch's ONNX exports, in a worker, as a page would write it by hand with onnxruntime-web alone: the text is encoded, Euler's steps
 * are computed between calls of the UNet, and the decoded picture becomes a PNG. The baseline for pictures on the processor. Takes `open` with the files
 * that `reference/export_processor.py` makes, then `make` with the name of a run, and answers each on the same port.
 */
import * as ort from 'onnxruntime-web/wasm';
import wasmModule from 'onnxruntime-web/ort-wasm-simd-threaded.mjs?url';
import wasm from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url';

export type PlainRequest =
  /** @property threads null: as many as ONNX Runtime takes by itself */
  { type: 'open'; files: { name: string; file: File }[]; threads: number | null } | { type: 'make'; run: string };

export type PlainAnswer =
  | { type: 'opened' }
  /** @property png one picture of what was asked for */
  | { type: 'made'; png: Blob }
  | { type: 'failed'; message: string };

interface Run {
  name: string;
  side: number;
  guidance: number;
  noise: string;
  timesteps: number[];
  sigmas: number[];
  first_scale: number;
}

interface About {
  ids: number[];
  empty: number[];
  scaling_factor: number;
  runs: Run[];
}

const say = (answer: PlainAnswer) => postMessage(answer);

let about: About;
let sessions: Record<'text_encoder' | 'unet' | 'vae_decoder', ort.InferenceSession>;
const noises = new Map<string, Float32Array>();

async function open({ files, threads }: Extract<PlainRequest, { type: 'open' }>): Promise<void> {
  const named = (name: string) => {
    const found = files.find((one) => one.name === name);
    if (!found) {
      throw new Error(`There is no file ${name}.`);
    }
    return found.file;
  };
  ort.env.wasm.wasmPaths = { mjs: wasmModule, wasm };
  if (threads !== null) {
    ort.env.wasm.numThreads = threads;
  }
  about = JSON.parse(await named('about.json').text()) as About;
  for (const { noise } of about.runs) {
    noises.set(noise, new Float32Array(await named(noise).arrayBuffer()));
  }
  const session = async (name: string) =>
    ort.InferenceSession.create(new Uint8Array(await named(`${name}.onnx`).arrayBuffer()), {
      executionProviders: ['wasm'],
      graphOptimizationLevel: 'all',
    });
  sessions = {
    text_encoder: await session('text_encoder'),
    unet: await session('unet'),
    vae_decoder: await session('vae_decoder'),
  };
}

const floats = (tensor: ort.Tensor) => tensor.data as Float32Array;

async function make(name: string): Promise<Blob> {
  const run = about.runs.find((one) => one.name === name);
  const noise = run && noises.get(run.noise);
  if (!run || !noise) {
    throw new Error(`There is no run ${name}.`);
  }
  const { side, guidance, timesteps, sigmas } = run;
  const isGuided = guidance > 1;
  const copies = isGuided ? 2 : 1;
  const ids = [...(isGuided ? about.empty : []), ...about.ids];
  const { states } = await sessions.text_encoder.run({
    input_ids: new ort.Tensor('int64', BigInt64Array.from(ids, BigInt), [copies, about.ids.length]),
  });
  const x = noise.map((value) => value * run.first_scale);
  for (const [i, timestep] of timesteps.entries()) {
    const shrink = 1 / Math.sqrt(sigmas[i] ** 2 + 1);
    const sample = new Float32Array(copies * x.length);
    for (let copy = 0; copy < copies; copy++) {
      sample.set(
        x.map((value) => value * shrink),
        copy * x.length,
      );
    }
    const { out_sample: out } = await sessions.unet.run({
      sample: new ort.Tensor('float32', sample, [copies, 4, side / 8, side / 8]),
      timestep: new ort.Tensor('float32', [timestep], [1]),
      encoder_hidden_states: states,
    });
    const noises = floats(out);
    const [first, step] = [noises.length - x.length, sigmas[i + 1] - sigmas[i]];
    for (let at = 0; at < x.length; at++) {
      const guided = isGuided ? noises[at] + guidance * (noises[first + at] - noises[at]) : noises[at];
      x[at] += guided * step;
    }
  }
  const { picture } = await sessions.vae_decoder.run({
    latent_sample: new ort.Tensor(
      'float32',
      x.map((value) => value / about.scaling_factor),
      [1, 4, side / 8, side / 8],
    ),
  });
  return pngOf(floats(picture), side);
}

/** @param picture RGB by planes, from -1 to 1 */
function pngOf(picture: Float32Array, side: number): Promise<Blob> {
  const count = side * side;
  const image = new ImageData(side, side);
  for (let at = 0; at < count; at++) {
    for (let plane = 0; plane < 3; plane++) {
      image.data[4 * at + plane] = Math.round((picture[plane * count + at] / 2 + 0.5) * 255);
    }
    image.data[4 * at + 3] = 255;
  }
  const canvas = new OffscreenCanvas(side, side);
  canvas.getContext('2d')?.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: 'image/png' });
}

addEventListener('message', ({ data }: MessageEvent<PlainRequest>) => {
  const work =
    data.type === 'open'
      ? open(data).then(() => say({ type: 'opened' }))
      : make(data.run).then((png) => say({ type: 'made', png }));
  work.catch((error: unknown) => say({ type: 'failed', message: String(error) }));
});
