/**
 * Pictures as Qwen2.5-VL sees them: scaled to whole tokens, standardised, cut into patches, and what its eyes make of these.
 * Reference: transformers/models/qwen2_vl/image_processing_pil_qwen2_vl.py
 */
import * as v from 'valibot';
import { roundHalfToEven } from '../../core/area_sides.ts';
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { WeightVariant } from '../../core/model.ts';
import { resizeBicubic } from '../../core/pillow_resize.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as vision from '../../graphs/qwen2_5_vl_vision.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { Held } from './base_networks.ts';
import type { SeenPicture } from './flow_networks.ts';

const triple = v.pipe(v.array(v.number()), v.length(3));
const pixels = v.optional(v.number());

/** Missing keys mean what they mean to the processor; the pixels stand in `size` since transformers 5. */
const settingsSchema = v.pipe(
  v.object({
    size: v.optional(v.looseObject({ shortest_edge: pixels, longest_edge: pixels }), () => ({})),
    min_pixels: pixels,
    max_pixels: pixels,
    image_mean: v.optional(triple, () => [0.48145466, 0.4578275, 0.40821073]),
    image_std: v.optional(triple, () => [0.26862954, 0.26130258, 0.27577711]),
  }),
  v.transform(({ size, min_pixels, max_pixels, ...rest }) => ({
    ...rest,
    least: size.shortest_edge ?? min_pixels ?? 56 * 56,
    most: size.longest_edge ?? max_pixels ?? 28 * 28 * 1280,
  })),
);

export type VisionSettings = v.InferOutput<typeof settingsSchema>;

/** @param text of `processor/preprocessor_config.json`; absent = the processor's defaults. @throws StudioError `checkpoint_damaged` */
export function readVisionSettings(text: string | undefined): VisionSettings {
  let json: unknown;
  try {
    json = JSON.parse(text ?? '{}');
  } catch {
    json = null;
  }
  const result = v.safeParse(settingsSchema, json);
  if (!result.success) {
    throw new StudioError(
      'checkpoint_damaged',
      'The file processor/preprocessor_config.json of this checkpoint is not what it should be; get it again.',
    );
  }
  return result.output;
}

/**
 * `smart_resize`: whole multiples of `factor` that are as near to the picture's sides as may be, with so many pixels.
 * @param factor pixels per side of a token
 */
export function seenSize(
  { width, height }: { width: number; height: number },
  factor: number,
  { least, most }: Pick<VisionSettings, 'least' | 'most'>,
): { width: number; height: number } {
  const near = (side: number) => roundHalfToEven(side / factor) * factor;
  const area = near(height) * near(width);
  if (area > most) {
    const beta = Math.sqrt((height * width) / most);
    const less = (side: number) => Math.max(factor, Math.floor(side / beta / factor) * factor);
    return { width: less(width), height: less(height) };
  }
  if (area < least) {
    const beta = Math.sqrt(least / (height * width));
    const more = (side: number) => Math.ceil((side * beta) / factor) * factor;
    return { width: more(width), height: more(height) };
  }
  return { width: near(width), height: near(height) };
}

export class QwenVision {
  readonly config: vision.Config;

  /** @param component the text encoder, whose part the eyes are */
  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly component: Component,
    readonly weights: WeightVariant,
    readonly settings: VisionSettings,
  ) {
    this.config = vision.parseConfig((component.config as { vision_config?: unknown }).vision_config ?? {});
  }

  /** One after another; pictures of one shape share a network. */
  async see(images: readonly PixelImage[]): Promise<SeenPicture[]> {
    const seen: SeenPicture[] = [];
    try {
      for (const image of images) {
        seen.push(await this.#seeOne(image));
      }
      return seen;
    } catch (error) {
      seen.forEach(({ features }) => {
        features.dispose();
      });
      throw error;
    }
  }

  /** How many tokens a picture becomes. @param size in pixels */
  tokensOf(size: { width: number; height: number }): number {
    const { rows, columns } = this.#gridOf(seenSize(size, this.#factor, this.settings));
    return rows * columns;
  }

  /** @param size of the largest picture that is seen, in pixels */
  planned(costs: GraphCosts, pictures: number, size: { width: number; height: number }): PlannedNetwork {
    const { config, component } = this;
    const { weights } = component;
    const grid = this.#gridOf(seenSize(size, this.#factor, this.settings));
    const shape = { provider: this.engine.provider, batch: 1, height: 0, width: 0, grid };
    return costs.network(
      { name: 'text_encoder_vision', phase: 'read', runs: pictures, runsPerStep: 0, precision: 'f32' },
      shape,
      (options) => vision.build(config, weights, options),
    );
  }

  /** Pixels per side of a token. */
  get #factor(): number {
    return this.config.patch_size * vision.MERGE;
  }

  #gridOf({ width, height }: { width: number; height: number }): vision.Grid {
    return { rows: height / this.#factor, columns: width / this.#factor };
  }

  async #seeOne(image: PixelImage): Promise<SeenPicture> {
    const { config, component, engine, weights } = this;
    const { arithmetic, provider } = engine;
    const size = seenSize(image, this.#factor, this.settings);
    const scaled = resizeBicubic(image, size.width, size.height);
    const grid = this.#gridOf(size);
    const layout = vision.layoutOf(config, grid);
    const network = await this.shelf.get('text_encoder_vision', { ...grid }, () =>
      vision.build(config, component.weights, { provider, dtype: 'f32', batch: 1, height: 0, width: 0, grid, weights }),
    );
    const tokens = layout.order.length;
    const patches = vision.MERGE ** 2 * tokens;
    const { cos, sin } = vision.angles(config, layout, grid);
    const places = new Int32Array(tokens);
    layout.order.forEach((token, place) => (places[token] = place));
    const held = new Held();
    const features = arithmetic.empty([tokens, config.out_hidden_size]);
    try {
      const values = patchesOf(scaled, config, this.settings, layout, grid);
      const inputs = {
        pixel_values: held.hold(arithmetic.upload(values, [patches, values.length / patches])),
        cos: held.hold(arithmetic.upload(cos, [patches, cos.length / patches])),
        sin: held.hold(arithmetic.upload(sin, [patches, sin.length / patches])),
        places: held.hold(arithmetic.upload(places, [tokens])),
      };
      await engine.run(network, inputs, { features });
      return { features, ...grid };
    } catch (error) {
      features.dispose();
      throw error;
    } finally {
      held.dispose();
    }
  }
}

/** [patches, channels · frames · patch · patch], where every frame is the same picture. */
function patchesOf(
  { width, data }: PixelImage,
  { patch_size: side, temporal_patch_size: frames }: vision.Config,
  { image_mean, image_std }: VisionSettings,
  { order }: vision.Layout,
  { columns }: vision.Grid,
): Float32Array<ArrayBuffer> {
  const { MERGE } = vision;
  const out = new Float32Array(order.length * MERGE * MERGE * 3 * frames * side * side);
  let at = 0;
  for (const token of order) {
    for (let part = 0; part < MERGE * MERGE; part++) {
      const top = side * (MERGE * Math.floor(token / columns) + Math.floor(part / MERGE));
      const left = side * (MERGE * (token % columns) + (part % MERGE));
      for (let channel = 0; channel < 3; channel++) {
        const start = at;
        for (let y = 0; y < side; y++) {
          for (let x = 0; x < side; x++) {
            const value = data[4 * ((top + y) * width + left + x) + channel] / 255;
            out[at++] = (value - image_mean[channel]) / image_std[channel];
          }
        }
        for (let frame = 1; frame < frames; frame++) {
          out.copyWithin(at, start, start + side * side);
          at += side * side;
        }
      }
    }
  }
  return out;
}
