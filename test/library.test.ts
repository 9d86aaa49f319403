/**
 * The library's contract: what arrives is correct and stays, whatever network, storage and people do meanwhile. Origin, clock, locks and
 * storage are fakes here, so that each can fail anywhere; e2e/faults/downloads.spec.ts has the real ones.
 */
import 'fake-indexeddb/auto';
import { createHash } from 'node:crypto';
import { IDBFactory } from 'fake-indexeddb';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { headers } from '../cli/headers.js';
import { DEFAULT_CHECKPOINT } from '../src/core/builtin_checkpoints.ts';
import { StudioError } from '../src/core/errors.ts';
import { admits } from '../src/weights/library/browser_surroundings.ts';
import { PIECE_BYTES, evenCuts } from '../src/weights/library/file_writer.ts';
import { IndexedKeyValues, storageError } from '../src/weights/library/key_values.ts';
import type { KeyValues } from '../src/weights/library/key_values.ts';
import { Library } from '../src/weights/library/library.ts';
import { OriginFile } from '../src/weights/library/origin_file.ts';
import type { TransformMaker } from '../src/weights/library/piece_transform.ts';
import { isPath, keyOf, type Manifest } from '../src/weights/library/records.ts';
import { RemoteFiles } from '../src/weights/library/remote_files.ts';
import { Requests } from '../src/weights/library/requests.ts';
import { LibraryStore } from '../src/weights/library/store.ts';
import { storedAddition, storedAdditions } from '../src/weights/library/stored_additions.ts';
import { StoredFiles } from '../src/weights/library/stored_files.ts';
import type { Channel, Clock, LibraryMessage, Locks, Network } from '../src/weights/library/surroundings.ts';
import type { Witness } from '../src/storage/witness.ts';
import { transformMakers } from '../src/weights/quantise.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import type { Listing, StoredCheckpoint, TransferProgress } from '../src/weights/library/library_api.ts';

const PIECE = 1024;
const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const REPO = 'someone/something';
const REF = `hub:${REPO}@${COMMIT}`;
const WEIGHTS = 'unet/diffusion_pytorch_model.safetensors';
const ORIGIN = { kind: 'hub', repo: REPO, revision: null } as const;

// --- Stand-ins -----------------------------------------------------------------------------------------------------------------------

/** Pseudo-random numbers, the same in every run. */
function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** One that the variants quantise. */
const TENSOR = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight';

function safetensors(rows: number, seed = 1): Uint8Array<ArrayBuffer> {
  const data = new Float32Array(rows * 64);
  noise(data.length, seed).forEach((byte, i) => (data[i] = byte / 100 - 1));
  return writeSafetensors([[TENSOR, { dims: [rows, 64], data }]]);
}

const text = (value: unknown) => new Uint8Array(new TextEncoder().encode(JSON.stringify(value)));
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const gitSha1 = (bytes: Uint8Array) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

/** Time passes only while something waits. A connection times out as soon as the origin goes silent. */
class TestClock implements Clock {
  time = 1_000_000;
  readonly waits: number[] = [];
  readonly #idle = new Set<() => void>();

  now(): number {
    return this.time;
  }

  wait(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(new DOMException('stopped', 'AbortError')), { once: true });
      if (ms === 30_000) {
        this.#idle.add(resolve);
        return;
      }
      this.waits.push(ms);
      this.time += ms;
      setImmediate(resolve);
    });
  }

  goIdle(): void {
    this.#idle.forEach((resolve) => resolve());
    this.#idle.clear();
  }
}

class TestLocks implements Locks {
  readonly #queues = new Map<string, Promise<unknown>>();
  readonly #held = new Set<string>();

  async hold<T>(name: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(name) ?? Promise.resolve();
    let release: () => void = () => undefined;
    this.#queues.set(
      name,
      before.then(() => new Promise<void>((resolve) => (release = resolve))),
    );
    const refused = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new DOMException('stopped', 'AbortError')), { once: true });
    });
    refused.catch(() => undefined);
    try {
      signal.throwIfAborted();
      await Promise.race([before, refused]);
    } catch (error) {
      void before.then(() => release());
      throw error;
    }
    // `release` is only assigned in a later turn.
    await new Promise((resolve) => setImmediate(resolve));
    this.#held.add(name);
    try {
      return await work();
    } finally {
      this.#held.delete(name);
      release();
    }
  }

  held(): Promise<Set<string>> {
    return Promise.resolve(new Set(this.#held));
  }
}

class TestChannels {
  readonly #listeners: { owner: object; listener: (message: LibraryMessage) => void }[] = [];

  join(): Channel {
    const owner = {};
    return {
      post: (message) => {
        const others = this.#listeners.filter((one) => one.owner !== owner);
        setImmediate(() => others.forEach(({ listener }) => listener(message)));
      },
      listen: (listener) => this.#listeners.push({ owner, listener }),
    };
  }
}

interface Asked {
  path: string;
  begin: number;
  end: number;
  authorization: string | null;
}

type Fault = (asked: Asked, whole: Uint8Array<ArrayBuffer>, etag: string) => Response | Promise<Response> | null;

/** A hub and its CDN in one: answers ranges, counts the bytes that it sends, and misbehaves when told to. */
class TestOrigin implements Network {
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly asked: Asked[] = [];
  sent = 0;
  fault: Fault = () => null;
  online = true;
  refused = 0;
  etag = 'v1';
  license: Record<string, unknown> = { license: 'apache-2.0' };
  gated: false | 'auto' | 'manual' = false;
  readonly #clock: TestClock;

  constructor(clock: TestClock) {
    this.#clock = clock;
  }

  isOnline = () => this.online;
  allows = (url: URL) => Promise.resolve(url.host !== 'forbidden.example');
  refusals = () => this.refused;
  random = () => 0.5;

  async fetch(url: string, init: RequestInit): Promise<Response> {
    await new Promise((resolve) => setImmediate(resolve));
    init.signal?.throwIfAborted();
    this.#clock.time += 300;
    if (!this.online) {
      throw new TypeError('Failed to fetch');
    }
    const { pathname } = new URL(url);
    const headers = new Headers(init.headers);
    if (pathname.startsWith('/api/')) {
      return this.#api(pathname);
    }
    const path = decodeURIComponent(pathname.replace(/^\/[^/]+\/[^/]+\/resolve\/[^/]+\//, ''));
    const whole = this.files.get(path);
    if (!whole) {
      return new Response('Entry not found', { status: 404, headers: { 'X-Error-Code': 'EntryNotFound' } });
    }
    const range = /^bytes=([0-9]+)-([0-9]+)$/.exec(headers.get('Range') ?? '');
    const begin = range ? Number(range[1]) : 0;
    const end = Math.min(range ? Number(range[2]) + 1 : whole.length, whole.length);
    const asked = { path, begin, end, authorization: headers.get('Authorization') };
    this.asked.push(asked);
    const answer = await this.fault(asked, whole, this.etag);
    if (answer) {
      return answer;
    }
    return begin >= whole.length ? unsatisfiable(whole.length) : this.part(asked, whole, init.signal);
  }

  /** The correct answer, in parts. @param cutAt bytes after which the connection breaks */
  part(
    { begin, end }: Asked,
    whole: Uint8Array<ArrayBuffer>,
    signal?: AbortSignal | null,
    cutAt = Infinity,
    etag = this.etag,
  ): Response {
    return this.stream(
      whole.subarray(begin, end),
      206,
      { 'Content-Range': `bytes ${begin}-${end - 1}/${whole.length}`, ETag: etag },
      signal,
      cutAt,
    );
  }

  stream(
    bytes: Uint8Array<ArrayBuffer>,
    status: number,
    headers: Record<string, string>,
    signal?: AbortSignal | null,
    cutAt = Infinity,
  ): Response {
    let at = 0;
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull: async (controller) => {
        await new Promise((resolve) => setImmediate(resolve));
        if (signal?.aborted) {
          controller.error(new DOMException('aborted', 'AbortError'));
        } else if (at >= cutAt) {
          controller.error(new TypeError('network error'));
        } else if (at >= bytes.length) {
          controller.close();
        } else {
          const next = Math.min(at + 700, bytes.length, cutAt);
          this.sent += next - at;
          controller.enqueue(bytes.slice(at, next));
          at = next;
        }
      },
    });
    return new Response(body, { status, headers: { 'Content-Length': String(bytes.length), ...headers } });
  }

  /** An answer that stalls; the connection counts as idle at once. */
  silence(): Response {
    setImmediate(() => this.#clock.goIdle());
    return new Response(new ReadableStream({ pull: () => new Promise(() => undefined) }), { status: 206 });
  }

  #api(pathname: string): Response {
    const [, , , org, name, , revision] = pathname.split('/');
    if (`${org}/${name}` !== REPO) {
      return new Response('{}', { status: 401, headers: { 'X-Error-Message': 'Invalid username or password.' } });
    }
    if (decodeURIComponent(revision) !== 'main' && revision !== COMMIT) {
      return new Response('{}', { status: 404, headers: { 'X-Error-Code': 'RevisionNotFound' } });
    }
    const siblings = [...this.files].map(([rfilename, bytes]) => ({
      rfilename,
      size: bytes.length,
      blobId: gitSha1(bytes),
      ...(/\.(safetensors|bin)$/.test(rfilename)
        ? { lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: 134 } }
        : {}),
    }));
    return Response.json({ id: REPO, sha: COMMIT, gated: this.gated, cardData: this.license, siblings });
  }
}

function unsatisfiable(size: number): Response {
  return new Response(null, { status: 416, headers: { 'Content-Range': `bytes */${size}` } });
}

/** One browser with its storage, and one origin. Tabs come and go. */
class World {
  readonly clock = new TestClock();
  readonly origin = new TestOrigin(this.clock);
  readonly locks = new TestLocks();
  readonly channels = new TestChannels();
  readonly values = new IndexedKeyValues();
  readonly store = new LibraryStore(this.values);
  makers: Record<'q8' | 'q4', TransformMaker> = transformMakers;
  witness: Witness | null = null;

  constructor(files: Record<string, Uint8Array<ArrayBuffer>> = checkpoint()) {
    Object.entries(files).forEach(([path, bytes]) => this.origin.files.set(path, bytes));
  }

  /** A new tab; after a kill the old locks are gone, so it gets fresh ones on request. */
  tab({
    values = this.values,
    locks = this.locks,
    pieceBytes = PIECE,
  }: { values?: KeyValues; locks?: Locks; pieceBytes?: number } = {}): Library {
    return new Library({
      values,
      network: this.origin,
      clock: this.clock,
      locks,
      channel: this.channels.join(),
      storage: { estimate: () => Promise.resolve({ usage: 5, quota: 10 }), persisted: () => Promise.resolve(true) },
      makers: this.makers,
      witness: this.witness,
      pieceBytes,
    });
  }

  async request(library: Library, variant: 'full' | 'q8' | 'q4' = 'full') {
    const listing = await library.look(ORIGIN, null);
    return { listing, paths: listing.files.map(({ path }) => path), variant, token: null };
  }

  async download(library: Library, variant: 'full' | 'q8' | 'q4' = 'full'): Promise<StoredCheckpoint> {
    return library.download(await this.request(library, variant), () => undefined);
  }

  /** Checks that everything stored, as the engine reads it, equals the origin's files. */
  async expectRight(ref = REF): Promise<void> {
    const files = await StoredFiles.open(this.store, ref, this.makers);
    expect(files.paths().sort()).toEqual([...this.origin.files.keys()].sort());
    for (const [path, bytes] of this.origin.files) {
      expect(Buffer.compare(Buffer.from(await (await files.blob(path)).arrayBuffer()), bytes), path).toBe(0);
    }
  }

  get size(): number {
    return [...this.origin.files.values()].reduce((sum, { length }) => sum + length, 0);
  }
}

/** Several pieces in one file, one in another, an empty one, and small texts. */
function checkpoint(): Record<string, Uint8Array<ArrayBuffer>> {
  return {
    'model_index.json': text({ _class_name: 'StableDiffusionPipeline', unet: ['diffusers', 'UNet2DConditionModel'] }),
    'unet/config.json': text({ sample_size: 8 }),
    [WEIGHTS]: safetensors(20),
    'vae/diffusion_pytorch_model.safetensors': safetensors(2, 7),
    'tokenizer/added tokens.txt': new Uint8Array(),
  };
}

async function refusal(work: Promise<unknown>): Promise<StudioError> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(StudioError);
  const { message } = error as StudioError;
  // One sentence, with a next step after a comma or semicolon.
  expect(message).toMatch(/^[A-Z"a-z].*[;,] .*\.$/s);
  return error as StudioError;
}

beforeEach(() => {
  globalThis.indexedDB = new IDBFactory();
});

// --- What it does --------------------------------------------------------------------------------------------------------------------

describe('a download', () => {
  test('stores exactly what the origin has, fetches each byte once, and is listed', async () => {
    const world = new World();
    const library = world.tab();
    const told: TransferProgress[] = [];
    const stored = await library.download(await world.request(library), (progress) => told.push(progress));
    expect(stored).toMatchObject({
      ref: REF,
      name: REPO,
      state: 'complete',
      variant: 'full',
      usedAt: null,
      error: null,
    });
    expect(stored).toMatchObject({ bytes: world.size, storedBytes: world.size, revision: COMMIT });
    expect(await library.list()).toEqual([stored]);
    await world.expectRight();
    expect(world.origin.sent).toBe(world.size);
    expect(told.at(-1)).toMatchObject({ ref: REF, done: world.size, total: world.size });
    told.reduce((before, { done }) => {
      expect(done).toBeGreaterThanOrEqual(before);
      return done;
    }, 0);
  });

  test('asks for large pieces as four ranges at a time, all of them within the piece', async () => {
    const size = 9 * 2 ** 20 + 17;
    const world = new World({ 'big.onnx': noise(size) });
    await world.download(world.tab({ pieceBytes: 4 * 2 ** 20 }));
    await world.expectRight();
    const ranges = world.origin.asked.map(({ begin, end }) => [begin / 2 ** 20, end / 2 ** 20]);
    expect(ranges.slice(0, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7].map((n) => [n, n + 1]));
    expect(world.origin.sent).toBe(size);
  });

  test('of a complete checkpoint fetches nothing, and of more files only those', async () => {
    const world = new World();
    const library = world.tab();
    const request = await world.request(library);
    await library.download({ ...request, paths: ['model_index.json'] }, () => undefined);
    await world.download(library);
    expect(world.origin.sent).toBe(world.size);
    await world.download(library);
    expect(world.origin.sent).toBe(world.size);
    await world.expectRight();
  });

  test('keeps only the pieces that a variant makes of them, and they come back as the file that Darkroom reads', async () => {
    const world = new World({ ...checkpoint(), [WEIGHTS]: safetensors(600) });
    const stored = await world.download(world.tab({ pieceBytes: PIECE_BYTES }), 'q8');
    expect(stored).toMatchObject({ ref: `${REF}#q8`, variant: 'q8', state: 'complete' });
    expect(stored.storedBytes).toBeLessThan(world.size / 3);
    const files = await StoredFiles.open(world.store, `${REF}#q8`, transformMakers);
    const whole = world.origin.files.get(WEIGHTS) as Uint8Array<ArrayBuffer>;
    const header = whole.slice(0, 8 + Number(new DataView(whole.buffer).getBigUint64(0, true)));
    const transform = transformMakers.q8(WEIGHTS, header, whole.length);
    expect(transform).not.toBeNull();
    const pieces =
      transform?.cuts.map((cut, n) => transform.apply(n, whole.slice(n === 0 ? 0 : transform.cuts[n - 1], cut))) ?? [];
    const expected = Buffer.concat(
      transform?.layout.map((part) =>
        'bytes' in part ? part.bytes : pieces[part.piece].subarray(part.begin, part.end),
      ) ?? [],
    );
    expect(Buffer.from(await (await files.blob(WEIGHTS)).arrayBuffer()).equals(expected)).toBe(true);
    expect(await (await files.blob('unet/config.json')).text()).toBe('{"sample_size":8}');
  });

  test('of a variant goes on in the middle of a file, without its pieces as they came', async () => {
    const world = new World();
    world.makers = { ...transformMakers, q8: everySecondByte };
    const half = (bytes: Uint8Array) => Buffer.from(bytes.filter((_, i) => i % 2 === 0));
    await interrupted(world, 'q8');
    expect((await world.store.file(`${REF}#q8`, WEIGHTS))?.pieces.length).toBeGreaterThan(0);
    const { state } = await world.tab().resume(`${REF}#q8`, null, () => undefined);
    expect(state).toBe('complete');
    const files = await StoredFiles.open(world.store, `${REF}#q8`, world.makers);
    const expected = Buffer.concat([Buffer.from('half'), half(world.origin.files.get(WEIGHTS) as Uint8Array)]);
    expect(Buffer.from(await (await files.blob(WEIGHTS)).arrayBuffer()).equals(expected)).toBe(true);
    const headers = 2 * 200;
    expect(world.origin.sent).toBeLessThanOrEqual(world.size + PIECE + headers);
  });

  test('waits for the tab that is at it, hears how far it is, and fetches nothing itself', async () => {
    const world = new World();
    const [one, two] = [world.tab(), world.tab()];
    const request = await world.request(one);
    const heard: TransferProgress[] = [];
    const both = await Promise.all([
      one.download(request, () => undefined),
      two.download(request, (progress) => heard.push(progress)),
    ]);
    expect(both.map(({ state }) => state)).toEqual(['complete', 'complete']);
    expect(world.origin.sent).toBe(world.size);
    expect(heard.length).toBeGreaterThan(0);
    await world.expectRight();
  });

  test('stops when another tab pauses it, shows as paused, and goes on from there', async () => {
    const world = new World();
    const [one, two] = [world.tab(), world.tab()];
    const request = await world.request(one);
    let pausing: Promise<void> | undefined;
    const stopped = refusal(
      one.download(request, ({ done }) => {
        if (done > 3 * PIECE) {
          pausing ??= two.pause(REF);
        }
      }),
    );
    expect(await stopped).toMatchObject({ code: 'cancelled' });
    expect(pausing).toBeDefined();
    await pausing;
    const [listed] = await two.list();
    expect(listed).toMatchObject({ state: 'paused', error: null });
    expect(listed.storedBytes).toBeGreaterThan(0);
    const before = world.origin.sent;
    expect(await two.resume(REF, null, () => undefined)).toMatchObject({ state: 'complete' });
    expect(world.origin.sent - before).toBeLessThanOrEqual(world.size - listed.storedBytes);
    await world.expectRight();
  });

  test('is shown as being fetched while it is', async () => {
    const world = new World();
    const library = world.tab();
    const states: Promise<StoredCheckpoint[]>[] = [];
    await library.download(await world.request(library), () => states.push(world.tab().list()));
    const seen = (await Promise.all(states)).flat().map(({ state }) => state);
    expect(seen).toContain('downloading');
  });

  test('needs the licence to be accepted where it asks for that, once', async () => {
    const world = new World();
    world.origin.license = { license: 'openrail++' };
    const library = world.tab();
    expect(await refusal(world.download(library))).toMatchObject({ code: 'invalid_operation' });
    expect(world.origin.sent).toBe(0);
    await library.acceptLicense(`${REF}#q8`);
    expect(await library.acceptedLicenses()).toEqual([REF]);
    await world.download(library);
    await world.expectRight();
  });

  test.for<[string, (listing: Listing) => unknown]>([
    ['a path upwards', (listing) => ({ ...listing, files: [{ path: '../x', size: 1, sha256: null }] })],
    ['a negative size', (listing) => ({ ...listing, files: [{ path: 'x', size: -1, sha256: null }] })],
    ['a foreign ref', (listing) => ({ ...listing, ref: DEFAULT_CHECKPOINT })],
  ])('refuses a listing with %s', async ([, change]) => {
    const world = new World();
    const library = world.tab();
    const { listing } = await world.request(library);
    const request = { listing: change(listing) as Listing, paths: ['x'], variant: 'full' as const, token: null };
    expect(await refusal(library.download(request, () => undefined))).toMatchObject({ code: 'invalid_operation' });
  });
});

describe('looking at a repository', () => {
  test('pins its commit and tells sizes, hashes and licence', async () => {
    const world = new World();
    world.origin.license = { license: 'other', license_name: 'house-rules', license_link: 'LICENSE' };
    const listing = await world.tab().look(ORIGIN, null);
    expect(listing).toMatchObject({
      ref: REF,
      name: REPO,
      revision: COMMIT,
      gated: false,
      license: { id: 'house-rules', link: `https://huggingface.co/${REPO}/blob/${COMMIT}/LICENSE`, mustAccept: true },
    });
    const weights = world.origin.files.get(WEIGHTS) as Uint8Array;
    expect(listing.files).toContainEqual({ path: WEIGHTS, size: weights.length, sha256: sha256(weights) });
    const config = world.origin.files.get('unet/config.json') as Uint8Array;
    expect(listing.files).toContainEqual({
      path: 'unet/config.json',
      size: config.length,
      sha256: null,
      gitSha1: gitSha1(config),
    });
    expect(world.origin.sent).toBe(0);
  });

  test.for<[string, (world: World) => void, { repo?: string; revision?: string; token?: string }, string, RegExp]>([
    ['no name', () => undefined, { repo: 'something' }, 'invalid_operation', /org\/name/],
    ['a name that leads elsewhere', () => undefined, { repo: '../../etc' }, 'invalid_operation', /org\/name/],
    [
      'a repository that is not there',
      () => undefined,
      { repo: 'no/where' },
      'origin_unavailable',
      /no public repository/,
    ],
    [
      'a wrong token',
      () => undefined,
      { repo: 'no/where', token: 'hf_x' },
      'origin_unavailable',
      /does not know this token/,
    ],
    ['a revision that is not there', () => undefined, { revision: 'v9' }, 'origin_unavailable', /no revision "v9"/],
    ['only pickles', ({ origin }) => only(origin, 'unet/model.bin'), {}, 'checkpoint_unsupported', /pickle/],
    ['no weights', ({ origin }) => only(origin, 'README.md'), {}, 'checkpoint_incomplete', /no weights/],
    ['no network', ({ origin }) => void (origin.online = false), {}, 'origin_unavailable', /no connection/],
  ])(
    'refuses %s in one sentence',
    async ([, prepare, { repo = REPO, revision = null, token = null }, code, sentence]) => {
      const world = new World();
      prepare(world);
      const error = await refusal(world.tab().look({ kind: 'hub', repo, revision }, token));
      expect(error).toMatchObject({ code });
      expect(error.message).toMatch(sentence);
    },
  );

  test('explains a gated one, and gives the token to the hub', async () => {
    const world = new World();
    world.origin.gated = 'manual';
    const library = world.tab();
    const request = await world.request(library);
    expect(request.listing.gated).toBe(true);
    world.origin.fault = ({ authorization }) =>
      authorization === 'Bearer hf_right' ? null : new Response('', { status: authorization === null ? 401 : 403 });
    expect((await refusal(library.download(request, () => undefined))).message).toMatch(/accept .* then give a token/);
    const wrong = refusal(library.download({ ...request, token: 'hf_wrong' }, () => undefined));
    expect((await wrong).message).toMatch(/does not give .* for this token/);
    await library.download({ ...request, token: 'hf_right' }, () => undefined);
    await world.expectRight();
    expect(JSON.stringify(await everything(world))).not.toContain('hf_right');
  });
});

describe('looking at an address', () => {
  const ADDRESS = 'https://weights.example/sd/';
  const look = (world: World, url: string) => world.tab().look({ kind: 'url', url }, null);
  const served = () => {
    const world = new World({});
    Object.entries(checkpoint()).forEach(([path, bytes]) => world.origin.files.set(`/sd/${path}`, bytes));
    return world;
  };

  test('finds the files of a folder by their names, without HEAD and without reading them', async () => {
    const world = served();
    const listing = await look(world, ADDRESS.slice(0, -1));
    expect(listing).toMatchObject({ ref: `url:${ADDRESS}`, name: 'sd', revision: null, license: { mustAccept: true } });
    expect(listing.files.map(({ path }) => path).sort()).toEqual(['model_index.json', 'unet/config.json', WEIGHTS]);
    expect(world.origin.sent).toBeLessThan(500);
    const library = world.tab();
    await library.acceptLicense(listing.ref);
    const paths = listing.files.map(({ path }) => path);
    expect(
      await library.download({ listing, paths, variant: 'full', token: 'hf_secret' }, () => undefined),
    ).toMatchObject({
      state: 'complete',
    });
    expect(world.origin.asked.every(({ authorization }) => authorization === null)).toBe(true);
  });

  test('takes the address of one file', async () => {
    const listing = await look(served(), `${ADDRESS}${WEIGHTS}`);
    expect(listing.files).toEqual([{ path: WEIGHTS.split('/')[1], size: safetensors(20).length, sha256: null }]);
  });

  test.for<[string, string, (world: World) => void, string, RegExp]>([
    ['no address', 'sd', () => undefined, 'invalid_operation', /not a web address/],
    ['another scheme', 'file:///etc/', () => undefined, 'invalid_operation', /not a web address/],
    [
      'a host that the policy forbids',
      'https://forbidden.example/a/',
      () => undefined,
      'origin_unavailable',
      /may not speak to/,
    ],
    [
      'a folder without an index',
      'https://weights.example/x/',
      () => undefined,
      'checkpoint_incomplete',
      /no model_index/,
    ],
    ['a pickle', 'https://weights.example/x.ckpt', () => undefined, 'checkpoint_unsupported', /pickle/],
    ['a web page', ADDRESS, ({ origin }) => void (origin.fault = webPage), 'origin_unavailable', /web page/],
    [
      'something that is no index',
      ADDRESS,
      ({ origin }) => void origin.files.set('/sd/model_index.json', text([])),
      'checkpoint_damaged',
      /not a list/,
    ],
  ])('refuses %s in one sentence', async ([, url, prepare, code, sentence]) => {
    const world = served();
    prepare(world);
    const error = await refusal(look(world, url));
    expect(error).toMatchObject({ code });
    expect(error.message).toMatch(sentence);
    if (code === 'origin_unavailable' && url.includes('forbidden')) {
      expect(world.origin.asked).toEqual([]);
    }
  });

  test('a file that grew meanwhile is taken as it is now, and nothing else is fetched again', async () => {
    const world = served();
    const library = world.tab();
    const listing = await look(world, ADDRESS);
    await library.acceptLicense(listing.ref);
    world.origin.files.set(`/sd/${WEIGHTS}`, safetensors(30));
    world.origin.etag = 'v2';
    const paths = listing.files.map(({ path }) => path);
    await library.download({ listing, paths, variant: 'full', token: null }, () => undefined);
    const files = await StoredFiles.open(world.store, listing.ref, null);
    const stored = Buffer.from(await (await files.blob(WEIGHTS)).arrayBuffer());
    expect(stored.equals(safetensors(30))).toBe(true);
  });
});

// --- What goes wrong on the way ------------------------------------------------------------------------------------------------------

const webPage: Fault = () =>
  new Response('<!doctype html>', { headers: { 'Content-Type': 'text/html; charset=utf-8' } });

/** Misbehaves on the n-th request for the large weight file, counted from 0. */
function onRequest(n: number, fault: Fault): Fault {
  let count = 0;
  return (asked, whole, etag) => (asked.path === WEIGHTS && count++ === n ? fault(asked, whole, etag) : null);
}

describe('a fault of network or server', () => {
  const cut =
    (world: World, at: (length: number) => number, etag?: string): Fault =>
    (asked, whole) =>
      world.origin.part(asked, whole, null, at(asked.end - asked.begin), etag);

  // Each happens once, at the third piece; the download recovers at the cost of one piece's bytes.
  test.for<[string, (world: World) => Fault]>([
    ['cut at byte 0', (world) => cut(world, () => 0)],
    ['cut at byte 1', (world) => cut(world, () => 1)],
    ['cut in the middle', (world) => cut(world, (length) => length / 2)],
    ['cut at the last byte', (world) => cut(world, (length) => length - 1)],
    ['cut at the border of a piece', (world) => cut(world, (length) => length)],
    [
      'an answer that ends early',
      ({ origin }) =>
        (asked, whole) =>
          origin.part({ ...asked, end: asked.end - 9 }, whole),
    ],
    [
      'an answer that is too long',
      ({ origin }) =>
        ({ begin, end }, whole) =>
          origin.stream(whole.subarray(begin, end + 9), 206, {}),
    ],
    [
      'an answer of another range',
      ({ origin }) =>
        (asked, whole) =>
          origin.part({ ...asked, begin: 0 }, whole),
    ],
    [
      'silence',
      ({ origin }) =>
        () =>
          origin.silence(),
    ],
    ['no connection', () => () => Promise.reject(new TypeError('Failed to fetch'))],
    ['500', () => () => new Response('', { status: 500 })],
    ['503 with Retry-After', () => () => new Response('', { status: 503, headers: { 'Retry-After': '2' } })],
    ['429 with Retry-After', () => () => new Response('', { status: 429, headers: { 'Retry-After': '7' } })],
  ])('%s is borne', async ([, fault]) => {
    const world = new World();
    world.origin.fault = onRequest(2, fault(world));
    expect(await world.download(world.tab())).toMatchObject({ state: 'complete' });
    await world.expectRight();
    expect(world.origin.sent).toBeLessThanOrEqual(world.size + PIECE + 9);
  });

  test('waits as long as a busy origin asks, else longer from time to time', async () => {
    const world = new World();
    let count = 0;
    world.origin.fault = ({ path }) => {
      if (path !== WEIGHTS || count > 4) {
        return null;
      }
      count++;
      return count === 1
        ? new Response('', { status: 429, headers: { 'Retry-After': '7' } })
        : new Response('', { status: 502 });
    };
    await world.download(world.tab());
    expect(world.clock.waits).toEqual([7000, 750, 1500, 3000, 6000]);
  });

  test('a whole file in answer to a range is read from its own beginning, never appended', async () => {
    const world = new World();
    world.origin.fault = ({ path }, whole, etag) =>
      path === WEIGHTS ? world.origin.stream(whole, 200, { ETag: etag }) : null;
    await world.download(world.tab());
    await world.expectRight();
    expect(world.origin.sent).toBeLessThan(world.size + 3 * PIECE);
  });

  test('a whole file in the middle of ranges, cut, and ranges again', async () => {
    const world = new World();
    let count = 0;
    world.origin.fault = ({ path }, whole, etag) =>
      path === WEIGHTS && [2, 3].includes(count++) ? world.origin.stream(whole, 200, { ETag: etag }, null, 2500) : null;
    await world.download(world.tab());
    await world.expectRight();
  });

  test.for<[string, (world: World) => Fault]>([
    [
      'an ETag that changes',
      ({ origin }) =>
        (asked, whole) =>
          origin.part(asked, whole, null, Infinity, 'v2'),
    ],
    ['416', () => (_, whole) => unsatisfiable(whole.length)],
  ])('%s starts that file again, and only that', async ([, fault]) => {
    const world = new World();
    world.origin.fault = onRequest(3, fault(world));
    await world.download(world.tab());
    await world.expectRight();
    expect(world.origin.asked.filter(({ path, begin }) => path === WEIGHTS && begin === 0)).toHaveLength(2);
    const length = world.origin.files.get(WEIGHTS)?.length ?? 0;
    expect(world.origin.sent).toBeLessThanOrEqual(world.size + length);
  });

  test('a file that keeps changing is given up with one sentence', async () => {
    const world = new World();
    let version = 0;
    world.origin.fault = (asked, whole) =>
      asked.path === WEIGHTS ? world.origin.part(asked, whole, null, Infinity, `v${version++}`) : null;
    const error = await refusal(world.download(world.tab()));
    expect(error).toMatchObject({ code: 'checkpoint_damaged', retry: 'same' });
    expect(error.message).toMatch(/keeps changing/);
  });

  test('a file of another size than the repository lists is refused', async () => {
    const world = new World();
    const library = world.tab();
    const request = await world.request(library);
    world.origin.files.set(WEIGHTS, safetensors(21));
    expect((await refusal(library.download(request, () => undefined))).message).toMatch(/not the file that was listed/);
    expect(await refusal(StoredFiles.open(world.store, REF, null))).toMatchObject({ code: 'checkpoint_incomplete' });
  });

  for (const place of ['weights', 'header', 'config']) {
    test(`one flipped byte in the ${place} never gets in`, async () => {
      const world = new World();
      const path = place === 'config' ? 'unet/config.json' : WEIGHTS;
      let times = Infinity;
      world.origin.fault = (asked, whole) => {
        const at = place === 'weights' ? 3 * PIECE + 5 : 12;
        if (asked.path !== path || asked.begin > at || asked.end <= at || times-- <= 0) {
          return null;
        }
        const wrong = whole.slice();
        wrong[at] ^= 1;
        return world.origin.part(asked, wrong);
      };
      const error = await refusal(world.download(world.tab()));
      expect(error).toMatchObject({ code: 'checkpoint_damaged' });
      expect(await refusal(StoredFiles.open(world.store, REF, null))).toMatchObject({ code: 'checkpoint_incomplete' });
      const [listed] = await world.tab().list();
      expect(listed).toMatchObject({ state: 'paused', error: { code: 'checkpoint_damaged' } });

      times = 1;
      const before = world.origin.sent;
      expect(
        await world
          .tab()
          .resume(REF, null, () => undefined)
          .catch(() => world.tab().resume(REF, null, () => undefined)),
      ).toMatchObject({ state: 'complete', error: null });
      await world.expectRight();
      expect(world.origin.sent - before).toBeLessThanOrEqual(world.size + (world.origin.files.get(path)?.length ?? 0));
    });
  }

  test('no network in the middle: one sentence at once, and later nothing is fetched twice', async () => {
    const world = new World();
    world.origin.fault = onRequest(3, () => {
      world.origin.online = false;
      throw new TypeError('Failed to fetch');
    });
    const error = await refusal(world.download(world.tab()));
    expect(error).toMatchObject({ code: 'origin_unavailable', retry: 'same' });
    expect(error.message).toMatch(/no connection.*kept/);
    expect(world.clock.waits).toEqual([]);
    world.origin.online = true;
    await world.tab().resume(REF, null, () => undefined);
    await world.expectRight();
    expect(world.origin.sent).toBeLessThanOrEqual(world.size + PIECE);
  });

  test('an origin that stays broken is given up after a while, and resumed from there', async () => {
    const world = new World();
    let count = 0;
    world.origin.fault = ({ path }) => (path === WEIGHTS && count++ > 2 ? new Response('', { status: 500 }) : null);
    expect((await refusal(world.download(world.tab()))).message).toMatch(/HTTP 500/);
    expect(world.clock.waits).toHaveLength(5);
    world.origin.fault = () => null;
    await world.tab().resume(REF, null, () => undefined);
    await world.expectRight();
    expect(world.origin.sent).toBe(world.size);
  });

  test('a redirect that the policy refuses is told as one', async () => {
    const world = new World();
    world.origin.fault = onRequest(0, () => {
      world.origin.refused++;
      throw new TypeError('Failed to fetch');
    });
    expect((await refusal(world.download(world.tab()))).message).toMatch(
      /another host, to which this page may not speak/,
    );
  });

  test.for<[string, Fault, RegExp]>([
    ['a web page', webPage, /web page/],
    [
      'a web page that says it is bytes',
      (_, whole) => new Response(new Uint8Array(Buffer.from('<!DOCTYPE html>'.padEnd(whole.length))), { status: 200 }),
      /web page/,
    ],
    ['a file that is gone', () => new Response('', { status: 404 }), /no .* at huggingface\.co/],
    ['a refusal', () => new Response('', { status: 451 }), /HTTP 451/],
  ])('%s instead of weights is refused in one sentence', async ([, fault, sentence]) => {
    const world = new World();
    world.origin.fault = (asked, whole, etag) => (asked.path === WEIGHTS ? fault(asked, whole, etag) : null);
    expect((await refusal(world.download(world.tab()))).message).toMatch(sentence);
    world.origin.fault = () => null;
    await world.tab().resume(REF, null, () => undefined);
    await world.expectRight();
  });
});

// --- What goes wrong in the store ----------------------------------------------------------------------------------------------------

/** Fails the k-th write, or all from it on, as when the tab is killed. */
class FaultyValues implements KeyValues {
  operations = 0;
  readonly #values: KeyValues;
  readonly #fails: (operation: number) => Error | null;

  constructor(values: KeyValues, fails: (operation: number) => Error | null) {
    this.#values = values;
    this.#fails = fails;
  }

  read = (keys: readonly string[]) => this.#values.read(keys);
  keys = (prefix: string) => this.#values.keys(prefix);
  prepare = () => this.#values.prepare();
  write: KeyValues['write'] = (...given) => this.#attempt(() => this.#values.write(...given));
  update: KeyValues['update'] = (...given) => this.#attempt(() => this.#values.update(...given));

  async #attempt(work: () => Promise<void>): Promise<void> {
    const error = this.#fails(this.operations++);
    if (error) {
      throw error;
    }
    await work();
  }
}

class Killed extends Error {}

describe('a database that was emptied', () => {
  function memory(): Witness & { value: unknown } {
    const kept: Witness & { value: unknown } = {
      value: undefined,
      read: () => Promise.resolve(kept.value),
      write: (value) => {
        kept.value = JSON.parse(JSON.stringify(value));
        return Promise.resolve();
      },
    };
    return kept;
  }

  test('is noticed: what was stored is listed as lost, is fetched again by Repair, and accepted licences stay', async () => {
    const witness = memory();
    const world = new World();
    world.witness = witness;
    const library = world.tab();
    await library.acceptLicense(REF);
    await world.download(library);
    await vi.waitFor(() => expect(JSON.stringify(witness.value)).toContain('"complete":true'));

    globalThis.indexedDB = new IDBFactory();
    const emptied = new World();
    emptied.witness = witness;
    const later = emptied.tab();
    const [lost] = await later.list();
    expect(lost).toMatchObject({ ref: REF, name: REPO, state: 'damaged', storedBytes: 0 });
    expect(lost?.error?.message).toBe(
      'The browser has lost what was stored of it, which can happen when it is killed; Repair fetches it again.',
    );
    expect(await later.acceptedLicenses()).toContain(REF);
    expect(await later.resume(REF, null, () => undefined)).toMatchObject({ state: 'complete', error: null });
    await emptied.expectRight();
  });

  test('of which only the manifest is gone gets that back, and fetches nothing that is still there', async () => {
    const witness = memory();
    const world = new World();
    world.witness = witness;
    await world.download(world.tab());
    await vi.waitFor(() => expect(JSON.stringify(witness.value)).toContain('"complete":true'));
    await world.values.write([], [keyOf.manifest(REF)]);
    const before = world.origin.sent;
    const later = world.tab();
    expect(await later.list()).toMatchObject([{ ref: REF, state: 'damaged', storedBytes: world.size }]);
    await later.resume(REF, null, () => undefined);
    expect(world.origin.sent).toBe(before);
    await world.expectRight();
  });

  test('what somebody removed does not come back, and what is no witness is passed over', async () => {
    const witness = memory();
    const world = new World();
    world.witness = witness;
    const library = world.tab();
    await world.download(library);
    await library.remove(REF);
    expect(JSON.stringify(witness.value)).not.toContain(REPO);
    expect(await world.tab().list()).toEqual([]);
    for (const value of [null, 'nonsense', { schema_version: 2 }, { schema_version: 1, manifests: [7], licenses: 7 }]) {
      witness.value = value;
      expect(await world.tab().list()).toEqual([]);
    }
  });
});

describe('storage', () => {
  const full = () => storageError(new DOMException('full', 'QuotaExceededError'));
  const OTHER = 'hub:other/thing@1111111111111111111111111111111111111111';

  async function operationsOfOneDownload(): Promise<number> {
    const world = new World();
    const values = new FaultyValues(world.values, () => null);
    await world.download(world.tab({ values }));
    return values.operations;
  }

  for (const [how, isKill] of [
    ['a tab killed', true],
    ['a disk full', false],
  ] as const) {
    test(`${how} at any write loses at most one piece, and nothing wrong ever counts as complete`, async () => {
      const operations = await operationsOfOneDownload();
      expect(operations).toBeGreaterThan(10);
      for (let k = 0; k < operations; k++) {
        globalThis.indexedDB = new IDBFactory();
        const world = new World();
        await keepAnother(world, OTHER);
        const values = new FaultyValues(world.values, (operation) =>
          isKill ? (operation >= k ? new Killed() : null) : operation === k ? full() : null,
        );
        const error = await refusal(world.download(world.tab({ values, locks: new TestLocks() }))).catch(() => null);
        if (!isKill) {
          expect(error, `write ${k}`).toMatchObject({ code: 'storage_full', retry: 'same' });
        }
        const before = await world.tab().list();
        const mine = before.find(({ ref }) => ref === REF);
        expect(mine?.state ?? 'paused', `write ${k}`).toBe('paused');
        const sent = world.origin.sent;
        // The next tab starts the same download or resumes it.
        const library = world.tab();
        await (mine ? library.resume(REF, null, () => undefined) : world.download(library));
        await world.expectRight();
        expect(world.origin.sent, `write ${k}`).toBeLessThanOrEqual(world.size + PIECE);
        expect(world.origin.sent - sent).toBeLessThanOrEqual(world.size - (mine?.storedBytes ?? 0));
        expect((await world.tab().list()).find(({ ref }) => ref === OTHER)).toMatchObject({ state: 'complete' });
      }
    });
  }

  test('that the browser refuses is told in one sentence', async () => {
    const world = new World();
    const request = await world.request(world.tab());
    globalThis.indexedDB = {
      open: () => {
        throw new DOMException('denied', 'SecurityError');
      },
    } as unknown as IDBFactory;
    const library = world.tab({ values: new IndexedKeyValues() });
    for (const work of [
      () => library.list(),
      () => library.download(request, () => undefined),
      () => library.resume(REF, null, () => undefined),
    ]) {
      expect(await refusal(work())).toMatchObject({ code: 'storage_unavailable' });
    }
  });

  test('a connection that the browser closed is opened again', async () => {
    const world = new World();
    await world.download(world.tab());
    let broken = 1;
    const transaction = vi.spyOn(IDBDatabase.prototype, 'transaction').mockImplementationOnce(() => {
      broken--;
      throw new DOMException('closing', 'InvalidStateError');
    });
    await world.expectRight();
    transaction.mockRestore();
    expect(broken).toBe(0);
  });

  test('of another version is shown, stops nothing, can be removed, and keeps what is good of it', async () => {
    const world = new World();
    await world.download(world.tab());
    await keepAnother(world, OTHER);
    // As a pre-release version would have written it: a manifest and a file record with other fields.
    await world.values.write([
      [keyOf.manifest(REF), { name: 'Old one', addedAt: 5, paths: ['model_index.json'], ready: true }],
      [keyOf.file(REF, 'unet/config.json'), { bytes: 17 }],
      [keyOf.manifest('hub:gone/away@2'), 'not even an object'],
    ]);
    const list = await world.tab().list();
    expect(list).toHaveLength(3);
    expect(list.find(({ ref }) => ref === OTHER)).toMatchObject({ state: 'complete' });
    expect(list.find(({ ref }) => ref === REF)).toMatchObject({ name: 'Old one', state: 'damaged', addedAt: 5 });
    expect(await refusal(StoredFiles.open(world.store, REF, null))).toMatchObject({ code: 'checkpoint_incomplete' });
    expect((await refusal(world.tab().resume(REF, null, () => undefined))).message).toMatch(/another version/);
    await world.tab().remove('hub:gone/away@2');

    const before = world.origin.sent;
    expect(await world.download(world.tab())).toMatchObject({ state: 'complete' });
    await world.expectRight();
    expect(world.origin.sent - before).toBe(world.origin.files.get('unet/config.json')?.length);
    expect((await world.tab().list()).map(({ ref }) => ref).sort()).toEqual([REF, OTHER].sort());
  });

  test('a hash state that this version cannot load costs no byte of the network', async () => {
    const world = new World();
    await interrupted(world);
    const record = await world.store.file(REF, WEIGHTS);
    expect(record?.pieces.length).toBeGreaterThan(1);
    await world.values.update(keyOf.file(REF, WEIGHTS), (value) => ({
      ...(value as object),
      hashState: new Uint8Array(5),
    }));
    await world.tab().resume(REF, null, () => undefined);
    await world.expectRight();
    expect(world.origin.sent).toBeLessThanOrEqual(world.size + PIECE);
  });

  test('removing takes all of one and nothing of the others, not even of those whose names begin the same', async () => {
    const world = new World();
    await keepAnother(world, REF);
    await keepAnother(world, `${REF}/more`);
    await keepAnother(world, `${REF}#q8`);
    await world.tab().remove(REF);
    const keys = await world.values.keys('');
    expect(keys.filter((key) => key.includes(REF))).toHaveLength(6);
    expect((await world.tab().list()).map(({ ref, state }) => [ref, state]).sort()).toEqual([
      [`${REF}#q8`, 'complete'],
      [`${REF}/more`, 'complete'],
    ]);
  });
});

test('resuming a download checks its last piece, and fetches it again if it is torn', async () => {
  const world = new World();
  await world.download(world.tab());
  const manifest = await world.store.manifest(REF);
  await world.store.writeManifest({ ...(manifest as Manifest), complete: false });
  const record = await world.store.file(REF, WEIGHTS);
  const last = (record?.pieces.length ?? 0) - 1;
  await world.values.write([[keyOf.piece(REF, WEIGHTS, last), new Blob([new Uint8Array(3)])]]);
  const before = world.origin.sent;
  expect(await world.tab().resume(REF, null, () => undefined)).toMatchObject({ state: 'complete', error: null });
  expect(world.origin.sent - before).toBe(record?.pieces[last].length);
  await world.expectRight();
});

describe('verifying', () => {
  test('finds a wrong and a missing piece, keeps the model from running, and resume fetches just them', async () => {
    const world = new World();
    const library = world.tab();
    await world.download(library);
    expect(await library.verify(REF, () => undefined)).toMatchObject({ state: 'complete' });
    const [piece] = await world.store.pieces(REF, WEIGHTS, [2]);
    const bytes = new Uint8Array(await (piece as Blob).arrayBuffer());
    bytes[100] ^= 4;
    await world.values.write([[keyOf.piece(REF, WEIGHTS, 2), new Blob([bytes])]], [keyOf.piece(REF, WEIGHTS, 4)]);
    const told: TransferProgress[] = [];
    const verified = await library.verify(REF, (progress) => told.push(progress));
    expect(verified).toMatchObject({ state: 'damaged', bytes: world.size, storedBytes: world.size - 2 * PIECE });
    expect(told.at(-1)).toMatchObject({ done: world.size, total: world.size });
    expect(await refusal(StoredFiles.open(world.store, REF, null))).toMatchObject({ code: 'checkpoint_damaged' });
    const before = world.origin.sent;
    expect(await library.resume(REF, null, () => undefined)).toMatchObject({ state: 'complete', error: null });
    expect(world.origin.sent - before).toBe(2 * PIECE);
    await world.expectRight();
  });

  test('repairs a quantised one too', async () => {
    const world = new World({ ...checkpoint(), [WEIGHTS]: safetensors(300) });
    const library = world.tab();
    await world.download(library, 'q4');
    const ref = `${REF}#q4`;
    await world.values.write([], [keyOf.piece(ref, WEIGHTS, 0)]);
    expect(
      await refusal(StoredFiles.open(world.store, ref, world.makers).then((files) => files.blob(WEIGHTS))),
    ).toMatchObject({
      code: 'checkpoint_damaged',
    });
    expect(await library.verify(ref, () => undefined)).toMatchObject({ state: 'damaged' });
    expect(await library.resume(ref, null, () => undefined)).toMatchObject({ state: 'complete' });
    expect(await library.verify(ref, () => undefined)).toMatchObject({ state: 'complete' });
  });
});

describe('a folder', () => {
  test('takes a checkpoint out and brings it in elsewhere, verified', async () => {
    for (const variant of ['full', 'q8'] as const) {
      globalThis.indexedDB = new IDBFactory();
      const world = new World();
      const stored = await world.download(world.tab(), variant);
      const stick = new MemoryFolder('stick');
      await world.tab().exportFolder(stored.ref, stick.handle, () => undefined);
      const name = `someone_something${variant === 'full' ? '' : '-q8'}`;
      expect([...stick.folders.keys()]).toEqual([name]);
      const files = stick.list();
      expect(files.map(({ path }) => path)).toContain(`${name}/darkroom.json`);

      globalThis.indexedDB = new IDBFactory();
      const other = new World();
      other.origin.online = false;
      const imported = await other.tab().importFolder('stick', files, () => undefined);
      expect(imported).toMatchObject({ ref: stored.ref, name: REPO, state: 'complete', variant, revision: COMMIT });
      const here = await StoredFiles.open(other.store, stored.ref, transformMakers);
      for (const { path, file } of files.filter(({ path }) => !path.endsWith('darkroom.json'))) {
        const blob = await here.blob(path.slice(name.length + 1));
        expect(Buffer.compare(Buffer.from(await blob.arrayBuffer()), Buffer.from(await file.arrayBuffer()))).toBe(0);
      }

      const wrong = files.map(({ path, file }) => ({
        path,
        file: path.endsWith('.safetensors') ? flipped(file) : file,
      }));
      globalThis.indexedDB = new IDBFactory();
      const third = new World();
      expect(await refusal(third.tab().importFolder('stick', wrong, () => undefined))).toMatchObject({
        code: 'checkpoint_damaged',
      });
      const missing = files.filter(({ path }) => !path.endsWith('config.json'));
      expect(await refusal(third.tab().importFolder('stick', missing, () => undefined))).toMatchObject({
        code: 'checkpoint_incomplete',
      });
    }
  });

  test('without a card is taken as it is, anew each time', async () => {
    const world = new World();
    const files = [...world.origin.files].map(([path, bytes]) => ({
      path: `sd/${path}`,
      file: new File([bytes], path),
    }));
    const hidden = { path: 'sd/.DS_Store', file: new File(['x'], '.DS_Store') };
    const imported = await world.tab().importFolder('my sd', [...files, hidden], () => undefined);
    expect(imported).toMatchObject({ ref: 'import:my sd', origin: { kind: 'import' }, state: 'complete' });
    await world.expectRight('import:my sd');
    const changed = files.map(({ path, file }) => ({
      path,
      file: path.includes('vae') ? new File([safetensors(2, 8)], path) : file,
    }));
    await world.tab().importFolder('my sd', changed, () => undefined);
    world.origin.files.set('vae/diffusion_pytorch_model.safetensors', safetensors(2, 8));
    await world.expectRight('import:my sd');
    const pickles = [{ path: 'sd/model.ckpt', file: new File(['x'], 'model.ckpt') }];
    expect(await refusal(world.tab().importFolder('p', pickles, () => undefined))).toMatchObject({
      code: 'checkpoint_unsupported',
    });
    expect(await refusal(world.tab().importFolder('e', [], () => undefined))).toMatchObject({
      code: 'checkpoint_incomplete',
    });
  });
});

describe('LoRAs', () => {
  const pair = (prefix: string, seed: number): [string, { dims: number[]; data: Float32Array<ArrayBuffer> }][] => [
    [`${prefix}.lora_down.weight`, { dims: [4, 64], data: Float32Array.from(noise(256, seed)) }],
    [`${prefix}.lora_up.weight`, { dims: [64, 4], data: Float32Array.from(noise(256, seed + 1)) }],
  ];
  const loraBytes = (seed: number) => writeSafetensors(pair('lora_unet_mid_block_attentions_0_proj_in', seed));
  const onDisk = (bytes: Uint8Array<ArrayBuffer>, name: string) => new File([bytes], name);

  test('from the disk are stored by name, once, and another one of that name beside it', async () => {
    const world = new World();
    const library = world.tab();
    const nobody = () => undefined;
    expect(await library.kindOf(onDisk(loraBytes(1), 'Paper.safetensors'))).toBe('lora');
    expect(await library.kindOf(onDisk(safetensors(8), 'model.safetensors'))).toBe('checkpoint');
    const stored = await library.importAddition(onDisk(loraBytes(1), 'Paper.safetensors'), nobody);
    expect(stored).toMatchObject({
      ref: 'lora:import:Paper',
      name: 'Paper',
      origin: { kind: 'import' },
      state: 'complete',
      sha256: sha256(loraBytes(1)),
    });
    expect(await library.importAddition(onDisk(loraBytes(1), 'Other name.safetensors'), nobody)).toMatchObject({
      ref: 'lora:import:Paper',
    });
    expect(await library.importAddition(onDisk(loraBytes(2), 'Paper.safetensors'), nobody)).toMatchObject({
      ref: 'lora:import:Paper (2)',
      name: 'Paper (2)',
    });
    expect((await library.list()).map(({ ref }) => ref).sort()).toEqual(['lora:import:Paper', 'lora:import:Paper (2)']);
    for (const named of ['lora:import:Paper', 'Paper', 'paper', 'styles/Paper.safetensors']) {
      const found = await storedAddition(world.store, 'lora', named);
      expect(found).toMatchObject({ ref: 'lora:import:Paper', name: 'Paper', sha256: sha256(loraBytes(1)) });
      expect(new Uint8Array(await found.file.arrayBuffer())).toEqual(loraBytes(1));
    }
    for (const named of ['lora:import:Ink', 'Ink']) {
      expect(await refusal(storedAddition(world.store, 'lora', named))).toMatchObject({
        code: 'invalid_operation',
        message: `There is no LoRA "${named}" here; add its file in the library first, or take it out.`,
      });
    }
    expect((await storedAdditions(world.store, 'lora')).map(({ name }) => name)).toEqual(['Paper', 'Paper (2)']);
    expect((await library.verify('lora:import:Paper', nobody)).state).toBe('complete');
    await library.remove('lora:import:Paper');
    expect(await refusal(storedAddition(world.store, 'lora', 'Paper'))).toMatchObject({ code: 'invalid_operation' });
    expect(await storedAddition(world.store, 'lora', 'Paper (2)')).toMatchObject({ name: 'Paper (2)' });
  });

  test('come from a file of a repository, piece by piece, with their hash, and only when they are some', async () => {
    const bytes = writeSafetensors([...pair('lora_unet_a', 1), ...pair('lora_unet_b', 7), ...pair('lora_unet_c', 13)]);
    const world = new World({ 'styles/Paper.safetensors': bytes, 'model.safetensors': safetensors(8) });
    world.origin.license = {};
    const library = world.tab();
    const listing = await library.look(ORIGIN, null);
    const ask = (path: string) => library.downloadAddition({ listing, path, token: null }, () => undefined);
    expect(await refusal(ask('styles/Paper.safetensors'))).toMatchObject({ code: 'invalid_operation' });
    await library.acceptLicense(listing.ref);
    const ref = `lora:${REF}/styles/Paper.safetensors`;
    expect(await ask('styles/Paper.safetensors')).toMatchObject({ ref, name: 'Paper', state: 'complete' });
    expect((await world.store.files(ref, ['styles/Paper.safetensors']))[0]?.pieces.length).toBeGreaterThan(3);
    expect(await storedAddition(world.store, 'lora', 'Paper')).toMatchObject({ ref, sha256: sha256(bytes) });
    expect(await refusal(ask('model.safetensors'))).toMatchObject({
      code: 'checkpoint_unsupported',
      message: 'model.safetensors is not a LoRA; if it is a checkpoint, open it or get it as one.',
    });
    expect((await library.list()).map((one) => one.ref)).toEqual([ref]);
    // Two of the same name, from different places.
    await library.importAddition(onDisk(loraBytes(1), 'PAPER.safetensors'), () => undefined);
    expect(await storedAddition(world.store, 'lora', 'Paper')).toMatchObject({ ref });
    expect(await refusal(storedAddition(world.store, 'lora', 'papeR'))).toMatchObject({
      message: expect.stringMatching(/^There are 2 LoRAs named "papeR" here; choose one/) as string,
    });
  });

  test('are looked at before they are fetched: for whom they are, and whether that is the checkpoint at hand', async () => {
    const world = new World({
      'flux.safetensors': writeSafetensors([
        ...pair('lora_unet_double_blocks_0_img_attn_qkv', 1),
        ...pair('lora_unet_double_blocks_0_img_mod_lin', 2),
      ]),
      'model.safetensors': safetensors(8),
    });
    world.origin.license = {};
    const library = world.tab();
    const listing = await library.look(ORIGIN, null);
    const look = (path: string, wantedFor?: readonly string[]) =>
      library.lookAtAddition({ listing, path, token: null, wantedFor });
    const found = { kind: 'lora', families: ['FLUX.1'] };
    expect(await look('flux.safetensors')).toEqual({ ...found, problem: null });
    expect(await look('flux.safetensors', ['FLUX.1'])).toEqual({ ...found, problem: null });
    expect(await look('flux.safetensors', ['Z-Image'])).toEqual({
      ...found,
      problem:
        'The LoRA flux looks like one for FLUX.1, and this checkpoint is Z-Image; choose a LoRA for Z-Image, or a checkpoint of FLUX.1.',
    });
    expect(await refusal(look('model.safetensors'))).toMatchObject({
      code: 'checkpoint_unsupported',
      message: 'model.safetensors is not a LoRA; if it is a checkpoint, open it or get it as one.',
    });
    expect(await refusal(look('no.safetensors'))).toMatchObject({ code: 'checkpoint_incomplete' });
    expect(await library.list()).toEqual([]);
  });

  test('ControlNets are told from them, named by their repository, and found by that name', async () => {
    const path = 'diffusion_pytorch_model.fp16.safetensors';
    const bytes = writeSafetensors([
      ['controlnet_cond_embedding.conv_in.weight', { dims: [2, 3, 3, 3], data: new Float32Array(54) }],
    ]);
    const world = new World({ [path]: bytes });
    world.origin.license = {};
    const library = world.tab();
    const listing = await library.look(ORIGIN, null);
    await library.acceptLicense(listing.ref);
    const stored = await library.downloadAddition({ listing, path, token: null }, () => undefined);
    expect(stored).toMatchObject({ ref: `controlnet:${REF}/${path}`, name: 'something', state: 'complete' });
    expect(await storedAddition(world.store, 'controlnet', 'Something')).toMatchObject({ ref: stored.ref });
    expect(await refusal(storedAddition(world.store, 'lora', 'something'))).toMatchObject({
      message: 'There is no LoRA "something" here; add its file in the library first, or take it out.',
    });
    expect(await library.kindOf(onDisk(bytes, 'lines.safetensors'))).toBe('controlnet');
    const own = await library.importAddition(onDisk(loraBytes(1), 'lines.safetensors'), () => undefined);
    expect(own.ref).toBe('lora:import:lines');
  });

  test('come from an address, without the hub, and again by the same one', async () => {
    const world = new World({});
    world.origin.files.set('/styles/Ink.safetensors', loraBytes(3));
    const library = world.tab();
    const url = 'https://weights.example/styles/Ink.safetensors';
    const listing = await library.look({ kind: 'url', url }, null);
    await library.acceptLicense(listing.ref);
    const ask = () =>
      library.downloadAddition({ listing, path: 'Ink.safetensors', token: 'hf_secret' }, () => undefined);
    const stored = await ask();
    expect(stored).toMatchObject({ name: 'Ink', state: 'complete', origin: { kind: 'url' } });
    expect(stored.ref).toMatch(/^lora:url:https:\/\/weights\.example\/styles\//);
    const found = await storedAddition(world.store, 'lora', 'Ink');
    expect(found).toMatchObject({ ref: stored.ref, sha256: sha256(loraBytes(3)) });
    expect(new Uint8Array(await found.file.arrayBuffer())).toEqual(loraBytes(3));
    const asked = world.origin.asked.length;
    expect(await ask()).toMatchObject({ ref: stored.ref, state: 'complete' });
    expect(world.origin.asked.length).toBe(asked);
    expect(world.origin.asked.every(({ authorization }) => authorization === null)).toBe(true);
  });

  test('of other kinds and pickles are refused before anything is stored', async () => {
    const library = new World().tab();
    const data = new Float32Array(16);
    const oft = writeSafetensors([['lora_unet_a.oft_blocks', { dims: [4, 4], data }]]);
    for (const [file, message] of [
      [onDisk(oft, 'x.safetensors'), /^x\.safetensors is a relative of LoRA .* use a plain LoRA\.$/],
      [onDisk(safetensors(8), 'y.safetensors'), /^y\.safetensors is not a LoRA/],
      ...['z.ckpt', 'easy.pt', 'control.pth', 'ip-adapter.bin'].map(
        (name) =>
          [
            onDisk(loraBytes(1), name),
            new RegExp(`^${name} is a pickle, which can run code; get the \\.safetensors`),
          ] as const,
      ),
    ] as const) {
      expect(await refusal(library.importAddition(file, () => undefined))).toMatchObject({
        code: 'checkpoint_unsupported',
        message: expect.stringMatching(message) as string,
      });
    }
    expect(await library.list()).toEqual([]);
  });
});

describe('files at their origin', () => {
  test('are read by ranges, with headers once, and tell which were asked for', async () => {
    const world = new World({ ...checkpoint(), [WEIGHTS]: safetensors(20_000) });
    const library = world.tab();
    const { listing } = await world.request(library);
    const files = new RemoteFiles(new Requests(world.origin, world.clock), listing, null);
    const whole = world.origin.files.get(WEIGHTS) as Uint8Array<ArrayBuffer>;
    const blob = await files.blob(WEIGHTS);
    expect(blob.size).toBe(whole.length);
    const bytes = async (part: Blob) => Buffer.from(await part.arrayBuffer());
    expect((await bytes(blob.slice(0, 8))).equals(whole.subarray(0, 8))).toBe(true);
    expect((await bytes(blob.slice(8, 90))).equals(whole.subarray(8, 90))).toBe(true);
    expect((await bytes(blob.slice(-40).slice(10, 20))).equals(whole.subarray(-30, -20))).toBe(true);
    expect(world.origin.asked).toHaveLength(2);
    expect(world.origin.sent).toBeLessThan(600_000);
    const border = blob.slice(262_000, 262_300);
    const parts: Uint8Array[] = [];
    for await (const part of border.stream() as unknown as AsyncIterable<Uint8Array>) {
      parts.push(part);
    }
    expect(Buffer.concat(parts).equals(whole.subarray(262_000, 262_300))).toBe(true);
    expect(await (await files.blob('unet/config.json')).text()).toBe('{"sample_size":8}');
    expect(files.touched()).toEqual([WEIGHTS, 'unet/config.json']);
    expect(await refusal(files.blob('nothing.json'))).toMatchObject({ code: 'checkpoint_incomplete' });
  });

  test('come from the place that is asked for, whatever is asked for', async () => {
    const world = new World({ 'a.onnx': noise(5000) });
    const file = new OriginFile(
      new Requests(world.origin, world.clock),
      { url: 'https://huggingface.co/a/b/resolve/c/a.onnx', path: 'a.onnx', token: null },
      5000,
      null,
    );
    for (const [begin, end] of [
      [4999, 5000],
      [0, 1],
      [700, 2100],
      [0, 5000],
    ]) {
      const bytes = await file.read(begin, end, new AbortController().signal, () => undefined);
      expect(Buffer.compare(bytes, noise(5000).subarray(begin, end))).toBe(0);
    }
  });
});

test('space is what the browser says, and nothing where it says nothing', async () => {
  expect(await new World().tab().space()).toEqual({ usage: 5, quota: 10, persisted: true });
});

test('pieces of 16 MiB end where the file does', () => {
  expect(evenCuts(0)).toEqual([]);
  expect(evenCuts(PIECE_BYTES)).toEqual([PIECE_BYTES]);
  expect(evenCuts(PIECE_BYTES + 1)).toEqual([PIECE_BYTES, PIECE_BYTES + 1]);
});

test('paths stay below their folder', () => {
  for (const good of ['a', 'a/b.json', 'a b/ü.txt', '.hidden']) {
    expect(isPath(good), good).toBe(true);
  }
  for (const bad of ['', '/a', 'a/', '../a', 'a/../b', './a', 'a\\b', 'a\0', 'a//b']) {
    expect(isPath(bad), bad).toBe(false);
  }
});

test.for<[string, string, boolean]>([
  [`'self'`, 'http://127.0.0.1:4173/x', true],
  [`'self'`, 'http://127.0.0.1:4174/x', false],
  ['https://*.hf.co', 'https://cdn.hf.co/x', true],
  ['https://*.hf.co', 'https://a.b.hf.co/x', true],
  ['https://*.hf.co', 'https://hf.co/x', false],
  ['https://*.hf.co', 'https://evilhf.co/x', false],
  ['https://huggingface.co', 'https://huggingface.co.evil.example/', false],
  ['https://huggingface.co', 'http://huggingface.co/', false],
  ['http://school.example:8080', 'http://school.example:8080/', true],
  ['http://school.example:8080', 'http://school.example/', false],
  ['https://a.example:443', 'https://a.example/', true],
  ['blob:', 'https://a.example/', false],
])('the policy %s and %s', ([source, url, expected]) => {
  expect(admits(source, new URL(url), new URL('http://127.0.0.1:4173/assets/w.js'))).toBe(expected);
});

test('the policy names the hub and the hosts of DARKROOM_HOSTS, and no nonsense', () => {
  const connect = () => /connect-src ([^;]*)/.exec(headers({ development: false })['Content-Security-Policy'])?.[1];
  expect(connect()).toBe(`'self' blob: data: https://huggingface.co https://*.hf.co`);
  vi.stubEnv('DARKROOM_HOSTS', ' https://weights.example  http://10.0.0.5:8080 ');
  expect(connect()).toMatch(/ https:\/\/weights\.example http:\/\/10\.0\.0\.5:8080$/);
  vi.stubEnv('DARKROOM_HOSTS', `https://x.example; script-src *`);
  expect(connect).toThrow(/not an origin/);
  vi.unstubAllEnvs();
});

// --- Means ---------------------------------------------------------------------------------------------------------------------------

function only(origin: TestOrigin, path: string): void {
  origin.files.clear();
  origin.files.set(path, noise(9));
}

function flipped(file: File): File {
  return Object.assign(new File([file], file.name), {
    slice: (begin: number, end: number) => {
      const part = file.slice(begin, end);
      return {
        arrayBuffer: async () => {
          const bytes = new Uint8Array(await part.arrayBuffer());
          bytes[bytes.length - 1] ^= 1;
          return bytes.buffer;
        },
      };
    },
  });
}

/** Stores a small checkpoint with one file of one piece. */
async function keepAnother(world: World, ref: string): Promise<void> {
  const bytes = noise(50);
  const listing: Listing = {
    ref: `url:https://weights.example/${ref}`,
    name: 'other',
    origin: { kind: 'url', url: 'https://weights.example/' },
    revision: null,
    license: { id: 'mit', link: null, mustAccept: false },
    gated: false,
    files: [],
  };
  const record = {
    schema_version: 1 as const,
    size: 50,
    sha256: null,
    version: null,
    transformed: false,
    storedSize: 50,
    pieces: [{ length: 50, sha256: sha256(bytes) }],
    missing: [],
    hashState: null,
    digest: sha256(bytes),
    done: true,
  };
  await world.store.writeFile(ref, 'a.onnx', record, { n: 0, content: new Blob([bytes]) });
  await world.store.writeManifest({
    schema_version: 1,
    ref,
    name: listing.name,
    origin: listing.origin,
    revision: null,
    license: listing.license,
    variant: 'full',
    files: [{ path: 'a.onnx', size: 50, sha256: null }],
    addedAt: 1,
    usedAt: null,
    complete: true,
    damaged: false,
    imported: false,
    error: null,
  });
}

/** A transform whose result is easy to predict. */
const everySecondByte: TransformMaker = (_, __, size) => {
  const cuts = evenCuts(size, 1000);
  return {
    cuts,
    apply: (_, bytes) => bytes.filter((_, i) => i % 2 === 0),
    layout: [
      { bytes: new Uint8Array(Buffer.from('half')) },
      ...cuts.map((cut, piece) => ({ piece, begin: 0, end: (cut - (cuts[piece - 1] ?? 0)) / 2 })),
    ],
  };
};

/** A download that ended in the middle of the large file. */
async function interrupted(world: World, variant: 'full' | 'q8' = 'full'): Promise<void> {
  let count = 0;
  world.origin.fault = ({ path }) => (path === WEIGHTS && count++ > 4 ? new Response('', { status: 404 }) : null);
  await refusal(world.download(world.tab(), variant));
  world.origin.fault = () => null;
}

async function everything(world: World): Promise<unknown[]> {
  return world.values.read(await world.values.keys(''));
}

/** The parts of a disk folder's interface that an export needs. */
class MemoryFolder {
  readonly folders = new Map<string, MemoryFolder>();
  readonly files = new Map<string, Blob>();

  constructor(readonly name: string) {}

  get handle(): FileSystemDirectoryHandle {
    return {
      name: this.name,
      getDirectoryHandle: (name: string) => {
        const folder = this.folders.get(name) ?? new MemoryFolder(name);
        this.folders.set(name, folder);
        return Promise.resolve(folder.handle);
      },
      getFileHandle: (name: string) =>
        Promise.resolve({
          createWritable: () => {
            const parts: Uint8Array<ArrayBuffer>[] = [];
            return Promise.resolve({
              write: (part: Uint8Array) => Promise.resolve(void parts.push(new Uint8Array(part))),
              close: () => Promise.resolve(void this.files.set(name, new Blob(parts))),
              abort: () => Promise.resolve(),
            });
          },
        }),
    } as unknown as FileSystemDirectoryHandle;
  }

  list(prefix = ''): { path: string; file: File }[] {
    const own = [...this.files].map(([name, blob]) => ({ path: prefix + name, file: new File([blob], name) }));
    return [...own, ...[...this.folders].flatMap(([name, folder]) => folder.list(`${prefix}${name}/`))];
  }
}
