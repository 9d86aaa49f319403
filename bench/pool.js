/**
 * ComfyUI servers in the built studio, which make no pictures: how busy a pool of them is, and what our side adds to a job beside a page that only
 * makes the requests.
 */
import { join } from 'node:path';
import { createServer } from 'vite';
import { inStudio } from './studio.js';

/** Milliseconds per job on a healthy server and on a slow one. */
const [QUICK, SLOW] = [1000, 4000];
/** Of {@link raceJob}. */
const SHORT = 100;

/** @typedef {import('../test/working_comfyui.ts').WorkingComfyUi} Server */

/**
 * Three servers, one of them slow; another is killed after a few jobs.
 * @param {import('playwright').Browser} browser
 * @param {number} count of jobs
 */
export function racePool(browser, count) {
  return withServers([QUICK, QUICK, SLOW], (servers) =>
    inStudio(browser, 'wasm', async (page) => {
      await enter(page, servers);
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
    }),
  );
}

/**
 * One job at a time on one server, by turns through the studio and by a page of the server's own origin that makes the bare requests: the job is
 * sent, a socket tells of its end, the file is fetched. The first pair warms both up and is left out.
 * @param {import('playwright').Browser} browser
 * @param {number} pairs
 * @returns {Promise<{ ours: Added, bare: Added }[]>}
 */
export function raceJob(browser, pairs) {
  return withServers([SHORT], ([server]) =>
    inStudio(browser, 'wasm', async (page) => {
      await enter(page, [server]);
      const other = await browser.newPage();
      await other.goto(`${server.url}/queue`);
      const rows = [];
      try {
        for (let at = 0; at <= pairs; at++) {
          const bare = addedTo(server, await other.evaluate(bareJob, at));
          rows.push({ ours: addedTo(server, await page.evaluate(ourJob, at)), bare });
        }
      } finally {
        await other.close();
      }
      return rows.slice(1);
    }),
  );
}

/**
 * What a client added to the server's last job, in milliseconds: until the server had it, and from its end until the client had all.
 * @typedef {{ before: number, after: number }} Added
 */

/**
 * @param {Server} server
 * @param {number[]} times when a client began, and when it had all
 * @returns {Added}
 */
function addedTo(server, [begun, over]) {
  const { acceptedAt, endedAt } = server.computed[server.computed.length - 1];
  return { before: acceptedAt - begun, after: over - endedAt };
}

/**
 * Runs in the studio.
 * @param {number} at
 */
async function ourJob(at) {
  const door = globalThis.darkroom;
  if (!door) {
    throw new Error('there is no door');
  }
  const begun = Date.now();
  const { id } = await door.submit({
    operation: 'image_generation',
    config: 'comfyui_sd15',
    parameters: { prompt: `job ${at}`, seed: String(at) },
  });
  const { state } = await door.wait(id);
  if (state !== 'completed') {
    throw new Error(`the job is ${state}`);
  }
  return [begun, Date.now()];
}

/**
 * Runs in a page of the server's origin.
 * @param {number} at
 */
async function bareJob(at) {
  const begun = Date.now();
  const [client, id] = [crypto.randomUUID(), crypto.randomUUID()];
  const socket = new WebSocket(`ws://${location.host}/ws?clientId=${client}`);
  await new Promise((open) => socket.addEventListener('open', open));
  const ended = new Promise((end) =>
    socket.addEventListener('message', (/** @type {MessageEvent<string>} */ { data }) => {
      if (data.includes('"type":"execution_success"')) {
        end(undefined);
      }
    }),
  );
  const prompt = { 1: { class_type: 'SaveImage', inputs: { text: `bare ${at}` } } };
  await (
    await fetch('/prompt', { method: 'POST', body: JSON.stringify({ prompt, client_id: client, prompt_id: id }) })
  ).json();
  await ended;
  await (await fetch(`/view?filename=${id}.png&subfolder=&type=output`)).blob();
  socket.close();
  return [begun, Date.now()];
}

/**
 * @template Answer
 * @param {number[]} times how long each server takes for a job, in milliseconds
 * @param {(servers: Server[]) => Promise<Answer>} use
 * @returns {Promise<Answer>}
 */
async function withServers(times, use) {
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
  const servers = await Promise.all(times.map((ms) => WorkingComfyUi.start(ms)));
  try {
    return await use(servers);
  } finally {
    await Promise.all(servers.map((server) => server.kill()));
    await sources.close();
  }
}

/**
 * @param {import('playwright').Page} page
 * @param {Server[]} servers
 */
async function enter(page, servers) {
  await page.goto(`${new URL(page.url()).origin}/?backend=wasm#engines`);
  for (const { url } of servers) {
    await page.getByRole('textbox', { name: 'Address' }).fill(url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await page.getByRole('article').filter({ hasText: url }).getByText('answers').waitFor();
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
