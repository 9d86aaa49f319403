/** The engine and the checkpoints through the doors: questions over HTTP and the channel, refusals, and who answers when no tab is there. */
import { describe, expect, test } from 'vitest';
import { isSaving } from '../src/app/studio/preparing.ts';
import { StudioError } from '../src/core/errors.ts';
import type { CheckpointSummary } from '../src/core/model.ts';
import { UPDATES_CHANNEL, serveChannel } from '../src/jobs/channel.ts';
import type { TaskChannel } from '../src/jobs/channel.ts';
import { answerEngine } from '../src/jobs/engine_desk.ts';
import type { DeskClient } from '../src/jobs/engine_desk.ts';
import type { AskEngine } from '../src/jobs/engine_questions.ts';
import { JobRoutes } from '../src/jobs/routes.ts';
import { askTab } from '../src/jobs/tab_question.ts';
import type { AdditionRequest, Listing, StoredCheckpoint } from '../src/weights/library/library_api.ts';
import { FakeJobs } from './fake_jobs.ts';

const OPERATION = { operation: 'image_generation', config: 'stable_diffusion', parameters: { prompt: 'a boat' } };
const REF = 'hub:somebody/model@0123';

const listing: Listing = {
  ref: REF,
  name: 'model',
  origin: { kind: 'hub', repo: 'somebody/model', revision: null },
  revision: '0123',
  license: { id: 'other', link: 'https://example.org/licence', mustAccept: true },
  gated: false,
  files: [
    { path: 'model_index.json', size: 10, sha256: null },
    { path: 'unet/model.safetensors', size: 1000, sha256: null },
    { path: 'photo.png', size: 5, sha256: null },
  ],
};
const summary = {
  pipelineClass: 'StableDiffusionPipeline',
  parameters: 500,
  needs: ['model_index.json', 'unet/model.safetensors'],
  variants: ['full', 'q8'],
  defaults: { width: 512, height: 512 },
} as unknown as CheckpointSummary;

/** What the hub has beside it: a repository of a style and a text. */
const styles: Listing = {
  ...listing,
  ref: 'hub:somebody/styles@0123',
  name: 'styles',
  files: [
    { path: 'ink.safetensors', size: 300, sha256: null },
    { path: 'index.safetensors', size: 20, sha256: null },
    { path: 'README.md', size: 5, sha256: null },
  ],
};

/** A page whose hub has one model, and styles. */
function desk() {
  const log: string[] = [];
  const paper = { ref: 'lora:import:paper', name: 'paper', state: 'complete', license: listing.license, error: null };
  const stored = [paper as StoredCheckpoint];
  const accepted: string[] = [];
  let prepared = false;
  const client = {
    engineState: () =>
      Promise.resolve({ device: { backend: 'wasm' }, isBusy: false, prepared: prepared ? { checkpoint: 'a' } : null }),
    prepare: (operation: unknown) => {
      log.push(`prepare ${JSON.stringify(operation)}`);
      prepared = true;
      return Promise.resolve();
    },
    unload: () => {
      prepared = false;
      return Promise.resolve();
    },
    describe: ({ name }: Listing, token: string | null) => {
      log.push(`describe with ${token ?? 'nothing'}`);
      return name === 'styles'
        ? Promise.reject(new StudioError('checkpoint_unsupported', 'That is no checkpoint; choose one.'))
        : Promise.resolve(summary);
    },
    summaryOf: (ref: string) => Promise.resolve({ loraFamilies: [ref === 'builtin:scenes' ? 'Z-Image' : 'FLUX.2'] }),
    library: {
      look: (origin: { repo?: string }, token: string | null) => {
        log.push(`look ${JSON.stringify(origin)} with ${token ?? 'nothing'}`);
        return Promise.resolve(origin.repo === 'somebody/styles' ? styles : listing);
      },
      lookAtAddition: ({ path, wantedFor }: AdditionRequest) => {
        const problem = wantedFor?.[0] === 'Z-Image' ? 'Not for Z-Image.' : null;
        return path === 'ink.safetensors'
          ? Promise.resolve({ kind: 'lora', families: ['FLUX.2'], problem })
          : Promise.reject(new StudioError('checkpoint_unsupported', `${path} is not a LoRA.`));
      },
      list: () => Promise.resolve(stored),
      acceptedLicenses: () => Promise.resolve(accepted),
      acceptLicense: (ref: string) => Promise.resolve(accepted.push(ref)),
      download: ({ paths, variant }: { paths: string[]; variant: string }) => {
        log.push(`download ${paths.join()} as ${variant}`);
        stored.push({
          ...{ ref: REF, name: 'model', kind: 'image', state: 'downloading', bytes: 1010, storedBytes: 4 },
          ...{ license: listing.license, error: null },
          variant,
        } as StoredCheckpoint);
        return new Promise(() => undefined);
      },
      downloadAddition: ({ path }: { path: string }) => {
        log.push(`download addition ${path}`);
        return new Promise(() => undefined);
      },
      remove: (ref: string) =>
        Promise.resolve(
          stored.splice(
            stored.findIndex((one) => one.ref === ref),
            1,
          ),
        ),
    },
  } as unknown as DeskClient;
  const ask: AskEngine = (type, asked) => answerEngine(client, type, asked);
  return { ask, log };
}

/** Channels of one origin. */
function ether() {
  const all = new Map<string, Set<TaskChannel>>();
  return (name: string): TaskChannel => {
    const here = all.get(name) ?? new Set<TaskChannel>();
    const channel: TaskChannel = {
      onmessage: null,
      postMessage: (message) => {
        const data: unknown = structuredClone(message);
        setImmediate(() => [...here].forEach((one) => one !== channel && one.onmessage?.({ data })));
      },
      close: () => here.delete(channel),
    };
    all.set(name, here.add(channel));
    return channel;
  };
}

const alone = (_: string, __: AbortSignal, work: () => Promise<void>) => work();
const turn = () => new Promise<void>((over) => setTimeout(over));

/** HTTP through the service worker, which asks a tab over the channel. */
function everywhere() {
  const { ask, log } = desk();
  const open = ether();
  serveChannel(new FakeJobs(), { open, alone }, ask);
  const routes = new JobRoutes(new FakeJobs(), { base: '/', askEngine: askTab(open, turn) });
  return { routes, open, log };
}

async function http(routes: JobRoutes, method: string, path: string, body?: unknown) {
  const headers = { 'Content-Type': 'application/json' };
  const request = new Request(`http://darkroom.test${path}`, {
    method,
    headers,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const response = (await routes.answer(request)) as Response;
  return { status: response.status, answer: (await response.json()) as Record<string, unknown> };
}

describe('over HTTP, by way of the channel', () => {
  test('the engine is told of, prepared and freed', async () => {
    const { routes, log } = everywhere();
    expect(await http(routes, 'GET', '/v1/engine')).toMatchObject({
      status: 200,
      answer: { device: { backend: 'wasm' }, isBusy: false, prepared: null },
    });
    expect(await http(routes, 'POST', '/v1/engine/prepare', OPERATION)).toMatchObject({
      status: 200,
      answer: { prepared: { checkpoint: 'a' } },
    });
    expect(log).toHaveLength(1);
    expect((await http(routes, 'POST', '/v1/engine/unload', {})).answer.prepared).toBeNull();
  });

  test('a checkpoint is looked at, fetched once its licence is accepted, listed and removed', async () => {
    const { routes, log } = everywhere();
    const repo = { repo: 'somebody/model', token: 'hf_secret' };
    expect(await http(routes, 'POST', '/v1/checkpoints/look', repo)).toMatchObject({
      status: 200,
      answer: { ref: REF, bytes: 1010, parameters: 500, variants: ['full', 'q8'], license: { mustAccept: true } },
    });
    expect(log.filter((line) => line.includes('hf_secret'))).toHaveLength(2);
    const refused = await http(routes, 'POST', '/v1/checkpoints', repo);
    expect(refused).toMatchObject({
      status: 400,
      answer: {
        error: { message: expect.stringMatching(/licence of "model" is other .* accept_license: true/) as string },
      },
    });
    const begun = await http(routes, 'POST', '/v1/checkpoints', { ...repo, variant: 'q8', accept_license: true });
    expect(begun).toEqual({ status: 202, answer: { ref: `${REF}#q8` } });
    expect(log.at(-1)).toBe('download model_index.json,unet/model.safetensors as q8');
    const { checkpoints } = (await http(routes, 'GET', '/v1/checkpoints')).answer as { checkpoints: { ref: string }[] };
    expect(checkpoints.map(({ ref }) => ref)).toEqual([
      'builtin:scenes',
      'builtin:scenes-4-steps',
      'builtin:realesr-animevideov3',
      REF,
    ]);
    expect(checkpoints[3]).toMatchObject({ state: 'downloading', bytes: 1010, storedBytes: 4 });
    expect(JSON.stringify(checkpoints)).not.toContain('hf_secret');
    const path = `/v1/checkpoints/${encodeURIComponent(REF)}`;
    expect(((await http(routes, 'DELETE', path)).answer.checkpoints as unknown[]).length).toBe(3);
    expect(await http(routes, 'DELETE', path)).toMatchObject({ status: 400 });
  });

  test('LoRAs in place of a checkpoint are said to be some, and for whom', async () => {
    const { routes } = everywhere();
    const look = (asked: object) => http(routes, 'POST', '/v1/checkpoints/look', { repo: 'somebody/styles', ...asked });
    const ink = { path: 'ink.safetensors', bytes: 300, kind: 'lora', families: ['FLUX.2'] };
    const answer = { ref: styles.ref, name: 'styles', bytes: 300, pipeline_class: null };
    for (const [asked, problem] of [
      [{}, null],
      [{ checkpoint: 'hub:a/flux@1' }, null],
      [{ checkpoint: 'builtin:scenes' }, 'Not for Z-Image.'],
    ] as const) {
      expect(await look(asked)).toMatchObject({ status: 200, answer: { ...answer, additions: [{ ...ink, problem }] } });
    }
    const { status } = await http(routes, 'POST', '/v1/checkpoints', { repo: 'somebody/styles', accept_license: true });
    expect(status).toBe(422);
  });

  test('one of them is fetched by its path, once its licence is accepted, and listed apart from checkpoints', async () => {
    const { routes, log } = everywhere();
    const fetch = (asked: object) => http(routes, 'POST', '/v1/checkpoints', { repo: 'somebody/styles', ...asked });
    const said = async (asked: object) => ((await fetch(asked)).answer.error as { message: string }).message;
    expect(await said({ path: 'ink.safetensors' })).toMatch(/licence of "styles" is other .* accept_license: true/);
    expect(await said({ path: 'pen.safetensors', accept_license: true })).toMatch(/"styles" has no file "pen/);
    expect(await said({ path: 'index.safetensors', accept_license: true })).toMatch(/is not a LoRA/);
    expect(await said({ path: 'ink.safetensors', variant: 'q8' })).toMatch(/^variant is for checkpoints/);
    expect(log.filter((line) => line.startsWith('download'))).toEqual([]);
    expect(await fetch({ path: 'ink.safetensors', accept_license: true })).toEqual({
      status: 202,
      answer: { ref: 'lora:hub:somebody/styles@0123/ink.safetensors' },
    });
    expect(log.at(-1)).toBe('download addition ink.safetensors');
    const { additions } = (await http(routes, 'GET', '/v1/checkpoints')).answer;
    expect(additions).toMatchObject([{ ref: 'lora:import:paper', kind: 'lora', state: 'complete', license: 'other' }]);
  });

  test.each<[string, string, unknown, RegExp]>([
    [
      '/v1/engine/prepare',
      'nothing to prepare',
      { ...OPERATION, operation: 'text_transformation', config: 'text_transformation' },
      /runs no checkpoint/,
    ],
    ['/v1/engine/prepare', 'no operation', { operation: 5 }, /operation/],
    ['/v1/checkpoints/look', 'no place', {}, /either repo or url/],
    ['/v1/checkpoints/look', 'two places', { repo: 'a/b', url: 'https://x.org/' }, /either repo or url/],
    ['/v1/checkpoints/look', 'no repository', { repo: 'model' }, /repo must be org\/name/],
    ['/v1/checkpoints/look', 'no address', { url: 'nowhere' }, /url must be an address/],
    ['/v1/checkpoints/look', 'something unknown', { repo: 'a/b', branch: 'main' }, /branch/],
    ['/v1/checkpoints', 'no variant', { repo: 'a/b', variant: 'q2' }, /variant must be one of/],
    [
      '/v1/checkpoints',
      'a variant that it does not have',
      { repo: 'a/b', variant: 'q4' },
      /cannot be kept as q4; it can be full or q8/,
    ],
    ['/v1/checkpoints', 'a list', [], /./],
  ])('%s refuses %s in one sentence', async (path, _, body, sentence) => {
    const { routes, log } = everywhere();
    const { status, answer } = await http(routes, 'POST', path, body);
    expect([400, 422]).toContain(status);
    expect((answer.error as { message: string }).message).toMatch(sentence);
    expect(log.filter((line) => /^(download|prepare)/.test(line))).toEqual([]);
  });

  test('methods that an address does not take are refused', async () => {
    const { routes } = everywhere();
    const answer = routes.answer(new Request('http://darkroom.test/v1/engine', { method: 'DELETE' }));
    expect((await answer)?.status).toBe(405);
  });

  test('where no tab is open that is said', async () => {
    const routes = new JobRoutes(new FakeJobs(), { base: '/', askEngine: askTab(ether(), turn) });
    expect(await http(routes, 'GET', '/v1/engine')).toMatchObject({
      status: 503,
      answer: {
        error: { code: 'worker_failed', message: expect.stringMatching(/No tab of Darkroom is open/) as string },
      },
    });
  });

  test('a tab that opens late is asked again, and once', async () => {
    const { ask, log } = desk();
    const open = ether();
    const pending = askTab(open, turn)('prepare', { operation: OPERATION });
    await turn();
    serveChannel(new FakeJobs(), { open, alone }, ask);
    await pending;
    expect(log).toHaveLength(1);
  });
});

test('on the channel itself a question is heard at once, then answered', async () => {
  const { open } = everywhere();
  const updates = open(`${UPDATES_CHANNEL}mine`);
  const told: unknown[] = [];
  await new Promise<void>((enough) => {
    updates.onmessage = ({ data }) => {
      told.push(data);
      if (told.length === 2) {
        enough();
      }
    };
    open('tasks:pending').postMessage({ type: 'engine', id: 'mine' });
  });
  expect(told).toMatchObject([{ type: 'heard' }, { type: 'answer', answer: { isBusy: false } }]);
});

test('a question that is sent again is asked once', async () => {
  const open = ether();
  let asked = 0;
  serveChannel(new FakeJobs(), { open, alone }, () => Promise.resolve(++asked));
  const told: unknown[] = [];
  const tasks = open('tasks:pending');
  await new Promise<void>((enough) => {
    open(`${UPDATES_CHANNEL}mine`).onmessage = ({ data }) => {
      told.push((data as { type: unknown }).type);
      if (told.filter((type) => type === 'heard').length === 2) {
        enough();
      }
    };
    tasks.postMessage({ type: 'engine', id: 'mine' });
    tasks.postMessage({ type: 'engine', id: 'mine' });
  });
  expect(told).toEqual(['heard', 'answer', 'heard']);
  expect(asked).toBe(1);
});

test('a failure crosses with its code', async () => {
  const open = ether();
  serveChannel(new FakeJobs(), { open, alone }, () =>
    Promise.reject(new StudioError('does_not_fit', 'It does not fit; choose a smaller one.', { retry: 'smaller' })),
  );
  await expect(askTab(open, turn)('prepare', {})).rejects.toMatchObject({ code: 'does_not_fit', retry: 'smaller' });
});

describe('nothing is prepared unasked', () => {
  test.each([
    ['to save data', { connection: { saveData: true } }, true],
    ['on a low battery', { getBattery: () => Promise.resolve({ charging: false, level: 0.2 }) }, true],
  ])('%s', async (_, device, saving) => {
    expect(await isSaving(device)).toBe(saving);
  });

  test('but while it charges, on a full one, or where nothing is known', async () => {
    expect(await isSaving({ getBattery: () => Promise.resolve({ charging: true, level: 0.1 }) })).toBe(false);
    expect(await isSaving({ getBattery: () => Promise.resolve({ charging: false, level: 0.9 }) })).toBe(false);
    expect(await isSaving({ getBattery: () => Promise.reject(new Error('refused')) })).toBe(false);
    expect(await isSaving({})).toBe(false);
  });
});
