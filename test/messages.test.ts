/** A person's words: every one in the catalogue, in both languages, and found again whatever values stand in it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Sentences } from '../src/app/messages/sentences.ts';
import { fill } from '../src/app/messages/template.ts';
import { ROOT, sourceFiles, textsOf } from './source_texts.ts';

/** Files whose words are not all in the catalogue yet. It only gets shorter: a file that needs no mention must not have one. */
const NOT_YET = new Set<string>([
  'chunks/output_image_stable_diffusion.ts',
  'chunks/text_to_speech.ts',
  'chunks/transform_text.ts',
  'src/app/address.ts',
  'src/app/studio/Preview.svelte',
  'src/app/studio/StartPictureField.svelte',
  'src/app/studio/brought.svelte.ts',
  'src/app/studio/loras.svelte.ts',
  'src/app/studio/picture.svelte.ts',
  'src/app/studio/studio.svelte.ts',
  'src/core/builtin_checkpoints.ts',
  'src/core/fit.ts',
  'src/core/operation.ts',
  'src/core/parameters.ts',
  'src/core/plan.ts',
  'src/core/sketch.ts',
  'src/core/steps.ts',
  'src/engine/attention_check.ts',
  'src/formats/civitai_resources.ts',
  'src/formats/comfyui/reading.ts',
  'src/formats/comfyui/remainder.ts',
  'src/formats/comfyui/samplers.ts',
  'src/formats/comfyui/settings.ts',
  'src/formats/comfyui/start.ts',
  'src/formats/comfyui/weights.ts',
  'src/formats/comfyui/words.ts',
  'src/formats/dream.ts',
  'src/formats/exif.ts',
  'src/formats/infotext.ts',
  'src/formats/jpeg.ts',
  'src/formats/media/byte_window.ts',
  'src/formats/media/id3.ts',
  'src/formats/media/matroska.ts',
  'src/formats/media/mp4.ts',
  'src/formats/media/tags.ts',
  'src/formats/media/vorbis_comment.ts',
  'src/formats/media/wav.ts',
  'src/formats/picture.ts',
  'src/formats/png.ts',
  'src/formats/prompt_syntax.ts',
  'src/formats/reading.ts',
  'src/formats/sampler_labels.ts',
  'src/formats/settings.ts',
  'src/formats/stealth.ts',
  'src/formats/tools/automatic1111.ts',
  'src/formats/tools/darkroom.ts',
  'src/formats/tools/draw_things.ts',
  'src/formats/tools/easy_diffusion.ts',
  'src/formats/tools/fooocus.ts',
  'src/formats/tools/invokeai.ts',
  'src/formats/tools/krita.ts',
  'src/formats/tools/novelai.ts',
  'src/formats/tools/swarmui.ts',
  'src/formats/webp.ts',
  'src/formats/xmp.ts',
  'src/graphs/autoencoder_kl.ts',
  'src/graphs/autoencoder_tiny.ts',
  'src/graphs/clip_text.ts',
  'src/graphs/config.ts',
  'src/graphs/onnx.ts',
  'src/graphs/unet2d_condition.ts',
  'src/jobs/channel.ts',
  'src/jobs/folder_source.ts',
  'src/jobs/job_watchers.ts',
  'src/jobs/language.ts',
  'src/jobs/queue_witness.ts',
  'src/jobs/request_body.ts',
  'src/jobs/routes.ts',
  'src/jobs/stored_jobs.ts',
  'src/jobs/worker_link.ts',
  'src/jobs/worker_pair.ts',
  'src/language/chat.ts',
  'src/language/language_checkpoint.ts',
  'src/language/language_engine.ts',
  'src/language/networks.ts',
  'src/language/text_model.ts',
  'src/language/voice.ts',
  'src/media/audio.ts',
  'src/media/audio/codecs.ts',
  'src/media/audio/flac_blocks.ts',
  'src/media/audio/riff.ts',
  'src/media/audio/tags.ts',
  'src/media/audio/wav.ts',
  'src/media/code.ts',
  'src/media/preview/canvas.ts',
  'src/models/latent_diffusion/graph_networks.ts',
  'src/models/latent_diffusion/onnx_layout.ts',
  'src/models/latent_diffusion/onnx_networks.ts',
  'src/models/onnx_stable_diffusion.ts',
  'src/recorder/entity_content.ts',
  'src/recorder/recorder.ts',
  'src/recorder/retention.ts',
  'src/samplers/plms.ts',
  'src/sandbox/frame.ts',
  'src/sandbox/preparation.ts',
  'src/sandbox/runner.ts',
  'src/text/clip_tokenizer.ts',
  'src/weights/library/address.ts',
  'src/weights/library/delivery.ts',
  'src/weights/library/exported_folder.ts',
  'src/weights/library/file_writer.ts',
  'src/weights/library/library.ts',
  'src/weights/library/origin_file.ts',
  'src/weights/library/requests.ts',
  'src/weights/library/stored_loras.ts',
  'src/weights/lora.ts',
  'src/weights/onnx_file.ts',
  'src/weights/quantise.ts',
  'src/weights/safetensors.ts',
  'src/weights/single_file.ts',
  'src/weights/weight_source.ts',
  'workers/execution.ts',
  'workers/service.worker.ts',
]);

/** Words that no person reads here: a language model does, a stylesheet, another program's file. */
const NOT_FOR_PEOPLE: Record<string, RegExp> = {
  'src/app/sketches/editor.ts': /var\(--|monospace/,
  'src/app/sketches/Sketches.svelte': /^Files$/,
  'src/app/App.svelte': /^Files$/,
  'src/app/recordings/KeptRuns.svelte': /^(?:all|bytes)$/,
  'src/app/parts/theme.svelte.ts': /prefers-color-scheme/,
  // Examples for the language model.
  'src/core/sketch_writing.ts':
    /^(?:function setup|const bell|A ring of dots|A slow melody|What it does$|Was sie tut$)/,
};

/** Names and units, the same in every language. */
const THE_SAME = /^(?:Darkroom|hf_…|Tone\.js|(?:: \{0\} )?GiB|kHz,|\{0\} kB|\{0\} min \{1\} s)$/;

const files = sourceFiles(['src', 'workers', 'chunks']).map((file) => textsOf(file));
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
    const left = files.filter((file) => wordsLeft(file).length > 0).map(({ file }) => file);
    expect(left.filter((file) => !NOT_YET.has(file)).map((file) => [file, ...wordsLeft(textsOf(file))])).toEqual([]);
    expect([...NOT_YET].filter((file) => !left.includes(file))).toEqual([]);
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
    (text) => !toldTexts.has(text) && !THE_SAME.test(text) && !(folder && NOT_FOR_PEOPLE[folder].test(text)),
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
