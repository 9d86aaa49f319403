import type { Latents } from '../../core/model.ts';
import type { DeviceTensor, Snapshots } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';

export class DeviceLatents implements Latents {
  /** @param snapshots a copy of them may still be on its way */
  constructor(
    readonly tensor: DeviceTensor,
    readonly engine: Engine,
    readonly snapshots: Snapshots | null = null,
  ) {}

  get dims(): Latents['dims'] {
    return this.tensor.dims as unknown as Latents['dims'];
  }

  read(): Promise<Float32Array<ArrayBuffer>> {
    return this.engine.arithmetic.read(this.tensor);
  }

  dispose(): void {
    this.snapshots?.dispose();
    this.tensor.dispose();
  }
}
