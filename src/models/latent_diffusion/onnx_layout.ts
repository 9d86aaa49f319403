/**
 * The role of each file in a ready-made ONNX repository. In the layout of optimum and diffusers it follows from the folders; for published
 * web exports, which have no index, from a JSON file in `src/models/exports`.
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { parseSchedulerConfig, type SchedulerConfig } from '../../schedulers/config.ts';
import { ClipTokenizer } from '../../text/clip_tokenizer.ts';
import { Checkpoint } from '../../weights/checkpoint.ts';
import type { CheckpointFiles, Habits } from '../../weights/checkpoint_files.ts';
import type { LatentSpace } from './networks.ts';

export type Role = 'text_encoder' | 'unet' | 'vae_decoder' | 'vae_encoder';

/** Values for dynamic dimensions of a network's inputs; null leaves one dynamic that would otherwise be fixed. */
export type FreeDimensions = Record<string, number | null>;

export interface OnnxLayout {
  pipelineClass: string;
  networks: Record<Exclude<Role, 'vae_encoder'>, string> & { vae_encoder: string | null };
  latents: LatentSpace;
  freeDimensions: Partial<Record<Role, FreeDimensions>>;
  tokenizer: ClipTokenizer;
  scheduler: SchedulerConfig;
  /** The side it was trained at, in pixels. */
  size: number;
  habits: Habits;
  /** Paths of the small files read for this. */
  texts: string[];
  /** What is known about its weights without reading them. */
  weights: { parameters: number; largestTensorBytes: number } | null;
  /** Which published export it is, for recordings. */
  published: { repo: string; revision: string | null; licence: string } | null;
}

const whole = v.pipe(v.number(), v.integer(), v.minValue(1));
const path = v.pipe(v.string(), v.regex(/^[\w.-]+(\/[\w.-]+)*$/));
const freeDimensions = v.record(v.string(), v.nullable(whole));

/** One file of `src/models/exports`. */
export const publishedExportSchema = v.strictObject({
  /** `org/name` on the hub, and the commit this was written for; null if unknown. */
  repo: v.string(),
  revision: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/))),
  licence: v.strictObject({ id: v.string(), link: v.pipe(v.string(), v.url()) }),
  networks: v.strictObject({
    text_encoder: path,
    unet: path,
    vae_decoder: path,
    /** Null if it has none, so it cannot start from a picture. */
    vae_encoder: v.nullable(path),
  }),
  freeDimensions: v.optional(
    v.strictObject({
      text_encoder: v.optional(freeDimensions),
      unet: v.optional(freeDimensions),
      vae_decoder: v.optional(freeDimensions),
      vae_encoder: v.optional(freeDimensions),
    }),
    {},
  ),
  latents: v.strictObject({ channels: whole, factor: whole, scale: v.number() }),
  tokenizer: v.strictObject({
    /** Where its files lie in the repository; `""` = at the top. */
    folder: v.string(),
    /** Its tokenizer_config.json, if the repository has none. */
    config: v.record(v.string(), v.unknown()),
    /** Where to get the tokenizer's files, if the repository lacks them. */
    from: v.nullable(v.string()),
  }),
  /** The scheduler_config.json of the checkpoint that was exported. */
  scheduler: v.record(v.string(), v.unknown()),
  size: whole,
  habits: v.strictObject({ steps: v.optional(whole), guidance_scale: v.optional(v.number()) }),
  parameters: whole,
  largestTensorBytes: whole,
});

export type PublishedExport = v.InferOutput<typeof publishedExportSchema>;

/** Classes in model_index.json files, and their pipelines. */
const PIPELINES: Record<string, string> = {
  ORTStableDiffusionPipeline: 'StableDiffusionPipeline',
  ORTStableDiffusionImg2ImgPipeline: 'StableDiffusionPipeline',
  ORTStableDiffusionInpaintPipeline: 'StableDiffusionPipeline',
  OnnxStableDiffusionPipeline: 'StableDiffusionPipeline',
  OnnxStableDiffusionImg2ImgPipeline: 'StableDiffusionPipeline',
  OnnxStableDiffusionInpaintPipeline: 'StableDiffusionPipeline',
  StableDiffusionPipeline: 'StableDiffusionPipeline',
  ORTLatentConsistencyModelPipeline: 'StableDiffusionPipeline',
  LatentConsistencyModelPipeline: 'StableDiffusionPipeline',
};

export const onnxPipelineClasses = Object.keys(PIPELINES);

/** Whether the denoiser exists only as ONNX. */
export function isReadyMade(files: CheckpointFiles): boolean {
  return files.has('unet/model.onnx') && !files.paths().some((path) => /^unet\/[^/]+\.safetensors$/.test(path));
}

/** The layout of a folder with a model_index.json. */
export async function optimumLayout(files: CheckpointFiles): Promise<OnnxLayout> {
  const checkpoint = await Checkpoint.open(files);
  const scheduler = await checkpoint.text('scheduler/scheduler_config.json');
  if (scheduler === undefined) {
    throw new StudioError(
      'checkpoint_incomplete',
      `"${files.name}" has no scheduler/scheduler_config.json; open the whole checkpoint folder.`,
    );
  }
  const unet = await config(checkpoint, 'unet', unetSchema);
  const vae = await config(checkpoint, 'vae_decoder', vaeSchema);
  const tiny = vae._class_name === 'AutoencoderTiny';
  const blocks = vae.block_out_channels ?? vae.decoder_block_out_channels;
  const factor = blocks ? 2 ** (blocks.length - 1) : 8;
  const size = Array.isArray(unet.sample_size) ? unet.sample_size[0] : unet.sample_size;
  const encoder = 'vae_encoder/model.onnx';
  return {
    pipelineClass: PIPELINES[checkpoint.pipelineClass] ?? checkpoint.pipelineClass,
    networks: {
      text_encoder: 'text_encoder/model.onnx',
      unet: 'unet/model.onnx',
      vae_decoder: 'vae_decoder/model.onnx',
      vae_encoder: files.has(encoder) ? encoder : null,
    },
    latents: { channels: vae.latent_channels, factor, scale: vae.scaling_factor ?? (tiny ? 1 : 0.18215) },
    freeDimensions: {},
    tokenizer: await openTokenizer(files, { folder: 'tokenizer', config: {}, from: null }),
    scheduler: parseSchedulerConfig(scheduler),
    size: size * factor,
    habits: {},
    texts: files
      .paths()
      .filter((path) =>
        /^(model_index\.json|(scheduler|tokenizer|text_encoder|unet|vae_\w+)\/[^/]+\.(json|txt))$/.test(path),
      ),
    weights: null,
    published: null,
  };
}

/** The layout of a published export. */
export async function publishedLayout(files: CheckpointFiles, known: PublishedExport): Promise<OnnxLayout> {
  const { folder } = known.tokenizer;
  return {
    pipelineClass: 'StableDiffusionPipeline',
    networks: known.networks,
    latents: known.latents,
    freeDimensions: known.freeDimensions,
    tokenizer: await openTokenizer(files, known.tokenizer),
    scheduler: parseSchedulerConfig(JSON.stringify(known.scheduler)),
    size: known.size,
    habits: known.habits,
    texts: files.paths().filter((path) => isTokenizerText(path, folder)),
    weights: { parameters: known.parameters, largestTensorBytes: known.largestTensorBytes },
    published: { repo: known.repo, revision: known.revision, licence: known.licence.id },
  };
}

/** The export these files are: the one of their repository, else the one whose networks are all present. */
export function publishedExport(
  files: CheckpointFiles,
  known: readonly PublishedExport[],
): PublishedExport | undefined {
  if (files.has('model_index.json')) {
    return undefined;
  }
  const complete = known.filter(({ networks }) =>
    Object.values(networks).every((path) => path === null || files.has(path)),
  );
  return (
    complete.find(({ repo }) => files.ref.startsWith(`hub:${repo}@`)) ??
    complete.find(({ repo }) => repo.endsWith(`/${files.name}`)) ??
    complete[0]
  );
}

const unetSchema = v.looseObject({
  sample_size: v.optional(v.union([whole, v.tuple([whole, whole])]), 64),
});
const vaeSchema = v.looseObject({
  _class_name: v.optional(v.string(), 'AutoencoderKL'),
  block_out_channels: v.nullish(v.array(whole)),
  decoder_block_out_channels: v.nullish(v.array(whole)),
  latent_channels: v.optional(whole, 4),
  scaling_factor: v.nullish(v.number()),
});

/** A component's config.json, which old exports lack. */
async function config<S extends v.GenericSchema>(
  checkpoint: Checkpoint,
  folder: string,
  schema: S,
): Promise<v.InferOutput<S>> {
  const path = `${folder}/config.json`;
  const result = v.safeParse(schema, checkpoint.files.has(path) ? await checkpoint.json(path) : {});
  if (!result.success) {
    const [issue] = result.issues;
    throw new StudioError(
      'checkpoint_unsupported',
      `${path} of "${checkpoint.files.name}" has an unexpected "${v.getDotPath(issue) ?? ''}"; choose another checkpoint.`,
    );
  }
  return result.output;
}

function isTokenizerText(path: string, folder: string): boolean {
  const prefix = folder === '' ? '' : `${folder}/`;
  return (
    path.startsWith(prefix) &&
    /^(vocab\.json|merges\.txt|tokenizer(_config)?\.json|special_tokens_map\.json)$/.test(path.slice(prefix.length))
  );
}

async function openTokenizer(
  files: CheckpointFiles,
  { folder, config, from }: { folder: string; config: Record<string, unknown>; from: string | null },
): Promise<ClipTokenizer> {
  const texts = new Map([['tokenizer_config.json', JSON.stringify(config)]]);
  for (const path of files.paths().filter((path) => isTokenizerText(path, folder))) {
    texts.set(path.slice(path.lastIndexOf('/') + 1), await (await files.blob(path)).text());
  }
  if (from !== null && !texts.has('vocab.json') && !texts.has('tokenizer.json')) {
    throw new StudioError(
      'checkpoint_incomplete',
      `"${files.name}" brings no tokenizer; put vocab.json and merges.txt of ${from} ${folder === '' ? 'beside its networks' : `into its folder ${folder}`}.`,
    );
  }
  return new ClipTokenizer({ read: (name) => texts.get(name) });
}
