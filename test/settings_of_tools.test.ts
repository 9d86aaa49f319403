/**
 * Settings as found in people's own files: the cases of public bug reports (values follow the descriptions, the files are made here), and
 * for each tool a table of every field it writes, each of which must be restored or named.
 */
import { describe, expect, test } from 'vitest';
import type { PixelImage } from '../src/core/media.ts';
import { join, latin1Bytes, viewOf } from '../src/formats/bytes.ts';
import { writeMetadata } from '../src/formats/container.ts';
import { writeExif } from '../src/formats/exif.ts';
import { listOf } from '../src/formats/json.ts';
import type { Reading, ReadLora } from '../src/formats/reading.ts';
import { hasSettings, readPicture, toolNames } from '../src/formats/recognition.ts';
import { inscriptionOf } from '../src/formats/settings.ts';
import { golden, iTXt, jpegOf, png, pngOf, segment, type Bytes } from './picture_files.ts';

const nothingHidden = (): Promise<PixelImage> =>
  Promise.resolve({ width: 1, height: 1, data: new Uint8ClampedArray(4).fill(255) });

async function read(bytes: Bytes): Promise<Reading> {
  const reading = await readPicture(bytes, nothingHidden);
  if (!reading) {
    throw new Error('nothing was read');
  }
  // The wording is part of a sentence for people: no JSON, no gaps.
  for (const what of reading.notRestored) {
    expect(what).toMatch(/^\S[^\n{}]{2,200}$/);
    expect(what).not.toMatch(/\[object|undefined|null|NaN|":/);
  }
  return reading;
}

const infotext = (text: string) => read(pngOf({ parameters: text }));
const dream = (text: string) => read(pngOf({ Dream: text }));
const swarm = (params: Record<string, unknown>, more: Record<string, unknown> = {}) =>
  read(pngOf({ parameters: { sui_image_params: { prompt: 'x', steps: 20, seed: 1, ...params }, ...more } }));

function userComment(text: string): Bytes {
  return jpegOf(segment(0xe1, join([latin1Bytes('Exif\0\0'), writeExif('x', text)])));
}

const networks = (loras: readonly ReadLora[]) => loras.map(({ name, weight }) => `${name} ${weight}`);

const WORDS = 'a copper kettle\nNegative prompt: fog\n';
const LINE = 'Steps: 26, Sampler: Euler a, CFG scale: 5.5, Seed: 909, Size: 512x768';
const SETTINGS = {
  prompt: 'a copper kettle',
  negative_prompt: 'fog',
  steps: 26,
  sampler: 'euler_ancestral',
  guidance_scale: 5.5,
  seed: '909',
  width: 512,
  height: 768,
};

describe('infotext: the settings line is the last that is one', () => {
  test.each<[string, string, RegExp[]]>([
    ['a template behind it', '\nTemplate: a {copper|tin} kettle', [/the template/]],
    ['both templates', '\nTemplate: a {copper|tin} kettle\nNegative Template: {fog|rain}', [/the template/]],
    ['templates of wildcards', '\nWildcard prompt: a __metal__ kettle\nWildcard negative prompt: x', [/the template/]],
    ['the same in it', ', Wildcard prompt: "a __metal__ kettle, x: 1", Wildcard negative prompt: x', [/the template/]],
    ['a template of several lines', '\nTemplate: a {copper|tin} kettle,\nin: the, sun: of, may: 1\n', [/the template/]],
    ['JSON behind it', '\n{"app": "x", "list": [1, 2], "Steps": 3, "Seed": 4}', [/notes behind/]],
    ['JSON of several lines behind it', '\n{\n  "a": 1,\n  "b": 2\n}', [/notes behind/]],
    ['a note of pairs behind it', '\nRating: 5, Tags: kitchen, Author: somebody', [/notes behind/]],
    ['a note of pairs that settings have, too', '\nTool: x, Model: y, Version: 2, Seed: none', [/notes behind/]],
    ['empty lines behind it', '\n\n \n', []],
    ['templates in it', ', Template: "a {copper|tin} kettle", Negative Template: "{fog|rain}"', [/the template/]],
    ['line ends of Windows', '\r\nTemplate: x', [/the template/]],
  ])('%s', async (_, behind, lost) => {
    const { parameters, notRestored } = await infotext(WORDS + LINE + behind);
    expect(parameters).toEqual(SETTINGS);
    expect(notRestored).toHaveLength(lost.length);
    lost.forEach((what) => expect(notRestored.join()).toMatch(what));
  });

  test.each([
    ['a kettle Negative prompt: fog Steps: 20, Seed: 1, Size: 512x512, App: SD.Next, Version: 1', []],
    [
      'a kettle\nNegative prompt: fog\nSteps: 20, Seed: 1, Size: 512x512, App: SD.Next\nTemplate: a {x|y}',
      [/template/],
    ],
    ['a kettle Negative prompt: fog\nSteps: 20, Seed: 1, Size: 512x512, App: SD.Next', []],
  ])('SD.Next: %s', async (text, lost) => {
    const { tool, parameters, notRestored } = await infotext(text);
    expect(tool).toBe('SD.Next');
    expect(parameters).toMatchObject({ prompt: 'a kettle', negative_prompt: 'fog', steps: 20, seed: '1', width: 512 });
    expect(notRestored).toEqual(lost.map((what) => expect.stringMatching(what) as string));
  });

  test('a prompt in which an older one was pasted keeps it', async () => {
    const { parameters } = await infotext(`pasted\nSteps: 1, Sampler: Euler, Seed: 2\n${WORDS}${LINE}`);
    expect(parameters).toMatchObject({
      prompt: 'pasted\nSteps: 1, Sampler: Euler, Seed: 2\na copper kettle',
      steps: 26,
    });
  });

  test.each([
    ['a copper kettle Negative prompt: fog ', 'fog'],
    ['a copper kettle, Negative prompt: ', ''],
    ['a copper kettle. ', ''],
  ])('line ends were lost: %s', async (words, negative_prompt) => {
    const { parameters } = await infotext(words + LINE);
    const { prompt, ...others } = parameters;
    expect(prompt).toMatch(/^a copper kettle[,.]?$/);
    expect({ ...others, prompt: SETTINGS.prompt }).toEqual({ ...SETTINGS, negative_prompt });
  });
});

describe('infotext: JSON as values', () => {
  test('what Civitai lists', async () => {
    const { parameters, checkpoint, loras, notRestored } = await infotext(
      `${WORDS}${LINE}, Clip skip: 2, Created Date: 2025-02-03T10:11:12.1300000Z, Civitai resources: [{"type":"checkpoint","modelVersionId":2,"modelName":"Kettles","modelVersionName":"v1.0: final, pruned"},{"type":"lora","weight":0.7,"modelVersionId":3,"modelName":"Brass","modelVersionName":"v2"}], Civitai metadata: {"remixOfId":4}`,
    );
    expect(parameters).toEqual({ ...SETTINGS, clip_skip: 2 });
    expect(checkpoint.name).toBe('Kettles');
    expect(networks(loras)).toEqual(['Brass 0.7']);
    expect(notRestored).toEqual(["Civitai's notes about it"]);
  });

  test.each<[string, string, string[], RegExp[]]>([
    ['one without a title', '[{"type":"lora","weight":0.5,"modelVersionId":31}]', ['Civitai 31 0.5'], []],
    ['newer names', '[{"air":"urn:air:sd1:lycoris:civitai:3@31","modelName":"Tin","versionName":"v1"}]', ['Tin 1'], []],
    [
      'brackets and quotes in titles',
      '[{"type":"lora","weight":1,"modelName":"[a], \\"b\\": {c"}]',
      ['[a], "b": {c 1'],
      [],
    ],
    ['an embedding', '[{"type":"embed","modelName":"Easy"}]', [], [/effect of the embedding Easy/]],
    ['an upscaler', '[{"type":"upscaler","modelName":"Sharp"}]', [], [/Civitai resource upscaler Sharp/]],
    ['a list that is cut', '[{"type":"lora","weight":0.5', [], [/Civitai/]],
  ])('Civitai resources: %s', async (_, list, expected, lost) => {
    const { parameters, loras, notRestored } = await infotext(`${WORDS}${LINE}, Civitai resources: ${list}`);
    expect(parameters).toEqual(SETTINGS);
    expect(networks(loras)).toEqual(expected);
    expect(notRestored.filter((what) => !/^the setting|^type/.test(what))).toHaveLength(lost.length);
    lost.forEach((what) => expect(notRestored.join()).toMatch(what));
  });

  test('a LoRA that the prompt names by its file is not listed twice', async () => {
    const list = '[{"type":"lora","weight":0.7,"modelName":"Brass Style XL"}]';
    const { loras } = await infotext(`kettle <lora:brass_xl:0.7>\n${LINE}, Civitai resources: ${list}`);
    expect(networks(loras)).toEqual(['brass_xl 0.7']);
  });

  test('hashes go to their LoRAs; those without strength are named', async () => {
    const { checkpoint, loras, notRestored } = await infotext(
      `kettle <lora:metal/brass:0.7>\n${LINE}, Hashes: {"model": "0123456789", "lora:brass": "aabbccddee", "lora:ink": "1122334455", "embed:easynegative": "c74b", "vae": "ff"}, Version: v1.6.0`,
    );
    expect(checkpoint.hash).toBe('0123456789');
    expect(loras).toEqual([{ name: 'brass', weight: 0.7, hash: 'aabbccddee', sha256: null }]);
    expect(notRestored).toEqual([
      'the effect of the embedding easynegative',
      'the LoRA ink, whose strength is missing',
    ]);
  });

  test.each([
    ['Lora hashes: "brass: aabb, metal/v2: 1: ccdd"', 'kettle <lora:brass:0.7> <lora:v2: 1:1>'],
    ['Lora hashes: {"brass": "aabb"}', 'kettle <lora:Brass:0.7>'],
    ['Lora hashes: "brass: aabb", Lora weights: "brass: 0.4"', 'kettle'],
    [
      'Lora_0 Model name: brass.safetensors, Lora_0 Model hash: aabb, Lora_0 Strength model: 0.7, Lora_0 Strength clip: 0.7',
      'kettle',
    ],
    [
      'AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: brass(aabb), AddNet Weight A 1: 0.7, AddNet Weight B 1: 0.7',
      'kettle',
    ],
  ])('%s', async (fields, prompt) => {
    const { loras } = await infotext(`${prompt}\n${LINE}, ${fields}`);
    expect([loras[0].name.toLowerCase(), loras[0].hash]).toEqual(['brass', 'aabb']);
  });

  test.each<[string, RegExp]>([
    [
      'ControlNet 0: "Module: canny, Model: control_canny [e3fe7712], Weight: 1"',
      /^the ControlNet control_canny, as its control picture is not in these settings$/,
    ],
    ['ControlNet 0: "Module: reference_only, Model: None, Weight: 1"', /^the ControlNet$/],
    [
      'ControlNet Enabled: True, ControlNet Module: none, ControlNet Model: x, ControlNet Weight: 1',
      /^the ControlNet x, as its control picture is not in these settings$/,
    ],
    ['ADetailer model: face.pt, ADetailer confidence: 0.3, ADetailer version: 24', /painted again \(ADetailer\)/],
    ['Script: X/Y/Z plot, X Type: Seed, X Values: "1,2"', /^the grid/],
    ['Extra: {"a": [1, {"b": "c, d: e"}]}', /^the setting "extra"$/],
    ["Extra: {'a': 'b, c: d'}", /^the setting "extra"$/],
    ['Hires prompt: x', /second pass/],
    ['FreeU Stages: "[{\\"backbone\\": 1.2}]", FreeU Schedule: "0.0, 1.0, 0.0", FreeU Version: 2', /^FreeU$/],
    ['Tiled Diffusion: {"Method": "MultiDiffusion", "Tile width": 96}', /^that it was made in tiles$/],
  ])('named in words: %s', async (fields, what) => {
    const { parameters, notRestored } = await infotext(`${WORDS}${LINE}, ${fields}, Clip skip: 1`);
    expect(parameters).toEqual(SETTINGS);
    expect(notRestored).toEqual([expect.stringMatching(what)]);
  });

  test.each<[string, object, string[]]>([
    [
      'Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 10, Hires upscaler: Latent (nearest-exact), Hires CFG Scale: 6, Hires Module 1: Use same choices',
      { hires_scale: 1.5, hires_steps: 20, hires_denoising_strength: 0.5, hires_upscaler: 'latent_nearest_exact' },
      ['what the second pass (hires) had of its own'],
    ],
    [
      'Denoising strength: 0.35, Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+',
      { hires_scale: 2, hires_steps: 75, hires_denoising_strength: 0.35, hires_upscaler: 'lanczos' },
      ['the upscaler R-ESRGAN 4x+ of the second pass, in whose place the picture is scaled (Lanczos)'],
    ],
    ['Denoising strength: 0.5, Hires upscale: 8, Hires upscaler: Latent', {}, ['the second pass at 8 times the size']],
    ['Hires resize: 1000x300, Hires upscaler: Latent', {}, ['the second pass at a larger size (hires)']],
  ])('a second pass: %s', async (fields, expected, lost) => {
    const { parameters, notRestored } = await infotext(`${WORDS}${LINE}, ${fields}`);
    expect(parameters).toEqual({ ...SETTINGS, ...expected });
    expect(notRestored).toEqual(lost);
  });

  test('brackets that never close cost no more than one that does', async () => {
    const { parameters } = await infotext(`${LINE}, ${'ab: {"x, '.repeat(50_000)}`);
    expect(parameters.steps).toBe(26);
  });
});

describe('what a prompt asks for beside its words', () => {
  test('emphasis, editing, BREAK and AND stay in the prompt, which is read as it was meant', async () => {
    const prompt = '(copper:1.3) kettle, ((shiny)), [steam], [tin:brass:0.4], round \\(old\\) BREAK kitchen AND window';
    const { parameters, notRestored, prompt_syntax } = await infotext(
      `${prompt}\nNegative prompt: (fog:1.4), easynegative\n${LINE}, TI hashes: "easynegative: c74b4e810b03", Version: v1.10.1`,
    );
    expect(parameters).toMatchObject({ prompt, negative_prompt: '(fog:1.4), easynegative' });
    expect(prompt_syntax).toBe('automatic1111');
    expect(notRestored).toEqual(['the effect of the embedding easynegative']);
  });

  test.each<[string, object, string[]]>([
    [
      'SD upscale overlap: 48, SD upscale upscaler: Lanczos, SD upscale scale factor: 2, SD upscale tileSize: 512',
      { tiled_scale: 2, tiled_size: 512, tiled_overlap: 48, tiled_upscaler: 'lanczos' },
      [],
    ],
    [
      'SD upscale overlap: 64, SD upscale upscaler: R-ESRGAN 4x+, SD upscale scale factor: 1.5',
      { tiled_scale: 1.5, tiled_overlap: 64, tiled_upscaler: 'lanczos' },
      ['the upscaler R-ESRGAN 4x+ before its tiles, in whose place the picture is scaled (Lanczos)'],
    ],
    [
      'SD upscale overlap: 64, SD upscale upscaler: None',
      {},
      ['how it was enlarged and painted in tiles (SD upscale)'],
    ],
    [
      'Ultimate SD upscale upscaler: 4x-UltraSharp, Ultimate SD upscale tile_width: 512, Ultimate SD upscale padding: 32',
      {},
      ['how it was enlarged and painted in tiles (SD upscale)'],
    ],
  ])('painted in tiles: %s', async (fields, expected, lost) => {
    const { parameters, notRestored } = await infotext(`${WORDS}${LINE}, Denoising strength: 0.3, ${fields}`);
    expect(parameters).toEqual({ ...SETTINGS, strength: 0.3, ...expected });
    expect(notRestored.sort()).toEqual(['the picture it started from', ...lost].sort());
  });

  test.each<[string, Bytes, RegExp]>([
    [
      'InvokeAI',
      pngOf({ invokeai_metadata: { positive_prompt: 'a kettle++ (old)1.2', steps: 20 } }),
      /weights such as kettle\+\+/,
    ],
    [
      'InvokeAI’s embeddings',
      pngOf({ invokeai_metadata: { positive_prompt: 'a <kettle>', steps: 20 } }),
      /embeddings such as <kettle>/,
    ],
    [
      'InvokeAI’s blends',
      pngOf({ invokeai_metadata: { positive_prompt: '("a", "b").blend(1, 1)', steps: 20 } }),
      /blends such as/,
    ],
    [
      'NovelAI',
      pngOf({ Software: 'NovelAI', Comment: { prompt: '{{kettle}}', steps: 20 } }),
      /weights such as \{?kettle/,
    ],
    [
      'NovelAI’s numbers',
      pngOf({ Software: 'NovelAI', Comment: { prompt: '1.5::kettle::', steps: 20 } }),
      /weights such as 1\.5::kettle::/,
    ],
    [
      'Easy Diffusion',
      pngOf({ prompt: 'a kettle+++', negative_prompt: '', num_inference_steps: '20', guidance_scale: '7' }),
      /weights such as kettle\+\+\+/,
    ],
  ])('%s', async (_, bytes, what) => {
    const { notRestored } = (await readPicture(bytes, nothingHidden)) as Reading;
    expect(notRestored.join()).toMatch(what);
  });

  test.each<[string, string[], RegExp | null]>([
    ['<lora:brass:0.8>', ['brass 0.8'], null],
    ['<lora:brass>', ['brass 1'], null],
    ['<lora:metal/brass.safetensors: 0.8 >', ['brass 0.8'], null],
    ['<lora:brass:0.5:0.8>', ['brass 0.8'], /separate strength of the LoRA brass on the prompt \(0\.5\)/],
    ['<lora:brass:te=0.5:unet=0.8>', ['brass 0.8'], /separate strength of the LoRA brass/],
    ['<lora:brass:0.8:lbw=1,1,1,1,1,1,1,1,1,1,1,0:stop=0.5>', ['brass 0.8'], null],
    ['<lora:brass:0.8:lbw=MIDD>', ['brass 0.8'], /strengths of single parts of the LoRA brass/],
    ['<lyco:brass:0.8>', ['brass 0.8'], null],
    ['<lora:brass:9>', [], /the LoRA brass at 9/],
    ['<hypernet:brass:1>', [], /the hypernetwork brass/],
  ])('%s', async (tag, expected, lost) => {
    const { parameters, loras, notRestored } = await infotext(`kettle ${tag}\n${LINE}`);
    expect(parameters.prompt).toBe('kettle');
    expect(networks(loras)).toEqual(expected);
    expect(notRestored).toEqual(lost ? [expect.stringMatching(lost)] : []);
  });
});

describe('stable-diffusion.cpp', () => {
  const line = (more: string) =>
    `a sunflower field\nSteps: 30, CFG scale: 5.000000, ${more}, Seed: 197583933, Size: 512x512, Model: v1-5-pruned-emaonly.safetensors`;
  test.each<[string, Partial<Reading['parameters']>, RegExp[]]>([
    [
      `${line('Guidance: 3.500000, Eta: 0.000000')}, RNG: cuda, Sampler: dpm++2m karras, Version: stable-diffusion.cpp`,
      { sampler: 'dpmpp_2m', schedule: 'karras', guidance_scale: 5, seed: '197583933', noise: 'nv' },
      [/the Flux guidance 3\.5/],
    ],
    [
      `${line('Eta: 0.000000')}, RNG: std_default, Sampler: euler_a, Version: stable-diffusion.cpp`,
      { sampler: 'euler_ancestral' },
      [/drawn in another way \(std_default\)/],
    ],
    [
      `${line('Eta: 0.300000')}, RNG: cpu, Sampler: ddim_trailing discrete, VAE: kettles.safetensors, Version: stable-diffusion.cpp master-1`,
      { steps: 30 },
      [/eta 0\.300000/, /vae kettles\.safetensors/, /sampler/],
    ],
    [
      `${line('Skip layers: [7, 8, 9], Skip layer start: 0.01, Eta: 0.000000')}, RNG: cpu, Sampler: euler ays, Version: stable-diffusion.cpp`,
      { sampler: 'euler', schedule: 'align_your_steps' },
      [/skip layers 7, 8, 9/, /skip layer start/],
    ],
    [
      `${line('Eta: 0.000000')}, RNG: cpu, Sampler: dpm++2mv2, Version: stable-diffusion.cpp`,
      { steps: 30, width: 512 },
      [/the sampler dpm\+\+2mv2/],
    ],
  ])('%s', async (text, parameters, lost) => {
    const reading = await infotext(text);
    expect(reading.tool).toBe('stable-diffusion.cpp');
    expect(reading.parameters).toMatchObject({ prompt: 'a sunflower field', ...parameters });
    expect(reading.notRestored).toHaveLength(lost.length);
    lost.forEach((what) => expect(reading.notRestored.join()).toMatch(what));
  });
});

describe('InvokeAI 1 and 2', () => {
  const OPTIONS = { steps: 30, seed: '1234', width: 512, height: 448, guidance_scale: 8, sampler: 'euler_ancestral' };
  const LINE_OF_OPTIONS = '-s 30 -S 1234 -W 512 -H 448 -C 8.0 -A k_euler_a';

  test.each([
    ['quotation marks inside', `"a sign that says "tea" above" ${LINE_OF_OPTIONS}`, 'a sign that says "tea" above', ''],
    ['one at the end', `"a sign that says "tea"" ${LINE_OF_OPTIONS}`, 'a sign that says "tea"', ''],
    ['escaped ones', `"a sign that says \\"tea\\"" ${LINE_OF_OPTIONS}`, 'a sign that says "tea"', ''],
    ['apostrophes', `"the cat's 'own' kettle" ${LINE_OF_OPTIONS}`, "the cat's 'own' kettle", ''],
    ['apostrophes around it', `'the cat's kettle' ${LINE_OF_OPTIONS}`, "the cat's kettle", ''],
    ['none around it', `a kettle, well-used ${LINE_OF_OPTIONS}`, 'a kettle, well-used', ''],
    ['the options of its first year', `"a kettle" -b1 ${LINE_OF_OPTIONS}`, 'a kettle', ''],
    ['no spaces', '"a kettle" -s30 -S1234 -W512 -H448 -C8.0 -Ak_euler_a', 'a kettle', ''],
    [
      'long names',
      '"a kettle" --steps 30 --seed=1234 --width 512 --height 448 --cfg_scale 8 --sampler k_euler_a',
      'a kettle',
      '',
    ],
    ['negative words', `"a "big" kettle [fog] [rain]" ${LINE_OF_OPTIONS}`, 'a "big" kettle', 'fog, rain'],
    ['dashes in it', `"a kettle -s -like a "pot" - old" ${LINE_OF_OPTIONS}`, 'a kettle -s -like a "pot" - old', ''],
  ])('%s', async (_, line, prompt, negative_prompt) => {
    expect((await dream(line)).parameters).toEqual({ ...OPTIONS, prompt, negative_prompt });
  });

  test('negative numbers, and what cannot be asked for', async () => {
    const { parameters, notRestored } = await dream(
      '"a kettle" -s 30 -S -1 -C -7.5 -A k_lms -I my old picture.png -f 0.6 -M mask.png --seamless --hires_fix -U 4 0.75 -G 0.8 -ft gfpgan -V 3:0.1,4:0.2 --threshold 5 --perlin 0.2 --karras_max 0',
    );
    expect(parameters).toEqual({ prompt: 'a kettle', negative_prompt: '', steps: 30, sampler: 'lms', strength: 0.6 });
    expect(notRestored).toEqual([
      'the guidance -7.5',
      'the seed -1',
      'the picture it started from',
      'the mask',
      'the variations of the seed',
      'the second pass at a larger size',
      'seamless tiling',
      'face restoration',
      'upscaling',
      'threshold 5',
      'perlin 0.2',
    ]);
  });

  test('of many places at which the prompt could end the first ones are tried', async () => {
    const many = `"${'x" -s 1 '.repeat(50_000)}`;
    expect(await readPicture(pngOf({ Dream: many }), nothingHidden)).toBeNull();
    expect((await dream(`"${'x" y'.repeat(50_000)}" -s 30`)).parameters.steps).toBe(30);
  });
});

describe('Easy Diffusion’s lists', () => {
  const BASE = { prompt: 'a copper kettle', negative_prompt: 'fog', num_inference_steps: 25, guidance_scale: 7.5 };
  const texts = (values: Record<string, unknown>) =>
    Object.fromEntries(Object.entries(values).map(([key, value]) => [key, String(value)]));

  test.each<[string, unknown, unknown, string[]]>([
    ['lists', ['brass', 'metal/ink'], [0.6, 0.3], ['brass 0.6', 'ink 0.3']],
    ['one', 'brass', 0.6, ['brass 0.6']],
    ['a list of one', ['brass.safetensors'], [0.6], ['brass 0.6']],
    ['one that was left empty, before the other', ['', 'brass'], [0, 0.6], ['brass 0.6']],
    ['none in the middle', "['ink', None, 'brass']", '[0.3, 1, 0.6]', ['ink 0.3', 'brass 0.6']],
    ['empty lists', [], [], []],
    ['none', 'None', '0.5', []],
    ['strengths as texts', ['brass', 'ink'], ['0.6', '-0.3'], ['brass 0.6', 'ink -0.3']],
    ['the text of a JSON list', '["brass", "metal/ink"]', '[0.6, 0.3]', ['brass 0.6', 'ink 0.3']],
    ['the text of a Python list', "['brass', 'metal/ink']", '[0.6, 0.3]', ['brass 0.6', 'ink 0.3']],
    ['quotation marks in it', `['brass', "the cat's, ink"]`, '[1, 0.3]', ['brass 1', "the cat's, ink 0.3"]],
  ])('%s', async (_, use_lora_model, lora_alpha, expected) => {
    const inJpeg = await read(
      userComment(JSON.stringify({ ...BASE, use_lora_model, lora_alpha, clip_skip: false, use_vae_model: null })),
    );
    expect(networks(inJpeg.loras)).toEqual(expected);
    expect(inJpeg.notRestored).toEqual([]);
    if (typeof use_lora_model === 'string') {
      const inPng = await read(pngOf(texts({ ...BASE, use_lora_model, lora_alpha })));
      expect(networks(inPng.loras)).toEqual(expected);
      const labelled = {
        Prompt: 'x',
        'Negative Prompt': 'y',
        Steps: 9,
        'Guidance Scale': 7,
        'LoRA model': use_lora_model,
        'LoRA Strength': lora_alpha,
      };
      expect(networks((await read(pngOf(texts(labelled)))).loras)).toEqual(expected);
    }
  });

  test('a list as any of them is written', () => {
    expect(listOf(['a', null, 1])).toEqual(['a', 1]);
    expect(listOf("['a', None, 1, 'b\\'s']")).toEqual(['a', '1', "b's"]);
    expect(listOf('a, b')).toEqual(['a', 'b']);
    expect(listOf('[')).toEqual([]);
    expect(listOf(undefined)).toEqual([]);
    expect(listOf(Array(100).fill('a'))).toHaveLength(40);
  });
});

describe('SwarmUI', () => {
  test('strengths as texts, LoRAs in folders, a model with its ending', async () => {
    const { parameters, checkpoint, loras, notRestored } = await swarm({
      prompt: 'a copper kettle <segment:face> calm',
      model: 'sd15/kettles.safetensors',
      loras: ['metal/brass', 'ink'],
      loraweights: ['0.33', '0.85'],
      loratencweights: ['0.5', '0.85'],
      swarm_version: '0.9.6.0',
      automaticvae: true,
    });
    expect(parameters.prompt).toBe('a copper kettle');
    expect(checkpoint.name).toBe('sd15/kettles.safetensors');
    expect(networks(loras)).toEqual(['brass 0.33', 'ink 0.85']);
    expect(notRestored).toEqual([
      'the words for a part of it ("segment: face")',
      'the separate strength of the LoRA brass on the prompt (0.5)',
    ]);
  });

  test.each<[string, string, RegExp[]]>([
    ['a <random:big|small> kettle', 'a kettle', [/what "random: big\|small" does/]],
    ['a kettle <embed:easy.pt>', 'a kettle easy', [/embedding easy$/]],
    ['a kettle <break> on a stove', 'a kettle on a stove', [/what "break" does/]],
    ['a <fromto[0.5]:tin,brass> kettle <comment:mine>', 'a kettle', [/what "fromto: tin,brass" does/]],
    ['a kettle <lora:brass:0.5>', 'a kettle', []],
    ['a kettle <lora:tin:0.5:0.2>', 'a kettle', [/separate strength of the LoRA tin on the prompt \(0\.2\)/]],
    [
      'a kettle <region:0,0,0.5,1> steam <segment:lid,0.6,0.5> shiny',
      'a kettle',
      [/"region: 0,0,0.5,1"/, /"segment: lid,0.6,0.5"/],
    ],
    ['x < y and y > z', 'x < y and y > z', []],
  ])('%s', async (given, prompt, lost) => {
    const { parameters, notRestored } = await swarm({ prompt: given, loras: 'brass', loraweights: '0.5' });
    expect(parameters.prompt).toBe(prompt);
    expect(notRestored).toHaveLength(lost.length);
    lost.forEach((what, i) => expect(notRestored[i]).toMatch(what));
  });

  test.each<[string, Record<string, unknown>, string[]]>([
    ['a text with commas', { loras: 'metal/brass,ink', loraweights: '0.33,0.85' }, ['brass 0.33', 'ink 0.85']],
    ['one without a name', { loras: ['', 'ink'], loraweights: ['1', '0.85'] }, ['ink 0.85']],
    ['one strength for the words', { loras: ['ink'], loraweights: ['0.85'], loratencweights: [''] }, ['ink 0.85']],
    ['fewer strengths', { loras: ['brass', 'ink'], loraweights: ['0.33'] }, ['brass 0.33', 'ink 1']],
    ['folders of Windows and endings', { loras: ['metal\\brass.safetensors'], loraweights: [0.5] }, ['brass 0.5']],
  ])('LoRAs: %s', async (_, params, expected) => {
    expect(networks((await swarm(params)).loras)).toEqual(expected);
  });

  test('UTF-16 in a JPEG, in both byte orders, and the hashes of its files', async () => {
    const json = JSON.stringify({
      sui_image_params: {
        prompt: '紙の船',
        seed: 3,
        steps: 4,
        model: 'a/kettles',
        loras: ['metal/brass'],
        loraweights: ['0.5'],
      },
      sui_extra_data: { original_prompt: '<random:紙の船|x>' },
      sui_models: [
        { name: 'a/kettles.safetensors', param: 'model', hash: '0xaa' },
        { name: 'metal/brass.safetensors', param: 'loras', hash: '0xbb' },
      ],
    });
    const big = writeExif('x', json);
    const little = new Uint8Array(big);
    const start = big.length - 2 * json.length;
    for (let at = start; at < big.length; at += 2) {
      viewOf(little).setUint16(at, viewOf(big).getUint16(at), true);
    }
    for (const exif of [big, little]) {
      const reading = await read(jpegOf(segment(0xe1, join([latin1Bytes('Exif\0\0'), exif]))));
      expect(reading).toMatchObject({
        parameters: { prompt: '紙の船', steps: 4, seed: '3' },
        checkpoint: { name: 'a/kettles', hash: 'aa' },
        loras: [{ name: 'brass', weight: 0.5, hash: 'bb' }],
        notRestored: ['the template that its words were drawn from'],
      });
    }
  });
});

describe('what could not be read is said', () => {
  test.each<[string, Bytes, RegExp]>([
    ['no prompt', pngOf({ invokeai_metadata: { steps: 20, cfg_scale: 7 } }), /^the prompt, which could not be read$/],
    [
      'nothing but what cannot be asked for',
      pngOf({ parameters: 'Steps: 500, Seed: -1, Size: 500x333' }),
      /the number of steps 500/,
    ],
    [
      'a LoRA without a name',
      pngOf({ invokeai_metadata: { positive_prompt: 'x', loras: [{ model: { key: 'k' }, weight: 1 }] } }),
      /a LoRA at 1 whose name is missing/,
    ],
  ])('%s', async (_, bytes, what) => {
    expect((await read(bytes)).notRestored).toContainEqual(expect.stringMatching(what));
  });

  test('a file with nothing, and one whose settings are in a form that nobody reads', async () => {
    expect(await hasSettings(new Blob([golden('plain.png')]))).toBe(false);
    expect(await hasSettings(new Blob([pngOf({ Title: 'a kettle' })]))).toBe(false);
    expect(await hasSettings(new Blob([pngOf({ workflow: { nodes: [] } })]))).toBe(true);
    expect(await hasSettings(new Blob([pngOf({ postprocessing: 'Postprocess upscale by: 4' })]))).toBe(true);
    expect(await hasSettings(new Blob([userComment('{"prompt":"a kettle","n_iter":{"a":1}}')]))).toBe(true);
    expect(await hasSettings(new Blob([pngOf({ generation: { seed: 3 } })]))).toBe(true);
    expect(await hasSettings(new Blob([jpegOf(segment(0xfe, latin1Bytes('x\nsteps: 20, cfg scale: 7')))]))).toBe(true);
    expect(await hasSettings(new Blob([userComment('a photo of the steps, promptly taken')]))).toBe(false);
    expect(await readPicture(pngOf({ workflow: { nodes: [] } }), nothingHidden)).toBeNull();
  });
});

/** The fate of a field: the parameter it becomes, the words that name it, or nothing, if it changes no picture. */
type Fate = keyof Reading['parameters'] | 'checkpoint' | 'lora' | RegExp | null;

interface Table {
  tool: string;
  /** Without the field whose fate is asked. */
  base: Record<string, unknown>;
  fields: Record<string, readonly [value: unknown, fate: Fate]>;
  bytes: (values: Record<string, unknown>) => Bytes;
}

const line = (values: Record<string, unknown>) =>
  `x\n${Object.entries(values)
    .filter(([key]) => key !== 'prompt')
    .map(
      ([key, value]) =>
        `${key}: ${/[,:]/.test(String(value)) && !/^[[{]/.test(String(value)) ? JSON.stringify(value) : String(value)}`,
    )
    .join(', ')}`;

const INFOTEXT: Table['fields'] = {
  Steps: ['20', 'steps'],
  Sampler: ['DPM++ 2M', 'sampler'],
  'Schedule type': ['Karras', 'schedule'],
  'CFG scale': ['7', 'guidance_scale'],
  Seed: ['5', 'seed'],
  Size: ['512x768', 'width'],
  Model: ['kettles', 'checkpoint'],
  'Model hash': ['0123456789', 'checkpoint'],
  'Denoising strength': ['0.5', 'strength'],
  'Image CFG scale': ['1.5', /image cfg scale 1\.5/],
  'Face restoration': ['CodeFormer', /face restoration CodeFormer/],
  'VAE hash': ['ff', null],
  VAE: ['kettles.vae.pt', /vae kettles\.vae\.pt/],
  'Variation seed': ['6', null],
  'Variation seed strength': ['0.2', /variation seed \? at 0\.2/],
  'Seed resize from': ['512x512', /seed resize from/],
  'Conditional mask weight': ['0.5', /conditional mask weight 0\.5/],
  'Clip skip': ['2', 'clip_skip'],
  ENSD: ['31337', 'eta_noise_seed_delta'],
  'Token merging ratio': ['0.5', /token merging ratio 0\.5/],
  'Init image hash': ['ff', null],
  RNG: ['CPU', 'noise'],
  Tiling: ['True', /tiling/],
  'Hires upscale': ['2', 'hires_scale'],
  'Hires upscaler': ['Latent', /second pass/],
  'Mask blur': ['4', /mask blur 4/],
  'Masked content': ['original', /masked content original/],
  'Inpaint area': ['Only masked', /inpaint area Only masked/],
  'Lora hashes': ['brass: ff', /the LoRA brass/],
  'TI hashes': ['easy: ff', /embedding easy/],
  Emphasis: ['No norm', /emphasis No norm/],
  Refiner: ['x [ff]', /refiner x/],
  'Refiner switch at': ['0.8', /refiner switch at 0\.8/],
  'Schedule rho': ['6', /schedule rho 6/],
  Eta: ['0.5', /eta 0\.5/],
  NGMS: ['2', /ngms 2/],
  'Noise multiplier': ['1.1', /noise multiplier 1\.1/],
  'Pad conds': ['True', /pad conds/],
  'FP8 weight': ['Enable', /fp8 weight/],
  'Dynamic thresholding enabled': ['True', /dynamic thresholding enabled/],
  'FreeU Enabled': ['True', /free ?u/i],
  Script: ['X/Y/Z plot', /the grid/],
  User: ['somebody', null],
};

/** ComfyUI's core text-to-image nodes; a field is one input of one of them, `node.input`. */
const NODES: Record<string, { class_type: string; inputs: Record<string, unknown> }> = {
  ckpt: { class_type: 'CheckpointLoaderSimple', inputs: {} },
  lora: {
    class_type: 'LoraLoader',
    inputs: { strength_model: 0.5, strength_clip: 0.5, model: ['ckpt', 0], clip: ['ckpt', 1] },
  },
  skip: { class_type: 'CLIPSetLastLayer', inputs: { stop_at_clip_layer: -1, clip: ['lora', 1] } },
  pos: { class_type: 'CLIPTextEncode', inputs: { text: 'x', clip: ['skip', 0] } },
  neg: { class_type: 'CLIPTextEncode', inputs: { clip: ['skip', 0] } },
  size: { class_type: 'EmptyLatentImage', inputs: { height: 512, batch_size: 1 } },
  sampler: {
    class_type: 'KSamplerAdvanced',
    inputs: {
      steps: 20,
      noise_seed: 1,
      cfg: 7,
      model: ['lora', 0],
      positive: ['pos', 0],
      negative: ['neg', 0],
      latent_image: ['size', 0],
    },
  },
  vae: { class_type: 'VAELoader', inputs: {} },
  decode: { class_type: 'VAEDecode', inputs: { samples: ['sampler', 0], vae: ['vae', 0] } },
  save: { class_type: 'SaveImage', inputs: { images: ['decode', 0] } },
};

function graphOf(values: Record<string, unknown>): typeof NODES {
  const graph = structuredClone(NODES);
  for (const [field, value] of Object.entries(values)) {
    const [node, input] = field.split('.');
    graph[node].inputs[input] = value;
  }
  return graph;
}

const TABLES: Table[] = [
  {
    tool: 'ComfyUI',
    base: { 'pos.text': 'x' },
    fields: {
      'ckpt.ckpt_name': ['kettles.safetensors', 'checkpoint'],
      'lora.lora_name': ['brass.safetensors', 'lora'],
      'skip.stop_at_clip_layer': [-2, 'clip_skip'],
      'neg.text': ['fog', 'negative_prompt'],
      'size.width': [640, 'width'],
      'size.batch_size': [4, /its place among the 4/],
      'sampler.noise_seed': [5, 'seed'],
      'sampler.steps': [30, 'steps'],
      'sampler.cfg': [5, 'guidance_scale'],
      'sampler.sampler_name': ['dpmpp_2m', 'sampler'],
      'sampler.scheduler': ['karras', 'schedule'],
      'sampler.start_at_step': [5, /the step it began at/],
      'sampler.end_at_step': [15, /the step it ended at/],
      'sampler.add_noise': ['disable', /that no noise was added/],
      'sampler.return_with_leftover_noise': ['enable', /that noise was left in it/],
      'vae.vae_name': ['soft.safetensors', /the VAE soft/],
      'save.filename_prefix': ['x', null],
    },
    bytes: (values) => pngOf({ prompt: graphOf(values) }),
  },
  {
    tool: 'stable-diffusion.cpp',
    base: { Steps: '20', 'CFG scale': '7', Seed: '1', Version: 'stable-diffusion.cpp' },
    fields: {
      Size: ['512x768', 'width'],
      Model: ['kettles.gguf', 'checkpoint'],
      Sampler: ['euler_a karras', 'sampler'],
      Guidance: ['4.000000', /Flux guidance 4/],
      Eta: ['1.000000', /eta 1/],
      RNG: ['cuda', 'noise'],
      'Sampler RNG': ['cuda', /sampler rng cuda/],
      'Skip layers': ['[7, 8, 9]', /skip layers 7, 8, 9/],
      'SLG scale': ['2.5', /slg scale 2\.5/],
      VAE: ['kettles.vae', /vae kettles/],
      TAESD: ['tiny', /taesd tiny/],
      'Denoising strength': ['0.5', 'strength'],
    },
    bytes: (values) => pngOf({ parameters: line(values) }),
  },
  {
    tool: 'AUTOMATIC1111',
    base: { Steps: '20', 'CFG scale': '7', Seed: '1', Version: 'v1.10.1' },
    fields: INFOTEXT,
    bytes: (values) => pngOf({ parameters: line(values) }),
  },
  {
    tool: 'Forge',
    base: { Steps: '20', 'CFG scale': '7', Seed: '1', Version: 'f2.0.1v1.10.1-previous' },
    fields: {
      ...INFOTEXT,
      'Distilled CFG Scale': ['3.5', /distilled cfg scale 3\.5/],
      'Module 1': ['ae', /module.* ae/],
    },
    bytes: (values) => pngOf({ parameters: line(values) }),
  },
  {
    tool: 'SD.Next',
    base: { Steps: '20', 'CFG scale': '7', Seed: '1', App: 'SD.Next' },
    fields: {
      ...INFOTEXT,
      ENSD: ['31337', /ensd 31337/],
      Pipeline: ['StableDiffusionPipeline', null],
      'CFG rescale': ['0.7', 'guidance_rescale'],
      Operations: ['txt2img', null],
    },
    bytes: (values) => pngOf({ parameters: line(values) }),
  },
  {
    tool: 'Krita AI Diffusion',
    base: { Steps: '20', 'CFG scale': '7', Seed: '1', 'Model hash': 'unknown' },
    fields: {
      Sampler: ['Default - DPM++ 2M', 'sampler'],
      Size: ['512x768', 'width'],
      Model: ['kettles.safetensors', 'checkpoint'],
      'Denoising strength': ['0.5', 'strength'],
    },
    bytes: (values) => pngOf({ parameters: line(values) }),
  },
  {
    tool: 'Fooocus',
    base: { prompt: 'x', steps: 20, seed: '1' },
    fields: {
      negative_prompt: ['fog', 'negative_prompt'],
      resolution: ['(1152, 896)', 'width'],
      guidance_scale: [4, 'guidance_scale'],
      sampler: ['dpmpp_2m', 'sampler'],
      scheduler: ['karras', 'schedule'],
      base_model: ['kettles', 'checkpoint'],
      base_model_hash: ['ff', 'checkpoint'],
      loras: [[['brass.safetensors', 0.5, 'ff']], 'lora'],
      full_prompt: [['x'], null],
      full_negative_prompt: [['x'], null],
      prompt_expansion: ['x, more', /expansion/],
      styles: ["['Fooocus V2']", /styles Fooocus V2/],
      performance: ['Speed', /performance Speed/],
      sharpness: [2, /sharpness 2/],
      adm_guidance: ['(1.6, 0.8, 0.3)', /guidance by size/],
      refiner_model: ['kettles_refiner', /the refiner/],
      refiner_switch: [0.5, null],
      refiner_swap_method: ['joint', null],
      adaptive_cfg: [5, /adaptive cfg 5/],
      clip_skip: [1, 'clip_skip'],
      vae: ['kettles.vae', /VAE kettles\.vae/],
      freeu: ['(1.01, 1.02, 0.99, 0.95)', /FreeU/],
      inpaint_engine_version: ['v2.6', /inpaint engine version v2\.6/],
      inpaint_mode: ['Inpaint', /inpaint mode/],
      metadata_scheme: ['fooocus', null],
      created_by: ['somebody', null],
      version: ['Fooocus v2.5.5', null],
    },
    bytes: (values) => pngOf({ fooocus_scheme: 'fooocus', parameters: values }),
  },
  {
    tool: 'InvokeAI',
    base: { positive_prompt: 'x', steps: 20, generation_mode: 'txt2img' },
    fields: {
      negative_prompt: ['fog', 'negative_prompt'],
      width: [512, /the size 512×/],
      cfg_scale: [7, 'guidance_scale'],
      seed: [5, 'seed'],
      scheduler: ['dpmpp_2m_k', 'sampler'],
      model: [{ name: 'Kettles', hash: 'blake3:ff' }, 'checkpoint'],
      loras: [[{ model: { name: 'Brass' }, weight: 0.5 }], 'lora'],
      generation_mode: ['inpaint', /the mask/],
      init_image: ['a.png', /picture it started from/],
      rand_device: ['cuda', /drawn on the GPU/],
      cfg_rescale_multiplier: [0.7, 'guidance_rescale'],
      clip_skip: [2, 'clip_skip'],
      controlnets: [[{ weight: 1 }], /the ControlNet/],
      ipAdapters: [[{ weight: 1 }], /the IP adapter/],
      t2iAdapters: [[{ weight: 1 }], /the T2I adapter/],
      control_layers: [{ layers: [1] }, /the control layers/],
      regions: [[{ prompt: 'x' }], /single regions/],
      ref_images: [[{ id: 'x' }], /the reference pictures/],
      vae: [{ name: 'Other' }, /another VAE/],
      hrf_enabled: [true, /second pass/],
      hrf_strength: [0.4, null],
      refiner_model: [{ name: 'Refiner' }, /the refiner/],
      refiner_steps: [20, null],
      seamless_x: [true, /seamless tiling/],
      positive_style_prompt: ['painted', /the style prompt/],
      guidance: [3.5, /guidance 3\.5/],
      t5_encoder: [{ name: 'T5' }, /setting "t5 encoder"/],
      upscale_model: [{ name: 'Sharp' }, /setting "upscale model"/],
      app_version: ['5.4.0', null],
    },
    bytes: (values) => pngOf({ invokeai_metadata: values }),
  },
  {
    tool: 'SwarmUI',
    base: { prompt: 'x', steps: 20, seed: 1 },
    fields: {
      negativeprompt: ['fog', 'negative_prompt'],
      model: ['kettles', 'checkpoint'],
      cfgscale: ['7', 'guidance_scale'],
      sampler: ['dpmpp_2m', 'sampler'],
      scheduler: ['karras', 'schedule'],
      loras: [['brass'], 'lora'],
      initimagecreativity: [0.6, 'strength'],
      initimage: ['x', /picture it started from/],
      maskimage: ['x', /the mask/],
      controlnetmodel: ['canny', /the ControlNet/],
      refinermethod: ['PostApply', /the refiner/],
      refinerupscale: [2, /the refiner/],
      variationseed: [5, /the variation seed/],
      vae: ['other', /the VAE other/],
      clipstopatlayer: [-2, 'clip_skip'],
      seamlesstileable: ['true', /seamless tiling/],
      lorasectionconfinement: [['5'], /part of the picture only/],
      freeuapplyto: ['Both', /freeuapplyto Both/],
      fluxguidancescale: [3.5, /fluxguidancescale 3\.5/],
      personalnote: ['mine', /personalnote mine/],
      images: [4, null],
      aspectratio: ['1:1', null],
      automaticvae: [true, null],
      swarm_version: ['0.9.6', null],
    },
    bytes: (values) => pngOf({ parameters: { sui_image_params: values } }),
  },
  {
    tool: 'Easy Diffusion',
    base: { prompt: 'x', num_inference_steps: 20, guidance_scale: 7, negative_prompt: '' },
    fields: {
      seed: [5, 'seed'],
      sampler_name: ['dpmpp_2m', 'sampler'],
      scheduler_name: ['karras', 'schedule'],
      use_stable_diffusion_model: ['kettles', 'checkpoint'],
      use_lora_model: [['brass'], 'lora'],
      prompt_strength: [0.5, 'strength'],
      use_vae_model: ['other', /the VAE other/],
      use_hypernetwork_model: ['x', /the hypernetwork/],
      hypernetwork_strength: [0.5, null],
      use_controlnet_model: ['canny', /the ControlNet/],
      control_filter_to_apply: ['canny', null],
      use_embeddings_model: [['easy'], /embedding easy/],
      clip_skip: [true, 'clip_skip'],
      tiling: ['xy', /seamless tiling/],
      use_face_correction: ['GFPGANv1.4', /face correction/],
      use_upscale: ['RealESRGAN_x4plus', /upscaling/],
      distilled_guidance_scale: [3.5, /distilled guidance scale 3\.5/],
      output_format: ['jpeg', null],
    },
    bytes: (values) => userComment(JSON.stringify(values)),
  },
  {
    tool: 'NovelAI',
    base: { prompt: 'x', steps: 28 },
    fields: {
      uc: ['fog', 'negative_prompt'],
      scale: [5, 'guidance_scale'],
      seed: [5, 'seed'],
      sampler: ['k_dpmpp_2m', 'sampler'],
      noise_schedule: ['karras', 'schedule'],
      request_type: ['Img2ImgRequest', /picture it started from/],
      cfg_rescale: [0.2, /guidance rescale 0\.2/],
      sm: [true, /SMEA/],
      sm_dyn: [true, /SMEA/],
      dynamic_thresholding: [true, /decrisper/],
      skip_cfg_above_sigma: [19, /guidance began later/],
      reference_strength_multiple: [[0.6], /vibe pictures/],
      v4_prompt: [{ caption: { base_caption: 'x', char_captions: [{ char_caption: 'y' }] } }, /single characters/],
      controlnet_model: ['x', /the ControlNet/],
      something_new: [3, /something new 3/],
      uncond_scale: [1, null],
      n_samples: [1, null],
    },
    bytes: (values) => pngOf({ Software: 'NovelAI', Comment: values }),
  },
  {
    tool: 'Draw Things',
    base: { c: 'x', sampler: 'DPM++ 2M Karras', steps: 20 },
    fields: {
      uc: ['fog', 'negative_prompt'],
      scale: [6, 'guidance_scale'],
      seed: [5, 'seed'],
      size: ['512x768', 'width'],
      model: ['kettles.ckpt', 'checkpoint'],
      lora: [[{ model: 'brass.ckpt', weight: 0.6 }], 'lora'],
      strength: [0.6, 'strength'],
      seed_mode: ['Scale Alike', /seed mode Scale Alike/],
      control: [[{ model: 'x' }], /the controls/],
      clip_skip: [2, 'clip_skip'],
      v2: [
        { refinerModel: 'x', hiresFix: true, upscaler: 'y', sharpness: 1 },
        /the refiner.*second pass.*upscaler.*sharpening/,
      ],
      aesthetic_score: [6, /aesthetic score 6/],
    },
    bytes: (values) =>
      png(
        iTXt(
          'XML:com.adobe.xmp',
          `<x:xmpmeta><exif:UserComment><rdf:Alt><rdf:li>${JSON.stringify(values)}</rdf:li></rdf:Alt></exif:UserComment></x:xmpmeta>`,
        ),
      ),
  },
  {
    tool: 'Darkroom',
    base: { prompt: 'x', steps: 20 },
    fields: {
      negative_prompt: ['fog', 'negative_prompt'],
      guidance_scale: [6, 'guidance_scale'],
      seed: ['5', 'seed'],
      sampler: ['euler', 'sampler'],
      schedule: ['karras', 'schedule'],
      prediction_type: ['v_prediction', 'prediction_type'],
      tile_size: [256, /tile size 256/],
      batch_size: [4, null],
      guidance_mode: ['serial', null],
      weights: ['q8', null],
    },
    bytes: (parameters) =>
      writeMetadata(
        golden('plain.png'),
        inscriptionOf({
          schema_version: 1,
          operation: {
            operation: 'image_generation',
            config: 'stable_diffusion',
            parameters: parameters as Record<string, string | number>,
          },
          index: 0,
          width: 512,
          height: 512,
          checkpoint: { name: 'Kettles', ref: '', sha256: {} },
          versions: {},
        }),
      ),
  },
];

describe('every field that a tool writes is restored or named', () => {
  test('the eleven tools are there, and two that write what another reads', () => {
    const tables = new Set(TABLES.map(({ tool }) => tool));
    expect([...tables].sort()).toEqual([...toolNames(), 'Forge', 'stable-diffusion.cpp'].sort());
  });

  test.each(TABLES)('$tool', async ({ tool, base, fields, bytes }) => {
    const plain = await read(bytes(base));
    expect(plain.tool).toBe(tool);
    for (const [name, [value, fate]] of Object.entries(fields)) {
      const others = Object.fromEntries(Object.entries(base).filter(([key]) => key !== name));
      const without = await read(bytes(others)).catch(() => plain);
      const reading = await read(bytes({ ...base, [name]: value }));
      if (fate === null) {
        expect(reading, name).toEqual(plain);
      } else if (fate instanceof RegExp) {
        expect(reading.notRestored.join('; '), name).toMatch(fate);
        expect(without.notRestored.join('; '), name).not.toMatch(fate);
      } else if (fate === 'lora') {
        expect(reading.loras, name).toHaveLength(1);
      } else if (fate === 'checkpoint') {
        expect(reading.checkpoint, name).not.toEqual(without.checkpoint);
      } else {
        expect(reading.parameters, name).toHaveProperty(fate);
        expect(reading.parameters[fate], name).not.toEqual(without.parameters[fate]);
      }
    }
  });
});
