/** The picture of a whole plot: its cells in rows and columns, with the values written beside them. */
import type { PlotAxis } from '../../core/plots.ts';
import { captionOf } from '../parts/plot.ts';

interface Made {
  run: string;
  file: string;
}

const FONT = '"Segoe UI", "Noto Sans", system-ui, sans-serif';
/** No canvas is larger than this in every browser, in pixels a side. */
const LONGEST = 8192;

/**
 * @param made by cell, the first axis changing fastest; null = missing, and left white
 * @param read a recorded file
 * @returns a PNG
 */
export async function drawSheet(
  axes: readonly PlotAxis[],
  made: readonly (Made | null)[],
  read: (made: Made) => Promise<Blob>,
): Promise<Blob> {
  const [x, y, z] = [0, 1, 2].map((n) => axes.at(n)?.values ?? ['']);
  const first = made.find((one) => one !== null);
  const sample = first ? await createImageBitmap(await read(first)) : null;
  const [whole, high] = [sample?.width ?? 256, sample?.height ?? 256];
  sample?.close();
  const shrink = Math.min(
    1,
    LONGEST / (whole * (x.length + 0.6)),
    LONGEST / ((high + 8) * y.length * z.length + 90 * z.length),
  );
  const [width, height] = [Math.max(1, Math.floor(whole * shrink)), Math.max(1, Math.floor(high * shrink))];
  const text = Math.max(14, Math.min(36, Math.round(width / 14)));
  const gap = Math.max(2, Math.round(text / 4));
  const isTall = axes.length > 1;
  const left = isTall ? Math.min(Math.max(width / 2, 120), 420) : gap;
  const top = Math.round(text * 2.2);
  const title = axes.length > 2 ? Math.round(text * 2) : 0;
  const block = title + top + y.length * (height + gap);
  const canvas = new OffscreenCanvas(Math.ceil(left + x.length * (width + gap)), Math.ceil(z.length * block));
  const context = canvas.getContext('2d');
  if (!context) {
    throw new Error('This browser has no 2D canvas.');
  }
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = '#000';
  context.textBaseline = 'middle';
  context.imageSmoothingQuality = 'high';
  const write = (words: string, at: number, down: number, most: number, isTitle = false) => {
    context.font = [isTitle ? '600' : '400', `${text}px`, FONT].join(' ');
    context.textAlign = 'center';
    context.fillText(fitted(context, words, most), at + most / 2, down, most);
  };
  for (let k = 0; k < z.length; k++) {
    const start = k * block;
    if (title > 0) {
      write(captionOf(axes[2], z[k]), left, start + title / 2, canvas.width - left, true);
    }
    x.forEach((value, i) => {
      write(captionOf(axes[0], value), left + i * (width + gap), start + title + top / 2, width);
    });
    for (let j = 0; j < y.length; j++) {
      const down = start + title + top + j * (height + gap);
      if (isTall) {
        write(captionOf(axes[1], y[j]), gap, down + height / 2, left - 2 * gap);
      }
      for (let i = 0; i < x.length; i++) {
        const one = made[(k * y.length + j) * x.length + i];
        const bitmap = one && (await createImageBitmap(await read(one)));
        if (bitmap) {
          context.drawImage(bitmap, left + i * (width + gap), down, width, height);
          bitmap.close();
        }
      }
    }
  }
  return canvas.convertToBlob({ type: 'image/png' });
}

function fitted(context: OffscreenCanvasRenderingContext2D, words: string, most: number): string {
  let shown = words;
  while (shown.length > 4 && context.measureText(shown).width > most) {
    shown = `${shown.slice(0, -2).trimEnd()}…`.replace(/……$/, '…');
  }
  return shown;
}
