/** A video as a ZIP of PNGs, for browsers that encode none. */
import type { Video } from '../../core/video.ts';
import { utf8 } from '../../formats/bytes.ts';
import { readJsonObject } from '../../formats/json.ts';
import { frameName, readStoredFiles } from '../../formats/media/zip.ts';

/** What the pictures alone do not say. */
export const ABOUT_FILE = 'video.json';
const NUMBERS = ['width', 'height', 'rate', 'frames'] as const;
export type FramesAbout = Record<(typeof NUMBERS)[number], number>;

/** @returns null for an archive of other files, or one that is cut off */
export async function readFrameArchive(file: Blob): Promise<Video | null> {
  const files = readStoredFiles(new Uint8Array(await file.arrayBuffer()));
  const about = files.find(({ name }) => name === ABOUT_FILE);
  if (!about) {
    return null;
  }
  const said = readJsonObject(utf8(about.data)) as Partial<FramesAbout> | null;
  const [width, height, rate, frames] = NUMBERS.map((name) => said?.[name] ?? 0);
  const isWhole = [width, height, rate, frames].every((value) => typeof value === 'number' && value > 0);
  return isWhole ? { file, width, height, seconds: frames / rate, frames } : null;
}

/** Its first frame; null where there is none. */
export async function firstFrame(file: Blob): Promise<Blob | null> {
  const [first] = readStoredFiles(new Uint8Array(await file.arrayBuffer()));
  return first?.name === frameName(0) ? new Blob([first.data], { type: 'image/png' }) : null;
}
