import type { Listing } from './library/library_api.ts';

/** Where the bytes of a checkpoint are. `path` is relative to the checkpoint's own folder. */
export type CheckpointSource =
  | { kind: 'builtin'; name: string }
  | { kind: 'folder'; name: string; files: { path: string; file: File }[] }
  /** In the library of this browser, complete. */
  | { kind: 'stored'; ref: string }
  /** Not fetched: configs and headers are read by range requests, so it can be looked at and planned, not run. */
  | { kind: 'remote'; listing: Listing; token: string | null };
