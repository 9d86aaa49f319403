/**
 * Keeps a killed browser from losing what is stored afterwards.
 * Chromium keeps the directory of the private file system, all of IndexedDB, and localStorage in LevelDB, and each session appends to the
 * previous session's log. A kill between the two writes of one log record leaves a torn record at the log's end. The next session ignores
 * it, writes after it, and everything works; but the session after that takes the new records for the rest of the torn one. For files it
 * drops the rest of that 32 KiB block: folders and files created there are gone with their content. For IndexedDB it discards the origin's
 * whole database: weights, queue and settings. `durability: 'strict'` changes nothing.
 * (Measured with Chromium 156; about one kill in 180 while recording. `docs/chromium-torn-log.md` shows it to order.)
 *
 * So before a session stores anything, it moves past the torn record:
 * - Files: create and remove {@link PADS} folders with long names, which fills slightly more than one block of the log with records nobody
 * misses (36 kB, 25 ms).
 * - IndexedDB: deleting a database makes Chromium compact its keys, for which it starts a new log and deletes the old one, torn end and
 * all (5 ms; otherwise 7 MB would have to be written until it does so by itself). An empty database is kept for that purpose, since anything
 * written before the deletion is lost with everything else if the browser is killed again just then.
 * - localStorage: a value longer than a block replaces the previous one. Only that session's settings can be lost there, not earlier ones;
 * settings made in the same few seconds share its record, since nothing reports when it is written.
 * There is no way to know whether the last session ended cleanly: at best a page learns of its own end, not of its browser's later writes.
 * So it is done unless another live tab or worker of this origin has seen it done, which each of them shows by holding a lock.
 */

import type { Place } from './private_files.ts';

/** Some versions refuse longer names. */
const LONGEST_NAME = 250;
/** Creating and removing a folder with such a name adds 990 bytes to the log. */
const PADS = 36;
const PAD = '.passing-torn-log-';

const EMPTY_DATABASE = 'darkroom-torn-log';

/** Longer than a block of the log; each character takes a byte. */
const PADDING = 34_000;
const PADDED_KEY = 'darkroom.passing-torn-log';

const passed = new Map<string, Promise<void>>();

/** Resolves once it is safe to store in IndexedDB; never rejects. */
export function databaseIsSafe(): Promise<void> {
  return once('database', passInDatabase);
}

/** Resolves once it is safe to store files under `root`; never rejects. */
export function filesAreSafe(place: Place, root: FileSystemDirectoryHandle): Promise<void> {
  return once(`files:${place}`, () => passInFiles(root));
}

/**
 * Moves localStorage past a torn record. Never rejects.
 * @param storage which workers do not have
 */
export function passLocalStorage(storage: { setItem(key: string, value: string): void }): Promise<void> {
  // An unchanged value would not be written.
  const pass = () => storage.setItem(PADDED_KEY, `${Date.now()}`.padEnd(PADDING, 'x'));
  return once('localStorage', () => Promise.resolve().then(pass));
}

/**
 * Does it again for IndexedDB: before storing a lot, and after losing a connection, since the process behind it may have been killed while
 * the page lived on.
 */
export function databaseIsSafeAgain(): Promise<void> {
  const done = inTurn('database', passInDatabase, true);
  passed.set('database', done);
  return done;
}

function once(place: string, pass: () => Promise<void>): Promise<void> {
  let done = passed.get(place);
  if (!done) {
    done = inTurn(place, pass, false);
    passed.set(place, done);
  }
  return done;
}

async function inTurn(place: string, pass: () => Promise<void>, anew: boolean): Promise<void> {
  if (!isChromium()) {
    return;
  }
  // Whoever stores something will report a full disk or refused storage.
  const attempt = () => pass().catch(() => undefined);
  const { locks } = navigator as { locks?: LockManager };
  if (!locks) {
    await attempt();
    return;
  }
  const mark = `darkroom:past-torn-log:${place}`;
  await locks
    .request(`${mark}:turn`, async () => {
      const { held = [] } = await locks.query();
      if (anew || !held.some(({ name }) => name === mark)) {
        await attempt();
      }
      await holdForLife(locks, mark);
    })
    // A document being unloaded gets no more locks, and stores nothing.
    .catch(() => undefined);
}

/** Other browsers store differently and do not need this. */
function isChromium(): boolean {
  return globalThis.navigator !== undefined && 'userAgentData' in navigator;
}

/** The lock ends with this tab or worker. */
function holdForLife(locks: LockManager, name: string): Promise<void> {
  return new Promise((held, refused) => {
    locks
      .request(name, { mode: 'shared' }, () => {
        held();
        return new Promise<never>(() => {});
      })
      .catch(refused);
  });
}

async function passInFiles(root: FileSystemDirectoryHandle): Promise<void> {
  // Left over from an interrupted pass.
  for await (const name of root.keys()) {
    if (name.startsWith(PAD)) {
      await root.removeEntry(name);
    }
  }
  const names = Array.from({ length: PADS }, (_, n) => `${PAD}${n}-`.padEnd(LONGEST_NAME, 'x'));
  await Promise.all(names.map((name) => root.getDirectoryHandle(name, { create: true })));
  await Promise.all(names.map((name) => root.removeEntry(name)));
}

async function passInDatabase(): Promise<void> {
  if (!(await deleteEmptyDatabase())) {
    await createEmptyDatabase();
    await deleteEmptyDatabase();
  }
  await createEmptyDatabase();
}

/** @returns whether there was one */
function deleteEmptyDatabase(): Promise<boolean> {
  return new Promise((done, failed) => {
    const request = indexedDB.deleteDatabase(EMPTY_DATABASE);
    request.onsuccess = (event) => done((event as IDBVersionChangeEvent).oldVersion > 0);
    request.onerror = () => failed(request.error ?? new Error('The empty database was not deleted.'));
    // Only developer tools open it.
    request.onblocked = () => failed(new Error('The empty database is open.'));
  });
}

function createEmptyDatabase(): Promise<void> {
  return new Promise((done, failed) => {
    const request = indexedDB.open(EMPTY_DATABASE);
    request.onsuccess = () => {
      request.result.close();
      done();
    };
    request.onerror = () => failed(request.error ?? new Error('The empty database was not made.'));
  });
}
