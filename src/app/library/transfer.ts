/** Progress of downloads, checks, exports and imports. */
import type { LanguageKind } from '../../core/language.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { Origin, TransferProgress } from '../../weights/library/library_api.ts';
import { t } from '../messages/messages.svelte.ts';
import { duration, megabytes } from '../parts/progress.ts';

export type TransferKind = 'download' | 'verify' | 'export' | 'import';

/** A transfer in progress. */
export interface Transfer {
  kind: TransferKind;
  name: string;
  /** Null until there is something to report. */
  progress: TransferProgress | null;
}

export const VARIANTS: Record<WeightVariant, string> = {
  get full() {
    return t('Full precision');
  },
  get q8() {
    return t('8-bit');
  },
  get q4() {
    return t('4-bit');
  },
};

/** What a stored checkpoint does, unless it makes pictures. */
export const LANGUAGE_KINDS: Record<'image' | LanguageKind, string> = {
  image: '',
  get text() {
    return t('Language model');
  },
  get speech() {
    return t('Voice');
  },
};

/** "Fetching tiny-sd15: 43 %, about 2 min 10 s left" */
export function transferSentence({ kind, name, progress }: Transfer): string {
  const parts = [];
  if (progress && progress.total > 0) {
    parts.push(`${percent(progress)} %`);
  }
  if (progress?.secondsLeft !== null && progress?.secondsLeft !== undefined) {
    parts.push(t('about {duration} left', { duration: duration(progress.secondsLeft) }));
  }
  const what = {
    download: t('Fetching {name}', { name }),
    verify: t('Checking {name}', { name }),
    export: t('Writing {name}', { name }),
    import: t('Reading in {name}', { name }),
  }[kind];
  return parts.length === 0 ? `${what} …` : `${what}: ${parts.join(', ')}`;
}

/** "0.8 of 1.9 GB, 12 MB/s, about 2 min 10 s left" */
export function transferDetails(progress: TransferProgress): string {
  const parts = [t('{done} of {total}', { done: megabytes(progress.done), total: megabytes(progress.total) })];
  if (progress.bytesPerSecond !== null) {
    parts.push(`${megabytes(progress.bytesPerSecond)}/s`);
  }
  if (progress.secondsLeft !== null) {
    parts.push(t('about {duration} left', { duration: duration(progress.secondsLeft) }));
  }
  return parts.join(', ');
}

export function transferWords(kind: TransferKind): string {
  return { download: t('Fetching'), verify: t('Checking'), export: t('Writing'), import: t('Reading in') }[kind];
}

/** "From the hub, at 1a2b3c4", or the address. */
export function sourceWords({ origin, revision }: { origin: Origin; revision: string | null }): string {
  if (origin.kind === 'url') {
    return origin.url;
  }
  return revision === null ? t('From the hub') : t('From the hub, at {revision}', { revision: revision.slice(0, 7) });
}

/** Never 100 before it is done. */
export function percent({ done, total }: { done: number; total: number }): number {
  return total === 0 ? 0 : Math.floor((100 * done) / total);
}
