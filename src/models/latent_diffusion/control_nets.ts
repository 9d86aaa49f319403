/** The ControlNets that lead a model: which are read, what they are on the device, and what they add to the UNet. */
import { CONTROL_KINDS, type ControlKind } from '../../core/controlnets.ts';
import { StudioError } from '../../core/errors.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import * as controlnet from '../../graphs/controlnet.ts';
import { kindProjection, type Union } from '../../graphs/controlnet_union.ts';
import type { GraphOptions, WeightIndex } from '../../graphs/graph.ts';
import { residualNames, type Config as UNetConfig } from '../../graphs/unet2d_condition.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readControlNet, type ControlNetFile } from '../../weights/controlnet_file.ts';
import type { ModelAddition } from '../family.ts';
import type { GraphCosts, NetworkRequest, PlannedNetwork } from './estimate.ts';
import type { ControlRequest, Side } from './networks.ts';
import { ReadAdditions, withShapes } from './read_additions.ts';

/** What a ControlNet is on the device: what it makes of the picture, of the text, and at every step. */
const NETWORKS = ['controlnet_hint', 'controlnet_context', 'controlnet'] as const;

export interface ControlledModel {
  files: CheckpointFiles;
  unet: UNetConfig;
  /** The UNet's own, without LoRAs. */
  own: WeightIndex;
  weights: WeightVariant;
}

/** ControlNets on the device, ready for one sampling. */
export interface Lead {
  /**
   * What is added to the UNet's skip connections and middle, by the names of its inputs; overwritten by the next call.
   * @param time the sinusoid of the timestep
   * @param text which of the texts
   * @param call of the network, from 0
   */
  residuals(
    sample: DeviceTensor,
    time: DeviceTensor,
    text: number,
    call: number,
  ): Promise<Record<string, DeviceTensor>>;
}

type Hold = (dims: readonly number[]) => DeviceTensor;

export class ControlNets extends ReadAdditions<ControlNetFile> {
  constructor(
    readonly engine: Engine,
    shelf: NetworkShelf,
    readonly model: ControlledModel,
  ) {
    super('controlnet', NETWORKS, shelf);
  }

  /**
   * Brings them to the device, with what they make of pictures and texts alone.
   * @param requests one for each; fewer where nothing is to be led yet
   * @param sized rows, latents and tokens of the UNet
   * @param texts the inputs of the UNet's own context, for each of the texts
   * @param sides what the equally many parts of each text's rows are for
   * @param hold gives tensors that stay until the sampling is over
   */
  async lead(
    requests: readonly ControlRequest[],
    sized: { batch: number; height: number; width: number; sequence: number },
    texts: readonly Record<string, DeviceTensor>[],
    sides: readonly (readonly Side[])[],
    hold: Hold,
  ): Promise<Lead> {
    const nets: ReadyControlNet[] = [];
    requests.forEach(({ kind }, place) => {
      this.#requireKind(place, kind);
    });
    for (const [place, { weights, guess = false }] of requests.entries()) {
      nets.push({ ...(await this.#ready(place, sized, texts, requests[place], hold)), weights, guess });
    }
    return new Residuals(this.engine, shapesOf(this.model.unet, sized), nets, sides, hold);
  }

  /** @throws StudioError `invalid_operation` */
  #requireKind(place: number, kind: ControlKind | undefined): void {
    const { config, given } = this.list[place];
    const { kinds = 0 } = config.union ?? {};
    const known = CONTROL_KINDS.slice(0, kinds).join(', ');
    if (kinds > 0 && (kind === undefined || CONTROL_KINDS.indexOf(kind) >= kinds)) {
      throw new StudioError(
        'invalid_operation',
        `The ControlNet ${given.name} is for several kinds of pictures; say in "kind" what its picture shows: ${known}.`,
      );
    }
    if (kinds === 0 && kind !== undefined) {
      throw new StudioError(
        'invalid_operation',
        `The ControlNet ${given.name} is for one kind of pictures, so "kind" changes nothing; leave it out.`,
      );
    }
  }

  async #ready(
    place: number,
    sized: { batch: number; height: number; width: number; sequence: number },
    texts: readonly Record<string, DeviceTensor>[],
    { picture, kind }: ControlRequest,
    hold: Hold,
  ): Promise<Omit<ReadyControlNet, 'weights' | 'guess'>> {
    const { engine, shelf } = this;
    const { config, weights } = this.list[place];
    const told = config.union && this.#told(config, config.union, CONTROL_KINDS.indexOf(kind ?? 'pose'), hold);
    const { batch, height, width, sequence } = sized;
    const quantised = { weights: this.model.weights };
    const seeing = await shelf.get(`controlnet_hint.${place}`, { height, width }, (options) =>
      controlnet.buildHint(config, weights, { ...options, batch: 1, height, width }),
    );
    const hint = hold([1, config.block_out_channels[0], height, width]);
    await engine.run(seeing, { controlnet_cond: picture }, { hint });
    const reading = await shelf.get(`controlnet_context.${place}`, { batch, sequence }, (options) =>
      controlnet.buildContext(config, weights, { ...options, ...quantised, batch, sequence, height: 0, width: 0 }),
    );
    const contexts: Record<string, DeviceTensor>[] = [];
    for (const text of texts) {
      // All dimensions of our own graphs are static.
      const context = Object.fromEntries(reading.outputs.map(({ name, dims }) => [name, hold(dims as number[])]));
      await engine.run(reading, { ...text, ...told?.text }, context);
      contexts.push(context);
    }
    const network = await shelf.get(`controlnet.${place}`, sized, (options) =>
      controlnet.build(config, weights, { ...options, ...quantised, ...sized }),
    );
    return { network, fixed: { hint, ...told?.picture }, contexts };
  }

  /** What a union is told of the kind of its picture, beside the text and beside the picture. */
  #told(config: controlnet.Config, union: Union, kind: number, hold: Hold) {
    const write = (values: Float32Array<ArrayBuffer>) => {
      const tensor = hold([1, values.length]);
      this.engine.arithmetic.write(tensor, values);
      return tensor;
    };
    const which = Float32Array.from({ length: union.kinds }, (_, other) => (other === kind ? 1 : 0));
    return {
      text: { control_time: write(kindProjection(config, union, kind)) },
      picture: { control_kind: write(which) },
    };
  }

  protected async read(given: ModelAddition, file: string): Promise<ControlNetFile> {
    const { files, unet, own } = this.model;
    const read = await readControlNet(given.file, file, given.name, { config: unet, weights: own, of: files.name });
    // Builds without weights, and says which of them is missing or of another size.
    controlnet.build(read.config, read.weights, { provider: 'wasm', dtype: 'f32', batch: 1, height: 8, width: 8 });
    return read;
  }
}

interface ReadyControlNet {
  network: Network;
  /** What it sees at every step. */
  fixed: Record<string, DeviceTensor>;
  /** By text. */
  contexts: Record<string, DeviceTensor>[];
  /** By call. */
  weights: readonly number[];
  guess: boolean;
}

class Residuals implements Lead {
  readonly #names: string[];
  /** Made when they are first needed: what one ControlNet gave, and sums that take turns. */
  readonly #buffers: Partial<Record<'given' | 'sum' | 'next' | 'nothing', Record<string, DeviceTensor>>> = {};

  constructor(
    readonly engine: Engine,
    readonly shapes: readonly (readonly number[])[],
    readonly nets: readonly ReadyControlNet[],
    readonly sides: readonly (readonly Side[])[],
    readonly hold: Hold,
  ) {
    this.#names = residualNames(shapes.length - 1);
  }

  async residuals(
    sample: DeviceTensor,
    time: DeviceTensor,
    text: number,
    call: number,
  ): Promise<Record<string, DeviceTensor>> {
    const { arithmetic } = this.engine;
    let sum: Record<string, DeviceTensor> | null = null;
    const sides = this.sides.at(text) ?? [];
    for (const { network, fixed, contexts, weights, guess } of this.nets) {
      const weight = weights[call];
      if (weight === 0 || (guess && sides.length > 0 && !sides.includes('positive'))) {
        continue;
      }
      const given = this.#buffer('given');
      await this.engine.run(network, { sample, time_proj: time, ...fixed, ...contexts[text] }, given);
      const into: Record<string, DeviceTensor> = this.#buffer(sum === this.#buffers.sum ? 'next' : 'sum');
      if (guess) {
        this.#takeAway(given, sides);
      }
      for (const [i, name] of this.#names.entries()) {
        // From a tenth at the first skip connection to all of it in the middle.
        const factor = guess ? 10 ** (i / (this.#names.length - 1) - 1) : 1;
        arithmetic.combine(into[name], factor * weight, given[name], sum ? 1 : 0, sum?.[name] ?? null);
      }
      sum = into;
    }
    return sum ?? this.#nothing();
  }

  /** Nothing is added to rows for what guidance goes away from. */
  #takeAway(given: Record<string, DeviceTensor>, sides: readonly Side[]): void {
    const nothing = this.#nothing();
    for (const [i, name] of this.#names.entries()) {
      const part = this.shapes[i].reduce((product, dim) => product * dim, 1) / sides.length;
      for (const [place, side] of sides.entries()) {
        if (side === 'negative') {
          this.engine.arithmetic.copy(nothing[name], 0, given[name], place * part, part);
        }
      }
    }
  }

  #buffer(which: 'given' | 'sum' | 'next' | 'nothing'): Record<string, DeviceTensor> {
    this.#buffers[which] ??= Object.fromEntries(this.#names.map((name, i) => [name, this.hold(this.shapes[i])]));
    return this.#buffers[which];
  }

  #nothing(): Record<string, DeviceTensor> {
    if (!this.#buffers.nothing) {
      for (const [i, name] of this.#names.entries()) {
        const count = this.shapes[i].reduce((product, dim) => product * dim, 1);
        this.engine.arithmetic.write(this.#buffer('nothing')[name], new Float32Array(count));
      }
    }
    return this.#buffer('nothing');
  }
}

/** Of the UNet's skip connections and of its middle, in the order of {@link residualNames}. */
function shapesOf(
  unet: UNetConfig,
  { batch, height, width }: { batch: number; height: number; width: number },
): number[][] {
  const { block_out_channels: widths, layers_per_block: layers } = unet;
  let size = [height, width];
  const shapes = [[batch, widths[0], ...size]];
  widths.forEach((channels, block) => {
    const count = Array.isArray(layers) ? layers[block] : layers;
    shapes.push(...Array.from({ length: count }, () => [batch, channels, ...size]));
    if (block < widths.length - 1) {
      size = size.map(
        (side) =>
          Math.floor((side + unet.downsample_padding * 2 + (unet.downsample_padding === 0 ? 1 : 0) - 3) / 2) + 1,
      );
      shapes.push([batch, channels, ...size]);
    }
  });
  return [...shapes, shapes[shapes.length - 1]];
}

/**
 * What ControlNets for this UNet would ask of the device, before any is read: their layers are the UNet's own, and of those that are theirs the
 * sizes follow.
 */
export function plannedControlNets(
  costs: GraphCosts,
  unet: UNetConfig,
  weights: WeightIndex,
  options: Omit<GraphOptions, 'dtype' | 'weights'>,
  { controlnets: count, calls, steps }: NetworkRequest,
): PlannedNetwork[] {
  const config = { ...controlnet.parseConfig({ ...unet, time_cond_proj_dim: null }), in_channels: unet.out_channels };
  const index = withOwnLayers(config, weights);
  return Array.from({ length: count }, (_, place) => [
    costs.network(
      { name: `controlnet_context.${place}`, phase: 'sample', runs: calls, runsPerStep: 0, precision: null },
      { ...options, height: 0, width: 0 },
      (own) => controlnet.buildContext(config, index, own),
    ),
    costs.network(
      { name: `controlnet.${place}`, phase: 'sample', runs: calls * steps, runsPerStep: calls, precision: null },
      options,
      (own) => controlnet.build(config, index, own),
    ),
  ]).flat();
}

/** The UNet's tensors, with those that only a ControlNet has beside them. */
function withOwnLayers(config: controlnet.Config, weights: WeightIndex): WeightIndex {
  const widths = shapesOf(config, { batch: 1, height: 8, width: 8 }).map(([, channels]) => channels);
  const first = config.block_out_channels[0];
  const own = new Map<string, number[]>([
    ['conv_in.weight', [first, config.in_channels, 3, 3]],
    ['conv_in.bias', [first]],
    ...widths.slice(0, -1).flatMap((width, i): [string, number[]][] => [
      [`controlnet_down_blocks.${i}.weight`, [width, width, 1, 1]],
      [`controlnet_down_blocks.${i}.bias`, [width]],
    ]),
    ['controlnet_mid_block.weight', [widths.at(-1) ?? 0, widths.at(-1) ?? 0, 1, 1]],
    ['controlnet_mid_block.bias', [widths.at(-1) ?? 0]],
  ]);
  return withShapes(own, weights);
}
