/** Thumbnails of runs with any kind of result. Runs scrolled away before their turn are never read, and invisible ones take no memory. */
import { kindOfName, resultMedium } from '../../media/registry.ts';
import type { RecordingsClient } from '../../jobs/recordings.ts';
import type { RunSummary } from '../../recorder/recorder_api.ts';

/** The recorder reads and verifies each file and the browser decodes it; more at once would delay other requests. */
const AT_ONCE = 4;

interface Wish {
  run: RunSummary;
  canvas: HTMLCanvasElement;
  pixels: number;
  onfail: () => void;
  isOver: boolean;
}

export class Thumbnails {
  readonly #recordings: RecordingsClient;
  readonly #waiting = new Set<Wish>();
  #busy = 0;

  constructor(recordings: RecordingsClient) {
    this.#recordings = recordings;
  }

  /**
   * Draws the run's thumbnail on the canvas when its turn comes.
   * @param pixels width of the thumbnail
   * @returns a function that cancels and clears the canvas
   */
  draw(run: RunSummary, canvas: HTMLCanvasElement, pixels: number, onfail: () => void): () => void {
    const wish = { run, canvas, pixels, onfail, isOver: false };
    this.#waiting.add(wish);
    this.#next();
    return () => {
      wish.isOver = true;
      this.#waiting.delete(wish);
      canvas.width = 0;
    };
  }

  /** The recorded file of a run, for what plays. */
  read({ run_id, picture }: RunSummary, name = picture): Promise<Blob> {
    return this.#recordings.file(run_id, name);
  }

  #next(): void {
    // The last one requested is the visible one.
    const wish = [...this.#waiting].at(-1);
    if (!wish || this.#busy >= AT_ONCE) {
      return;
    }
    this.#waiting.delete(wish);
    this.#busy += 1;
    void this.#fulfil(wish)
      .catch(() => {
        if (!wish.isOver) {
          wish.onfail();
        }
      })
      .finally(() => {
        this.#busy -= 1;
        this.#next();
      });
  }

  async #fulfil(wish: Wish): Promise<void> {
    const { run, canvas, pixels } = wish;
    const name = run.picture || (await this.#resultOf(run));
    const file = await this.read(run, name);
    await drawPreview(file, name, canvas, pixels, () => wish.isOver);
  }

  /** For runs listed by an earlier version. */
  async #resultOf({ run_id }: RunSummary): Promise<string> {
    const { entities } = await this.#recordings.read(run_id);
    return entities.find((entity) => resultMedium(entity) !== null)?.filename ?? '';
  }
}

/**
 * Draws a thumbnail of a recorded file in the canvas's CSS colours: text, background and accent.
 * @param name of the file, which determines its medium
 * @param pixels width of the thumbnail
 * @param isOver whether it is no longer wanted, called when it is ready
 * @throws Error for a file that has no thumbnail
 */
export async function drawPreview(
  file: Blob,
  name: string,
  canvas: HTMLCanvasElement,
  pixels: number,
  isOver: () => boolean = () => false,
): Promise<void> {
  const { color: ink, backgroundColor: paper, accentColor: accent } = getComputedStyle(canvas);
  const bitmap = await kindOfName(name)?.medium.preview?.(file, { size: pixels, ink, paper, accent });
  if (!bitmap) {
    throw new Error(`There is no small picture of ${name}.`);
  }
  if (!isOver()) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext('bitmaprenderer')?.transferFromImageBitmap(bitmap);
  }
  bitmap.close();
}
