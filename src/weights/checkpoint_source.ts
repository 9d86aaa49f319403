import type { Listing } from './library/library_api.ts';

/** Where the bytes of a checkpoint are. `path` is relative to the checkpoint's own folder. */
export type CheckpointSource =
  /** @property base the folder that holds its folder, an address that ends in a slash; by default beside the page */
  | { kind: 'builtin'; name: string; base?: string }
  /** A folder on a server, listed by its `manifest.json`; `base` is its address, which ends in a slash. */
  | { kind: 'served'; name: string; base: string }
  | { kind: 'folder'; name: string; files: { path: string; file: File }[] }
  /** In the library of this browser, complete. */
  | { kind: 'stored'; ref: string }
  /** Not fetched: configs and headers are read by range requests, so it can be inspected and planned, but not run. */
  | { kind: 'remote'; listing: Listing; token: string | null };
