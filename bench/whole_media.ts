/**
 * Published checkpoints of sounds and videos at their full size with weights of 4 bits, which are made while they are read: planned, then loaded the way a
 * job does it, beside what the planner said. Nothing is computed, as a software adapter would take hours: every network runs as ever, so that all its values
 * get their room, but what is dispatched does nothing.
 */
import * as v from 'valibot';
import * as aceStep from '../chunks/output_audio_ace_step.ts';
import * as stableAudio from '../chunks/output_audio_stable_audio.ts';
import * as ltx from '../chunks/output_video_ltx.ts';
import * as wan from '../chunks/output_video_wan.ts';
import type { Chunk, Context } from '../src/core/chunk.ts';
import { estimateRequest } from '../src/core/fit.ts';
import type { Phase } from '../src/core/model.ts';
import type { Engine } from '../src/engine/engine.ts';
import { quantisedBits } from '../src/graphs/quantisation.ts';
import { openCheckpoint } from '../src/models/family.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { quantisedFile, type NumberedTensor } from '../test/made_weights.ts';
import published from '../test/goldens/whole_media.json';

export type WholeName = keyof typeof published.checkpoints;

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
interface Case {
  chunk: Pick<Chunk, 'parameters' | 'execute'>;
  operation: string;
  parameters: Record<string, unknown>;
}

const WORDS = { prompt: 'a red house', seed: '1' };
const VIDEO = { ...WORDS, steps: 2, guidance_scale: 1, width: 256, height: 256, format: 'zip' };
const video = (chunk: unknown, frames: number): Case => ({
  chunk: chunk as Case['chunk'],
  operation: 'video_generation',
  parameters: { ...VIDEO, frames },
});
const sound = (chunk: unknown, parameters: Record<string, unknown>): Case => ({
  chunk: chunk as Case['chunk'],
  operation: 'audio_generation',
  parameters: { ...WORDS, ...parameters },
});

const CASES: Record<WholeName, Case> = {
  'stable-audio-open': sound(stableAudio, { steps: 2, guidance_scale: 1, seconds: 10 }),
  'ace-step-1.5': sound(aceStep, { lyrics: '[verse]\nMorning light', steps: 1, guidance_scale: 1, seconds: 10 }),
  'ltx-2b': video(ltx, 9),
  'wan21-1.3b': video(wan, 5),
  'wan22-ti2v-5b': video(wan, 5),
};

/** Bytes that are planned with; enough, as what streaming takes is another question. */
const BUDGET = 12 * 2 ** 30;

type ShapeRow = [pattern: string, shape: number[], numbers?: number | number[]];

const contents = import.meta.glob<string>(
  [
    '../test/weightless/tiny-{stable-audio,ace-step,ltx,wan,wan-ti2v}/*.json',
    '../test/weightless/tiny-{stable-audio,ace-step,ltx,wan,wan-ti2v}/{scheduler,tokenizer}/*',
  ],
  { query: '?raw', import: 'default' },
);

function tensorsOf(rows: readonly ShapeRow[]): NumberedTensor[] {
  return rows
    .flatMap(([pattern, shape, numbers]) => {
      const all =
        numbers === undefined
          ? ['']
          : typeof numbers === 'number'
            ? Array.from({ length: numbers }, (_, n) => n)
            : numbers;
      return all.map((number) => ({ name: pattern.replace('#', String(number)), shape }));
    })
    .map(({ name, shape }, number) => {
      const bits = quantisedBits(name, shape, 'q4');
      return { name, number, shape, scale: 0.02, ...(bits !== null && { bits }) };
    });
}

async function filesOf(name: WholeName): Promise<FolderFiles> {
  const { like, components } = published.checkpoints[name];
  const root = `../test/weightless/${like}/`;
  const files = new Map<string, File>();
  for (const [path, read] of Object.entries(contents).filter(([each]) => each.startsWith(root))) {
    files.set(path.slice(root.length), new File([await read()], path));
  }
  const weights = JSON.parse((await files.get('weights.json')?.text()) ?? '') as { files: { path: string }[] };
  files.delete('weights.json');
  for (const [part, { config, shapes }] of Object.entries(components)) {
    files.set(`${part}/config.json`, new File([JSON.stringify(config)], 'config.json'));
    const { path } = weights.files.find((file) => file.path.startsWith(`${part}/`)) ?? { path: '' };
    files.set(path, quantisedFile(path, tensorsOf(shapes as ShapeRow[])));
  }
  const folder = new FolderFiles(
    name,
    Array.from(files, ([path, file]) => ({ path, file })),
  );
  // Gigabytes of numbers that are made up need no hash.
  return Object.assign(folder, { sha256: () => '0'.repeat(64) });
}

/** Which networks are together on the device, by the name of one of them. */
const phaseOf = (network: string): Phase =>
  network.includes('decoder') ? 'decode' : network.startsWith('transformer') ? 'sample' : 'read';

export async function loadWhole(engine: Engine, name: WholeName): Promise<WholeRow> {
  const { chunk, operation, parameters } = CASES[name];
  const begun = performance.now();
  const model = await openCheckpoint(await filesOf(name), engine);
  const request = estimateRequest({ operation, parameters }, model.summary);
  if (!request || !('estimate' in model)) {
    throw new Error(`${name} cannot be planned.`);
  }
  const isFilm = operation === 'video_generation';
  const { variants } = await model.estimate(isFilm ? { ...request, phased: true } : request, {
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
  const together = (network: string) => (isFilm ? phaseOf(network) : 'together');
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
  await chunk.execute(isFilm ? { ...input, phased: true } : input, context);
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
