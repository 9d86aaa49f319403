/** Files of models found by the hashes that tools write into pictures. */
import 'fake-indexeddb/auto';
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { isHashOf, wantsReading } from '../src/core/model_hashes.ts';
import { hashesOf } from '../src/weights/fingerprint.ts';

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

test('one reading gives the hashes of all tools', async () => {
  const header = new TextEncoder().encode('{"__metadata__":{}}     ');
  const bytes = new Uint8Array(2 * 2 ** 20).map((_, i) => (i * 7) % 251);
  bytes.set([header.length, 0, 0, 0, 0, 0, 0, 0]);
  bytes.set(header, 8);
  const blob = (_: string) => Promise.resolve(new Blob([bytes]));
  const hashes = await hashesOf({ blob, version: () => 'a version' }, 'model.safetensors');
  expect(hashes).toEqual({
    sha256: sha256(bytes),
    tensors: sha256(bytes.subarray(8 + header.length)),
    blake3: hashes.blake3,
    old: sha256(bytes.subarray(0x100000, 0x110000)).slice(0, 8),
  });
  // Kept by the file's version, so that gigabytes are read once.
  const unread = () => Promise.reject(new Error('It is read again.'));
  expect(await hashesOf({ blob: unread, version: () => 'a version' }, 'model.safetensors')).toEqual(hashes);
  const empty = await hashesOf({ blob: () => Promise.resolve(new Blob([])), version: () => null }, 'empty');
  // From BLAKE3's own test vectors.
  expect(empty.blake3).toBe('af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262');
});

test('each tool writes another part of them', () => {
  const hashes = { sha256: 'a1'.repeat(32), tensors: 'b2'.repeat(32), blake3: 'c3'.repeat(32), old: 'd4d4d4d4' };
  for (const own of ['a1a1a1a1a1', 'A1A1A1A1A1', `0x${hashes.sha256}`, `sha256:${hashes.sha256}`, 'b2b2b2b2b2b2']) {
    expect(isHashOf(own, hashes), own).toBe(true);
  }
  expect([`blake3:${hashes.blake3}`, `blake3_single:${hashes.blake3}`, 'd4d4d4d4'].map((one) => isHashOf(one, hashes))).toEqual([true, true, true]); // prettier-ignore
  for (const other of ['a1a1a1a1a2', 'd4d4d4d5', 'b2b2b2b2b2b3', `blake3:${hashes.sha256}`]) {
    expect(isHashOf(other, hashes), other).toBe(false);
  }
  expect(isHashOf(`random:${hashes.sha256}`, hashes)).toBeNull();
  expect(isHashOf('d4d4d4d4', { sha256: hashes.sha256 })).toBeNull();
  expect(['a1a1a1a1a1', 'd4d4d4d4', `blake3:${hashes.blake3}`, 'random:d4d4d4d4'].map(wantsReading)).toEqual([
    false,
    true,
    true,
    false,
  ]);
});
