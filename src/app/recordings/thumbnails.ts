/** Small pictures of runs, whatever their results are. What is scrolled away before its turn is never read, and what is out of sight holds no memory. */
import { kindOfName, resultMedium } from '../../media/registry.ts';
import type { RecordingsClient } from '../../jobs/recordings.ts';
import type { RunSummary } from '../../recorder/recorder_api.ts';

/** The recorder reads and compares each file, the browser decodes it: more at once would hold up what else is asked. */
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
   * Draws the run's picture into the canvas when its turn comes.
   * @param pixels how wide the smaller picture shall be
   * @returns the way to give up, which also empties the canvas
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

  #next(): void {
    // The last one asked for is the one in sight.
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
    const file = await this.#recordings.file(run.run_id, name);
    await drawPreview(file, name, canvas, pixels, () => wish.isOver);
  }

  /** For runs that an earlier version has put into the list. */
  async #resultOf({ run_id }: RunSummary): Promise<string> {
    const { entities } = await this.#recordings.read(run_id);
    return entities.find((entity) => resultMedium(entity) !== null)?.filename ?? '';
  }
}

/**
 * Draws a recorded file small, in the colours of the canvas: text in its colour, ground in its background, and its accent.
 * @param name the file's, which says of which medium it is
 * @param pixels how wide the smaller picture shall be
 * @param isOver whether nobody wants it any more, asked when it is ready
 * @throws Error for a file of which there is none
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
