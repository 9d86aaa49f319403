/** LTX-Video of 2B and 13B from an unconverted diffusers folder; or from the file of the original layout, with T5 beside it. */
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as autoencoder from '../graphs/autoencoder_kl_ltx.ts';
import * as ltx from '../graphs/ltx_transformer3d.ts';
import * as t5Encoder from '../graphs/t5_encoder.ts';
import { T5Tokenizer } from '../text/t5_tokenizer.ts';
import { Checkpoint, type Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { readRows } from '../weights/embedding_rows.ts';
import { MmditFile, mmditFileKind } from '../weights/mmdit_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, t5Files } from './flow_transformer/flow_checkpoint.ts';
import { FlowVideoModel } from './video_diffusion/flow_video_model.ts';
import { LtxNetworks } from './video_diffusion/ltx_networks.ts';

/** Checkpoints from 0.9.5 on name it, and are sampled in another way. */
const CONDITIONED = 'LTXConditionPipeline';
/** The parts of all are the same, so each makes videos from words and with a picture as their beginning. */
const PIPELINE_CLASSES = ['LTXPipeline', 'LTXImageToVideoPipeline', CONDITIONED];
const TOKENIZER = 'tokenizer';
/** What the decoder multiplies times by. */
const MULTIPLIER = 'decoder.timestep_scale_multiplier';

/** The authors' size. Steps and guidance are the config's, as a distilled checkpoint looks like any other. */
const USUAL = { width: 704, height: 480 };
/** The network's places have no end; the authors trained it with 257. */
const MOST_FRAMES = 1025;

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const isFolder = files.has('model_index.json');
  const checkpoint = isFolder ? await Checkpoint.open(files) : await MmditFile.open(files, 'ltx');
  const [textEncoder, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', t5Encoder.className),
    openPart(checkpoint, 'transformer', ltx.className),
    openPart(checkpoint, 'vae', autoencoder.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const isConditioned = checkpoint.pipelineClass === CONDITIONED;
  const habits = { isConditioned, tokens: isConditioned ? 256 : 128, times: await multiplier(files, vae) };
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : TOKENIZER;
  const tokenizer = new T5Tokenizer(await t5Files(checkpoint, ofTokens), habits.tokens);
  const networks = new LtxNetworks(engine, files, { textEncoder, transformer, vae }, habits, tokenizer, weights);
  const { config, latents, text, videos } = networks;
  requireFit(checkpoint, {
    text: { read: config.caption_channels, given: text.config.d_model },
    channels: { read: config.in_channels, given: latents.channels },
  });
  const table = t5Encoder.embeddingTable(textEncoder.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: (name) => name === table },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    USUAL,
    latents.factor,
    false,
  );
  return new FlowVideoModel(files, engine, networks, scheduler, {
    ...summary,
    firstFrame: 'may',
    ...(isConditioned && { lastFrame: 'may' }),
    mostFrames: MOST_FRAMES,
    ...(!videos.config.timestep_conditioning && { ignores: ['decode_timestep', 'decode_noise_scale'] }),
  });
}

/** @throws StudioError `checkpoint_incomplete` where the decoder is told times and the number is missing */
async function multiplier(files: CheckpointFiles, { config, weights }: Component): Promise<number> {
  if (!autoencoder.parseConfig(config).timestep_conditioning) {
    return 1;
  }
  const stored = weights.get(MULTIPLIER);
  if (!stored) {
    throw new StudioError(
      'checkpoint_incomplete',
      `The vae of "${files.name}" has no tensor "${MULTIPLIER}"; get the checkpoint again.`,
    );
  }
  const [value] = await readRows(files, { ...stored, shape: [1, 1] }, [0]);
  return value;
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await mmditFileKind(files)) === 'ltx',
  open,
};
