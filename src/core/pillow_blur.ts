/**
 * Pillow's `ImageFilter.GaussianBlur` on bytes, to the bit: three passes of a box filter whose ends count in part, first along rows, then along
 * columns; beyond the picture its outermost pixels go on.
 * Reference: Pillow, src/libImaging/BoxBlur.c
 */
const PASSES = 3;
const ONE = 2 ** 24;

/**
 * @param data `width` × `height` bytes for each of `channels`, one pixel's beside each other
 * @param radius of the Gaussian, its standard deviation in pixels
 */
export function pillowBlurred(
  data: Uint8Array | Uint8ClampedArray,
  { width, height, channels }: { width: number; height: number; channels: number },
  radius: number,
): Uint8Array<ArrayBuffer> {
  const out = Uint8Array.from(data);
  const box = boxRadius(radius);
  if (box <= 0) {
    return out;
  }
  const line = new Uint8Array(Math.max(width, height));
  const blur = (start: number, step: number, count: number) => {
    for (let pass = 0; pass < PASSES; pass++) {
      for (let at = 0; at < count; at++) {
        line[at] = out[start + at * step];
      }
      boxLine(line, count, box, out, start, step);
    }
  };
  for (let y = 0; y < height; y++) {
    for (let c = 0; c < channels; c++) {
      blur(y * width * channels + c, channels, width);
    }
  }
  for (let x = 0; x < width * channels; x++) {
    blur(x, width * channels, height);
  }
  return out;
}

/** Of the box whose passes have the Gaussian's variance together, in single precision as there. */
function boxRadius(radius: number): number {
  const f = Math.fround;
  const variance = f(f(radius * radius) / PASSES);
  const length = f(Math.sqrt(12 * variance + 1));
  const whole = f(Math.floor((length - 1) / 2));
  const over = f((2 * whole + 1) * (whole * (whole + 1) - 3 * variance));
  return f(whole + f(over / f(6 * (variance - (whole + 1) * (whole + 1)))));
}

function boxLine(line: Uint8Array, count: number, radius: number, out: Uint8Array, start: number, step: number): void {
  const whole = Math.trunc(radius);
  const inner = Math.trunc(ONE / (radius * 2 + 1));
  const ends = Math.trunc((ONE - (whole * 2 + 1) * inner) / 2);
  const at = (place: number) => line[place < 0 ? 0 : place >= count ? count - 1 : place];
  let sum = 0;
  for (let k = -whole; k <= whole; k++) {
    sum += at(k);
  }
  for (let x = 0; x < count; x++) {
    const value = sum * inner + (at(x - whole - 1) + at(x + whole + 1)) * ends;
    out[start + x * step] = Math.floor((value + ONE / 2) / ONE);
    sum += at(x + whole + 1) - at(x - whole);
  }
}
