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

/** `StableDiffusionXLPipeline` → "Stable Diffusion XL" */
export function family(pipelineClass: string): string {
  return pipelineClass.replace(/Pipeline$/, '').replace(/([a-z\d])([A-Z])/g, '$1 $2');
}

/** "860 million", "2.6 billion" */
export function large(count: number): string {
  const [value, word] = count < 1e9 ? [count / 1e6, 'million'] : [count / 1e9, 'billion'];
  return `${value.toLocaleString('en', { maximumSignificantDigits: 2 })} ${word}`;
}

/** "today", "yesterday", "3 Nov 2026" */
export function day(time: number, now = Date.now()): string {
  const midnight = (at: number) => new Date(at).setHours(0, 0, 0, 0);
  const days = Math.round((midnight(now) - midnight(time)) / 86_400_000);
  if (days <= 0) {
    return 'today';
  }
  return days === 1 ? 'yesterday' : new Date(time).toLocaleDateString('en-GB', { dateStyle: 'medium' });
}
