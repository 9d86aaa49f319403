/** Published checkpoints of sounds and videos at their full size, with weights of 4 bits that are made while they are read. */
import * as aceStep from '../chunks/output_audio_ace_step.ts';
import * as stableAudio from '../chunks/output_audio_stable_audio.ts';
import * as ltx from '../chunks/output_video_ltx.ts';
import * as wan from '../chunks/output_video_wan.ts';
import type { FolderFiles } from '../src/weights/checkpoint_files.ts';
import published from '../test/goldens/whole_media.json';
import { madeFile, madeFolder, type WholeCase } from './whole.ts';

export type WholeMediaName = keyof typeof published.checkpoints;

const WORDS = { prompt: 'a red house', seed: '1' };
const VIDEO = { ...WORDS, steps: 2, guidance_scale: 1, width: 256, height: 256, format: 'zip' };
const video = (chunk: unknown, frames: number): WholeCase => ({
  chunk: chunk as WholeCase['chunk'],
  operation: 'video_generation',
  isPhased: true,
  parameters: { ...VIDEO, frames },
});
const sound = (chunk: unknown, parameters: Record<string, unknown>): WholeCase => ({
  chunk: chunk as WholeCase['chunk'],
  operation: 'audio_generation',
  isPhased: false,
  parameters: { ...WORDS, ...parameters },
});

export const mediaCases: Record<WholeMediaName, WholeCase> = {
  'stable-audio-open': sound(stableAudio, { steps: 2, guidance_scale: 1, seconds: 10 }),
  'ace-step-1.5': sound(aceStep, { lyrics: '[verse]\nMorning light', steps: 1, guidance_scale: 1, seconds: 10 }),
  'ltx-2b': video(ltx, 9),
  'wan21-1.3b': video(wan, 5),
  'wan22-ti2v-5b': video(wan, 5),
};

type ShapeRow = [pattern: string, shape: number[], numbers?: number | number[]];

const contents = import.meta.glob<string>(
  [
    '../test/weightless/tiny-{stable-audio,ace-step,ltx,wan,wan-ti2v}/*.json',
    '../test/weightless/tiny-{stable-audio,ace-step,ltx,wan,wan-ti2v}/{scheduler,tokenizer}/*',
  ],
  { query: '?raw', import: 'default' },
);

function tensorsOf(rows: readonly ShapeRow[]): { name: string; shape: number[] }[] {
  return rows.flatMap(([pattern, shape, numbers]) => {
    const all =
      numbers === undefined
        ? ['']
        : typeof numbers === 'number'
          ? Array.from({ length: numbers }, (_, n) => n)
          : numbers;
    return all.map((number) => ({ name: pattern.replace('#', String(number)), shape }));
  });
}

export async function mediaFiles(name: WholeMediaName): Promise<FolderFiles> {
  const { like, components } = published.checkpoints[name];
  const root = `../test/weightless/${like}/`;
  const files = new Map<string, File>();
  for (const [path, read] of Object.entries(contents).filter(([each]) => each.startsWith(root))) {
    files.set(path.slice(root.length), new File([await read()], path));
  }
  const weights = JSON.parse((await files.get('weights.json')?.text()) ?? '') as { files: { path: string }[] };
  files.delete('weights.json');
  for (const [part, { config, shapes }] of Object.entries(components)) {
    files.set(`${part}/config.json`, new File([JSON.stringify(config)], 'config.json'));
    const { path } = weights.files.find((file) => file.path.startsWith(`${part}/`)) ?? { path: '' };
    files.set(path, madeFile(path, tensorsOf(shapes as ShapeRow[])));
  }
  return madeFolder(
    name,
    Array.from(files, ([path, file]) => ({ path, file })),
  );
}
