/**
 * The few file operations that the recorder needs. OPFS in the browser, memory where there is none, and in tests one
 * that fails at a chosen operation. Paths have forward slashes and no leading one.
 */
export interface FileStore {
  /** False when everything is gone with the worker. */
  readonly persistent: boolean;
  /** Creates or replaces a file, and the folders above it. May leave a torn file behind when it fails. */
  write(path: string, content: Blob): Promise<void>;
  /** Renames within one folder and replaces what is there. */
  move(folder: string, from: string, to: string): Promise<void>;
  /** The content, or null when there is no such file. */
  read(path: string): Promise<Blob | null>;
  /** What a folder contains; empty when there is no such folder. */
  list(folder: string): Promise<{ name: string; kind: 'file' | 'folder' }[]>;
  /** Removes a file, or a folder with all that is in it. Nothing there is no error. */
  remove(path: string): Promise<void>;
}
