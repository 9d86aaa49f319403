/** diffusers, schedulers/scheduling_tcd.py. */
import { consistencyChoices } from './consistency.ts';
import type { Scheduler } from './scheduler.ts';

export const scheduler: Scheduler = {
  className: 'TCDScheduler',
  samplers: ['tcd'],
  read: (config) => ({
    ...consistencyChoices('tcd', config).choices,
    // The last step does not reach the picture itself, but the cleanest level of the table.
    targetOf: (_timestep, _stride, following = 0) => following,
  }),
};
