/** What the layers of a causal autoencoder have seen of the pieces of a video before: on the device, two frames of each layer. */
import type { Arithmetic, DeviceTensor } from '../../engine/arithmetic.ts';
import type { Network } from '../../engine/runtime.ts';
import { KEPT, SEEN } from '../../graphs/frame_layers.ts';

export class SeenFrames {
  /** By layer, the latest first. */
  readonly #seen = new Map<string, DeviceTensor[]>();
  readonly #kept = new Map<string, DeviceTensor[]>();

  constructor(readonly arithmetic: Arithmetic) {}

  /** What a network wants to be shown; zeros where a layer has seen nothing yet. */
  inputs({ inputs }: Network): Record<string, DeviceTensor> {
    const shown: Record<string, DeviceTensor> = {};
    for (const { layer, place, name, dims } of portsLike(inputs, SEEN)) {
      const frames = this.#framesOf(this.#seen, layer);
      for (let n = frames.length; n <= place; n++) {
        frames.push(this.arithmetic.upload(new Float32Array(dims.reduce((all, dim) => all * dim, 1)), dims));
      }
      shown[name] = frames[place];
    }
    return shown;
  }

  /** Where a network puts what the next piece will want. */
  outputs({ outputs }: Network): Record<string, DeviceTensor> {
    const made: Record<string, DeviceTensor> = {};
    for (const { layer, place, name, dims } of portsLike(outputs, KEPT)) {
      made[name] = this.#framesOf(this.#kept, layer)[place] = this.arithmetic.empty(dims);
    }
    return made;
  }

  /** The piece is done: what it kept comes before what was seen. */
  advance(): void {
    for (const [layer, kept] of this.#kept) {
      const all = [...kept, ...this.#framesOf(this.#seen, layer)];
      all.splice(2).forEach((frame) => {
        frame.dispose();
      });
      this.#seen.set(layer, all);
    }
    this.#kept.clear();
  }

  dispose(): void {
    for (const frames of [...this.#seen.values(), ...this.#kept.values()]) {
      frames.forEach((frame) => {
        frame.dispose();
      });
    }
    this.#seen.clear();
    this.#kept.clear();
  }

  #framesOf(frames: Map<string, DeviceTensor[]>, layer: string): DeviceTensor[] {
    const own = frames.get(layer) ?? [];
    frames.set(layer, own);
    return own;
  }
}

function portsLike(ports: Network['inputs'], pattern: RegExp) {
  return ports.flatMap(({ name, dims }) => {
    const [, layer, age] = pattern.exec(name) ?? [];
    return age === undefined ? [] : [{ layer, place: Number(age) - 1, name, dims: dims.map(Number) }];
  });
}
