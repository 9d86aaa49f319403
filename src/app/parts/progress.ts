import type { Job } from '../../core/job.ts';
import { stageLabel } from '../studio/catalogue.ts';

type Working = Pick<Job, 'progress' | 'operation'>;

/** What a person is told of the stages that are not a chunk's. */
const WORDS: Partial<Record<string, string>> = { load: 'Loading the checkpoint', record: 'Saving' };

export function stageWords({ progress, operation }: Working): string {
  if (!progress) {
    return 'Getting ready';
  }
  const { of, stage } = progress;
  return stageLabel(operation.config, of, stage) ?? WORDS[stage] ?? 'At work';
}

/** "Developing: step 3 of 20, about 4 s left" */
export function progressSentence(job: Working): string {
  const { progress } = job;
  const parts = [];
  if (progress && progress.steps > 1) {
    parts.push(`step ${Math.min(progress.step, progress.steps)} of ${progress.steps}`);
  }
  if (progress?.secondsLeft !== null && progress?.secondsLeft !== undefined) {
    parts.push(`about ${duration(progress.secondsLeft)} left`);
  }
  return parts.length === 0 ? `${stageWords(job)} …` : `${stageWords(job)}: ${parts.join(', ')}`;
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
