/** Stable Audio 3 from an unconverted diffusers folder, or from the files that its authors publish. */
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as same from '../graphs/autoencoder_same.ts';
import * as dit from '../graphs/stable_audio3_dit.ts';
import * as t5gemma from '../graphs/t5gemma_encoder.ts';
import { GemmaTokenizer } from '../text/gemma_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { settingsPath } from '../weights/stable_audio_settings.ts';
import type { Family, LoadedSoundModel, OpenOptions } from './family.ts';
import { openPart, readScheduler, requireFit, summarise, tokenizerTexts } from './flow_transformer/flow_checkpoint.ts';
import * as duration from './sound_diffusion/duration_embedder.ts';
import { pingPongSettings } from './sound_diffusion/ping_pong.ts';
import { StableAudio3Files } from './sound_diffusion/stable_audio_3_files.ts';
import { readAll, stableAudioKind } from './sound_diffusion/stable_audio_files.ts';
import { StableAudio3Model } from './sound_diffusion/stable_audio_3_model.ts';
import { StableAudio3Networks } from './sound_diffusion/stable_audio_3_networks.ts';

/** The same networks, whichever of diffusers' pipelines a folder names. */
const PIPELINE_CLASSES = ['StableAudio3Pipeline', 'StableAudio3AudioToAudioPipeline', 'StableAudio3InpaintPipeline'];
const TOKENIZER = 'tokenizer';
/** Tokens that are read, whatever the tokenizer's folder says beyond them. */
const MOST_TOKENS = 256;
/** The length that the estimate reckons with where nobody says one, as the reference's default. */
const USUAL_SECONDS = 10;

/** What the reference does where nobody says more. */
const OF_DISTILLED = { steps: 8, guidance_scale: 1 };
const OF_OTHERS = { steps: 100, guidance_scale: 1 };

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedSoundModel> {
  const original = files.has('model_index.json') ? null : await StableAudio3Files.open(files, PIPELINE_CLASSES[0]);
  const checkpoint = original ?? (await Checkpoint.open(files));
  const [textEncoder, embedder, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', t5gemma.className),
    openPart(checkpoint, 'duration_embedder', duration.className),
    openPart(checkpoint, 'transformer', dit.className),
    openPart(checkpoint, 'vae', same.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const settings = pingPongSettings(scheduler);
  const tokenizer = new GemmaTokenizer(
    await tokenizerTexts(checkpoint, original?.vocabulary ?? TOKENIZER),
    MOST_TOKENS,
  );
  const parts = { textEncoder, duration: embedder, transformer, vae };
  const networks = new StableAudio3Networks(engine, files, parts, tokenizer, weights);
  const { config, sounds, form } = networks;
  requireFit(checkpoint, {
    text: { read: config.cond_token_dim, given: networks.text.width },
    channels: { read: config.io_channels, given: sounds.channels },
  });
  // The duration is told twice, once as one of the tokens.
  for (const read of [config.cond_token_dim, config.global_cond_dim]) {
    if (read !== networks.duration.config.output_dim) {
      throw new StudioError(
        'checkpoint_unsupported',
        `The transformer of "${files.name}" reads ${read} numbers of the duration and its duration_embedder gives ${networks.duration.config.output_dim}; take both from one checkpoint.`,
      );
    }
  }
  const table = t5gemma.embeddingTable(textEncoder.weights);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      { component: textEncoder, weights, apart: (name) => name === table },
      { component: embedder, weights: 'full', apart: () => true },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    original?.texts ?? [TOKENIZER],
    {
      // Latents along time, which the estimate counts as a picture's.
      width: Math.ceil(networks.placeOf(Math.min(USUAL_SECONDS, form.seconds))),
      height: 1,
      ...(settings.stochastic_sampling ? OF_DISTILLED : OF_OTHERS),
    },
    1,
  );
  return new StableAudio3Model(files, engine, networks, scheduler, settings, {
    ...summary,
    takesLoras: false,
    samplers: [],
    seconds: form.seconds,
    latentsPerSecond: networks.latentsPerSecond,
  });
}

/** Its settings name what only this family has: the sinusoid by which it is told of the duration. */
async function isOfAuthors(files: CheckpointFiles): Promise<boolean> {
  const path = settingsPath(files);
  const text = path === undefined ? '' : await (await files.blob(path)).text();
  return text.includes('"seconds_total"') && text.includes('"expo"');
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await isOfAuthors(files)) || (await readAll(files)).some(({ names }) => stableAudioKind(names) === 'three'),
  open,
};
