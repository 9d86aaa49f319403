/** The package's entry for Node: the same Darkroom, on ONNX Runtime for Node, or on WebGPU in a headless Chromium. */
import { StudioError } from '../core/errors.ts';
import type { Darkroom, DarkroomOptions } from './contract.ts';
import { lazyDarkroom } from './lazy_darkroom.ts';

export type * from './contract.ts';

export function createDarkroom(options: DarkroomOptions = {}): Darkroom {
  return lazyDarkroom(async () => {
    if (options.recordings === 'opfs') {
      throw new StudioError(
        'invalid_operation',
        'In Node there is no private file system to keep runs in; leave "recordings" out, and write the files of each result where you want them.',
      );
    }
    if (options.backend === 'webgpu') {
      const { openInChromium } = await import('./chromium_instance.ts');
      return openInChromium(options);
    }
    const { openInNode } = await import('./node_instance.ts');
    return openInNode(options);
  });
}
