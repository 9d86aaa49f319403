/**
 * Words from words: a language model applies an instruction to a text. In: text and instruction. Out: the resulting text. Cost: one run of
 * the model per token.
 */
import * as v from 'valibot';
import type { ChunkMeta, ContextOf, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { seed } from '../src/core/parameters.ts';
import { RECORDS, WRITE, write, writingFields } from '../src/core/writing.ts';

export const meta = {
  id: 'transform_text',
  media: 'text',
  operations: ['text_transformation'],
  needs: { gpu: true, language: 'text' },
  stages: [WRITE],
  outputs: { text: { medium: 'text' } },
  records: RECORDS,
} as const satisfies ChunkMeta;

const words = (message: string) => v.pipe(v.string(message), v.regex(/\S/, message));
const INSTRUCTION = 'instruction must say what to do with the text: words, or words by language as {"en": …, "de": …}.';

export const parameters = v.strictObject({
  operation: v.picklist(meta.operations),
  text: words('There is no text to work on; write something first.'),
  /** The rule, in one language or in both. */
  instruction: v.union(
    [words(INSTRUCTION), v.strictObject({ en: words(INSTRUCTION), de: words(INSTRUCTION) }, INSTRUCTION)],
    INSTRUCTION,
  ),
  /** The language of the rule, if it exists in both. */
  language: v.optional(
    v.pipe(
      v.picklist(['en', 'de'], 'language must be en or de.'),
      v.metadata({
        choices: { en: { en: 'English', de: 'Englisch' }, de: { en: 'German', de: 'Deutsch' } },
      } satisfies FieldMetadata),
    ),
    'en',
  ),
  ...writingFields(300, 0.7),
  seed: v.optional(seed(), () => String(crypto.getRandomValues(new Uint32Array(1))[0])),
});

export async function execute(
  { text, instruction, language, ...habits }: v.InferOutput<typeof parameters>,
  context: ContextOf<typeof meta>,
): Promise<Outputs> {
  const rule = typeof instruction === 'string' ? instruction : instruction[language];
  const messages = [
    { role: 'system' as const, content: rule },
    { role: 'user' as const, content: text },
  ];
  const answer = await write(messages, habits, context);
  return { text: answer.text.trim() };
}
