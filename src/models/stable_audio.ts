/** Stable Audio Open from an unconverted diffusers folder, or from the files that its authors publish. */
import * as v from 'valibot';
import type { Engine } from '../engine/engine.ts';
import * as oobleck from '../graphs/autoencoder_oobleck.ts';
import * as dit from '../graphs/stable_audio_dit.ts';
import * as projection from '../graphs/stable_audio_projection.ts';
import * as t5Encoder from '../graphs/t5_encoder.ts';
import { T5Tokenizer, type T5Files } from '../text/t5_tokenizer.ts';
import { readTokenizerJson } from '../text/tokenizer_json.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { Family, LoadedSoundModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, t5Files } from './flow_transformer/flow_checkpoint.ts';
import { cosineSettings } from './sound_diffusion/cosine_dpm_solver.ts';
import { StableAudioFiles, readAll, stableAudioKind } from './sound_diffusion/stable_audio_files.ts';
import { StableAudioModel } from './sound_diffusion/stable_audio_model.ts';
import { StableAudioNetworks } from './sound_diffusion/stable_audio_networks.ts';

const PIPELINE_CLASS = 'StableAudioPipeline';
const TOKENIZER = 'tokenizer';

/** Tokens that T5 reads where its folder does not say. */
const USUAL_TOKENS = 128;
/** Folders without a limit of their own say a number beyond all prompts. */
const MOST_TOKENS = 4096;

const tokenizerSchema = v.looseObject({ model_max_length: v.optional(v.number()) });

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedSoundModel> {
  const original = files.has('model_index.json') ? null : await StableAudioFiles.open(files, PIPELINE_CLASS);
  const checkpoint = original ?? (await Checkpoint.open(files));
  const [t5, projector, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', t5Encoder.className),
    openPart(checkpoint, 'projection_model', projection.className),
    openPart(checkpoint, 'transformer', dit.className),
    openPart(checkpoint, 'vae', oobleck.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const settings = cosineSettings(scheduler);
  const texts = await t5Files(checkpoint, original?.vocabulary ?? TOKENIZER);
  const tokenizer = new T5Tokenizer(texts, original?.told.tokens ?? tokensOf(texts));
  const components = { t5, projection: projector, transformer, vae };
  const networks = new StableAudioNetworks(engine, files, components, tokenizer, weights);
  const { config, sounds } = networks;
  requireFit(checkpoint, {
    text: { read: networks.projection.text_encoder_dim, given: networks.t5.config.d_model },
    channels: { read: config.in_channels, given: sounds.channels },
  });
  requireFit(checkpoint, {
    text: { read: config.cross_attention_input_dim, given: networks.projection.conditioning_dim },
    channels: { read: config.global_states_input_dim, given: 2 * networks.projection.conditioning_dim },
  });
  const table = t5Encoder.embeddingTable(t5.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: t5, weights, apart: (name) => name === table },
      { component: projector, weights },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    original?.texts ?? [TOKENIZER],
    // Latents along time, which the estimate counts as a picture's.
    {
      width: config.sample_size,
      height: 1,
      prediction_type: settings.prediction_type,
      schedule: settings.sigma_schedule,
    },
    1,
  );
  return new StableAudioModel(files, engine, networks, scheduler, settings, {
    ...summary,
    takesLoras: false,
    seconds: networks.form.seconds,
  });
}

/** As many as the tokenizer's folder says. */
function tokensOf(texts: T5Files): number {
  const { model_max_length: limit = USUAL_TOKENS } =
    readTokenizerJson(texts, 'tokenizer_config.json', tokenizerSchema, TOKENIZER) ?? {};
  return limit > MOST_TOKENS ? USUAL_TOKENS : limit;
}

export const family: Family = {
  pipelineClasses: [PIPELINE_CLASS],
  recognises: async (files) =>
    files.has('model_index.json')
      ? (await Checkpoint.open(files)).pipelineClass === PIPELINE_CLASS
      : (await readAll(files)).some(({ names }) => ['open', 'other'].includes(stableAudioKind(names) ?? '')),
  open,
};
