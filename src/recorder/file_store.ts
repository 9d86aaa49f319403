/**
 * The few file operations that the recorder needs. OPFS in the browser, memory where there is none, and in tests one
 * that fails, crashes or tears at a chosen operation. Paths have forward slashes and no leading one.
 */
export interface FileStore {
  /** False when everything is gone with the worker. */
  readonly persistent: boolean;
  /**
   * Creates or replaces a file, and the folders above it; what it wrote is flushed when it resolves. May leave a torn
   * file behind when it fails.
   */
  write(path: string, content: Blob): Promise<void>;
  /** Renames within one folder and replaces what is there, in one step. */
  move(folder: string, from: string, to: string): Promise<void>;
  /** The content, or null when there is no such file. */
  read(path: string): Promise<Blob | null>;
  /** What a folder contains; empty when there is no such folder. */
  list(folder: string): Promise<{ name: string; kind: 'file' | 'folder' }[]>;
  /** Removes a file, or a folder with all that is in it. Nothing there is no error. */
  remove(path: string): Promise<void>;
  /**
   * Opens a file to be written in place, and creates it when it is missing. Nobody else can open it until it is closed.
   * @throws StudioError `storage_unavailable` when somebody else has it open
   */
  append(path: string): Promise<AppendFile>;
}

/** A file that grows at its end. */
export interface AppendFile {
  read(): Promise<Uint8Array>;
  /** Writes at this offset, which is the end; may leave a part of it there when it fails. Not on the disk before {@link flush}. */
  write(bytes: Uint8Array<ArrayBuffer>, at: number): Promise<void>;
  truncate(length: number): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}
