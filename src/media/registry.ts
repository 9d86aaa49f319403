/** The media that exist: the files of this folder. */
import type { Medium } from './medium.ts';

const files = import.meta.glob<Medium>(['./*.ts', '!./medium.ts', '!./registry.ts'], { eager: true, import: 'medium' });

export const media: readonly Medium[] = Object.values(files);

export function mediumNamed(id: string): Medium | null {
  return media.find((medium) => medium.id === id) ?? null;
}
