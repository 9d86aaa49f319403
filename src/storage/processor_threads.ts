/** How many threads compute on this machine's processor, as this browser remembers it. */
import { del, get, set, type UseStore } from 'idb-keyval';
import { openStore } from './database.ts';

let store: UseStore | undefined;

/** Beside the rates of `engine/self_measurement.ts`, whose keys have more parts. */
const kept = () => (store ??= openStore('darkroom-device', 'rates'));

/** The person's choice; null where there is none, or nothing can be kept. */
export function chosenThreads(): Promise<number | null> {
  return read('threads/chosen');
}

/** @param threads null leaves the choice to the measurement again. @throws DOMException where storage is blocked or full */
export function chooseThreads(threads: number | null): Promise<void> {
  return threads === null ? del('threads/chosen', kept()) : set('threads/chosen', threads, kept());
}

/** What a measurement found to be fastest on a machine of so many cores; null where there was none. */
export function fastestThreads(cores: number): Promise<number | null> {
  return read(`threads/fastest/${cores}`);
}

/** A browser that refuses to keep it only measures again. */
export function keepFastestThreads(cores: number, threads: number): Promise<void> {
  return set(`threads/fastest/${cores}`, threads, kept()).catch(() => undefined);
}

async function read(key: string): Promise<number | null> {
  const value = await get<unknown>(key, kept()).catch(() => null);
  return typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : null;
}
