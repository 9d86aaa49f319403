/**
 * A whole checkpoint at its full size, planned, then loaded the way a job does it, beside what the planner said. Nothing is computed, as a software adapter would
 * take hours: every network runs as ever, so that all its values get their room, but what is dispatched does nothing.
 */
import * as v from 'valibot';
import type { Chunk, Context } from '../src/core/chunk.ts';
import { estimateRequest } from '../src/core/fit.ts';
import type { Phase } from '../src/core/model.ts';
import type { Engine } from '../src/engine/engine.ts';
import { quantisedBits } from '../src/graphs/quantisation.ts';
import { openCheckpoint, type ModelAdditions } from '../src/models/family.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { quantisedFile } from '../test/made_weights.ts';

/** Of the networks that are on the device together. */
export interface WholePhase {
  phase: Phase | 'together';
  /** What the planner says: weights, and the most. */
  weights: number;
  peak: number;
  /** What its networks brought to the device, and the most that was there on the way, values between them included. */
  held: number;
  most: number;
}

export interface WholeRow {
  parameters: number;
  phases: WholePhase[];
  /** What each of them brought. */
  networks: Record<string, number>;
  ms: number;
}

/** What is made: small, so that weights are most of what it takes. */
export interface WholeCase {
  chunk: Pick<Chunk, 'parameters' | 'execute'>;
  operation: string;
  parameters: Record<string, unknown>;
  /** Whether networks leave the device after their phase. */
  isPhased: boolean;
  additions?: Partial<ModelAdditions>;
}

/** Bytes that are planned with; enough, as what streaming takes is another question. */
const BUDGET = 12 * 2 ** 30;

/** A file of numbers that are made while they are read, with weights of 4 bits where the library has them so. */
export function madeFile(path: string, tensors: readonly { name: string; shape: number[] }[]): File {
  const made = tensors.map(({ name, shape }, number) => {
    const bits = quantisedBits(name, shape, 'q4');
    return { name, number, shape, scale: 0.02, ...(bits !== null && { bits }) };
  });
  return quantisedFile(path, made);
}

/** Gigabytes of numbers that are made up need no hash. */
export function madeFolder(name: string, files: { path: string; file: File }[]): FolderFiles {
  return Object.assign(new FolderFiles(name, files), { sha256: () => '0'.repeat(64) });
}

const SIDE = 256;
/** For operations that are given one. */
const PICTURE = { width: SIDE, height: SIDE, data: new Uint8ClampedArray(4 * SIDE * SIDE).fill(255) };

/** Which networks are together on the device, by the name of one of them. */
const phaseOf = (network: string): Phase =>
  network.includes('decoder') ? 'decode' : /^(?:transformer|unet|controlnet)/.test(network) ? 'sample' : 'read';

export async function holdWhole(engine: Engine, files: FolderFiles, asked: WholeCase): Promise<WholeRow> {
  const { chunk, operation, parameters, isPhased, additions } = asked;
  const { name } = files;
  const begun = performance.now();
  const model = await openCheckpoint(files, engine);
  if (additions && 'useAdditions' in model) {
    await model.useAdditions?.(additions);
  }
  const request = estimateRequest({ operation, parameters }, model.summary);
  if (!request || !('estimate' in model)) {
    throw new Error(`${name} cannot be planned.`);
  }
  const { variants } = await model.estimate(isPhased ? { ...request, phased: true } : request, {
    device: engine.report,
    budget: { bytes: BUDGET, source: 'set' },
    rates: { measured: {}, pictures: {} },
    downloadBytes: 0,
  });
  const chosen = variants.find(({ runsHere }) => runsHere);
  if (!chosen || chosen.misfit) {
    throw new Error(`${name} does not fit: ${chosen?.misfit?.message ?? 'it runs in no variant here.'}`);
  }

  const { device, ledger } = engine;
  if (!device) {
    throw new Error('What is held is counted on a GPU.');
  }
  const base = ledger.report().liveBytes;
  const most = new Map<string, number>();
  const networks = new Map<string, number>();
  const together = (network: string) => (isPhased ? phaseOf(network) : 'together');
  let at = '';
  let before = 0;
  const note = () => {
    const live = ledger.report().liveBytes - base;
    most.set(at, Math.max(most.get(at) ?? 0, live));
    return live;
  };
  const createBuffer = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer(descriptor);
    if (at !== '') {
      note();
    }
    return buffer;
  };
  model.onLoading = ({ network, bytes, total }) => {
    at = together(network);
    const live = note();
    if (bytes === 0) {
      before = live;
    } else if (bytes === total) {
      networks.set(network, live - before);
    }
  };
  // A pass must not be one that is empty for another reason: only its invocations are left out.
  GPUComputePassEncoder.prototype.dispatchWorkgroups = () => undefined;
  const run = engine.run.bind(engine);
  engine.run = async (network, inputs, outputs) => {
    await run(network, inputs, outputs);
    note();
    // What nothing computed is nought, which is taken for a broken device.
    for (const { ort } of Object.values(outputs)) {
      device.queue.writeBuffer(ort.gpuBuffer, 0, Float32Array.of(0.1));
    }
  };
  // The kernel that makes pixels would say that nothing was computed.
  engine.arithmetic.toPixels = ({ dims: [batch, , height, width] }) =>
    Promise.resolve(
      Array.from({ length: batch }, () => ({ width, height, data: new Uint8ClampedArray(4 * width * height) })),
    );
  const load = () => Promise.resolve(model);
  const context = {
    operation,
    checkpoint: '',
    models: { load, loadSoundModel: load, loadMusicModel: load },
    wants: () => false,
    record: () => Promise.resolve(''),
    recordBeside: () => undefined,
    progress: () => undefined,
    sound: () => undefined,
    notice: () => undefined,
    keep: () => undefined,
    preview: () => null,
    readImage: () => Promise.resolve(PICTURE),
    recordTensors: () => Promise.resolve(),
    resume: null,
    signal: new AbortController().signal,
    writeVideo: () =>
      Promise.resolve({
        add: () => Promise.resolve(),
        finish: () => Promise.resolve({}),
        discard: () => Promise.resolve(),
      }),
  } as unknown as Context;
  const input = v.parse(chunk.parameters, { operation, ...parameters }) as Record<string, unknown>;
  await chunk.execute(isPhased ? { ...input, phased: true } : input, context);
  await model.release();
  return {
    parameters: model.summary.parameters,
    phases: (chosen.phases ?? []).map(({ phase: own, staying, slots, working }) => {
      const phase = own ?? 'together';
      const held = [...networks].reduce((sum, [network, bytes]) => sum + (together(network) === phase ? bytes : 0), 0);
      return { phase, weights: staying + slots, peak: staying + slots + working, held, most: most.get(phase) ?? 0 };
    }),
    networks: Object.fromEntries(networks),
    ms: performance.now() - begun,
  };
}
