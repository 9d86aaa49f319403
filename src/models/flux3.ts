/**
 * FLUX.3 klein, distilled and not, from an unconverted folder of Modular Diffusers, or from files of the original layout. The prompt upsampler is
 * not run: a language model that rewrites prompts beforehand, from a repository of its own.
 */
import { MODULAR_INDEX, indexOf } from '../core/checkpoint_indexes.ts';
import type { Engine } from '../engine/engine.ts';
import * as autoencoder from '../graphs/autoencoder_kl_flux2.ts';
import * as flux3 from '../graphs/flux3_transformer2d.ts';
import * as qwen3Vl from '../graphs/qwen3_vl.ts';
import { parseSchedulerConfig } from '../schedulers/config.ts';
import { ChatTokenizer, QWEN3_USUAL } from '../text/chat_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { MmditFile, mmditFileKind } from '../weights/mmdit_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, tokenizerTexts } from './flow_transformer/flow_checkpoint.ts';
import { FlowModel } from './flow_transformer/flow_model.ts';
import { Flux3Networks } from './flow_transformer/flux3_networks.ts';

const PIPELINE_CLASSES = ['Flux3ModularPipeline', 'Flux3DistilledModularPipeline'];

/** Tokens of a prompt, its template included. */
const LONGEST_PROMPT = 8192;
/** The side that pictures have where nothing else is asked for, in pixels. */
const SIDE = 1024;
/** diffusers' defaults, of the blocks of each. */
const HABITS = { distilled: { steps: 16, guidance_scale: 1 }, base: { steps: 50, guidance_scale: 3.5 } };
/** What diffusers' blocks make where the index names no scheduler, as in repositories that it saves. */
const SCHEDULER = '{ "_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.93 }';
const TOKENIZER = 'tokenizer';

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const isFolder = indexOf((path) => files.has(path)) !== undefined;
  const checkpoint = isFolder ? await Checkpoint.open(files) : await MmditFile.open(files, 'flux3');
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : TOKENIZER;
  const [textEncoder, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', qwen3Vl.className),
    openPart(checkpoint, 'transformer', flux3.className),
    openPart(checkpoint, 'vae', autoencoder.className),
  ]);
  const scheduler =
    checkpoint instanceof Checkpoint && checkpoint.componentClass('scheduler') === undefined
      ? parseSchedulerConfig(SCHEDULER)
      : await readScheduler(checkpoint);
  const tokenizer = new ChatTokenizer(
    await tokenizerTexts(checkpoint, ofTokens),
    LONGEST_PROMPT,
    {},
    isFolder ? undefined : QWEN3_USUAL,
  );
  const networks = new Flux3Networks(engine, files, { textEncoder, transformer, vae }, tokenizer, weights);
  const { config } = networks;
  requireFit(checkpoint, {
    text: { read: config.joint_attention_dim, given: networks.text.width },
    channels: { read: config.in_channels, given: networks.latents.channels },
  });
  const { flow_map: isDistilled } = config;
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: isUnread },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    { width: SIDE, height: SIDE, ...(isDistilled ? HABITS.distilled : HABITS.base) },
    networks.latents.factor,
    // A network that is told where its step leads cannot serve samplers that call it in between.
    !isDistilled,
  );
  return new FlowModel(files, engine, networks, scheduler, {
    ...summary,
    ...(isDistilled && { ignores: ['guidance_scale', 'negative_prompt'] }),
  });
}

/** Of the text encoder: its eyes see pictures, its head writes words, and rows of its table are read on the processor. */
function isUnread(name: string): boolean {
  return name === qwen3Vl.EMBEDDING_TABLE || name === 'lm_head.weight' || name.startsWith('model.visual.');
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) => {
    const index = indexOf((path) => files.has(path));
    return index === undefined
      ? (await mmditFileKind(files)) === 'flux3'
      : index === MODULAR_INDEX && PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass);
  },
  open,
};
