/**
 * Levels optimised for ten steps of Stable Diffusion 1.5, interpolated for other numbers: "Align your steps",
 * https://arxiv.org/abs/2404.14507; the numbers are the authors' (https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html).
 */
import { interpolated, requireTrainedLevels, type Schedule } from './schedule.ts';

const LEVELS = [
  14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
  0.3977456272, 0.1515232662, 0.0291671582,
];

export const schedule: Schedule = {
  id: 'align_your_steps',
  points({ steps, isFlow }) {
    requireTrainedLevels('align_your_steps', isFlow);
    const levels = steps + 1 === LEVELS.length ? LEVELS : interpolated(LEVELS, steps + 1);
    return { sigmas: levels.slice(0, -1) };
  },
};
