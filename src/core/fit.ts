/** Whether a plan fits the device: in which variant of its weights it runs, and how long that takes; or why it does not, and what would fit. */
import { isVariant } from './model.ts';
import type { CheckpointSummary, Estimate, EstimateRequest } from './model.ts';
import type { Plan, PlannedStep, PlanResult } from './plan.ts';

/**
 * What a step asks of the device, for the estimate that {@link fit} judges; null for one that does not sample.
 * @param picture the size of the picture that the operation starts from, where there is one
 */
export function estimateRequest(
  { operation, parameters }: Pick<PlannedStep, 'operation' | 'parameters'>,
  checkpoint: CheckpointSummary,
  picture: { width: number; height: number } | null = null,
): EstimateRequest | null {
  if (typeof parameters.steps !== 'number') {
    return null;
  }
  const number = (name: string, otherwise: number): number => {
    const value = parameters[name];
    return typeof value === 'number' ? value : otherwise;
  };
  const usual = picture ?? checkpoint.defaults;
  const { guidance_mode: mode, strength, tile_size: tile, phased, weights } = parameters;
  return {
    operation,
    width: number('width', usual.width),
    height: number('height', usual.height),
    batch_size: number('batch_size', 1),
    steps: number('steps', 1),
    guidance_scale: number('guidance_scale', 1),
    ...(mode === 'batched' || mode === 'serial' ? { guidance_mode: mode } : {}),
    ...(typeof strength === 'number' ? { strength } : {}),
    ...(typeof tile === 'number' ? { tile_size: tile } : {}),
    ...(typeof phased === 'boolean' ? { phased } : {}),
    ...(isVariant(weights) ? { weights } : {}),
  };
}

/**
 * Chooses the variant that the device can hold: full precision, else 8 bits, else 4, and says so in a notice.
 * @param inDoubt what happens when only a guess of the device's memory speaks against it: before a download it is a refusal, for
 *   weights that are here a notice, because the guess may be wrong and trying costs little
 */
export function fit(
  plan: Plan,
  checkpoint: CheckpointSummary,
  estimate: Estimate,
  inDoubt: 'refuse' | 'warn' = 'refuse',
): PlanResult {
  const here = estimate.variants.filter(({ runsHere }) => runsHere);
  const possible = here.filter(({ misfit }) => misfit === null || (misfit.guessed && inDoubt === 'warn'));
  // Among those beyond the guess the smallest has the best chance.
  const chosen = possible.find(({ misfit }) => misfit === null) ?? possible.at(-1);
  if (!chosen) {
    const [first] = here.flatMap(({ misfit }) => (misfit ? [misfit] : []));
    if (!first) {
      return { ok: false, reasons: [{ code: 'checkpoint_unsupported', message: nothingRuns(checkpoint) }] };
    }
    return { ok: false, reasons: [{ code: first.code, message: `${first.message} ${wayOut(estimate)}` }] };
  }
  const notices = [...plan.notices];
  if (chosen.variant !== 'full' && here[0].variant === 'full') {
    notices.push(
      `"${checkpoint.name}" runs with weights of ${BITS[chosen.variant]} bits, because in full precision it needs about ${gibibytes(here[0].memory.peak)} GiB and ${budget(estimate)}.`,
    );
  }
  if (chosen.misfit) {
    notices.push(
      `This needs about ${gibibytes(chosen.memory.peak)} GiB and ${budget(estimate)}, so it may fail; a smaller size needs less.`,
    );
  }
  return {
    ok: true,
    plan: {
      ...plan,
      variant: chosen.variant,
      memoryBytes: chosen.memory.peak,
      downloadBytes: estimate.downloadBytes,
      seconds: chosen.seconds,
      notices,
    },
  };
}

const BITS = { full: 0, q8: 8, q4: 4 } as const;

function nothingRuns({ name }: CheckpointSummary): string {
  return `"${name}" cannot be run on this device in any precision; choose another checkpoint.`;
}

/** What would fit, as one or two sentences. */
function wayOut({ request, smaller, budget: { source }, variants }: Estimate): string {
  const ways = [
    ...(smaller ? [`${smaller.width}×${smaller.height} pixels`] : []),
    ...(request.batch_size > 1 ? ['fewer pictures at a time'] : []),
    'a smaller checkpoint',
  ];
  const list = ways.join(', ').replace(/, (?=[^,]*$)/, ' or ');
  const isGuess = source === 'guess' && variants.some(({ misfit }) => misfit?.guessed);
  return [`Choose ${list}.`, ...(isGuess ? ['If your GPU has more memory than that, say how much.'] : [])].join(' ');
}

function budget({ budget: { bytes, source } }: Estimate): string {
  return source === 'set'
    ? `the memory set for the GPU is ${gibibytes(bytes)} GiB`
    : `this device is guessed to have ${gibibytes(bytes)} GiB for it`;
}

/** With one digit after the point, and never 0. */
export function gibibytes(bytes: number): string {
  return Math.max(0.1, bytes / 2 ** 30).toFixed(1);
}
