/** What chunks that make sounds share: their stages, how sampling is told, and the way from latents to sounds. */
import type { Context } from './chunk.ts';
import type { Latents } from './model.ts';

export const SOUNDING_STAGES = [
  { id: 'encode', label: { en: 'Reading your words', de: 'Liest deine Worte' } },
  { id: 'sample', label: { en: 'Composing', de: 'Komponiert' }, unit: 'steps' },
  { id: 'decode', label: { en: 'Fixing the sound', de: 'Fixiert den Klang' }, weight: 2 },
] as const;

/** The part of a sampling request that reports progress. */
export function toldSampling({ progress }: Pick<Context, 'progress'>) {
  return {
    onStart(count: number, done: number) {
      progress('sample', done, count);
    },
    onStep({ step, steps }: { step: number; steps: number }) {
      progress('sample', step, steps);
    },
  };
}

/**
 * Records the latents [batch, channels, 1, length] if they are wanted, and decodes them.
 * @param decode reports how far it is through `onPart`
 */
export async function decodeSounds<Sounds>(
  latents: Latents,
  { progress, wants, recordTensors, signal }: Pick<Context, 'progress' | 'wants' | 'recordTensors' | 'signal'>,
  decode: (request: { signal: AbortSignal; onPart(done: number, parts: number): void }) => Promise<Sounds>,
): Promise<Sounds> {
  progress('decode');
  if (wants('latents')) {
    const [batch, channels, , length] = latents.dims;
    await recordTensors('latents', {
      latents: { dims: [batch, channels, length], data: await latents.read() },
    });
  }
  return decode({
    signal,
    onPart(done, parts) {
      progress('decode', done, parts);
    },
  });
}

/** What a model of songs expects and was not given; it works without. */
export function sayWithoutSections(lyrics: string, { notice }: Pick<Context, 'notice'>): void {
  if (lyrics.trim() !== '' && !/^\s*\[[^\]\n]+\]/m.test(lyrics)) {
    notice(
      'The lyrics have no sections; the model sings best where lines such as [verse] and [chorus] say what each part is.',
    );
  }
}

/** Seconds as shown to people, cut off after two digits, so that a limit is never overstated. */
export function shownSeconds(seconds: number): string {
  return String(Math.floor(seconds * 100) / 100);
}
