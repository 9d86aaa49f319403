/** The recorder's contract, on a file system in memory: numbers, formats, what a reader finds, and what faults leave. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { ErrorCode, StudioErrorData } from '../src/core/errors.ts';
import { parseOperation } from '../src/core/operation.ts';
import type { FileStore } from '../src/recorder/file_store.ts';
import { MemoryFileStore } from '../src/recorder/memory_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import type { RunOpening, RunRecord } from '../workers/protocol.ts';

const PNG = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13]);
const NOON = new Date('2026-03-04T12:00:00');

const opening: RunOpening = {
  config_name: 'stable_diffusion',
  operation: parseOperation({ operation: 'image_generation', config: 'stable_diffusion', parameters: { seed: '7' } }),
  expected_outputs: ['input', 'output_image'],
};

describe('a run', () => {
  test('is a folder under day and device, with a metadata.json', async () => {
    const store = new MemoryFileStore();
    const run = await new Recorder(store, () => NOON).openRun(opening);
    expect(run).toMatch(/^run_[0-9]{13}_[0-9a-f]{6}$/);
    const [device] = await store.list('exports/json/2026-03-04');
    expect(device?.name).toMatch(/^[0-9a-f-]{36}$/);
    const record = await json(store, `exports/json/2026-03-04/${device?.name}/${run}/metadata.json`);
    expect(record).toMatchObject({
      schema_version: 1,
      run_id: run,
      device_id: device?.name,
      config_name: 'stable_diffusion',
      operation: { parameters: { seed: '7' } },
      current_state: { stage: 'running' },
      entities: [],
    });
  });

  test('keeps its device over visits', async () => {
    const store = new MemoryFileStore();
    await new Recorder(store, () => NOON).openRun(opening);
    await new Recorder(store, () => NOON).openRun(opening);
    expect(await store.list('exports/json/2026-03-04')).toHaveLength(1);
  });

  test('says how it ended, and takes nothing more', async () => {
    const { recorder, run } = await open();
    const error: StudioErrorData = { code: 'gpu_lost', message: 'Gone.', retry: 'same' };
    await recorder.closeRun(run, 'failed', error);
    expect((await recorder.readRun(run)).current_state).toEqual({ stage: 'failed', error });
    await expect(recorder.saveEntity(run, 'late', 'x')).rejects.toThrow('is open');
  });

  test('keeps pictures of the operation out of its metadata.json', async () => {
    const recorder = new Recorder(new MemoryFileStore());
    const image = new Blob([PNG], { type: 'image/png' });
    const mask = `data:image/png;base64,${Buffer.from(PNG).toString('base64')}`;
    const operation = { ...opening.operation, parameters: { image, mask, seed: '7' } };
    const record = await recorder.readRun(await recorder.openRun({ ...opening, operation }));
    const told = { type: 'image/png', bytes: PNG.length };
    expect(record.operation?.parameters).toEqual({ image: told, mask: told, seed: '7' });
  });
});

describe('an entity', () => {
  const safetensors = new Blob([new BigUint64Array([2n]), '{}']);
  test.for<[string, Blob | string | object, Record<string, unknown>, string]>([
    ['an object', { a: 1 }, {}, '01_thing.json'],
    ['a list', [1, 2], {}, '01_thing.json'],
    ['text', 'hello', {}, '01_thing.txt'],
    ['a PNG by its first bytes', new Blob([PNG]), {}, '01_thing.png'],
    ['a PNG that is called a JPEG', new Blob([PNG], { type: 'image/jpeg' }), {}, '01_thing.png'],
    ['a WebP', new Blob(['RIFF\0\0\0\0WEBPVP8 ']), {}, '01_thing.webp'],
    ['a JPEG', new Blob([new Uint8Array([0xff, 0xd8, 0xff, 0xe0])]), {}, '01_thing.jpg'],
    ['a Blob of a known type', new Blob(['{}'], { type: 'application/json; charset=utf-8' }), {}, '01_thing.json'],
    ['safetensors by its header', new Blob([new BigUint64Array([2n]), '{"']), {}, '01_thing.safetensors'],
    ['safetensors by what is said', safetensors, { format: 'safetensors' }, '01_thing.safetensors'],
    ['unknown bytes', new Blob([new Uint8Array([1, 2, 3])]), {}, '01_thing.bin'],
    ['nothing', new Blob([]), {}, '01_thing.bin'],
    ['a format that would be a path', new Blob([PNG]), { format: '../x' }, '01_thing.png'],
  ])('%s gets its extension', async ([, content, metadata, filename]) => {
    const { recorder, run } = await open();
    expect((await recorder.saveEntity(run, 'thing', content, metadata)).filename).toBe(filename);
  });

  test('comes back as it went in, with its hash and its metadata', async () => {
    const { recorder, run } = await open();
    const entity = await recorder.saveEntity(run, 'output_image', new Blob([PNG]), { seed: '7' });
    const blob = await recorder.readEntity(run, entity.filename);
    expect(new Uint8Array(await blob.arrayBuffer())).toEqual(PNG);
    expect(blob.type).toBe('image/png');
    expect(entity.sha256).toBe(createHash('sha256').update(PNG).digest('hex'));
    const [listed] = (await recorder.readRun(run)).entities;
    expect({ run, ...listed }).toEqual(entity);
    expect(listed).toMatchObject({ sequence: 1, type: 'output_image', metadata: { seed: '7' } });
  });

  test('numbers that JSON does not know stay readable, and the answer is what a reader will find', async () => {
    const { recorder, run } = await open();
    const odd = { low: -Infinity, none: NaN, seed: 2n ** 64n - 1n, unset: undefined, fine: 0.5 };
    const entity = await recorder.saveEntity(run, 'config', odd, odd);
    const words = { low: '-Infinity', none: 'NaN', seed: '18446744073709551615', fine: 0.5 };
    expect(entity.metadata).toStrictEqual(words);
    expect(JSON.parse(await (await recorder.readEntity(run, entity.filename)).text())).toStrictEqual(words);
  });

  test('saves that overlap are numbered in the order they were asked', async () => {
    const { recorder, run } = await open();
    const saved = await Promise.all(
      Array.from({ length: 12 }, (_, index) => recorder.saveEntity(run, 'note', `${index}`)),
    );
    expect(saved.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 12 }, (_, index) => index + 1));
    expect(saved.at(-1)?.filename).toBe('12_note.txt');
    expect((await recorder.readRun(run)).entities).toHaveLength(12);
  });

  test('a number is never given twice, deletions included', async () => {
    const { recorder, run, store, folder } = await open();
    const notes = await Promise.all(['a', 'b', 'c'].map((text) => recorder.saveEntity(run, 'note', text)));
    await store.remove(`${folder}/${notes[1].filename}`);
    expect((await recorder.saveEntity(run, 'note', 'd')).sequence).toBe(4);
  });

  test('a type that would be a path is refused', async () => {
    const { recorder, run } = await open();
    for (const type of ['../up', 'a/b', '', 'A', 'a.b', '_a']) {
      await expect(recorder.saveEntity(run, type, 'x')).rejects.toThrow('entity type');
    }
  });
});

describe('reading', () => {
  test('runs come newest first, a page at a time', async () => {
    const store = new MemoryFileStore();
    const runs: string[] = [];
    for (const day of ['2026-01-02', '2026-03-04', '2025-12-31']) {
      for (const hour of ['10', '11']) {
        runs.push(await new Recorder(store, () => new Date(`${day}T${hour}:00:00`)).openRun(opening));
      }
    }
    const newest = [3, 2, 1, 0, 5, 4].map((index) => runs[index]);
    const recorder = new Recorder(store);
    const first = await recorder.listRuns({ limit: 4 });
    expect(ids(first)).toEqual(newest.slice(0, 4));
    expect(ids(await recorder.listRuns({ limit: 4, before: first[3].run_id }))).toEqual(newest.slice(4));
  });

  test('a deleted run is gone', async () => {
    const { recorder, run, store } = await open();
    await recorder.saveEntity(run, 'note', 'x');
    await recorder.deleteRun(run);
    expect(await recorder.listRuns({ limit: 9 })).toEqual([]);
    expect(await store.list(`exports/json`)).toEqual([]);
    await expect(recorder.readRun(run)).rejects.toMatchObject({ code: 'invalid_operation' });
  });

  test('names that are no entity of the run are refused', async () => {
    const { recorder, run, store } = await open();
    await store.write('exports/secret.txt', new Blob(['secret']));
    for (const name of ['../../../../secret.txt', '01_none.txt', 'metadata.json.part', '']) {
      await expect(recorder.readEntity(run, name)).rejects.toMatchObject({ code: 'invalid_operation' });
    }
  });

  test('leftovers of interrupted writes and foreign folders are passed over', async () => {
    const { recorder, run, store, folder } = await open();
    await recorder.saveEntity(run, 'note', 'x');
    for (const name of ['02_note.txt.part', 'metadata.json.part', '02_note.txt.crswap', 'holiday.jpg']) {
      await store.write(`${folder}/${name}`, new Blob(['torn']));
    }
    await store.write('exports/json/2026-03-04/somebody/not_a_run/metadata.json', new Blob(['{}']));
    const runs = await new Recorder(store).listRuns({ limit: 9 });
    expect(ids(runs)).toEqual([run]);
    expect(runs[0].entities.map(({ filename }) => filename)).toEqual(['01_note.txt']);
  });

  test.for(['', '{"schema_ver', 'null', '{"schema_version":99}', '[]'])(
    'a metadata.json of %j is rebuilt from the files',
    async (torn) => {
      const { recorder, run, store, folder } = await open();
      await recorder.saveEntity(run, 'input', { a: 1 });
      await recorder.saveEntity(run, 'output_image', new Blob([PNG]));
      await store.write(`${folder}/metadata.json`, new Blob([torn]));
      const [record] = await new Recorder(store).listRuns({ limit: 9 });
      expect(record).toMatchObject({ run_id: run, operation: null, current_state: { stage: 'failed' } });
      expect(record.entities.map(({ filename }) => filename)).toEqual(['01_input.json', '02_output_image.png']);
    },
  );
});

describe('faults', () => {
  /** One whole run; how many operations of the store it takes is found by the test. */
  async function record(store: FileStore): Promise<string[]> {
    const saved: string[] = [];
    const recorder = new Recorder(store, () => NOON);
    const run = await recorder.openRun(opening);
    for (const [type, content] of [
      ['input', { a: 1 }],
      ['output_image', new Blob([PNG, PNG])],
    ] as const) {
      saved.push((await recorder.saveEntity(run, type, content)).filename);
    }
    await recorder.closeRun(run, 'completed');
    return saved;
  }

  test.for([false, true])('at every operation, only whole entities are listed (torn writes: %s)', async (torn) => {
    for (let failAt = 1; ; failAt += 1) {
      const files = new MemoryFileStore();
      const faulty = new FaultyStore(files, { failAt, torn, forGood: false });
      const error = await record(faulty).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      await expectWhole(files);
      if (faulty.operations < failAt) {
        expect(error).toBeNull();
        expect(failAt).toBeGreaterThan(10);
        return;
      }
      expect(error).toMatchObject({ code: 'storage_unavailable', retry: 'same' });
    }
  });

  test('at every operation and for good, as when the tab dies, what was reported as saved is listed', async () => {
    for (let failAt = 1; ; failAt += 1) {
      const files = new MemoryFileStore();
      const faulty = new FaultyStore(files, { failAt, torn: true, forGood: true });
      const reported: string[] = [];
      const recorder = new Recorder(faulty, () => NOON);
      try {
        const run = await recorder.openRun(opening);
        reported.push((await recorder.saveEntity(run, 'input', { a: 1 })).filename);
        reported.push((await recorder.saveEntity(run, 'output_image', new Blob([PNG, PNG]))).filename);
      } catch {
        // Looked at below.
      }
      const [record] = await expectWhole(files);
      expect(record?.entities.map(({ filename }) => filename) ?? []).toEqual(reported);
      if (faulty.operations < failAt) {
        expect(reported).toHaveLength(2);
        return;
      }
    }
  });

  test('after one, the run goes on where it was', async () => {
    const { run, recorder, faulty } = await openFaulty();
    await recorder.saveEntity(run, 'note', 'a');
    faulty.failAt = faulty.operations + 3;
    await expect(recorder.saveEntity(run, 'note', 'b')).rejects.toMatchObject({ code: 'storage_unavailable' });
    expect(await recorder.saveEntity(run, 'note', 'c')).toMatchObject({ sequence: 2 });
    expect((await recorder.readRun(run)).entities).toHaveLength(2);
  });

  test('a full disk says so, and says that nothing is lost', async () => {
    const { run, recorder, faulty } = await openFaulty();
    await recorder.saveEntity(run, 'note', 'a');
    faulty.failAt = faulty.operations + 2;
    faulty.error = new DOMException('No space.', 'QuotaExceededError');
    const code: ErrorCode = 'storage_full';
    await expect(recorder.saveEntity(run, 'note', 'b')).rejects.toMatchObject({
      code,
      message: expect.stringMatching(/^[^.]+\. What is recorded so far is kept\.$/) as string,
    });
    expect((await recorder.readRun(run)).entities).toHaveLength(1);
  });

  async function openFaulty() {
    const faulty = new FaultyStore(new MemoryFileStore(), { failAt: Infinity, torn: true, forGood: false });
    const recorder = new Recorder(faulty, () => NOON);
    return { faulty, recorder, run: await recorder.openRun(opening) };
  }

  /** Every listed entity is there with its bytes, for a reader that comes later. */
  async function expectWhole(store: FileStore): Promise<RunRecord[]> {
    const reader = new Recorder(store);
    const runs = await reader.listRuns({ limit: 99 });
    for (const { run_id, entities } of runs) {
      for (const { filename, sha256 } of entities) {
        const bytes = await (await reader.readEntity(run_id, filename)).arrayBuffer();
        expect(createHash('sha256').update(new Uint8Array(bytes)).digest('hex')).toBe(sha256);
      }
    }
    return runs;
  }
});

/** Fails at its k-th operation, once or from then on; a torn write leaves half of its content behind. */
class FaultyStore implements FileStore {
  readonly persistent = false;
  operations = 0;
  failAt: number;
  error: Error = new Error('The disk is on fire.');
  readonly #store: FileStore;
  readonly #torn: boolean;
  readonly #forGood: boolean;

  constructor(store: FileStore, faults: { failAt: number; torn: boolean; forGood: boolean }) {
    this.#store = store;
    this.failAt = faults.failAt;
    this.#torn = faults.torn;
    this.#forGood = faults.forGood;
  }

  async write(path: string, content: Blob): Promise<void> {
    if (this.#fails()) {
      // Once dead, nothing is written any more, not even in part.
      if (this.#torn && this.operations === this.failAt) {
        await this.#store.write(path, content.slice(0, Math.floor(content.size / 2)));
      }
      throw this.error;
    }
    await this.#store.write(path, content);
  }

  move(folder: string, from: string, to: string) {
    return this.#guard(() => this.#store.move(folder, from, to));
  }

  read(path: string) {
    return this.#guard(() => this.#store.read(path));
  }

  list(folder: string) {
    return this.#guard(() => this.#store.list(folder));
  }

  remove(path: string) {
    return this.#guard(() => this.#store.remove(path));
  }

  async #guard<T>(work: () => Promise<T>): Promise<T> {
    if (this.#fails()) {
      throw this.error;
    }
    return work();
  }

  #fails(): boolean {
    this.operations += 1;
    return this.#forGood ? this.operations >= this.failAt : this.operations === this.failAt;
  }
}

async function open() {
  const store = new MemoryFileStore();
  const recorder = new Recorder(store, () => NOON);
  const run = await recorder.openRun(opening);
  const [device] = await store.list('exports/json/2026-03-04');
  return { store, recorder, run, folder: `exports/json/2026-03-04/${device?.name}/${run}` };
}

async function json(store: FileStore, path: string): Promise<unknown> {
  return JSON.parse((await (await store.read(path))?.text()) ?? 'null');
}

function ids(runs: RunRecord[]): string[] {
  return runs.map(({ run_id }) => run_id);
}
