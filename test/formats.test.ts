/**
 * Metadata written into pictures and read from them. The fixtures of the ten tools are made here, in the shapes that
 * ../shared/facts/formats.md describes; no tool made them. Pillow's files, and what Python's `re` finds in infotext lines, come from
 * reference/make_format_goldens.py.
 */
import { readFileSync } from 'node:fs';
import { gzipSync, deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { DEFAULT_CHECKPOINT } from '../src/core/builtin_checkpoints.ts';
import { StudioError } from '../src/core/errors.ts';
import type { PixelImage } from '../src/core/media.ts';
import { parseOperation } from '../src/core/operation.ts';
import { join, latin1Bytes, utf8Bytes, viewOf } from '../src/formats/bytes.ts';
import { inscribe, readMetadata, writeMetadata } from '../src/formats/container.ts';
import { ExifTag, readExif, writeExif } from '../src/formats/exif.ts';
import { inflate } from '../src/formats/inflation.ts';
import { deflated, losslessPng } from '../src/formats/lossless_png.ts';
import { findPairs, parseInfotext, writeInfotext } from '../src/formats/infotext.ts';
import { readingOf } from '../src/formats/infotext_reading.ts';
import { asciiJson, readJson } from '../src/formats/json.ts';
import { MAX_TEXT, type Inscription, type Metadata } from '../src/formats/metadata.ts';
import { crc32 } from '../src/formats/crc32.ts';
import type { Reading } from '../src/formats/reading.ts';
import { readPicture, toolNames } from '../src/formats/recognition.ts';
import { samplerLabel, samplerNamed, scheduleNamed } from '../src/formats/sampler_labels.ts';
import { inscriptionOf, readSettings, settingsOf, type Settings } from '../src/formats/settings.ts';
import { readStealth } from '../src/formats/stealth.ts';
import { writeXmp, xmpValue } from '../src/formats/xmp.ts';
import { pngPixels } from '../src/package/node_picture.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../src/weights/safetensors.ts';
import { chunk, exifOf, golden, iTXt, jpegOf, png, pngOf, riff, segment, tEXt, type Bytes } from './picture_files.ts';

const infotexts = JSON.parse(readFileSync(new URL('goldens/formats/infotext.json', import.meta.url), 'utf8')) as {
  texts: Record<'latin1' | 'unicode', string>;
  lines: { line: string; pairs: [string, string][] }[];
};

const PLAIN = { PNG: 'plain.png', JPEG: 'plain.jpg', WebP: 'plain.webp', 'lossless WebP': 'plain_lossless.webp' };

const settings: Settings = {
  schema_version: 1,
  operation: {
    operation: 'image_generation',
    config: 'stable_diffusion_1_5',
    parameters: {
      prompt: 'a paper boat, (blue:1.2)\nin the rain — 紙の船',
      negative_prompt: 'people, "text"',
      steps: 20,
      guidance_scale: 7.5,
      seed: '18446744073709551615',
      width: 512,
      height: 768,
      batch_size: 1,
    },
  },
  index: 0,
  width: 512,
  height: 768,
  checkpoint: { name: 'Boats', ref: 'hub:a/boats@0123', sha256: { 'unet/model.safetensors': 'ab'.repeat(32) } },
  versions: { darkroom: '0.1.0' },
  sampler: 'dpmpp_2m',
  schedule: 'karras',
};

const nothingHidden = (): Promise<PixelImage> =>
  Promise.resolve({ width: 1, height: 1, data: new Uint8ClampedArray(4).fill(255) });
const read = (bytes: Bytes): Promise<Reading | null> => readPicture(bytes, nothingHidden);

/** The chunks of a WebP file by name; of a PNG file by name. */
function webpChunks(bytes: Bytes): Map<string, Bytes> {
  const found = new Map<string, Bytes>();
  for (let at = 12; at < bytes.length;) {
    const length = viewOf(bytes).getUint32(at + 4, true);
    found.set(String.fromCharCode(...bytes.subarray(at, at + 4)), bytes.slice(at + 8, at + 8 + length));
    at += 8 + length + (length % 2);
  }
  return found;
}

async function refusal(action: () => unknown): Promise<string> {
  try {
    await action();
  } catch (error) {
    expect(error).toBeInstanceOf(StudioError);
    expect((error as StudioError).code).toBe('image_unreadable');
    expect((error as StudioError).message).toMatch(/^[A-Z][^\n]*\.$/);
    return (error as StudioError).message;
  }
  return 'accepted';
}

describe('containers', () => {
  test.each(['latin1', 'unicode'] as const)('what Pillow wrote is read: %s', async (name) => {
    const text = infotexts.texts[name];
    for (const file of [`text_${name}.png`, `packed_${name}.png`]) {
      expect((await readMetadata(golden(file)))?.texts.get('parameters')).toBe(text);
    }
    for (const file of [`exif_${name}.jpg`, `exif_${name}.webp`, `exif_${name}.png`]) {
      const metadata = (await readMetadata(golden(file))) as Metadata;
      expect(metadata.exif.get(ExifTag.userComment), file).toBe(text);
      expect(metadata.exif.get(ExifTag.software), file).toBe('Pillow');
    }
    expect((await readMetadata(golden(`exif_${name}.jpg`)))?.comment).toBe('made up');
    expect((await readMetadata(golden(`exif_${name}.webp`)))?.xmp).toBe('<x/>');
  });

  test.each(Object.entries(PLAIN))('what is written into a %s is read back, and its pixels stay', async (_, file) => {
    const plain = golden(file);
    const inscription = inscriptionOf(settings);
    const written = writeMetadata(plain, inscription);
    const { texts, exif, xmp } = (await readMetadata(written)) as Metadata;
    expect(texts.get('parameters') ?? exif.get(ExifTag.userComment)).toBe(inscription.parameters);
    expect(texts.get('darkroom') ?? xmpValue(xmp ?? '', 'darkroom:settings')).toBe(inscription.darkroom);
    expect(texts.get('Software') ?? exif.get(ExifTag.software)).toBe('Darkroom 0.1.0');
    expect(xmpValue(xmp ?? '', 'Iptc4xmpExt:DigitalSourceType')).toMatch(/trainedAlgorithmicMedia$/);
    // Writing again replaces, writing nothing removes: all bytes of the plain file are still there.
    expect(writeMetadata(written, inscription)).toEqual(written);
    const bare = writeMetadata(written, null);
    expect(await readMetadata(bare)).toEqual({ texts: new Map(), exif: new Map(), xmp: null, comment: null });
    if (file.endsWith('.webp')) {
      const chunks = webpChunks(bare);
      const [type, pixels] = [...webpChunks(plain)].at(-1)!;
      expect(chunks.get(type)).toEqual(pixels);
      // The extended header stays: no metadata, the size less one, and alpha where there is some.
      expect([...chunks.get('VP8X')!]).toEqual([file === PLAIN.WebP ? 0 : 0x10, 0, 0, 0, 7, 0, 0, 5, 0, 0]);
    } else {
      expect(bare).toEqual(plain);
    }
    expect(writeMetadata(plain, null)).toEqual(plain);
  });

  test('a Blob keeps its type', async () => {
    const blob = await inscribe(new Blob([golden('plain.jpg')], { type: 'image/jpeg' }), inscriptionOf(settings));
    expect(blob.type).toBe('image/jpeg');
    expect((await readPicture(blob, nothingHidden))?.tool).toBe('Darkroom');
  });

  test('any text survives every container', async () => {
    const text = fc.string({ unit: 'binary', maxLength: 200 }).map((one) => one.replaceAll('\0', ''));
    // EXIF does not state the byte order of 16-bit characters; the line of pairs gives it away.
    const infotext = text.map((one) => `${one}\nSteps: 20, Seed: 1, Size: 512x512, RNG: CPU, Version: Darkroom`);
    await fc.assert(
      fc.asyncProperty(infotext, text, fc.constantFrom(...Object.values(PLAIN)), async (parameters, secret, file) => {
        const inscription: Inscription = {
          parameters,
          darkroom: asciiJson({ secret }),
          software: 'Darkroom',
          isComposite: true,
        };
        const { texts, exif, xmp } = (await readMetadata(writeMetadata(golden(file), inscription))) as Metadata;
        expect(texts.get('parameters') ?? exif.get(ExifTag.userComment) ?? '').toBe(parameters);
        const json = texts.get('darkroom') ?? xmpValue(xmp ?? '', 'darkroom:settings');
        expect(JSON.parse(json ?? '')).toEqual({ secret });
      }),
      { numRuns: 400, seed: 5 },
    );
  });

  test('EXIF comments in other encodings and orders', () => {
    const comment = (value: Uint8Array, order: 'II' | 'MM'): string | undefined => {
      const little = order === 'II';
      const block = join([latin1Bytes(order), new Uint8Array(24), value]);
      const view = viewOf(block);
      view.setUint16(2, 42, little);
      view.setUint32(4, 8, little);
      view.setUint16(8, 1, little);
      view.setUint16(10, ExifTag.userComment, little);
      view.setUint16(12, 7, little);
      view.setUint32(14, value.length, little);
      view.setUint32(18, 26, little);
      return readExif(block).get(ExifTag.userComment);
    };
    const utf16 = (text: string, little: boolean) => {
      const bytes = new Uint8Array(2 * text.length);
      [...Array(text.length).keys()].forEach((i) => viewOf(bytes).setUint16(2 * i, text.charCodeAt(i), little));
      return join([latin1Bytes('UNICODE\0'), bytes]);
    };
    for (const order of ['II', 'MM'] as const) {
      expect(comment(utf16('Steps: 20, 船', true), order)).toBe('Steps: 20, 船');
      expect(comment(utf16('Steps: 20, 船', false), order)).toBe('Steps: 20, 船');
      expect(comment(utf16('紙船', order === 'II'), order)).toBe('紙船');
      expect(comment(latin1Bytes('ASCII\0\0\0Steps: 20'), order)).toBe('Steps: 20');
      expect(comment(join([new Uint8Array(8), utf8Bytes('Größe')]), order)).toBe('Größe');
      expect(comment(utf8Bytes('no encoding said'), order)).toBe('no encoding said');
    }
    expect(readExif(writeExif('Darkroom', 'é船')).get(ExifTag.userComment)).toBe('é船');
  });

  const head = golden('plain.png').subarray(0, 33);
  const zipped = (text: string) => join([latin1Bytes('parameters\0\0'), deflateSync(text)]);
  test.each<[string, Bytes, RegExp]>([
    ['a PNG that ends after its signature', golden('plain.png').slice(0, 8), /ends too early/],
    ['a PNG that ends in its pixels', golden('plain.png').slice(0, 60), /claims/],
    ['a PNG without a header', join([head.subarray(0, 8), chunk('IEND', new Uint8Array(0))]), /begin with its header/],
    [
      'a chunk of 4 GiB',
      join([head, Uint8Array.of(255, 255, 255, 255, 116, 69, 88, 116, 0, 0, 0, 0)]),
      /claims 4294967295/,
    ],
    ['a wrong checksum', png(tEXt('parameters', 'a').map((byte, i) => (i === 20 ? byte ^ 1 : byte))), /checksum/],
    ['a text without keyword', png(chunk('tEXt', latin1Bytes('parameters'))), /no keyword/],
    ['a compressed text that is none', png(chunk('zTXt', latin1Bytes('parameters\0\0abc'))), /broken/],
    ['a compressed text cut short', png(chunk('zTXt', zipped('x'.repeat(99)).slice(0, -6))), /broken/],
    ['an iTXt without its parts', png(chunk('iTXt', latin1Bytes('parameters\0\0\0en'))), /ends too early/],
    [
      '1,001 chunks',
      png(...Array.from({ length: 1001 }, () => chunk('tIME', new Uint8Array(7)))),
      /more than 1000 chunks/,
    ],
    ['a WebP longer than it is', golden('exif_latin1.webp').slice(0, -4), /claims/],
    [
      'a WebP chunk longer than the rest',
      riff(['VP8 ', new Uint8Array(10)]).map((b, i) => (i === 17 ? 1 : b)),
      /claims/,
    ],
    [
      'a WebP of 1,001 chunks',
      riff(...Array.from({ length: 1001 }, () => ['ABCD', new Uint8Array(0)] as [string, Bytes])),
      /more than 1000/,
    ],
    ['a JPEG that ends before its pixels', golden('plain.jpg').slice(0, 20), /claims|ends before|begin where/],
    ['a JPEG segment of length 1', join([Uint8Array.of(0xff, 0xd8, 0xff, 0xe1, 0, 1)]), /claims 1 bytes/],
    [
      'a JPEG of 1,001 segments',
      jpegOf(...Array.from({ length: 1001 }, () => segment(0xfe, new Uint8Array(0)))),
      /more than 1000/,
    ],
    ['EXIF without a header', jpegOf(segment(0xe1, latin1Bytes('Exif\0\0xx'))), /no header/],
    [
      'EXIF that points beyond its end',
      jpegOf(segment(0xe1, latin1Bytes('Exif\0\0II*\0\xff\0\0\0'))),
      /beyond its end/,
    ],
    [
      'EXIF with 65,535 entries',
      jpegOf(segment(0xe1, latin1Bytes('Exif\0\0II*\0\x08\0\0\0\xff\xff'))),
      /65535 entries/,
    ],
  ])('%s is refused in one sentence', async (_, bytes, message) => {
    expect(await refusal(() => read(bytes))).toMatch(message);
  });

  test('a text longer than a mebibyte is left out, and inflating stops there', async () => {
    const bomb = deflateSync(Buffer.alloc(64 * MAX_TEXT));
    expect(await inflate(new Uint8Array(bomb), 'deflate', MAX_TEXT)).toBeNull();
    const many = Array.from({ length: 20 }, () => chunk('zTXt', join([latin1Bytes('bomb\0\0'), bomb])));
    const metadata = await readMetadata(png(...many, tEXt('long', 'x'.repeat(MAX_TEXT + 1)), tEXt('after', 'y')));
    // Eight bombs exhaust the total that may be inflated.
    expect(metadata?.texts).toEqual(new Map());
    expect((await readMetadata(png(many[0], tEXt('after', 'y'))))?.texts).toEqual(new Map([['after', 'y']]));
  });

  test('a prompt too long for a JPEG is said to be', async () => {
    const long = inscriptionOf({
      ...settings,
      operation: { ...settings.operation, parameters: { prompt: 'x'.repeat(40_000) } },
    });
    expect(await refusal(() => writeMetadata(golden('plain.jpg'), long))).toContain(
      'too long to be written into a JPEG',
    );
    expect((await read(writeMetadata(golden('plain.webp'), long)))?.parameters.prompt).toHaveLength(40_000);
  });

  test('what is no picture is nobody’s', async () => {
    expect(await read(new Uint8Array(0))).toBeNull();
    expect(await read(utf8Bytes('BM'))).toBeNull();
    expect(await read(golden('plain.png'))).toBeNull();
    expect(await refusal(() => writeMetadata(utf8Bytes('BM'), null))).toContain('only into PNG, WebP, JPEG and GIF');
  });
});

describe('XMP', () => {
  test('values are found as elements, in lists and as attributes', () => {
    const list =
      '<exif:UserComment><rdf:Alt>\n <rdf:li xml:lang="x-default">{&quot;c&quot;:&quot;a &amp;lt; b&quot;}</rdf:li></rdf:Alt></exif:UserComment>';
    expect(xmpValue(list, 'exif:UserComment')).toBe('{"c":"a &lt; b"}');
    expect(xmpValue(`<rdf:Description exif:UserComment='{"c":"&#x8239;&#33337;"}'/>`, 'exif:UserComment')).toBe(
      '{"c":"船船"}',
    );
    expect(xmpValue('<rdf:Description/>', 'exif:UserComment')).toBeNull();
    expect(xmpValue('<exif:UserComment>', 'exif:UserComment')).toBeNull();
    expect(xmpValue('<a b="&nope; &#x110000; &constructor;"/>', 'b')).toBe('&nope; &#x110000; &constructor;');
  });

  test('the label of origin says whether a picture was changed or made', () => {
    expect(writeXmp({ darkroom: null, isComposite: true })).toContain('/compositeWithTrainedAlgorithmicMedia<');
    expect(writeXmp({ darkroom: null, isComposite: false })).toContain('/trainedAlgorithmicMedia<');
  });
});

describe('JSON of others', () => {
  test('long whole numbers stay whole, Python’s words become null', () => {
    expect(
      readJson(
        '{"seed":18446744073709551615,"n":123456789012345,"t":"18446744073709551615 \\" 1","f":1.5e3,"x":[NaN,-Infinity,Infinity,-7]}',
      ),
    ).toEqual({
      seed: '18446744073709551615',
      n: 123456789012345,
      t: '18446744073709551615 " 1',
      f: 1500,
      x: [null, null, null, -7],
    });
    expect(readJson('{"a":"unclosed')).toBeUndefined();
    expect(readJson('['.repeat(1_000_000))).toBeUndefined();
    expect(readJson(`${'['.repeat(65)}${']'.repeat(65)}`)).toBeUndefined();
    expect(JSON.stringify(readJson(`${'['.repeat(64)}${']'.repeat(64)}`))).toBe('['.repeat(64) + ']'.repeat(64));
  });

  test('any value of ours comes back, in ASCII', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5 }), (value) => {
        const text = asciiJson(value);
        expect(text).toMatch(/^[\x20-\x7e]*$/);
        expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
      }),
      { seed: 6 },
    );
  });
});

describe('infotext', () => {
  test('there are lines enough', () => {
    expect(infotexts.lines.length).toBeGreaterThanOrEqual(60);
  });

  test.each(infotexts.lines)('pairs as Python’s re finds them: $line', ({ line, pairs }) => {
    expect(findPairs(line)).toEqual(pairs);
  });

  test('pairs as the expression itself finds them, in any text', () => {
    const expression = /\s*([\p{L}\p{N}_][\p{L}\p{N}_ \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/gsu;
    const piece = fc.constantFrom(
      'a',
      'Key',
      ' ',
      '  ',
      ':',
      ': ',
      ',',
      ', ',
      '"',
      '\\',
      '-',
      '/',
      '_',
      '1',
      'é',
      '船',
      '.',
      '(',
      '\t',
      '😀',
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 24 }).map((parts) => parts.join('')),
        (line) => {
          expect(findPairs(line)).toEqual([...line.matchAll(expression)].map(([, key, value]) => [key, value]));
        },
      ),
      { numRuns: 20_000, seed: 7 },
    );
  });

  test('prompts over several lines, and the last line only where it has three pairs', () => {
    expect(parseInfotext('a\n\n b \nNegative prompt: c\nd\nSteps: 1, Sampler: Euler, Seed: 2')).toEqual({
      prompt: 'a\n\nb',
      negative_prompt: 'c\nd',
      fields: new Map([
        ['Steps', '1'],
        ['Sampler', 'Euler'],
        ['Seed', '2'],
      ]),
    });
    expect(parseInfotext('a\nSteps: 1, Seed: 2')).toEqual({
      prompt: 'a\nSteps: 1, Seed: 2',
      negative_prompt: '',
      fields: new Map(),
    });
    expect(parseInfotext('Negative prompt: only\nSteps: 1, Seed: 2, Size: 512x768').fields.get('Size-2')).toBe('768');
    expect(parseInfotext('').fields.size).toBe(0);
  });

  test('what is written is read back', () => {
    const words = fc
      .array(fc.string({ unit: fc.constantFrom('a', 'b ', ',', ':', '"', '(', '\\', '船', ' <', '>', '.') }), {
        maxLength: 4,
      })
      .map((lines) =>
        lines
          .map((line) => line.trim())
          .filter((line) => line !== '')
          .join('\n'),
      )
      .filter((text) => !text.includes('Negative prompt:'));
    const value = fc
      .string({ unit: fc.constantFrom('a', ' ', ',', ':', '"', '\\', 'é', 'x', '7', '\n') })
      .map((text) => text.trim())
      // An already quoted value would lose its quotes when read, in A1111 too.
      .filter((text) => text !== '' && !text.startsWith('"') && !/^\d+x\d+$/.test(text));
    fc.assert(
      fc.property(words, words, value, value, (prompt, negative_prompt, one, two) => {
        const fields = { Steps: 20, Model: one, Seed: '1', 'Hires prompt': two, Size: '512x768' };
        expect(parseInfotext(writeInfotext({ prompt, negative_prompt, fields }))).toEqual({
          prompt,
          negative_prompt,
          fields: new Map([
            ['Steps', '20'],
            ['Model', one],
            ['Seed', '1'],
            ['Hires prompt', two],
            ['Size-1', '512'],
            ['Size-2', '768'],
          ]),
        });
      }),
      { numRuns: 2_000, seed: 8 },
    );
  });

  test('a second pass is written as AUTOMATIC1111 writes it, and read again', () => {
    const parameters = {
      ...settings.operation.parameters,
      hires_scale: 2,
      hires_steps: 20,
      hires_upscaler: 'latent_bicubic',
    };
    const twice = { ...settings, operation: { ...settings.operation, operation: 'image_generation', parameters } };
    const { fields } = parseInfotext(inscriptionOf(twice).parameters);
    expect([...fields].filter(([key]) => /^(Hires|Denoising)/.test(key))).toEqual([
      ['Denoising strength', '0.7'],
      ['Hires upscale', '2'],
      // The steps that are run.
      ['Hires steps', '14'],
      ['Hires upscaler', 'Latent (bicubic)'],
    ]);
    const reading = readingOf(parseInfotext(inscriptionOf(twice).parameters), 'x');
    expect(reading?.parameters).toMatchObject({
      hires_scale: 2,
      hires_steps: 20,
      hires_denoising_strength: 0.7,
      hires_upscaler: 'latent_bicubic',
    });
    expect(reading?.parameters).not.toHaveProperty('strength');
  });

  test('our own is in AUTOMATIC1111’s order and words', () => {
    expect(inscriptionOf(settings).parameters).toBe(
      'a paper boat, (blue:1.2)\nin the rain — 紙の船\nNegative prompt: people, "text"\n' +
        'Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 18446744073709551615, Size: 512x768, ' +
        'Model hash: ababababab, Model: Boats, RNG: CPU, Version: Darkroom 0.1.0',
    );
  });
});

describe('samplers and schedules', () => {
  test.each([
    ['Euler a', 'euler_ancestral', null],
    ['k_euler_ancestral', 'euler_ancestral', null],
    ['DPM++ 2M Karras', 'dpmpp_2m', 'karras'],
    ['DPM++ 2M SDE Heun Exponential', 'dpmpp_2m_sde_heun', 'exponential'],
    ['dpmpp_2m_karras', 'dpmpp_2m', 'karras'],
    ['euler_ancestral_normal', 'euler_ancestral', 'normal'],
    ['DDIM Trailing', 'ddim', 'trailing'],
    ['Euler A SGM Uniform', 'euler_ancestral', 'sgm_uniform'],
    ['dpmpp_3m_sde_gpu', 'dpmpp_3m_sde', null],
    ['UniPC', 'uni_pc', null],
    ['PNDM', 'plms', null],
  ])('%s', (label, sampler, schedule) => {
    expect(samplerNamed(label)).toEqual({ sampler, schedule });
  });

  test('labels and ids lead to each other; the unknown stays unknown', () => {
    for (const id of ['euler', 'ddim', 'dpmpp_2m', 'plms', 'dpmpp_2s_ancestral', 'uni_pc']) {
      expect(samplerNamed(samplerLabel(id))?.sampler).toBe(id);
    }
    expect(samplerNamed('Restart')).toBeNull();
    expect(samplerNamed('toString')).toBeNull();
    expect(scheduleNamed('Automatic')).toBeUndefined();
    expect(scheduleNamed('Turbo')).toBeNull();
  });
});

/** ComfyUI's text-to-image graph, with the seed as written in JSON. */
function comfyPrompt(seed: string, more: Record<string, unknown> = {}): string {
  const nodes = {
    3: {
      class_type: 'KSampler',
      inputs: {
        seed: 'SEED',
        steps: 24,
        cfg: 6.5,
        sampler_name: 'euler_ancestral',
        scheduler: 'normal',
        denoise: 1,
        model: ['10', 0],
        positive: ['6', 0],
        negative: ['7', 0],
        latent_image: ['5', 0],
      },
      _meta: { title: 'KSampler' },
    },
    4: { class_type: 'CheckpointLoaderSimple', inputs: { ckpt_name: 'sd15/boats.safetensors' } },
    5: { class_type: 'EmptyLatentImage', inputs: { width: 512, height: 768, batch_size: 1 } },
    6: { class_type: 'CLIPTextEncode', inputs: { text: ['11', 0], clip: ['10', 1] } },
    7: { class_type: 'CLIPTextEncode', inputs: { text: 'rain', clip: ['10', 1] } },
    8: { class_type: 'VAEDecode', inputs: { samples: ['3', 0], vae: ['4', 2] } },
    9: { class_type: 'SaveImage', inputs: { filename_prefix: 'ComfyUI', images: ['8', 0] } },
    10: {
      class_type: 'LoraLoader',
      inputs: {
        lora_name: 'paper.safetensors',
        strength_model: 0.8,
        strength_clip: 0.8,
        model: ['4', 0],
        clip: ['4', 1],
      },
    },
    11: { class_type: 'PrimitiveString', inputs: { value: 'a paper boat' } },
    ...more,
  };
  return JSON.stringify(nodes).replace('"SEED"', seed);
}

const comfyWorkflow = {
  last_node_id: 9,
  version: 0.4,
  nodes: [
    {
      id: 3,
      type: 'KSampler',
      inputs: [
        { name: 'model', link: 1 },
        { name: 'positive', link: 4 },
        { name: 'negative', link: 6 },
        { name: 'latent_image', link: 2 },
      ],
      widgets_values: [77, 'randomize', 30, 5, 'dpmpp_2m', 'karras', 0.6],
    },
    { id: 4, type: 'CheckpointLoaderSimple', inputs: [], widgets_values: ['boats.safetensors'] },
    { id: 5, type: 'VAEEncode', inputs: [{ name: 'pixels', link: 8 }], widgets_values: [] },
    { id: 6, type: 'CLIPTextEncode', inputs: [{ name: 'clip', link: 3 }], widgets_values: ['a boat of wood'] },
    { id: 7, type: 'CLIPTextEncode', inputs: [{ name: 'clip', link: 5 }], widgets_values: ['people'] },
    { id: 8, type: 'LoadImage', inputs: [], widgets_values: ['photo.png', 'image'] },
  ],
  links: [
    [1, 4, 0, 3, 0, 'MODEL'],
    [2, 5, 0, 3, 3, 'LATENT'],
    [3, 4, 1, 6, 0, 'CLIP'],
    [4, 6, 0, 3, 1, 'CONDITIONING'],
    [5, 4, 1, 7, 0, 'CLIP'],
    [6, 7, 0, 3, 2, 'CONDITIONING'],
    [8, 8, 0, 5, 0, 'IMAGE'],
  ],
};

const MAIN = { prompt: 'a paper boat', negative_prompt: 'rain' };

interface Fixture {
  name: string;
  bytes: Bytes;
  tool: string;
  parameters: Reading['parameters'];
  checkpoint?: Partial<Reading['checkpoint']>;
  lost?: RegExp[];
}

const A1111 =
  'a paper boat <lora:paper:0.8>\nNegative prompt: rain\n' +
  'Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4294967294, Size: 512x768, ' +
  'Model hash: 0123456789, Model: boats_v1, Clip skip: 2, RNG: CPU, Version: v1.10.1';

const fixtures: Fixture[] = [
  {
    name: 'AUTOMATIC1111, PNG',
    bytes: pngOf({ parameters: A1111 }),
    tool: 'AUTOMATIC1111',
    parameters: {
      ...MAIN,
      steps: 20,
      sampler: 'dpmpp_2m',
      schedule: 'karras',
      guidance_scale: 7,
      seed: '4294967294',
      width: 512,
      height: 768,
      noise: 'a1111_cpu',
      clip_skip: 2,
    },
    checkpoint: { name: 'boats_v1', hash: '0123456789' },
    lost: [/the LoRA paper at 0\.8/],
  },
  {
    name: 'AUTOMATIC1111, JPEG, a second pass',
    bytes: jpegOf(
      segment(
        0xe1,
        join([
          latin1Bytes('Exif\0\0'),
          writeExif(
            'x',
            'a boat\nSteps: 12, Sampler: Euler a, CFG scale: 5.5, Seed: 1, Size: 512x512, Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent, Version: 1.9.0',
          ),
        ]),
      ),
    ),
    tool: 'AUTOMATIC1111',
    parameters: {
      prompt: 'a boat',
      negative_prompt: '',
      steps: 12,
      sampler: 'euler_ancestral',
      guidance_scale: 5.5,
      seed: '1',
      width: 512,
      height: 512,
      hires_scale: 2,
      // All 12 are run, over 0.4 of the noise.
      hires_steps: 30,
      hires_denoising_strength: 0.4,
      hires_upscaler: 'latent',
    },
  },
  {
    name: 'AUTOMATIC1111, what cannot be asked for here',
    bytes: pngOf({
      parameters:
        'x\nSteps: 500, Sampler: Restart, Schedule type: Turbo, CFG scale: 7, Seed: -1, Size: 500x333, Denoising strength: 0.75, Mask blur: 4',
    }),
    tool: 'AUTOMATIC1111',
    parameters: { prompt: 'x', negative_prompt: '', guidance_scale: 7, strength: 0.75 },
    lost: [
      /steps 500/,
      /sampler Restart/,
      /schedule Turbo/,
      /seed -1/,
      /size 500×333/,
      /picture it started from/,
      /mask blur 4/,
    ],
  },
  {
    name: 'Forge',
    bytes: pngOf({
      parameters:
        'a\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 7, Size: 896x1152, Model: flux, Version: f2.0.1v1.10.1-previous-664-gd557aef9',
    }),
    tool: 'Forge',
    parameters: {
      prompt: 'a',
      negative_prompt: '',
      steps: 20,
      sampler: 'euler',
      schedule: 'simple',
      guidance_scale: 1,
      seed: '7',
      noise: 'nv',
      width: 896,
      height: 1152,
    },
    lost: [/distilled cfg scale 3\.5/],
  },
  {
    name: 'ComfyUI, PNG with the API form and a seed of 64 bits',
    bytes: pngOf({ prompt: comfyPrompt('18446744073709551615'), workflow: comfyWorkflow }),
    tool: 'ComfyUI',
    parameters: {
      ...MAIN,
      steps: 24,
      guidance_scale: 6.5,
      sampler: 'euler_ancestral',
      schedule: 'normal',
      seed: '18446744073709551615',
      noise: 'comfyui',
      follows: 'comfyui',
      width: 512,
      height: 768,
    },
    checkpoint: { name: 'sd15/boats.safetensors', hash: null },
    lost: [/the LoRA paper at 0\.8/],
  },
  {
    name: 'ComfyUI, PNG with the editor’s form only, from a picture',
    bytes: pngOf({ workflow: comfyWorkflow }),
    tool: 'ComfyUI',
    parameters: {
      prompt: 'a boat of wood',
      negative_prompt: 'people',
      steps: 30,
      guidance_scale: 5,
      sampler: 'dpmpp_2m',
      schedule: 'karras',
      seed: '77',
      noise: 'comfyui',
      follows: 'comfyui',
      strength: 0.6,
    },
    checkpoint: { name: 'boats.safetensors' },
    lost: [/picture it started from/],
  },
  {
    name: 'ComfyUI, WebP, two passes',
    bytes: riff(
      ['VP8X', new Uint8Array(10)],
      [
        'EXIF',
        exifOf({
          [ExifTag.model]: `prompt:${comfyPrompt('5', {
            20: { class_type: 'LatentUpscale', inputs: { samples: ['3', 0], width: 1024, height: 1536 } },
            21: {
              class_type: 'KSampler',
              inputs: {
                seed: 6,
                steps: 10,
                cfg: 6,
                sampler_name: 'euler',
                scheduler: 'simple',
                denoise: 0.5,
                model: ['4', 0],
                positive: ['6', 0],
                negative: ['7', 0],
                latent_image: ['20', 0],
              },
            },
            8: { class_type: 'VAEDecode', inputs: { samples: ['21', 0], vae: ['4', 2] } },
          })}`,
          [ExifTag.make]: `workflow:${JSON.stringify(comfyWorkflow)}`,
        }),
      ],
    ),
    tool: 'ComfyUI',
    parameters: {
      ...MAIN,
      steps: 24,
      guidance_scale: 6.5,
      sampler: 'euler_ancestral',
      schedule: 'normal',
      seed: '5',
      noise: 'comfyui',
      follows: 'comfyui',
      width: 512,
      height: 768,
    },
    lost: [/a second pass/, /the LoRA paper at 0\.8/],
  },
  {
    name: 'ComfyUI, the sampler of parts',
    bytes: pngOf({
      prompt: {
        1: {
          class_type: 'SamplerCustomAdvanced',
          inputs: { noise: ['2', 0], guider: ['3', 0], sampler: ['4', 0], sigmas: ['5', 0], latent_image: ['6', 0] },
        },
        2: { class_type: 'RandomNoise', inputs: { noise_seed: 99 } },
        3: { class_type: 'CFGGuider', inputs: { cfg: 3, model: ['9', 0], positive: ['7', 0], negative: ['8', 0] } },
        4: { class_type: 'KSamplerSelect', inputs: { sampler_name: 'dpmpp_2m' } },
        5: { class_type: 'BasicScheduler', inputs: { scheduler: 'beta', steps: 28, denoise: 1, model: ['9', 0] } },
        6: { class_type: 'EmptySD3LatentImage', inputs: { width: 1024, height: 1024, batch_size: 1 } },
        7: {
          class_type: 'ControlNetApplyAdvanced',
          inputs: { positive: ['10', 0], negative: ['8', 0], strength: 1, image: ['11', 0] },
        },
        8: { class_type: 'ConditioningZeroOut', inputs: { conditioning: ['10', 0] } },
        9: { class_type: 'UNETLoader', inputs: { unet_name: 'big.safetensors', weight_dtype: 'default' } },
        10: { class_type: 'CLIPTextEncode', inputs: { text: 'a lake', clip: ['12', 0] } },
      },
    }),
    tool: 'ComfyUI',
    parameters: {
      prompt: 'a lake',
      negative_prompt: '',
      steps: 28,
      guidance_scale: 3,
      sampler: 'dpmpp_2m',
      schedule: 'beta',
      seed: '99',
      noise: 'comfyui',
      follows: 'comfyui',
      width: 1024,
      height: 1024,
    },
    checkpoint: { name: 'big.safetensors' },
    lost: [/a ControlNet/],
  },
  {
    name: 'InvokeAI 3 and later',
    bytes: pngOf({
      invokeai_metadata: {
        app_version: '5.4.0',
        generation_mode: 'img2img',
        positive_prompt: MAIN.prompt,
        negative_prompt: MAIN.negative_prompt,
        width: 640,
        height: 512,
        seed: 123,
        rand_device: 'cpu',
        cfg_scale: 7.5,
        steps: 25,
        scheduler: 'dpmpp_2m_k',
        clip_skip: 0,
        model: { key: 'uuid', hash: 'blake3:00ff', name: 'Boats', base: 'sd-1', type: 'main' },
        loras: [{ model: { name: 'Paper' }, weight: 0.75 }],
        controlnets: [],
        strength: 0.55,
        init_image: 'a.png',
      },
    }),
    tool: 'InvokeAI',
    parameters: {
      ...MAIN,
      steps: 25,
      guidance_scale: 7.5,
      sampler: 'dpmpp_2m',
      schedule: 'karras',
      seed: '123',
      width: 640,
      height: 512,
      strength: 0.55,
    },
    checkpoint: { name: 'Boats', hash: 'blake3:00ff' },
    lost: [/the LoRA Paper at 0\.75/, /picture it started from/],
  },
  {
    name: 'InvokeAI 2',
    bytes: pngOf({
      'sd-metadata': {
        model: 'stable diffusion',
        model_weights: 'stable-diffusion-1.5',
        model_hash: 'cc61',
        app_id: 'invoke-ai/InvokeAI',
        app_version: '2.3.5',
        image: {
          prompt: [{ prompt: 'a paper boat [rain]', weight: 1 }],
          steps: 50,
          cfg_scale: 7.5,
          threshold: 0,
          perlin: 0,
          height: 512,
          width: 512,
          seed: 42,
          seamless: false,
          postprocessing: null,
          sampler: 'k_lms',
          variations: [],
          type: 'txt2img',
        },
      },
      Dream: '"another"',
    }),
    tool: 'InvokeAI',
    parameters: { ...MAIN, steps: 50, guidance_scale: 7.5, sampler: 'lms', seed: '42', width: 512, height: 512 },
    checkpoint: { name: 'stable-diffusion-1.5', hash: 'cc61' },
  },
  {
    name: 'InvokeAI 1',
    bytes: pngOf({ Dream: '"a paper boat [rain]" -s 30 -S 1234 -W 512 -H 448 -C 8.0 -A k_euler_a' }),
    tool: 'InvokeAI',
    parameters: {
      ...MAIN,
      steps: 30,
      guidance_scale: 8,
      sampler: 'euler_ancestral',
      seed: '1234',
      width: 512,
      height: 448,
    },
  },
  {
    name: 'SwarmUI',
    bytes: pngOf({
      parameters: {
        sui_image_params: {
          prompt: MAIN.prompt,
          negativeprompt: MAIN.negative_prompt,
          model: 'boats/v1',
          seed: 1805,
          steps: '20',
          cfgscale: 7,
          aspectratio: '1:1',
          width: 1024,
          height: 1024,
          sampler: 'dpmpp_2m',
          scheduler: 'karras',
          loras: ['paper'],
          loraweights: ['0.5'],
          swarm_version: '0.9.5',
        },
        sui_extra_data: { date: '2025-01-01', generation_time: '1.2 sec' },
        sui_models: [{ name: 'boats/v1.safetensors', param: 'model', hash: '0xabcd' }],
      },
    }),
    tool: 'SwarmUI',
    parameters: {
      ...MAIN,
      steps: 20,
      guidance_scale: 7,
      sampler: 'dpmpp_2m',
      schedule: 'karras',
      seed: '1805',
      width: 1024,
      height: 1024,
    },
    checkpoint: { name: 'boats/v1', hash: 'abcd' },
    lost: [/the LoRA paper at 0\.5/],
  },
  {
    name: 'SwarmUI, JPEG',
    bytes: jpegOf(
      segment(
        0xe1,
        join([
          latin1Bytes('Exif\0\0'),
          writeExif(
            'x',
            '{"sui_image_params":{"prompt":"船","seed":"3","steps":4,"cfgscale":"1","width":512,"height":512,"initimagecreativity":0.6,"maskimage":"x"}}',
          ),
        ]),
      ),
    ),
    tool: 'SwarmUI',
    parameters: { prompt: '船', steps: 4, guidance_scale: 1, seed: '3', width: 512, height: 512, strength: 0.6 },
    lost: [/picture it started from/, /the mask/],
  },
  {
    name: 'Fooocus, its own scheme',
    bytes: pngOf({
      fooocus_scheme: 'fooocus',
      parameters: {
        adm_guidance: '(1.5, 0.8, 0.3)',
        base_model: 'juggernautXL',
        base_model_hash: 'aeb7',
        clip_skip: 2,
        full_negative_prompt: ['rain'],
        full_prompt: ['a paper boat'],
        guidance_scale: 4,
        loras: [['offset.safetensors', 0.1, 'hash']],
        metadata_scheme: 'fooocus',
        negative_prompt: MAIN.negative_prompt,
        performance: 'Speed',
        prompt: MAIN.prompt,
        prompt_expansion: '',
        refiner_model: 'None',
        resolution: '(1152, 896)',
        sampler: 'dpmpp_2m_sde_gpu',
        scheduler: 'karras',
        seed: '4321',
        sharpness: 2,
        steps: 30,
        styles: "['Fooocus V2', 'Sharp']",
        vae: 'Default (model)',
        version: 'Fooocus v2.5.5',
      },
    }),
    tool: 'Fooocus',
    parameters: {
      ...MAIN,
      steps: 30,
      guidance_scale: 4,
      sampler: 'dpmpp_2m_sde',
      schedule: 'karras',
      seed: '4321',
      width: 1152,
      height: 896,
    },
    checkpoint: { name: 'juggernautXL', hash: 'aeb7' },
    lost: [/the LoRA offset at 0\.1/, /the styles Fooocus V2, Sharp/, /performance Speed/, /sharpness 2/],
  },
  {
    name: 'Fooocus, the infotext scheme, WebP',
    bytes: riff(
      ['VP8X', new Uint8Array(10)],
      [
        'EXIF',
        exifOf({
          [ExifTag.makerNote]: 'a1111',
          [ExifTag.userComment]:
            'a boat\nNegative prompt: x\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 11, Size: 1152x896, CFG scale: 4, Version: Fooocus v2.5.5',
          [ExifTag.software]: 'Fooocus v2.5.5',
        }),
      ],
    ),
    tool: 'Fooocus',
    parameters: {
      prompt: 'a boat',
      negative_prompt: 'x',
      steps: 30,
      guidance_scale: 4,
      sampler: 'dpmpp_2m_sde',
      schedule: 'karras',
      seed: '11',
      width: 1152,
      height: 896,
    },
  },
  {
    name: 'Easy Diffusion, names',
    bytes: pngOf({
      prompt: MAIN.prompt,
      seed: '99',
      used_random_seed: 'True',
      negative_prompt: MAIN.negative_prompt,
      num_inference_steps: '25',
      guidance_scale: '7.5',
      width: '512',
      height: '640',
      sampler_name: 'euler_a',
      use_stable_diffusion_model: 'sd-v1-5',
      use_vae_model: 'None',
      use_lora_model: 'paper',
      lora_alpha: '0.5',
      tiling: 'none',
    }),
    tool: 'Easy Diffusion',
    parameters: {
      ...MAIN,
      steps: 25,
      guidance_scale: 7.5,
      sampler: 'euler_ancestral',
      seed: '99',
      width: 512,
      height: 640,
    },
    checkpoint: { name: 'sd-v1-5' },
    lost: [/the LoRA paper at 0\.5/],
  },
  {
    name: 'Easy Diffusion, labels',
    bytes: pngOf({
      Prompt: MAIN.prompt,
      'Negative Prompt': MAIN.negative_prompt,
      Seed: '7',
      'Stable Diffusion model': 'sd-v1-4',
      Sampler: 'plms',
      Width: '512',
      Height: '512',
      Steps: '50',
      'Guidance Scale': '7.5',
      'Prompt Strength': '0.8',
      'Use Upscaling': 'RealESRGAN_x4plus',
    }),
    tool: 'Easy Diffusion',
    parameters: {
      ...MAIN,
      steps: 50,
      guidance_scale: 7.5,
      sampler: 'plms',
      seed: '7',
      width: 512,
      height: 512,
      strength: 0.8,
    },
    checkpoint: { name: 'sd-v1-4' },
    lost: [/picture it started from/, /upscaling/],
  },
  {
    name: 'Easy Diffusion, JPEG',
    bytes: jpegOf(
      segment(
        0xe1,
        join([
          latin1Bytes('Exif\0\0'),
          writeExif(
            'x',
            JSON.stringify({
              prompt: 'x',
              negative_prompt: '',
              seed: 1,
              num_inference_steps: 10,
              guidance_scale: 5,
              width: 512,
              height: 512,
              sampler_name: 'ddim',
              use_stable_diffusion_model: 'm',
            }),
          ),
        ]),
      ),
    ),
    tool: 'Easy Diffusion',
    parameters: {
      prompt: 'x',
      negative_prompt: '',
      steps: 10,
      guidance_scale: 5,
      sampler: 'ddim',
      seed: '1',
      width: 512,
      height: 512,
    },
  },
  {
    name: 'NovelAI',
    bytes: pngOf({
      Title: 'AI generated image',
      Description: MAIN.prompt,
      Software: 'NovelAI',
      Source: 'NovelAI Diffusion V3 7BCCAA2C',
      Comment: {
        prompt: MAIN.prompt,
        uc: MAIN.negative_prompt,
        steps: 28,
        height: 1216,
        width: 832,
        scale: 5,
        cfg_rescale: 0.2,
        seed: 2147483648,
        noise_schedule: 'karras',
        sampler: 'k_euler_ancestral',
        sm: true,
        request_type: 'PromptGenerateRequest',
      },
    }),
    tool: 'NovelAI',
    parameters: {
      ...MAIN,
      steps: 28,
      guidance_scale: 5,
      sampler: 'euler_ancestral',
      schedule: 'karras',
      seed: '2147483648',
      width: 832,
      height: 1216,
    },
    checkpoint: { name: 'NovelAI Diffusion V3 7BCCAA2C' },
    lost: [/guidance rescale 0\.2/, /SMEA/],
  },
  {
    name: 'Draw Things',
    bytes: png(
      iTXt(
        'XML:com.adobe.xmp',
        `<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description><exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">${JSON.stringify({ c: 'a paper boat & "more"', uc: 'rain', model: 'sd_v1.5_f16.ckpt', sampler: 'DPM++ 2M Karras', scale: 6, seed: 3205, seed_mode: 'Scale Alike', size: '512x768', steps: 22, strength: 1, lora: [{ model: 'paper_f16.ckpt', weight: 0.6 }] }).replaceAll('&', '&amp;')}</rdf:li></rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>`,
      ),
    ),
    tool: 'Draw Things',
    parameters: {
      prompt: 'a paper boat & "more"',
      negative_prompt: 'rain',
      steps: 22,
      guidance_scale: 6,
      sampler: 'dpmpp_2m',
      schedule: 'karras',
      seed: '3205',
      width: 512,
      height: 768,
    },
    checkpoint: { name: 'sd_v1.5_f16.ckpt' },
    lost: [/the LoRA paper_f16 at 0\.6/, /seed mode Scale Alike/],
  },
  {
    name: 'SD.Next, with its settings in the middle of the line',
    bytes: pngOf({
      parameters:
        'a paper boat Negative prompt: rain Steps: 20, Size: 1024x1024, Sampler: Default, Seed: 2, CFG scale: 6, App: SD.Next, Version: 058a7f0, Pipeline: StableDiffusionXLPipeline, Operations: txt2img, Model: juggernaut, Model hash: 1234567890',
    }),
    tool: 'SD.Next',
    parameters: { ...MAIN, steps: 20, guidance_scale: 6, seed: '2', width: 1024, height: 1024 },
    checkpoint: { name: 'juggernaut', hash: '1234567890' },
  },
  {
    name: 'Krita AI Diffusion',
    bytes: png(
      iTXt(
        'parameters',
        'a paper boat — gefaltet <lora:ink:0.7>\nNegative prompt: rain\nSteps: 20, Sampler: Default - DPM++ 2M, CFG scale: 7.0, Seed: 12, Size: 1024x768, Model hash: unknown, Model: dreamshaper_8.safetensors, Denoising strength: 0.6',
      ),
    ),
    tool: 'Krita AI Diffusion',
    parameters: {
      prompt: 'a paper boat — gefaltet',
      negative_prompt: 'rain',
      steps: 20,
      guidance_scale: 7,
      sampler: 'dpmpp_2m',
      seed: '12',
      width: 1024,
      height: 768,
      strength: 0.6,
    },
    checkpoint: { name: 'dreamshaper_8.safetensors', hash: null },
    lost: [/the LoRA ink at 0\.7/, /picture it started from/],
  },
];

describe('pictures of the tools', () => {
  test.each(fixtures)('$name', async ({ bytes, tool, parameters, checkpoint, lost = [] }) => {
    const reading = await read(bytes);
    expect(reading).toMatchObject({ tool, ...(checkpoint ? { checkpoint } : {}) });
    expect(reading?.parameters).toEqual(parameters);
    const loras = (reading?.loras ?? []).map(({ name, weight }) => `the LoRA ${name} at ${weight}`);
    const lostOrLora = [...(reading?.notRestored ?? []), ...loras];
    const said = lostOrLora.join('; ');
    lost.forEach((what) => expect(said).toMatch(what));
    // Nothing is listed without a reason.
    expect(lostOrLora).toHaveLength(lost.length);
  });

  test('every tool of the folder has a fixture, and the ten are there', () => {
    const read = new Set([...fixtures.map(({ tool }) => tool), 'Darkroom']);
    expect(toolNames().filter((name) => !read.has(name))).toEqual([]);
    expect(toolNames()).toEqual(
      expect.arrayContaining([
        'AUTOMATIC1111',
        'ComfyUI',
        'Draw Things',
        'Easy Diffusion',
        'Fooocus',
        'InvokeAI',
        'Krita AI Diffusion',
        'NovelAI',
        'SD.Next',
        'SwarmUI',
      ]),
    );
  });

  test('circles in a graph end', async () => {
    const circle = {
      1: {
        class_type: 'KSampler',
        inputs: {
          seed: ['2', 0],
          steps: 5,
          positive: ['3', 0],
          negative: ['3', 0],
          model: ['2', 0],
          latent_image: ['2', 0],
        },
      },
      2: { class_type: 'Reroute', inputs: { samples: ['2', 0], model: ['2', 0], value: ['2', 0] } },
      3: { class_type: 'Concat', inputs: { text: ['4', 0], conditioning: ['3', 0] } },
      4: { class_type: 'Concat', inputs: { text: ['3', 0] } },
    };
    expect((await read(pngOf({ prompt: circle })))?.parameters).toEqual({ steps: 5 });
    const own = {
      1: { class_type: 'KSampler', inputs: { seed: 1, positive: ['__proto__', 0], latent_image: ['constructor', 0] } },
    };
    expect((await read(pngOf({ prompt: own })))?.parameters).toEqual({
      seed: '1',
      noise: 'comfyui',
      follows: 'comfyui',
    });
  });

  test.each(['prompt', 'workflow', 'parameters', 'invokeai_metadata', 'sd-metadata', 'Dream', 'Comment', 'darkroom'])(
    'a %s that holds something else is nobody’s',
    async (keyword) => {
      for (const text of [
        '',
        '{}',
        '[]',
        'null',
        '42',
        '"x"',
        '{"nodes":[null,{"id":1}]}',
        '{"1":{"class_type":"KSampler","inputs":{}}}',
        'x'.repeat(9000),
      ]) {
        expect(await read(pngOf({ [keyword]: text }))).toBeNull();
      }
    },
  );
});

describe('our own pictures', () => {
  test('lose nothing of what is transparent', async () => {
    const data = Uint8ClampedArray.from({ length: 4 * 5 * 3 }, (_, i) => (i * 71 + (i % 4) * 13) % 256);
    const file = await losslessPng({ width: 5, height: 3, data }, deflated);
    expect(file.type).toBe('image/png');
    expect(pngPixels(new Uint8Array(await file.arrayBuffer()))).toEqual({ width: 5, height: 3, data });
  });

  test.each(Object.entries(PLAIN))('a %s gives its settings back', async (_, file) => {
    const reading = await read(writeMetadata(golden(file), inscriptionOf(settings)));
    const { prompt, negative_prompt, steps, guidance_scale, seed, width, height } = settings.operation.parameters;
    expect(reading).toEqual({
      tool: 'Darkroom',
      parameters: {
        prompt,
        negative_prompt,
        steps,
        guidance_scale,
        seed,
        width,
        height,
        sampler: 'dpmpp_2m',
        schedule: 'karras',
      },
      checkpoint: { name: 'Boats', hash: 'ab'.repeat(32) },
      loras: [],
      notRestored: [],
    });
  });

  test('LoRAs are written as AUTOMATIC1111 writes them, and read from our JSON and from the infotext alone', async () => {
    const loras = [
      { lora: 'lora:import:Paper', name: 'Paper', weight: 0.8, sha256: 'cd'.repeat(32), data_sha256: 'ef'.repeat(32) },
      { name: 'Ink, wet', weight: -1 },
    ];
    const prompt = 'a boat <lora:Paper:0.8>, blue';
    const { operation } = settings;
    const made = { ...settings, operation: { ...operation, parameters: { ...operation.parameters, prompt } }, loras };
    const inscription = inscriptionOf(made);
    expect(inscription.parameters.split('\n')[0]).toBe('a boat , blue <lora:Paper:0.8> <lora:Ink wet:-1>');
    expect(inscription.parameters).toContain('Lora hashes: "Paper: efefefefefef"');
    expect(await read(writeMetadata(golden(PLAIN.PNG), inscription))).toMatchObject({
      parameters: { prompt: 'a boat , blue' },
      loras: [
        { name: 'Paper', weight: 0.8, sha256: 'cd'.repeat(32) },
        { name: 'Ink, wet', weight: -1, sha256: null },
      ],
      notRestored: [],
    });
    expect(await read(pngOf({ parameters: inscription.parameters }))).toMatchObject({
      parameters: { prompt: 'a boat , blue' },
      loras: [
        { name: 'Paper', weight: 0.8, hash: 'efefefefefef' },
        { name: 'Ink wet', weight: -1, hash: null },
      ],
    });
    // Where no LoRA was used, such a tag was ordinary text.
    const plain = inscriptionOf({ ...made, loras: undefined });
    expect((await read(writeMetadata(golden(PLAIN.PNG), plain)))?.parameters.prompt).toBe(prompt);
  });

  test('without the JSON the infotext gives nearly all', async () => {
    const reading = await read(pngOf({ parameters: inscriptionOf(settings).parameters }));
    expect(reading).toMatchObject({
      tool: 'Darkroom',
      parameters: { seed: '18446744073709551615', sampler: 'dpmpp_2m' },
    });
    expect(reading?.notRestored).toEqual([]);
  });

  test('a recording’s metadata becomes settings, without pictures', async () => {
    const metadata = {
      operation: 'image_inpaint',
      config: 'stable_diffusion_1_5',
      chunk: 'output_image_stable_diffusion',
      parameters: {
        operation: 'image_inpaint',
        prompt: 'x',
        seed: '1',
        steps: 2,
        image: 'data:image/png;base64,AAAA',
        mask_image: {},
        mask_feather: 3,
        soft_inpainting: true,
        tile_size: 64,
        none: null,
      },
      seed: '1',
      index: 2,
      width: 64,
      height: 64,
      checkpoint: { name: 'tiny', ref: 'folder:tiny', pipeline_class: 'X', sha256: {} },
      versions: { darkroom: '0.1.0' },
      sampler: 'euler',
      schedule: 'normal',
      device: { adapter: 'a GPU' },
      notices: [],
      ms: 5,
    };
    const made = settingsOf(metadata);
    expect(made?.operation).toEqual({
      operation: 'image_inpaint',
      config: 'stable_diffusion_1_5',
      parameters: { prompt: 'x', seed: '1', steps: 2, mask_feather: 3, soft_inpainting: true, tile_size: 64 },
    });
    // What is said of a mask goes with it, which is named.
    const reading = await read(writeMetadata(golden('plain.png'), inscriptionOf(made!)));
    expect(reading?.notRestored).toContain('the mask');
    expect(reading?.notRestored.filter((one) => /mask_|soft_|tile_/.test(one))).toEqual([]);
    const { parameters, darkroom, isComposite } = inscriptionOf(made!);
    expect(parameters).toContain('Denoising strength: 1,');
    expect(darkroom).not.toContain('AAAA');
    expect(isComposite).toBe(true);
    expect(readSettings(darkroom)).toEqual(made);
    expect(settingsOf({ ...metadata, operation: 7 })).toBeNull();
    expect(settingsOf({})).toBeNull();
  });

  test('a picture that was painted in tiles says so as the script "SD upscale" does', () => {
    const made = settingsOf({
      operation: 'image_transform',
      config: 'stable_diffusion',
      parameters: {
        prompt: 'x',
        seed: '1',
        steps: 2,
        strength: 0.3,
        tiled_scale: 2,
        tiled_overlap: 48,
        tiled_size: 64,
      },
      index: 0,
      width: 256,
      height: 192,
      checkpoint: { name: 'tiny', ref: 'folder:tiny', sha256: {} },
      versions: { darkroom: '0.1.0' },
    }) as Settings;
    const { fields } = parseInfotext(inscriptionOf(made).parameters);
    expect(Object.fromEntries([...fields].filter(([key]) => key.startsWith('SD upscale')))).toEqual({
      'SD upscale overlap': '48',
      'SD upscale upscaler': 'Lanczos',
      'SD upscale scale factor': '2',
      'SD upscale tileSize': '64',
    });
  });

  test('a picture that was enlarged has the size that it was painted at, and what enlarged it', async () => {
    const metadata = {
      operation: 'image_generation',
      config: 'stable_diffusion',
      parameters: { prompt: 'x', seed: '1', steps: 2, width: 128, height: 96 },
      index: 0,
      width: 512,
      height: 384,
      checkpoint: { name: 'tiny', ref: 'folder:tiny', sha256: {} },
      upscale: { scale: 4, parameters: { tile_size: 256 }, checkpoint: { name: 'large', ref: 'builtin:large' } },
      versions: { darkroom: '0.1.0' },
    };
    const made = settingsOf(metadata) as Settings;
    expect(made).toMatchObject({ width: 128, height: 96, upscale: { scale: 4, checkpoint: { name: 'large' } } });
    const inscription = inscriptionOf(made);
    expect(inscription.parameters).toContain('Size: 128x96');
    expect(inscription.parameters).toContain('Postprocess upscale by: 4, Postprocess upscaler: large');
    const reading = await read(writeMetadata(golden('plain.png'), inscription));
    expect(reading).toMatchObject({ parameters: { width: 128, height: 96, scale: 4 }, notRestored: [] });
  });

  test('a picture that was painted in tiles has the size of the one it started from, and says how', async () => {
    const tiled = { tiled_scale: 2, tiled_size: 512, tiled_overlap: 32, tiled_upscaler: 'builtin:large' };
    const metadata = {
      operation: 'image_transform',
      config: 'stable_diffusion',
      parameters: { prompt: 'x', seed: '1', steps: 2, strength: 0.3, ...tiled },
      index: 0,
      width: 2816,
      height: 1600,
      checkpoint: { name: 'tiny', ref: 'folder:tiny', sha256: {} },
      upscale: { scale: 2, parameters: { tile_size: 256 }, checkpoint: { name: 'large', ref: 'builtin:large' } },
      versions: { darkroom: '0.1.0' },
    };
    const made = settingsOf(metadata) as Settings;
    const reading = await read(writeMetadata(golden('plain.png'), inscriptionOf(made)));
    expect(reading?.parameters).toMatchObject({ width: 704, height: 400, strength: 0.3, ...tiled });
    expect(reading?.notRestored).toEqual(['the picture it started from']);
  });

  test('settings come back from the JSON whatever they hold', () => {
    const string = fc.string({ unit: 'binary' });
    const given = fc.record({
      prompt: string,
      negative_prompt: string,
      seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String),
      steps: fc.integer({ min: 1, max: 150 }),
      guidance_scale: fc.double({ min: 0, max: 100, noNaN: true }).map((number) => number || 0),
      flag: fc.boolean(),
    });
    fc.assert(
      fc.property(
        given,
        fc.dictionary(
          string.filter((key) => !(key in {}) && key !== 'prototype'),
          string,
        ),
        (parameters, sha256) => {
          const made: Settings = {
            ...settings,
            operation: { ...settings.operation, parameters },
            checkpoint: { ...settings.checkpoint, sha256 },
          };
          expect(readSettings(inscriptionOf(made).darkroom)).toEqual(made);
        },
      ),
      { numRuns: 500, seed: 9 },
    );
  });

  test('damaged settings are said to be; other JSON is not ours', async () => {
    expect(await refusal(() => readSettings('{"schema_version":1,"operation":"x"}'))).toContain(
      'settings in this picture',
    );
    expect(readSettings('{"a":1}')).toBeNull();
    expect(readSettings('nothing')).toBeNull();
    // The other fields still count.
    const rescued = await read(pngOf({ darkroom: '{"schema_version":1}', parameters: A1111 }));
    expect(rescued?.tool).toBe('AUTOMATIC1111');
    expect(await refusal(() => read(pngOf({ darkroom: '{"schema_version":1}' })))).toContain('damaged');
  });
});

describe('hidden in the pixels', () => {
  /** A picture with this text in its lowest bits, column by column. */
  function hide(text: string | Uint8Array, signature: string, size = 96): PixelImage {
    const payload = typeof text === 'string' ? utf8Bytes(text) : text;
    const length = new Uint8Array(4);
    viewOf(length).setUint32(0, 8 * payload.length);
    const bytes = join([latin1Bytes(signature), length, payload]);
    const data = new Uint8ClampedArray(4 * size * size).fill(255);
    const inAlpha = signature.startsWith('stealth_png');
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      const pixel = inAlpha ? bit : Math.floor(bit / 3);
      const at = 4 * ((pixel % size) * size + Math.floor(pixel / size)) + (inAlpha ? 3 : bit % 3);
      data[at] = 0xfe | ((bytes[bit >> 3] >> (7 - (bit & 7))) & 1);
    }
    return { width: size, height: size, data };
  }

  test.each(['stealth_pnginfo', 'stealth_rgbinfo', 'stealth_pngcomp', 'stealth_rgbcomp'])('%s', async (signature) => {
    const text = `${A1111} 船`;
    const image = hide(signature.endsWith('comp') ? gzipSync(text) : text, signature);
    expect(await readStealth(image)).toBe(text);
    const reading = await readPicture(golden('plain.png'), () => Promise.resolve(image));
    expect(reading).toMatchObject({ tool: 'AUTOMATIC1111', parameters: { seed: '4294967294' } });
  });

  test('NovelAI’s texts', async () => {
    const texts = {
      Description: 'x',
      Software: 'NovelAI',
      Comment: JSON.stringify({ prompt: 'a boat', steps: 28, seed: 5 }),
    };
    const image = hide(gzipSync(JSON.stringify(texts)), 'stealth_pngcomp');
    const reading = await readPicture(golden('plain_lossless.webp'), () => Promise.resolve(image));
    expect(reading).toMatchObject({ tool: 'NovelAI', parameters: { prompt: 'a boat', steps: 28, seed: '5' } });
  });

  test('nothing, too much, and damage', async () => {
    expect(await readStealth({ width: 2, height: 2, data: new Uint8ClampedArray(16) })).toBeNull();
    expect(await readStealth({ width: 0, height: 0, data: new Uint8ClampedArray(0) })).toBeNull();
    const image = hide(gzipSync(A1111), 'stealth_pngcomp');
    const cut = { width: 96, height: 12, data: image.data.slice(0, 4 * 96 * 12) };
    expect(await readStealth(cut)).toBeNull();
    expect(await refusal(() => readStealth(hide(new Uint8Array(40), 'stealth_pngcomp')))).toContain('broken');
    const claims = hide(A1111, 'stealth_pnginfo');
    // The first bit of the length: two gigabits.
    claims.data[4 * ((120 % 96) * 96 + Math.floor(120 / 96)) + 3] = 255;
    expect(await refusal(() => readStealth(claims))).toContain('claims more');
    expect(
      await refusal(() => readStealth(hide(gzipSync(Buffer.alloc(3 * MAX_TEXT)), 'stealth_pngcomp', 256))),
    ).toContain('broken');
  });
});

/** Seeded numbers from 0 to 2^32 − 1. */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) >>> 0;
  };
}

const SPECIAL = [0x00, 0xff, 0x7f, 0x80, 0x22, 0x5c, 0x3a, 0x2c, 0x7b, 0x5b, 0x0a, 0x30, 0x2d];

/** One to six changes: bits, bytes, 32-bit lengths, pieces removed, duplicated or moved, or the end cut off. */
function mutated(bytes: Uint8Array, next: () => number): Bytes {
  let result: Bytes = new Uint8Array(bytes);
  for (let n = 1 + (next() % 6); n > 0 && result.length > 0; n--) {
    const at = next() % result.length;
    const length = 1 + (next() % Math.min(64, result.length - at));
    const piece = result.slice(at, at + length);
    switch (next() % 8) {
      case 0:
      case 1:
        result[at] ^= 1 << (next() % 8);
        break;
      case 2:
        result[at] = SPECIAL[next() % SPECIAL.length];
        break;
      case 3:
        if (at + 4 <= result.length) {
          viewOf(result).setUint32(
            at,
            [0, 1, 0xffffffff, 0x7fffffff, next(), next() % 512][next() % 6],
            next() % 2 === 0,
          );
        }
        break;
      case 4:
        result = join([result.subarray(0, at), result.subarray(at + length)]);
        break;
      case 5:
        result = join([
          result.subarray(0, at),
          ...Array.from({ length: 1 + (next() % 4) }, () => piece),
          result.subarray(at),
        ]);
        break;
      case 6: {
        const to = next() % result.length;
        result = join([result.subarray(0, to), piece, result.subarray(to)]);
        break;
      }
      default:
        result = next() % 4 === 0 ? result.slice(0, at) : result;
    }
  }
  return result;
}

/** Fixes checksums so that what they guard is reached; chunks that do not fit stay as they are. */
function withChecksums(bytes: Bytes): Bytes {
  const view = viewOf(bytes);
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    if (length > bytes.length - at - 12) {
      break;
    }
    view.setUint32(at + 8 + length, crc32(bytes.subarray(at + 4, at + 8 + length)));
    at += 12 + length;
  }
  return bytes;
}

describe('10,000 mutated inputs of each kind give a value or a typed error', () => {
  const INPUTS = 10_000;
  const report: string[] = [];
  const text = new TextDecoder();
  const ofFormat = (start: RegExp) =>
    fixtures.filter(({ bytes }) => start.test(text.decode(bytes.subarray(0, 16)))).map(({ bytes }) => bytes);
  const ours = (file: string) => writeMetadata(golden(file), inscriptionOf(settings));
  const PNGS = [
    ...ofFormat(/PNG/),
    ours('plain.png'),
    golden('packed_latin1.png'),
    golden('packed_unicode.png'),
    golden('exif_latin1.png'),
  ];
  const WEBPS = [...ofFormat(/WEBP/), ours('plain.webp'), ours('plain_lossless.webp'), golden('exif_unicode.webp')];
  const JPEGS = [...ofFormat(/^\ufffd{3}/), ours('plain.jpg'), golden('exif_unicode.jpg')];
  const INFOTEXTS = [...infotexts.lines.map(({ line }) => `a boat\nNegative prompt: rain\n${line}`), A1111].map(
    utf8Bytes,
  );
  const OPERATION = utf8Bytes(
    JSON.stringify({
      operation: 'image_transform',
      config: 'stable_diffusion',
      parameters: {
        prompt: 'a boat',
        seed: '42',
        steps: 20,
        width: 512,
        height: 512,
        strength: 0.5,
        image: 'data:image/png;base64,AAAA',
      },
      priority: 'high',
      checkpoint: DEFAULT_CHECKPOINT,
      record: ['latents'],
    }),
  );
  const SAFETENSORS = ['unet/diffusion_pytorch_model', 'text_encoder/model'].map((name) => {
    const file = readFileSync(new URL(`checkpoints/tiny-sd15/${name}.safetensors`, import.meta.url));
    return { bytes: new Uint8Array(file.subarray(0, 8 + Number(file.readBigUInt64LE(0)))), size: file.length };
  });

  const ok = ['image_unreadable', 'invalid_operation', 'checkpoint_damaged'];
  const kinds: Record<string, { inputs: readonly Bytes[]; parse: (bytes: Bytes, n: number) => unknown }> = {
    PNG: { inputs: PNGS, parse: (bytes, n) => read(n % 2 === 0 ? withChecksums(bytes) : bytes) },
    WebP: { inputs: WEBPS, parse: read },
    JPEG: { inputs: JPEGS, parse: read },
    infotext: { inputs: INFOTEXTS, parse: (bytes) => read(pngOf({ parameters: text.decode(bytes) })) },
    // As a door receives it: text that may not be JSON, or not this JSON.
    'operation JSON': {
      inputs: [OPERATION],
      parse: (bytes) => {
        const value = readJson(text.decode(bytes));
        readSettings(text.decode(bytes));
        return parseOperation(value);
      },
    },
    'safetensors header': {
      inputs: SAFETENSORS.map(({ bytes }) => bytes),
      parse: (bytes, n) => {
        const { size } = SAFETENSORS[n % SAFETENSORS.length];
        const length = safetensorsHeaderLength(bytes.subarray(0, 8), size, 'x.safetensors');
        return parseSafetensorsHeader(bytes.subarray(8, 8 + length), size, 'x.safetensors');
      },
    },
  };

  test.each(Object.entries(kinds))(
    '%s',
    async (kind, { inputs, parse }) => {
      const next = randomNumbers(20_261_121);
      const seen = { values: 0, nothing: 0, refused: 0 };
      const times: number[] = [];
      for (let n = 0; n < INPUTS; n++) {
        const input = mutated(inputs[n % inputs.length], next);
        const start = process.cpuUsage();
        try {
          const value = await parse(input, n);
          seen[value === null ? 'nothing' : 'values']++;
        } catch (error) {
          if (!(error instanceof StudioError) || !ok.includes(error.code)) {
            throw new Error(`input ${n} of ${kind} (${Buffer.from(input).toString('base64')})`, { cause: error });
          }
          seen.refused++;
        }
        const { user, system } = process.cpuUsage(start);
        times.push((user + system) / 1000);
      }
      expect(seen.values + seen.nothing + seen.refused).toBe(INPUTS);
      // If all mutants were refused at the door, only the door would be tested.
      expect(seen.values).toBeGreaterThan(INPUTS / 100);
      expect(seen.refused + seen.nothing).toBeGreaterThan(INPUTS / 100);
      // Processor time, garbage collection included; printed, not judged.
      times.sort((a, b) => a - b);
      const at = (share: number) => `${times[Math.min(INPUTS - 1, Math.floor(share * INPUTS))].toFixed(2)} ms`;
      report.push(
        `${kind}: ${seen.values} values, ${seen.nothing} nothing, ${seen.refused} refused; median ${at(0.5)}, 99.9 % within ${at(0.999)}, slowest ${at(1)}`,
      );
    },
    300_000,
  );

  afterAll(() => {
    console.log(report.join('\n'));
  });
});

describe('work grows with the input, not faster', () => {
  // With quadratic work on half a million characters this would not end within the test's time.
  test.each<[string, string]>([
    ['one word', 'a'.repeat(500_000)],
    ['words without colons', 'ab '.repeat(200_000)],
    ['colons', ':'.repeat(500_000)],
    ['quotes that never close', 'ab: "x'.repeat(100_000)],
    ['escaped quotes', `ab: ${'"\\"'.repeat(200_000)}`],
    ['spaces', ' '.repeat(500_000)],
  ])('infotext of %s', (_, line) => {
    const pairs = findPairs(line);
    // Every pair is part of the line, in order, with nothing used twice.
    let position = 0;
    for (const [key, value] of pairs) {
      position = line.indexOf(key, position) + key.length;
      position = line.indexOf(value, position) + value.length;
    }
    expect(position).toBeLessThanOrEqual(line.length);
  });

  test('a long graph and long JSON', async () => {
    const nodes = Object.fromEntries(
      Array.from({ length: 4_000 }, (_, i) => [
        i,
        { class_type: 'KSampler', inputs: { seed: i, latent_image: [String(i + 1), 0], positive: [String(i + 1), 0] } },
      ]),
    );
    const reading = await read(pngOf({ prompt: nodes }));
    expect(reading?.tool).toBe('ComfyUI');
    expect(readJson(`[${'1234567890123456789,'.repeat(50_000)}0]`)).toHaveLength(50_001);
  });
});
