/** ACE-Step 1.5 from an unconverted diffusers folder, or from its authors' own. Its single files, and ACE-Step 1.0, are known in order to say what they are. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as detokenizer from '../graphs/ace_step_audio_token_detokenizer.ts';
import * as audioTokenizer from '../graphs/ace_step_audio_tokenizer.ts';
import * as encoder from '../graphs/ace_step_condition_encoder.ts';
import * as dit from '../graphs/ace_step_transformer1d.ts';
import * as oobleck from '../graphs/autoencoder_oobleck.ts';
import * as qwen3 from '../graphs/qwen3.ts';
import { readSettings } from '../schedulers/config.ts';
import { PlainTokenizer } from '../text/plain_tokenizer.ts';
import { Checkpoint, type Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { weightFilesOf } from '../weights/mmdit_parts.ts';
import { readWeightFile } from '../weights/weight_file.ts';
import type { Family, LoadedMusicModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, tokenizerTexts } from './flow_transformer/flow_checkpoint.ts';
import { AceStepFolder, aceStepFolders } from './sound_diffusion/ace_step_folder.ts';
import { AceStepModel } from './sound_diffusion/ace_step_model.ts';
import { AceStepNetworks } from './sound_diffusion/ace_step_networks.ts';

const PIPELINE_CLASS = 'AceStepPipeline';
const TOKENIZER = 'tokenizer';
/** The length that the estimate reckons with where nobody says one. */
const USUAL_SECONDS = 60;

/** What their authors recommend. */
const OF_DISTILLED = { steps: 8, guidance_scale: 1 };
const OF_OTHERS = { steps: 50, guidance_scale: 7 };

/** The pipeline lays out the noise levels; a scheduler that moves them once more would change them. */
const SCHEDULER = 'FlowMatchEulerDiscreteScheduler';
const schedulerSchema = v.object({ num_train_timesteps: v.literal(1), shift: v.optional(v.literal(1), 1) });

type Layout = 'diffusers' | 'authors' | 'first' | 'single';

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedMusicModel> {
  const layout = await layoutOf(files);
  if (layout === 'first') {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is ACE-Step 1.0, whose networks are other ones than those of ACE-Step 1.5 that Darkroom runs; choose a checkpoint of ACE-Step 1.5, or make it on a ComfyUI server.`,
    );
  }
  if (layout === 'single') {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is ACE-Step 1.5 in one file, which lacks what silence sounds like; choose the folder that its authors publish, or a diffusers folder.`,
    );
  }
  const ofAuthors = layout === 'authors' ? await AceStepFolder.open(files, PIPELINE_CLASS) : null;
  const checkpoint = ofAuthors ?? (await Checkpoint.open(files));
  const ofTokens = ofAuthors?.tokenizer ?? TOKENIZER;
  const optional = async (name: string, className: string): Promise<Component | null> =>
    (await checkpoint.componentClass(name)) === undefined ? null : openPart(checkpoint, name, className);
  const [textEncoder, told, transformer, codes, latents, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', qwen3.headlessClassName, qwen3.className),
    openPart(checkpoint, 'condition_encoder', encoder.className),
    openPart(checkpoint, 'transformer', dit.className),
    optional('audio_tokenizer', audioTokenizer.className),
    optional('audio_token_detokenizer', detokenizer.className),
    openPart(checkpoint, 'vae', oobleck.className),
  ]);
  for (const name of [ofAuthors ? encoder.SILENCE_BY_CHANNEL : encoder.SILENCE, encoder.NOTHING]) {
    if (!told.weights.get(name)) {
      throw new StudioError(
        'checkpoint_incomplete',
        `The condition_encoder of "${files.name}" lacks "${name}", without which it makes no music; get the checkpoint again.`,
      );
    }
  }
  const scheduler = await readScheduler(checkpoint);
  if (scheduler.className !== SCHEDULER) {
    throw new StudioError(
      'checkpoint_unsupported',
      `This checkpoint asks for ${scheduler.className}; ACE-Step is sampled with ${SCHEDULER}, so choose another checkpoint.`,
    );
  }
  readSettings(schedulerSchema, scheduler);
  const tokenizer = new PlainTokenizer(await tokenizerTexts(checkpoint, ofTokens));
  const parts = { textEncoder, encoder: told, transformer, tokenizer: codes, detokenizer: latents, vae };
  const networks = new AceStepNetworks(engine, files, parts, tokenizer, weights);
  requireFit(checkpoint, {
    text: { read: networks.encoderConfig.text_hidden_dim, given: networks.text.width },
    channels: { read: networks.config.audio_acoustic_hidden_dim, given: networks.sounds.channels },
  });
  requireFit(checkpoint, {
    text: { read: dit.toldWidth(networks.config), given: networks.encoderConfig.hidden_size },
    channels: { read: networks.encoderConfig.timbre_hidden_dim, given: networks.sounds.channels },
  });
  const table = qwen3.embeddingTable(textEncoder.weights);
  const apart = [encoder.SILENCE, encoder.SILENCE_BY_CHANNEL, encoder.NOTHING, table, 'lm_head.weight'];
  const isApart = (name: string) => apart.includes(name);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: isApart },
      { component: told, weights, apart: isApart },
      { component: transformer, weights },
      ...[codes, latents].flatMap((component) => (component ? [{ component, weights }] : [])),
      { component: vae, weights: 'full' as const },
    ],
    ofAuthors?.texts ?? [TOKENIZER],
    {
      // Latents along time, which the estimate counts as a picture's.
      width: Math.ceil(Math.min(USUAL_SECONDS, networks.form.seconds) * networks.latentsPerSecond),
      height: 1,
      ...(dit.isTurbo(networks.config) ? OF_DISTILLED : OF_OTHERS),
    },
    1,
    false,
  );
  return new AceStepModel(files, engine, networks, scheduler, {
    ...summary,
    takesLoras: false,
    samplers: [],
    seconds: networks.form.seconds,
    latentsPerSecond: networks.latentsPerSecond,
    ...(dit.isTurbo(networks.config) && { ignores: ['guidance_scale'] }),
  });
}

const FOLDERS_OF_FIRST = ['ace_step_transformer/config.json', 'music_dcae_f8c8/config.json'];
const CLASS_OF_FIRST = 'ACEStepPipeline';

async function layoutOf(files: CheckpointFiles): Promise<Layout | null> {
  if (files.has('model_index.json')) {
    const { pipelineClass } = await Checkpoint.open(files);
    return pipelineClass === PIPELINE_CLASS ? 'diffusers' : pipelineClass === CLASS_OF_FIRST ? 'first' : null;
  }
  if (FOLDERS_OF_FIRST.some((path) => files.has(path))) {
    return 'first';
  }
  if ((await aceStepFolders(files)).length > 0) {
    return 'authors';
  }
  const singles = weightFilesOf(files);
  if (singles.length !== 1 || files.paths().some((path) => /(^|\/)config\.json$/.test(path))) {
    return null;
  }
  const { names } = await readWeightFile(files, singles[0]);
  const has = (name: string) => names.has(name) || names.has(`model.diffusion_model.${name}`);
  // What reads the lyrics lies in the transformer of the first version, and beside it since.
  return has('lyric_embs.weight') && has('speaker_embedder.weight') ? 'first' : has(encoder.NOTHING) ? 'single' : null;
}

export const family: Family = {
  pipelineClasses: [PIPELINE_CLASS],
  recognises: async (files) => (await layoutOf(files)) !== null,
  open,
};
