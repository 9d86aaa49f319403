/**
 * ComfyUI's graphs as found in people's files: core and custom nodes, in both forms, in every kind of file. The pictures in
 * test/pictures/comfyui are reduced from public reports; the graphs are written here in the shapes of those nodes.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { editorGraph } from '../src/formats/comfyui/editor.ts';
import { apiGraph } from '../src/formats/comfyui/graph.ts';
import { readComfyui } from '../src/formats/comfyui/reading.ts';
import { StudioError } from '../src/core/errors.ts';
import { join, latin1, latin1Bytes, utf8Bytes, viewOf } from '../src/formats/bytes.ts';
import { ExifTag } from '../src/formats/exif.ts';
import type { Reading } from '../src/formats/reading.ts';
import { readPicture } from '../src/formats/recognition.ts';

type Bytes = Uint8Array<ArrayBuffer>;
type Nodes = Record<string, { class_type: string; inputs: Record<string, unknown>; _meta?: { title: string } }>;

const PICTURES = new URL('pictures/comfyui/', import.meta.url);
/** Graphs in both forms, the second as made from the first by ComfyUI 0.33's frontend. */
const frontend = JSON.parse(readFileSync(new URL('goldens/comfyui/ui_to_api.json', import.meta.url), 'utf8')) as {
  cases: { name: string; ui: Record<string, unknown>; api: Record<string, unknown> }[];
};
const noPixels = () => Promise.reject(new Error('nothing is hidden in these'));

const node = (class_type: string, inputs: Record<string, unknown> = {}): Nodes[string] => ({ class_type, inputs });

/** A text-to-image graph in which any node can be replaced. */
function graph(more: Nodes = {}): Nodes {
  return {
    ckpt: node('CheckpointLoaderSimple', { ckpt_name: 'kettles.safetensors' }),
    pos: node('CLIPTextEncode', { text: 'a copper kettle', clip: ['ckpt', 1] }),
    neg: node('CLIPTextEncode', { text: 'fog', clip: ['ckpt', 1] }),
    size: node('EmptyLatentImage', { width: 512, height: 768, batch_size: 1 }),
    sampler: sampler(),
    decode: node('VAEDecode', { samples: ['sampler', 0], vae: ['ckpt', 2] }),
    save: node('SaveImage', { filename_prefix: 'x', images: ['decode', 0] }),
    ...more,
  };
}

function sampler(inputs: Record<string, unknown> = {}): Nodes[string] {
  return node('KSampler', {
    seed: 31,
    steps: 18,
    cfg: 6.5,
    sampler_name: 'euler',
    scheduler: 'normal',
    denoise: 1,
    model: ['ckpt', 0],
    positive: ['pos', 0],
    negative: ['neg', 0],
    latent_image: ['size', 0],
    ...inputs,
  });
}

const encoding = (text: unknown) => node('CLIPTextEncode', { text, clip: ['ckpt', 1] });
const encodingTwice = (text_g: unknown, text_l: unknown) =>
  node('CLIPTextEncodeSDXL', { width: 512, height: 768, text_g, text_l, clip: ['ckpt', 1] });
const read = (nodes: Nodes | null, workflow: unknown = null): Reading | null =>
  readComfyui(nodes === null ? null : JSON.stringify(nodes), workflow === null ? null : JSON.stringify(workflow));

interface Case {
  name: string;
  nodes: Nodes;
  parameters?: Reading['parameters'];
  loras?: Record<string, number>;
  checkpoint?: string;
  /** Everything that must be mentioned, each by part of its wording. */
  lost?: string[];
}

const ALL = {
  prompt: 'a copper kettle',
  negative_prompt: 'fog',
  seed: '31',
  steps: 18,
  guidance_scale: 6.5,
  sampler: 'euler',
  schedule: 'normal',
  width: 512,
  height: 768,
  noise: 'comfyui',
  follows: 'comfyui',
} satisfies Reading['parameters'];

function without(...names: string[]): Reading['parameters'] {
  return Object.fromEntries(Object.entries(ALL).filter(([name]) => !names.includes(name)));
}

function check({ nodes, parameters = {}, loras = {}, checkpoint = 'kettles.safetensors', lost = [] }: Case) {
  const reading = read(nodes);
  expect(reading?.parameters).toEqual({ ...ALL, ...parameters });
  expect(Object.fromEntries((reading?.loras ?? []).map(({ name, weight }) => [name, weight]))).toEqual(loras);
  expect(reading?.checkpoint.name).toBe(checkpoint);
  const said = reading?.notRestored ?? [];
  lost.forEach((what) => expect(said.join('; ')).toContain(what));
  expect(said).toHaveLength(lost.length);
}

describe('words that nodes put together', () => {
  const joined = (name: string, words: Nodes, prompt = 'a copper kettle, oil painting', lost: string[] = []): Case => ({
    name,
    nodes: graph({ pos: encoding(['words', 0]), ...words }),
    parameters: { ...ALL, prompt },
    lost,
  });
  const [A, B] = ['a copper kettle', 'oil painting'];
  const cases: Case[] = [
    joined('core', { words: node('StringConcatenate', { string_a: A, string_b: B, delimiter: ', ' }) }),
    joined('core, of another that is joined, through a primitive', {
      words: node('StringConcatenate', { string_a: ['inner', 0], string_b: ['p', 0], delimiter: ' painting' }),
      inner: node('StringConcatenate', { string_a: ['q', 0], string_b: 'oil', delimiter: ', ' }),
      q: node('PrimitiveStringMultiline', { value: A }),
      p: node('PrimitiveString', { value: '' }),
    }),
    joined('WAS', {
      words: node('Text Concatenate', {
        delimiter: ', ',
        clean_whitespace: 'true',
        text_a: ['a', 0],
        text_b: ['b', 0],
        text_c: '',
      }),
      a: node('Text Multiline', { text: ` ${A} ` }),
      b: node('Text Multiline', { text: B }),
    }),
    joined(
      'WAS, links in another order',
      {
        words: node('Text Concatenate', { text_b: ['b', 0], delimiter: ', ', text_a: A, clean_whitespace: 'false' }),
        b: node('Text String', { text: 'x', text_b: 'y', text_c: B, text_d: '' }),
        pos: encoding(['words', 0]),
      },
      'a copper kettle, x',
    ),
    joined('WAS, one of four texts by its output', {
      words: node('Text Concatenate', { text_a: A, text_b: ['b', 2], delimiter: ', ', clean_whitespace: 'true' }),
      b: node('Text String', { text: 'x', text_b: 'y', text_c: B, text_d: '' }),
    }),
    joined('easy-use', {
      words: node('easy promptConcat', { prompt1: ['p', 0], prompt2: B, separator: ', ' }),
      p: node('easy positive', { positive: A }),
    }),
    joined('Comfyroll', {
      words: node('CR Text Concatenate', { text1: A, text2: ['t', 0], separator: ', ' }),
      t: node('CR Prompt Text', { prompt: B }),
    }),
    joined('pysssss', {
      words: node('StringFunction|pysssss', { action: 'append', tidy_tags: 'yes', text_a: A, text_b: B, text_c: '' }),
    }),
    joined(
      'KJNodes',
      {
        words: node('JoinStringMulti', {
          inputcount: 3,
          string_1: A,
          string_2: ['c', 0],
          string_3: 'painting',
          delimiter: ', ',
          return_list: false,
        }),
        c: node('StringConstant', { string: 'oil' }),
      },
      'a copper kettle, oil, painting',
    ),
    joined('tinyterra', { words: node('ttN concat', { text1: A, text2: B, text3: '', delimiter: ', ' }) }),
    joined('LayerUtility', { words: node('LayerUtility: TextJoinV2', { text_1: A, text_2: B, delimiter: ', ' }) }),
    joined('before and after', { words: node('AddTextPrefix', { texts: B, prefix: `${A}, ` }) }),
    joined('replaced, core', {
      words: node('StringReplace', { string: 'a copper THING, oil painting', find: 'THING', replace: 'kettle' }),
    }),
    joined('replaced, WAS', {
      words: node('Text Find and Replace', { text: ['t', 0], find: 'THING', replace: 'kettle' }),
      t: node('Text Multiline', { text: 'a copper THING, oil painting' }),
    }),
    joined('replaced, easy-use, several', {
      words: node('easy promptReplace', {
        prompt: 'a X Y, oil painting',
        find1: 'X',
        replace1: 'copper',
        find2: 'Y',
        replace2: 'kettle',
        find3: '',
        replace3: '',
      }),
    }),
    joined('replaced, pysssss', {
      words: node('StringFunction|pysssss', {
        action: 'replace',
        tidy_tags: 'yes',
        text_a: 'a copper pot,, oil painting',
        text_b: 'pot',
        text_c: 'kettle',
      }),
    }),
    joined('replaced by an expression', {
      words: node('RegexReplace', {
        string: 'a COPPER-kettle, oil painting',
        regex_pattern: '(copper)-',
        replace: 'copper ',
        case_insensitive: true,
        multiline: false,
        dotall: false,
        count: 0,
      }),
    }),
    joined(
      'an expression that may never end',
      {
        words: node('RegexReplace', {
          string: A,
          regex_pattern: '(a+)+$',
          replace: '',
          case_insensitive: false,
          multiline: false,
          dotall: false,
          count: 0,
        }),
      },
      A,
      ['some of its words'],
    ),
    joined('trimmed, cut, in small letters', {
      words: node('StringTrim', { string: ['c', 0], mode: 'Both' }),
      c: node('CaseConverter', { string: ['s', 0], mode: 'lowercase' }),
      s: node('StringSubstring', { string: '>> A COPPER KETTLE, OIL PAINTING ', start: 2, end: 99 }),
    }),
    joined('easy-use, with lists of which nothing was chosen', {
      words: node('easy prompt', {
        text: `${A}, ${B}`,
        prefix: 'Select the prefix add to the text',
        subject: 'Subject Selector',
      }),
    }),
    joined('easy-use, one of several lines', {
      words: node('easy promptLine', {
        prompt: `x\n${A}, ${B}\ny`,
        start_index: 1,
        max_rows: 1,
        remove_empty_lines: true,
      }),
    }),
    joined('easy-use, a style of which nothing was chosen, behind words from elsewhere', {
      words: node('easy stylesSelector', {
        styles: 'fooocus_styles',
        positive: ['p', 0],
        negative: ['n', 0],
        select_styles: '',
      }),
      p: node('easy positive', { positive: `${A}, ${B}` }),
      n: node('easy negative', { negative: 'x' }),
    }),
    joined('WAS, a list that is joined', {
      words: node('Text List to Text', { delimiter: ', ', text_list: ['l', 0] }),
      l: node('Text List', { text_a: A, text_b: ['b', 0] }),
      b: node('Text Multiline', { text: B }),
    }),
    joined('what another node shows', {
      words: node('WidgetToString', { id: 7, widget_name: 'string', return_all: false }),
      7: node('StringConstant', { string: `${A}, ${B}` }),
    }),
    joined('taken out by an expression', {
      words: node('RegexExtract', {
        string: `kettle: ${A}, ${B};`,
        regex_pattern: 'kettle: (.*);',
        mode: 'First Group',
        case_insensitive: true,
        multiline: false,
        dotall: false,
        group_index: 1,
      }),
    }),
    joined('a condition beside the words', {
      words: node('Text On Condition', { text: `${A}, ${B}`, condition: ['b', 0] }),
      b: node('PrimitiveBoolean', { value: true }),
    }),
    joined('cut at a mark, by its output', {
      words: node('StringConcatenate', { string_a: ['cut', 1], string_b: ['cut', 2], delimiter: ', ' }),
      cut: node('CR Split String', { text: `x| ${A} |${B}`, delimiter: '|' }),
    }),
    joined('Comfyroll, words that are not wanted, in small letters', {
      words: node('CR Text Operation', { text: ['b', 0], operation: 'lowercase' }),
      b: node('CR Text Blacklist', { text: 'A COPPER KETTLE, BAD OIL PAINTING', blacklist_words: 'BAD ' }),
    }),
    joined('tinyterra, two of three texts by the output', {
      words: node('ttN text3BOX_3WAYconcat', { text1: A, text2: 'x', text3: B, delimiter: ', ' }),
      pos: encoding(['words', 4]),
    }),
    joined('chosen by a switch', {
      words: node('CR Text Input Switch', { Input: 2, text1: 'x', text2: ['j', 0] }),
      j: node('StringConcatenate', { string_a: A, string_b: B, delimiter: ', ' }),
    }),
    joined('chosen by true and false', {
      words: node('ComfySwitchNode', { switch: ['b', 0], on_false: 'x', on_true: `${A}, ${B}` }),
      b: node('PrimitiveBoolean', { value: true }),
    }),
    joined('the first that is connected', {
      words: node('Any Switch (rgthree)', { any_02: ['a', 0] }),
      a: node('StringConstant', { string: `${A}, ${B}` }),
    }),
    joined('through what shows it', {
      words: node('ShowText|pysssss', { text: ['a', 0], text_0: 'an older one' }),
      a: node('StringConstant', { string: `${A}, ${B}` }),
    }),
    joined('filled wildcards', {
      words: node('ImpactWildcardProcessor', {
        wildcard_text: '__things__',
        populated_text: `${A}, ${B}`,
        mode: 'populate',
        seed: 3,
      }),
    }),
    joined('what a language model said, where the file keeps it', {
      words: node('ShowText|pysssss', { text: ['llm', 0], text_0: `${A}, ${B}` }),
      llm: node('OllamaGenerateV2', { prompt: 'Describe a kettle', model: 'x' }),
    }),
    joined(
      'half of it made by a model',
      {
        words: node('StringConcatenate', { string_a: A, string_b: ['llm', 0], delimiter: ', ' }),
        llm: node('Florence2Run', { image: ['photo', 0], task: 'caption' }),
        photo: node('LoadImage', { image: 'a.png' }),
      },
      A,
      ['some of its words'],
    ),
  ];
  test.each(cases)('$name', check);

  test.each<[string, Nodes]>([
    ['two texts', { w: node('DualPrompt', { good: A, bad: 'fog' }) }],
    ['two texts of one row', { w: node('PromptBox', { text_1: A, text_2: 'fog' }) }],
    [
      'two that are called so, for an encoder with two fields, between other outputs',
      {
        pos: encodingTwice(['w', 1], ['w', 3]),
        neg: encodingTwice(['w', 2], ['w', 4]),
        w: node('PromptWithStyle', { positive_prompt: A, negative_prompt: 'fog', ratio_selected: '1:1', seed: 3 }),
      },
    ],
    [
      'two texts of which one comes from elsewhere',
      { w: node('Prompts', { wanted: ['a', 0], unwanted: 'fog' }), a: node('PrimitiveString', { value: A }) },
    ],
  ])('a node that nobody knows gives each of its texts at its own output: %s', (_, nodes) => {
    const reading = read(graph({ pos: encoding(['w', 0]), neg: encoding(['w', 1]), ...nodes }));
    expect(reading?.parameters).toEqual(ALL);
    expect(reading?.notRestored).toEqual([]);
  });

  test.each<[string, Nodes[string]]>([
    ['a language model', node('OllamaGenerateV2', { prompt: 'Describe a kettle', model: 'x', seed: 5 })],
    ['a program', node('Power Puter (rgthree)', { code: '"a" + "b"', outputs: 'STRING' })],
    ['a generator of further words', node('DPMagicPrompt', { text: 'a kettle', seed: 1 })],
    ['the settings of another picture', node('SDPromptReader', { image: 'x.png', parameter_index: 0 })],
    ['a list, of which each makes a picture', node('CR Simple Prompt List', { prompt_1: 'a', prompt_2: 'b' })],
    [
      'several lines, of which each makes a picture',
      node('easy promptLine', { prompt: 'a\nb', start_index: 0, max_rows: 9 }),
    ],
  ])('words that only running the graph tells are said to be unread: %s', (_, llm) => {
    const reading = read(graph({ pos: encoding(['llm', 0]), neg: encoding(['llm', 0]), llm }));
    expect(reading?.parameters.prompt ?? '').toBe('');
    expect(reading?.parameters.negative_prompt).toBe('');
    expect(reading?.notRestored.join('; ')).toMatch(
      /the prompt, whose words could not be read.*the negative prompt, whose words/,
    );
  });
});

describe('encoders', () => {
  const encoded = (name: string, encoder: Nodes[string], more: Partial<Case> = {}): Case => ({
    name,
    nodes: graph({ pos: encoder }),
    ...more,
  });
  const clip = ['ckpt', 1];
  const T = 'a copper kettle';
  test.each<Case>([
    encoded('Flux', node('CLIPTextEncodeFlux', { clip, clip_l: T, t5xxl: T, guidance: 3.5 }), {
      lost: ['distilled guidance of 3.5'],
    }),
    encoded(
      'Flux, other words for CLIP',
      node('CLIPTextEncodeFlux', { clip, clip_l: 'metal', t5xxl: T, guidance: 3.5 }),
      { lost: ['distilled guidance', 'CLIP-L got ("metal")'] },
    ),
    encoded('Flux, words for CLIP alone', node('CLIPTextEncodeFlux', { clip, clip_l: T, t5xxl: '', guidance: 3.5 }), {
      lost: ['distilled guidance'],
    }),
    encoded(
      'SDXL',
      node('CLIPTextEncodeSDXL', {
        clip,
        width: 1024,
        height: 1024,
        crop_w: 0,
        crop_h: 0,
        target_width: 1024,
        target_height: 1024,
        text_g: T,
        text_l: T,
      }),
    ),
    encoded('SDXL, two prompts', node('CLIPTextEncodeSDXL', { clip, text_g: T, text_l: 'oil paint' }), {
      lost: ['CLIP-L got ("oil paint")'],
    }),
    encoded('SDXL refiner', node('CLIPTextEncodeSDXLRefiner', { clip, ascore: 6, width: 1024, height: 1024, text: T })),
    encoded('SD3', node('CLIPTextEncodeSD3', { clip, clip_l: T, clip_g: T, t5xxl: '', empty_padding: 'none' })),
    encoded('HiDream', node('CLIPTextEncodeHiDream', { clip, clip_l: '', clip_g: '', t5xxl: '', llama: T })),
    encoded('HunyuanDiT', node('CLIPTextEncodeHunyuanDiT', { clip, bert: T, mt5xl: T })),
    encoded('Lumina 2', node('CLIPTextEncodeLumina2', { clip, system_prompt: 'superior', user_prompt: T }), {
      lost: ['instructions that went before'],
    }),
    encoded('Qwen edit, with a picture', node('TextEncodeQwenImageEdit', { clip, prompt: T, image: ['photo', 0] }), {
      lost: ['a picture that guided it'],
      nodes: graph({
        pos: node('TextEncodeQwenImageEdit', { clip, prompt: T, image: ['photo', 0] }),
        photo: node('LoadImage', { image: 'a.png' }),
      }),
    }),
    encoded(
      'A1111 parser',
      node('smZ CLIPTextEncode', { clip, text: T, parser: 'A1111', mean_normalization: true, text_g: '', text_l: '' }),
    ),
    encoded(
      'BNK',
      node('BNK_CLIPTextEncodeAdvanced', {
        clip,
        text: T,
        token_normalization: 'none',
        weight_interpretation: 'comfy',
      }),
    ),
    encoded(
      'Power Prompt',
      node('Power Prompt (rgthree)', {
        opt_model: ['ckpt', 0],
        opt_clip: clip,
        prompt: `${T} <lora:brass:0.7>`,
        insert_lora: 'CHOOSE',
      }),
      { loras: { brass: 0.7 } },
    ),
    encoded(
      'Impact wildcards',
      node('ImpactWildcardEncode', {
        model: ['ckpt', 0],
        clip,
        wildcard_text: '__x__',
        populated_text: T,
        mode: 'populate',
        seed: 1,
      }),
      {
        nodes: graph({
          pos: node('ImpactWildcardEncode', {
            model: ['ckpt', 0],
            clip,
            wildcard_text: '__x__',
            populated_text: T,
            mode: 'populate',
            seed: 1,
          }),
          sampler: sampler({ positive: ['pos', 2] }),
        }),
      },
    ),
  ])('$name', check);
});

describe('conditionings on their way', () => {
  const more = {
    second: encoding('oil painting'),
    cn: node('ControlNetLoader', { control_net_name: 'x' }),
    photo: node('LoadImage', { image: 'a.png' }),
  };
  const way = (name: string, nodes: Nodes, rest: Partial<Case> = {}): Case => ({
    name,
    nodes: graph({ ...more, ...nodes }),
    ...rest,
  });
  test.each<Case>([
    way(
      'combined',
      {
        c: node('ConditioningCombine', { conditioning_1: ['pos', 0], conditioning_2: ['second', 0] }),
        sampler: sampler({ positive: ['c', 0] }),
      },
      { lost: ['combined with the first ("oil painting")'] },
    ),
    way(
      'behind each other',
      {
        c: node('ConditioningConcat', { conditioning_to: ['pos', 0], conditioning_from: ['second', 0] }),
        sampler: sampler({ positive: ['c', 0] }),
      },
      { lost: ['combined with the first ("oil painting")'] },
    ),
    way(
      'averaged',
      {
        c: node('ConditioningAverage', {
          conditioning_to: ['pos', 0],
          conditioning_from: ['second', 0],
          conditioning_to_strength: 0.5,
        }),
        sampler: sampler({ positive: ['c', 0] }),
      },
      { lost: ['combined with the first ("oil painting")'] },
    ),
    way(
      'a ControlNet',
      {
        c: node('ControlNetApplyAdvanced', {
          positive: ['pos', 0],
          negative: ['neg', 0],
          control_net: ['cn', 0],
          image: ['photo', 0],
          strength: 1,
        }),
        sampler: sampler({ positive: ['c', 0], negative: ['c', 1] }),
      },
      { lost: ['a ControlNet'] },
    ),
    way(
      'a ControlNet whose sides were swapped',
      {
        c: node('ControlNetApplyAdvanced', {
          positive: ['pos', 0],
          negative: ['neg', 0],
          control_net: ['cn', 0],
          image: ['photo', 0],
          strength: 1,
        }),
        sampler: sampler({ positive: ['c', 1], negative: ['c', 0] }),
      },
      { parameters: { prompt: 'fog', negative_prompt: 'a copper kettle' }, lost: ['a ControlNet'] },
    ),
    way(
      'emptied',
      { z: node('ConditioningZeroOut', { conditioning: ['pos', 0] }), sampler: sampler({ negative: ['z', 0] }) },
      { parameters: { negative_prompt: '' } },
    ),
    way(
      'with an area',
      {
        a: node('ConditioningSetArea', { conditioning: ['pos', 0], width: 64, height: 64, x: 0, y: 0, strength: 1 }),
        sampler: sampler({ positive: ['a', 0] }),
      },
      { lost: ['prompts for parts of the picture'] },
    ),
    way('through reroutes and a context', {
      r: node('Reroute', { '': ['pos', 0] }),
      ctx: node('Context (rgthree)', {
        model: ['ckpt', 0],
        positive: ['r', 0],
        negative: ['neg', 0],
        latent: ['size', 0],
      }),
      sampler: sampler({ model: ['ctx', 1], positive: ['ctx', 4], negative: ['ctx', 5], latent_image: ['ctx', 6] }),
    }),
    way(
      'an image model that guides',
      {
        ip: node('IPAdapterAdvanced', { model: ['ckpt', 0], image: ['photo', 0], weight: 1 }),
        sampler: sampler({ model: ['ip', 0] }),
      },
      { lost: ['a picture that guided it'] },
    ),
  ])('$name', check);
});

describe('loaders, pipes and stacks', () => {
  const efficient = node('Efficient Loader', {
    ckpt_name: 'kettles.safetensors',
    vae_name: 'Baked VAE',
    clip_skip: -1,
    lora_name: 'brass.safetensors',
    lora_model_strength: 0.6,
    lora_clip_strength: 0.6,
    positive: 'a copper kettle',
    negative: 'fog',
    token_normalization: 'none',
    weight_interpretation: 'comfy',
    empty_latent_width: 512,
    empty_latent_height: 768,
    batch_size: 1,
  });
  const eff = (inputs: Record<string, unknown>) =>
    node('KSampler (Efficient)', {
      seed: 31,
      steps: 18,
      cfg: 6.5,
      sampler_name: 'euler',
      scheduler: 'normal',
      denoise: 1,
      preview_method: 'auto',
      vae_decode: 'true',
      ...inputs,
    });
  const links = { model: ['load', 0], positive: ['load', 1], negative: ['load', 2], latent_image: ['load', 3] };
  const easyLoader = (type: string, more: Record<string, unknown> = {}) =>
    node(type, {
      ckpt_name: 'kettles.safetensors',
      vae_name: 'Baked VAE',
      clip_skip: -1,
      lora_name: 'None',
      lora_model_strength: 1,
      lora_clip_strength: 1,
      resolution: 'width x height (custom)',
      empty_latent_width: 512,
      empty_latent_height: 768,
      positive: 'a copper kettle',
      positive_token_normalization: 'none',
      positive_weight_interpretation: 'comfy',
      negative: 'fog',
      negative_token_normalization: 'none',
      negative_weight_interpretation: 'comfy',
      batch_size: 1,
      ...more,
    });
  const pre = node('easy preSampling', {
    pipe: ['load', 0],
    steps: 18,
    cfg: 6.5,
    sampler_name: 'euler',
    scheduler: 'normal',
    denoise: 1,
    seed: 31,
  });
  test.each<Case>([
    { name: 'Efficient Loader', nodes: { load: efficient, s: eff(links) }, loras: { brass: 0.6 } },
    {
      name: 'Efficient Loader, the outputs swapped',
      nodes: { load: efficient, s: eff({ ...links, positive: ['load', 2], negative: ['load', 1] }) },
      parameters: { prompt: 'fog', negative_prompt: 'a copper kettle' },
      loras: { brass: 0.6 },
    },
    {
      name: 'Efficient Loader, words from elsewhere',
      nodes: {
        load: node('Efficient Loader', {
          ...efficient.inputs,
          positive: ['w', 0],
          lora_stack: ['st', 0],
          lora_name: 'None',
        }),
        w: node('Text Multiline', { text: 'a copper kettle' }),
        st: node('LoRA Stacker', {
          input_mode: 'simple',
          lora_count: 2,
          lora_name_1: 'brass.safetensors',
          lora_wt_1: 0.5,
          model_str_1: 0.1,
          clip_str_1: 0.2,
          lora_name_2: 'ink.safetensors',
          lora_wt_2: 0.4,
          model_str_2: 1,
          clip_str_2: 1,
          lora_name_3: 'not_counted.safetensors',
          lora_wt_3: 1,
          lora_stack: ['cr', 0],
        }),
        cr: node('CR LoRA Stack', {
          switch_1: 'On',
          lora_name_1: 'tin.safetensors',
          model_weight_1: 0.3,
          clip_weight_1: 0.3,
          switch_2: 'Off',
          lora_name_2: 'off.safetensors',
          model_weight_2: 1,
          clip_weight_2: 1,
          switch_3: 'On',
          lora_name_3: 'None',
          model_weight_3: 1,
          clip_weight_3: 1,
        }),
        s: eff(links),
      },
      loras: { brass: 0.5, ink: 0.4, tin: 0.3 },
    },
    {
      name: 'Efficient, a second pass on the outputs of the first',
      nodes: {
        load: efficient,
        s: eff(links),
        s2: eff({
          seed: 5,
          steps: 9,
          denoise: 0.4,
          model: ['s', 0],
          positive: ['s', 1],
          negative: ['s', 2],
          latent_image: ['s', 3],
        }),
      },
      loras: { brass: 0.6 },
      lost: ['a second pass'],
    },
    {
      name: 'Efficient SDXL, in a tuple',
      nodes: {
        load: node('Eff. Loader SDXL', {
          base_ckpt_name: 'kettles.safetensors',
          base_clip_skip: -2,
          refiner_ckpt_name: 'None',
          positive_ascore: 6,
          negative_ascore: 2,
          vae_name: 'Baked VAE',
          positive: 'a copper kettle',
          negative: 'fog',
          token_normalization: 'none',
          weight_interpretation: 'comfy',
          empty_latent_width: 512,
          empty_latent_height: 768,
          batch_size: 1,
        }),
        s: node('KSampler SDXL (Eff.)', {
          noise_seed: 31,
          steps: 18,
          cfg: 6.5,
          sampler_name: 'euler',
          scheduler: 'normal',
          start_at_step: 0,
          refine_at_step: -1,
          sdxl_tuple: ['load', 0],
          latent_image: ['load', 1],
        }),
      },
    },
    {
      name: 'easy-use, pipe',
      nodes: {
        load: easyLoader('easy fullLoader'),
        pre,
        s: node('easy kSampler', { pipe: ['pre', 0], image_output: 'Save', link_id: 0, save_prefix: 'x' }),
      },
    },
    {
      name: 'easy-use, A1111 loader, a resolution from the list, a stack',
      nodes: {
        load: easyLoader('easy a1111Loader', {
          resolution: '512 x 768',
          empty_latent_width: 9,
          optional_lora_stack: ['st', 0],
          a1111_prompt_style: false,
        }),
        st: node('easy loraStack', {
          toggle: true,
          mode: 'advanced',
          num_loras: 2,
          lora_1_name: 'brass.safetensors',
          lora_1_strength: 9,
          lora_1_model_strength: 0.7,
          lora_1_clip_strength: 0.7,
          lora_2_name: 'None',
          lora_2_strength: 1,
        }),
        pre,
        s: node('easy kSampler', { pipe: ['pre', 0], image_output: 'Save' }),
      },
      loras: { brass: 0.7 },
    },
    {
      name: 'easy-use, out of a pipe',
      nodes: {
        load: easyLoader('easy comfyLoader'),
        out: node('easy pipeOut', { pipe: ['load', 0] }),
        sampler: sampler({ model: ['out', 1], positive: ['out', 2], negative: ['out', 3], latent_image: ['out', 4] }),
      },
    },
    {
      name: 'tinyterra',
      nodes: {
        load: node('ttN pipeLoader_v2', {
          ckpt_name: 'kettles.safetensors',
          config_name: 'Default',
          vae_name: 'Baked VAE',
          clip_skip: -1,
          loras: '',
          positive: 'a copper kettle',
          positive_token_normalization: 'none',
          positive_weight_interpretation: 'comfy',
          negative: 'fog',
          negative_token_normalization: 'none',
          empty_latent_aspect: 'width x height [custom]',
          empty_latent_width: 512,
          empty_latent_height: 768,
          seed: 99,
        }),
        s: node('ttN pipeKSampler_v2', {
          pipe: ['load', 0],
          lora_name: 'brass.safetensors',
          lora_strength: 0.7,
          steps: 18,
          cfg: 6.5,
          sampler_name: 'euler',
          scheduler: 'normal',
          denoise: 1,
          seed: 31,
          image_output: 'Save',
        }),
      },
      loras: { brass: 0.7 },
    },
    {
      name: 'Impact, a basic pipe',
      nodes: graph({
        pipe: node('ToBasicPipe', {
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
          vae: ['ckpt', 2],
          positive: ['pos', 0],
          negative: ['neg', 0],
        }),
        sampler: node('ImpactKSamplerBasicPipe', {
          basic_pipe: ['pipe', 0],
          seed: 31,
          steps: 18,
          cfg: 6.5,
          sampler_name: 'euler',
          scheduler: 'normal',
          latent_image: ['size', 0],
          denoise: 1,
        }),
      }),
    },
    {
      name: 'Impact, out of a basic pipe',
      nodes: graph({
        pipe: node('ToBasicPipe', {
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
          vae: ['ckpt', 2],
          positive: ['pos', 0],
          negative: ['neg', 0],
        }),
        from: node('FromBasicPipe', { basic_pipe: ['pipe', 0] }),
        sampler: sampler({ model: ['from', 0], positive: ['from', 3], negative: ['from', 4] }),
      }),
    },
    {
      name: 'an unknown loader, told by the order of its outputs',
      nodes: {
        load: node('My Big Loader', {
          ckpt: 'kettles.safetensors',
          prompt_positive: 'a copper kettle',
          prompt_negative: 'fog',
          width: 512,
          height: 768,
        }),
        sampler: sampler({
          model: ['load', 0],
          positive: ['load', 5],
          negative: ['load', 6],
          latent_image: ['load', 7],
        }),
      },
    },
  ])('$name', check);
});

describe('LoRAs', () => {
  const withLora = (
    name: string,
    lora: Nodes,
    loras: Record<string, number>,
    lost: string[] = [],
    parameters = {},
  ): Case => ({
    name,
    nodes: graph({ sampler: sampler({ model: ['l', 0] }), ...lora }),
    parameters,
    loras,
    lost,
  });
  const power = (inputs: Record<string, unknown>) =>
    node('Power Lora Loader (rgthree)', {
      PowerLoraLoaderHeaderWidget: { type: 'PowerLoraLoaderHeaderWidget' },
      ...inputs,
      '➕ Add Lora': '',
      model: ['ckpt', 0],
      clip: ['ckpt', 1],
    });
  test.each<Case>([
    withLora(
      'Power Lora Loader',
      {
        l: power({
          lora_1: { on: true, lora: 'metal/brass.safetensors', strength: 0.7 },
          lora_2: { on: false, lora: 'ink.safetensors', strength: 1 },
        }),
      },
      { brass: 0.7 },
    ),
    withLora(
      'Power Lora Loader, several, with a strength for the words',
      {
        l: power({
          lora_1: { on: true, lora: 'brass.safetensors', strength: 0.7, strengthTwo: 0.2 },
          lora_2: { on: true, lora: 'None', strength: 1 },
          lora_3: { on: true, lora: 'tin.safetensors', strength: -0.5 },
        }),
      },
      { brass: 0.7, tin: -0.5 },
      ['the separate strength of the LoRA brass on the prompt (0.2)'],
    ),
    withLora('all of them off', { l: power({ lora_1: { on: false, lora: 'brass.safetensors', strength: 0.7 } }) }, {}),
    withLora(
      'rgthree’s stack',
      {
        l: node('Lora Loader Stack (rgthree)', {
          lora_01: 'brass.safetensors',
          strength_01: 0.7,
          lora_02: 'None',
          strength_02: 1,
          lora_03: 'tin.safetensors',
          strength_03: 0,
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
      },
      { brass: 0.7 },
    ),
    withLora(
      'behind each other',
      {
        l: node('LoraLoader', {
          lora_name: 'a.safetensors',
          strength_model: 0.7,
          strength_clip: 0.7,
          model: ['m', 0],
          clip: ['m', 1],
        }),
        m: node('LoraLoaderModelOnly', { lora_name: 'b.safetensors', strength_model: 0.2, model: ['ckpt', 0] }),
      },
      { a: 0.7, b: 0.2 },
    ),
    withLora(
      'pysssss, with a picture',
      {
        l: node('LoraLoader|pysssss', {
          lora_name: { content: 'brass.safetensors', image: null },
          strength_model: 0.7,
          strength_clip: 0.7,
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
      },
      { brass: 0.7 },
    ),
    withLora(
      'Comfyroll, switched off and on',
      {
        l: node('CR Load LoRA', {
          switch: 'Off',
          lora_name: 'brass.safetensors',
          strength_model: 1,
          strength_clip: 1,
          model: ['k', 0],
          clip: ['k', 1],
        }),
        k: node('CR Load LoRA', {
          switch: 'On',
          lora_name: 'tin.safetensors',
          strength_model: 0.3,
          strength_clip: 0.3,
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
      },
      { tin: 0.3 },
    ),
    withLora(
      'Comfyroll, a stack that is applied',
      {
        l: node('CR Apply LoRA Stack', { model: ['ckpt', 0], clip: ['ckpt', 1], lora_stack: ['st', 0] }),
        st: node('CR LoRA Stack', {
          switch_1: 'On',
          lora_name_1: 'brass.safetensors',
          model_weight_1: 0.7,
          clip_weight_1: 0.7,
          switch_2: 'Off',
          lora_name_2: 'ink.safetensors',
          model_weight_2: 1,
          clip_weight_2: 1,
        }),
      },
      { brass: 0.7 },
    ),
    withLora(
      'LoRA Manager',
      {
        l: node('Lora Loader (LoraManager)', {
          text: '<lora:brass:0.7>',
          loras: {
            __value__: [
              { name: 'brass', strength: 0.7, active: true },
              { name: 'ink', strength: '1', active: false },
            ],
          },
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
      },
      { brass: 0.7 },
    ),
    withLora(
      'a name from a primitive',
      {
        l: node('LoraLoader', {
          lora_name: ['n', 0],
          strength_model: ['w', 0],
          strength_clip: ['w', 0],
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
        n: node('PrimitiveString', { value: 'brass.safetensors' }),
        w: node('PrimitiveFloat', { value: 0.7 }),
      },
      { brass: 0.7 },
    ),
    withLora(
      'out of a text with tags',
      {
        l: node('LoraTagLoader', { text: ['t', 0], model: ['m', 0], clip: ['ckpt', 1] }),
        t: node('PrimitiveStringMultiline', { value: 'x <lora:metal/brass:0.7> <lora:none:0>' }),
        m: node('LoRA Text Loader (LoraManager)', {
          lora_syntax: '<lora:ink:0.2:0.1>',
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
      },
      { brass: 0.7, ink: 0.2 },
      ['the separate strength of the LoRA ink on the prompt (0.1)'],
    ),
    withLora(
      'with a strength for the words, and one for each block',
      {
        l: node('LoraLoaderBlockWeight //Inspire', {
          lora_name: 'brass.safetensors',
          strength_model: 0.7,
          strength_clip: 0.3,
          block_vector: '1,0,0.5',
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
        }),
      },
      { brass: 0.7 },
      ['separate strength of the LoRA brass on the prompt (0.3)', 'the strengths of single parts of the LoRA brass'],
    ),
    {
      name: 'of a prompt that loads them itself',
      nodes: graph({
        pos: node('Power Prompt (rgthree)', {
          prompt: 'a copper kettle <lora:brass:0.7>',
          opt_model: ['ckpt', 0],
          opt_clip: ['ckpt', 1],
        }),
        sampler: sampler({ model: ['pos', 1] }),
      }),
      loras: { brass: 0.7 },
    },
    {
      name: 'hooked to a conditioning',
      nodes: graph({
        pos: node('ConditioningSetProperties', {
          cond_NEW: ['words', 0],
          strength: 1,
          set_cond_area: 'default',
          hooks: ['h', 0],
        }),
        words: encoding('a copper kettle'),
        h: node('CreateHookLora', { lora_name: 'brass.safetensors', strength_model: 0.7, strength_clip: 0.7 }),
      }),
      lost: ['the LoRA brass, which changed a part of it only'],
    },
    withLora(
      'behind what shifts noise',
      {
        l: node('ModelSamplingSD3', { shift: 3, model: ['m', 0] }),
        m: node('LoraLoaderModelOnly', { lora_name: 'brass.safetensors', strength_model: 0.7, model: ['ckpt', 0] }),
      },
      { brass: 0.7 },
      [],
      { model_sampling: 'ModelSamplingSD3', shift: 3 },
    ),
  ])('$name', check);
});

describe('pictures of public reports', () => {
  const CASES: Record<string, Partial<Reading['parameters']> & { lora?: [string, number] }> = {
    'bypassed.png': {
      prompt: 'a copper kettle',
      negative_prompt: 'fog',
      steps: 21,
      seed: '404',
      width: 512,
      height: 768,
    },
    'civitai.jpg': {
      prompt: 'a copper kettle, close up',
      negative_prompt: 'fog',
      steps: 26,
      guidance_scale: 5.5,
      sampler: 'euler_ancestral',
      schedule: 'normal',
      seed: '909',
      width: 512,
      height: 768,
    },
    'core.png': { prompt: 'a copper kettle, oil painting', negative_prompt: 'fog' },
    'efficient.png': {
      prompt: 'a copper kettle',
      negative_prompt: 'fog',
      width: 512,
      height: 768,
      lora: ['brass', 0.6],
    },
    'power.png': { prompt: 'a copper kettle', negative_prompt: 'fog', lora: ['brass', 0.7] },
    'subgraph.png': {
      prompt: 'a copper kettle',
      negative_prompt: 'fog',
      steps: 21,
      guidance_scale: 6,
      sampler: 'euler',
      schedule: 'normal',
      seed: '404',
      width: 512,
      height: 768,
    },
    'was.png': { prompt: 'a copper kettle, oil painting', negative_prompt: 'fog' },
  };
  test.each(Object.entries(CASES))('%s', async (file, { lora, ...parameters }) => {
    const bytes = new Uint8Array(readFileSync(new URL(file, PICTURES)));
    const reading = await readPicture(bytes, noPixels);
    const apart = file === 'efficient.png' ? ['the separate strength of the LoRA brass on the prompt (0.9)'] : [];
    expect(reading).toMatchObject({ tool: 'ComfyUI', parameters, notRestored: apart });
    expect(reading?.loras.map(({ name, weight }) => [name, weight])).toEqual(lora ? [lora] : []);
  });

  test('all of them are here', () => {
    expect(readdirSync(PICTURES).sort()).toEqual(Object.keys(CASES).sort());
  });
});

describe('samplers of every make', () => {
  const parts = (more: Nodes): Nodes =>
    graph({
      sampler: node('SamplerCustomAdvanced', {
        noise: ['noise', 0],
        guider: ['guider', 0],
        sampler: ['select', 0],
        sigmas: ['sigmas', 0],
        latent_image: ['size', 0],
      }),
      noise: node('RandomNoise', { noise_seed: 31 }),
      guider: node('CFGGuider', { model: ['ckpt', 0], positive: ['pos', 0], negative: ['neg', 0], cfg: 6.5 }),
      select: node('KSamplerSelect', { sampler_name: 'euler' }),
      sigmas: node('BasicScheduler', { scheduler: 'normal', steps: 18, denoise: 1, model: ['ckpt', 0] }),
      ...more,
    });
  const flux: Nodes = {
    guider: node('BasicGuider', { model: ['shift', 0], conditioning: ['fg', 0] }),
    fg: node('FluxGuidance', { guidance: 3.5, conditioning: ['pos', 0] }),
    shift: node('ModelSamplingFlux', { max_shift: 1.15, base_shift: 0.5, width: 512, height: 768, model: ['unet', 0] }),
    unet: node('UNETLoader', { unet_name: 'flux1-dev.safetensors', weight_dtype: 'default' }),
    pos: node('CLIPTextEncode', { text: 'a copper kettle', clip: ['dual', 0] }),
    dual: node('DualCLIPLoader', { clip_name1: 't5.safetensors', clip_name2: 'l.safetensors', type: 'flux' }),
    decode: node('VAEDecode', { samples: ['sampler', 0], vae: ['vae', 0] }),
    vae: node('VAELoader', { vae_name: 'ae.safetensors' }),
    ckpt: node('Note'),
    neg: node('Note'),
  };
  test.each<Case>([
    { name: 'in parts', nodes: parts({}) },
    {
      name: 'in parts, a schedule that was split',
      nodes: parts({
        sampler: node('SamplerCustom', {
          add_noise: true,
          noise_seed: 31,
          cfg: 6.5,
          model: ['ckpt', 0],
          positive: ['pos', 0],
          negative: ['neg', 0],
          sampler: ['select', 0],
          sigmas: ['split', 0],
          latent_image: ['size', 0],
        }),
        split: node('SplitSigmas', { step: 9, sigmas: ['karras', 0] }),
        karras: node('KarrasScheduler', { steps: 18, sigma_max: 14, sigma_min: 0.03, rho: 7 }),
        select: node('SamplerDPMPP_2M_SDE', { solver_type: 'midpoint', eta: 1, s_noise: 1, noise_device: 'gpu' }),
      }),
      parameters: { sampler: 'dpmpp_2m_sde', schedule: 'karras' },
    },
    {
      name: 'in parts, a schedule that is known by name, which the page judges',
      nodes: parts({ sigmas: node('AlignYourStepsScheduler', { model_type: 'SD1', steps: 18, denoise: 1 }) }),
      parameters: { schedule: 'align_your_steps' },
    },
    {
      name: 'in parts, a schedule that has no name here',
      nodes: parts({ sigmas: node('OptimalStepsScheduler', { model_type: 'FLUX', steps: 18, denoise: 1 }) }),
      parameters: { schedule: undefined },
      lost: ['the schedule Optimal Steps'],
    },
    {
      name: 'Advanced',
      nodes: graph({
        sampler: node('KSamplerAdvanced', {
          ...sampler().inputs,
          seed: undefined,
          add_noise: 'enable',
          noise_seed: 31,
          start_at_step: 0,
          end_at_step: 10000,
          return_with_leftover_noise: 'disable',
        }),
      }),
    },
    {
      name: 'Advanced, with a refiner behind it',
      nodes: graph({
        sampler: node('KSamplerAdvanced', { ...sampler().inputs, noise_seed: 31, start_at_step: 0, end_at_step: 14 }),
        refine: node('KSamplerAdvanced', {
          ...sampler().inputs,
          noise_seed: 31,
          start_at_step: 14,
          end_at_step: 18,
          latent_image: ['sampler', 0],
        }),
        decode: node('VAEDecode', { samples: ['refine', 0], vae: ['ckpt', 2] }),
      }),
      lost: ['a second pass'],
    },
    {
      name: 'tiled',
      nodes: graph({ sampler: node('BNK_TiledKSampler', { ...sampler().inputs, tile_width: 512, tile_height: 512 }) }),
    },
    {
      name: 'Inspire',
      nodes: graph({
        sampler: node('KSampler //Inspire', {
          ...sampler().inputs,
          noise_mode: 'GPU(=A1111)',
          variation_seed: 4,
          variation_strength: 0.2,
        }),
      }),
      lost: ['the variation seed'],
    },
    {
      name: 'out of a large context, with settings that are kept apart',
      nodes: graph({
        ctx: node('Context Big (rgthree)', {
          model: ['ckpt', 0],
          positive: ['pos', 0],
          negative: ['neg', 0],
          latent: ['size', 0],
          seed: ['n', 0],
          steps: ['k', 0],
          cfg: ['k', 2],
        }),
        n: node('Seed (rgthree)', { seed: 31 }),
        k: node('KSampler Config (rgthree)', {
          steps_total: 18,
          refiner_step: 14,
          cfg: 6.5,
          sampler_name: 'euler',
          scheduler: 'normal',
        }),
        sampler: sampler({
          model: ['ctx', 1],
          positive: ['ctx', 4],
          negative: ['ctx', 5],
          latent_image: ['ctx', 6],
          seed: ['ctx', 8],
          steps: ['ctx', 9],
          cfg: ['ctx', 11],
          sampler_name: ['k', 3],
          scheduler: ['k', 4],
        }),
      }),
    },
    {
      name: 'seed and steps from other nodes',
      nodes: graph({
        sampler: sampler({ seed: ['seed', 0], steps: ['n', 0], cfg: ['c', 0], sampler_name: ['s', 0] }),
        seed: node('Seed (rgthree)', { seed: 31 }),
        n: node('PrimitiveInt', { value: 18 }),
        c: node('PrimitiveFloat', { value: 6.5 }),
        s: node('Sampler Selector', { sampler_name: 'euler' }),
      }),
    },
    {
      name: 'a seed that was worked out',
      nodes: graph({
        sampler: sampler({ seed: ['math', 0] }),
        math: node('MathExpression|pysssss', { expression: 'a + 1', a: 30 }),
      }),
      // A tool's seeds only mean something with its noise.
      parameters: { seed: undefined, noise: undefined, follows: undefined },
      lost: ['the seed'],
    },
  ])('$name', ({ parameters, ...rest }) => {
    const given = Object.fromEntries(
      Object.entries({ ...ALL, ...parameters }).filter(([, value]) => value !== undefined),
    );
    const reading = read(rest.nodes);
    expect(reading?.parameters).toEqual(given);
    expect(reading?.checkpoint.name).toBe('kettles.safetensors');
    (rest.lost ?? []).forEach((what) => expect(reading?.notRestored.join('; ')).toContain(what));
    expect(reading?.notRestored).toHaveLength(rest.lost?.length ?? 0);
  });

  test('Flux has distilled guidance and no negative prompt', () => {
    const reading = read(parts(flux));
    const shift = {
      model_sampling: 'ModelSamplingFlux',
      max_shift: 1.15,
      base_shift: 0.5,
      shift_width: 512,
      shift_height: 768,
    };
    expect(reading?.parameters).toEqual({ ...without('negative_prompt'), guidance_scale: 3.5, ...shift });
    expect(reading?.checkpoint.name).toBe('flux1-dev.safetensors');
    expect(reading?.notRestored).toEqual([]);
  });

  test('of several nodes that shift the levels the one nearest to the sampler counts, and only a whole one', () => {
    const behind = (shift: number): Nodes => ({
      ...flux,
      guider: node('BasicGuider', { model: ['aura', 0], conditioning: ['fg', 0] }),
      aura: node('ModelSamplingAuraFlow', { shift, model: ['shift', 0] }),
    });
    const taken = read(parts(behind(3.1)));
    expect(taken?.parameters).toMatchObject({ model_sampling: 'ModelSamplingAuraFlow', shift: 3.1 });
    expect(taken?.parameters).not.toHaveProperty('base_shift');
    const refused = read(parts(behind(0)));
    expect(refused?.parameters).not.toHaveProperty('model_sampling');
    expect(refused?.notRestored).toEqual(['how its noise levels were shifted']);
  });

  test('Wan’s own sampler, with both prompts in one node', () => {
    const reading = read({
      t5: node('LoadWanVideoT5TextEncoder', { model_name: 'umt5.safetensors' }),
      words: node('WanVideoTextEncode', { t5: ['t5', 0], positive_prompt: 'a kettle boils', negative_prompt: 'still' }),
      model: node('WanVideoModelLoader', { model: 'wan2.1.safetensors', lora: ['lora', 0] }),
      lora: node('WanVideoLoraSelect', { lora: 'steam.safetensors', strength: 0.8, prev_lora: ['lora2', 0] }),
      lora2: node('WanVideoLoraSelect', { lora: 'fast.safetensors', strength: 1 }),
      size: node('WanVideoEmptyEmbeds', { width: 832, height: 480, num_frames: 81 }),
      s: node('WanVideoSampler', {
        model: ['model', 0],
        text_embeds: ['words', 0],
        image_embeds: ['size', 0],
        steps: 30,
        cfg: 6,
        shift: 5,
        seed: 7,
        scheduler: 'unipc',
      }),
      d: node('WanVideoDecode', { samples: ['s', 0] }),
      v: node('VHS_VideoCombine', { images: ['d', 0], frame_rate: 16 }),
    });
    expect(reading?.parameters).toMatchObject({
      prompt: 'a kettle boils',
      negative_prompt: 'still',
      steps: 30,
      guidance_scale: 6,
      seed: '7',
      width: 832,
      height: 480,
    });
    expect(reading?.checkpoint.name).toBe('wan2.1.safetensors');
    expect(reading?.loras.map(({ name, weight }) => [name, weight])).toEqual([
      ['steam', 0.8],
      ['fast', 1],
    ]);
    expect(reading?.notRestored).toContain('its length of 81 frames');
  });

  test('a sound', () => {
    const reading = read({
      c: node('CheckpointLoaderSimple', { ckpt_name: 'ace.safetensors' }),
      p: node('TextEncodeAceStepAudio', {
        clip: ['c', 1],
        tags: 'slow piano',
        lyrics: '[verse] la',
        lyrics_strength: 1,
      }),
      z: node('ConditioningZeroOut', { conditioning: ['p', 0] }),
      l: node('EmptyAceStepLatentAudio', { seconds: 30, batch_size: 1 }),
      s: sampler({ model: ['c', 0], positive: ['p', 0], negative: ['z', 0], latent_image: ['l', 0] }),
      d: node('VAEDecodeAudio', { samples: ['s', 0], vae: ['c', 2] }),
      save: node('SaveAudio', { audio: ['d', 0] }),
    });
    expect(reading?.parameters).toMatchObject({ prompt: 'slow piano', negative_prompt: '' });
    expect(reading?.notRestored).toEqual(['the lyrics', 'its length of 30 seconds']);
  });

  test('a node of a paid service, which is no sampler', () => {
    const reading = read({
      a: node('FluxProUltraImageNode', {
        prompt: 'a copper kettle',
        prompt_upsampling: false,
        seed: 5,
        aspect_ratio: '16:9',
      }),
      s: node('SaveImage', { images: ['a', 0] }),
    });
    expect(reading?.parameters).toMatchObject({ prompt: 'a copper kettle', seed: '5' });
  });

  test('a graph whose sampler is bypassed, or lies in a group that is not there, takes no name of a file for words', () => {
    const bypassed = drawn([
      [10, 'CheckpointLoaderSimple', ['kettles.safetensors']],
      [11, 'CLIPTextEncode', ['a copper kettle'], [['clip', 10, 1, 'CLIP']]],
      [14, 'KSampler', [31], [['positive', 11, 0, 'CONDITIONING']], { mode: 4 }],
      [15, 'VAEDecode', [], [['samples', 14, 0, 'LATENT']]],
      [16, 'SaveImage', ['x y'], [['images', 15, 0, 'IMAGE']]],
    ]);
    const grouped = drawn([
      [1, 'workflow/mine', ['kettles.safetensors', 5]],
      [16, 'SaveImage', ['x y'], [['images', 1, 0, 'IMAGE']]],
    ]);
    const [words, none] = [bypassed, grouped].map((workflow) => read(null, workflow));
    expect(words?.parameters).toEqual({ prompt: 'a copper kettle' });
    expect(none?.parameters).toEqual({});
    expect(none?.notRestored).toEqual(['the prompt, whose words could not be read']);
  });

  test('a graph in which nobody finds words is no silence', () => {
    const reading = read({ a: node('MysteryBox', { dial: 3 }), s: node('SaveImage', { images: ['a', 0] }) });
    expect(reading?.parameters).toEqual({});
    expect(reading?.notRestored).toEqual(['the prompt, whose words could not be read']);
  });
});

describe('what it began with, and what came after', () => {
  const photo = node('LoadImage', { image: 'a.png' });
  const encode = node('VAEEncode', { pixels: ['photo', 0], vae: ['ckpt', 2] });
  const unsized = without('width', 'height');
  const changed = { ...unsized, strength: 0.6 };
  const from = sampler({ denoise: 0.6, latent_image: ['start', 0] });
  test.each<[name: string, nodes: Nodes, parameters: Reading['parameters'], lost: string[]]>([
    ['a picture', graph({ photo, start: encode, sampler: from }), changed, ['the picture it started from']],
    [
      'a picture, masked',
      graph({
        photo,
        start: node('SetLatentNoiseMask', { samples: ['e', 0], mask: ['photo', 1] }),
        e: encode,
        sampler: from,
      }),
      changed,
      ['the mask', 'the picture it started from'],
    ],
    [
      'inpainting',
      graph({
        photo,
        inp: node('InpaintModelConditioning', {
          positive: ['pos', 0],
          negative: ['neg', 0],
          vae: ['ckpt', 2],
          pixels: ['photo', 0],
          mask: ['photo', 1],
          noise_mask: true,
        }),
        sampler: sampler({ denoise: 0.6, positive: ['inp', 0], negative: ['inp', 1], latent_image: ['inp', 2] }),
      }),
      changed,
      ['the mask', 'the picture it started from'],
    ],
    [
      'a size from another node',
      graph({
        size: node('EmptyLatentImage', { width: ['n', 0], height: ['n', 1], batch_size: 1 }),
        n: node('CR SDXL Aspect Ratio', {
          width: 1,
          height: 1,
          aspect_ratio: '2:3 portrait 512x768',
          swap_dimensions: 'Off',
          upscale_factor: 1,
        }),
      }),
      ALL,
      [],
    ],
    [
      'a size from primitives',
      graph({
        size: node('EmptySD3LatentImage', { width: ['w', 0], height: ['h', 0], batch_size: 4 }),
        w: node('PrimitiveInt', { value: 512 }),
        h: node('easy int', { value: 768 }),
      }),
      ALL,
      ['its place among the 4 made at once'],
    ],
    [
      'a size that was measured',
      graph({
        photo,
        size: node('EmptyLatentImage', { width: ['g', 0], height: ['g', 1], batch_size: 1 }),
        g: node('GetImageSize', { image: ['photo', 0] }),
      }),
      unsized,
      ['the size'],
    ],
    [
      'enlarged and painted over',
      graph({
        up: node('LatentUpscaleBy', { upscale_method: 'nearest-exact', scale_by: 1.5, samples: ['sampler', 0] }),
        s2: sampler({ seed: 9, steps: 8, denoise: 0.5, latent_image: ['up', 0] }),
        decode: node('VAEDecode', { samples: ['s2', 0], vae: ['ckpt', 2] }),
      }),
      ALL,
      ['a second pass'],
    ],
    [
      'enlarged by a model',
      graph({
        m: node('UpscaleModelLoader', { model_name: 'x4.pth' }),
        up: node('ImageUpscaleWithModel', { upscale_model: ['m', 0], image: ['decode', 0] }),
        save: node('SaveImage', { images: ['up', 0] }),
      }),
      ALL,
      ['the enlarging at the end'],
    ],
    [
      'faces repainted',
      graph({
        face: node('FaceDetailer', {
          image: ['decode', 0],
          model: ['ckpt', 0],
          clip: ['ckpt', 1],
          vae: ['ckpt', 2],
          positive: ['pos', 0],
          negative: ['neg', 0],
          seed: 1,
          steps: 20,
          cfg: 8,
          sampler_name: 'euler',
          scheduler: 'normal',
          denoise: 0.5,
          guide_size: 512,
        }),
        save: node('SaveImage', { images: ['face', 0] }),
      }),
      ALL,
      ['repainted faces'],
    ],
    [
      'another VAE, clip skip',
      graph({
        v: node('VAELoader', { vae_name: 'soft.safetensors' }),
        skip: node('CLIPSetLastLayer', { clip: ['ckpt', 1], stop_at_clip_layer: -2 }),
        pos: node('CLIPTextEncode', { text: 'a copper kettle', clip: ['skip', 0] }),
        decode: node('VAEDecode', { samples: ['sampler', 0], vae: ['v', 0] }),
      }),
      { ...ALL, clip_skip: 2 },
      ['the VAE soft.safetensors'],
    ],
    [
      'two samplers beside each other',
      graph({
        s2: sampler({ seed: 9 }),
        d2: node('VAEDecode', { samples: ['s2', 0], vae: ['ckpt', 2] }),
        p2: node('PreviewImage', { images: ['d2', 0] }),
      }),
      ALL,
      ['further samplers'],
    ],
    [
      'a patch that nobody knows',
      graph({
        x: { ...node('ZorgModelTwist', { amount: 2, model: ['ckpt', 0] }), _meta: { title: 'Twist it' } },
        sampler: sampler({ model: ['x', 0] }),
      }),
      ALL,
      ['what the node "Twist it" changed'],
    ],
  ])('%s', (_name, nodes, parameters, lost) => {
    const reading = read(nodes);
    expect(reading?.parameters).toEqual(parameters);
    lost.forEach((what) => expect(reading?.notRestored.join('; ')).toContain(what));
    expect(reading?.notRestored).toHaveLength(lost.length);
  });
});

/** The editor's form of some nodes: type, values, inputs (name, source node, source output, type). */
type Drawn = [
  id: number,
  type: string,
  values: unknown,
  inputs?: [name: string, from: number, output: number, type: string][],
  more?: Record<string, unknown>,
];

/** @param asObjects links as in version 1 and in subgraphs */
function drawn(nodes: Drawn[], asObjects = false): { nodes: Record<string, unknown>[]; links: unknown[] } {
  const links: unknown[] = [];
  const list = nodes.map(([id, type, values, inputs = [], more = {}]) => ({
    id,
    type,
    mode: 0,
    widgets_values: values,
    inputs: inputs.map(([name, from, output, kind], i) => {
      const link = links.length + 1;
      links.push(
        asObjects
          ? { id: link, origin_id: from, origin_slot: output, target_id: id, target_slot: i, type: kind }
          : [link, from, output, id, i, kind],
      );
      return { name, type: kind, link };
    }),
    ...more,
  }));
  return { nodes: list, links };
}

describe('the editor’s form alone', () => {
  const [M, C, L] = ['MODEL', 'CONDITIONING', 'LATENT'];
  const KEPT = [31, 'fixed', 18, 6.5, 'euler', 'normal', 1];
  /** Like {@link graph}, from node 10 on; each test defines the first ones. */
  const usual = (more: Drawn[] = [], model: [number, number] = [10, 0], words: [number, number] = [11, 0]): Drawn[] => [
    ...more,
    [10, 'CheckpointLoaderSimple', ['kettles.safetensors']],
    [11, 'CLIPTextEncode', ['a copper kettle'], [['clip', 10, 1, 'CLIP']]],
    [12, 'CLIPTextEncode', ['fog'], [['clip', 10, 1, 'CLIP']]],
    [13, 'EmptyLatentImage', [512, 768, 1]],
    [
      14,
      'KSampler',
      KEPT,
      [
        ['model', ...model, M],
        ['positive', ...words, C],
        ['negative', 12, 0, C],
        ['latent_image', 13, 0, L],
      ],
    ],
    [
      15,
      'VAEDecode',
      [],
      [
        ['samples', 14, 0, L],
        ['vae', 10, 2, 'VAE'],
      ],
    ],
    [16, 'SaveImage', ['x'], [['images', 15, 0, 'IMAGE']]],
    [17, 'Note', ['not a prompt: <lora:nothing:1>']],
    [18, 'MarkdownNote', ['# not a prompt either']],
  ];
  const widget = (name: string, type = 'STRING') => ({ name, type, link: null, widget: { name } });

  const same = (
    name: string,
    workflow: unknown,
    rest: Partial<Reading> & { changed?: Reading['parameters'] } = {},
  ) => ({ name, workflow, ...rest });
  test.each([
    same('as it is', drawn(usual())),
    same('links as objects', { version: 1, ...drawn(usual(), true) }),
    same(
      'a bypassed LoRA',
      drawn(
        usual([[1, 'LoraLoaderModelOnly', ['brass.safetensors', 0.7], [['model', 10, 0, M]], { mode: 4 }]], [1, 0]),
      ),
    ),
    same(
      'a bypassed LoRA for model and words',
      drawn(
        usual(
          [
            [
              1,
              'LoraLoader',
              ['brass.safetensors', 0.7, 1],
              [
                ['model', 10, 0, M],
                ['clip', 10, 1, 'CLIP'],
              ],
              { mode: 4 },
            ],
            [2, 'CLIPTextEncode', ['a copper kettle'], [['clip', 1, 1, 'CLIP']]],
          ],
          [1, 0],
          [2, 0],
        ),
      ),
    ),
    same(
      'a bypassed ControlNet',
      drawn(
        usual(
          [
            [
              1,
              'ControlNetApplyAdvanced',
              [1, 0, 1],
              [
                ['positive', 11, 0, C],
                ['negative', 12, 0, C],
                ['image', 3, 0, 'IMAGE'],
              ],
              { mode: 4 },
            ],
            [3, 'LoadImage', ['a.png']],
          ],
          [10, 0],
          [1, 0],
        ),
      ),
    ),
    same(
      'a muted second pass',
      drawn([
        ...usual(),
        [
          20,
          'KSampler',
          [5, 'fixed', 9, 5, 'euler', 'normal', 0.5],
          [
            ['model', 10, 0, M],
            ['positive', 11, 0, C],
            ['negative', 12, 0, C],
            ['latent_image', 14, 0, L],
          ],
          { mode: 2 },
        ],
        [21, 'VAEDecode', [], [['samples', 20, 0, L]], { mode: 2 }],
      ]),
    ),
    same(
      'reroutes of the core and of rgthree',
      drawn(
        usual(
          [
            [1, 'Reroute', null, [['', 11, 0, '*']]],
            [2, 'Reroute (rgthree)', [], [['', 1, 0, '*']]],
          ],
          [10, 0],
          [2, 0],
        ),
      ),
    ),
    same(
      'Set and Get',
      drawn(
        usual(
          [
            [1, 'SetNode', ['words'], [['CONDITIONING', 11, 0, C]]],
            [2, 'GetNode', ['words']],
            [3, 'SetNode', ['model'], [['MODEL', 10, 0, M]]],
            [4, 'GetNode', ['model']],
          ],
          [4, 0],
          [2, 0],
        ),
      ),
    ),
    same(
      'a primitive for the words',
      drawn(
        usual(
          [
            [1, 'PrimitiveNode', ['a copper kettle']],
            [
              2,
              'CLIPTextEncode',
              ['an older text'],
              [
                ['clip', 10, 1, 'CLIP'],
                ['text', 1, 0, 'STRING'],
              ],
            ],
          ],
          [10, 0],
          [2, 0],
        ),
      ),
    ),
    same(
      'what Use Everywhere links',
      (() => {
        const workflow = drawn(usual([[1, 'Anything Everywhere', [], [['MODEL', 10, 0, M]]]]));
        const sampler = workflow.nodes.find(({ id }) => id === 14) as { inputs: { link: unknown }[] };
        sampler.inputs[0].link = null;
        const links = [
          { downstream: 14, downstream_slot: 0, upstream: '10', upstream_slot: 0, controller: 1, type: M },
        ];
        return { ...workflow, extra: { ue_links: links } };
      })(),
    ),
    same(
      'joined words',
      drawn(
        usual(
          [
            [1, 'StringConcatenate', ['a copper', 'kettle', ' ']],
            [
              2,
              'CLIPTextEncode',
              [''],
              [
                ['clip', 10, 1, 'CLIP'],
                ['text', 1, 0, 'STRING'],
              ],
            ],
          ],
          [10, 0],
          [2, 0],
        ),
      ),
    ),
    same(
      'values with their names',
      drawn(
        usual(
          [
            [
              2,
              'CLIPTextEncode',
              ['x'],
              [['clip', 10, 1, 'CLIP']],
              { widgets_values_named: { text: 'a copper kettle' } },
            ],
          ],
          [10, 0],
          [2, 0],
        ),
      ),
    ),
    same(
      'an unknown encoder whose widgets are all among its inputs',
      (() => {
        const workflow = drawn(
          usual(
            [[2, 'My Encoder', [7, 'randomize', 'low', 'a copper kettle', false], [['clip', 10, 1, 'CLIP']]]],
            [10, 0],
            [2, 0],
          ),
        );
        (workflow.nodes[0].inputs as unknown[]).push(
          widget('seed', 'INT'),
          widget('quality'),
          widget('text'),
          widget('flag', 'BOOLEAN'),
        );
        return workflow;
      })(),
    ),
    same(
      'an unknown encoder',
      drawn(usual([[2, 'My Encoder', ['low', 'a copper kettle', 4], [['clip', 10, 1, 'CLIP']]]], [10, 0], [2, 0])),
    ),
    same(
      'a Power Lora Loader',
      drawn(
        usual(
          [
            [
              1,
              'Power Lora Loader (rgthree)',
              [
                {},
                { type: 'PowerLoraLoaderHeaderWidget' },
                { on: true, lora: 'brass.safetensors', strength: 0.7, strengthTwo: null },
                { on: false, lora: 'ink.safetensors', strength: 1 },
                {},
                '',
              ],
              [
                ['model', 10, 0, M],
                ['clip', 10, 1, 'CLIP'],
              ],
            ],
          ],
          [1, 0],
        ),
      ),
      { loras: [{ name: 'brass', weight: 0.7, hash: null, sha256: null }] },
    ),
    same(
      'an Efficient Loader, by its outputs',
      drawn([
        [
          1,
          'Efficient Loader',
          [
            'kettles.safetensors',
            'Baked VAE',
            -1,
            'brass.safetensors',
            0.7,
            0.7,
            'a copper kettle',
            'fog',
            'none',
            'comfy',
            512,
            768,
            1,
          ],
        ],
        [
          2,
          'KSampler (Efficient)',
          [31, null, 18, 6.5, 'euler', 'normal', 1, 'auto', 'true'],
          [
            ['model', 1, 0, M],
            ['positive', 1, 1, C],
            ['negative', 1, 2, C],
            ['latent_image', 1, 3, L],
          ],
        ],
      ]),
      { loras: [{ name: 'brass', weight: 0.7, hash: null, sha256: null }] },
    ),
  ])('$name', ({ workflow, loras = [] }) => {
    const reading = read(null, workflow);
    expect(reading?.parameters).toEqual(ALL);
    expect(reading?.loras).toEqual(loras);
    expect(reading?.checkpoint.name).toBe('kettles.safetensors');
    expect(reading?.notRestored).toEqual([]);
  });

  const ID = '5f0e3c51-6d1b-4f0e-9d56-0c9a7b2c1d10';
  const OTHER = '11111111-6d1b-4f0e-9d56-0c9a7b2c1d10';
  /** A subgraph of everything but the decoder, with the prompt and steps from outside. */
  const inner = () => {
    const { nodes, links } = drawn(usual().slice(0, 5), true);
    (nodes[1].inputs as unknown[]).push({ name: 'text', type: 'STRING', link: 90, widget: { name: 'text' } });
    (nodes[4].inputs as unknown[]).push({ name: 'steps', type: 'INT', link: 91, widget: { name: 'steps' } });
    return {
      id: ID,
      name: 'Text to latents',
      inputNode: { id: -10 },
      outputNode: { id: -20 },
      inputs: [
        { name: 'text', type: 'STRING', linkIds: [90] },
        { name: 'steps', type: 'INT', linkIds: [91] },
      ],
      outputs: [{ name: 'LATENT', type: 'LATENT', linkIds: [92] }],
      nodes,
      links: [
        ...links,
        { id: 90, origin_id: -10, origin_slot: 0, target_id: 11, target_slot: 1, type: 'STRING' },
        { id: 91, origin_id: -10, origin_slot: 1, target_id: 14, target_slot: 4, type: 'INT' },
        { id: 92, origin_id: 14, origin_slot: 0, target_id: -20, target_slot: 0, type: 'LATENT' },
      ],
    };
  };
  const after: Drawn[] = [
    [15, 'VAEDecode', [], [['samples', 70, 0, L]]],
    [16, 'SaveImage', ['x'], [['images', 15, 0, 'IMAGE']]],
  ];
  const withInstance = (instance: Record<string, unknown>, more: Drawn[] = [], subgraphs: unknown[] = [inner()]) => {
    const outer = drawn([...more, [70, ID, []], ...after]);
    Object.assign(outer.nodes[more.length], instance);
    return { ...outer, definitions: { subgraphs } };
  };
  const instance = { inputs: [widget('text'), widget('steps', 'INT')], widgets_values: ['a copper kettle', 18] };

  test('a subgraph whose widgets show outside', () => {
    expect(read(null, withInstance(instance))).toMatchObject({ parameters: ALL, notRestored: [] });
  });

  test('a subgraph that is linked from outside', () => {
    const workflow = withInstance({}, [[1, 'PrimitiveStringMultiline', ['a copper kettle']]]);
    workflow.nodes[1] = {
      ...workflow.nodes[1],
      inputs: [{ ...widget('text'), link: 50 }, widget('steps', 'INT')],
      widgets_values: ['an older text', 18],
    };
    workflow.links.push([50, 1, 0, 70, 0, 'STRING']);
    expect(read(null, workflow)?.parameters).toEqual(ALL);
  });

  test('a subgraph that shows widgets of its nodes by their ids', () => {
    const workflow = withInstance({
      inputs: [widget('text'), widget('steps', 'INT')],
      properties: {
        proxyWidgets: [
          ['-1', 'text'],
          ['14', 'seed'],
          ['13', 'width'],
          ['-1', 'steps'],
        ],
      },
      widgets_values: ['a copper kettle', 77, 640, 18],
    });
    expect(read(null, workflow)?.parameters).toEqual({ ...ALL, seed: '77', width: 640 });
  });

  test('a subgraph in another', () => {
    const outer = {
      id: OTHER,
      inputs: [{ name: 'words', type: 'STRING', linkIds: [1] }],
      outputs: [{ name: 'LATENT', type: 'LATENT', linkIds: [2] }],
      nodes: [
        {
          id: 5,
          type: ID,
          mode: 0,
          inputs: [{ ...widget('text'), link: 1 }, widget('steps', 'INT')],
          widgets_values: ['', 18],
        },
      ],
      links: [
        { id: 1, origin_id: -10, origin_slot: 0, target_id: 5, target_slot: 0, type: 'STRING' },
        { id: 2, origin_id: 5, origin_slot: 0, target_id: -20, target_slot: 0, type: 'LATENT' },
      ],
    };
    const workflow = withInstance(
      { type: OTHER, inputs: [widget('words')], widgets_values: ['a copper kettle'] },
      [],
      [inner(), outer],
    );
    expect(read(null, workflow)?.parameters).toEqual(ALL);
  });

  /** As stored by older editors: links by node positions. */
  const group = (nodes: Drawn[], external: unknown[] = []) => {
    const places = new Map(nodes.map(([id], index) => [id, index]));
    const made = drawn(nodes);
    return {
      nodes: made.nodes.map(({ id, ...node }, index) => ({
        ...node,
        index: places.get(id as number) ?? index,
        outputs: ['MODEL', 'CLIP', 'VAE'].map((type) => ({ name: type, type })),
      })),
      links: (made.links as [number, number, number, number, number, string][]).map(
        ([, from, slot, to, toSlot, type]) => [places.get(from) ?? null, slot, places.get(to), toSlot, from, type],
      ),
      external,
    };
  };

  test('a group node with the words, whose values are those of its use', () => {
    const encoders: Drawn[] = [11, 12].map((id) => [id, 'CLIPTextEncode', ['in the group'], [['clip', 10, 1, 'CLIP']]]);
    const words = group(encoders);
    words.nodes.forEach((node) => (node.outputs = [{ name: C, type: C }]));
    const nodes = usual().filter(([id]) => id !== 11 && id !== 12);
    const use: Drawn = [
      70,
      'workflow/Words',
      ['a copper kettle', 'fog'],
      [
        ['clip', 10, 1, 'CLIP'],
        ['CLIPTextEncode clip', 10, 1, 'CLIP'],
      ],
    ];
    const sampler = nodes.findIndex(([id]) => id === 14);
    nodes[sampler] = [
      14,
      'KSampler',
      KEPT,
      [
        ['model', 10, 0, M],
        ['positive', 70, 0, C],
        ['negative', 70, 1, C],
        ['latent_image', 13, 0, L],
      ],
    ];
    const workflow = { ...drawn([...nodes, use]), extra: { groupNodes: { Words: words } } };
    expect(read(null, workflow)).toMatchObject({ parameters: ALL, notRestored: [] });
    // A bypassed one gives the sampler no prompt.
    expect(
      read(null, { ...workflow, nodes: workflow.nodes.map((node) => ({ ...node, mode: node.id === 70 ? 2 : 0 })) })
        ?.parameters.prompt,
    ).toBeUndefined();
  });

  test('a group node with everything but the decoder, of the later spelling', () => {
    const nodes = usual().slice(0, 5);
    const all = group(nodes, [[4, 0, L]]);
    all.nodes[4].outputs = [{ name: L, type: L }];
    all.nodes.slice(1, 4).forEach((node) => (node.outputs = [{ name: C, type: C }]));
    const values = nodes.flatMap(([, , own]) => own as unknown[]);
    const workflow = (widgets: unknown[]) => ({
      ...drawn([
        [70, 'workflow>All', widgets],
        [15, 'VAEDecode', [], [['samples', 70, 1, L]]],
        [16, 'SaveImage', ['x'], [['images', 15, 0, 'IMAGE']]],
      ]),
      extra: { groupNodes: { All: all } },
    });
    all.nodes.forEach((node, index) =>
      Object.assign(node, { widgets_values: (nodes[index][2] as unknown[]).map(() => 'x') }),
    );
    // The first one shown is the loader's VAE, which nothing in the group uses.
    expect(read(null, workflow(values))).toMatchObject({ parameters: ALL, notRestored: [] });
    // Values that do not match the group's are ignored in favour of its own.
    all.nodes.forEach((node, index) => Object.assign(node, { widgets_values: nodes[index][2] }));
    expect(read(null, workflow(values.slice(1)))?.parameters).toEqual(ALL);
  });

  test('a bypassed subgraph hands on what came in', () => {
    const tone = {
      ...inner(),
      id: OTHER,
      inputs: [{ name: 'c', type: C, linkIds: [] }],
      outputs: [{ name: C, type: C, linkIds: [] }],
      nodes: [],
      links: [],
    };
    const workflow = {
      ...drawn(usual([[1, OTHER, [], [['c', 11, 0, C]], { mode: 4 }]], [10, 0], [1, 0])),
      definitions: { subgraphs: [tone] },
    };
    expect(read(null, workflow)?.parameters).toEqual(ALL);
  });

  test('a subgraph in itself ends, and so do millions of uses', () => {
    const self = { ...inner(), nodes: [...inner().nodes, { id: 99, type: ID, mode: 0, inputs: [] }] };
    expect(read(null, withInstance(instance, [], [self]))?.parameters).toMatchObject({ prompt: 'a copper kettle' });
    const chain = Array.from({ length: 30 }, (_, i) => ({
      id: `s${i}`,
      nodes: [0, 1, 2].map((id) => ({ id, type: i === 29 ? 'KSampler' : `s${i + 1}`, mode: 0, inputs: [] })),
      links: [],
    }));
    expect(
      read(null, { nodes: [{ id: 1, type: 's0', inputs: [] }], links: [], definitions: { subgraphs: chain } }),
    ).toBeNull();
  });

  test.each(frontend.cases)('as ComfyUI’s own frontend sends it: $name', ({ ui, api }) => {
    const own = editorGraph(ui);
    const sent = apiGraph(api);
    expect([...(own?.keys() ?? [])].sort()).toEqual([...(sent?.keys() ?? [])].sort());
    for (const { id, type, inputs } of sent?.values() ?? []) {
      expect(own?.get(id)?.type).toBe(type);
      // Whatever else the editor stores does no harm: each name is looked up.
      expect(Object.fromEntries([...(own?.get(id)?.inputs ?? [])].filter(([name]) => inputs.has(name)))).toEqual(
        Object.fromEntries(inputs),
      );
    }
  });
});

/** EXIF blocks: the first directory and the comment's, in either byte order. */
function exif(values: Record<number, Uint8Array>, isLittle: boolean): Bytes {
  const entries = Object.entries(values).map(([tag, bytes]) => ({ tag: Number(tag), bytes }));
  const start = 8 + 2 + 12 * entries.length + 4;
  const block = join([
    latin1Bytes(isLittle ? 'II*\0' : 'MM\0*'),
    new Uint8Array(start - 4),
    ...entries.map(({ bytes }) => bytes),
  ]);
  const view = viewOf(block);
  view.setUint32(4, 8, isLittle);
  view.setUint16(8, entries.length, isLittle);
  let at = start;
  entries.forEach(({ tag, bytes }, i) => {
    view.setUint16(10 + 12 * i, tag, isLittle);
    view.setUint16(12 + 12 * i, 7, isLittle);
    view.setUint32(14 + 12 * i, bytes.length, isLittle);
    view.setUint32(18 + 12 * i, at, isLittle);
    at += bytes.length;
  });
  return block;
}

function webp(block: Uint8Array): Bytes {
  const chunk = (type: string, data: Uint8Array) => {
    const head = join([latin1Bytes(type), new Uint8Array(4)]);
    viewOf(head).setUint32(4, data.length, true);
    return join([head, data, new Uint8Array(data.length % 2)]);
  };
  const content = join([latin1Bytes('WEBP'), chunk('VP8X', new Uint8Array(10)), chunk('EXIF', block)]);
  const head = latin1Bytes('RIFF\0\0\0\0');
  viewOf(head).setUint32(4, content.length, true);
  return join([head, content]);
}

function jpeg(block: Uint8Array): Bytes {
  const data = join([latin1Bytes('Exif\0\0'), block]);
  const length = new Uint8Array(2);
  viewOf(length).setUint16(0, data.length + 2);
  return join([Uint8Array.of(0xff, 0xd8, 0xff, 0xe1), length, data, Uint8Array.of(0xff, 0xd9)]);
}

function utf16(text: string, isLittle: boolean): Bytes {
  const bytes = new Uint8Array(2 * text.length);
  [...text].forEach((character, i) => viewOf(bytes).setUint16(2 * i, character.charCodeAt(0), isLittle));
  return bytes;
}

describe('where files keep graphs', () => {
  const PROMPT = JSON.stringify(graph());
  const WORKFLOW = JSON.stringify({ nodes: [] });
  const comment = (bytes: Uint8Array, encoding = 'UNICODE\0') => join([latin1Bytes(encoding), bytes]);
  const BOTH = JSON.stringify({ prompt: graph(), workflow: { nodes: [] } });
  const CIVITAI = JSON.stringify({
    ...graph({ pos: encoding(['gone', 0]) }),
    extra: { airs: ['urn:air:sd1:checkpoint:civitai:1@2'] },
    extraMetadata: JSON.stringify({
      prompt: 'a copper kettle',
      negativePrompt: 'fog',
      steps: 18,
      cfgScale: 6.5,
      sampler: 'euler',
    }),
  });
  const { make, model, imageDescription, userComment } = ExifTag;
  test.each<[name: string, file: Bytes]>([
    [
      'EXIF Model and Make, WebP',
      webp(exif({ [model]: utf8Bytes(`prompt:${PROMPT}\0`), [make]: utf8Bytes(`workflow:${WORKFLOW}`) }, true)),
    ],
    [
      'EXIF Make and description, JPEG',
      jpeg(
        exif({ [make]: utf8Bytes(`Prompt: ${PROMPT}`), [imageDescription]: utf8Bytes(`Workflow: ${WORKFLOW}`) }, false),
      ),
    ],
    ['a description that is the graph', jpeg(exif({ [imageDescription]: utf8Bytes(PROMPT) }, true))],
    ['a comment in UTF-16, little in little', jpeg(exif({ [userComment]: comment(utf16(PROMPT, true)) }, true))],
    ['a comment in UTF-16, big in little', jpeg(exif({ [userComment]: comment(utf16(PROMPT, false)) }, true))],
    ['a comment in UTF-16, little in big', webp(exif({ [userComment]: comment(utf16(PROMPT, true)) }, false))],
    [
      'a comment in UTF-16, with a byte order mark',
      webp(exif({ [userComment]: comment(utf16(`\ufeff${PROMPT}`, true)) }, false)),
    ],
    ['a comment that says UTF-16 and is UTF-8', jpeg(exif({ [userComment]: comment(utf8Bytes(PROMPT)) }, true))],
    [
      'a comment in ASCII with both forms',
      jpeg(exif({ [userComment]: comment(utf8Bytes(BOTH), 'ASCII\0\0\0') }, true)),
    ],
    [
      'Civitai, whose extra words stand in for unread ones',
      jpeg(exif({ [userComment]: comment(utf16(CIVITAI, false)) }, false)),
    ],
    [
      'Civitai, extra metadata inside extra, in little order',
      webp(
        exif(
          {
            [userComment]: comment(
              utf16(
                JSON.stringify({
                  ...graph({ pos: encoding(['gone', 0]) }),
                  extra: { extraMetadata: { prompt: 'a copper kettle', steps: 18 } },
                }),
                true,
              ),
            ),
          },
          true,
        ),
      ),
    ],
    [
      'extra_data',
      jpeg(
        exif(
          {
            [userComment]: comment(
              utf8Bytes(JSON.stringify({ prompt: PROMPT, extra_data: { extra_pnginfo: { workflow: {} } } })),
              'ASCII\0\0\0',
            ),
          },
          true,
        ),
      ),
    ],
    [
      'extra_data with the editor’s form alone',
      jpeg(
        exif(
          {
            [userComment]: comment(
              utf8Bytes(JSON.stringify({ extra_data: { extra_pnginfo: { prompt: graph() } } })),
              'ASCII\0\0\0',
            ),
          },
          true,
        ),
      ),
    ],
  ])('%s', async (_name, file) => {
    expect(await readPicture(file, noPixels)).toMatchObject({ tool: 'ComfyUI', parameters: ALL, notRestored: [] });
  });

  test('Civitai’s extra words without a graph: what they list beside is named', async () => {
    const extra = {
      extraMetadata: JSON.stringify({
        prompt: 'a copper kettle',
        negativePrompt: 'fog',
        steps: 18,
        cfgScale: 6.5,
        sampler: 'Euler',
        seed: 31,
        width: 512,
        height: 768,
        clipSkip: 2,
        workflowId: 'txt2img',
        resources: [{ modelVersionId: 7, strength: 0.7 }],
        denoise: 0.4,
      }),
    };
    for (const isLittle of [true, false]) {
      const file = jpeg(exif({ [userComment]: comment(utf16(JSON.stringify(extra), isLittle)) }, !isLittle));
      expect(await readPicture(file, noPixels)).toMatchObject({
        parameters: { ...without('schedule'), clip_skip: 2 },
        notRestored: ['the list of models and LoRAs that Civitai keeps', 'denoise 0.4'],
      });
    }
  });
});

describe('videos and sounds', () => {
  /** Files written by ffmpeg with ComfyUI's graph of a kettle, a fifth of a second each. */
  const FILES = new URL('recorded_media/', import.meta.url);
  const media = readdirSync(FILES);
  const bytesOf = (name: string): Bytes => new Uint8Array(readFileSync(new URL(name, FILES)));

  test('every container is there', () => {
    expect(media.map((name) => name.replace(/^.*\./, '')).sort()).toEqual(
      ['flac', 'm4a', 'mkv', 'mov', 'mp3', 'mp3', 'mp4', 'mp4', 'ogg', 'opus', 'wav', 'webm'].sort(),
    );
  });

  test.each(media)('%s', async (name) => {
    const file = new Blob([bytesOf(name)]);
    expect(await readPicture(file, noPixels)).toMatchObject({
      tool: 'ComfyUI',
      parameters: { prompt: 'a copper kettle', negative_prompt: 'fog', seed: '31', steps: 18 },
    });
  });

  test('of a video of gigabytes only the places of its tags are read', async () => {
    // The tags come after the pictures.
    const video = bytesOf('tags.mp4');
    const at = 4 + latin1(video).indexOf('mdat') - 8;
    const length = viewOf(video).getUint32(at);
    const head = new Uint8Array(16);
    viewOf(head).setUint32(0, 1);
    head.set(latin1Bytes('mdat'), 4);
    const size = 3 * 2 ** 30;
    viewOf(head).setBigUint64(8, BigInt(size));
    const [before, after] = [join([video.subarray(0, at), head]), video.subarray(at + length)];
    let read = 0;
    const part = (from: number, to: number): Bytes => {
      read += to - from;
      const result = new Uint8Array(to - from);
      const start = before.length + size - 16;
      result.set(before.subarray(Math.min(from, before.length), Math.min(to, before.length)));
      if (to > start) {
        result.set(after.subarray(Math.max(0, from - start), to - start), Math.max(0, start - from));
      }
      return result;
    };
    const total = before.length + size - 16 + after.length;
    const large = Object.assign(new Blob(), {
      slice: (from = 0, to = total) => new Blob([part(from, Math.min(to, total))]),
    });
    Object.defineProperty(large, 'size', { value: total });
    expect(await readPicture(large, noPixels)).toMatchObject({ tool: 'ComfyUI', parameters: { seed: '31' } });
    expect(read).toBeLessThan(2 ** 20);
  });

  test('a sound that says nothing, and what is cut off', async () => {
    const silent = join([latin1Bytes('fLaC'), Uint8Array.of(0x81, 0, 0, 1, 0)]);
    expect(await readPicture(silent, noPixels)).toBeNull();
    const cut = bytesOf('tags.flac').subarray(0, 60);
    await expect(readPicture(cut, noPixels)).rejects.toThrow(
      /^What is written in this sound file cannot be read, because .*\.$/,
    );
  });

  test('10,000 mutants give a value or a typed error', async () => {
    const next = randomNumbers(20_261_129);
    const inputs = media.map(bytesOf);
    const seen = { values: 0, nothing: 0, refused: 0 };
    for (let n = 0; n < 10_000; n++) {
      const bytes = mutant(inputs[n % inputs.length], next);
      try {
        seen[(await readPicture(bytes, noPixels)) ? 'values' : 'nothing']++;
      } catch (error) {
        // A changed signature can turn it into a picture, whose pixels are then decoded.
        if (!(error instanceof StudioError && error.code === 'image_unreadable')) {
          throw new Error(Buffer.from(bytes).toString('base64'), { cause: error });
        }
        seen.refused++;
      }
    }
    expect(seen.values).toBeGreaterThan(1000);
    expect(seen.refused + seen.nothing).toBeGreaterThan(100);
  }, 120_000);
});

function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
}

/** Some bytes changed, a piece duplicated or dropped; mostly near the tags, which are a small part of the file. */
function mutant(bytes: Bytes, next: () => number): Bytes {
  let result: Bytes = bytes.slice();
  for (let n = 1 + (next() % 4); n > 0; n--) {
    const at = next() % result.length;
    const end = Math.min(result.length, at + 1 + (next() % 32));
    const kind = next() % 5;
    if (kind < 3) {
      result[at] = [0, 1, 0x7f, 0x80, 0xff, next() % 256][next() % 6];
    } else {
      const piece = kind === 3 ? [result.subarray(at, end), result.subarray(at, end)] : [];
      result = join([result.subarray(0, at), ...piece, result.subarray(end)]);
    }
  }
  return result;
}

describe('graphs by nobody’s good will', () => {
  test('10,000 mutants of a graph’s JSON give a value or nothing', () => {
    const next = randomNumbers(7);
    const texts = [
      JSON.stringify(
        graph({
          pos: encoding(['w', 0]),
          w: node('StringConcatenate', { string_a: ['w2', 0], string_b: 'x', delimiter: ' ' }),
          w2: node('RegexReplace', { string: 'aaaa', regex_pattern: '(a)', replace: 'b' }),
        }),
      ),
      JSON.stringify(frontend.cases[0].ui),
      JSON.stringify(frontend.cases[1].ui),
    ].map(utf8Bytes);
    let values = 0;
    for (let n = 0; n < 10_000; n++) {
      const text = new TextDecoder().decode(mutant(texts[n % texts.length], next));
      values += readComfyui(text, text) ? 1 : 0;
    }
    expect(values).toBeGreaterThan(100);
  }, 120_000);

  test('circles of every kind end', () => {
    const ring = (type: string, name: string): Nodes => ({
      a: node(type, { [name]: ['b', 0], x: 1 }),
      b: node(type, { [name]: ['a', 0], x: 1 }),
    });
    for (const [type, name] of [
      ['Reroute', 'v'],
      ['StringConcatenate', 'string_a'],
      ['ConditioningCombine', 'conditioning_1'],
      ['LoraLoader', 'model'],
      ['CR Apply LoRA Stack', 'lora_stack'],
      ['Any Switch (rgthree)', 'any_01'],
      ['easy pipeIn', 'pipe'],
      ['LatentUpscale', 'samples'],
      ['SplitSigmas', 'sigmas'],
    ]) {
      const nodes = graph({
        ...ring(type, name),
        pos: encoding(['a', 0]),
        sampler: sampler({
          model: ['a', 0],
          latent_image: ['a', 0],
          negative: ['a', 0],
          seed: ['a', 0],
          sigmas: ['a', 0],
          pipe: ['a', 0],
        }),
      });
      expect(read(nodes)?.tool).toBe('ComfyUI');
    }
  });

  test('a text that doubles at every node stays short, and long chains end', () => {
    const nodes = graph({ pos: encoding(['n0', 0]) });
    for (let i = 0; i < 50; i++) {
      nodes[`n${i}`] = node('StringConcatenate', {
        string_a: i === 49 ? 'ab' : [`n${i + 1}`, 0],
        string_b: i === 49 ? 'cd' : [`n${i + 1}`, 0],
        delimiter: '',
      });
    }
    expect(read(nodes)?.parameters.prompt).toBeUndefined();
    const combined = graph({ sampler: sampler({ positive: ['c0', 0] }) });
    for (let i = 0; i < 60; i++) {
      combined[`c${i}`] = node('ConditioningCombine', {
        conditioning_1: [`c${i + 1}`, 0],
        conditioning_2: [`c${i + 1}`, 0],
      });
    }
    expect(read(combined)?.tool).toBe('ComfyUI');
    const wide = graph();
    for (let i = 0; i < 4_900; i++) {
      wide[`l${i}`] = node('LoraLoader', {
        lora_name: `l${i}.safetensors`,
        strength_model: 0.5,
        model: [`l${i + 1}`, 0],
      });
    }
    wide.sampler = sampler({ model: ['l0', 0] });
    expect(read(wide)?.parameters).toEqual(ALL);
  });
});
