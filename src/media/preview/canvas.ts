/** Thumbnails of files that are no pictures. */
import { StudioError } from '../../core/errors.ts';
import type { PreviewLook } from '../medium.ts';

/** @throws StudioError `out_of_memory` */
export function canvasOf(
  width: number,
  height: number,
  settings?: { willReadFrequently: boolean },
): { canvas: OffscreenCanvas; context: OffscreenCanvasRenderingContext2D } {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', settings);
  if (!context) {
    throw new StudioError(
      'out_of_memory',
      'There was no memory for a small picture; close other tabs, then try again.',
      {
        retry: 'same',
      },
    );
  }
  return { canvas, context };
}

/** Lines in a text's thumbnail; a dozen or so are readable at a glance. */
const LINES = 9;

/**
 * The first lines of a text.
 * @param style `mono` for code, whose lines are cut rather than wrapped
 * @param badge one or two words in the lower corner
 */
export function drawText(
  text: string,
  { size, ink, paper, accent }: PreviewLook,
  { mono = false, badge = '' }: { mono?: boolean; badge?: string } = {},
): ImageBitmap {
  const { canvas, context } = canvasOf(size, size);
  const margin = Math.round(size / 12);
  const line = (size - 2 * margin) / LINES;
  const font = (scale: number, weight = '') =>
    `${weight} ${Math.round(line * scale)}px ${mono ? 'ui-monospace, monospace' : 'system-ui, sans-serif'}`;
  context.fillStyle = paper;
  context.fillRect(0, 0, size, size);
  context.font = font(0.72);
  context.textBaseline = 'top';
  context.fillStyle = ink;
  const lines = mono ? text.split('\n') : wrapped(text, size - 2 * margin, (part) => context.measureText(part).width);
  lines.slice(0, LINES).forEach((words, index) => {
    context.fillText(words, margin, margin + index * line);
  });
  if (badge !== '') {
    context.font = font(0.8, 'bold');
    const width = context.measureText(badge).width + margin;
    const height = line * 1.3;
    context.fillStyle = accent;
    context.fillRect(size - width, size - height, width, height);
    context.fillStyle = paper;
    context.fillText(badge, size - width + margin / 2, size - height + line * 0.25);
  }
  return canvas.transferToImageBitmap();
}

/** Broken between words. */
function wrapped(text: string, width: number, measure: (text: string) => number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.slice(0, 1000).split('\n')) {
    let line = '';
    for (const word of paragraph.split(' ')) {
      const longer = line === '' ? word : `${line} ${word}`;
      if (line !== '' && measure(longer) > width) {
        lines.push(line);
        line = word;
      } else {
        line = longer;
      }
    }
    lines.push(line);
  }
  return lines;
}
