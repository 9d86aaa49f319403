/**
 * Sounds at another rate, by a filter that lets through what both rates can hold: what `scipy.signal.resample_poly` does, with its own window.
 * Reference: scipy/signal/_signaltools.py and _fir_filter_design.py
 */
import type { Sound } from '../../core/media.ts';

/** Zero crossings of the filter on each side, at the lower rate. */
const CROSSINGS = 10;
/** Of the Kaiser window. */
const BETA = 5;

/** @param rate samples per second; a sound of that rate is given back as it is */
export function resampled(sound: Sound, rate: number): Sound {
  const divisor = greatestDivisor(rate, sound.rate);
  const [up, down] = [rate / divisor, sound.rate / divisor];
  if (up === down) {
    return sound;
  }
  const filter = lowPass(up, down);
  return { rate, channels: sound.channels.map((plane) => polyphase(plane, up, down, filter)) };
}

/** The windowed sinc, in steps of a sample at `up` times the old rate, of which each old sample is `up` apart. */
function lowPass(up: number, down: number): Float64Array {
  const most = Math.max(up, down);
  const half = CROSSINGS * most;
  const filter = Float64Array.from({ length: 2 * half + 1 }, (_, n) => {
    const x = (n - half) / most;
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
    return sinc * bessel(BETA * Math.sqrt(Math.max(0, 1 - ((n - half) / half) ** 2)));
  });
  const sum = filter.reduce((total, value) => total + value, 0);
  return filter.map((value) => (value * up) / sum);
}

function polyphase(plane: Float32Array, up: number, down: number, filter: Float64Array): Float32Array<ArrayBuffer> {
  const half = (filter.length - 1) / 2;
  const made = new Float32Array(Math.ceil((plane.length * up) / down));
  for (let n = 0; n < made.length; n++) {
    const at = n * down;
    const first = Math.max(0, Math.ceil((at - half) / up));
    const last = Math.min(plane.length - 1, Math.floor((at + half) / up));
    let sum = 0;
    for (let i = first; i <= last; i++) {
      sum += plane[i] * filter[at - i * up + half];
    }
    made[n] = sum;
  }
  return made;
}

/** The modified Bessel function of the first kind and order 0, by its series. */
function bessel(x: number): number {
  let [sum, term] = [1, 1];
  for (let k = 1; term > sum * 1e-17; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
