/**
 * What to try after an operation ran out of memory or kept losing the GPU: the smallest change that helps at the stage that failed.
 * Repeated after each failure, it steps down gradually.
 */
import type { Stage } from './job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, WeightVariant } from './model.ts';

export interface Change {
  /** A button's label: "Try with tiled decoding". */
  label: string;
  /** Parameters that replace the operation's own. */
  parameters: Record<string, unknown>;
}

export interface Failed {
  /** Names of the parameters that its chunk knows. */
  known: ReadonlySet<string>;
  /** The stage that failed; null = it never started, because it does not fit. */
  stage: Stage | null;
  /** The request for its estimate, and the result. */
  request: EstimateRequest;
  estimate: Estimate;
  checkpoint: CheckpointSummary;
  /** The variant of its weights that was run. */
  variant: WeightVariant;
}

const LARGEST_TILE = 512;
const SMALLEST_TILE = 64;
const SMALLEST_SIDE = 64;
const BITS = { full: 0, q8: 8, q4: 4 } as const;

type Way = 'tiled' | 'serial' | 'weights' | 'batch' | 'size';

/** What helps at each stage, smallest loss first. Before sampling, only weights take memory. */
const WAYS: Record<Stage, readonly Way[]> = {
  load: ['weights', 'size'],
  encode: ['weights', 'size'],
  sample: ['serial', 'batch', 'weights', 'size'],
  decode: ['tiled', 'size'],
  record: ['batch', 'size'],
};
const ALL: readonly Way[] = ['tiled', 'serial', 'batch', 'weights', 'size'];

/** In order of preference; empty if nothing smaller is known. */
export function smallerThan(failed: Failed): Change[] {
  return (failed.stage === null ? ALL : WAYS[failed.stage])
    .map((way) => CHANGES[way](failed))
    .filter((change) => change !== null)
    .filter(({ parameters }) => Object.keys(parameters).every((name) => failed.known.has(name)));
}

const CHANGES: Record<Way, (failed: Failed) => Change | null> = {
  tiled({ request: { width, height, tile_size: now } }) {
    const side = Math.min(Math.max(width, height), now ?? Infinity) / 2;
    const tile = Math.min(LARGEST_TILE, Math.floor(side / 32) * 32);
    return tile < SMALLEST_TILE
      ? null
      : {
          label: now === undefined ? 'Try with tiled decoding' : `Try with tiles of ${tile} pixels`,
          parameters: { tile_size: tile },
        };
  },
  serial({ request: { guidance_scale: guidance, guidance_mode: mode } }) {
    return guidance > 1 && mode !== 'serial'
      ? { label: 'Try with serial guidance', parameters: { guidance_mode: 'serial' } }
      : null;
  },
  batch({ request: { batch_size: batch } }) {
    return batch > 1 ? { label: 'Try one picture at a time', parameters: { batch_size: 1 } } : null;
  },
  weights({ checkpoint: { variants }, variant }) {
    const lower = variants[variants.indexOf(variant) + 1] as WeightVariant | undefined;
    return lower && variants.includes(variant)
      ? { label: `Try with weights of ${BITS[lower]} bits`, parameters: { weights: lower } }
      : null;
  },
  size({ request, estimate: { smaller } }) {
    const shrunk = (side: number) => Math.floor((side * 0.75) / 64) * 64;
    const { width, height } = smaller ?? { width: shrunk(request.width), height: shrunk(request.height) };
    const tile = Math.min(width, height);
    if (request.whole && tile >= SMALLEST_SIDE) {
      return { label: `Try with tiles of ${tile} pixels`, parameters: { tiled_size: tile } };
    }
    return tile < SMALLEST_SIDE ? null : { label: `Try at ${width}×${height} pixels`, parameters: { width, height } };
  },
};
