/** A weight file as left by a download that quantises on arrival. */
import { transformMakers } from '../src/weights/quantise.ts';
import { safetensorsHeaderLength } from '../src/weights/safetensors.ts';

export function quantisedFile(
  variant: 'q8' | 'q4',
  path: string,
  whole: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer>[] {
  const length = 8 + safetensorsHeaderLength(whole.subarray(0, 8), whole.length, path);
  const transform = transformMakers[variant](path, whole.slice(0, length), whole.length);
  if (!transform) {
    throw new Error(`nothing of ${path} is quantised`);
  }
  const begins = [0, ...transform.cuts];
  const pieces = transform.cuts.map((end, n) => transform.apply(n, whole.slice(begins[n], end)));
  return transform.layout.map((part) =>
    'bytes' in part ? part.bytes : pieces[part.piece].slice(part.begin, part.end),
  );
}
