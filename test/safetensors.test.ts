import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { StudioError } from '../src/core/errors.ts';
import type { SafetensorsHeader } from '../src/weights/safetensors.ts';
import {
  parseSafetensorsHeader,
  readSafetensorsHeader,
  safetensorsHeaderLength,
  writeSafetensors,
} from '../src/weights/safetensors.ts';

const FILE = 'unet/model.safetensors';

function parse(file: Uint8Array): SafetensorsHeader {
  const n = safetensorsHeaderLength(file.subarray(0, 8), file.length, FILE);
  return parseSafetensorsHeader(file.subarray(8, 8 + n), file.length, FILE);
}

/** A file with this header and this many bytes of tensors. */
function build(header: string | object, dataBytes: number, claimed?: bigint): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, claimed ?? BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(StudioError);
    expect((error as StudioError).code).toBe('checkpoint_damaged');
    expect((error as StudioError).message).toContain(FILE);
    return (error as StudioError).message;
  }
  return 'accepted';
}

const f32 = (begin: number, end: number, shape: unknown = [(end - begin) / 4]) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
});

describe('what is accepted', () => {
  test('tensors in the order of their bytes, with absolute offsets', () => {
    const file = build({ b: f32(8, 16), a: f32(0, 8, [2, 1]), none: f32(8, 8, [0, 3]), one: f32(16, 20, []) }, 20);
    const { tensors, headerBytes } = parse(file);
    expect([...tensors.keys()]).toEqual(['a', 'none', 'b', 'one']);
    expect(headerBytes).toBe(file.length - 20);
    expect(tensors.get('b')).toEqual({ name: 'b', dtype: 'F32', shape: [2], offset: headerBytes + 8, length: 8 });
  });

  test('no tensors, metadata, trailing spaces, escapes in names', () => {
    expect(parse(build('{}', 0)).tensors.size).toBe(0);
    const { metadata, tensors } = parse(
      build('{"__metadata__":{"a":"1:\\"2"},"q\\u0022\\\\":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', 1),
    );
    expect([...metadata]).toEqual([['a', '1:"2']]);
    expect([...tensors.keys()]).toEqual(['q"\\']);
  });

  test.each<[string, string, [string, string][]]>([
    ['none', '{}', []],
    ['null', '{"__metadata__":null}', []],
    ['a list', '{"__metadata__":[1,{"a":"b"}]}', []],
    ['a number', '{"__metadata__": -1.5e3 }', []],
    [
      'what is no text',
      '{"__metadata__":{"rank":8,"alpha":0.5,"gone":null,"is":true}}',
      [
        ['rank', '8'],
        ['alpha', '0.5'],
        ['gone', 'null'],
        ['is', 'true'],
      ],
    ],
    ['what nests', '{"__metadata__":{"a":{"b:,":["c",{"d":1}]}}}', [['a', '{"b:,":["c",{"d":1}]}']]],
    ['the same twice', '{"__metadata__":{"a":"1","a":"2"}}', [['a', '2']]],
  ])('metadata of any kind, as other programs take them: %s', (_, header, expected) => {
    const entry = '"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
    const behind = header === '{}' ? `{${entry}}  ` : `${header.slice(0, -1)},${entry}}`;
    const before = header === '{}' ? `{${entry}}` : `{${entry},${header.slice(1)}`;
    for (const text of [behind, before]) {
      const { metadata, tensors } = parse(build(text, 1));
      expect([...metadata]).toEqual(expected);
      expect(tensors.get('w')).toMatchObject({ dtype: 'U8', shape: [1], length: 1 });
    }
  });

  test('types that are newer than this code, which are judged where their numbers are needed', () => {
    const file = build(
      {
        'a.weight': { dtype: 'F4', shape: [3, 3], data_offsets: [0, 5] },
        'b.weight': { dtype: 'F6_E2M3', shape: [4], data_offsets: [5, 8] },
        'c.weight': { dtype: 'I4X', shape: [100], data_offsets: [8, 9] },
        d: f32(9, 13),
      },
      13,
    );
    expect([...parse(file).tensors.values()].map(({ dtype, length }) => [dtype, length])).toEqual([
      ['F4', 5],
      ['F6_E2M3', 3],
      ['I4X', 1],
      ['F32', 4],
    ]);
  });

  test('names of Object.prototype are ordinary names', () => {
    const file = build(
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
      2,
    );
    expect([...parse(file).tensors.keys()]).toEqual(['__proto__', 'constructor']);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  test.each(['unet', 'vae', 'text_encoder'])(
    'the %s of a checkpoint that Python wrote, through a Blob',
    async (folder) => {
      const name = folder === 'text_encoder' ? 'model' : 'diffusion_pytorch_model';
      const bytes = readFileSync(new URL(`checkpoints/tiny-sd15/${folder}/${name}.safetensors`, import.meta.url));
      const { tensors } = await readSafetensorsHeader(new Blob([bytes]), FILE);
      expect(tensors.size).toBeGreaterThan(10);
      const last = [...tensors.values()].at(-1)!;
      expect(last.offset + last.length).toBe(bytes.length);
    },
  );
});

describe('attacks', () => {
  const u8 = '"dtype":"U8","shape":[1],"data_offsets":[0,1]';
  test.each<[string, Uint8Array]>([
    ['an empty file', new Uint8Array(0)],
    ['less than a length', new Uint8Array(7)],
    ['a header longer than the file', build('{}', 0, 3n)],
    ['a header of 2^63 bytes', build('{}', 0, 2n ** 63n)],
    ['a header of 2^64 − 8 bytes, which wraps around', build('{}', 0, 2n ** 64n - 8n)],
    ['a header of 100 MB', build('{}', 0, 100_000_000n)],
    ['a header of no bytes', build('', 0)],
    ['no JSON', build('hello', 0)],
    ['JSON that is not UTF-8', build('{}', 0).map((byte, i) => (i === 8 ? 0xff : byte))],
    ['a byte order mark', build('\ufeff{}', 0)],
    ['a header that begins with a space', build(' {}', 0)],
    ['a list', build('[]', 0)],
    ['null', build('null', 0)],
    ['junk after the header', build('{} x', 0)],
    ['two objects', build('{}{}', 0)],
    ['a comma too many', build(`{"a":{${u8}},}`, 1)],
    ['lists nested a million deep', build('{"a":' + '['.repeat(1_000_000), 0)],
    [
      'a shape nested a hundred thousand deep',
      build(`{"a":{"dtype":"U8","shape":${'['.repeat(1e5)}${']'.repeat(1e5)},"data_offsets":[0,1]}}`, 1),
    ],
    ['the same tensor twice', build(`{"a":{${u8}},"a":{${u8}}}`, 1)],
    ['the same tensor twice, once escaped', build(`{"a":{${u8}},"\\u0061":{${u8}}}`, 1)],
    ['the same field twice', build(`{"a":{${u8},"dtype":"U8"}}`, 1)],
    ['the metadata twice', build('{"__metadata__":{},"__metadata__":{}}', 0)],
    ['metadata nested a million deep', build(`{"__metadata__":{"a":${'['.repeat(1e6)}${']'.repeat(1e6)}}}`, 0)],
    ['a word beside the metadata', build('{"__metadata__":{"a":true},"b":true}', 0)],
    ['a fraction behind the metadata', build(`{"__metadata__":{"a":0.5},"b":{${u8.replace('[1]', '[1.0]')}}}`, 1)],
    ['a name that only looks like the metadata', build('{"a":{"__metadata__":null}}', 0)],
    ['a type of Object.prototype', build({ a: { ...f32(0, 4), dtype: 'toString' } }, 4)],
    ['a type that is no text', build({ a: { ...f32(0, 4), dtype: 32 } }, 4)],
    ['an unknown field', build({ a: { ...f32(0, 4), file: '/etc/passwd' } }, 4)],
    ['a missing field', build({ a: { dtype: 'F32', shape: [1] } }, 4)],
    ['an entry that is no object', build({ a: 3 }, 0)],
    ['a fraction', build('{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1)],
    ['an exponent', build('{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', 1)],
    ['a negative size', build({ a: f32(0, 4, [-1, -1]) }, 4)],
    [
      'a size beyond 2^53',
      build('{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,9007199254740993]}}', 1),
    ],
    [
      'a product that overflows 64 bits to the right size',
      build({ a: { dtype: 'U8', shape: [2 ** 32, 2 ** 32], data_offsets: [0, 0] } }, 0),
    ],
    [
      'a product that overflows and is then zero',
      build({ a: { dtype: 'U8', shape: [2 ** 40, 2 ** 40, 0], data_offsets: [0, 0] } }, 0),
    ],
    [
      'a shape of a hundred thousand large sizes',
      build({ a: { dtype: 'U8', shape: new Array(1e5).fill(2 ** 52), data_offsets: [0, 1] } }, 1),
    ],
    ['fewer bytes than the shape needs', build({ a: f32(0, 4, [2]) }, 4)],
    ['more bytes than the shape needs', build({ a: f32(0, 8, [1]) }, 8)],
    ['an end before its begin', build({ a: f32(4, 0, [1]) }, 4)],
    ['one offset', build({ a: { ...f32(0, 4), data_offsets: [4] } }, 4)],
    ['three offsets', build({ a: { ...f32(0, 4), data_offsets: [0, 4, 8] } }, 8)],
    ['offsets beyond the file', build({ a: f32(0, 400) }, 4)],
    ['a gap at the beginning', build({ a: f32(4, 8) }, 8)],
    ['a gap', build({ a: f32(0, 4), b: f32(8, 12) }, 12)],
    ['bytes that two tensors share', build({ a: f32(0, 8), b: f32(4, 12) }, 12)],
    ['the same bytes for two tensors', build({ a: f32(0, 4), b: f32(0, 4) }, 4)],
    ['an empty tensor inside another', build({ a: f32(0, 8), b: f32(4, 4, [0]) }, 8)],
    ['bytes of no tensor', build({ a: f32(0, 4) }, 8)],
    [
      'a hundred thousand tensors',
      build(Object.fromEntries(Array.from({ length: 1e5 }, (_, i) => [`t${i}`, f32(0, 0)])), 0),
    ],
  ])('%s', (_, file) => {
    expect(refusal(() => parse(file))).toMatch(/ is damaged: .+; get it again\.$/);
  });
});

describe('damage by accident', () => {
  const whole = writeSafetensors(
    [
      ['latents', { dims: [1, 4, 2, 2], data: new Float32Array(16).fill(0.5) }],
      ['noise', { dims: [3], data: Float32Array.of(1, 2, 3) }],
    ],
    { seed: '42' },
  );

  test('a file cut anywhere is refused', () => {
    for (let k = 0; k < whole.length; k++) {
      expect(
        refusal(() => parse(whole.subarray(0, k))),
        `cut at ${k}`,
      ).not.toBe('accepted');
    }
    expect(parse(whole).tensors.size).toBe(2);
  });

  test('10,000 mutants are parsed or refused, each in no time', () => {
    let state = 12345;
    const random = (n: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return Math.floor((state / 2 ** 32) * n);
    };
    const headerEnd = parse(whole).headerBytes;
    let accepted = 0;
    const start = performance.now();
    for (let i = 0; i < 10_000; i++) {
      const mutant = whole.slice();
      for (let k = random(4); k >= 0; k--) {
        mutant[random(headerEnd)] = random(3) === 0 ? random(256) : (mutant[random(headerEnd)] ?? 0);
      }
      if (refusal(() => parse(mutant)) === 'accepted') {
        accepted++;
        const { tensors } = parse(mutant);
        expect([...tensors.values()].every(({ offset, length }) => offset + length <= mutant.length)).toBe(true);
      }
    }
    expect(performance.now() - start).toBeLessThan(20_000);
    // Some only rename a tensor.
    expect(accepted).toBeGreaterThan(10);
    expect(accepted).toBeLessThan(3000);
  });
});

describe('writing', () => {
  test("the same bytes as Python's safetensors", () => {
    const data = Float32Array.of(0, 1, 2, 3, 4, 5);
    const bytes = writeSafetensors([['latents', { dims: [2, 3], data }]]);
    // safetensors.numpy.save({'latents': np.arange(6, dtype=np.float32).reshape(2, 3)}).hex()
    expect(Buffer.from(bytes).toString('hex')).toBe(
      '40000000000000007b226c6174656e7473223a7b226474797065223a22463332222c227368617065223a5b322c335d2c22646174615f6f666673657473223a5b302c32345d7d7d20000000000000803f0000004000004040000080400000a040',
    );
  });

  test('what is written is read back, values and metadata', () => {
    const data = Float32Array.of(1.5, -2, Number.MIN_VALUE, 3e38);
    // A view that does not start at its buffer's beginning.
    const view = new Float32Array(Float32Array.of(9, ...data).buffer, 4);
    const bytes = writeSafetensors([['__proto__', { dims: [4], data: view }]], { prompt: 'a "cat"' });
    const { tensors, metadata } = parse(bytes);
    const { offset } = tensors.get('__proto__')!;
    expect(offset % 8).toBe(0);
    expect(new Float32Array(bytes.buffer, offset, 4)).toEqual(data);
    expect(metadata.get('prompt')).toBe('a "cat"');
  });
});
