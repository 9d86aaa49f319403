/** Recordings in a real browser: they survive a reload, leftovers and missing storage, and a full disk loses nothing. */
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { expect, test, type CDPSession, type Page } from '@playwright/test';
import type { Job } from '../../src/core/job.ts';
import type { Door } from '../../src/jobs/door.ts';
import type { RunRecord } from '../../src/recorder/recorder_api.ts';
import { openRecorders, recorderScript, type Recorder } from '../fixtures/recorder.ts';

const OPERATION = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a red circle', width: 64, height: 64, steps: 1, seed: '7' },
};

async function open(page: Page): Promise<void> {
  await page.goto('/?backend=wasm&door=cli');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
}

/** Makes one picture and waits for the job's end. */
function generate(page: Page): Promise<Job> {
  return page.evaluate(async (operation) => {
    const door = globalThis.darkroom as Door;
    return door.wait((await door.submit(operation)).id);
  }, OPERATION);
}

function runs(page: Page) {
  return page.evaluate(() => (globalThis.darkroom as Door).runs({ limit: 9 }));
}

async function sha256(page: Page, run: string, filename: string): Promise<string> {
  const bytes = await page.evaluate(
    async ([id, name]) => {
      const blob = await (globalThis.darkroom as Door).entity(id, name);
      return [...new Uint8Array(await blob.arrayBuffer())];
    },
    [run, filename] as const,
  );
  return createHash('sha256').update(Uint8Array.from(bytes)).digest('hex');
}

/** The folder of a run, from the page's side of the same storage. */
async function inRunFolder(page: Page, run: string, files: Record<string, string | null>): Promise<void> {
  await page.evaluate(
    async ([id, changes]) => {
      const { storageBuckets } = navigator as {
        storageBuckets?: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
      };
      const store = (await storageBuckets?.open('recordings')) ?? navigator.storage;
      let folder = await (await store.getDirectory()).getDirectoryHandle('exports');
      folder = await folder.getDirectoryHandle('json');
      while (folder.name !== id) {
        for await (const entry of folder.values()) {
          folder = entry as FileSystemDirectoryHandle;
          break;
        }
      }
      for (const [name, content] of Object.entries(changes)) {
        if (content === null) {
          await folder.removeEntry(name);
        } else {
          const stream = await (await folder.getFileHandle(name, { create: true })).createWritable();
          await stream.write(content);
          await stream.close();
        }
      }
    },
    [run, files] as const,
  );
}

test('recordings outlast a reload, byte for byte', async ({ page }) => {
  await open(page);
  const job = await generate(page);
  expect(job.error).toBeNull();
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const [record] = await runs(page);
  expect(record).toMatchObject({
    run_id: job.run,
    current_state: { stage: 'completed' },
    config_name: 'stable_diffusion',
  });
  expect(record?.entities.map((entity) => ({ run: job.run, ...entity }))).toEqual(job.entities);
  for (const { filename, sha256: expected } of job.entities) {
    expect(await sha256(page, job.run ?? '', filename)).toBe(expected);
  }
  expect(job.entities.map(({ type }) => type)).toContain('output_image');
});

test('what a killed tab leaves behind is passed over, and metadata.json follows from the journal, or the journal from it', async ({
  page,
}) => {
  await open(page);
  const { run, entities } = await generate(page);
  const filenames = entities.map(({ filename }) => filename);
  const leftovers = { '09_output_image.png.part': 'torn', 'metadata.json.part': '{', '09_output_image.png.crswap': '' };
  await inRunFolder(page, run ?? '', leftovers);
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  expect((await runs(page))[0]?.entities.map(({ filename }) => filename)).toEqual(filenames);

  const [before] = await runs(page);
  for (const torn of ['metadata.json', 'journal', 'metadata.json']) {
    await inRunFolder(page, run ?? '', { [torn]: '{"schema_version": 2, "run' });
    await page.reload();
    await page.waitForFunction(() => globalThis.darkroom !== undefined);
    const again = await page.evaluate((id) => (globalThis.darkroom as Door).run(id), run ?? '');
    expect(again).toEqual(before);
  }
  await inRunFolder(page, run ?? '', { 'metadata.json': null, journal: null });
  const [rebuilt] = await runs(page);
  expect(rebuilt).toMatchObject({ run_id: run, operation: null });
  expect(rebuilt?.entities.map(({ filename }) => filename)).toEqual(filenames);
});

test('without storage, recordings last for the visit and the page says so', async ({ page }) => {
  await page.route('**/assets/recorder.worker-*.js', async (route) => {
    const response = await route.fetch();
    const refusal = `navigator.storage.getDirectory = () => Promise.reject(new DOMException('Denied.', 'SecurityError'));\n`;
    await route.fulfill({ response, body: refusal + (await response.text()) });
  });
  await page.goto('/?backend=wasm');
  await expect(page.getByText('recordings last only for this visit')).toBeVisible();
  const job = await generate(page);
  expect(job).toMatchObject({ state: 'completed', error: null });
  expect(await runs(page)).toHaveLength(1);
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  expect(await runs(page)).toEqual([]);
});

test('a full disk fails the job with one sentence, and earlier runs stay whole', async ({ page }) => {
  await open(page);
  const first = await generate(page);
  const devtools = await page.context().newCDPSession(page);
  const origin = new URL(page.url()).origin;
  await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 1 });
  const second = await generate(page);
  expect(second).toMatchObject({ state: 'failed', error: { code: 'storage_full', retry: 'same' } });
  expect(second.error?.message).toContain('no room left');

  await devtools.send('Storage.overrideQuotaForOrigin', { origin });
  for (const { filename, sha256: expected } of first.entities) {
    expect(await sha256(page, first.run ?? '', filename)).toBe(expected);
  }
  expect(await generate(page)).toMatchObject({ state: 'completed' });
});

test('a run belongs to one tab; when that tab is gone, another one goes on with it', async ({ page, request }) => {
  await openRecorders(page, await recorderScript(request));
  const told = await page.evaluate(async (operation) => {
    const [one, two] = [globalThis.newRecorder(), globalThis.newRecorder()];
    const refusal = (call: Promise<unknown>) => call.then(String, (error: { code: string }) => error.code);
    const run = await one.openRun({
      config_name: 'stable_diffusion',
      operation: { ...operation, priority: 'normal', checkpoint: null, record: [] } as never,
      expected_outputs: [],
    });
    await one.saveEntity(run, 'note', 'of the first tab');
    const stage = async () => (await two.listRuns({ limit: 9 })).map(({ current_state }) => current_state.stage);
    const during = await stage();
    const refused = [await refusal(two.resumeRun(run)), await refusal(two.deleteRun(run))];
    // Both write at once, each into its own run.
    const other = await two.openRun({ config_name: 'x', operation: operation as never, expected_outputs: [] });
    await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        (index % 2 ? one : two).saveEntity(index % 2 ? run : other, 'note', `${index}`),
      ),
    );
    await two.closeRun(other, 'completed');
    one.terminate();
    await two.resumeRun(run);
    await two.saveEntity(run, 'note', 'of the second tab');
    await two.closeRun(run, 'completed');
    const records = await two.listRuns({ limit: 9 });
    return { during, refused, counts: records.map(({ entities, lost }) => [entities.length, lost ?? []]) };
  }, OPERATION);
  expect(told.during).toEqual(['running']);
  expect(told.refused).toEqual(['storage_unavailable', 'storage_unavailable']);
  expect(told.counts).toEqual([
    [10, []],
    [12, []],
  ]);
});

test('earlier recordings are seen where they lie, and new ones go into a bucket of their own', async ({
  page,
  request,
}) => {
  await openRecorders(page, await recorderScript(request));
  const root = join(import.meta.dirname, '..', '..', 'test', 'recordings', 'layout_1');
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => [relative(root, path).split(sep), [...readFileSync(path)]] as const);
  const told = await page.evaluate(
    async ([earlier, operation]) => {
      const origin = await navigator.storage.getDirectory();
      for (const [path, bytes] of earlier) {
        let folder = origin;
        for (const name of path.slice(0, -1)) {
          folder = await folder.getDirectoryHandle(name, { create: true });
        }
        const stream = await (await folder.getFileHandle(path.at(-1) ?? '', { create: true })).createWritable();
        await stream.write(Uint8Array.from(bytes));
        await stream.close();
      }
      const recorder = globalThis.newRecorder();
      const stages = (await recorder.listRuns({ limit: 9 })).map(({ current_state }) => current_state.stage);
      const run = await recorder.openRun({ config_name: 'x', operation: operation as never, expected_outputs: [] });
      await recorder.saveEntity(run, 'note', 'new');
      const { device_id } = await recorder.readRun(run);
      const { storageBuckets } = navigator as {
        storageBuckets?: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
      };
      const bucket = await (await storageBuckets?.open('recordings'))?.getDirectory();
      const day = async (folder: FileSystemDirectoryHandle | undefined) => {
        const found: string[] = [];
        const json = await (await folder?.getDirectoryHandle('exports'))?.getDirectoryHandle('json');
        for await (const name of json?.keys() ?? []) {
          found.push(name);
        }
        return found;
      };
      return { stages, device_id, bucket: await day(bucket), origin: await day(origin) };
    },
    [files, OPERATION] as const,
  );
  expect(told.stages).toEqual(['failed', 'interrupted', 'failed', 'completed']);
  expect(told.device_id).toBe('4a1402cd-a7cc-4f3e-ba83-84b3d5fcf300');
  expect(told.origin).toEqual(['2026-03-04']);
  expect(told.bucket).toHaveLength(1);
  expect(told.bucket).not.toContain('2026-03-04');
});

/** What was saved, as hashes of the input, and calls to recorders that the page holds by name. */
class Bench {
  readonly #page: Page;
  #devtools: CDPSession | null = null;
  #saved: { run: string; filename: string; sha256: string }[] = [];

  constructor(page: Page) {
    this.#page = page;
  }

  /** A call's answer, or the code of its error. */
  call(method: keyof Recorder, ...args: unknown[]): Promise<{ answer?: unknown; code?: string }> {
    return this.#page.evaluate(
      ([name, given]) => {
        const bench = globalThis as unknown as { recorder: Recorder };
        bench.recorder ??= globalThis.newRecorder();
        const calls = bench.recorder as unknown as Record<string, (...given: unknown[]) => Promise<unknown>>;
        return calls[name](...given).then(
          (answer) => ({ answer }),
          (error: { code?: string }) => ({ code: error.code ?? 'none' }),
        );
      },
      [method, args] as const,
    );
  }

  async openRun(): Promise<{ run: string; code?: string }> {
    const { answer, code } = await this.call('openRun', {
      config_name: 'stable_diffusion',
      operation: { ...OPERATION, priority: 'normal', checkpoint: null, record: [] },
      expected_outputs: [],
    });
    return { run: (answer as string | undefined) ?? '', ...(code ? { code } : {}) };
  }

  /** Saves random bytes; null is success. */
  async save(run: string, bytes: number, metadata: object = {}): Promise<string | null> {
    const { entity, sha256, code } = await this.#page.evaluate(
      async ([id, size, said]) => {
        const content = new Uint8Array(size);
        for (let at = 0; at < size; at += 65_536) {
          crypto.getRandomValues(content.subarray(at, at + 65_536));
        }
        const hash = [...new Uint8Array(await crypto.subtle.digest('SHA-256', content))];
        const { recorder } = globalThis as unknown as { recorder: Recorder };
        return recorder.saveEntity(id, 'thing', new Blob([content]), { format: 'safetensors', ...said }).then(
          (saved) => ({
            entity: saved,
            sha256: hash.map((byte) => byte.toString(16).padStart(2, '0')).join(''),
            code: null,
          }),
          (error: { code: string }) => ({ entity: null, sha256: '', code: error.code }),
        );
      },
      [run, bytes, metadata] as const,
    );
    if (entity) {
      expect(entity.sha256).toBe(sha256);
      this.#saved.push({ run, filename: entity.filename, sha256 });
    }
    return code;
  }

  async delete(run: string): Promise<void> {
    expect((await this.call('deleteRun', run)).code).toBeUndefined();
    this.#saved = this.#saved.filter((entity) => entity.run !== run);
  }

  /** Leaves this much space; Infinity gives all of it back. */
  async leave(bytes: number): Promise<void> {
    this.#devtools ??= await this.#page.context().newCDPSession(this.#page);
    const origin = new URL(this.#page.url()).origin;
    if (bytes === Infinity) {
      await this.#devtools.send('Storage.overrideQuotaForOrigin', { origin });
      return;
    }
    const { usage } = await this.#devtools.send('Storage.getUsageAndQuota', { origin });
    await this.#devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: Math.ceil(usage) + bytes });
  }

  /** Like a reload: the recorder ends and a new one starts. */
  async restart(): Promise<void> {
    await this.#page.evaluate(() => {
      const bench = globalThis as unknown as { recorder?: Recorder };
      bench.recorder?.terminate();
      bench.recorder = globalThis.newRecorder();
    });
  }

  /** Checks that a recorder started now finds everything that was saved. */
  async expectAllSaved(): Promise<RunRecord[]> {
    await this.restart();
    const records = (await this.call('listRuns', { limit: 99 })).answer as RunRecord[];
    for (const { run, filename, sha256: expected } of this.#saved) {
      const record = records.find(({ run_id }) => run_id === run);
      expect(record?.entities.find((entity) => entity.filename === filename)?.sha256).toBe(expected);
      const { answer } = await this.call('readRun', run);
      expect((answer as RunRecord).lost).toBeUndefined();
      const bytes = await this.#page.evaluate(
        async ([id, name]) => {
          const { recorder } = globalThis as unknown as { recorder: Recorder };
          const hash = await crypto.subtle.digest('SHA-256', await (await recorder.readEntity(id, name)).arrayBuffer());
          return [...new Uint8Array(hash)];
        },
        [run, filename] as const,
      );
      expect(Buffer.from(bytes).toString('hex')).toBe(expected);
    }
    return records;
  }
}

/** What hits the full disk, with this much space left, and the check that it was done in the end. */
const FULL_DISK: Record<string, (bench: Bench, run: string) => Promise<void>> = {
  'opening a run': async (bench) => {
    await bench.leave(0);
    expect((await bench.openRun()).code).toBe('storage_full');
    await bench.expectAllSaved();
    await bench.leave(Infinity);
    const { run } = await bench.openRun();
    expect(await bench.save(run, 10)).toBeNull();
  },
  'the file of a picture, torn in its middle': async (bench, run) => {
    await bench.leave(500_000);
    expect(await bench.save(run, 3_000_000)).toBe('storage_full');
    await bench.leave(Infinity);
    expect(await bench.save(run, 3_000_000)).toBeNull();
  },
  'a file for which there is no room at all': async (bench, run) => {
    await bench.leave(0);
    expect(await bench.save(run, 10)).toBe('storage_full');
    await bench.leave(Infinity);
    expect(await bench.save(run, 10)).toBeNull();
  },
  'the line of the journal, torn in its middle': async (bench, run) => {
    await bench.leave(2_000);
    expect(await bench.save(run, 0, { text: 'x'.repeat(100_000) })).toBe('storage_full');
    await bench.leave(Infinity);
    expect(await bench.save(run, 0, { text: 'x'.repeat(100_000) })).toBeNull();
  },
  'metadata.json: what the journal has is saved': async (bench, run) => {
    const metadata = { text: 'x'.repeat(50_000) };
    expect(await bench.save(run, 0, metadata)).toBeNull();
    await bench.leave(60_000);
    expect(await bench.save(run, 0, metadata)).toBeNull();
    await bench.expectAllSaved();
    await bench.leave(Infinity);
  },
  'many small files, until there is no more room': async (bench, run) => {
    await bench.leave(20_000);
    let code: string | null = null;
    for (let count = 0; count < 100 && code === null; count++) {
      code = await bench.save(run, 500);
    }
    expect(code).toBe('storage_full');
    await bench.leave(Infinity);
    expect(await bench.save(run, 500)).toBeNull();
  },
  'the end of a run, which is written later': async (bench, run) => {
    await bench.leave(0);
    expect((await bench.call('closeRun', run, 'completed')).code).toBe('storage_full');
    await bench.leave(Infinity);
    await bench.openRun();
    const [, record] = await bench.expectAllSaved();
    expect(record.current_state.stage).toBe('completed');
  },
  'a star': async (bench, run) => {
    await bench.call('closeRun', run, 'completed');
    await bench.leave(0);
    expect((await bench.call('starRun', run, true)).code).toBe('storage_full');
    await bench.expectAllSaved();
    await bench.leave(Infinity);
    expect((await bench.call('starRun', run, true)).code).toBeUndefined();
    expect((await bench.expectAllSaved())[0].starred).toBe(true);
  },
  'the setting of what is kept': async (bench) => {
    await bench.leave(0);
    expect((await bench.call('setRetention', { keep: 'runs', runs: 7 })).code).toBe('storage_full');
    expect((await bench.call('retention')).answer).toEqual({ keep: 'all' });
    await bench.leave(Infinity);
    expect((await bench.call('setRetention', { keep: 'runs', runs: 7 })).answer).toEqual([]);
  },
  'content from an address': async (bench, run) => {
    await bench.leave(0);
    expect((await bench.call('saveFromUrl', run, 'thing', '/theme.js')).code).toBe('invalid_operation');
    const url = `data:text/plain,${'x'.repeat(1000)}`;
    expect((await bench.call('saveFromUrl', run, 'thing', url)).code).toBe('storage_full');
    await bench.leave(Infinity);
    expect((await bench.call('saveFromUrl', run, 'thing', url)).answer).toMatchObject({ filename: '04_thing.txt' });
  },
  'a start after a crash: all is read, and recovered later': async (bench, run) => {
    await bench.leave(0);
    const [record] = await bench.expectAllSaved();
    expect(record).toMatchObject({ run_id: run, current_state: { stage: 'interrupted' } });
    await bench.leave(Infinity);
    await bench.restart();
    expect((await bench.call('resumeRun', run)).code).toBeUndefined();
    expect(await bench.save(run, 10)).toBeNull();
  },
  'room is made by deleting a run': async (bench, run) => {
    await bench.leave(Infinity);
    const { run: large } = await bench.openRun();
    expect(await bench.save(large, 2_000_000)).toBeNull();
    await bench.leave(0);
    expect(await bench.save(run, 1_000_000)).toBe('storage_full');
    await bench.delete(large);
    expect(await bench.save(run, 1_000_000)).toBeNull();
    const records = await bench.expectAllSaved();
    expect(records.map(({ run_id }) => run_id)).toEqual([run]);
    await bench.leave(Infinity);
  },
};

for (const [name, happens] of Object.entries(FULL_DISK)) {
  test(`a full disk: ${name}`, async ({ page, request }) => {
    await openRecorders(page, await recorderScript(request));
    const bench = new Bench(page);
    const { run } = await bench.openRun();
    for (const bytes of [0, 100, 50_000]) {
      expect(await bench.save(run, bytes, { bytes })).toBeNull();
    }
    await happens(bench, run);
    await bench.expectAllSaved();
  });
}
