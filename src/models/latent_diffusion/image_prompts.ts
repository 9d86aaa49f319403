/** Pictures as prompts: IP-Adapters and the vision encoders that see for them, on the device. */
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import { imageInput } from '../../graphs/attention.ts';
import * as clipVision from '../../graphs/clip_vision.ts';
import type { Provider } from '../../graphs/graph.ts';
import * as ipAdapter from '../../graphs/ip_adapter.ts';
import { crossAttentions, type Config as UNetConfig } from '../../graphs/unet2d_condition.ts';
import { readClipVision, type ClipVisionFile } from '../../weights/clip_vision_file.ts';
import { readIpAdapter, type IpAdapterFile } from '../../weights/ip_adapter_file.ts';
import type { ModelAddition } from '../family.ts';
import { seeByClip } from './clip_sight.ts';
import type { ControlledModel } from './control_nets.ts';
import type { GraphCosts, NetworkRequest, PlannedNetwork } from './estimate.ts';
import type { ImagePromptRequest, SeenPictures, Side } from './networks.ts';
import { ReadAdditions, withShapes, type ReadAddition } from './read_additions.ts';

type Hold = (dims: readonly number[]) => DeviceTensor;

class Adapters extends ReadAdditions<IpAdapterFile> {
  constructor(
    shelf: NetworkShelf,
    readonly model: Omit<ControlledModel, 'own'>,
  ) {
    super('ip_adapter', ['ip_adapter'], shelf);
  }

  get all(): readonly (IpAdapterFile & ReadAddition)[] {
    return this.list;
  }

  protected async read(given: ModelAddition, file: string): Promise<IpAdapterFile> {
    const { files, unet } = this.model;
    const read = await readIpAdapter(given.file, file, given.name, { config: unet, of: files.name });
    // Builds without weights, and says which of them is missing or of another size.
    ipAdapter.build(read.config, read.weights, NOWHERE, 1);
    return read;
  }
}

const NOWHERE = { provider: 'wasm', dtype: 'f32', batch: 1, height: 0, width: 0 } as const;

class Encoders extends ReadAdditions<ClipVisionFile> {
  constructor(shelf: NetworkShelf) {
    super('image_encoder', ['image_encoder'], shelf);
  }

  get all(): readonly (ClipVisionFile & ReadAddition)[] {
    return this.list;
  }

  protected async read(given: ModelAddition, file: string): Promise<ClipVisionFile> {
    const read = await readClipVision(given.file, file, given.name);
    clipVision.build(read.config, read.weights, NOWHERE, 'image_embeds');
    return read;
  }
}

export class ImagePrompts {
  readonly #adapters: Adapters;
  readonly #encoders: Encoders;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly model: Omit<ControlledModel, 'own'>,
  ) {
    this.#adapters = new Adapters(shelf, model);
    this.#encoders = new Encoders(shelf);
  }

  /** The file that graphs refer to by this name; null when it is none of these. */
  file(name: string): Blob | null {
    return this.#adapters.file(name) ?? this.#encoders.file(name);
  }

  /**
   * Reads these, and changes nothing yet.
   * @param encoders that may see for them; the first that fits does
   * @returns what takes them from then on
   * @throws StudioError `checkpoint_unsupported` for one of another kind of model, `invalid_operation` where no encoder fits
   */
  async prepare(adapters: readonly ModelAddition[], encoders: readonly ModelAddition[]): Promise<() => Promise<void>> {
    const takeAdapters = await this.#adapters.prepare(adapters);
    const read = await Promise.all(adapters.map((given) => this.#configOf(given)));
    const used: ModelAddition[] = [];
    for (const [place, config] of read.entries()) {
      const fitting = await this.#fitting(config, encoders, adapters[place].name);
      if (!used.includes(fitting)) {
        used.push(fitting);
      }
    }
    const takeEncoders = await this.#encoders.prepare(used);
    return async () => {
      await takeAdapters();
      await takeEncoders();
    };
  }

  /** @throws StudioError as {@link prepare}, but for encoders, which are not looked at */
  check(adapter: ModelAddition): Promise<void> {
    return this.#adapters.check(adapter);
  }

  /** What is recorded of them. */
  async facts(): Promise<Record<string, unknown>[]> {
    const [adapters, encoders] = await Promise.all([this.#adapters.facts(), this.#encoders.facts()]);
    return adapters.map((facts, place) => ({
      ...facts,
      image_encoder: encoders[this.#encoderOf(this.#adapters.all[place].config)],
    }));
  }

  /** Tokens of each prompt. @param pictures how many each adapter sees */
  tokens(pictures: readonly number[]): number[] {
    return pictures.map((count, place) => {
      const { config } = this.#adapters.all[place];
      return count * ipAdapter.tokensOf(config, this.#partsFor(config));
    });
  }

  /**
   * What the encoders see.
   * @param pictures for each adapter
   * @param guided whether there is something to be guided away from, which is seen too
   */
  async see(pictures: readonly (readonly PixelImage[])[], guided: boolean, hold: Hold): Promise<SeenPictures[]> {
    const seen: SeenPictures[] = [];
    for (const [place, own] of pictures.entries()) {
      const { config } = this.#adapters.all[place];
      const output = ipAdapter.givenOutput(config);
      const encoder = await this.#encoder(this.#encoderOf(config), output);
      const [, ...dims] = clipVision.outputDims(encoder.config, output);
      const positive = hold([own.length, ...dims]);
      await seeByClip(this.engine, encoder, own, output, positive);
      let negative: DeviceTensor | null = null;
      if (guided) {
        negative = hold([own.length, ...dims]);
        if (output === 'image_embeds') {
          const count = negative.dims.reduce((product, dim) => product * dim, 1);
          this.engine.arithmetic.write(negative, new Float32Array(count));
        } else {
          await seeByClip(
            this.engine,
            encoder,
            own.map(() => null),
            output,
            negative,
          );
        }
      }
      seen.push({ positive, negative });
    }
    return seen;
  }

  /**
   * Keys and values of what was seen, as inputs of the UNet for each of its texts.
   * @param sides what the rows of each text are for
   * @param rows of a call
   * @param hold gives tensors that stay until the sampling is over
   */
  async inputs(
    requests: readonly ImagePromptRequest[],
    sides: readonly (readonly Side[])[],
    rows: number,
    hold: Hold,
  ): Promise<Record<string, DeviceTensor>[]> {
    const inputs = sides.map((): Record<string, DeviceTensor> => ({}));
    for (const [place, { seen, weight }] of requests.entries()) {
      const projected = await this.#project(place, seen, weight);
      try {
        // Most texts have the same sides, and what is made of these is made once.
        const made = new Map<string, Record<string, DeviceTensor>>();
        for (const [k, own] of sides.entries()) {
          const name = own.join();
          const known = made.get(name) ?? this.#rows(place, projected, own, rows, hold);
          made.set(name, known);
          Object.assign(inputs[k], known);
        }
      } finally {
        projected.dispose();
      }
    }
    return inputs;
  }

  #encoderOf(config: ipAdapter.Config): number {
    return this.#encoders.all.findIndex((encoder) => sees(encoder.config, config));
  }

  #partsFor(config: ipAdapter.Config): number {
    return clipVision.partsOf(this.#encoders.all[this.#encoderOf(config)].config);
  }

  async #configOf(given: ModelAddition): Promise<ipAdapter.Config> {
    const { files, unet } = this.model;
    return (await readIpAdapter(given.file, given.name, given.name, { config: unet, of: files.name })).config;
  }

  async #fitting(config: ipAdapter.Config, encoders: readonly ModelAddition[], name: string): Promise<ModelAddition> {
    for (const encoder of encoders) {
      if (sees((await readClipVision(encoder.file, encoder.name, encoder.name)).config, config)) {
        return encoder;
      }
    }
    throw new StudioError('invalid_operation', lackOfEncoder(name, config, encoders));
  }

  async #encoder(
    place: number,
    output: clipVision.VisionOutput,
  ): Promise<{ network: Network; config: clipVision.Config }> {
    const { config, weights } = this.#encoders.all[place];
    const parts = output === 'image_embeds' ? 0 : 1;
    const network = await this.shelf.get(`image_encoder.${place}`, { parts }, (options) =>
      clipVision.build(
        config,
        weights,
        { ...options, weights: this.model.weights, batch: 1, height: 0, width: 0 },
        output,
      ),
    );
    return { network, config };
  }

  /** Keys and values by the names of the adapter's graph, the values times the weight. */
  async #project(place: number, seen: SeenPictures, weight: number): Promise<Projected> {
    const { arithmetic } = this.engine;
    const { config, weights } = this.#adapters.all[place];
    const pictures = seen.positive.dims[0];
    const parts = this.#partsFor(config);
    const network = await this.shelf.get(`ip_adapter.${place}`, { pictures, parts }, (options) =>
      ipAdapter.build(
        config,
        weights,
        { ...options, weights: this.model.weights, batch: pictures, height: 0, width: 0 },
        parts,
      ),
    );
    const held: DeviceTensor[] = [];
    const empty = (dims: readonly number[]) => {
      const tensor = arithmetic.empty(dims);
      held.push(tensor);
      return tensor;
    };
    const of = async (embeds: DeviceTensor): Promise<Record<string, DeviceTensor>> => {
      // All dimensions of our own graphs are static.
      const given = Object.fromEntries(network.outputs.map(({ name, dims }) => [name, empty(dims as number[])]));
      await this.engine.run(network, { image_embeds: embeds }, given);
      return Object.fromEntries(
        Object.entries(given).map(([name, tensor]) => {
          if (!name.endsWith('/v')) {
            return [name, tensor];
          }
          const scaled = empty(tensor.dims);
          arithmetic.combine(scaled, weight, tensor, 0, null);
          return [name, scaled];
        }),
      );
    };
    return {
      positive: await of(seen.positive),
      negative: seen.negative && (await of(seen.negative)),
      dispose: () => {
        held.forEach((tensor) => {
          tensor.dispose();
        });
      },
    };
  }

  #rows(
    place: number,
    { positive, negative }: Projected,
    sides: readonly Side[],
    rows: number,
    hold: Hold,
  ): Record<string, DeviceTensor> {
    const { arithmetic } = this.engine;
    const inputs: Record<string, DeviceTensor> = {};
    for (const { path } of this.#adapters.all[place].config.attentions) {
      for (const part of ['k', 'v'] as const) {
        const [, tokens, width] = positive[`${path}/${part}`].dims;
        const all = hold([rows, tokens, width]);
        for (let row = 0; row < rows; row++) {
          const side = sides[Math.floor((row * sides.length) / rows)];
          const from = (side === 'negative' && negative) || positive;
          arithmetic.copy(from[`${path}/${part}`], 0, all, row * tokens * width, tokens * width);
        }
        inputs[imageInput(path, place, part)] = all;
      }
    }
    return inputs;
  }
}

interface Projected {
  positive: Record<string, DeviceTensor>;
  negative: Record<string, DeviceTensor> | null;
  dispose(): void;
}

function lackOfEncoder(
  name: string,
  { projection, given }: ipAdapter.Config,
  encoders: readonly { name: string }[],
): string {
  const here = encoders.map((one) => one.name).join(', ');
  if (here === '') {
    return `The IP-Adapter "${name}" needs a CLIP vision encoder, and none is stored here; add image_encoder/model.safetensors, which lies beside the IP-Adapter.`;
  }
  return projection.kind === 'base'
    ? `The IP-Adapter "${name}" needs a CLIP vision encoder that gives ${given} numbers for a picture, and "${here}" gives others; add the one that lies beside the IP-Adapter.`
    : `The IP-Adapter "${name}" needs a CLIP vision encoder that gives ${given} numbers for each part of a picture, and "${here}" gives others; add the one that lies beside the IP-Adapter.`;
}

/** Whether an encoder gives what an adapter was trained with. */
function sees(encoder: clipVision.Config, { projection, given }: ipAdapter.Config): boolean {
  return (projection.kind === 'base' ? encoder.projection_dim : encoder.hidden_size) === given;
}

/** ViT-H/14, by which all published adapters of Stable Diffusion 1 see and most of XL. */
const USUAL_ENCODER: clipVision.Config = {
  hidden_size: 1280,
  intermediate_size: 5120,
  projection_dim: 1024,
  num_hidden_layers: 32,
  num_attention_heads: 16,
  num_channels: 3,
  image_size: 224,
  patch_size: 14,
  hidden_act: 'gelu',
  layer_norm_eps: 1e-5,
};

/** What image prompts for this UNet would ask of the device, before any IP-Adapter is read: the usual encoder, and adapters of the plain kind. */
export function plannedImagePrompts(
  costs: GraphCosts,
  unet: UNetConfig,
  provider: Provider,
  { imagePrompts }: NetworkRequest,
): PlannedNetwork[] {
  if (imagePrompts.length === 0) {
    return [];
  }
  const pictures = imagePrompts.reduce((sum, count) => sum + count, 0);
  const once = { runsPerStep: 0, precision: null };
  const nowhere = { provider, height: 0, width: 0 };
  const encoder = withShapes(visionShapes(USUAL_ENCODER));
  const { cross_attention_dim: dim } = unet;
  const config: ipAdapter.Config = {
    projection: { kind: 'base' },
    given: USUAL_ENCODER.projection_dim,
    width: Array.isArray(dim) ? dim[0] : dim,
    attentions: crossAttentions(unet),
  };
  const adapter = withShapes(adapterShapes(config));
  return [
    costs.network(
      { name: 'image_encoder.0', phase: 'read', runs: pictures, ...once },
      { ...nowhere, batch: 1 },
      (options) => clipVision.build(USUAL_ENCODER, encoder, options, 'image_embeds'),
    ),
    ...imagePrompts.map((batch, place) =>
      costs.network(
        { name: `ip_adapter.${place}`, phase: 'sample', runs: 2, ...once },
        { ...nowhere, batch },
        (options) => ipAdapter.build(config, adapter, options, 1),
      ),
    ),
  ];
}

function visionShapes(config: clipVision.Config): Map<string, number[]> {
  const { hidden_size: width, intermediate_size: inner, patch_size: patch } = config;
  const [root, embeddings] = ['vision_model', 'vision_model.embeddings'];
  const layer = (path: string, shape: number[]): [string, number[]][] => [
    [`${path}.weight`, shape],
    [`${path}.bias`, [shape[0]]],
  ];
  const layers = Array.from({ length: config.num_hidden_layers }, (_, index) => {
    const path = `${root}.encoder.layers.${index}`;
    return [
      ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((name) =>
        layer(`${path}.self_attn.${name}`, [width, width]),
      ),
      ...layer(`${path}.layer_norm1`, [width]),
      ...layer(`${path}.layer_norm2`, [width]),
      ...layer(`${path}.mlp.fc1`, [inner, width]),
      ...layer(`${path}.mlp.fc2`, [width, inner]),
    ];
  }).flat();
  return new Map([
    [`${embeddings}.class_embedding`, [width]],
    [`${embeddings}.patch_embedding.weight`, [width, config.num_channels, patch, patch]],
    [`${embeddings}.position_embedding.weight`, [clipVision.partsOf(config), width]],
    ...layer(`${root}.pre_layrnorm`, [width]),
    ...layers,
    ...layer(`${root}.post_layernorm`, [width]),
    ['visual_projection.weight', [config.projection_dim, width]],
  ]);
}

function adapterShapes({ given, width, attentions }: ipAdapter.Config): Map<string, number[]> {
  const whole = ipAdapter.WHOLE_TOKENS * width;
  return new Map([
    ['image_proj.proj.weight', [whole, given]],
    ['image_proj.proj.bias', [whole]],
    ['image_proj.norm.weight', [width]],
    ['image_proj.norm.bias', [width]],
    ...attentions.flatMap(({ channels }, index) =>
      ['k', 'v'].map((part): [string, number[]] => [
        `ip_adapter.${2 * index + 1}.to_${part}_ip.weight`,
        [channels, width],
      ]),
    ),
  ]);
}
