/** FLUX.2 dev, and FLUX.2 klein, distilled and not, from an unconverted diffusers folder, or from files of the original layout. */
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as autoencoder from '../graphs/autoencoder_kl_flux2.ts';
import * as flux2 from '../graphs/flux2_transformer2d.ts';
import * as mistral from '../graphs/mistral.ts';
import * as qwen3 from '../graphs/qwen3.ts';
import { ChatTokenizer, QWEN3_USUAL } from '../text/chat_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { MmditFile, mmditFileKind } from '../weights/mmdit_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, tokenizerTexts } from './flow_transformer/flow_checkpoint.ts';
import { FlowModel } from './flow_transformer/flow_model.ts';
import { Flux2Networks } from './flow_transformer/flux2_networks.ts';
import { FLUX2_CONVERSATION, MISTRAL_USUAL } from './flow_transformer/mistral_text.ts';

const PIPELINE_CLASSES = ['Flux2Pipeline', 'Flux2KleinPipeline', 'Flux2KleinInpaintPipeline'];

/** Tokens of a prompt, its template and padding included. */
const LONGEST_PROMPT = 512;
/** The side it was trained at, in pixels. */
const SIDE = 1024;
/** The authors' recommendation for the distilled model, and diffusers' for the others. */
const HABITS = { distilled: { steps: 4, guidance_scale: 1 }, others: { steps: 50, guidance_scale: 4 } };

/** No tensor tells the two apart, but the published files are called so (`flux-2-klein-base-4b.safetensors`). */
const UNDISTILLED = /(?:^|[-_.])base(?=[-_.])[^/]*$/i;

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const isFolder = files.has('model_index.json');
  const checkpoint = isFolder ? await Checkpoint.open(files) : await MmditFile.open(files, 'flux2');
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : 'tokenizer';
  const [textEncoder, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', qwen3.className, mistral.className),
    openPart(checkpoint, 'transformer', flux2.className),
    openPart(checkpoint, 'vae', autoencoder.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const isDev = textEncoder.className === mistral.className;
  const isDistilled =
    checkpoint instanceof MmditFile
      ? !isDev && !UNDISTILLED.test(checkpoint.transformerPath)
      : (await checkpoint.json('model_index.json')).is_distilled === true;
  const isGuided = flux2.parseConfig(transformer.config).guidance_embeds;
  if (isGuided !== isDev) {
    // Their widths can be the same.
    throw new StudioError(
      'checkpoint_unsupported',
      isGuided
        ? `The transformer of "${files.name}" takes guidance and was trained with Mistral, and its text encoder is Qwen3; choose mistral_3_small_flux2_fp8.safetensors (Comfy-Org/flux2-dev) in its place.`
        : `The transformer of "${files.name}" was trained with Qwen3, and its text encoder is Mistral; choose the text encoder that FLUX.2 klein comes with.`,
    );
  }
  const texts = await tokenizerTexts(checkpoint, ofTokens);
  const tokenizer = isDev
    ? new ChatTokenizer(texts, LONGEST_PROMPT, {}, isFolder ? undefined : MISTRAL_USUAL, FLUX2_CONVERSATION)
    : new ChatTokenizer(texts, LONGEST_PROMPT, { enable_thinking: false }, isFolder ? undefined : QWEN3_USUAL);
  const networks = new Flux2Networks(engine, files, { textEncoder, transformer, vae }, tokenizer, weights, isDistilled);
  requireFit(checkpoint, {
    text: { read: networks.config.joint_attention_dim, given: networks.text.width },
    channels: { read: networks.config.in_channels, given: networks.latents.channels },
  });
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: (name) => !isRead(name, networks.text.reader.table) },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    { width: SIDE, height: SIDE, ...(isDistilled ? HABITS.distilled : HABITS.others) },
    networks.latents.factor,
  );
  return new FlowModel(files, engine, networks, scheduler, {
    ...summary,
    ...(isDistilled && { ignores: ['guidance_scale'] }),
  });
}

/** Of the text encoder: its head writes words, its eyes see pictures, and rows of its table are read on the processor. */
function isRead(name: string, table: string): boolean {
  return name !== table && !/(?:^|\.)(?:lm_head|vision_tower|multi_modal_projector)\./.test(name);
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await mmditFileKind(files)) === 'flux2',
  open,
};
