import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
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
