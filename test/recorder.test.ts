/**
 * The recorder's contract, on in-memory file systems: numbering, formats, reading, retention; and everything reported as saved survives a
 * failure, a crash, a torn write or a lost tail at any operation, recovery included.
 */
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { StudioError } from '../src/core/errors.ts';
import type { StudioErrorData } from '../src/core/errors.ts';
import type { Entity } from '../src/core/job.ts';
import type { Operation } from '../src/core/operation.ts';
import { parseOperation } from '../src/core/operation.ts';
import { deferred } from '../src/jobs/deferred.ts';
import type { FileStore } from '../src/recorder/file_store.ts';
import { decodeLines, encodeLines, recordOf, runState } from '../src/recorder/journal.ts';
import { MemoryLocks } from '../src/recorder/locks.ts';
import { MemoryFileStore } from '../src/recorder/memory_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import { readRunFolder } from '../src/recorder/run_import.ts';
import { parseRecord } from '../src/recorder/run_record.ts';
import { UnitedFileStore } from '../src/recorder/united_file_store.ts';
import type { RunOpening, RunRecord } from '../src/recorder/recorder_api.ts';
import { RecordedRun } from '../workers/recorded_run.ts';
import { Disk, FULL } from './faulty_disk.ts';
import type { CrashMode, Image } from './faulty_disk.ts';

const PNG = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13]);
const NOON = new Date('2026-03-04T12:00:00');

const opening: RunOpening & { operation: Operation } = {
  config_name: 'stable_diffusion',
  operation: parseOperation({ operation: 'image_generation', config: 'stable_diffusion', parameters: { seed: '7' } }),
  expected_outputs: ['input', 'output_image'],
};

describe('a run', () => {
  test('is a folder under day and device, with a metadata.json', async () => {
    const store = new MemoryFileStore();
    const recorder = new Recorder(store, () => NOON);
    const run = await recorder.openRun(opening);
    expect(run).toMatch(/^run_[0-9]{13}_[0-9a-f]{6}$/);
    // Who looks before the end finds it up to date.
    await recorder.readEntity(run, 'metadata.json');
    const [device] = await store.list('exports/json/2026-03-04');
    expect(device?.name).toMatch(/^[0-9a-f-]{36}$/);
    const record = await json(store, `exports/json/2026-03-04/${device?.name}/${run}/metadata.json`);
    expect(record).toMatchObject({
      schema_version: 2,
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
    ['a WAV', new Blob(['RIFF\0\0\0\0WAVEfmt ']), {}, '01_thing.wav'],
    ['an MP3 by its type', new Blob([new Uint8Array(4)], { type: 'audio/mpeg' }), {}, '01_thing.mp3'],
    ['a sketch by its first line', new Blob(['// @language p5\ndraw()']), {}, '01_thing.js'],
    ['what reads as text', new Blob(['Grüße']), {}, '01_thing.txt'],
    ['a format by its other name', new Blob(['?']), { format: 'jpeg' }, '01_thing.jpg'],
    ['a format that would be a path', new Blob([PNG]), { format: '../x' }, '01_thing.png'],
  ])('%s gets its extension', async ([, content, metadata, filename]) => {
    const { recorder, run } = await open();
    expect((await recorder.saveEntity(run, 'thing', content, metadata)).filename).toBe(filename);
  });

  test.for<[string, Blob]>([
    ['bytes', new Blob([new Uint8Array([1, 2, 3])])],
    ['nothing', new Blob([])],
    ['bytes of a type that nobody has', new Blob([new Uint8Array([1, 2, 3])], { type: 'model/gltf-binary' })],
  ])('%s that no medium knows are refused, and the run goes on', async ([, content]) => {
    const { recorder, run } = await open();
    const refusal = {
      code: 'media_unreadable',
      message: expect.stringMatching(/Nothing here knows what kind of file/) as string,
    };
    await expect(recorder.saveEntity(run, 'thing', content)).rejects.toMatchObject(refusal);
    expect((await recorder.saveEntity(run, 'note', 'x')).filename).toBe('01_note.txt');
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
    'a metadata.json of %j is written anew from the journal',
    async (torn) => {
      const { recorder, run, store, folder } = await open();
      await recorder.saveEntity(run, 'input', { a: 1 }, { b: 2 });
      await recorder.saveEntity(run, 'output_image', new Blob([PNG]));
      const before = await recorder.readRun(run);
      await store.write(`${folder}/metadata.json`, new Blob([torn]));
      const [record] = await new Recorder(store).listRuns({ limit: 9 });
      expect(record).toEqual({ ...before, current_state: { stage: 'interrupted' } });
      expect(await json(store, `${folder}/metadata.json`)).toEqual({
        ...record,
        journal_length: (await store.read(`${folder}/journal`))?.size,
      });
    },
  );

  test('a metadata.json that others have broken is written anew when its run is read', async () => {
    const { recorder, run, store, folder } = await open();
    await recorder.closeRun(run, 'completed');
    const before = await json(store, `${folder}/metadata.json`);
    await store.write(`${folder}/metadata.json`, new Blob(['torn']));
    await new Recorder(store).readRun(run);
    expect(await json(store, `${folder}/metadata.json`)).toEqual(before);
  });

  test.for(['', 'x', '00000000 {}\n'])('a journal of %j is made anew from metadata.json', async (torn) => {
    const { recorder, run, store, folder } = await open();
    await recorder.saveEntity(run, 'input', { a: 1 }, { b: 2 });
    await recorder.closeRun(run, 'completed');
    const before = await recorder.readRun(run);
    await store.write(`${folder}/journal`, new Blob([torn]));
    const later = new Recorder(store);
    expect(await later.readRun(run)).toEqual(before);
    await store.remove(`${folder}/metadata.json`);
    expect(await new Recorder(store).readRun(run)).toEqual(before);
  });

  test('without journal and metadata.json, a run is what its files tell', async () => {
    const { recorder, run, store, folder } = await open();
    await recorder.saveEntity(run, 'input', { a: 1 });
    await recorder.saveEntity(run, 'output_image', new Blob([PNG]));
    await store.remove(`${folder}/journal`);
    await store.remove(`${folder}/metadata.json`);
    const [record] = await new Recorder(store).listRuns({ limit: 9 });
    expect(record).toMatchObject({ run_id: run, operation: null, current_state: { stage: 'failed' } });
    expect(record.entities.map(({ filename }) => filename)).toEqual(['01_input.json', '02_output_image.png']);
  });

  test('files that were deleted, cut or changed by others are told', async () => {
    const { recorder, run, store, folder } = await open();
    for (const text of ['whole', 'deleted', 'cut', 'changed']) {
      await recorder.saveEntity(run, 'note', text);
    }
    await recorder.closeRun(run, 'completed');
    await store.remove(`${folder}/02_note.txt`);
    await store.write(`${folder}/03_note.txt`, new Blob(['c']));
    await store.write(`${folder}/04_note.txt`, new Blob(['CHANGED']));
    const later = new Recorder(store);
    const record = await later.readRun(run);
    expect(record.lost).toEqual(['02_note.txt', '03_note.txt']);
    expect(record.entities.map(({ filename }) => filename)).toEqual(['01_note.txt', '04_note.txt']);
    expect(await (await later.readEntity(run, '01_note.txt')).text()).toBe('whole');
    for (const name of ['03_note.txt', '04_note.txt']) {
      await expect(later.readEntity(run, name)).rejects.toMatchObject({ code: 'storage_unavailable' });
    }
  });

  test('a run of a later version is passed over in lists, refused by name and left as it is', async () => {
    const { recorder, run, store, folder } = await open();
    await recorder.closeRun(run, 'completed');
    const later = await recorder.openRun(opening);
    const text = (await (await store.read(`${folder}/journal`))?.text()) ?? '';
    const first = { ...(JSON.parse(text.split('\n')[0].slice(9)) as object), schema_version: 3 };
    const journal = new Blob(encodeLines([first, { record: 'hologram' }]));
    await store.write(`${folder}/journal`, journal);
    const reader = new Recorder(store);
    expect(ids(await reader.listRuns({ limit: 9 }))).toEqual([later]);
    await expect(reader.readRun(run)).rejects.toMatchObject({ code: 'storage_unavailable' });
    await expect(reader.starRun(run, true)).rejects.toMatchObject({ code: 'storage_unavailable' });
    expect(await (await store.read(`${folder}/journal`))?.text()).toBe(await journal.text());
  });
});

describe('changes', () => {
  test('an interrupted run is known as that, and goes on under the next number', async () => {
    const { recorder, run, store } = await open();
    const first = await recorder.saveEntity(run, 'note', 'a', { step: 1 });
    const later = new Recorder(store, () => NOON);
    expect((await later.listRuns({ limit: 9 }))[0].current_state).toEqual({ stage: 'interrupted' });
    expect((await later.resumeRun(run)).current_state).toEqual({ stage: 'running' });
    const second = await later.saveEntity(run, 'note', 'b');
    await later.closeRun(run, 'completed');
    const record = await new Recorder(store).readRun(run);
    expect(record.current_state).toEqual({ stage: 'completed' });
    expect(record.entities.map((entity) => ({ run, ...entity }))).toEqual([first, second]);
    expect(second.sequence).toBe(2);
  });

  test('a star stays, also over recovery', async () => {
    const { recorder, run, store } = await open();
    await recorder.starRun(run, true);
    const later = new Recorder(store);
    expect(ids(await later.listRuns({ limit: 9, starred: true }))).toEqual([run]);
    await later.starRun(run, false);
    expect(await new Recorder(store).listRuns({ limit: 9, starred: true })).toEqual([]);
  });

  test('content comes from Blobs and addresses, and what an address answers is said', async () => {
    const answers: Record<string, Response> = {
      'https://example.org/a.png?key=secret': new Response(PNG),
      'https://example.org/none': new Response('', { status: 404 }),
    };
    const fetch = (url: string) =>
      url in answers ? Promise.resolve(answers[url]) : Promise.reject(new TypeError('Failed to fetch'));
    const recorder = new Recorder(new MemoryFileStore(), () => NOON, { fetch });
    const run = await recorder.openRun(opening);
    expect(await recorder.saveFromUrl(run, 'picture', 'https://example.org/a.png?key=secret', { a: 1 })).toMatchObject({
      filename: '01_picture.png',
      sha256: digest(PNG),
      metadata: { a: 1, source: 'https://example.org/a.png' },
    });
    expect((await recorder.saveFromBlob(run, 'picture', new Blob([PNG]))).filename).toBe('02_picture.png');
    for (const [url, code] of [
      ['https://example.org/none', 'origin_unavailable'],
      ['https://example.org/offline', 'origin_unavailable'],
      ['file:///etc/passwd', 'invalid_operation'],
      ['no address', 'invalid_operation'],
    ]) {
      await expect(recorder.saveFromUrl(run, 'picture', url)).rejects.toMatchObject({ code });
    }
    await expect(recorder.saveFromBlob(run, 'picture', 'x' as unknown as Blob)).rejects.toBeInstanceOf(StudioError);
    expect((await new Recorder(new MemoryFileStore()).listRuns({ limit: 1 })).length).toBe(0);
    const real = new Recorder(new MemoryFileStore());
    const data = await real.saveFromUrl(await real.openRun(opening), 'note', 'data:text/plain,hello');
    expect(data).toMatchObject({ filename: '01_note.txt', metadata: {} });
  });

  test('search finds all words in prompt, config, checkpoint and id, whatever their case', async () => {
    const { recorder, runs } = await recorded(['a Red fox', 'a red hen', 'blue']);
    const find = async (text: string) => (await recorder.findRuns({ limit: 9, text })).map(({ run_id }) => run_id);
    expect(await find('RED')).toEqual([runs[1], runs[0]]);
    expect(await find('red fox')).toEqual([runs[0]]);
    expect(await find('stable_diffusion')).toHaveLength(3);
    expect(await find(runs[2].slice(4))).toEqual([runs[2]]);
    expect(await find('green')).toEqual([]);
    expect(ids(await recorder.listRuns({ limit: 1, text: 'red', before: runs[1] }))).toEqual([runs[0]]);
    expect((await recorder.findRuns({ limit: 1 }))[0]).toMatchObject({ entities: 1, results: 1, bytes: PNG.length });
  });
});

describe('retention', () => {
  test('by default all runs are kept', async () => {
    const { recorder } = await recorded(['a', 'b', 'c']);
    expect(await recorder.retention()).toEqual({ keep: 'all' });
    expect(await recorder.listRuns({ limit: 9 })).toHaveLength(3);
  });

  test('the newest stay, and the starred, and the running of any tab', async () => {
    const { store, recorder, runs, locks, tick } = await recorded(['a', 'b', 'c', 'd']);
    await recorder.starRun(runs[0], true);
    const other = new Recorder(store, tick, { locks });
    const running = await other.openRun(opening);
    const told = await recorder.outdatedRuns({ keep: 'runs', runs: 2 });
    expect(told.map(({ run_id }) => run_id)).toEqual([runs[2], runs[1]]);
    expect(await recorder.listRuns({ limit: 9 })).toHaveLength(5);
    expect(await recorder.retention()).toEqual({ keep: 'all' });
    expect(await recorder.setRetention({ keep: 'runs', runs: 2 })).toEqual([runs[2], runs[1]]);
    expect(ids(await recorder.listRuns({ limit: 9 }))).toEqual([running, runs[3], runs[0]]);
    const next = await recorder.openRun(opening);
    await recorder.closeRun(next, 'completed');
    await recorder.settled();
    expect(ids(await new Recorder(store, tick, { locks }).listRuns({ limit: 9 }))).toEqual([next, running, runs[0]]);
    expect(await new Recorder(store).retention()).toEqual({ keep: 'runs', runs: 2 });
  });

  test('bytes are counted from the newest, which always stays', async () => {
    const { recorder, runs } = await recorded(['a', 'b', 'c', 'd']);
    expect(await recorder.setRetention({ keep: 'bytes', bytes: 2 * PNG.length })).toEqual([runs[1], runs[0]]);
    expect(await recorder.setRetention({ keep: 'bytes', bytes: 1 })).toEqual([runs[2]]);
    expect(ids(await recorder.listRuns({ limit: 9 }))).toEqual([runs[3]]);
  });

  test('what makes no sense is refused', async () => {
    const { recorder } = await open();
    for (const retention of [null, {}, { keep: 'runs' }, { keep: 'runs', runs: 0 }, { keep: 'bytes', bytes: 0.5 }]) {
      await expect(recorder.setRetention(retention as never)).rejects.toMatchObject({ code: 'invalid_operation' });
      await expect(recorder.outdatedRuns(retention as never)).rejects.toMatchObject({ code: 'invalid_operation' });
    }
  });
});

describe('a picture that somebody keeps', () => {
  test('is a run of its own without an operation, found by its name', async () => {
    const store = new MemoryFileStore();
    const recorder = new Recorder(store, () => NOON);
    const run = await recorder.openRun({ config_name: '', operation: null, expected_outputs: ['input_image'] });
    await recorder.saveFromBlob(run, 'input_image', new Blob([PNG]), { name: 'Holiday.png' });
    await recorder.closeRun(run, 'completed');
    for (const reader of [recorder, new Recorder(store)]) {
      expect(await reader.findRuns({ limit: 9, text: 'holiday' })).toMatchObject([
        { run_id: run, name: 'Holiday.png', picture: '01_input_image.png', results: 0, prompt: '' },
      ]);
    }
    expect((await new Recorder(store).readRun(run)).operation).toBeNull();
  });

  test('the picture that stands for a run is the first one made', async () => {
    const { recorder, run } = await open();
    await recorder.saveEntity(run, 'input_image', new Blob([PNG]));
    await recorder.saveEntity(run, 'output_image', new Blob([PNG]));
    await recorder.closeRun(run, 'completed');
    expect(await recorder.findRuns({ limit: 1 })).toMatchObject([{ picture: '02_output_image.png', name: '' }]);
  });
});

describe('runs that leave as a folder and come back', () => {
  type Files = { path: string; file: Blob }[];

  /** The folder as written by the page: the numbered files, and the record without what only the journal has. */
  async function exported(recorder: Recorder, run: string): Promise<Files> {
    const record = await recorder.readRun(run);
    const files: Files = [];
    for (const { filename } of record.entities) {
      files.push({ path: `stick/${run}/${filename}`, file: await recorder.readEntity(run, filename) });
    }
    files.push({ path: `stick/${run}/metadata.json`, file: new Blob([JSON.stringify(record)]) });
    return files;
  }

  /** An exported run with everything that a run can have. */
  async function whole(): Promise<{ files: Files; record: RunRecord }> {
    const { recorder, run } = await open();
    await recorder.saveEntity(run, 'input', { prompt: 'a “boat”' }, { step: 1 });
    await recorder.saveEntity(run, 'note', '');
    await recorder.saveEntity(run, 'output_image', new Blob([PNG]), { seed: '18446744073709551615' });
    await recorder.starRun(run, true);
    await recorder.closeRun(run, 'failed', { code: 'gpu_lost', message: 'Gone.', retry: 'same' });
    return { files: await exported(recorder, run), record: await recorder.readRun(run) };
  }

  function replaced(files: Files, name: string, file: Blob | string | null): Files {
    const others = files.filter(({ path }) => !path.endsWith(`/${name}`));
    return file === null ? others : [...others, { path: `stick/${name}`, file: new Blob([file]) }];
  }

  test('the same record, bytes and hashes, in another browser and after deletion, and again from there', async () => {
    const { files, record } = await whole();
    const store = new MemoryFileStore();
    const there = new Recorder(store);
    expect(await there.importRun([...files].reverse())).toEqual(record);
    for (const reader of [there, new Recorder(store)]) {
      expect(await reader.readRun(record.run_id)).toEqual(record);
      expect(await reader.listRuns({ limit: 9, starred: true })).toEqual([record]);
      for (const { filename, sha256 } of record.entities) {
        const bytes = new Uint8Array(await (await reader.readEntity(record.run_id, filename)).arrayBuffer());
        expect(digest(bytes)).toBe(sha256);
      }
    }
    await expect(there.importRun(files)).rejects.toMatchObject({ message: /is recorded here already/ });
    const again = await exported(there, record.run_id);
    await there.deleteRun(record.run_id);
    expect(await there.importRun(again)).toEqual(record);
    // It continues like any other run.
    await there.resumeRun(record.run_id);
    expect((await there.saveEntity(record.run_id, 'note', 'x')).filename).toBe('04_note.txt');
  });

  test('runs of the layout without journals come back with the hashes that they lacked', async () => {
    const recorder = new Recorder(await older(), () => NOON);
    for (const record of await recorder.listRuns({ limit: 9 })) {
      const there = new Recorder(new MemoryFileStore());
      const read = await there.importRun(await exported(recorder, record.run_id));
      const filled = record.entities.map((entity) => ({
        ...entity,
        sha256: entity.sha256 || (expect.any(String) as string),
      }));
      expect(read).toEqual({ ...record, schema_version: 2, starred: false, entities: filled });
      expect((await there.readRun(record.run_id)).lost).toBeUndefined();
    }
  });

  test('what is wrong or damaged gets one sentence, and nothing of it is recorded', async () => {
    const { files, record } = await whole();
    const metadata = (change: object) => replaced(files, 'metadata.json', JSON.stringify({ ...record, ...change }));
    const [first, ...rest] = record.entities;
    const wrong: [files: Files, sentence: RegExp][] = [
      [[], /has no metadata.json/],
      [replaced(files, 'metadata.json', null), /has no metadata.json/],
      [replaced(files, 'metadata.json', '{'), /damaged or not from Darkroom/],
      [metadata({ schema_version: 3 }), /a later version of Darkroom/],
      [metadata({ run_id: '../../etc' }), /damaged or not from Darkroom/],
      [metadata({ run_id: 'run_9999999999999999_abcdef' }), /damaged or not from Darkroom/],
      [metadata({ device_id: '../..' }), /damaged or not from Darkroom/],
      [metadata({ entities: [first, { ...first }] }), /damaged or not from Darkroom/],
      [metadata({ entities: [{ ...first, sequence: 0, filename: '00_input.json' }] }), /damaged or not from Darkroom/],
      [metadata({ entities: [{ ...first, filename: '../01_input.json' }] }), /damaged or not from Darkroom/],
      [metadata({ entities: rest }), /holds "01_input.json", which its metadata.json does not name/],
      [replaced(files, '02_note.txt', null), /lacks "02_note.txt"/],
      [replaced(files, '02_note.txt', 'x'), /holds a "02_note.txt" that was changed or damaged/],
    ];
    const store = new MemoryFileStore();
    const recorder = new Recorder(store);
    for (const [given, sentence] of wrong) {
      await expect(recorder.importRun(given)).rejects.toMatchObject({ code: 'invalid_operation', message: sentence });
      await expect(recorder.importRun(given)).rejects.toThrow(
        /^This folder cannot be read in as a run: it [^.]+(\.\w+[^.]*)*\.$/,
      );
    }
    expect(await recorder.listRuns({ limit: 9 })).toEqual([]);
    expect(await store.list('exports/json')).toEqual([]);
    // Files left by operating systems are ignored.
    await recorder.importRun([...files, { path: 'stick/.DS_Store', file: new Blob(['x']) }]);
  });

  test('broken off or failed at any operation, it is there whole, or not, or as a run that was broken off', async () => {
    const { files, record } = await whole();
    const disk = new Disk();
    const images: Image[] = [];
    disk.watch = (image) => images.push(image);
    await new Recorder(disk).importRun(files);
    disk.watch = null;
    const seen = { whole: 0, none: 0, interrupted: 0 };
    for (const image of images) {
      const recovered = new Disk(image.files);
      const [found] = await new Recorder(recovered, () => NOON).listRuns({ limit: 9 });
      if (!found) {
        seen.none += 1;
      } else if (found.current_state.stage === 'interrupted') {
        seen.interrupted += 1;
        // A moved file without a journal line is complete and known by its name alone.
        const told = record.entities.slice(0, found.entities.length);
        expect(found.entities.map(({ filename, sha256 }) => [filename, sha256])).toEqual(
          told.map(({ filename, sha256 }) => [filename, sha256]),
        );
        expect(found.entities.slice(0, -1)).toEqual(told.slice(0, -1));
        expect(found.lost).toBeUndefined();
      } else {
        seen.whole += 1;
        expect(found).toEqual(record);
      }
    }
    expect(Object.values(seen).every((count) => count > 5)).toBe(true);
    for (let at = 1; at <= disk.operations; at++) {
      const faulty = new Disk();
      faulty.fault = (operation) => (operation === at ? { torn: at % 2 === 0, error: FULL } : null);
      const read = await new Recorder(faulty).importRun(files).catch(expectTyped);
      faulty.fault = null;
      const listed = await new Recorder(faulty, () => NOON).listRuns({ limit: 9 });
      expect(listed).toEqual(read ? [record] : []);
    }
  });

  test('10,000 mutated folders are read whole or refused with a typed error, each within 50 ms', async () => {
    const { files, record } = await whole();
    const random = randomNumbers(2027);
    const entries = await Promise.all(
      files.map(async ({ path, file }) => ({ path, bytes: new Uint8Array(await file.arrayBuffer()) })),
    );
    const seen = { read: 0, refused: 0 };
    const times: number[] = [];
    for (let count = 0; count < 10_000; count++) {
      // Mostly the description; occasionally a file, a name or a whole field.
      const which = count % 5 === 0 ? random(entries.length) : entries.length - 1;
      const mutant = entries.map(({ path, bytes }, index) => {
        if (index !== which) {
          return { path, file: new Blob([bytes]) };
        }
        const field = count % 5 === 1 ? mutatedField(record, random) : null;
        return {
          path: random(20) === 0 ? `${path}${random(10)}` : path,
          file: new Blob([field ?? mutate(bytes, random)]),
        };
      });
      const start = process.cpuUsage();
      try {
        const { record: read, entities } = await readRunFolder(mutant);
        seen.read += 1;
        expect(read.run_id).toMatch(/^run_[0-9]+_[0-9a-f]{6}$/);
        expect(entities.map(({ entity }) => entity.filename).join()).not.toContain('/');
        for (const { entity, blob } of entities) {
          expect(entity.sha256).toHaveLength(64);
          expect(blob).toBeInstanceOf(Blob);
        }
      } catch (error) {
        expectTyped(error);
        seen.refused += 1;
      }
      const { user, system } = process.cpuUsage(start);
      times.push((user + system) / 1000);
    }
    times.sort((a, b) => a - b);
    console.log(
      `project import: ${JSON.stringify(seen)}; median ${times[5_000].toFixed(2)} ms, 99.9 % within ${times[9_990].toFixed(2)} ms`,
    );
    expect(seen.read).toBeGreaterThan(100);
    expect(seen.refused).toBeGreaterThan(5_000);
    expect(times[9_990]).toBeLessThanOrEqual(50);
  });

  test('10,000 mutated metadata.json are a record or none, and any record comes back from its text', async () => {
    const { record } = await whole();
    const random = randomNumbers(2028);
    const bytes = new TextEncoder().encode(JSON.stringify(record, null, 2));
    const decoder = new TextDecoder();
    let records = 0;
    for (let count = 0; count < 10_000; count++) {
      const text = count % 3 === 0 ? mutatedField(record, random) : decoder.decode(mutate(bytes, random));
      const parsed = parseRecord(text);
      if (parsed) {
        records += 1;
        expect(parseRecord(JSON.stringify(parsed))).toEqual(parsed);
        expect(parsed.entities.every(({ filename }) => !filename.includes('/'))).toBe(true);
      }
    }
    expect(records).toBeGreaterThan(500);
    expect(records).toBeLessThan(9_000);
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.jsonValue(), (parameters, value) => {
        const one = {
          ...record,
          operation: { ...opening.operation, parameters },
          entities: record.entities.map((entity) => ({ ...entity, metadata: { value } })),
        };
        expect(JSON.stringify(parseRecord(JSON.stringify(one)))).toBe(JSON.stringify(one));
      }),
      { seed: 5, numRuns: 500 },
    );
  });

  /** The record's text with one value replaced. */
  function mutatedField(record: RunRecord, random: (below: number) => number): string {
    const copy = JSON.parse(JSON.stringify(record)) as unknown;
    const places: [Record<string, unknown>, string][] = [];
    const visit = (value: unknown) => {
      if (typeof value === 'object' && value !== null) {
        for (const [key, below] of Object.entries(value)) {
          places.push([value as Record<string, unknown>, key]);
          visit(below);
        }
      }
    };
    visit(copy);
    const [holder, key] = places[random(places.length)];
    const others = [null, true, -1, 0.5, 1e308, '', 'x', '../x', [], {}, [[]], { __proto__: null }, '\u0000', 2 ** 53];
    if (random(4) === 0) {
      delete holder[key];
    } else {
      holder[key] = others[random(others.length)];
    }
    return JSON.stringify(copy);
  }
});

describe('an end', () => {
  /** A run whose end is told while its metadata.json is still being written. */
  async function ending() {
    const written = deferred<void>();
    class HeldDisk extends Disk {
      isHeld = false;
      override async write(path: string, content: Blob | Uint8Array<ArrayBuffer>): Promise<void> {
        await (this.isHeld && path.endsWith('/metadata.json.part') && written.promise);
        await super.write(path, content);
      }
    }
    const [disk, locks, tick] = [new HeldDisk(), new MemoryLocks(), clock()];
    const [recorder, other] = [1, 2].map(() => new Recorder(disk, tick, { locks }));
    const run = await recorder.openRun(opening);
    await recorder.saveEntity(run, 'note', 'a');
    disk.isHeld = true;
    await recorder.closeRun(run, 'completed');
    const goOn = () => {
      disk.isHeld = false;
      written.resolve();
    };
    return { disk, recorder, other, run, goOn };
  }

  const ENDED = { current_state: { stage: 'completed' }, entities: [{ filename: '01_note.txt' }] };

  test('is told once the journal has it, and outlasts a crash from then on', async () => {
    const { disk, recorder, run, goOn } = await ending();
    const files = disk.snapshot();
    expect([...files.keys()].some((path) => path.endsWith('/metadata.json'))).toBe(false);
    const later = new Recorder(new Disk(files));
    expect(await later.readRun(run)).toMatchObject(ENDED);
    expect(JSON.parse(await (await later.readEntity(run, 'metadata.json')).text())).toMatchObject(ENDED);
    await expect(recorder.saveEntity(run, 'note', 'b')).rejects.toThrow('is open');
    goOn();
    await recorder.settled();
    expect([...disk.snapshot().keys()].some((path) => path.endsWith('/metadata.json'))).toBe(true);
  });

  test('is seen here and in other tabs before anything else follows from it', async () => {
    const { recorder, other, run, goOn } = await ending();
    expect(await recorder.readRun(run)).toMatchObject(ENDED);
    for (const file of ['01_note.txt', 'metadata.json']) {
      expect((await other.readEntity(run, file)).size).toBeGreaterThan(0);
    }
    expect(JSON.parse(await (await other.readEntity(run, 'metadata.json')).text())).toMatchObject(ENDED);
    expect(await other.readRun(run)).toMatchObject(ENDED);
    expect(await other.listRuns({ limit: 9 })).toMatchObject([ENDED]);
    expect(await other.findRuns({ limit: 9 })).toMatchObject([{ stage: 'completed', entities: 1 }]);
    // Its lock is still held, so nobody changes what is being written.
    await expect(other.starRun(run, true)).rejects.toMatchObject({ code: 'storage_unavailable' });
    goOn();
    await recorder.settled();
    await other.starRun(run, true);
    expect(await recorder.readRun(run)).toMatchObject({ ...ENDED, starred: true });
  });

  test.for<[string, (recorder: Recorder, run: string) => Promise<unknown>]>([
    ['starred', (recorder, run) => recorder.starRun(run, true)],
    ['deleted', (recorder, run) => recorder.deleteRun(run)],
    ['gone on with', (recorder, run) => recorder.resumeRun(run)],
    ['listed', (recorder) => recorder.listRuns({ limit: 9 })],
    ['found', (recorder) => recorder.findRuns({ limit: 9 })],
    ['judged by what is kept', (recorder) => recorder.setRetention({ keep: 'runs', runs: 1 })],
    ['described', (recorder, run) => recorder.readEntity(run, 'metadata.json')],
  ])('is written out before the run is %s', async ([, ask]) => {
    const { disk, recorder, other, run, goOn } = await ending();
    const order: string[] = [];
    disk.fault = (_operation, kind, path) => {
      if (kind === 'move' && path.endsWith('/metadata.json.part')) {
        order.push('described');
      }
      return null;
    };
    const asked = ask(recorder, run).then(() => order.push('answered'));
    // By then it could have answered many times.
    await other.readRun(run);
    await other.listRuns({ limit: 9 });
    goOn();
    await asked;
    expect(order[0]).toBe('described');
  });
});

describe('the run of a job', () => {
  const asked = { ...opening, job: 'job-1' };

  test('is the newest that it opened since it was submitted, as long as it is there', async () => {
    const tick = clock();
    const recorder = new Recorder(new Disk(), tick);
    const submitted = tick().getTime();
    expect(await recorder.runOf('job-1', submitted)).toBeNull();
    const first = await recorder.openRun(asked);
    await recorder.openRun({ ...opening, job: 'job-2' });
    await recorder.openRun(opening);
    expect(await recorder.runOf('job-1', submitted)).toBe(first);
    await recorder.closeRun(first, 'completed');
    expect(await recorder.runOf('job-1', submitted)).toBe(first);
    expect(await recorder.runOf('job-1', tick().getTime())).toBeNull();
    const second = await recorder.openRun(asked);
    expect(await recorder.runOf('job-1', submitted)).toBe(second);
    await recorder.deleteRun(second);
    expect(await recorder.runOf('job-1', submitted)).toBe(first);
    // It is the queue's own affair.
    expect(JSON.stringify(await recorder.listRuns({ limit: 9 }))).not.toContain('job-1');
    expect(JSON.stringify(await recorder.findRuns({ limit: 9 }))).not.toContain('job-1');
  });

  test('is found by a recorder whose worker died while it was opened', async () => {
    const recorder = new Recorder(new Disk(), () => NOON);
    const opened = recorder.openRun(asked);
    expect(await recorder.runOf('job-1', 0)).toBe(await opened);
  });

  test('is found wherever the tab that opened it was killed, after a restart and by another tab', async () => {
    const images: Image[] = [];
    const disk = new Disk();
    disk.watch = (image) => images.push(image);
    await new Recorder(disk, () => NOON).openRun(asked);
    let found = 0;
    for (const { files } of images) {
      const recorder = new Recorder(new Disk(files), () => NOON);
      const [run] = ids(await recorder.listRuns({ limit: 9 }));
      expect(await recorder.runOf('job-1', 0)).toBe((run as string | undefined) ?? null);
      found += Number(run !== undefined);
    }
    expect([found > 0, found < images.length]).toEqual([true, true]);

    // The index was never told of it, and the other tab has long looked through the folders.
    const [shared, locks] = [new Disk(), new MemoryLocks()];
    const other = new Recorder(shared, () => NOON, { locks });
    await other.listRuns({ limit: 9 });
    shared.fault = (_operation, _kind, path) => (path === 'exports/runs.index' ? { torn: false, error: FULL } : null);
    const run = await new Recorder(shared, () => NOON, { locks }).openRun(asked);
    shared.fault = null;
    expect(await other.runOf('job-1', 0)).toBe(run);
  });
});

describe('two tabs', () => {
  test('a run belongs to one of them, and the other one sees it', async () => {
    const [store, locks] = [new MemoryFileStore(), new MemoryLocks()];
    const [one, two] = [new Recorder(store, () => NOON, { locks }), new Recorder(store, () => NOON, { locks })];
    const run = await one.openRun(opening);
    await one.saveEntity(run, 'note', 'a');
    const [seen] = await two.listRuns({ limit: 9 });
    expect(seen).toEqual(await one.readRun(run));
    for (const change of [two.resumeRun(run), two.starRun(run, true), two.deleteRun(run)]) {
      await expect(change).rejects.toMatchObject({ code: 'storage_unavailable', message: /another tab/ });
    }
    await one.saveEntity(run, 'note', 'b');
    await one.closeRun(run, 'completed');
    await one.settled();
    expect((await two.readRun(run)).entities).toHaveLength(2);
    await two.deleteRun(run);
    expect(await one.listRuns({ limit: 9 })).toEqual([]);
  });

  test('runs that both record at once are in both lists, and in that of a third', async () => {
    const [store, locks] = [new MemoryFileStore(), new MemoryLocks()];
    const tick = clock();
    const tabs = [1, 2].map(() => new Recorder(store, tick, { locks }));
    const runs = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const tab = tabs[index % 2];
        const run = await tab.openRun(opening);
        await Promise.all(['a', 'b', 'c'].map((text) => tab.saveEntity(run, 'note', text)));
        await tab.closeRun(run, 'completed');
        return run;
      }),
    );
    for (const tab of [...tabs, new Recorder(store, tick, { locks })]) {
      const found = await tab.findRuns({ limit: 99 });
      expect(found.map(({ run_id }) => run_id).sort()).toEqual([...runs].sort());
      expect(found.every(({ entities, stage }) => entities === 3 && stage === 'completed')).toBe(true);
    }
  });

  test('one that the other opens while this one looks through the folders stays in the list', async () => {
    const runs: string[] = [];
    class ChangingStore extends MemoryFileStore {
      override async list(folder: string) {
        const seen = await super.list(folder);
        if (folder.split('/').length === 4 && runs.length === 1) {
          // Saving its own run, this one learns of the other's.
          runs.push(await other.openRun(opening));
          runs.push(await recorder.openRun(opening));
        }
        return seen;
      }
    }
    const [store, locks] = [new ChangingStore(), new MemoryLocks()];
    const [other, recorder] = [1, 2].map(() => new Recorder(store, () => NOON, { locks }));
    runs.push(await other.openRun(opening));
    await recorder.recover();
    expect(runs).toHaveLength(3);
    expect(ids(await recorder.listRuns({ limit: 9 })).sort()).toEqual(runs.sort());
  });

  test('earlier recordings outside of the bucket stay where they are, and new ones go into it', async () => {
    const [bucket, root] = [new MemoryFileStore(), new MemoryFileStore()];
    const tick = clock();
    const earlier = new Recorder(root, tick);
    const old = await earlier.openRun(opening);
    await earlier.saveEntity(old, 'note', 'old');
    const recorder = new Recorder(new UnitedFileStore(bucket, root), tick);
    const fresh = await recorder.openRun(opening);
    await recorder.saveEntity(fresh, 'note', 'new');
    expect(ids(await recorder.listRuns({ limit: 9 }))).toEqual([fresh, old]);
    await recorder.resumeRun(old);
    await recorder.saveEntity(old, 'note', 'more');
    await recorder.closeRun(old, 'completed');
    const day = 'exports/json/2026-03-04';
    const [device] = await root.list(day);
    expect((await root.list(`${day}/${device.name}/${old}`)).map(({ name }) => name).sort()).toEqual([
      '01_note.txt',
      '02_note.txt',
      'journal',
      'metadata.json',
    ]);
    expect(await bucket.list(`${day}/${device.name}/${old}`)).toEqual([]);
    expect((await bucket.list(`${day}/${device.name}/${fresh}`)).map(({ name }) => name).sort()).toEqual([
      '01_note.txt',
      'journal',
    ]);
    await recorder.deleteRun(old);
    await recorder.deleteRun(fresh);
    expect(await new Recorder(new UnitedFileStore(bucket, root)).listRuns({ limit: 9 })).toEqual([]);
    expect([...(await root.list('exports/json/2026-03-04')), ...(await bucket.list(day))]).toEqual([]);
  });
});

describe('the layout without journals (schema_version 1)', () => {
  const RUNS = [
    'run_1772625603000_e241b7',
    'run_1772625602000_9b4deb',
    'run_1772625601250_b3bbaf',
    'run_1772625600250_24ddac',
  ];

  test('is listed, searched and read as it is, and nothing of it is written to', async () => {
    const disk = await older();
    const before = disk.snapshot();
    const recorder = new Recorder(disk, () => NOON);
    const records = await recorder.listRuns({ limit: 9 });
    expect(ids(records)).toEqual(RUNS);
    expect(records.map(({ current_state }) => current_state.stage)).toEqual([
      'failed',
      'interrupted',
      'failed',
      'completed',
    ]);
    for (const record of records.slice(1)) {
      const path = [...before.keys()].find((name) => name.endsWith(`${record.run_id}/metadata.json`)) as string;
      const written = JSON.parse(Buffer.from(before.get(path) as Uint8Array).toString()) as RunRecord;
      const stage = written.current_state.stage === 'running' ? { stage: 'interrupted' } : written.current_state;
      expect(record).toEqual({ ...written, current_state: stage });
      expect(await recorder.readRun(record.run_id)).toEqual(record);
    }
    for (const { run_id, entities } of records) {
      for (const { filename, sha256 } of entities) {
        const bytes = new Uint8Array(await (await recorder.readEntity(run_id, filename)).arrayBuffer());
        expect(digest(bytes)).toBe(sha256 || digest(bytes));
      }
    }
    expect(records[0].entities).toHaveLength(3);
    expect((await recorder.findRuns({ limit: 9, text: 'circle completed' })).map(({ run_id }) => run_id)).toEqual([
      RUNS[3],
    ]);
    for (const [path, bytes] of before) {
      expect(disk.snapshot().get(path), path).toEqual(bytes);
    }
  });

  test.for(RUNS)('%s gets its journal when it goes on, and loses nothing', async (run) => {
    const disk = await older();
    const recorder = new Recorder(disk, () => NOON);
    const before = await recorder.readRun(run);
    await recorder.resumeRun(run);
    await recorder.saveEntity(run, 'output_image', new Blob([PNG]), { late: true });
    await recorder.starRun(run, true);
    await recorder.closeRun(run, 'completed');
    const after = await new Recorder(disk).readRun(run);
    expect(after).toMatchObject({ schema_version: 2, starred: true, current_state: { stage: 'completed' } });
    expect(after.operation).toEqual(before.operation);
    const filled = before.entities.map((entity) => ({
      ...entity,
      sha256: entity.sha256 || (expect.any(String) as string),
    }));
    expect(after.entities.slice(0, -1)).toEqual(filled);
    expect(after.entities.at(-1)).toMatchObject({ sequence: before.entities.length + 1, metadata: { late: true } });
    expect(after.lost).toBeUndefined();
  });

  test('starring, searching, deleting and what is kept work on migrated and unmigrated ones alike', async () => {
    const disk = await older();
    const recorder = new Recorder(disk, () => NOON);
    const found = async (text: string, starred?: boolean) =>
      (await recorder.findRuns({ limit: 9, text, ...(starred === undefined ? {} : { starred }) })).map(
        ({ run_id }) => run_id,
      );
    await recorder.starRun(RUNS[1], true);
    expect(await found('', true)).toEqual([RUNS[1]]);
    expect(await found('', false)).toEqual([RUNS[0], RUNS[2], RUNS[3]]);
    expect(await found(RUNS[1].slice(-6))).toEqual([RUNS[1]]);
    for (const reader of [recorder, new Recorder(disk, () => NOON)]) {
      expect(await reader.findRuns({ limit: 9 })).toMatchObject(
        [0, 1, 2, 3].map((index) => ({ run_id: RUNS[index], starred: index === 1 })),
      );
      expect((await reader.findRuns({ limit: 9 })).every(({ bytes }) => bytes > 0)).toBe(true);
      expect(await reader.findRuns({ limit: 9, text: 'circle completed' })).toMatchObject([
        { picture: expect.stringMatching(/_output_image\.png$/) as string },
      ]);
    }
    await recorder.deleteRun(RUNS[3]);
    await expect(recorder.readRun(RUNS[3])).rejects.toMatchObject({ code: 'invalid_operation' });
    // The starred one stays though it is the second, the unmigrated one goes.
    expect(await recorder.setRetention({ keep: 'runs', runs: 1 })).toEqual([RUNS[2]]);
    expect(ids(await new Recorder(disk, () => NOON).listRuns({ limit: 9 }))).toEqual([RUNS[0], RUNS[1]]);
  });

  test('an index of the version without pictures and names in it is read as it is', async () => {
    const { store, runs } = await recorded(['a', 'b']);
    const text = (await (await store.read('exports/runs.index'))?.text()) ?? '';
    const lines = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line.slice(9)) as { entry?: Record<string, unknown> });
    lines.forEach(({ entry }) => {
      delete entry?.picture;
      delete entry?.name;
    });
    const disk = new Disk(new Map([['exports/runs.index', new Uint8Array(Buffer.concat(encodeLines(lines)))]]));
    for (const run of runs) {
      const folder = (lines.find(({ entry }) => entry?.run_id === run)?.entry?.folder ?? '') as string;
      for (const { name } of await store.list(folder)) {
        await disk.write(`${folder}/${name}`, (await store.read(`${folder}/${name}`)) as Blob);
      }
    }
    const found = await new Recorder(disk).findRuns({ limit: 9, text: 'a' });
    expect(found).toMatchObject(
      [
        { picture: '', name: '', results: 1 },
        { picture: '', name: '' },
      ].slice(0, found.length),
    );
    expect(found.map(({ run_id }) => run_id)).toContain(runs[0]);
  });

  test('the migration broken off anywhere loses nothing', async () => {
    const points: Image[] = [];
    const disk = await older();
    disk.watch = (image) => points.push(image);
    await new Recorder(disk, () => NOON).starRun(RUNS[1], true);
    expect(points.length).toBeGreaterThan(20);
    for (const { files } of points) {
      const record = await new Recorder(new Disk(files), () => NOON).readRun(RUNS[1]);
      expect(record.current_state).toEqual({ stage: 'interrupted' });
      expect(record.entities.map(({ filename }) => filename)).toEqual([
        '01_input.json',
        '02_config.json',
        '03_output_image.png',
      ]);
      expect(record.entities[2].metadata).toMatchObject({ seed: '7' });
    }
  });
});

describe('the journal', () => {
  const entity = (sequence: number, text: string) => ({
    record: 'entity',
    sequence,
    type: 'note',
    filename: `${String(sequence).padStart(2, '0')}_note.txt`,
    length: text.length,
    sha256: digest(Buffer.from(text)),
    timestamp: NOON.toISOString(),
    metadata: { text },
  });
  const values = [
    {
      record: 'run',
      schema_version: 2,
      run_id: 'run_1772625600250_24ddac',
      timestamp: NOON.toISOString(),
      device_id: 'd',
      config_name: 'c',
      operation: null,
      expected_outputs: [],
    },
    ...Array.from({ length: 6 }, (_, index) => entity(index + 1, `note “${index}”\n`)),
    { record: 'state', stage: 'completed', timestamp: NOON.toISOString() },
  ];
  const whole = new Uint8Array(Buffer.concat(encodeLines(values)));

  test('comes back as it was written, whatever it says', () => {
    expect(decodeLines(whole)).toMatchObject({ values, length: whole.length });
    fc.assert(
      fc.property(fc.array(fc.jsonValue()), (said) => {
        const bytes = new Uint8Array(Buffer.concat(encodeLines(said)));
        expect(JSON.stringify(decodeLines(bytes).values)).toBe(JSON.stringify(said));
      }),
      { seed: 5, numRuns: 500 },
    );
  });

  test('10,000 mutated ones give a beginning of what was written, or a typed error', () => {
    const random = randomNumbers(2026);
    let shorter = 0;
    for (let count = 0; count < 10_000; count++) {
      const mutant = mutate(whole, random);
      const decoded = decodeLines(mutant);
      // Compared as text: asserting on ten thousand objects would take longer than the work.
      expect(JSON.stringify(decoded.values)).toBe(JSON.stringify(values.slice(0, decoded.values.length)));
      expect(Buffer.compare(mutant.subarray(0, decoded.length), whole.subarray(0, decoded.length))).toBe(0);
      shorter += Number(decoded.values.length < values.length);
      const state = runState(decoded.values);
      expect(state ? recordOf(state).entities.length : 0).toBe(Math.min(6, Math.max(0, decoded.values.length - 1)));
    }
    expect(shorter).toBeGreaterThan(8_000);
  });

  test('10,000 journals with other facts under good checksums give a run, none, or a typed error', () => {
    const anything = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(...values),
      fc.record({ record: fc.constantFrom('run', 'entity', 'state', 'star', 'deleted'), schema_version: fc.nat(4) }),
      fc
        .tuple(fc.constantFrom(...values), fc.string(), fc.jsonValue())
        .map(([value, key, other]) => ({ ...value, [key]: other })),
      fc
        .tuple(
          fc.constantFrom(...values),
          fc.constantFrom('filename', 'sequence', 'stage', 'schema_version'),
          fc.jsonValue(),
        )
        .map(([value, key, other]) => ({ ...value, [key]: other })),
    );
    fc.assert(
      fc.property(fc.constantFrom(values[0], null), fc.array(anything, { maxLength: 5 }), (first, others) => {
        let state;
        try {
          state = runState([first, ...others]);
        } catch (error) {
          expect(error).toBeInstanceOf(StudioError);
          return;
        }
        if (state) {
          const sequences = state.entities.map(({ sequence }) => sequence);
          expect(new Set(sequences).size).toBe(sequences.length);
          expect(state.entities.every(({ filename }) => !filename.includes('/'))).toBe(true);
        }
      }),
      { seed: 5, numRuns: 10_000 },
    );
  });
});

describe('faults', () => {
  test('at every operation of a session, what was reported is there: failures, crashes, torn writes, lost tails', async () => {
    const points = {
      fail: 0,
      'fail torn': 0,
      'fail for good': 0,
      crash: 0,
      torn: 0,
      'lost tail': 0,
      'torn tail': 0,
      recovery: 0,
    };

    // Crashes: keeps the disk's state at every operation and recovers it afterwards. Once more where no
    // metadata.json can be written, so that the journal stands alone.
    let operations = 0;
    for (const isDescribed of [true, false]) {
      const disk = new Disk();
      const session = new Session(disk);
      const images: { image: Image; told: Told }[] = [];
      disk.watch = (image) => images.push({ image, told: session.told() });
      disk.fault = (_operation, kind, path) =>
        !isDescribed && kind === 'write' && path.endsWith('/metadata.json.part') ? { torn: true, error: FULL } : null;
      await session.run();
      disk.watch = null;
      expect(session.errors).toEqual([]);
      for (const [index, { image, told }] of images.entries()) {
        points[image.mode] += 1;
        // For every seventh, recovery itself is interrupted at each of its own operations.
        const breakOff = isDescribed && index % 7 === 0;
        points.recovery += await expectRecovered(image.files, told, { breakOff });
      }
      operations ||= disk.operations;
    }

    // Failures: the session continues and reports what it could not do.
    for (const mode of ['fail', 'fail torn', 'fail for good'] as const) {
      for (let at = 1; at <= operations; at++) {
        const faulty = new Disk();
        const one = new Session(faulty);
        faulty.fault = (operation) => {
          const isNow = mode === 'fail for good' ? operation >= at : operation === at;
          return isNow ? { torn: mode === 'fail torn', error: FULL } : null;
        };
        await one.run();
        faulty.fault = null;
        points[mode] += 1;
        expect(one.errors.every((error) => error instanceof StudioError)).toBe(true);
        await expectRecovered(faulty.snapshot(), one.told(), { breakOff: false });
      }
    }
    const total = Object.values(points).reduce((sum, count) => sum + count, 0);
    console.log(
      `Recorder fail-at-k: ${operations} operations, ${total} points: ${JSON.stringify(points)}, 0 violations`,
    );
    expect(total - points.recovery).toBeGreaterThanOrEqual(2_000);
  }, 600_000);

  test('a recorder does what a simple model of it does, over random sessions with faults and crashes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
        const model = new Model();
        for (const one of steps) {
          await model.take(one);
        }
        await model.crash('crash');
        await model.compare();
      }),
      { seed: 11, numRuns: 150 },
    );
  }, 600_000);

  test('what completes a run is recorded with its end, or alone where there is room for no more', async () => {
    const disk = new Disk();
    const recorder = new Recorder(disk, () => NOON);
    const run = await recorder.openRun(opening);
    const png = new Uint8Array(await new Blob([PNG]).arrayBuffer());
    let flushes = 0;
    disk.fault = (_operation, kind, path) => {
      flushes += Number(kind === 'flush' && path.endsWith('/journal'));
      return null;
    };
    // Bytes are those of a file.
    expect(await recorder.saveLast(run, 'output_image', png)).toMatchObject({ filename: '01_output_image.png' });
    expect(flushes).toBe(1);
    expect(await new Recorder(new Disk(disk.snapshot())).readRun(run)).toMatchObject({
      current_state: { stage: 'completed' },
      entities: [{ filename: '01_output_image.png' }],
    });

    const asked: string[] = [];
    const full = new StudioError('storage_full', 'The disk is full.');
    const narrow = {
      openRun: () => Promise.resolve(run),
      saveLast: () => Promise.reject(full),
      saveEntity: (_run: string, type: string) => {
        asked.push(`save ${type}`);
        return Promise.resolve({ run, type, filename: '01_output_image.png' });
      },
      closeRun: (_run: string, stage: string) => Promise.resolve(asked.push(`close ${stage}`)),
    };
    const recorded = new RecordedRun(
      narrow as unknown as ConstructorParameters<typeof RecordedRun>[0],
      { send: () => undefined } as unknown as ConstructorParameters<typeof RecordedRun>[1],
    );
    await recorded.open(opening);
    expect(await recorded.recordLast('output_image', png, {})).toBe('01_output_image.png');
    await recorded.close();
    expect(asked).toEqual(['save output_image', 'close completed']);
  });

  test('a number is not given again while its file may be there', async () => {
    const disk = new Disk();
    const recorder = new Recorder(disk, () => NOON);
    const run = await recorder.openRun(opening);
    let failing = false;
    disk.fault = (_operation, kind, path) => {
      // The journal can neither be flushed nor truncated.
      const isIt = path.endsWith('/journal') && (kind === 'flush' || kind === 'truncate');
      return failing && isIt ? { torn: false, error: FULL } : null;
    };
    failing = true;
    await expect(recorder.saveEntity(run, 'note', 'lost')).rejects.toMatchObject({ code: 'storage_full' });
    failing = false;
    expect((await recorder.saveEntity(run, 'note', 'kept')).sequence).toBe(2);
    const record = await new Recorder(new Disk(disk.snapshot())).readRun(run);
    expect(record.entities.map(({ filename }) => filename)).toEqual(['02_note.txt']);
  });

  test('a disk that is full in the middle of a sound says so; what was recorded is whole, and the same sound is recorded when there is room', async () => {
    const disk = new Disk();
    const recorder = new Recorder(disk, () => NOON);
    const run = await recorder.openRun(opening);
    await recorder.saveEntity(run, 'output_text', 'a bell');
    const sound = new Blob(['RIFF\0\0\0\0WAVEfmt ', new Uint8Array(100_000)], { type: 'audio/wav' });
    disk.fault = (_operation, kind, path) =>
      kind === 'write' && path.includes('output_audio') ? { torn: true, error: FULL } : null;
    await expect(recorder.saveEntity(run, 'output_audio', sound)).rejects.toMatchObject({
      code: 'storage_full',
      message: expect.stringContaining('What is recorded so far is kept.') as string,
    });
    disk.fault = null;
    const { filename } = await recorder.saveEntity(run, 'output_audio', sound);
    await recorder.closeRun(run, 'completed');
    const later = new Recorder(new Disk(disk.snapshot()));
    const { entities } = await later.readRun(run);
    expect(entities.map(({ type }) => type)).toEqual(['output_text', 'output_audio']);
    expect(filename).toMatch(/^[0-9]+_output_audio\.wav$/);
    expect((await later.readEntity(run, filename)).size).toBe(sound.size);
  });

  test('a full disk says so, says that nothing is lost, and the run goes on when there is room', async () => {
    const disk = new Disk();
    const recorder = new Recorder(disk, () => NOON);
    const run = await recorder.openRun(opening);
    await recorder.saveEntity(run, 'note', 'a');
    disk.fault = () => ({ torn: true, error: FULL });
    await expect(recorder.saveEntity(run, 'note', 'b')).rejects.toMatchObject({
      code: 'storage_full',
      message: expect.stringMatching(/^[^.]+\. What is recorded so far is kept\.$/) as string,
    });
    await expect(recorder.closeRun(run, 'failed')).rejects.toMatchObject({ code: 'storage_full' });
    disk.fault = () => ({ torn: true, error: new Error('The disk is on fire.') });
    await expect(recorder.saveEntity(run, 'note', 'b')).rejects.toMatchObject({ code: 'storage_unavailable' });
    disk.fault = null;
    expect(await recorder.saveEntity(run, 'note', 'c')).toMatchObject({ sequence: 4 });
    // The run's end is written as soon as another run is opened.
    await recorder.openRun(opening);
    expect((await recorder.readRun(run)).current_state).toEqual({ stage: 'failed' });
  });
});

test('10,000 runs are listed and searched from the index', async () => {
  const store = new MemoryFileStore();
  const tick = clock();
  const writer = new Recorder(store, tick);
  const COUNT = 10_000;
  const device = '4a1402cd-a7cc-4f3e-ba83-84b3d5fcf300';
  await store.write('device_id.txt', new Blob([device]));
  const lines: unknown[] = [{ record: 'index', id: '0123456789abcdef' }];
  const first = await writer.openRun(opening);
  await writer.closeRun(first, 'completed');
  const [known] = await writer.findRuns({ limit: 1 });
  const folders = new Map<string, { name: string; kind: 'file' | 'folder' }[]>();
  for (let index = 0; index < COUNT; index++) {
    const day = new Date(Date.UTC(2025, 0, 1 + (index % 300))).toISOString().slice(0, 10);
    const run_id = `run_${1_735_700_000_000 + index * 60_000}_${index.toString(16).padStart(6, '0')}`;
    const folder = `exports/json/${day}/${device}/${run_id}`;
    const parent = `exports/json/${day}/${device}`;
    folders.set(parent, [...(folders.get(parent) ?? []), { name: run_id, kind: 'folder' }]);
    const prompt = `${['a red circle', 'two blue squares', 'a green star'][index % 3]} number ${index}, oil on canvas`;
    lines.push({ record: 'put', entry: { ...known, pictures: known.results, run_id, folder, prompt, due: false } });
  }
  /** The folders are only listed: opening one would be noticed. */
  class Named extends MemoryFileStore {
    opened = 0;
    override async list(path: string) {
      const names = path === 'exports/json' ? new Set([...folders.keys()].map((parent) => parent.split('/')[2])) : null;
      const own = await super.list(path);
      if (names) {
        return [...names].map((name) => ({ name, kind: 'folder' as const }));
      }
      const day = folders.has(`${path}/${device}`) ? [{ name: device, kind: 'folder' as const }] : own;
      this.opened += Number(path.includes('/run_'));
      return folders.get(path) ?? day;
    }
  }
  const named = new Named();
  await named.write('exports/runs.index', new Blob(encodeLines(lines)));
  const recorder = new Recorder(named, tick);
  /** The last answer, and the median milliseconds per call. */
  const timed = async <T>(times: number, work: () => Promise<T>): Promise<{ ms: number; result: T }> => {
    const taken: number[] = [];
    let result: T;
    do {
      const start = performance.now();
      result = await work();
      taken.push(performance.now() - start);
    } while (taken.length < times);
    return { ms: Math.round(taken.sort((a, b) => a - b)[Math.floor(times / 2)]), result };
  };
  const start = await timed(1, () => recorder.recover());
  const all = await timed(7, () => recorder.findRuns({ limit: COUNT }));
  const found = await timed(7, () => recorder.findRuns({ limit: COUNT, text: 'green 99' }));
  const opened = named.opened;
  console.log(`${COUNT} recorded runs: start ${start.ms} ms, list ${all.ms} ms, search ${found.ms} ms`);
  expect(all.result).toHaveLength(COUNT);
  expect(all.result[0].run_id > all.result[1].run_id).toBe(true);
  expect(found.result.length).toBeGreaterThan(10);
  expect(found.result.every(({ prompt }) => prompt.includes('green'))).toBe(true);
  expect(opened).toBe(0);
  // A generous bound; they usually take a hundredth of it.
  expect(all.ms).toBeLessThanOrEqual(200);
  expect(found.ms).toBeLessThanOrEqual(200);
});

test('an index that is missing, torn or wrong is made anew from the folders', async () => {
  const { store, runs } = await recorded(['a', 'b', 'c']);
  const bytes = new Uint8Array((await (await store.read('exports/runs.index'))?.arrayBuffer()) as ArrayBuffer);
  const random = randomNumbers(7);
  const broken = [
    new Uint8Array(0),
    bytes.slice(0, bytes.length / 2),
    ...Array.from({ length: 200 }, () => mutate(bytes, random)),
  ];
  for (const index of broken) {
    await store.write('exports/runs.index', new Blob([index]));
    expect(ids(await new Recorder(store).listRuns({ limit: 9 }))).toEqual([...runs].reverse());
    expect((await new Recorder(store).findRuns({ limit: 9, text: 'b' })).map(({ run_id }) => run_id)).toContain(
      runs[1],
    );
  }
  await store.remove('exports/runs.index');
  expect(ids(await new Recorder(store).listRuns({ limit: 9 }))).toEqual([...runs].reverse());
});

describe('runs that the browser has lost', () => {
  /** Folders disappear as after a kill: nobody deleted them. */
  async function lose(store: FileStore, recorder: Recorder, run: string): Promise<void> {
    const { device_id } = await recorder.readRun(run);
    const day = (await store.list('exports/json'))[0].name;
    await store.remove(`exports/json/${day}/${device_id}/${run}`);
  }

  test('are listed apart, with how they were made and what they looked like, until they are dismissed or back', async () => {
    const store = new MemoryFileStore();
    const thumbnail = () => Promise.resolve('data:image/webp;base64,AAAA');
    const recorder = new Recorder(store, () => NOON, { thumbnail });
    const [kept, lost, other] = [
      await recorder.openRun(opening),
      await recorder.openRun(opening),
      await recorder.openRun(opening),
    ];
    for (const run of [kept, lost, other]) {
      await recorder.saveEntity(run, 'output_image', new Blob([PNG]));
      await recorder.closeRun(run, 'completed');
    }
    await vi.waitFor(async () => {
      const index = (await (await store.read('exports/runs.index'))?.text()) ?? '';
      expect(index.match(/data:image/g)).toHaveLength(3);
    });
    await lose(store, recorder, lost);
    await lose(store, recorder, other);

    const later = new Recorder(store);
    expect(ids(await later.listRuns({ limit: 9 }))).toEqual([kept]);
    expect((await later.findRuns({ limit: 9 })).map(({ run_id }) => run_id)).toEqual([kept]);
    const told = await later.lostRuns();
    expect(told.map(({ run_id }) => run_id).sort()).toEqual([lost, other].sort());
    expect(told[0]).toMatchObject({ operation: opening.operation, thumbnail: await thumbnail(), results: 1 });
    await expect(later.readRun(lost)).rejects.toThrow('no recorded run');
    await later.forgetLost([lost, kept]);
    const last = new Recorder(store);
    expect((await last.lostRuns()).map(({ run_id }) => run_id)).toEqual([other]);
    expect(ids(await last.listRuns({ limit: 9 }))).toEqual([kept]);
  });

  test('are not those that were deleted, however that was broken off, nor those that cannot be reached just now', async () => {
    const { store, runs } = await recorded(['a', 'b', 'c']);
    const recorder = new Recorder(store);
    await recorder.deleteRun(runs[0]);
    await lose(store, recorder, runs[1]);
    const partly = new Recorder(store, undefined, { isWhole: false });
    await partly.recover();
    expect(await partly.lostRuns()).toEqual([]);
    const index = (await (await store.read('exports/runs.index'))?.text()) ?? '';
    const told = await new Recorder(store).lostRuns();
    expect(told.map(({ run_id }) => run_id)).toEqual([runs[1]]);
    expect(told[0].operation).toMatchObject({ config: 'stable_diffusion' });
    // The folder is already gone, but the line that says so was not yet written.
    const lines = index.trimEnd().split('\n');
    const before = lines.slice(
      0,
      lines.findIndex((line) => line.includes('"drop"')),
    );
    await store.write('exports/runs.index', new Blob([`${before.join('\n')}\n`]));
    expect((await new Recorder(store).lostRuns()).map(({ run_id }) => run_id)).toEqual([runs[1]]);
  });

  test('of which the folder is found again are runs like any other', async () => {
    const { store, runs } = await recorded(['a']);
    const folder = `exports/json/${(await store.list('exports/json'))[0].name}`;
    const device = (await store.list(folder))[0].name;
    const path = `${folder}/${device}/${runs[0]}`;
    const files = await Promise.all(
      (await store.list(path)).map(async ({ name }) => [name, (await store.read(`${path}/${name}`)) as Blob] as const),
    );
    await store.remove(path);
    expect(await new Recorder(store).lostRuns()).toHaveLength(1);
    for (const [name, file] of files) {
      await store.write(`${path}/${name}`, file);
    }
    const again = new Recorder(store);
    expect(await again.lostRuns()).toEqual([]);
    expect(ids(await again.listRuns({ limit: 9 }))).toEqual(runs);
  });
});

/** As written by the version before journals: a completed, a failed and a running run, and one with a torn metadata.json. */
async function older() {
  const root = join(import.meta.dirname, 'recordings', 'layout_1');
  const disk = new Disk();
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name);
      await disk.write(relative(root, path).replaceAll('\\', '/'), new Blob([readFileSync(path)]));
    }
  }
  return disk;
}

/** What the recorder had reported to a session by some moment. */
interface Told {
  saved: Entity[];
  ended: Map<string, string>;
  starred: Set<string>;
  /** Deletion was requested: from then on it may be there or not. */
  leaving: Set<string>;
  deleted: Set<string>;
}

/** Eight runs in two tabs with everything that can happen to runs. Failures are noted, and the session continues. */
class Session {
  readonly errors: unknown[] = [];
  readonly #told: Told = {
    saved: [],
    ended: new Map(),
    starred: new Set(),
    leaving: new Set(),
    deleted: new Set(),
  };
  readonly #disk: Disk;

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  told(): Told {
    const { saved, ended, starred, leaving, deleted } = this.#told;
    return {
      saved: [...saved],
      ended: new Map(ended),
      starred: new Set(starred),
      leaving: new Set(leaving),
      deleted: new Set(deleted),
    };
  }

  async run(): Promise<void> {
    const locks = new MemoryLocks();
    const tick = clock();
    const tabs = [1, 2].map(() => new Recorder(this.#disk, tick, { locks }));
    const runs: (string | undefined)[] = [];
    for (let index = 0; index < 8; index++) {
      const tab = tabs[index % 2];
      const run = await this.#try(() => tab.openRun(opening));
      runs.push(run);
      if (run === undefined) {
        continue;
      }
      for (let entity = 0; entity < 4; entity++) {
        const content = [{ a: index }, 'text', new Blob([PNG]), new Blob(['x'.repeat(300 + index)])][entity];
        const isLast = index % 4 === 2 && entity === 3;
        const save = () => tab[isLast ? 'saveLast' : 'saveEntity'](run, `thing_${entity}`, content, { index, entity });
        const saved = await this.#try(save);
        if (saved) {
          this.#told.saved.push(saved);
          if (isLast) {
            this.#told.ended.set(run, 'completed');
          }
        }
      }
      // Two runs stay open, as in a tab that is closed.
      if (index % 4 !== 3 && !this.#told.ended.has(run)) {
        await this.#end(tab, run, index % 2 === 0 ? 'completed' : 'failed');
      }
    }
    const [first, second, third] = runs;
    if (first && this.#told.ended.has(first)) {
      await this.#try(() => tabs[1].starRun(first, true).then(() => this.#told.starred.add(first)));
    }
    if (second && this.#told.ended.has(second)) {
      const before = this.#told.ended.get(second) as string;
      this.#told.ended.delete(second);
      const resumed = await this.#try(() => tabs[0].resumeRun(second));
      if (resumed) {
        const saved = await this.#try(() => tabs[0].saveEntity(second, 'late', 'text'));
        if (saved) {
          this.#told.saved.push(saved);
        }
        await this.#end(tabs[0], second, 'cancelled');
      } else {
        expect(before).toBe('failed');
      }
    }
    if (third && this.#told.ended.has(third)) {
      this.#told.leaving.add(third);
      await this.#try(() => tabs[1].deleteRun(third).then(() => this.#told.deleted.add(third)));
    }
  }

  async #end(tab: Recorder, run: string, stage: 'completed' | 'failed' | 'cancelled'): Promise<void> {
    await this.#try(() => tab.closeRun(run, stage).then(() => this.#told.ended.set(run, stage)));
  }

  async #try<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.errors.push(error);
      return undefined;
    }
  }
}

/** Recovers a disk as it was left, checks it against what was reported, and counts interrupted recoveries. */
async function expectRecovered(
  files: Map<string, Uint8Array>,
  told: Told,
  { breakOff }: { breakOff: boolean },
): Promise<number> {
  const disk = new Disk(files);
  const images: Image[] = [];
  if (breakOff) {
    disk.watch = (image) => images.push(image);
  }
  const records = await new Recorder(disk, () => NOON).listRuns({ limit: 99 });
  disk.watch = null;
  expectTold(disk, records, told);

  const recovered = disk.snapshot();
  expect(await new Recorder(disk, () => NOON).listRuns({ limit: 99 })).toEqual(records);
  expect(apartFromIndex(disk.snapshot())).toEqual(apartFromIndex(recovered));

  for (const image of images) {
    const again = new Disk(image.files);
    expect(await new Recorder(again, () => NOON).listRuns({ limit: 99 })).toEqual(records);
    expect(apartFromIndex(again.snapshot())).toEqual(apartFromIndex(recovered));
  }
  return images.length;
}

function expectTold(disk: Disk, records: RunRecord[], told: Told): void {
  const files = disk.snapshot();
  for (const path of files.keys()) {
    expect(path).not.toMatch(/\.(part|crswap)$/);
  }
  const byRun = new Map(records.map((record) => [record.run_id, record]));
  for (const { run, ...entity } of told.saved) {
    if (!told.leaving.has(run)) {
      expect(byRun.get(run)?.entities).toContainEqual(entity);
    }
  }
  for (const [run, stage] of told.ended) {
    if (!told.leaving.has(run)) {
      expect(byRun.get(run)?.current_state.stage).toBe(stage);
    }
  }
  for (const run of told.starred) {
    expect(byRun.get(run)?.starred).toBe(true);
  }
  for (const run of told.deleted) {
    expect(byRun.has(run)).toBe(false);
  }
  for (const record of records) {
    expect(record.current_state.stage).not.toBe('running');
    expect(record.lost).toBeUndefined();
    const sequences = record.entities.map(({ sequence }) => sequence);
    expect(new Set(sequences).size).toBe(sequences.length);
    const folder =
      [...files.keys()].find((path) => path.endsWith(`/${record.run_id}/metadata.json`))?.slice(0, -14) ?? '';
    const described = JSON.parse(Buffer.from(files.get(`${folder}/metadata.json`) as Uint8Array).toString()) as object;
    expect(described).toEqual({ ...record, journal_length: files.get(`${folder}/journal`)?.length });
    const stored = [...files.keys()]
      .filter((path) => path.startsWith(`${folder}/`))
      .map((path) => path.slice(folder.length + 1));
    const listed = record.entities.map(({ filename }) => filename);
    expect(stored.sort()).toEqual([...listed, 'journal', 'metadata.json'].sort());
    for (const { filename, sha256 } of record.entities) {
      expect(digest(files.get(`${folder}/${filename}`) as Uint8Array)).toBe(sha256);
    }
  }
}

function apartFromIndex(files: Map<string, Uint8Array>): [string, string][] {
  return [...files]
    .filter(([path]) => path !== 'exports/runs.index')
    .map(([path, bytes]): [string, string] => [path, digest(bytes)])
    .sort(([a], [b]) => Number(a > b) - Number(a < b));
}

type Step =
  | { do: 'open' | 'restart' | 'list' }
  | { do: 'save' | 'saveLast' | 'end' | 'star' | 'delete' | 'resume'; which: number; text: string }
  | { do: 'fault'; after: number; torn: boolean }
  | { do: 'crash'; mode: CrashMode; at: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('open' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('restart' as const, 'list' as const) }) },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'save' as const,
        'save' as const,
        'saveLast' as const,
        'end' as const,
        'star' as const,
        'delete' as const,
        'resume' as const,
      ),
      which: fc.nat(3),
      text: fc.string({ maxLength: 20 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('fault' as const), after: fc.nat(12), torn: fc.boolean() }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('crash' as const),
      mode: fc.constantFrom<CrashMode>('crash', 'torn', 'lost tail', 'torn tail'),
      at: fc.nat(12),
    }),
  },
);

/** The simplest possible model of a recorder's promises, run beside a real one. */
class Model {
  #disk = new Disk();
  #recorder: Recorder;
  readonly #tick = clock();
  readonly #runs = new Map<
    string,
    { open: boolean; saved: Map<string, string>; stage: string | null; starred: boolean | null; gone: boolean | null }
  >();

  constructor() {
    this.#recorder = new Recorder(this.#disk, this.#tick);
  }

  async take(one: Step): Promise<void> {
    switch (one.do) {
      case 'fault': {
        const at = this.#disk.operations + 1 + one.after;
        this.#disk.fault = (operation) => (operation === at ? { torn: one.torn, error: FULL } : null);
        return;
      }
      case 'crash': {
        // The next save is interrupted halfway.
        const at = this.#disk.operations + 1 + one.at;
        const disk = this.#disk;
        const seen: { found: Image | null } = { found: null };
        disk.watch = (image) => {
          if (disk.operations === at && (image.mode === one.mode || image.mode === 'crash')) {
            seen.found = image;
          }
        };
        const [run] = [...this.#runs].find(([, { open }]) => open) ?? [];
        if (run !== undefined) {
          await this.#recorder.saveEntity(run, 'dying', 'x').catch(() => null);
        }
        disk.watch = null;
        await this.crash(one.mode, seen.found?.files);
        return;
      }
      case 'restart':
        return this.crash('crash');
      case 'list':
        await this.#recorder.listRuns({ limit: 99 }).catch(expectTyped);
        return;
      case 'open': {
        const run = await this.#recorder.openRun(opening).catch(expectTyped);
        if (run) {
          this.#runs.set(run, { open: true, saved: new Map(), stage: null, starred: false, gone: false });
        }
        return;
      }
      default:
        return this.#change(one);
    }
  }

  /** Memory is lost; the disk is as it is now, or as it was at that moment. */
  crash(_mode: CrashMode, files = this.#disk.snapshot()): Promise<void> {
    this.#disk = new Disk(files);
    this.#recorder = new Recorder(this.#disk, this.#tick);
    for (const known of this.#runs.values()) {
      known.open = false;
    }
    return Promise.resolve();
  }

  async compare(): Promise<void> {
    const records = await this.#recorder.listRuns({ limit: 999 });
    const byRun = new Map(records.map((record) => [record.run_id, record]));
    for (const [run, known] of this.#runs) {
      const record = byRun.get(run);
      if (known.gone === false) {
        expect(record).toBeDefined();
      } else if (known.gone) {
        expect(record).toBeUndefined();
      }
      if (!record || known.gone === null) {
        continue;
      }
      for (const [filename, text] of known.saved) {
        expect(await (await this.#recorder.readEntity(run, filename)).text()).toBe(text);
      }
      expect(record.entities.map(({ filename }) => filename)).toEqual(expect.arrayContaining([...known.saved.keys()]));
      if (known.stage !== null) {
        expect(record.current_state.stage).toBe(known.stage);
      }
      if (known.starred !== null) {
        expect(record.starred).toBe(known.starred);
      }
    }
  }

  async #change(one: Extract<Step, { which: number }>): Promise<void> {
    const living = [...this.#runs].filter(([, { gone }]) => gone === false);
    const [run, known] = living[living.length - 1 - (one.which % Math.max(1, living.length))] ?? [];
    if (run === undefined || !known) {
      return;
    }
    const recorder = this.#recorder;
    switch (one.do) {
      case 'save': {
        const saved = known.open ? await recorder.saveEntity(run, 'note', one.text).catch(expectTyped) : null;
        if (saved) {
          expect(known.saved.has(saved.filename)).toBe(false);
          known.saved.set(saved.filename, one.text);
        }
        return;
      }
      case 'saveLast': {
        const saved = known.open ? await recorder.saveLast(run, 'note', one.text).catch(expectTyped) : null;
        if (saved) {
          expect(known.saved.has(saved.filename)).toBe(false);
          known.saved.set(saved.filename, one.text);
          known.open = false;
          known.stage = 'completed';
        }
        return;
      }
      case 'end':
        if (known.open) {
          // A failed operation may or may not have happened.
          known.stage = null;
          await recorder.closeRun(run, 'completed').then(() => {
            known.open = false;
            known.stage = 'completed';
          }, expectTyped);
        }
        return;
      case 'resume':
        known.stage = null;
        await recorder.resumeRun(run).then(() => {
          known.open = true;
        }, expectTyped);
        return;
      case 'star': {
        const wanted = known.starred !== true;
        known.starred = null;
        await recorder.starRun(run, wanted).then(() => {
          known.starred = wanted;
        }, expectTyped);
        return;
      }
      case 'delete':
        known.gone = null;
        known.open = false;
        await recorder.deleteRun(run).then(() => {
          known.gone = true;
        }, expectTyped);
    }
  }
}

function expectTyped(error: unknown): null {
  expect(error).toBeInstanceOf(StudioError);
  return null;
}

/** Ended runs of these prompts, each with one picture, a second apart. */
async function recorded(prompts: string[]) {
  const [store, locks, tick] = [new MemoryFileStore(), new MemoryLocks(), clock()];
  const recorder = new Recorder(store, tick, { locks });
  const runs: string[] = [];
  for (const prompt of prompts) {
    const operation = { ...opening.operation, parameters: { prompt } };
    const run = await recorder.openRun({ ...opening, operation });
    await recorder.saveEntity(run, 'output_image', new Blob([PNG]));
    await recorder.closeRun(run, 'completed');
    runs.push(run);
  }
  await recorder.settled();
  return { store, recorder, runs, locks, tick };
}

/** Every reading is a second later. */
function clock(): () => Date {
  let now = NOON.getTime();
  return () => new Date((now += 1000));
}

function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** The bytes after one to three accidents: changed, truncated, removed, repeated, swapped, followed by garbage. */
function mutate(bytes: Uint8Array, random: (below: number) => number): Uint8Array<ArrayBuffer> {
  let mutant = new Uint8Array(bytes);
  for (let accidents = 1 + random(3); accidents > 0; accidents--) {
    const at = random(mutant.length + 1);
    const to = at + random(Math.min(200, mutant.length - at) + 1);
    const pieces = [mutant.subarray(0, at), mutant.subarray(at, to), mutant.subarray(to)];
    switch (random(6)) {
      case 0:
        mutant[Math.min(at, mutant.length - 1)] ^= 1 << random(8);
        break;
      case 1:
        mutant = mutant.slice(0, at);
        break;
      case 2:
        mutant = new Uint8Array(Buffer.concat([pieces[0], pieces[2]]));
        break;
      case 3:
        mutant = new Uint8Array(Buffer.concat([pieces[0], pieces[1], pieces[1], pieces[2]]));
        break;
      case 4:
        mutant = new Uint8Array(Buffer.concat([pieces[0], pieces[2], pieces[1]]));
        break;
      default:
        mutant = new Uint8Array(
          Buffer.concat([mutant, Uint8Array.from({ length: 1 + random(50) }, () => random(256))]),
        );
    }
  }
  return mutant;
}

async function open() {
  const store = new MemoryFileStore();
  const recorder = new Recorder(store, () => NOON);
  const run = await recorder.openRun(opening);
  const [device] = await store.list('exports/json/2026-03-04');
  return { store, recorder, run, folder: `exports/json/2026-03-04/${device?.name}/${run}` };
}

/** Names the content of any test data in one word. */
function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function json(store: FileStore, path: string): Promise<unknown> {
  return JSON.parse((await (await store.read(path))?.text()) ?? 'null');
}

function ids(runs: RunRecord[]): string[] {
  return runs.map(({ run_id }) => run_id);
}
