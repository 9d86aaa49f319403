/** Texts for people: each is in the catalogue, in both languages, and is found again whatever values it contains. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Sentences } from '../src/app/messages/sentences.ts';
import { fill } from '../src/app/messages/template.ts';
import { ROOT, sourceFiles, textsOf } from './source_texts.ts';

/**
 * Texts that are not for people: for browsers, language models, or other programs' files. What `source_texts.ts` excludes by rule, such as
 * markup, is not listed.
 */
const NOT_FOR_PEOPLE: Record<string, RegExp> = {
  'src/app/sketches/Sketches.svelte': /^Files$/,
  'src/app/App.svelte': /^Files$/,
  // Instructions and examples for the language model.
  'src/core/sketch.ts': /./,
  'src/core/sketch_writing.ts':
    /^(?:A ring of dots|A slow melody|p5\.js sketch$|Tone\.js program$|\{0\}\n\nWrite this)/,
  // Values of ComfyUI's nodes, and the keys of AUTOMATIC1111's text.
  'src/formats/comfyui/strings.ts': /^(?:remove spaces|invert case)$/,
  'src/formats/comfyui/editor.ts': /^everywhere \{0\}$/,
  'src/formats/': /^(?:Negative prompt:|CFG scale|Model hash)$/,
  // Why a worker was terminated, for debugging.
  'src/jobs/worker_link.ts': /^no sign of life/,
  // Names within a file.
  'src/graphs/onnx.ts': /^constant \{0\}/,
  'src/weights/onnx_file.ts': /^node \{0\}$/,
  'src/weights/library/file_writer.ts': /^blob \{0\}/,
};

/** Names and units, the same in every language. */
const THE_SAME =
  /^(?:Darkroom(?: \{0\})?|Draw Things|Easy Diffusion|Krita AI Diffusion|Civitai \{0\}|Tone\.js|HTTP \{0\}|hf_…|(?:: \{0\} )?GiB|kHz,|\{0\} kB|\{0\} min \{1\} s)$/;

/** Where samplers and schedules have the names that every tool gives them. */
const OF_SAMPLERS = /^src\/formats\/(?:sampler_labels|comfyui\/samplers)\.ts$/;

/** The package speaks to other pages, in English. */
const OF_PACKAGE = /^src\/package\//;

const files = sourceFiles(['src', 'workers', 'chunks'])
  .filter((file) => !OF_PACKAGE.test(file))
  .map((file) => textsOf(file));
const page = catalogue('page');
const told = catalogue('told');
const pageTexts = new Map(page);
const toldTexts = new Map([...page, ...told]);

describe('the catalogue', () => {
  test('holds every text that the page asks for, and no other', () => {
    const asked = new Set(files.flatMap((file) => file.asked));
    expect(asked.size).toBeGreaterThan(30);
    expect(files.filter((file) => file.asked.includes(null)).map(({ file }) => file)).toEqual([]);
    expect([...asked].filter((text) => !pageTexts.has(text!))).toEqual([]);
    expect([...pageTexts.keys()].filter((text) => !asked.has(text))).toEqual([]);
  });

  test('holds every sentence that is told, and no other', () => {
    const prose = new Set(files.flatMap((file) => file.prose));
    expect(told.map(([text]) => text).filter((text) => !prose.has(text))).toEqual([]);
    expect(files.map((file) => [file.file, ...wordsLeft(file)]).filter(([, ...left]) => left.length > 0)).toEqual([]);
  });

  test('says each text once, and in full', () => {
    expect(repeated(page.map(([text]) => text))).toEqual([]);
    expect(repeated(told.map(([text]) => text))).toEqual([]);
    expect([...page, ...told].filter(([, own]) => own.trim() === '')).toEqual([]);
    expect([...page, ...told].filter(([text, own]) => places(text) !== places(own))).toEqual([]);
    // German quotes, and the ellipsis as a character.
    expect([...page, ...told].filter(([, own]) => /"|\.\.\./.test(own.replace(/<[^>]+>|\{"[^}]*\}/g, '')))).toEqual([]);
  });

  test('gives back its own sentence for each that has values in it', () => {
    const sentences = new Sentences(Object.fromEntries([...page, ...told]), 'de');
    const wrong = told.filter(([text, own]) => {
      const values = Object.fromEntries([...text.matchAll(/\{(\w+)\}/g)].map(([, name], index) => [name, `x${index}`]));
      return sentences.translate(fill(text, values, 'en')) !== fill(own, values, 'de');
    });
    expect(wrong.map(([text]) => text)).toEqual([]);
  });

  test('leaves no English in a list at the end of a sentence, nor in the sentences behind it', () => {
    const sentences = new Sentences(Object.fromEntries([...page, ...told]), 'de');
    const left =
      'the checkpoint kettles, the LoRA brass at 0.6, and the separate strength of the LoRA brass on the prompt (0.9)';
    const [own, ownLeft, note] = [
      'Die Einstellungen stehen jetzt im Formular. Nicht übernommen: ',
      'der Checkpoint kettles, das LoRA brass mit 0.6 und die eigene Stärke des LoRAs brass auf den Prompt (0.9).',
      'Ein neues Bild kann daher anders aussehen.',
    ];
    const said = `Its settings are in the form now, except for ${left}.`;
    expect(sentences.translate(said)).toBe(own + ownLeft);
    expect(sentences.translate(`${said} So a new picture may look different.`)).toBe(`${own}${ownLeft} ${note}`);
    // A name with a comma is one name.
    expect(sentences.translate('Its settings are in the form now, except for the checkpoint kettles, old ones.')).toBe(
      `${own}der Checkpoint kettles, old ones.`,
    );
  });
});

describe('texts with values', () => {
  test('numbers are written as the language writes them, plural forms chosen by it', () => {
    expect(fill('{n} picture|{n} pictures', { n: 1 }, 'en')).toBe('1 picture');
    expect(fill('{n} picture|{n} pictures', { n: 0 }, 'en')).toBe('0 pictures');
    expect(fill('{n} wartet|{n} warten', { n: 1 }, 'de')).toBe('1 wartet');
    expect(fill('{n} of {name}', { n: 1000.5, name: 'it' }, 'de')).toBe('1000,5 of it');
  });

  test('a sentence is found with its values, and with the sentences in it', () => {
    const sentences = new Sentences(
      {
        'It is done.': 'Es ist fertig.',
        '{0}; get it again.': '{0}; bitte neu holen.',
        'The file {0} is damaged: {1}; get it again.': '{0} ist beschädigt: {1}; bitte neu holen.',
        'it has only {0} bytes': 'sie hat nur {0} Bytes',
        'without {0}.': 'ohne {0}.',
        'the seed': 'den Seed',
        'the size': 'die Größe',
      },
      'de',
    );
    expect(sentences.translate('It is done.')).toBe('Es ist fertig.');
    expect(sentences.translate('The file a b.bin is damaged: it has only 7 bytes; get it again.')).toBe(
      'a b.bin ist beschädigt: sie hat nur 7 Bytes; bitte neu holen.',
    );
    expect(sentences.translate('without the seed, the size and x.')).toBe('ohne den Seed, die Größe und x.');
    expect(sentences.translate('It is done. Nobody knows this. It is done.')).toBe(
      'Es ist fertig. Nobody knows this. Es ist fertig.',
    );
    expect(sentences.translate('Nobody knows this.')).toBeNull();
  });
});

test('words that go through nothing are found, in markup, attributes and code', () => {
  const source = `<script lang="ts">
    const a = t('Asked'); const b = x ? 'The one' : 'The other'; const c = \`Of \${n} \${y ? 'big' : 'small'} ones\`;
    throw new Error('for nobody to read');
  </script>
  <p class="not seen">Some <b>words</b></p><img alt="A picture" /><Part label="Title" icon="folder" />{t(x ? 'One' : 'Two')}`;
  expect(textsOf('x.svelte', source)).toEqual({
    file: 'x.svelte',
    asked: ['One', 'Two', 'Asked'],
    prose: ['Some', 'words', 'A picture', 'Title', 'The one', 'The other', 'Of {0} big ones', 'Of {0} small ones'],
  });
});

function wordsLeft({ file, prose }: { file: string; prose: string[] }): string[] {
  const folder = Object.keys(NOT_FOR_PEOPLE).find((name) => file.startsWith(name));
  return prose.filter(
    (text) =>
      !toldTexts.has(text) &&
      !THE_SAME.test(text) &&
      !OF_SAMPLERS.test(file) &&
      !(folder && NOT_FOR_PEOPLE[folder].test(text)),
  );
}

function catalogue(kind: 'page' | 'told'): [string, string][] {
  const folder = join(ROOT, 'src/app/messages/de', kind);
  return readdirSync(folder).flatMap((name) =>
    Object.entries(JSON.parse(readFileSync(join(folder, name), 'utf8')) as Record<string, string>),
  );
}

function places(text: string): string {
  return [...new Set([...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name))].sort().join();
}

function repeated(texts: string[]): string[] {
  return texts.filter((text, index) => texts.indexOf(text) !== index);
}
