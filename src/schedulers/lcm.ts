/** diffusers, schedulers/scheduling_lcm.py. */
import { consistencyChoices } from './consistency.ts';
import type { Scheduler } from './scheduler.ts';

export const scheduler: Scheduler = {
  className: 'LCMScheduler',
  samplers: ['lcm'],
  read(config) {
    const { choices, timestepScaling } = consistencyChoices('lcm', config);
    return { ...choices, options: { ...choices.options, timestepScaling } };
  },
};
