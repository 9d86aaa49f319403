/** The generation worker: the only place that holds the GPU. */
import { resign, serve } from './connection.ts';
import { GenerationOwner } from './generation.ts';
import { rateIn } from './thread_rate.ts';

const threads = () => new Worker(new URL('./threads.worker.ts', import.meta.url), { type: 'module' });

const owner = new GenerationOwner({
  resign: (error) => {
    resign(error, self);
  },
  rate: rateIn(threads),
});

void serve(owner, self);
