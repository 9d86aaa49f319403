/** What the page's own address asks for: `?backend=webgpu|wasm`, `?threads=4` and `?door=cli`. */
export interface Address {
  backend: 'auto' | 'webgpu' | 'wasm';
  /** Unchecked: the engine knows what there is. */
  threads: string | null;
  door: 'page' | 'cli';
  /** One sentence about a value that was not understood, or null. */
  note: string | null;
}

export function readAddress(search: string): Address {
  const query = new URLSearchParams(search);
  const backend = query.get('backend');
  const known = backend === null || backend === 'auto' || backend === 'webgpu' || backend === 'wasm';
  return {
    backend: known ? (backend ?? 'auto') : 'auto',
    threads: query.get('threads'),
    door: query.get('door') === 'cli' ? 'cli' : 'page',
    note: known
      ? null
      : `The address asks for the backend "${backend}", which does not exist; it can be webgpu or wasm, and Darkroom chose by itself.`,
  };
}
