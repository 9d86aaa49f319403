import type { BlockMode } from '../core/job.ts';

/** Settings in the page's own URL: `?backend=webgpu|wasm`, `?precision=f32|f16`, `?threads=4`, `?door=cli` and, for tests, `?blocks=streamed`. */
export interface Address {
  backend: 'auto' | 'webgpu' | 'wasm';
  /** What the networks that may choose compute in on a GPU. */
  precision: 'auto' | 'f32' | 'f16';
  /** Not validated here: the engine knows what exists. */
  threads: string | null;
  /** How networks run that can be cut into blocks, see `Engine.blocks`. */
  blocks: BlockMode;
  door: 'page' | 'cli';
  /** A sentence about a value that was not understood, or null. */
  note: string | null;
}

const BLOCKS = ['auto', 'resident', 'streamed', 'off'] as const;

export function readAddress(search: string): Address {
  const query = new URLSearchParams(search);
  const backend = query.get('backend') ?? 'auto';
  const precision = query.get('precision') ?? 'auto';
  const isBackend = backend === 'auto' || backend === 'webgpu' || backend === 'wasm';
  const isPrecision = precision === 'auto' || precision === 'f32' || precision === 'f16';
  return {
    backend: isBackend ? backend : 'auto',
    precision: isPrecision ? precision : 'auto',
    threads: query.get('threads'),
    blocks: BLOCKS.find((mode) => mode === query.get('blocks')) ?? 'auto',
    door: query.get('door') === 'cli' ? 'cli' : 'page',
    note: !isBackend
      ? `The address asks for the backend "${backend}", which does not exist; it can be webgpu or wasm, and Darkroom chose by itself.`
      : isPrecision
        ? null
        : `The address asks for the precision "${precision}", which does not exist; it can be f32 or f16, and Darkroom chose by itself.`,
  };
}
