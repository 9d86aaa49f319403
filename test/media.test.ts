/**
 * The contract of every file in src/media, and what each medium promises beyond it. Node has no canvas, so pictures go through a fake one
 * that writes real PNG files; browsers paint them in e2e. WAV and FLAC are read back by this test's own readers.
 */
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateSync, inflateSync } from 'node:zlib';
import fc from 'fast-check';
import { createServer } from 'vite';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { StudioError } from '../src/core/errors.ts';
import type { Sketch, Sound } from '../src/core/media.ts';
import { join, latin1, latin1Bytes, utf8Bytes, viewOf } from '../src/formats/bytes.ts';
import { ZipWriter, frameName } from '../src/formats/media/zip.ts';
import type { Inscription } from '../src/formats/metadata.ts';
import { crc32 } from '../src/formats/crc32.ts';
import { readPicture } from '../src/formats/recognition.ts';
import { inscriptionOf, type Settings } from '../src/formats/settings.ts';
import { medium as audio } from '../src/media/audio.ts';
import { writeId3 } from '../src/media/audio/id3.ts';
import { peaksOf } from '../src/media/audio/peaks.ts';
import { spectrogramOf } from '../src/media/audio/spectrogram.ts';
import { trimmed } from '../src/media/audio/trimming.ts';
import { writeVorbisComment } from '../src/media/audio/vorbis_comment.ts';
import { medium as code } from '../src/media/code.ts';
import type { Medium } from '../src/media/medium.ts';
import { kindOfName, media, mimeOf, recogniseFile, resultMedium } from '../src/media/registry.ts';
import { medium as text } from '../src/media/text.ts';
import type { Video } from '../src/core/video.ts';
import type { Recorder as RecorderClass } from '../src/recorder/recorder.ts';
import type { MemoryFileStore as MemoryFileStoreClass } from '../src/recorder/memory_file_store.ts';

import { recording } from './fake_comfyui.ts';

type Bytes = Uint8Array<ArrayBuffer>;

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** A tone per channel, with some silence and values at the edges. */
function tone({ rate = 8000, channels = 2, frames = 5000 } = {}): Sound {
  const planes = Array.from({ length: channels }, (_, channel) =>
    Float32Array.from({ length: frames }, (__, i) => 0.7 * Math.sin(0.05 * (channel + 1) * i) + 0.01 * Math.sin(i * i)),
  );
  planes[0].fill(0, 100, 400).set([1, -1, 0, -0, 2 ** -23].slice(0, frames));
  return { rate, channels: planes };
}

/** One made by a ComfyUI server. */
function recordedVideo(): Video {
  const { response } = recording('video').http.find(({ request }) => request.path.includes('vid_00001_.mp4')) ?? {};
  const bytes = Buffer.from(response?.body_base64 ?? '', 'base64');
  return { file: new Blob([bytes], { type: 'video/mp4' }), width: 64, height: 64, seconds: 0.5 };
}

/** As written by a browser that cannot encode videos. */
function archivedFrames(): Video {
  const png = Buffer.from(
    'iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGNgYGBg+A8DAAYBAf9qV5W/AAAAAElFTkSuQmCC',
    'base64',
  );
  const writer = new ZipWriter();
  for (const frame of [0, 1, 2]) {
    writer.add(frameName(frame), new Uint8Array(png));
  }
  writer.add('video.json', utf8Bytes('{"width":2,"height":2,"rate":4,"frames":3}'));
  return { file: writer.finish('application/zip'), width: 2, height: 2, seconds: 0.75, frames: 3 };
}

/** A video is its file, which changes when a recipe is added. */
function held(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'file' in value ? { ...value, file: null } : value;
}

/** Sample values of each medium, and files that it must not claim. A new medium adds its values here. */
const VALUES: Record<string, unknown[]> = {
  image: [{ width: 3, height: 2, data: Uint8ClampedArray.from({ length: 24 }, (_, i) => (i % 4 === 3 ? 255 : i * 9)) }],
  audio: [tone(), tone({ channels: 1, frames: 1 }), tone({ channels: 6, rate: 48_000 }), tone({ frames: 0 })],
  text: ['', 'one', 'Grüße,\r\n紙の船 🎨\n', '\ufeffwith a mark', 'x'.repeat(600)],
  code: [
    { language: 'p5', source: 'function setup() {\n  createCanvas(100, 100);\n}\n' },
    { language: 'tonejs', source: '' },
    { language: 'p5', source: '// @language tonejs\nnew Tone.Synth()' },
  ] satisfies Sketch[],
  video: [recordedVideo(), archivedFrames()],
};
const FOREIGN = [
  null,
  undefined,
  7,
  [],
  {},
  { width: 2, height: 2, data: new Uint8Array(16) },
  { rate: 1, channels: [] },
];

const settings: Settings = {
  schema_version: 1,
  operation: {
    operation: 'image_generation',
    config: 'tone',
    parameters: {
      prompt: 'ein Glockenton, (hell:1.2)\nim Regen — 紙',
      seed: '18446744073709551615',
      steps: 20,
      guidance_scale: 7,
    },
  },
  index: 0,
  checkpoint: { name: 'Bells', ref: 'hub:a/bells@0123', sha256: { 'model.safetensors': 'ab'.repeat(32) } },
  versions: { darkroom: '0.1.0' },
};
const inscription: Inscription = inscriptionOf(settings);

async function bytesOf(blob: Blob): Promise<Bytes> {
  return new Uint8Array(await blob.arrayBuffer());
}

/** The resulting error's code, or `value`. */
async function outcome(work: () => unknown): Promise<string> {
  try {
    await work();
    return 'value';
  } catch (error) {
    if (error instanceof StudioError) {
      return error.code;
    }
    throw error;
  }
}

/** Just enough of a canvas to encode and decode 8-bit RGBA. */
class PngCanvas {
  #image: ImageData | null = null;
  readonly canvas = this;

  constructor(
    readonly width: number,
    readonly height: number,
  ) {}

  getContext() {
    return this;
  }

  putImageData(image: ImageData) {
    this.#image = image;
  }

  drawImage(bitmap: PngCanvas) {
    this.#image = bitmap.#image;
  }

  getImageData() {
    return this.#image;
  }

  close() {
    // Nothing stays in memory.
  }

  convertToBlob({ type }: { type: string }): Promise<Blob> {
    const { width, height, data } = this.#image as ImageData;
    const rows = Array.from({ length: height }, (_, y) =>
      join([new Uint8Array(1), new Uint8Array(data.subarray(4 * width * y, 4 * width * (y + 1)))]),
    );
    const chunk = (name: string, content: Uint8Array): Bytes => {
      const bytes = join([new Uint8Array(4), latin1Bytes(name), content, new Uint8Array(4)]);
      viewOf(bytes).setUint32(0, content.length);
      viewOf(bytes).setUint32(bytes.length - 4, crc32(bytes.subarray(4, -4)));
      return bytes;
    };
    const header = new Uint8Array(13);
    viewOf(header).setUint32(0, width);
    viewOf(header).setUint32(4, height);
    header.set([8, 6], 8);
    const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10);
    const parts = [
      signature,
      chunk('IHDR', header),
      chunk('IDAT', deflateSync(join(rows))),
      chunk('IEND', new Uint8Array()),
    ];
    return Promise.resolve(new Blob(parts, { type }));
  }

  static async decode(file: Blob): Promise<PngCanvas> {
    const bytes = await bytesOf(file);
    const view = viewOf(bytes);
    if (!latin1(bytes.subarray(1, 4)).startsWith('PNG') || latin1(bytes.subarray(12, 16)) !== 'IHDR') {
      throw new DOMException('The source image could not be decoded.', 'InvalidStateError');
    }
    const [width, height] = [view.getUint32(16), view.getUint32(20)];
    const start = latin1(bytes).indexOf('IDAT');
    let rows: Uint8Array;
    try {
      rows = inflateSync(bytes.subarray(start + 4, start + 4 + view.getUint32(start - 4)));
    } catch {
      throw new DOMException('The source image could not be decoded.', 'InvalidStateError');
    }
    // Like browsers, refuses sides that the pixels cannot fill, before it makes room for them.
    if (rows.length !== (4 * width + 1) * height) {
      throw new DOMException('The source image could not be decoded.', 'InvalidStateError');
    }
    const data = new Uint8ClampedArray(4 * width * height);
    for (let y = 0; y < height; y++) {
      data.set(rows.subarray(y * (4 * width + 1) + 1, (y + 1) * (4 * width + 1)), 4 * width * y);
    }
    const bitmap = new PngCanvas(width, height);
    bitmap.putImageData({ width, height, data } as unknown as ImageData);
    return bitmap;
  }
}

beforeAll(() => {
  vi.stubGlobal('OffscreenCanvas', PngCanvas);
  vi.stubGlobal(
    'ImageData',
    class {
      constructor(
        readonly data: Uint8ClampedArray,
        readonly width: number,
        readonly height: number,
      ) {}
    },
  );
  vi.stubGlobal('createImageBitmap', (file: Blob) => PngCanvas.decode(file));
});

afterAll(() => {
  vi.unstubAllGlobals();
});

test('the folder is the registry', () => {
  expect(media.map(({ id }) => id).sort()).toEqual(['audio', 'code', 'image', 'text', 'video']);
});

describe.for(media.map((medium): [string, Medium] => [medium.id, medium]))('%s', ([id, medium]) => {
  const values = VALUES[id] ?? [];

  test('says what it is', () => {
    expect(values, `no values to try the medium "${id}" with are named in this test`).not.toEqual([]);
    expect(kindOfName(`x.${medium.formats[0].extension}`)?.medium.id).toBe(id);
    expect(medium.label.en).not.toBe('');
    expect(medium.label.de).not.toBe('');
    for (const { mime, extension, label } of medium.formats) {
      expect(mime).toMatch(/^[a-z]+\/[a-z0-9.+-]+$/);
      expect(extension).toMatch(/^[a-z0-9]{1,16}$/);
      expect(label).not.toBe('');
      expect(mimeOf(`01_output.${extension}`)).toBe(mime);
      expect(mime).not.toBe('application/octet-stream');
    }
  });

  test('takes its own values only', () => {
    expect(values.map((value) => medium.accepts(value))).toEqual(values.map(() => true));
    expect(FOREIGN.filter((value) => medium.accepts(value))).toEqual([]);
    const others = Object.entries(VALUES).flatMap(([other, theirs]) => (other === id ? [] : theirs));
    expect(others.filter((value) => medium.accepts(value))).toEqual([]);
  });

  test('values come back from their files, which are known by their bytes', async () => {
    for (const value of values) {
      const file = await medium.encode(value);
      expect(medium.formats.map(({ mime }) => mime)).toContain(file.type);
      expect(await medium.decode(file)).toEqual(value);
      const kind = await recogniseFile(new Blob([file]));
      // An empty text has no bytes to recognise.
      expect(file.size === 0 ? id : kind?.medium.id).toBe(id);
      const facts = Object.values(medium.facts(value));
      expect(facts.length).toBeGreaterThan(0);
      expect(facts.every((fact) => typeof fact === 'string' || Number.isFinite(fact))).toBe(true);
    }
  });

  test('a recipe goes in, leaves what the file holds as it is, comes back, and goes out again', async () => {
    const { inscribe, readMetadata } = medium;
    if (!inscribe || !readMetadata) {
      expect([inscribe, readMetadata]).toEqual([null, null]);
      return;
    }
    for (const value of values) {
      const plain = await medium.encode(value);
      const inscribed = await inscribe(plain, inscription);
      expect(inscribed.type).toBe(plain.type);
      expect(held(await medium.decode(inscribed))).toEqual(held(value));
      expect((await readMetadata(await bytesOf(inscribed)))?.texts.get('darkroom')).toBe(inscription.darkroom);
      expect(await readPicture(inscribed)).toMatchObject({
        tool: 'Darkroom',
        parameters: settings.operation.parameters,
      });
      const twice = await inscribe(inscribed, inscription);
      expect(await bytesOf(twice)).toEqual(await bytesOf(inscribed));
      const bare = await inscribe(inscribed, null);
      expect(latin1(await bytesOf(bare))).not.toContain('Glockenton');
      expect(held(await medium.decode(bare))).toEqual(held(value));
    }
  });

  test('hostile bytes give a value or a sentence', async () => {
    const files = await Promise.all(values.map(async (value) => bytesOf(await medium.encode(value))));
    const inscribed = await Promise.all(
      files.map(async (bytes) =>
        medium.inscribe ? bytesOf(await medium.inscribe(new Blob([bytes]), inscription)) : bytes,
      ),
    );
    const mutated = fc
      .tuple(
        fc.constantFrom(...files, ...inscribed),
        fc.array(fc.tuple(fc.nat({ max: 400 }), fc.integer({ min: 0, max: 255 })), { maxLength: 8 }),
        fc.option(fc.nat({ max: 500 }), { nil: null }),
      )
      .map(([bytes, changes, end]): Bytes => {
        const copy = bytes.slice(0, end ?? bytes.length);
        changes.forEach(([at, byte]) => {
          if (at < copy.length) {
            copy[at] = byte;
          }
        });
        return copy;
      });
    await fc.assert(
      fc.asyncProperty(
        fc.oneof({ weight: 4, arbitrary: mutated }, fc.uint8Array({ maxLength: 300 })),
        async (given) => {
          const bytes = new Uint8Array(given);
          medium.recognise(bytes);
          for (const work of [
            () => medium.decode(new Blob([bytes])),
            () => medium.readMetadata?.(bytes),
            () => medium.inscribe?.(new Blob([bytes]), inscription),
          ]) {
            expect(['value', 'image_unreadable', 'media_unreadable']).toContain(await outcome(work));
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

test('no two media claim the same name or type', () => {
  const names = media.flatMap(({ formats }) =>
    formats.flatMap(({ mime, extension, aliases = [] }) => [mime, extension, ...aliases]),
  );
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
});

describe('what a file is of', () => {
  const named = (content: BlobPart[], name: string, type = '') => new File(content, name, { type });
  const mp3 = Uint8Array.of(0xff, 0xfb, 0x90, 0x64, 0, 0);
  test.for<[string, Blob, string | null]>([
    ['bytes before type', named(['fLaC'], 'x.mp3', 'audio/mpeg'), 'flac'],
    ['FLAC after an ID3 tag', new Blob([writeId3({ comment: 'x' }), 'fLaC']), 'flac'],
    ['MP3 with a tag', new Blob([writeId3({ comment: 'x' }), mp3]), 'mp3'],
    ['MP3 without one', new Blob([mp3]), 'mp3'],
    ['Ogg', new Blob(['OggS\0\x02', new Uint8Array(22), 'OpusHead']), 'ogg'],
    ['a video in an Ogg', new Blob(['OggS\0\x02', new Uint8Array(22), '\x80theora']), null],
    ['M4A', new Blob(['\0\0\0\x20ftypM4A \0\0\0\0']), 'm4a'],
    ['an MP4 that is called a sound', named(['\0\0\0\x20ftypisom\0'], 'x', 'audio/mp4; codecs=mp4a.40.2'), 'm4a'],
    ['GIF', new Blob(['GIF89a']), 'gif'],
    ['AVIF', new Blob(['\0\0\0\x1cftypavif']), 'avif'],
    ['a script by its name', named(['draw()'], 'sketch.JS'), 'js'],
    ['a script by its type', named(['draw()'], 'x', 'application/javascript'), 'js'],
    ['Markdown by its name', named(['# A'], 'notes.md'), 'md'],
    ['text that is cut in a character', new Blob([utf8Bytes('é'.repeat(400)).subarray(0, 511)]), 'txt'],
    ['Latin-1', new Blob([latin1Bytes('Grüße')]), null],
    ['nothing', new Blob([]), null],
  ])('%s', async ([, file, extension]) => {
    expect((await recogniseFile(file))?.format.extension ?? null).toBe(extension);
  });

  test('results of a run are what a run was for, of whichever medium', () => {
    const results: [string, string | undefined][] = [
      ['01_input.json', undefined],
      ['02_config.json', undefined],
      ['03_interception.txt', undefined],
      ['04_latents.safetensors', undefined],
      ['05_output_image.png', 'image'],
      ['06_output_audio.wav', 'audio'],
      ['07_output_text.txt', 'text'],
      ['08_p5.js', 'code'],
      ['09_tonejs.js', 'code'],
      ['10_output_old.bin', undefined],
      ['11_input_image.png', undefined],
    ];
    for (const [filename, id] of results) {
      const type = filename.replace(/^\d+_|\.\w+$/g, '');
      expect([filename, resultMedium({ type, filename })?.id]).toEqual([filename, id]);
    }
  });

  test('files of earlier versions are served as they always were', () => {
    expect(mimeOf('01_thing.bin')).toBe('application/octet-stream');
    expect(mimeOf('01_latents.safetensors')).toBe('application/octet-stream');
    expect(mimeOf('metadata.json')).toBe('application/json');
  });
});

describe('WAV', () => {
  const wavOf = (format: Bytes, data: Bytes, length = data.length): Bytes => {
    const size = (value: number) => new Uint8Array(Uint32Array.of(value).buffer);
    return join([
      latin1Bytes('RIFF'),
      size(20 + format.length + data.length),
      latin1Bytes('WAVEfmt '),
      size(format.length),
      format,
      latin1Bytes('data'),
      size(length),
      data,
    ]);
  };
  const format = (tag: number, channels: number, bits: number, more: number[] = []): Bytes => {
    const frame = (channels * bits) / 8;
    const fields = new Uint8Array(16);
    const view = viewOf(fields);
    view.setUint16(0, tag, true);
    view.setUint16(2, channels, true);
    view.setUint32(4, 8000, true);
    view.setUint32(8, 8000 * frame, true);
    view.setUint16(12, frame, true);
    view.setUint16(14, bits, true);
    return join([fields, Uint8Array.from(more)]);
  };
  const decode = (bytes: Bytes) => audio.decode(new Blob([bytes]));
  const GUID = [22, 0, 24, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

  test('is written byte for byte as the format says: IEEE floats, interleaved', async () => {
    const sound: Sound = { rate: 16_000, channels: [Float32Array.of(0.5, -1.5), Float32Array.of(0, 1)] };
    const bytes = await bytesOf(await audio.encode(sound));
    const view = viewOf(bytes);
    expect(latin1(bytes.subarray(0, 4)) + latin1(bytes.subarray(8, 16))).toBe('RIFFWAVEfmt ');
    expect(view.getUint32(4, true)).toBe(bytes.length - 8);
    expect([16, 20, 22, 32, 34, 36].map((at) => view.getUint16(at, true))).toEqual([18, 3, 2, 8, 32, 0]);
    expect([24, 28].map((at) => view.getUint32(at, true))).toEqual([16_000, 128_000]);
    expect(latin1(bytes.subarray(38, 42)) + latin1(bytes.subarray(50, 54))).toBe('factdata');
    expect(view.getUint32(46, true)).toBe(2);
    expect([...new Float32Array(bytes.slice(58).buffer)]).toEqual([0.5, 0, -1.5, 1]);
  });

  test.for<[string, Bytes, Bytes, number[]]>([
    ['8 bits', format(1, 1, 8), Uint8Array.of(0, 128, 255), [-1, 0, 127 / 128]],
    ['16 bits', format(1, 1, 16), Uint8Array.of(0, 0x80, 0, 0x40), [-1, 0.5]],
    ['24 bits', format(1, 1, 24), Uint8Array.of(0, 0, 0x80, 1, 0, 0), [-1, 2 ** -23]],
    ['32 bits', format(1, 1, 32), Uint8Array.of(0, 0, 0, 0xc0), [-0.5]],
    ['64-bit floats', format(3, 1, 64), new Uint8Array(Float64Array.of(0.25).buffer), [0.25]],
    ['24 bits, extensible', format(0xfffe, 1, 24, GUID), Uint8Array.of(0, 0, 0x40), [0.5]],
    ['a last frame that is cut', format(1, 1, 16), Uint8Array.of(0, 0x40, 7), [0.5]],
  ])('of %s is read', async ([, head, data, expected]) => {
    const { rate, channels } = await decode(wavOf(head, data));
    expect(rate).toBe(8000);
    expect([...channels[0]]).toEqual(expected);
  });

  test('whose length was not known when it was written is read to its end', async () => {
    const data = Uint8Array.of(0, 0x40, 0, 0x20);
    expect([...(await decode(wavOf(format(1, 1, 16), data, 0xffffffff))).channels[0]]).toEqual([0.5, 0.25]);
  });

  test.for<[string, Bytes, RegExp]>([
    ['that ends too early', wavOf(format(1, 1, 16), new Uint8Array(4), 100), /claims 100 bytes where 4 are left/],
    ['without samples', wavOf(format(1, 1, 16), new Uint8Array(4)).subarray(0, 36), /no samples/],
    ['of no channels', wavOf(format(1, 0, 16), new Uint8Array(4)), /0 channels/],
    ['of a codec that Node has not', wavOf(format(2, 1, 4), new Uint8Array(64)), /convert it to WAV or FLAC|undamaged/],
  ])('%s is refused in a sentence', async ([, bytes, sentence]) => {
    const refusal = { code: 'media_unreadable', message: expect.stringMatching(sentence) as string };
    await expect(decode(bytes)).rejects.toMatchObject(refusal);
  });

  test('samples that are no numbers are no result', async () => {
    const sound = (sample: number): Sound => ({ rate: 8000, channels: [Float32Array.of(0, sample)] });
    for (const sample of [NaN, Infinity]) {
      expect(await outcome(() => audio.encode(sound(sample)))).toBe('result_invalid');
    }
    expect(await outcome(() => audio.encode({ rate: 0.5, channels: [Float32Array.of(0)] }))).toBe('result_invalid');
  });
});

describe('saved as', () => {
  const save = async (sound: Sound, choice: string, recipe: Inscription | null = null) => {
    const saved = await audio.saving?.convert(await audio.encode(sound), choice, recipe);
    return { bytes: await bytesOf(saved?.file as Blob), notices: saved?.notices ?? [] };
  };

  test('a WAV of 16 bits: rounded, and clipping is said', async () => {
    const { bytes, notices } = await save(
      { rate: 8000, channels: [Float32Array.of(0.5, 1, -1, 2, -2, 1e-5)] },
      'wav_16',
    );
    const at = latin1(bytes).indexOf('data') + 8;
    expect([...new Int16Array(bytes.slice(at, at + 12).buffer)]).toEqual([16384, 32767, -32768, 32767, -32768, 0]);
    expect(notices).toEqual([expect.stringMatching(/^33 % of the samples were louder/)]);
    expect((await save(tone(), 'wav_16')).notices).toEqual([]);
  });

  test.for<[string, Sound, number]>([
    ['mono', tone({ channels: 1, frames: 4097 }), 24],
    ['stereo of whole blocks', tone({ frames: 8192, rate: 44_100 }), 24],
    ['six channels', tone({ channels: 6, frames: 100 }), 24],
    ['a rate that has no code', tone({ rate: 12_345 }), 24],
    ['silence', { rate: 8000, channels: [new Float32Array(5000), new Float32Array(5000)] }, 16],
    ['sixteen bits', { rate: 8000, channels: [Float32Array.from({ length: 999 }, (_, i) => (i % 91) / 2 ** 15)] }, 16],
    ['noise', { rate: 8000, channels: [Float32Array.from({ length: 5000 }, (_, i) => Math.sin(i ** 3))] }, 24],
    ['one sample', tone({ channels: 1, frames: 1 }), 24],
    ['many blocks', { rate: 8000, channels: [Float32Array.from({ length: 4096 * 130 }, (_, i) => (i % 7) / 8)] }, 16],
  ])('a FLAC that holds the same integers: %s', async ([, sound, bits]) => {
    const { bytes } = await save(sound, 'flac');
    const read = readFlac(bytes);
    expect([read.rate, read.bits, read.planes.length]).toEqual([sound.rate, bits, sound.channels.length]);
    const scale = 2 ** (bits - 1);
    read.planes.forEach((plane, channel) => {
      const expected = [...sound.channels[channel]].map(
        (sample) => Math.min(scale - 1, Math.round(sample * scale)) + 0,
      );
      expect(plane.every((value, i) => value === expected[i]) && plane.length === expected.length).toBe(true);
    });
    const width = bits / 8;
    const interleaved = new Uint8Array(read.planes.length * read.planes[0].length * width);
    read.planes.forEach((plane, channel) => {
      plane.forEach((value, i) => {
        for (let byte = 0; byte < width; byte++) {
          interleaved[(i * read.planes.length + channel) * width + byte] = value >> (8 * byte);
        }
      });
    });
    expect(createHash('md5').update(interleaved).digest('hex')).toBe(read.md5);
  });

  test('FLAC and WAV carry the recipe, under the names that other programs look for', async () => {
    for (const choice of ['wav', 'wav_16', 'flac']) {
      const { bytes } = await save(tone(), choice, inscription);
      const metadata = await audio.readMetadata?.(bytes);
      expect(metadata?.texts.get('darkroom')).toBe(inscription.darkroom);
      expect(metadata?.texts.get('comment')).toBe(inscription.parameters);
    }
    expect(latin1((await save(tone(), 'flac', inscription)).bytes)).toContain('COMMENT=');
    expect(latin1((await save(tone(), 'wav', inscription)).bytes)).toMatch(/LIST[^]*INFOICMT[^]*ISFT[^]*DKRM[^]*id3 /);
  });

  test('what no browser of ours can do says what to do instead', async () => {
    const nine = tone({ channels: 9 });
    await expect(save(nine, 'flac')).rejects.toMatchObject({
      code: 'media_unreadable',
      message: expect.stringContaining('WAV') as string,
    });
    await expect(save(tone(), 'opus')).rejects.toMatchObject({
      code: 'media_unreadable',
      message: expect.stringContaining('WAV or FLAC') as string,
    });
  });

  test('a recipe survives what ffmpeg makes of a WAV: its own entry of LIST/INFO becomes a comment of FLAC and a text of MP3', async () => {
    const { bytes } = await save(tone(), 'flac');
    const blocks = writeVorbisComment('Lavf', { comment: 'x', DKRM: inscription.darkroom });
    const head = bytes.slice(0, 42);
    head[4] = 0;
    const flac = join([head, Uint8Array.of(0x84, 0, blocks.length >> 8, blocks.length), blocks]);
    const mp3 = join([writeId3({ DKRM: inscription.darkroom }), Uint8Array.of(0xff, 0xfb, 0x90, 0x64)]);
    for (const file of [flac, mp3]) {
      expect(await readPicture(new Blob([file]))).toMatchObject({ parameters: settings.operation.parameters });
    }
    const onlyComment = join([writeId3({ comment: inscription.parameters }), Uint8Array.of(0xff, 0xfb, 0x90, 0x64)]);
    expect(await readPicture(new Blob([onlyComment]))).toMatchObject({
      tool: 'Darkroom',
      parameters: { prompt: settings.operation.parameters.prompt, seed: settings.operation.parameters.seed },
    });
  });
});

test('peaks are the extremes of each column', () => {
  const channels = [Float32Array.of(0, 0.5, -0.25, 0, 1, 0), Float32Array.of(0, 0, 0, -0.75, 0, 0)];
  const { low, high } = peaksOf({ channels }, 3);
  expect([[...low], [...high]]).toEqual([
    [0, -0.75, 0],
    [0.5, 0, 1],
  ]);
  expect([...peaksOf({ channels: [Float32Array.of(1)] }, 2).high]).toEqual([1, 1]);
  expect([...peaksOf({ channels: [new Float32Array(0)] }, 2).high]).toEqual([0, 0]);
});

test('a spectrogram has each tone in its row, as loud as it is, and silence where there is none', () => {
  const rate = 8000;
  const [columns, rows] = [20, 64];
  // First a tone of full scale, then one of a hundredth, which is 40 decibels less, then nothing.
  const plane = Float32Array.from({ length: 3 * rate }, (_, i) =>
    i < rate
      ? Math.sin((2 * Math.PI * 500 * i) / rate)
      : i < 2 * rate
        ? Math.sin((2 * Math.PI * 2000 * i) / rate) / 100
        : 0,
  );
  const { levels, lowest, highest } = spectrogramOf({ rate, channels: [plane, plane] }, columns, rows);
  expect(highest).toBe(4000);
  const columnOf = (column: number) => Array.from({ length: rows }, (_, row) => levels[row * columns + column]);
  for (const [column, hertz, decibels] of [
    [3, 500, 0],
    [10, 2000, -40],
  ]) {
    const found = columnOf(column);
    const loudest = found.indexOf(Math.max(...found));
    const at = lowest * (highest / lowest) ** ((rows - loudest - 0.5) / rows);
    expect(Math.abs(Math.log2(at / hertz))).toBeLessThan(0.1);
    expect(Math.abs(found[loudest] - 255 * (1 + decibels / 90))).toBeLessThan(6);
  }
  expect(Math.max(...columnOf(17))).toBe(0);
  expect(spectrogramOf({ rate, channels: [new Float32Array(0)] }, 2, 2).levels).toEqual(new Uint8ClampedArray(4));
});

test('a part of a sound has the samples between its edges, and at least one', async () => {
  const sound = { rate: 10, channels: [Float32Array.of(0, 1, 2, 3), Float32Array.of(4, 5, 6, 7)] };
  const part = async (start: number, end: number) =>
    (await audio.decode(trimmed(sound, { start, end }))).channels.map((plane) => [...plane]);
  expect(await part(0.1, 0.3)).toEqual([
    [1, 2],
    [5, 6],
  ]);
  expect(await part(0, 9)).toEqual([
    [0, 1, 2, 3],
    [4, 5, 6, 7],
  ]);
  expect(await part(0.4, 0.4)).toEqual([[3], [7]]);
});

describe('code and text', () => {
  test('a sketch of another program is told by what it calls', async () => {
    const sketch = async (source: string) => (await code.decode(new Blob([source]))).language;
    expect(await sketch('function draw() { circle(1, 2, 3); }')).toBe('p5');
    expect(await sketch('const synth = new Tone.Synth().toDestination();')).toBe('tonejs');
  });

  test('the language stands in the first line, and nowhere in the source', async () => {
    const file = await code.encode({ language: 'tonejs', source: 'Tone.start();' });
    expect(await file.text()).toBe('// @language tonejs\nTone.start();');
  });

  test('a text that is not UTF-8 says so', async () => {
    await expect(text.decode(new Blob([latin1Bytes('Grüße')]))).rejects.toMatchObject({
      code: 'media_unreadable',
      message: expect.stringContaining('UTF-8') as string,
    });
  });
});

test('a medium that is dropped in is recorded under its own extension and served as its own type, with no other edit', async () => {
  mkdirSync(joinPath(ROOT, 'node_modules', '.media'), { recursive: true });
  const copy = mkdtempSync(joinPath(ROOT, 'node_modules', '.media', 'copy-'));
  try {
    for (const part of ['src', 'workers', 'package.json']) {
      cpSync(joinPath(ROOT, part), joinPath(copy, part), { recursive: true });
    }
    cpSync(
      joinPath(ROOT, 'e2e', 'fixtures', 'dropped_in', 'media', 'scent.ts'),
      joinPath(copy, 'src', 'media', 'scent.ts'),
    );
    const server = await createServer({
      root: copy,
      configFile: false,
      appType: 'custom',
      server: { middlewareMode: true, ws: false, watch: null },
      optimizeDeps: { noDiscovery: true },
      logLevel: 'error',
    });
    try {
      const load = <T>(path: string) => server.ssrLoadModule(path) as Promise<T>;
      const { Recorder } = await load<{ Recorder: typeof RecorderClass }>('/src/recorder/recorder.ts');
      const { MemoryFileStore } = await load<{ MemoryFileStore: typeof MemoryFileStoreClass }>(
        '/src/recorder/memory_file_store.ts',
      );
      const recorder = new Recorder(new MemoryFileStore());
      const run = await recorder.openRun({ config_name: 'scent', operation: null, expected_outputs: ['output_scent'] });
      const { filename } = await recorder.saveEntity(run, 'output_scent', new Blob(['SCENT\0rose,cedar']));
      expect(filename).toBe('01_output_scent.scent');
      expect((await recorder.readEntity(run, filename)).type).toBe('application/x-scent');
      await recorder.closeRun(run, 'completed');
      expect(await recorder.findRuns({ limit: 1 })).toMatchObject([{ results: 1, picture: filename }]);
    } finally {
      await server.close();
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});

/** A reader of FLAC as RFC 9639 says, for fixed, constant and verbatim subframes with Rice codes. */
function readFlac(bytes: Bytes): { rate: number; bits: number; planes: number[][]; md5: string } {
  let at = 4;
  let info: Bytes | null = null;
  for (let isLast = false; !isLast;) {
    const length = (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    isLast = bytes[at] >= 128;
    info ??= bytes.subarray(at + 4, at + 4 + length);
    at += 4 + length;
  }
  const view = viewOf(info as Bytes);
  const packed = view.getBigUint64(10);
  const rate = Number(packed >> 44n);
  const channels = Number((packed >> 41n) & 7n) + 1;
  const bits = Number((packed >> 36n) & 31n) + 1;
  const total = Number(packed & 0xfffffffffn);
  const md5 = Buffer.from((info as Bytes).subarray(18, 34)).toString('hex');
  const planes = Array.from({ length: channels }, (): number[] => []);
  let bit = 8 * at;
  const take = (count: number): number => {
    let value = 0;
    for (let i = 0; i < count; i++, bit++) {
      value = value * 2 + ((bytes[bit >> 3] >> (7 - (bit & 7))) & 1);
    }
    return value;
  };
  const signed = (count: number): number => {
    const value = take(count);
    return value >= 2 ** (count - 1) ? value - 2 ** count : value;
  };
  const checked = (from: number, polynomial: number, width: number) => {
    let sum = 0;
    for (const byte of bytes.subarray(from, bit >> 3)) {
      sum ^= byte << (width - 8);
      for (let i = 0; i < 8; i++) {
        sum = ((sum << 1) ^ (sum >> (width - 1) ? polynomial : 0)) & (2 ** width - 1);
      }
    }
    expect(take(width)).toBe(sum);
  };
  for (let frame = 0; planes[0].length < total; frame++) {
    const from = bit >> 3;
    expect(take(16)).toBe(0b1111111111111000);
    const [sizeCode, , assignment, bitsCode] = [take(4), take(4), take(4), take(3)];
    expect([bitsCode, take(1)]).toEqual([bits === 16 ? 4 : 6, 0]);
    const first = take(8);
    const more = first < 0x80 ? 0 : Math.clz32(~(first << 24)) - 1;
    let number = more === 0 ? first : first & (0x3f >> more);
    for (let i = 0; i < more; i++) {
      number = number * 64 + (take(8) & 0x3f);
    }
    expect(number).toBe(frame);
    const length = sizeCode === 12 ? 4096 : take(16) + 1;
    checked(from, 0x07, 8);
    const signals = Array.from({ length: channels }, (_, channel) => {
      const isSide =
        (assignment === 8 && channel === 1) ||
        (assignment === 9 && channel === 0) ||
        (assignment === 10 && channel === 1);
      const depth = bits + (isSide ? 1 : 0);
      take(1);
      const kind = take(6);
      take(1);
      if (kind === 0) {
        return new Array<number>(length).fill(signed(depth));
      }
      if (kind === 1) {
        return Array.from({ length }, () => signed(depth));
      }
      const order = kind - 8;
      const out = Array.from({ length: order }, () => signed(depth));
      expect(take(2)).toBe(1);
      const parts = 2 ** take(4);
      for (let part = 0; part < parts; part++) {
        const parameter = take(5);
        for (let i = part === 0 ? order : 0; i < length / parts; i++) {
          let quotient = 0;
          while (take(1) === 0) {
            quotient++;
          }
          const folded = quotient * 2 ** parameter + take(parameter);
          const residual = folded % 2 === 0 ? folded / 2 : -(folded + 1) / 2;
          const [a = 0, b = 0, c = 0, d = 0] = [1, 2, 3, 4].map((back) => out[out.length - back]);
          out.push(residual + [0, a, 2 * a - b, 3 * a - 3 * b + c, 4 * a - 6 * b + 4 * c - d][order]);
        }
      }
      return out;
    });
    bit = 8 * Math.ceil(bit / 8);
    checked(from, 0x8005, 16);
    const [x, y] = signals;
    const whole =
      assignment === 8
        ? [x, x.map((value, i) => value - y[i])]
        : assignment === 9
          ? [y.map((value, i) => value + x[i]), y]
          : assignment === 10
            ? [
                x.map((value, i) => (2 * value + (Math.abs(y[i]) % 2) + y[i]) / 2),
                x.map((value, i) => (2 * value + (Math.abs(y[i]) % 2) - y[i]) / 2),
              ]
            : signals;
    whole.forEach((signal, channel) => signal.forEach((value) => planes[channel].push(value)));
  }
  return { rate, bits, planes, md5 };
}
