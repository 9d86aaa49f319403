/**
 * The few platform types that core only passes on. The core world has neither DOM nor worker declarations; the other
 * worlds bring the real ones and do not include this file.
 */
interface Blob {
  readonly size: number;
  readonly type: string;
}
interface AbortSignal {
  readonly aborted: boolean;
}
interface OffscreenCanvas {
  width: number;
  height: number;
}
