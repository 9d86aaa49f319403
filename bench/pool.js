/** A pool of ComfyUI servers in the built studio: how busy they are, and what our side adds to each job. The servers make no pictures. */
import { join } from 'node:path';
import { createServer } from 'vite';
import { inStudio } from './studio.js';

/** Milliseconds per job on a healthy server and on a slow one. */
const [QUICK, SLOW] = [1000, 4000];

/** @typedef {import('../test/working_comfyui.ts').WorkingComfyUi} Server */

/**
 * Three servers, one of them slow; another is killed after a few jobs.
 * @param {import('playwright').Browser} browser
 * @param {number} count of jobs
 */
export async function racePool(browser, count) {
  const sources = await createServer({
    configFile: false,
    root: join(import.meta.dirname, '..'),
    server: { middlewareMode: true, ws: false },
    appType: 'custom',
    logLevel: 'error',
    optimizeDeps: { noDiscovery: true },
  });
  const { WorkingComfyUi } = /** @type {typeof import('../test/working_comfyui.ts')} */ (
    await sources.ssrLoadModule('/test/working_comfyui.ts')
  );
  /** @type {Server[]} */
  const servers = await Promise.all([QUICK, QUICK, SLOW].map((ms) => WorkingComfyUi.start(ms)));
  try {
    return await inStudio(browser, 'wasm', async (page) => {
      await page.goto(`${new URL(page.url()).origin}/?backend=wasm#engines`);
      for (const { url } of servers) {
        await page.getByRole('textbox', { name: 'Address' }).fill(url);
        await page.getByRole('button', { name: 'Enter', exact: true }).click();
        await page.getByRole('article').filter({ hasText: url }).getByText('answers').waitFor();
      }
      const killing = killed(servers[1]);
      const jobs = await page.evaluate(async (number) => {
        const door = globalThis.darkroom;
        if (!door) {
          throw new Error('there is no door');
        }
        const submitted = [];
        for (let at = 0; at < number; at++) {
          submitted.push(
            await door.submit({
              operation: 'image_generation',
              config: 'comfyui_sd15',
              parameters: { prompt: `job ${at}`, seed: String(at) },
            }),
          );
        }
        return Promise.all(submitted.map(({ id }) => door.wait(id)));
      }, count);
      await killing;
      return judged(servers, jobs);
    });
  } finally {
    await Promise.all(servers.map((server) => server.kill()));
    await sources.close();
  }
}

/** @param {Server} server */
async function killed(server) {
  while (server.computed.length < 5) {
    await new Promise((over) => setTimeout(over, 50));
  }
  // In the middle of the next one.
  await new Promise((over) => setTimeout(over, QUICK / 2));
  await server.kill();
}

/**
 * @param {Server[]} servers the second one was killed
 * @param {import('../src/core/job.ts').Job[]} jobs
 */
function judged(servers, jobs) {
  const outputs = jobs.map(({ entities }) => entities.filter(({ type }) => type === 'output_image'));
  const made = outputs.flat().map(({ metadata }) => /** @type {{ prompt_id: string }} */ (metadata.made_by).prompt_id);
  const all = servers.flatMap(({ accepted }) => [...accepted.values()]);
  // From the first job handed out to the last: after that there is nothing left to do.
  const begun = Math.min(...all.map(({ acceptedAt }) => acceptedAt));
  const given = Math.max(...all.map(({ acceptedAt }) => acceptedAt));
  const healthy = servers.filter((_, at) => at !== 1);
  const busy = healthy.map(({ computed }) => {
    const worked = computed.reduce((sum, job) => sum + Math.max(0, Math.min(job.endedAt, given) - job.startedAt), 0);
    return worked / (given - begun);
  });
  /** Our own share: from the server being free until it got the job, and from the job's end until all is recorded. */
  const added = healthy.flatMap(({ computed }) =>
    computed.flatMap((job, at) => {
      const ended = jobs[made.indexOf(job.id)];
      const before = computed[at - 1];
      return before && ended ? [[job.acceptedAt - before.endedAt, (ended.finishedAt ?? 0) - job.endedAt]] : [];
    }),
  );
  const middle = (/** @type {number[]} */ values) => values.toSorted((a, b) => a - b)[values.length >> 1];
  return {
    done: jobs.filter(({ state }) => state === 'completed').length,
    of: jobs.length,
    twice: outputs.filter((files) => files.length !== 1).length + (made.length - new Set(made).size),
    busy,
    idleMs: middle(added.map(([idle]) => idle)),
    recordMs: middle(added.map(([, record]) => record)),
    seconds: (Math.max(...jobs.map(({ finishedAt }) => finishedAt ?? 0)) - begun) / 1000,
    made: servers.map(({ computed }) => computed.length),
  };
}
