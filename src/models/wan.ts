/** Wan 2.1 and 2.2 from an unconverted diffusers folder; 2.1 and 2.2 A14B from files of the original layout, too. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as autoencoder from '../graphs/autoencoder_kl_wan.ts';
import * as t5Encoder from '../graphs/t5_encoder.ts';
import * as wan from '../graphs/wan_transformer3d.ts';
import { T5Tokenizer, type T5Files } from '../text/t5_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
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
      ? { boundary_ratio: await boundaryOf(checkpoint) }
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
  const scheduler = await readScheduler(checkpoint);
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : TOKENIZER;
  const tokenizer = new T5Tokenizer(await vocabularyOf(checkpoint, ofTokens), TEXT_TOKENS);
  const components = { textEncoder, transformer, second, vae };
  const networks = new WanNetworks(engine, files, components, { boundary, expandsTimesteps }, tokenizer, weights);
  const { config, latents, text } = networks;
  requireFit(files, {
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
  const table = t5Encoder.embeddingTable(textEncoder.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: (name) => name === table },
      { component: transformer, weights },
      ...(second ? [{ component: second, weights }] : []),
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    USUAL,
    latents.factor * wan.PATCH,
  );
  return new FlowVideoModel(files, engine, networks, scheduler, {
    ...summary,
    takesLoras: second === null,
    ...(shown > 0 ? { firstFrame: 'must' } : expandsTimesteps && { firstFrame: 'may' }),
    mostFrames: autoencoder.framesPerLatent(networks.videos.config) * (config.rope_max_seq_len - 1) + 1,
  });
}

/** Of the published pairs of transformers, for words and for a picture to begin with; null where there is one. */
async function boundaryOf(checkpoint: MmditFile): Promise<number | null> {
  const { config } = await checkpoint.component('transformer');
  return !checkpoint.hasSecond ? null : config.in_channels === config.out_channels ? 0.875 : 0.9;
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
