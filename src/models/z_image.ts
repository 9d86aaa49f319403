/** Z-Image and Z-Image-Turbo from an unconverted diffusers folder, or from files of the original layout. */
import type { Engine } from '../engine/engine.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as qwen3 from '../graphs/qwen3.ts';
import * as zImage from '../graphs/z_image_transformer2d.ts';
import { ChatTokenizer, QWEN3_USUAL } from '../text/chat_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { MmditFile, mmditFileKind } from '../weights/mmdit_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, tokenizerTexts } from './flow_transformer/flow_checkpoint.ts';
import { FlowModel } from './flow_transformer/flow_model.ts';
import { ZImageNetworks } from './flow_transformer/z_image_networks.ts';

const PIPELINE_CLASSES = ['ZImagePipeline', 'ZImageImg2ImgPipeline', 'ZImageInpaintPipeline'];

/** Tokens of a prompt, its template included. */
const LONGEST_PROMPT = 512;
/** The side it was trained at, in pixels. */
const SIDE = 1024;

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const single = await mmditFileKind(files);
  const checkpoint = single ? await MmditFile.open(files, single) : await Checkpoint.open(files);
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : 'tokenizer';
  const [textEncoder, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', qwen3.className),
    openPart(checkpoint, 'transformer', zImage.className),
    openPart(checkpoint, 'vae', autoencoderKl.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const texts = await tokenizerTexts(checkpoint, ofTokens);
  const tokenizer = new ChatTokenizer(
    texts,
    LONGEST_PROMPT,
    { enable_thinking: true },
    single ? QWEN3_USUAL : undefined,
  );
  const networks = new ZImageNetworks(engine, files, { textEncoder, transformer, vae }, tokenizer, weights);
  requireFit(checkpoint, {
    text: { read: networks.config.cap_feat_dim, given: networks.text.width },
    channels: { read: networks.config.in_channels, given: networks.latents.channels },
  });
  const table = qwen3.embeddingTable(textEncoder.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: (name) => name === table || name === 'lm_head.weight' },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    { width: SIDE, height: SIDE },
    networks.latents.factor * zImage.PATCH,
  );
  return new FlowModel(files, engine, networks, scheduler, summary);
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await mmditFileKind(files)) === 'z_image',
  open,
};
