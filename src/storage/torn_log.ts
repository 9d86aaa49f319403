/**
 * What keeps a killed browser from losing what is stored after it.
 *
 * Chromium keeps the directory of the private file system, all of IndexedDB, and localStorage in LevelDB, and goes on with the log of the session
 * before. A kill between the two writes of one log record leaves a torn record at the log's end. The next session ignores it, writes
 * behind it, and everything works; but whoever reads the log after that takes the new records for the rest of the torn one. For files
 * the rest of that block of 32 KiB is dropped: folders and files that were made there are gone with their content. For IndexedDB the
 * whole database of the origin is thrown away, weights, queue and settings. `durability: 'strict'` changes nothing.
 * (Measured with Chromium 156; about one kill in 180 while recording. `docs/chromium-torn-log.md` shows it to order.)
 *
 * So before a session stores anything, the torn place is passed:
 * - Files: {@link PADS} folders with long names are made and removed, which fills a little more than one block of the log with records
 *   that nobody misses (36 kB, 25 ms).
 * - IndexedDB: deleting a database makes Chromium compact its keys, for which it begins a new log and deletes the old one, torn end and
 *   all (5 ms; without this, 7 MB would have to be written until it does so by itself). An empty database waits for that, since
 *   whatever is written before the deletion is lost with everything else if the browser is killed again just then.
 * - localStorage: a value longer than a block takes the place of the former one. Only the sessions' own settings are lost there, not
 *   those before; and what is set in the same few seconds shares a record with it, as nothing says when that is written.
 *
 * Whether the last session ended well cannot be known: a page hears of its own end at best, not of the writes of its browser behind
 * it. So it is done whenever no other tab or worker of this origin lives that has seen it done, which each tells by holding a lock.
 */

import type { Place } from './private_files.ts';

/** Longer names are refused by some versions. */
const LONGEST_NAME = 250;
/** To make and remove a folder with such a name adds 990 bytes to the log. */
const PADS = 36;
const PAD = '.passing-torn-log-';

const EMPTY_DATABASE = 'darkroom-torn-log';

/** Longer than a block of the log; each character takes a byte. */
const PADDING = 34_000;
const PADDED_KEY = 'darkroom.passing-torn-log';

const passed = new Map<string, Promise<void>>();

/** Resolves when it is safe to store in IndexedDB; never rejects. */
export function databaseIsSafe(): Promise<void> {
  return once('database', passInDatabase);
}

/** Resolves when it is safe to store files under `root`; never rejects. */
export function filesAreSafe(place: Place, root: FileSystemDirectoryHandle): Promise<void> {
  return once(`files:${place}`, () => passInFiles(root));
}

/**
 * Has localStorage pass its torn place. Never rejects.
 * @param storage which workers do not have
 */
export function passLocalStorage(storage: { setItem(key: string, value: string): void }): Promise<void> {
  // The same value again would not be written.
  const pass = () => storage.setItem(PADDED_KEY, `${Date.now()}`.padEnd(PADDING, 'x'));
  return once('localStorage', () => Promise.resolve().then(pass));
}

/**
 * Passes the log of IndexedDB once more: before much is stored, and after a connection was lost, since the process behind it may have
 * been killed while the page lives on.
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
  // A full disk, or storage that is refused, is told by whoever stores something.
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
    // A document that is going away gets no locks any more, and stores nothing.
    .catch(() => undefined);
}

/** Others store differently, and would have the work for nothing. */
function isChromium(): boolean {
  return globalThis.navigator !== undefined && 'userAgentData' in navigator;
}

/** The lock ends with this tab or worker, however that ends. */
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
  // What a pass that was broken off has left.
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
    // Nobody but developer tools opens it.
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
