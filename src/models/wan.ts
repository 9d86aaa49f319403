/** Wan 2.1 and 2.2 from an unconverted diffusers folder; or from files of the original layout. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import type { CheckpointSummary } from '../core/model.ts';
import * as autoencoder from '../graphs/autoencoder_kl_wan.ts';
import * as clipVision from '../graphs/clip_vision.ts';
import * as t5Encoder from '../graphs/t5_encoder.ts';
import * as wan from '../graphs/wan_transformer3d.ts';
import { T5Tokenizer, type T5Files } from '../text/t5_tokenizer.ts';
import { Checkpoint, type Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { MmditFile, mmditFileKind } from '../weights/mmdit_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, t5Files } from './flow_transformer/flow_checkpoint.ts';
import { FlowVideoModel } from './video_diffusion/flow_video_model.ts';
import { MASK_CHANNELS, TEXT_TOKENS, WanNetworks } from './video_diffusion/wan_networks.ts';

const FROM_PICTURES = 'WanImageToVideoPipeline';
const PIPELINE_CLASSES = ['WanPipeline', FROM_PICTURES];
const TOKENIZER = 'tokenizer';
/** Marks for gaps in UMT5's vocabulary, behind all others. */
const UMT5_GAPS = 300;

const indexSchema = v.looseObject({
  boundary_ratio: v.nullish(v.number(), null),
  expand_timesteps: v.nullish(v.boolean(), false),
});

/** The authors' settings for 480 rows. */
const USUAL = { width: 832, height: 480, steps: 50, guidance_scale: 5 };

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const isFolder = files.has('model_index.json');
  const checkpoint = isFolder ? await Checkpoint.open(files) : await MmditFile.open(files, 'wan');
  const said =
    checkpoint instanceof MmditFile
      ? { boundary_ratio: await boundaryOf(checkpoint), expand_timesteps: await expandsTimes(checkpoint) }
      : await checkpoint.json('model_index.json');
  const index = v.safeParse(indexSchema, said);
  const { boundary_ratio: boundary, expand_timesteps: expandsTimesteps } = index.success
    ? index.output
    : { boundary_ratio: null, expand_timesteps: false };
  const [textEncoder, transformer, second, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', t5Encoder.perLayerClassName),
    openPart(checkpoint, 'transformer', wan.className),
    boundary === null ? null : openPart(checkpoint, 'transformer_2', wan.className),
    openPart(checkpoint, 'vae', autoencoder.className),
  ]);
  const seesPictures = wan.parseConfig(transformer.config).image_dim !== null;
  const imageEncoder = seesPictures
    ? await openPart(checkpoint, 'image_encoder', clipVision.plainClassName, clipVision.className)
    : null;
  const scheduler = await readScheduler(checkpoint);
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : TOKENIZER;
  const tokenizer = new T5Tokenizer(await vocabularyOf(checkpoint, ofTokens), TEXT_TOKENS);
  const components = { textEncoder, transformer, second, vae, imageEncoder };
  const networks = new WanNetworks(engine, files, components, { boundary, expandsTimesteps }, tokenizer, weights);
  const { config, latents, text } = networks;
  requireFit(checkpoint, {
    text: { read: config.text_dim, given: text.config.d_model },
    channels: { read: wan.channelsOf(config), given: latents.channels },
  });
  const shown = wan.shownChannels(config);
  if (shown !== 0 && shown !== MASK_CHANNELS + latents.channels) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The transformer of "${files.name}" is shown ${shown} channels beside the video, which Darkroom cannot make; choose a checkpoint for words, or for a picture to begin with.`,
    );
  }
  requireSight(files, networks, imageEncoder);
  const table = t5Encoder.embeddingTable(textEncoder.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: (name) => name === table },
      { component: transformer, weights },
      ...(second ? [{ component: second, weights }] : []),
      ...(imageEncoder ? [{ component: imageEncoder, weights }] : []),
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    USUAL,
    latents.factor * wan.PATCH,
  );
  return new FlowVideoModel(files, engine, networks, scheduler, {
    ...summary,
    ...endsOf(networks),
    mostFrames: autoencoder.framesPerLatent(networks.videos.config) * (config.rope_max_seq_len - 1) + 1,
  });
}

/** Which pictures a video may begin and end with. */
function endsOf({ config, habits, seenPictures }: WanNetworks): Pick<CheckpointSummary, 'firstFrame' | 'lastFrame'> {
  if (wan.shownChannels(config) === 0) {
    return habits.expandsTimesteps ? { firstFrame: 'may' } : {};
  }
  // One that sees the first picture has no place to see the last in.
  const lastFrame = { 0: 'may', 1: undefined, 2: 'must' } as const;
  return { firstFrame: 'must', lastFrame: lastFrame[seenPictures as 0 | 1 | 2] };
}

/** @throws StudioError `checkpoint_unsupported` for a vision encoder that gives other numbers than the transformer takes */
function requireSight(files: CheckpointFiles, networks: WanNetworks, imageEncoder: Component | null): void {
  const { image_dim: read } = networks.config;
  if (read === null || !imageEncoder) {
    return;
  }
  const { hidden_size: given } = clipVision.parseConfig(imageEncoder.config);
  if (read !== given || ![1, 2].includes(networks.seenPictures)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The transformer of "${files.name}" takes ${read} numbers of each part of a picture and its image encoder gives ${given}; take both from one checkpoint.`,
    );
  }
}

/** Of the published pairs of transformers, for words and for a picture to begin with; null where there is one. */
async function boundaryOf(checkpoint: MmditFile): Promise<number | null> {
  const { config } = await checkpoint.component('transformer');
  return !checkpoint.hasSecond ? null : config.in_channels === config.out_channels ? 0.875 : 0.9;
}

/** Wan 2.2 TI2V-5B, which alone has this autoencoder. */
async function expandsTimes(checkpoint: MmditFile): Promise<boolean> {
  return autoencoder.parseConfig((await checkpoint.component('vae')).config).is_residual;
}

/** One that lies beside the weights comes before the one in them. */
async function vocabularyOf(checkpoint: Checkpoint | MmditFile, folder: string): Promise<T5Files> {
  if (!(checkpoint instanceof MmditFile) || checkpoint.vocabularyFolder !== null) {
    return t5Files(checkpoint, folder);
  }
  const settings = JSON.stringify({ extra_ids: UMT5_GAPS });
  return {
    folder,
    read: (name) => (name === 'tokenizer_config.json' ? settings : undefined),
    spiece: (await checkpoint.spiece()) ?? undefined,
  };
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await mmditFileKind(files)) === 'wan',
  open,
};
