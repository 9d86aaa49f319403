/** Globals that worker code uses and this compile world's DOM declarations lack. */
declare class FileReaderSync {
  readAsArrayBuffer(blob: Blob): ArrayBuffer;
}
