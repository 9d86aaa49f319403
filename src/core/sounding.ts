/** What chunks that make sounds share: their stages, how sampling is told, and the way from latents to sounds. */
import type { Context } from './chunk.ts';
import type { Latents } from './model.ts';

export const SOUNDING_STAGES = [
  { id: 'encode', label: { en: 'Reading your words', de: 'Liest deine Worte' } },
  { id: 'sample', label: { en: 'Composing', de: 'Komponiert' }, unit: 'steps' },
  { id: 'decode', label: { en: 'Fixing the sound', de: 'Fixiert den Klang' }, weight: 2 },
] as const;

/** Of a sampling request: its progress is told. */
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
 * @param decode with how far it is told
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

/** What a model of songs wants and was not given, though it works without. */
export function sayWithoutSections(lyrics: string, { notice }: Pick<Context, 'notice'>): void {
  if (lyrics.trim() !== '' && !/^\s*\[[^\]\n]+\]/m.test(lyrics)) {
    notice(
      'The lyrics have no sections; the model sings best where lines such as [verse] and [chorus] say what each part is.',
    );
  }
}

/** Seconds for people, cut after two digits, so that a limit is never said too high. */
export function shownSeconds(seconds: number): string {
  return String(Math.floor(seconds * 100) / 100);
}
