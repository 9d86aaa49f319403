/**
 * A mask as the list of what was painted, so that undo is exact and the mask survives as a few numbers.
 * White = change, black = keep. Coordinates and sizes are shares of the picture's width.
 */
export type Mark =
  | { kind: 'stroke'; erase: boolean; size: number; points: [x: number, y: number][] }
  | { kind: 'invert' }
  | { kind: 'clear' };

type Canvas2D = CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D;

export class Mask {
  marks = $state.raw<Mark[]>([]);

  add(mark: Mark): void {
    this.marks = [...this.marks, mark];
  }

  /** Adds a point to the last stroke. */
  extend(point: [number, number]): void {
    const last = this.marks.at(-1);
    if (last?.kind === 'stroke') {
      this.marks = [...this.marks.slice(0, -1), { ...last, points: [...last.points, point] }];
    }
  }

  undo(): void {
    this.marks = this.marks.slice(0, -1);
  }

  /** Whether anything is white, judged on a small copy. */
  readonly isEmpty = $derived.by(() => {
    if (this.marks.length === 0) {
      return true;
    }
    const context = new OffscreenCanvas(64, 64).getContext('2d', { willReadFrequently: true });
    if (!context) {
      return true;
    }
    draw(this.marks, context, 64, 64);
    const { data } = context.getImageData(0, 0, 64, 64);
    return !data.some((value, index) => index % 4 === 3 && value > 31);
  });

  /** The mask as a picture of its own: white on black. */
  async toBlob(width: number, height: number): Promise<Blob> {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext('2d');
    if (!context) {
      throw new Error('This browser has no 2D canvas.');
    }
    draw(this.marks, context, width, height);
    context.globalCompositeOperation = 'destination-over';
    context.fillStyle = '#000';
    context.fillRect(0, 0, width, height);
    return canvas.convertToBlob({ type: 'image/png' });
  }
}

/** Paints the marks in white on a transparent canvas. */
export function draw(marks: Mark[], context: Canvas2D, width: number, height: number): void {
  context.save();
  context.clearRect(0, 0, width, height);
  context.fillStyle = '#fff';
  context.strokeStyle = '#fff';
  context.lineCap = 'round';
  context.lineJoin = 'round';
  for (const mark of marks) {
    if (mark.kind === 'clear') {
      context.clearRect(0, 0, width, height);
    } else if (mark.kind === 'invert') {
      // White wherever there was nothing, nothing wherever there was white.
      context.globalCompositeOperation = 'source-out';
      context.fillRect(0, 0, width, height);
    } else {
      context.globalCompositeOperation = mark.erase ? 'destination-out' : 'source-over';
      context.lineWidth = mark.size * width;
      context.beginPath();
      for (const [x, y] of mark.points) {
        context.lineTo(x * width, y * width);
      }
      const [first] = mark.points;
      if (mark.points.length === 1 && first) {
        context.lineTo(first[0] * width, first[1] * width + 0.01);
      }
      context.stroke();
    }
  }
  context.restore();
}
