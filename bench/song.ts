/** Songs that HeartMuLa writes code by code: what a code costs beside the arithmetic. The tiny checkpoint of the tests has every layer of the large one, only narrower and fewer. */
import type { Engine } from '../src/engine/engine.ts';
import { asSongModel, openCheckpoint } from '../src/models/family.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { hashed } from '../test/hashed_weights.ts';
import weights from '../test/weightless/tiny-heartmula/weights.json';

const FOLDER = '../test/weightless/tiny-heartmula/';
const texts = import.meta.glob<string>(
  [
    '../test/weightless/tiny-heartmula/gen_config.json',
    '../test/weightless/tiny-heartmula/tokenizer.json',
    '../test/weightless/tiny-heartmula/*/config.json',
  ],
  { eager: true, query: '?raw', import: 'default' },
);

export interface SongRow {
  frames: number;
  /** Codes that were drawn in the measured frames. */
  tokens: number;
  /** Of each token: dispatches (none on wasm), runs of a network, and milliseconds with all that is waited for. */
  launches: number;
  runs: number;
  ms: number;
  /** Of each token: our own JavaScript, which is neither in the runtime nor waiting for what it reads back or from files. */
  microseconds: number;
}

/** @param frames of which the first, which compiles, counts for nothing */
export async function writeSong(engine: Engine, frames: number, isGuided: boolean): Promise<SongRow> {
  const model = asSongModel(await openCheckpoint(checkpoint(), engine));
  const waited = watch(engine);
  let before = { at: 0, ...waited, launches: 0 };
  let row: SongRow | null = null;
  await model.write({
    lyrics: '[verse]\nMorning light',
    tags: 'piano',
    seconds: frames / model.framesPerSecond,
    guidance_scale: isGuided ? 1.5 : 1,
    temperature: 1,
    top_k: 50,
    seed: '1',
    signal: new AbortController().signal,
    resume: null,
    keep: () => undefined,
    onRead: () => undefined,
    onFrame: (done) => {
      const now = { at: performance.now(), ...waited, launches: engine.ledger.report().launches };
      if (done === 1) {
        before = now;
        return;
      }
      const tokens = (done - 1) * CODES;
      const each = (name: keyof typeof now) => (now[name] - before[name]) / tokens;
      row = {
        frames: done,
        tokens,
        launches: each('launches'),
        runs: each('runs'),
        ms: each('at'),
        microseconds: 1000 * (each('at') - each('ms')),
      };
    },
  });
  await model.release();
  if (!row) {
    throw new Error('The song ended with its first frame.');
  }
  return row;
}

/** Of a frame. */
const CODES = 8;

/** Counts from now on how often networks run, and how long these, reading back and reading files take. */
function watch(engine: Engine): { runs: number; ms: number } {
  const waited = { runs: 0, ms: 0 };
  const timed = <Given extends unknown[], T>(call: (...given: Given) => Promise<T>, isRun: boolean) => {
    return async (...given: Given): Promise<T> => {
      const begun = performance.now();
      try {
        return await call(...given);
      } finally {
        waited.ms += performance.now() - begun;
        waited.runs += Number(isRun);
      }
    };
  };
  engine.run = timed(engine.run.bind(engine), true);
  engine.arithmetic.read = timed(engine.arithmetic.read.bind(engine.arithmetic), false);
  // Rows of tables of codes are read from the checkpoint's files.
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its own `this`
  const read = Blob.prototype.arrayBuffer;
  Blob.prototype.arrayBuffer = function (this: Blob) {
    return timed(() => read.call(this), false)();
  };
  return waited;
}

function checkpoint(): FolderFiles {
  const files = Object.entries(texts).map(([path, text]) => ({
    path: path.slice(FOLDER.length),
    parts: [text] as BlobPart[],
  }));
  for (const { path, tensors } of weights.files) {
    const made = tensors.map(({ number, name, shape, scale, add }) => {
      const count = shape.reduce((product, dim) => product * dim, 1);
      return [name, { dims: shape, data: hashed(number, count, scale, add) }] as const;
    });
    files.push({ path, parts: [writeSafetensors(made)] });
  }
  return new FolderFiles(
    'tiny-heartmula',
    files.map(({ path, parts }) => ({ path, file: new File(parts, path.split('/').at(-1) ?? path) })),
  );
}
