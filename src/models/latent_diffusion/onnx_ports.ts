/**
 * Inputs and outputs of ready-made networks, on whose rank, names, batch and type no two exports agree: the meaning of their dimensions,
 * and copying rows of float32 tensors in and out.
 */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { TensorPort } from '../../engine/runtime.ts';
import type { DeclaredPort } from '../../weights/onnx_file.ts';

/** TensorProto.DataType. */
const FLOAT16 = 10;

/** The meaning of the dimensions of an input of this rank. */
const PLACES = {
  2: ['batch', 'sequence'],
  3: ['batch', 'sequence', null],
  4: ['batch', 'channels', 'height', 'width'],
} as const;

type Place = 'batch' | 'sequence' | 'channels' | 'height' | 'width';
export type Places = Partial<Record<Place, number>>;

/** One input of a network, fed with rows of a float32 tensor. */
export class Feeder {
  #rows: DeviceTensor | undefined;
  #halves: DeviceTensor | undefined;

  constructor(
    readonly engine: Engine,
    readonly port: TensorPort,
    readonly dims: number[],
  ) {}

  /**
   * As many rows of `source` as fit, starting at row `start`; the rest of the batch is unchanged.
   * @returns the source itself if it is exactly what the network takes, else a tensor owned by the feeder
   */
  put(source: DeviceTensor, start: number): DeviceTensor {
    const { arithmetic } = this.engine;
    const halved = this.port.type === 'float16';
    let rows = source;
    if (source.dims[0] !== this.dims[0]) {
      const row = this.dims.slice(1).reduce((product, dim) => product * dim, 1);
      const count = Math.min(this.dims[0], source.dims[0] - start);
      rows = this.#rows ??= arithmetic.empty(this.dims);
      arithmetic.copy(source, start * row, rows, 0, count * row);
    }
    if (!halved) {
      return rows;
    }
    this.#halves ??= arithmetic.empty(this.dims, 'float16');
    arithmetic.convert(this.#halves, rows);
    return this.#halves;
  }

  dispose(): void {
    this.#rows?.dispose();
    this.#halves?.dispose();
  }
}

/** One output of a network, as rows of a float32 tensor. */
export class Taker {
  /** The tensor the network writes into. */
  readonly target: DeviceTensor;
  readonly #rows: DeviceTensor;

  constructor(
    readonly engine: Engine,
    port: TensorPort,
    readonly dims: number[],
  ) {
    this.#rows = engine.arithmetic.empty(dims);
    this.target = port.type === 'float16' ? engine.arithmetic.empty(dims, 'float16') : this.#rows;
  }

  /** Whether the network can write into `to` itself. */
  isWhole(to: DeviceTensor): boolean {
    return this.target === this.#rows && to.dims[0] === this.dims[0];
  }

  /** Copies the first `count` rows to `to`, from its row `start` on. */
  give(to: DeviceTensor, start: number, count: number): void {
    const { arithmetic } = this.engine;
    if (this.target !== this.#rows) {
      arithmetic.convert(this.#rows, this.target);
    }
    const row = this.dims.slice(1).reduce((product, dim) => product * dim, 1);
    arithmetic.copy(this.#rows, 0, to, start * row, count * row);
  }

  dispose(): void {
    this.#rows.dispose();
    if (this.target !== this.#rows) {
      this.target.dispose();
    }
  }
}

/** The values of dynamic dimensions, by the meaning of their position; `asked` takes precedence. */
export function fixDimensions(
  inputs: DeclaredPort[],
  places: Places,
  asked: Record<string, number | null>,
): Record<string, number> {
  const values = new Map<string, number | null>();
  for (const { dims } of inputs) {
    const meanings = PLACES[(dims?.length ?? 0) as keyof typeof PLACES] ?? [];
    meanings.forEach((place, index) => {
      const name = dims?.[index];
      const value = place && places[place];
      if (typeof name === 'string' && name !== '' && value) {
        // A name used for two different sizes cannot be fixed.
        values.set(name, (values.get(name) ?? value) === value ? value : null);
      }
    });
  }
  for (const [name, value] of Object.entries(asked)) {
    values.set(name, value);
  }
  const fixed = [...values].filter((entry): entry is [string, number] => entry[1] !== null);
  return Object.fromEntries(fixed.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** A port's dimensions, with the dynamic ones taken from `wanted`. */
export function fixed(dims: TensorPort['dims'], wanted: readonly number[]): number[] {
  return dims.map((dim, i) => numeric(dim) ?? wanted[i] ?? 1);
}

export function numeric(dim: number | string | undefined): number | null {
  return typeof dim === 'number' && dim > 0 ? dim : null;
}

export function isGuidance({ name, dims }: { name: string; dims: readonly unknown[] | null }): boolean {
  return name === 'timestep_cond' || (dims?.length === 2 && name.includes('cond'));
}

export function isHalf({ type }: DeclaredPort): boolean {
  return type === FLOAT16;
}
