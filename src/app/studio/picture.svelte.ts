import { get, set, type UseStore } from 'idb-keyval';
import { StudioError } from '../../core/errors.ts';
import { AS_STORED, hasTransparency } from '../../formats/picture.ts';
import { isJpeg } from '../../formats/signatures.ts';
import { openStore } from '../../storage/database.ts';
import type { Form, Pictures } from './form.svelte.ts';
import { Mask, type Mark } from './mask.svelte.ts';

const KEY = 'start-picture';
/** More pixels than any checkpoint takes; keeps a crop of a camera's photo quick. */
const LONGEST_SIDE = 4096;

interface Loaded {
  blob: Blob;
  name: string;
  url: string;
  width: number;
  height: number;
  /** Whether a background shows through somewhere. */
  isTransparent: boolean;
}

interface Kept {
  blob: Blob;
  name: string;
  marks: Mark[];
  fit: Fit;
}

export type Fit = 'crop' | 'stretch';

/** The picture to start from, its mask, and how it is fitted to the size asked for. Kept over reloads. */
export class StartPicture {
  loaded = $state.raw<Loaded | null>(null);
  fit = $state<Fit>('crop');
  readonly mask = new Mask();
  #store: UseStore | null = null;
  #keeping = Promise.resolve();

  /** @throws StudioError `image_unreadable` */
  async put(blob: Blob, name: string): Promise<void> {
    await this.#load(blob, name);
    this.mask.marks = [];
  }

  remove(): void {
    this.#release();
    this.mask.marks = [];
  }

  /** Whether the picture has another shape than `width` × `height`, by more than rounding. */
  hasOtherShape(width: number, height: number): boolean {
    return (
      this.loaded !== null && Math.abs(Math.log((this.loaded.width * height) / (this.loaded.height * width))) > 0.02
    );
  }

  /**
   * What an operation of this size takes; null without a picture.
   * @param framing in its shape; scaled to that size here, for an operation that leaves the picture as it is; or left alone, for one that takes
   * a part of it
   */
  async prepare(width: number, height: number, framing: Form['framing'] = 'fitted'): Promise<Pictures | null> {
    const picture = this.loaded;
    if (!picture) {
      return null;
    }
    const { isTransparent } = picture;
    if (framing === 'exact') {
      const isItsSize = picture.width === width && picture.height === height;
      const shape = this.fit === 'stretch' ? picture.width / picture.height : width / height;
      return {
        image: isItsSize ? picture.blob : await crop(picture.blob, shape, { width, height }),
        mask: null,
        isTransparent,
      };
    }
    const mask = this.mask.isEmpty ? null : await this.mask.toBlob(picture.width, picture.height);
    if (framing === 'whole' || this.fit === 'stretch' || !this.hasOtherShape(width, height)) {
      return { image: picture.blob, mask, isTransparent };
    }
    return {
      image: await crop(picture.blob, width / height),
      mask: mask && (await crop(mask, width / height)),
      isTransparent,
    };
  }

  /** Brings back what was there before the reload. */
  async restore(): Promise<void> {
    try {
      this.#store = openStore('darkroom-page', 'form');
      const kept = await get<Kept>(KEY, this.#store);
      if (kept && !this.loaded) {
        await this.#load(kept.blob, kept.name);
        this.mask.marks = kept.marks;
        this.fit = kept.fit;
      }
    } catch {
      // Storage is blocked or holds something else: start without a picture.
    }
  }

  /** Writes picture and mask; called from an effect, so that every change is kept. */
  keep(): void {
    const store = this.#store;
    const kept: Kept | null = this.loaded && {
      blob: this.loaded.blob,
      name: this.loaded.name,
      marks: this.mask.marks,
      fit: this.fit,
    };
    if (store) {
      this.#keeping = this.#keeping.then(() => set(KEY, kept, store)).catch(() => undefined);
    }
  }

  async #load(blob: Blob, name: string): Promise<void> {
    let bitmap: ImageBitmap;
    let isTransparent: boolean;
    try {
      bitmap = await createImageBitmap(blob, AS_STORED);
      isTransparent = !isJpeg(new Uint8Array(await blob.slice(0, 16).arrayBuffer())) && hasTransparency(bitmap);
    } catch (error) {
      throw new StudioError(
        'image_unreadable',
        `"${name}" is not a picture that this browser can read; choose a PNG, JPEG or WebP file.`,
        { cause: error },
      );
    }
    const { width, height } = bitmap;
    bitmap.close();
    this.#release();
    this.loaded = { blob, name, url: URL.createObjectURL(blob), width, height, isTransparent };
  }

  #release(): void {
    if (this.loaded) {
      URL.revokeObjectURL(this.loaded.url);
    }
    this.loaded = null;
  }
}

/**
 * The middle of the picture in another shape; its transparency stays.
 * @param size absent = its own, but for pictures that are larger than any checkpoint takes
 */
async function crop(blob: Blob, shape: number, size?: { width: number; height: number }): Promise<Blob> {
  const bitmap = await createImageBitmap(blob, AS_STORED);
  const width = Math.min(bitmap.width, Math.round(bitmap.height * shape));
  const height = Math.min(bitmap.height, Math.round(bitmap.width / shape));
  const shrink = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = new OffscreenCanvas(
    size?.width ?? Math.max(1, Math.round(width * shrink)),
    size?.height ?? Math.max(1, Math.round(height * shrink)),
  );
  const context = canvas.getContext('2d');
  if (context) {
    context.imageSmoothingQuality = size ? 'high' : 'low';
    const [left, top] = [(bitmap.width - width) / 2, (bitmap.height - height) / 2];
    context.drawImage(bitmap, left, top, width, height, 0, 0, canvas.width, canvas.height);
  }
  bitmap.close();
  return canvas.convertToBlob({ type: 'image/png' });
}
