/**
 * Transparency in Pillow's fixed-point numbers.
 * Reference: Pillow, src/libImaging/{Paste,Convert,AlphaComposite}.c
 */

/** Extra bits of precision that Pillow uses when compositing. */
const PRECISION = 7;

function dividedBy255(value: number): number {
  return ((value >> 8) + value) >> 8;
}

/** A byte times an alpha, as a paste through a mask has it. */
export function multipliedIn(value: number, alpha: number): number {
  return dividedBy255(value * alpha + 128);
}

/** The byte that was multiplied by an alpha. */
export function dividedOut(value: number, alpha: number): number {
  return alpha === 0 ? value : Math.min(255, Math.floor((255 * value) / alpha));
}

/** Lays the pixel at index `i` of `over` over that of `under`; RGBA bytes that are not multiplied by their alphas. */
export function lay(over: ArrayLike<number>, under: Uint8ClampedArray, i: number): void {
  const alpha = over[i + 3];
  if (alpha === 0) {
    return;
  }
  const whole = alpha * 255 + under[i + 3] * (255 - alpha);
  const share = Math.floor((alpha * 255 * (255 << PRECISION)) / whole);
  for (let c = i; c < i + 3; c++) {
    const sum = over[c] * share + under[c] * ((255 << PRECISION) - share);
    under[c] = dividedBy255(sum + (128 << PRECISION)) >> PRECISION;
  }
  under[i + 3] = dividedBy255(whole + 128);
}
