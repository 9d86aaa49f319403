/**
 * The few platform types that the core merely passes on. It is compiled with neither DOM nor worker declarations; the other tsconfigs
 * bring the real ones and exclude this file.
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
