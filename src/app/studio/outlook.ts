/** What a run would take on this device where that is long, and what would take less of it. */
import type { CheckpointSummary, EstimateRequest } from '../../core/model.ts';

/** From how many seconds on a run is long, and what is offered instead is to stay below that. */
export const LONG = 30 * 60;
/** What is offered takes at most this share of the time. */
const WORTHWHILE = 0.75;
/** Of the sides and of the frames, in the order in which they are tried. */
const SIDES = [0.75, 0.5, 0.375];
const FRAMES = [0.5, 0.25, 0];
/** Below this a video shows little of anything, in pixels. */
const SMALLEST = 192;

export interface Shorter {
  /** Values of the form's fields. */
  values: Readonly<Partial<Record<'frames' | 'width' | 'height', number>>>;
  seconds: number;
}

export interface Outlook {
  seconds: number;
  shorter: Shorter[];
}

/**
 * @param frames the numbers that there may be; null for what has none
 * @param secondsOf null where nothing was measured
 * @returns null where it is not long, or not known
 */
export async function outlookOf(
  request: EstimateRequest,
  { multiple = 8 }: Pick<CheckpointSummary, 'multiple'>,
  frames: { min: number; step: number } | null,
  secondsOf: (request: EstimateRequest) => Promise<number | null>,
): Promise<Outlook | null> {
  const seconds = await secondsOf(request);
  if (seconds === null || seconds < LONG) {
    return null;
  }
  const { width, height, batch_size: count } = request;
  const fewer = frames
    ? FRAMES.map((part) => frames.min + Math.floor(Math.max(0, count * part - frames.min) / frames.step) * frames.step)
    : [];
  const sizes = SIDES.map((part) =>
    [width, height].map((side) => Math.max(1, Math.floor((side * part) / multiple)) * multiple),
  ).filter((sides) => Math.min(...sides) >= Math.min(SMALLEST, width, height));
  const tried = [
    fewer.filter((n) => n < count).map((n) => ({ batch_size: n })),
    sizes.map(([narrower, lower]) => ({ width: narrower, height: lower })),
  ];
  const shorter: Shorter[] = [];
  for (const changes of tried) {
    let best: Shorter | null = null;
    for (const change of changes) {
      const taken = await secondsOf({ ...request, ...change });
      const values = 'batch_size' in change ? { frames: change.batch_size } : change;
      if (taken !== null && taken <= WORTHWHILE * seconds) {
        best = { values, seconds: taken };
      }
      if (best && best.seconds < LONG) {
        break;
      }
    }
    shorter.push(...(best ? [best] : []));
  }
  return { seconds, shorter };
}
