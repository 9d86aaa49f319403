/** A job's results, as listed in its history and `executed` messages: by node, under keys each node chooses. */
import * as v from 'valibot';
import type { ComfyKind } from '../../core/comfyui.ts';

export interface ListedFile {
  node: string;
  kind: ComfyKind;
  filename: string;
  subfolder: string;
  type: string;
}

export interface Listed {
  files: ListedFile[];
  texts: { node: string; text: string }[];
}

const fileSchema = v.object({
  filename: v.pipe(v.string(), v.nonEmpty()),
  subfolder: v.fallback(v.string(), ''),
  type: v.fallback(v.string(), 'output'),
});

const KINDS: Readonly<Record<string, ComfyKind>> = {
  png: 'image',
  jpg: 'image',
  jpeg: 'image',
  webp: 'image',
  gif: 'animated',
  avif: 'image',
  mp4: 'video',
  webm: 'video',
  mkv: 'video',
  mov: 'video',
  flac: 'audio',
  mp3: 'audio',
  opus: 'audio',
  ogg: 'audio',
  wav: 'audio',
  m4a: 'audio',
  txt: 'text',
  md: 'text',
  json: 'text',
};

/**
 * Every file and text, by node, in order of node number. If any file is in the server's output folder, temporary files (previews) are
 * skipped.
 * @param outputs foreign data: `{ node: { key: [item] } }`
 */
export function readOutputs(outputs: Readonly<Record<string, unknown>>): Listed {
  const listed: Listed = { files: [], texts: [] };
  for (const node of Object.keys(outputs).sort(byNumber)) {
    const output = outputs[node];
    if (typeof output !== 'object' || output === null) {
      continue;
    }
    const isAnimated = isTrue((output as { animated?: unknown }).animated);
    for (const [key, items] of Object.entries(output)) {
      if (!Array.isArray(items)) {
        continue;
      }
      for (const item of items as unknown[]) {
        const file = v.safeParse(fileSchema, item);
        if (file.success) {
          listed.files.push({ node, kind: kindOf(file.output.filename, isAnimated), ...file.output });
        } else if (key === 'text' && typeof item === 'string') {
          listed.texts.push({ node, text: item });
        }
      }
    }
  }
  const isKept = listed.files.some(({ type }) => type === 'output');
  // Saved text is in its file.
  const saved = new Set(listed.files.filter(({ kind }) => kind === 'text').map(({ node }) => node));
  return {
    files: listed.files.filter(({ type }) => !isKept || type === 'output'),
    texts: listed.texts.filter(({ node }) => !saved.has(node)),
  };
}

function kindOf(filename: string, isAnimated: boolean): ComfyKind {
  const kind = KINDS[filename.slice(filename.lastIndexOf('.') + 1).toLowerCase()] ?? 'other';
  return kind === 'image' && isAnimated ? 'animated' : kind;
}

function isTrue(animated: unknown): boolean {
  return Array.isArray(animated) && animated.some((value) => value === true);
}

function byNumber(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}
