/** A video as values go from step to step: its file, as frames are never all held. */
export interface Video {
  file: Blob;
  width: number;
  height: number;
  /** Of all of it; frames where it has no sound. */
  seconds: number;
}
