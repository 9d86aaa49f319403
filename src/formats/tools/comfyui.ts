/**
 * ComfyUI: `prompt` and `workflow` in PNG text; in WebP and JPEG in the EXIF fields Model and Make, and in further ones below these,
 * each as `name:{json}`.
 */
import { readComfyui } from '../comfyui.ts';
import { ExifTag } from '../exif.ts';
import type { Metadata } from '../metadata.ts';
import type { Tool } from '../reading.ts';

/** As many fields below Make as are looked at. */
const FIELDS = 16;

export const tool: Tool = {
  name: 'ComfyUI',
  turn: 'shared',
  read(metadata) {
    return readComfyui(find(metadata, 'prompt'), find(metadata, 'workflow'));
  },
};

function find({ texts, exif }: Metadata, name: string): string | null {
  const text = texts.get(name);
  if (text !== undefined) {
    return text;
  }
  for (let tag: number = ExifTag.model; tag > ExifTag.model - FIELDS; tag--) {
    const value = exif.get(tag);
    if (value?.toLowerCase().startsWith(`${name}:`)) {
      return value.slice(name.length + 1);
    }
  }
  return null;
}
