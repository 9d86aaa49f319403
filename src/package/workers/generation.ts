/** The generation worker of the package, which may be of another origin than the page. */
import { resign, serve, startWorker } from '../../../workers/connection.ts';
import { GenerationOwner } from '../../../workers/generation.ts';
import { rateIn } from '../../../workers/thread_rate.ts';

// Every worker of the package lies in one folder.
const here: string = import.meta.url;

const owner = new GenerationOwner({
  resign: (error) => {
    resign(error, self);
  },
  rate: rateIn(() => startWorker(new URL('threads.js', here).href), new URL('../ort/', here).href),
});

void serve(owner, self);
