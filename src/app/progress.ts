import type { Progress, Stage } from '../core/job.ts';

/** What a person is told of each stage. */
const WORDS: Record<Stage, string> = {
  load: 'Loading the checkpoint',
  encode: 'Reading your words',
  sample: 'Developing',
  decode: 'Fixing the picture',
  record: 'Saving',
};

export function stageWords(progress: Progress | null): string {
  return progress ? WORDS[progress.stage] : 'Getting ready';
}

/** "Developing: step 3 of 20, about 4 s left" */
export function progressSentence(progress: Progress | null): string {
  const parts = [];
  if (progress && progress.steps > 1) {
    parts.push(`step ${Math.min(progress.step, progress.steps)} of ${progress.steps}`);
  }
  if (progress?.secondsLeft !== null && progress?.secondsLeft !== undefined) {
    parts.push(`about ${duration(progress.secondsLeft)} left`);
  }
  return parts.length === 0 ? `${stageWords(progress)} …` : `${stageWords(progress)}: ${parts.join(', ')}`;
}

export function duration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function megabytes(bytes: number): string {
  const format = (value: number, unit: string) =>
    `${value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 })} ${unit}`;
  return bytes < 1e9 ? format(bytes / 1e6, 'MB') : format(bytes / 1e9, 'GB');
}
