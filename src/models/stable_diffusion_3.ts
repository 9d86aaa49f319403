/** Stable Diffusion 3 and 3.5 from an unconverted diffusers folder or one file of the original layout, with T5 or without it. */
import type { Engine } from '../engine/engine.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as clipText from '../graphs/clip_text.ts';
import * as sd3 from '../graphs/sd3_transformer2d.ts';
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
import { Sd3Networks, T5_TOKENS } from './flow_transformer/sd3_networks.ts';

const PIPELINE_CLASSES = [
  'StableDiffusion3Pipeline',
  'StableDiffusion3Img2ImgPipeline',
  'StableDiffusion3InpaintPipeline',
];

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const single = await mmditFileKind(files);
  const checkpoint = single ? await MmditFile.open(files, single) : await Checkpoint.open(files);
  const hasT5 = checkpoint instanceof MmditFile ? checkpoint.hasReader : hasFolderOfT5(checkpoint);
  const [first, second, transformer, vae, t5] = await Promise.all([
    openPart(checkpoint, 'text_encoder', clipText.projectedClassName, ...(single ? [clipText.className] : [])),
    openPart(checkpoint, 'text_encoder_2', clipText.projectedClassName),
    openPart(checkpoint, 'transformer', sd3.className),
    openPart(checkpoint, 'vae', autoencoderKl.className),
    hasT5 ? openPart(checkpoint, 'text_encoder_3', t5Encoder.className) : null,
  ]);
  const scheduler = await readScheduler(checkpoint);
  const clips = single
    ? [clipTokenizerFiles('<|endoftext|>'), clipTokenizerFiles('!')]
    : ['tokenizer', 'tokenizer_2'].map((folder) => tokenizerTexts(checkpoint, folder));
  const ofT5 = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : 'tokenizer_3';
  const tokenizers = {
    clips: (await Promise.all(clips)).map((texts) => new ClipTokenizer(texts)),
    t5: t5 && new T5Tokenizer(await t5Files(checkpoint, ofT5), T5_TOKENS),
  };
  const components = { clips: [first, second], t5, transformer, vae };
  const networks = new Sd3Networks(engine, files, components, tokenizers, weights);
  const { config, latents } = networks;
  requireFit(checkpoint, {
    text: { read: config.joint_attention_dim, given: networks.t5?.config.d_model ?? config.joint_attention_dim },
    channels: { read: config.in_channels, given: latents.channels },
  });
  requirePooled(files, {
    read: config.pooled_projection_dim,
    given: networks.clips.widths.reduce((sum, { pooled }) => sum + pooled, 0),
  });
  const side = config.sample_size * latents.factor;
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: first, weights },
      { component: second, weights },
      ...(t5 ? [{ component: t5, weights, apart: isTableOf(t5Encoder.embeddingTable(t5.weights)) }] : []),
      { component: transformer, weights, apart: isTableOf(sd3.POSITIONS) },
      { component: vae, weights: 'full' as const },
    ],
    [...(single ? [] : ['tokenizer', 'tokenizer_2']), ...(t5 ? [ofT5] : [])],
    { width: side, height: side },
    latents.factor * sd3.PATCH,
  );
  return new FlowModel(files, engine, networks, scheduler, {
    ...summary,
    longestSide: config.pos_embed_max_size * sd3.PATCH * latents.factor,
    ...(!t5 && {
      lacks: [
        single
          ? `"${checkpoint.name}" is read without T5, its largest text encoder, whose vocabulary is in no such file: choose T5 (t5xxl_fp16.safetensors) and its spiece.model (google/t5-v1_1-xxl) with it, or a folder that holds them all.`
          : `"${checkpoint.name}" has no T5, its largest text encoder (text_encoder_3): it follows short prompts as well, and long ones less closely.`,
      ],
    }),
  });
}

/** It is more than half of the checkpoint, so it is often omitted. */
function hasFolderOfT5(checkpoint: Checkpoint): boolean {
  return (
    checkpoint.componentClass('text_encoder_3') !== undefined &&
    checkpoint.files.paths().some((path) => path.startsWith('text_encoder_3/'))
  );
}

const isTableOf = (table: string) => (name: string) => name === table;

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await mmditFileKind(files)) === 'sd3',
  open,
};
