/**
 * What chunks that write with a language model share: their parameters, as valibot schemas whose messages are whole sentences, and one
 * exchange with the model, which streams the words and reports any limit that cut them off.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, StageDeclaration } from './chunk.ts';
import { StudioError } from './errors.ts';
import { integer, real } from './parameters.ts';
import type { ChatMessage, StepText, StepTextRequest, TextResult } from './text_service.ts';

/** Entity types that {@link write} records: always what was sent, and the model's thoughts if there were any. */
export const RECORDS = ['sent_messages'] as const satisfies ChunkMeta['records'];

export const WRITE: StageDeclaration = {
  id: 'write',
  label: { en: 'Writing', de: 'Schreibt' },
  unit: 'tokens',
};

const MOST_TOKENS = 8192;

/**
 * Fields of a chunk's parameters; the chunk adds a seed.
 * @param tokens default limit of an answer, beside the default temperature
 */
export const writingFields = (tokens: number, temperature: number) => ({
  /** 0 = always the most likely token. */
  temperature: v.optional(real('temperature', 0, 2), temperature),
  max_new_tokens: v.optional(integer('max_new_tokens', 1, MOST_TOKENS), tokens),
  /** If absent, the model's own defaults apply. */
  top_p: v.optional(topP()),
  top_k: v.optional(integer('top_k', 1, 1000)),
  repetition_penalty: v.optional(real('repetition_penalty', 0.5, 2)),
  /** Whether a model with optional thinking thinks before it answers. */
  thinking: v.optional(v.boolean('thinking must be true or false.'), false),
});

const topP = () => {
  const message = 'top_p must be a number above 0 and up to 1.';
  return v.pipe(v.number(message), v.gtValue(0, message), v.maxValue(1, message));
};

/**
 * Asks the step's language model once.
 * @throws StudioError `result_invalid` for an empty answer, and whatever `TextService.generate` throws
 */
export async function write(
  messages: ChatMessage[],
  habits: Omit<StepTextRequest, 'messages'>,
  context: Context & { text: StepText },
): Promise<TextResult> {
  const { temperature, max_new_tokens, top_p, top_k, repetition_penalty, thinking, seed } = habits;
  await context.record('sent_messages', { messages });
  context.progress('write', 0, max_new_tokens);
  let pieces = 0;
  const result = await context.text.generate(
    { messages, temperature, max_new_tokens, top_p, top_k, repetition_penalty, thinking, seed },
    (delta) => {
      pieces = Math.min(pieces + 1, max_new_tokens);
      context.delta(delta.text, delta.thinking);
      context.progress('write', pieces, max_new_tokens);
    },
  );
  if (result.thinking.trim() !== '') {
    await context.record('thinking', result.thinking);
  }
  const { generated, limit, prompt } = result.tokens;
  const isFull = limit !== null && prompt + generated >= limit;
  const end = isFull
    ? `the model takes ${limit.toLocaleString('en')} tokens, question and answer together; shorten the text or choose another model`
    : `max_new_tokens is ${max_new_tokens}; raise it`;
  if (result.text.trim() === '') {
    throw new StudioError(
      'result_invalid',
      result.finish === 'length'
        ? `The language model said nothing before its ${generated} tokens were used up: ${end}, or switch thinking off.`
        : 'The language model answered with nothing; try again with another seed, or choose another model.',
      { retry: 'same' },
    );
  }
  if (result.finish === 'length') {
    context.notice(`The answer was cut off after ${generated} tokens: ${end} for a longer one.`);
  }
  return result;
}
