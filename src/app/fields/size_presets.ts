/** Sizes that a checkpoint does well, as the configs have them (`sizes`). Fetched once somebody sees a field for a size. */
import type { InferOutput } from 'valibot';
import type { sizesSchema } from '../../core/config_file.ts';
import { configFiles } from '../../pipelines/config_files.ts';

export type Sizes = InferOutput<typeof sizesSchema>;

export interface SizePreset {
  width: number;
  height: number;
  /** The proportions, where they are about some that have a name, such as "16:9". */
  ratio: string | null;
}

/** Presets of about one area. */
export interface PresetGroup {
  /** In 1024×1024 pixels; null where the sizes are as they were trained. */
  megapixels: number | null;
  presets: SizePreset[];
}

const RATIOS = [
  [1, 1],
  [5, 4],
  [4, 3],
  [3, 2],
  [16, 9],
  [21, 9],
] as const;

/** How far from its name a proportion may be. */
const NEAR = 0.025;

/** The sizes of a config, else of the one of its family; null where none are known. @param config its id */
export function sizesOf(config: string): Sizes | null {
  const own = Object.hasOwn(configFiles, config) ? configFiles[config] : undefined;
  const family = Object.values(configFiles).find(
    ({ sizes, parameters }) => sizes !== undefined && parameters.OUTPUT_CHUNK === own?.parameters.OUTPUT_CHUNK,
  );
  return own?.sizes ?? (own && family?.sizes) ?? null;
}

/** @param usual the area in pixels that the checkpoint was trained at; null = unknown */
export function presetsOf({ buckets, scaled }: Sizes, usual: number | null): PresetGroup[] {
  const away = ([[width, height]]: Sizes['buckets'][number]) => Math.abs(Math.log((width * height) / (usual ?? 1)));
  const trained = usual === null ? buckets.flat() : [...buckets].sort((a, b) => away(a) - away(b))[0];
  if (!scaled) {
    return [{ megapixels: null, presets: trained.map(([width, height]) => preset(width, height)) }];
  }
  return scaled.megapixels.map((megapixels) => ({
    megapixels,
    presets: trained.map(([width, height]) => {
      const factor = Math.sqrt((megapixels * 1024 * 1024) / (width * height));
      const whole = (side: number) => Math.round((side * factor) / scaled.multiple) * scaled.multiple;
      // What is of that area already stays as it is.
      return Math.abs(factor - 1) < NEAR ? preset(width, height) : preset(whole(width), whole(height));
    }),
  }));
}

function preset(width: number, height: number): SizePreset {
  const proportion = Math.max(width, height) / Math.min(width, height);
  const named = RATIOS.map(([a, b]) => ({ a, b, off: Math.abs(proportion / (a / b) - 1) }))
    .filter(({ off }) => off < NEAR)
    .sort((one, other) => one.off - other.off)
    .at(0);
  const ratio = named && (width < height ? `${named.b}:${named.a}` : `${named.a}:${named.b}`);
  return { width, height, ratio: ratio ?? null };
}
