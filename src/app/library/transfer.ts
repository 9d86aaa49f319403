/** What is told of downloads, checks, exports and imports. */
import type { LanguageKind } from '../../core/language.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { TransferProgress } from '../../weights/library/library_api.ts';
import { duration, megabytes } from '../parts/progress.ts';

export type TransferKind = 'download' | 'verify' | 'export' | 'import';

/** Something with many bytes that is under way. */
export interface Transfer {
  kind: TransferKind;
  name: string;
  /** Null until there is something to report. */
  progress: TransferProgress | null;
}

const WORDS: Record<TransferKind, string> = {
  download: 'Fetching',
  verify: 'Checking',
  export: 'Writing',
  import: 'Reading in',
};

export const VARIANTS: Record<WeightVariant, string> = {
  full: 'Full precision',
  q8: '8-bit',
  q4: '4-bit',
};

/** What one does that is stored; pictures go without saying. */
export const LANGUAGE_KINDS: Record<'image' | LanguageKind, string> = {
  image: '',
  text: 'Language model',
  speech: 'Voice',
};

/** "Fetching tiny-sd15: 43 %, about 2 min 10 s left" */
export function transferSentence({ kind, name, progress }: Transfer): string {
  const parts = [];
  if (progress && progress.total > 0) {
    parts.push(`${percent(progress)} %`);
  }
  if (progress?.secondsLeft !== null && progress?.secondsLeft !== undefined) {
    parts.push(`about ${duration(progress.secondsLeft)} left`);
  }
  return parts.length === 0 ? `${WORDS[kind]} ${name} …` : `${WORDS[kind]} ${name}: ${parts.join(', ')}`;
}

/** "0.8 of 1.9 GB, 12 MB/s, about 2 min 10 s left" */
export function transferDetails(progress: TransferProgress): string {
  const parts = [`${megabytes(progress.done)} of ${megabytes(progress.total)}`];
  if (progress.bytesPerSecond !== null) {
    parts.push(`${megabytes(progress.bytesPerSecond)}/s`);
  }
  if (progress.secondsLeft !== null) {
    parts.push(`about ${duration(progress.secondsLeft)} left`);
  }
  return parts.join(', ');
}

export function transferWords(kind: TransferKind): string {
  return WORDS[kind];
}

/** Never 100 before it is done. */
export function percent({ done, total }: { done: number; total: number }): number {
  return total === 0 ? 0 : Math.floor((100 * done) / total);
}
