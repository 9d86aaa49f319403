import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { drawChoices, hasChoices } from '../src/core/choices.ts';
import { promptProblems } from '../src/core/prompt_problems.ts';
import { automatic1111Chunks, comfyuiChunks, type KnownEmbeddings } from '../src/text/prompt_chunks.ts';
import { composedPrompts, promptSchedule, scheduledAt } from '../src/text/prompt_schedule.ts';
import { automatic1111Weights, comfyuiWeights } from '../src/text/weighted_words.ts';
import { StudioError } from '../src/core/errors.ts';
import type { TokenizerFiles } from '../src/text/clip_tokenizer.ts';
import { ClipTokenizer } from '../src/text/clip_tokenizer.ts';

interface Case {
  prompt: string;
  clip: { tokens: number; ids: number[] };
  openclip: { tokens: number; ids: number[] };
}
const goldens = JSON.parse(readFileSync(new URL('goldens/tokens.json', import.meta.url), 'utf8')) as { cases: Case[] };

/** The files of a tiny checkpoint, some of them replaced (or taken away: null). */
function filesOf(checkpoint: string, changes: Record<string, string | null> = {}): TokenizerFiles {
  return {
    read(name) {
      if (name in changes) {
        return changes[name] ?? undefined;
      }
      try {
        return readFileSync(new URL(`checkpoints/${checkpoint}/tokenizer/${name}`, import.meta.url), 'utf8');
      } catch {
        return undefined;
      }
    },
  };
}

function thrownBy(action: () => unknown): StudioError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(StudioError);
    return error as StudioError;
  }
  throw new Error('nothing was thrown');
}

describe.each([
  ['tiny-sd15', 'clip'],
  ['tiny-sd21', 'openclip'],
] as const)('%s', (checkpoint, kind) => {
  const tokenizer = new ClipTokenizer(filesOf(checkpoint));

  test.each(goldens.cases)('$prompt', (golden) => {
    const encoded = tokenizer.encode(golden.prompt);
    expect(encoded.tokens).toBe(golden[kind].tokens);
    expect([...encoded.ids]).toEqual(golden[kind].ids);
    expect(encoded.kept).toBe(Math.min(encoded.tokens, 77));
    expect(encoded.cutText === '').toBe(encoded.tokens <= 77);
  });
});

describe('details', () => {
  test('the text that is cut is told', () => {
    const tokenizer = new ClipTokenizer(filesOf('tiny-sd15'));
    const { cutText, kept } = tokenizer.encode(`${'a '.repeat(75)}the Lighthouse, at dusk`);
    expect(kept).toBe(77);
    expect(cutText).toBe('the lighthouse , at dusk');
  });

  test('special_tokens_map.json names the padding even against tokenizer_config.json', () => {
    const tokenizer = new ClipTokenizer(filesOf('tiny-sd15', { 'special_tokens_map.json': '{"pad_token": "!"}' }));
    expect([...tokenizer.encode('hi !!').ids.slice(0, 8)]).toEqual([1022, 71, 328, 0, 0, 1023, 0, 0]);
  });

  test('without its config the tokenizer is the usual one', () => {
    const bare = { 'tokenizer_config.json': null, 'special_tokens_map.json': null };
    const tokenizer = new ClipTokenizer(filesOf('tiny-sd15', bare));
    expect(tokenizer.encode('a cat').ids).toEqual(new ClipTokenizer(filesOf('tiny-sd15')).encode('a cat').ids);
  });

  test('a limit of its own is kept to', () => {
    const tokenizer = new ClipTokenizer(filesOf('tiny-sd15', { 'tokenizer_config.json': '{"model_max_length": 8}' }));
    expect(tokenizer.encode('a photo of a cat').ids).toHaveLength(8);
  });

  test('U+FEFF is no space, and a final Σ becomes σ, as in the reference', () => {
    const tokenizer = new ClipTokenizer(filesOf('tiny-sd15'));
    // transformers 5.23: CLIPTokenizer('\ufeff{x ΑΣ').input_ids
    expect([...tokenizer.encode('\ufeff{x ΑΣ').ids.slice(0, 10)]).toEqual([
      1022, 171, 119, 123, 346, 343, 138, 109, 139, 481,
    ]);
  });

  test('names of Object.prototype are ordinary text', () => {
    const tokenizer = new ClipTokenizer(filesOf('tiny-sd15'));
    expect(tokenizer.encode('constructor __proto__ toString').tokens).toBeGreaterThan(5);
  });
});

describe('files that are missing or broken', () => {
  test.each(['vocab.json', 'merges.txt'])('without %s the checkpoint is incomplete', (name) => {
    const error = thrownBy(() => new ClipTokenizer(filesOf('tiny-sd15', { [name]: null })));
    expect(error.code).toBe('checkpoint_incomplete');
    expect(error.message).toContain(name);
  });

  test.each([
    ['tiny-sd15', 'vocab.json', '{"a": 1'],
    ['tiny-sd15', 'vocab.json', '[]'],
    ['tiny-sd15', 'vocab.json', '{"a": "b"}'],
    ['tiny-sd15', 'vocab.json', '{}'],
    ['tiny-sd15', 'merges.txt', '#version: 0.2\nab\n'],
    ['tiny-sd15', 'merges.txt', 'a b c'],
    ['tiny-sd15', 'tokenizer_config.json', '<html>'],
    ['tiny-sd15', 'tokenizer_config.json', '{"pad_token": 7}'],
    ['tiny-sd15', 'special_tokens_map.json', 'null'],
    ['tiny-sd15', 'special_tokens_map.json', '{"pad_token": "<pad>"}'],
    ['tiny-sd21', 'tokenizer.json', ''],
    ['tiny-sd21', 'tokenizer.json', '{}'],
    ['tiny-sd21', 'tokenizer.json', '{"model": {"type": "BPE", "vocab": {}}, "added_tokens": 3}'],
    [
      'tiny-sd21',
      'tokenizer.json',
      '{"model":{"type":"BPE","vocab":{"!":0,"<|startoftext|>":1,"<|endoftext|>":2}},"added_tokens":[]}',
    ],
  ])('%s: %s = %s is damage', (checkpoint, name, text) => {
    expect(thrownBy(() => new ClipTokenizer(filesOf(checkpoint, { [name]: text }))).code).toBe('checkpoint_damaged');
  });
});

describe('prompts as other tools read them', () => {
  interface Goldens {
    steps: number;
    schedules: { prompt: string; schedule: [number, string][] }[];
    composed: { prompt: string; parts: [string, number][] }[];
    weights: { prompt: string; automatic1111: [string, number][]; comfyui: [string, number][] }[];
  }
  interface Chunks {
    tool: 'automatic1111' | 'comfyui';
    name: string;
    prompt: string;
    tokens: number | null;
    ids: number[][];
    weights: number[][];
  }
  const read = (file: string): unknown =>
    JSON.parse(readFileSync(new URL(`goldens/prompts/${file}`, import.meta.url), 'utf8'));
  const { steps, schedules, composed, weights } = read('prompts.json') as Goldens;
  const tokenizer = new ClipTokenizer(filesOf('tiny-sd15'));
  const known: KnownEmbeddings = {
    find: (words) => (/^tiny[ _]style/.test(words) ? { name: words.slice(0, 10), vectors: 3 } : null),
  };
  const close = (pairs: { text: string; weight: number }[]) =>
    pairs.map(({ text, weight }) => [text, Number(weight.toFixed(9))]);
  const expected = (pairs: [string, number][]) => pairs.map(([text, weight]) => [text, Number(weight.toFixed(9))]);

  test.each(schedules)('editing: $prompt', ({ prompt, schedule }) => {
    expect(promptSchedule(prompt, steps).map(({ until, text }) => [until, text])).toEqual(schedule);
  });

  test.each(composed)('AND: $prompt', ({ prompt, parts }) => {
    expect(composedPrompts(prompt).map(({ text, weight }) => [text, weight])).toEqual(parts);
  });

  test.each(weights)('weights: $prompt', (golden) => {
    expect(close(automatic1111Weights(golden.prompt))).toEqual(expected(golden.automatic1111));
    expect(close(comfyuiWeights(golden.prompt))).toEqual(expected(golden.comfyui));
  });

  test.each(read('chunks.json') as Chunks[])('rows of $tool: $name', ({ tool, prompt, ids, weights, tokens }) => {
    const chunked = tool === 'automatic1111' ? automatic1111Chunks : comfyuiChunks;
    const given = chunked(prompt, tokenizer, known);
    expect(given.chunks.map((chunk) => [...chunk.ids])).toEqual(ids);
    expect(given.chunks.map((chunk) => [...chunk.weights].map((weight) => weight.toFixed(6)))).toEqual(
      weights.map((row) => row.map((weight) => weight.toFixed(6))),
    );
    if (tokens !== null) {
      expect(given.tokens).toBe(tokens);
    }
  });

  test('a call of the network is given the text that is its turn', () => {
    const schedule = promptSchedule('[a:b:0.5]', 10);
    expect([0, 5, 6, 9, 10].map((call) => scheduledAt(schedule, call).text)).toEqual(['a', 'a', 'b', 'b', 'b']);
  });
});

describe('what a prompt leaves to the seed', () => {
  test('the same seed draws the same, others others, and only what is listed', () => {
    const prompt = 'a {red|blue|green} __thing__ {2$$x|y|z}, {0::never|always} \\{a|b\\}';
    const lists = { thing: ['chair', '{tin|brass} kettle'] };
    const drawn = Array.from({ length: 60 }, (_, seed) => drawChoices(prompt, String(seed), 0, lists));
    expect(drawChoices(prompt, '7', 0, lists)).toBe(drawn[7]);
    expect(new Set(drawn).size).toBeGreaterThan(10);
    for (const text of drawn) {
      expect(text).toMatch(/^a (red|blue|green) (chair|(tin|brass) kettle) [xyz], [xyz], always \{a\|b\}$/);
    }
    expect(new Set(drawn.map((text) => text.split(' ')[1])).size).toBe(3);
  });

  test('braces without a choice and lists that are not there stay', () => {
    for (const prompt of ['a {b} c', '__nothing__', '{', 'a | b }', '{{x}}']) {
      expect(hasChoices(prompt)).toBe(false);
      expect(drawChoices(prompt, '1', 0)).toBe(prompt);
    }
  });

  test('a list that names itself ends', () => {
    expect(drawChoices('__a__', '1', 0, { a: ['x __a__'] }).length).toBeLessThan(2000);
  });
});

test.each([
  [
    'a (b',
    'automatic1111',
    ['The bracket "(" at character 3 is never closed; close it, or write \\( where it is meant as a word.'],
  ],
  [
    'a b] (c)',
    'automatic1111',
    ['The bracket "]" at character 4 closes nothing; write \\] where it is meant as a word.'],
  ],
  ['a b] (c)', 'comfyui', []],
  [
    '(a:much)',
    'comfyui',
    ['"(a:much)" at character 1 has no number behind its colon, so the colon is read as a word.'],
  ],
  ['(a:1.2) \\( [b:c:0.5] (d: 1.1 )', 'automatic1111', []],
  ['((', 'literal', []],
] as const)('what is wrong in %s (%s)', (prompt, syntax, sentences) => {
  expect(promptProblems(prompt, syntax).map(({ sentence }) => sentence)).toEqual(sentences);
});
