/** Whether a plan fits the device: which variant of the weights to run and how long that takes, or why it does not fit and what would. */
import { gibibytes } from './gibibytes.ts';
import { hiresSide } from './hires.ts';
import { outpainted } from './outpainting_parameters.ts';
import { tiling } from './tiling.ts';
import { isFile } from './parameters.ts';
import type { IpAdapterUse } from './image_prompts.ts';
import { UPSCALING_TILE, isVariant } from './model.ts';
import type { CheckpointSummary, Estimate, EstimateRequest } from './model.ts';
import { UPSAMPLING, stepsAgain, type Upsampling } from './upsampling_parameters.ts';
import type { Plan, PlannedStep, PlanResult } from './plan.ts';

/**
 * What a step needs from the device, to be estimated and judged by {@link fit}; null for a step that neither samples nor works in tiles.
 * @param picture size and number of the pictures that the step starts from, if any
 */
export function estimateRequest(
  { operation, parameters }: Pick<PlannedStep, 'operation' | 'parameters'>,
  checkpoint: CheckpointSummary,
  picture: { width: number; height: number; batch_size?: number } | null = null,
): EstimateRequest | null {
  if (typeof parameters.steps !== 'number' && typeof parameters.tile_size !== 'number') {
    return null;
  }
  const number = (name: string, otherwise: number): number => {
    const value = parameters[name];
    return typeof value === 'number' ? value : otherwise;
  };
  const usual = picture ?? checkpoint.defaults;
  const added = outpainted(parameters);
  // The frame of a picture that is widened follows from its size.
  const side = (name: 'width' | 'height') => (added[name] > 0 ? usual[name] : number(name, usual[name])) + added[name];
  const times = number('hires_scale', 1);
  const tiled =
    typeof parameters.tiled_scale === 'number'
      ? tiling(parameters, { width: side('width'), height: side('height') }, checkpoint.defaults)
      : null;
  const isEnlarged = typeof parameters.latent_upsampler === 'string';
  const larger = (side: number) => (isEnlarged ? UPSAMPLING.factor * side : times > 1 ? hiresSide(side, times) : side);
  const {
    guidance_mode: mode,
    strength,
    tile_size: tile,
    phased,
    weights,
    controlnets: controls,
    ip_adapters: adapters,
  } = parameters;
  return {
    operation,
    width:
      checkpoint.latentsPerSecond === undefined || typeof parameters.seconds !== 'number'
        ? larger(side('width'))
        : Math.ceil(parameters.seconds * checkpoint.latentsPerSecond),
    height: larger(side('height')),
    batch_size:
      checkpoint.mostFrames === undefined
        ? number('layers', number('batch_size', picture?.batch_size ?? 1))
        : number('frames', 1),
    // Two passes take about as long as all steps at the larger size: the first is small, and the second skips some.
    steps: isEnlarged
      ? stepsOfBoth(parameters, number('steps', 1))
      : number('hires_steps', number('steps', 1)) * (tiled?.count ?? 1),
    guidance_scale: number('guidance_scale', 1),
    ...(checkpoint.mostFrames !== undefined && { startsFromPicture: parameters.image !== undefined }),
    ...(mode === 'batched' || mode === 'serial' ? { guidance_mode: mode } : {}),
    ...(typeof strength === 'number' ? { strength } : {}),
    ...(isFile(parameters.audio) ? { fromSound: true } : {}),
    ...(typeof tile === 'number' ? { tile_size: tile } : {}),
    ...(typeof phased === 'boolean' ? { phased } : {}),
    ...(isVariant(weights) ? { weights } : {}),
    ...(Array.isArray(controls) && controls.length > 0 ? { controlnets: controls.length } : {}),
    ...(Array.isArray(adapters) && adapters.length > 0
      ? { imagePrompts: (adapters as IpAdapterUse[]).map(({ images }) => images) }
      : {}),
    ...(tiled && { ...tiled.tile, whole: tiled.whole }),
  };
}

/** Steps at the larger size that take about as long as both passes: at half the sides one takes a quarter. */
function stepsOfBoth(parameters: Upsampling, first: number): number {
  const { upsampled_strength: strength = UPSAMPLING.strength } = parameters;
  return Math.ceil(first / UPSAMPLING.factor ** 2 + stepsAgain(parameters) * strength);
}

/** What an upscaler between two passes needs from the device. @param request of the step whose passes these are */
export function upscalingRequest(
  { operation, batch_size, whole, ...painted }: EstimateRequest,
  { hires_scale: hires, tiled_scale: scale = hires, latent_upsampler: upsampler }: PlannedStep['parameters'],
): EstimateRequest {
  const { width, height } = whole ?? painted;
  const times = typeof upsampler === 'string' ? UPSAMPLING.factor : typeof scale === 'number' ? scale : 1;
  return {
    operation,
    width: Math.ceil(width / times),
    height: Math.ceil(height / times),
    batch_size,
    steps: 1,
    guidance_scale: 1,
    tile_size: UPSCALING_TILE,
  };
}

/**
 * Chooses the best variant the device can hold (full precision, else 8 bits, else 4) and says so in a notice.
 * @param inDoubt what to do when the plan exceeds only a guess of the device's memory: refuse before a download, but merely warn when the
 * weights are here, because the guess may be wrong and trying costs little
 */
export function fit(
  plan: Plan,
  checkpoint: CheckpointSummary,
  estimate: Estimate,
  inDoubt: 'refuse' | 'warn' = 'refuse',
): PlanResult {
  const here = estimate.variants.filter(({ runsHere }) => runsHere);
  const possible = here.filter(({ misfit }) => misfit === null || (misfit.guessed && inDoubt === 'warn'));
  // If all exceed the guess, the smallest has the best chance.
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
  if (chosen.blocks && chosen.blocks.streamedBytes > 0) {
    const { residentBytes, streamedBytes, secondsPerStep } = chosen.blocks;
    notices.push(
      `Not all of the transformer's weights fit: ${gibibytes(residentBytes)} GiB stay on the device, and ${gibibytes(streamedBytes)} GiB are brought to it again at each step, which takes up to ${Math.ceil(secondsPerStep)} seconds a step.`,
    );
  }
  if (chosen.blocks && chosen.blocks.secondsPerStep === 0 && chosen.blocks.seconds > 0) {
    notices.push(
      `The text encoder's weights do not all fit, so they are brought to the device while it reads, which takes up to ${Math.ceil(chosen.blocks.seconds)} seconds.`,
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

/** One or two sentences on what would fit. */
function wayOut({ request, smaller, budget: { source }, variants }: Estimate): string {
  const fewer = request.operation.startsWith('video') ? 'fewer frames' : 'fewer pictures at a time';
  const ways = [
    ...(smaller ? [`${smaller.width}×${smaller.height} pixels`] : []),
    ...(request.batch_size > 1 ? [fewer] : []),
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
