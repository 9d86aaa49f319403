/** The texts that ACE-Step reads, in the form that it was taught. Reference: diffusers/pipelines/ace_step/pipeline_ace_step.py */
import type { MusicTask, MusicTextRequest } from '../../core/music_model.ts';
import texts from './ace_step_texts.json';

type Facts = Pick<MusicTextRequest, 'bpm' | 'keyscale' | 'timesignature' | 'seconds'>;

export function promptText(prompt: string, task: MusicTask, { bpm, keyscale, timesignature, seconds }: Facts): string {
  const said = (value: string | number | undefined) => String(value ?? '').trim() || texts.unknown;
  return filled(texts.prompt, {
    instruction: texts.instructions[task],
    prompt,
    bpm: said(bpm),
    timesignature: said(timesignature),
    keyscale: said(keyscale),
    seconds: String(Math.trunc(seconds)),
  });
}

export function lyricsText(lyrics: string, language: string): string {
  return filled(texts.lyrics, { lyrics, language });
}

function filled(template: string, values: Readonly<Record<string, string>>): string {
  return template.replace(/\{(\w+)\}/g, (_, name: string) => values[name]);
}
