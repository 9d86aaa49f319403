/**
 * The few file operations the recorder needs: OPFS in the browser, memory if there is none, and in tests a store that fails, crashes or
 * tears at a chosen operation. Paths use forward slashes, with none at the start.
 */
export interface FileStore {
  /** False if everything disappears with the worker. */
  readonly persistent: boolean;
  /** Creates or replaces a file and its parent folders; flushed once it resolves. May leave a torn file if it fails.
   */
  write(path: string, content: Blob | Uint8Array<ArrayBuffer>): Promise<void>;
  /** Renames atomically within one folder, replacing any existing file. */
  move(folder: string, from: string, to: string): Promise<void>;
  /** The content; null if there is no such file. */
  read(path: string): Promise<Blob | null>;
  /** A folder's entries; empty if there is no such folder. */
  list(folder: string): Promise<{ name: string; kind: 'file' | 'folder' }[]>;
  /** Removes a file, or a folder with its contents. Nothing to remove is no error. */
  remove(path: string): Promise<void>;
  /**
   * Opens a file for writing in place, creating it if missing. Nobody else can open it until it is closed.
   * @throws StudioError `storage_unavailable` if somebody else has it open
   */
  append(path: string): Promise<AppendFile>;
}

/** An append-only file. */
export interface AppendFile {
  read(): Promise<Uint8Array>;
  /** Writes at this offset, which is the end; may leave a part if it fails. Not on disk before {@link flush}. */
  write(bytes: Uint8Array<ArrayBuffer>, at: number): Promise<void>;
  truncate(length: number): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}
