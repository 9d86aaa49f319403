/** FLUX.1 schnell and dev from an unconverted diffusers folder or a single file in the original layout. */
import type { Engine } from '../engine/engine.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as clipText from '../graphs/clip_text.ts';
import * as flux from '../graphs/flux_transformer2d.ts';
import * as t5Encoder from '../graphs/t5_encoder.ts';
import { ClipTokenizer } from '../text/clip_tokenizer.ts';
import { clipTokenizerFiles } from '../text/clip_vocabulary.ts';
import { T5Tokenizer } from '../text/t5_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { MmditFile, mmditFileKind } from '../weights/mmdit_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import {
  openPart,
  readScheduler,
  requireFit,
  requirePooled,
  summarise,
  t5Files,
  tokenizerTexts,
} from './flow_transformer/flow_checkpoint.ts';
import { FlowModel } from './flow_transformer/flow_model.ts';
import { Flux1Networks, T5_TOKENS } from './flow_transformer/flux1_networks.ts';

const PIPELINE_CLASSES = ['FluxPipeline', 'FluxImg2ImgPipeline'];

/** The side it was trained at, in pixels. */
const SIDE = 1024;
/** The authors' recommendation for schnell, and diffusers' for dev. */
const HABITS = { schnell: { steps: 4, guidance_scale: 0 }, dev: { steps: 28, guidance_scale: 3.5 } };

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const single = await mmditFileKind(files);
  const checkpoint = single ? await MmditFile.open(files, single) : await Checkpoint.open(files);
  const ofT5 = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : 'tokenizer_2';
  const [clip, t5, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', clipText.className),
    openPart(checkpoint, 'text_encoder_2', t5Encoder.className),
    openPart(checkpoint, 'transformer', flux.className),
    openPart(checkpoint, 'vae', autoencoderKl.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const tokenizers = {
    clip: new ClipTokenizer(await (single ? clipTokenizerFiles('<|endoftext|>') : tokenizerTexts(checkpoint))),
    t5: new T5Tokenizer(await t5Files(checkpoint, ofT5), T5_TOKENS),
  };
  const networks = new Flux1Networks(engine, files, { clip, t5, transformer, vae }, tokenizers, weights);
  const { config, latents } = networks;
  requireFit(checkpoint, {
    text: { read: config.joint_attention_dim, given: networks.t5.config.d_model },
    channels: { read: flux.channelsOf(config), given: latents.channels },
  });
  requirePooled(files, { read: config.pooled_projection_dim, given: networks.clip.widths[0].pooled });
  const table = t5Encoder.embeddingTable(t5.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: clip, weights },
      { component: t5, weights, apart: (name) => name === table },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    [...(single ? [] : ['tokenizer']), ofT5],
    { width: SIDE, height: SIDE, ...(config.guidance_embeds ? HABITS.dev : HABITS.schnell) },
    latents.factor * flux.PATCH,
  );
  return new FlowModel(files, engine, networks, scheduler, {
    ...summary,
    ...(!config.guidance_embeds && { ignores: ['guidance_scale'] }),
  });
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await mmditFileKind(files)) === 'flux1',
  open,
};
