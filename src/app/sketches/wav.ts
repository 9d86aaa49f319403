import type { Sound } from '../../core/media.ts';

/** A WAV file: 16 bits per sample, channels interleaved; samples beyond −1 and 1 are clipped. */
export function wav({ rate, channels }: Sound): Blob {
  const length = channels[0]?.length ?? 0;
  const bytes = length * channels.length * 2;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const letters = (at: number, text: string) =>
    [...text].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
  letters(0, 'RIFF');
  view.setUint32(4, 36 + bytes, true);
  letters(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels.length * 2, true);
  view.setUint16(32, channels.length * 2, true);
  view.setUint16(34, 16, true);
  letters(36, 'data');
  view.setUint32(40, bytes, true);
  let at = 44;
  for (let sample = 0; sample < length; sample += 1) {
    for (const channel of channels) {
      view.setInt16(at, Math.round(Math.max(-1, Math.min(1, channel[sample])) * 32_767), true);
      at += 2;
    }
  }
  return new Blob([view], { type: 'audio/wav' });
}
