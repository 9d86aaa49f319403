/** The package's entry for Node: the same Darkroom, on ONNX Runtime for Node. */
import type { Darkroom, DarkroomOptions } from './contract.ts';
import { lazyDarkroom } from './lazy_darkroom.ts';

export type * from './contract.ts';

export function createDarkroom(options: DarkroomOptions = {}): Darkroom {
  return lazyDarkroom(async () => {
    const { openInNode } = await import('./node_instance.ts');
    return openInNode(options);
  });
}
