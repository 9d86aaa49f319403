/**
 * A sound that is played while it is made. What is there lies on the timeline of an AudioContext of the sound's own rate, so that piece follows piece
 * without a gap; where nothing is there yet, playing waits.
 */
import type { SoundPiece } from '../../../core/job.ts';
import type { Sound } from '../../../core/media.ts';

/** Seconds from now at which a piece begins that could not follow another one: to place it takes a moment. */
const LEAD = 0.02;
/** Milliseconds in which what shows the result is there, also where it has to be loaded first. */
const LEFT_FOR = 3000;

/** Samples `from` to `until` of the sound, which play from `at` of the context's time. */
interface Placed {
  from: number;
  until: number;
  at: number;
  node: AudioBufferSourceNode;
}

export class GrowingSound {
  /** A plane for each channel, with room for more. */
  #planes: Float32Array<ArrayBuffer>[] = [];
  #rate = 0;
  #context: AudioContext | null = null;
  #gain: GainNode | null = null;
  #placed: Placed[] = [];
  /** The sample that is placed next. */
  #next = 0;
  #isWhole = false;
  #length = $state(0);
  #isPlaying = $state(false);
  #volume = 1;

  /** Samples of each channel that are there. */
  get length(): number {
    return this.#length;
  }

  /** Whether it plays, or waits for more in order to play on. */
  get isPlaying(): boolean {
    return this.#isPlaying;
  }

  /** All that is there; null before the first piece. */
  get sound(): Sound | null {
    const length = this.#length;
    return length === 0 ? null : { rate: this.#rate, channels: this.#planes.map((plane) => plane.subarray(0, length)) };
  }

  /** Of what is heard, in seconds. */
  get time(): number {
    if (this.#rate === 0) {
      return 0;
    }
    const now = this.#context?.currentTime ?? 0;
    const current = this.#placed.findLast(({ at }) => at <= now);
    const sample = current
      ? Math.min(current.from + (now - current.at) * this.#rate, current.until)
      : (this.#placed.at(0)?.from ?? this.#next);
    return sample / this.#rate;
  }

  /** An attempt that is begun anew tells everything again, which is the same. */
  add({ from, rate, channels }: Omit<SoundPiece, 'step'>): void {
    if (from !== this.#length) {
      return;
    }
    this.#rate = rate;
    const length = from + channels[0].length;
    this.#planes = channels.map((_, channel) => withRoom(this.#planes.at(channel), length));
    channels.forEach((piece, channel) => this.#planes[channel].set(piece, from));
    this.#length = length;
    if (this.#isPlaying) {
      this.#place();
    }
  }

  /** There will be no more of it: where it ends, playing ends. */
  end(): void {
    this.#isWhole = true;
    this.#lookForEnd();
  }

  async play(): Promise<void> {
    if (this.#isPlaying || this.#rate === 0) {
      return;
    }
    this.#isPlaying = true;
    this.#context ??= contextOf(this.#rate);
    if (!this.#gain) {
      this.#gain = this.#context.createGain();
      this.#gain.gain.value = this.#volume;
      this.#gain.connect(this.#context.destination);
    }
    if (this.#isWhole && this.#next === this.#length && this.time * this.#rate >= this.#length) {
      this.seek(0);
    }
    this.#place();
    await this.#context.resume();
  }

  /** Time stands still until it plays on. */
  async pause(): Promise<void> {
    this.#isPlaying = false;
    await this.#context?.suspend();
  }

  /** @param seconds within what is there */
  seek(seconds: number): void {
    this.#clear();
    this.#next = Math.max(0, Math.min(this.#length, Math.round(seconds * this.#rate)));
    if (this.#isPlaying) {
      this.#place();
    }
  }

  /** @param volume 0 to 1 */
  set volume(volume: number) {
    this.#volume = volume;
    if (this.#gain) {
      this.#gain.gain.value = volume;
    }
  }

  /** Ends it for good. */
  async dispose(): Promise<void> {
    this.#isPlaying = false;
    this.#clear();
    this.#planes = [];
    await this.#context?.close();
    this.#context = null;
  }

  /** Places what is there and not yet on the timeline. */
  #place(): void {
    const [context, gain, from, until] = [this.#context, this.#gain, this.#next, this.#length];
    if (!context || !gain || from >= until) {
      return;
    }
    const buffer = context.createBuffer(this.#planes.length, until - from, this.#rate);
    this.#planes.forEach((plane, channel) => buffer.copyToChannel(plane.subarray(from, until), channel));
    const node = context.createBufferSource();
    node.buffer = buffer;
    node.connect(gain);
    const last = this.#placed.at(-1);
    const after = last ? last.at + (last.until - last.from) / this.#rate : -Infinity;
    const soonest = Math.ceil((context.currentTime + LEAD) * this.#rate) / this.#rate;
    const at = after >= context.currentTime ? after : soonest;
    node.onended = () => this.#lookForEnd();
    node.start(at);
    this.#placed.push({ from, until, at, node });
    this.#next = until;
  }

  #lookForEnd(): void {
    if (this.#isPlaying && this.#isWhole && this.time * this.#rate >= this.#length) {
      void this.pause();
    }
  }

  #clear(): void {
    for (const { node } of this.#placed) {
      node.onended = null;
      node.stop();
    }
    this.#placed = [];
  }
}

/** The plane, or a longer one that begins with it; it grows by doubling. */
function withRoom(plane: Float32Array<ArrayBuffer> | undefined, length: number): Float32Array<ArrayBuffer> {
  if (plane && plane.length >= length) {
    return plane;
  }
  const longer = new Float32Array(Math.max(length, 2 * (plane?.length ?? 0)));
  longer.set(plane ?? []);
  return longer;
}

/** Another rate would be converted piece by piece, and heard where they meet; browsers take most. */
function contextOf(sampleRate: number): AudioContext {
  try {
    return new AudioContext({ sampleRate });
  } catch {
    return new AudioContext();
  }
}

/** Sounds that play on while what shows them is replaced, by run: by the result, or by the same where the page is laid out anew. */
// eslint-disable-next-line svelte/prefer-svelte-reactivity -- nothing on the page shows it
const left = new Map<string, { sound: GrowingSound; timer: ReturnType<typeof setTimeout> }>();

/** Ends a sound, unless it plays and somebody takes it over soon. */
export function leaveTo(run: string, sound: GrowingSound): void {
  if (!sound.isPlaying) {
    void sound.dispose();
    return;
  }
  const timer = setTimeout(() => {
    left.delete(run);
    void sound.dispose();
  }, LEFT_FOR);
  left.set(run, { sound, timer });
}

/** The sound that was left playing; whoever takes it leaves it or ends it. */
export function takeOver(run: string): GrowingSound | null {
  const found = left.get(run);
  left.delete(run);
  clearTimeout(found?.timer);
  return found?.sound ?? null;
}
