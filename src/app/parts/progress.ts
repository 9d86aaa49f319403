import { gibibytes as roundGibibytes } from '../../core/gibibytes.ts';
import type { Job, Progress } from '../../core/job.ts';
import { date, number, t } from '../messages/messages.svelte.ts';
import { stageLabel } from '../studio/catalogue.ts';

type Working = Pick<Job, 'progress' | 'operation'>;

export function stageWords({ progress, operation }: Working): string {
  if (!progress) {
    return t('Getting ready');
  }
  const { of, stage } = progress;
  // Stages that belong to no chunk.
  const words: Partial<Record<string, string>> = { load: t('Loading the checkpoint'), record: t('Saving') };
  return stageLabel(operation.config, of, stage) ?? words[stage] ?? t('At work');
}

/** "on 192.168.1.5:8188, after 2 others" */
export function whereWords({ server, ahead }: NonNullable<Progress['elsewhere']>): string {
  const { host } = new URL(server);
  return ahead === 0
    ? t('on {host}', { host })
    : t('on {host}, after {n} other|on {host}, after {n} others', { host, n: ahead });
}

/** "Developing: step 3 of 20, about 4 s left" */
export function progressSentence(job: Working): string {
  const { progress } = job;
  const parts = [];
  if (progress && progress.steps > 1) {
    parts.push(t('step {step} of {steps}', { step: Math.min(progress.step, progress.steps), steps: progress.steps }));
  }
  if (progress?.secondsLeft !== null && progress?.secondsLeft !== undefined) {
    parts.push(t('about {duration} left', { duration: duration(progress.secondsLeft) }));
  }
  if (progress?.elsewhere) {
    parts.push(whereWords(progress.elsewhere));
  }
  return parts.length === 0 ? `${stageWords(job)} …` : `${stageWords(job)}: ${parts.join(', ')}`;
}

export function duration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds));
  const minutes = Math.floor(whole / 60);
  return whole < 60
    ? `${whole} s`
    : minutes < 60
      ? `${minutes} min ${whole % 60} s`
      : t('{hours} h {minutes} min', { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

export function megabytes(bytes: number): string {
  const format = (value: number, unit: string) =>
    `${number(value, { maximumFractionDigits: value < 10 ? 1 : 0 })} ${unit}`;
  return bytes < 1e9 ? format(bytes / 1e6, 'MB') : format(bytes / 1e9, 'GB');
}

/** "4.0" */
export function gibibytes(bytes: number): string {
  return number(Number(roundGibibytes(bytes)), { minimumFractionDigits: 1 });
}

/** `StableDiffusionXLPipeline` → "Stable Diffusion XL" */
export function family(pipelineClass: string): string {
  return pipelineClass.replace(/Pipeline$/, '').replace(/([a-z\d])([A-Z])/g, '$1 $2');
}

/** "860 million", "2.6 billion" */
export function large(count: number): string {
  const short = (value: number) => number(value, { maximumSignificantDigits: 2 });
  return count < 1e9
    ? t('{count} million', { count: short(count / 1e6) })
    : t('{count} billion', { count: short(count / 1e9) });
}

/** "today", "yesterday", "3 Nov 2026" */
export function day(time: number, now = Date.now()): string {
  const midnight = (at: number) => new Date(at).setHours(0, 0, 0, 0);
  const days = Math.round((midnight(now) - midnight(time)) / 86_400_000);
  if (days <= 0) {
    return t('today');
  }
  return days === 1 ? t('yesterday') : date(time, { dateStyle: 'medium' });
}
