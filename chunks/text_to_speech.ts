/** Speech from words, with any voice the language engine can run. In: words. Out: sound, one channel at the voice's own rate. */
import * as v from 'valibot';
import type { ChunkMeta, ContextOf, Outputs } from '../src/core/chunk.ts';

export const meta = {
  id: 'text_to_speech',
  media: 'audio',
  operations: ['audio_generation'],
  needs: { gpu: true, language: 'speech' },
  stages: [{ id: 'speak', label: { en: 'Speaking', de: 'Spricht' } }],
  outputs: { sound: { medium: 'audio' } },
} as const satisfies ChunkMeta;

const SILENT = 'There is nothing to say; write something first.';
const SPEED = 'speed must be a number from 0.5 to 2.';

export const parameters = v.strictObject({
  operation: v.picklist(meta.operations),
  prompt: v.pipe(v.string(SILENT), v.regex(/\S/, SILENT)),
  /** By name, if the checkpoint has several. */
  voice: v.optional(v.string('voice must be the name of a voice.')),
  speed: v.optional(v.pipe(v.number(SPEED), v.minValue(0.5, SPEED), v.maxValue(2, SPEED))),
});

export async function execute(
  { prompt: text, voice, speed }: v.InferOutput<typeof parameters>,
  { speech, notice, progress }: ContextOf<typeof meta>,
): Promise<Outputs> {
  progress('speak');
  const { rate, channels, unspoken } = await speech.speak({ text, voice, speed });
  if (unspoken !== '') {
    notice(`This voice has no sound for ${[...unspoken].join(' ')}, which it left out.`);
  }
  return { sound: { rate, channels } };
}
