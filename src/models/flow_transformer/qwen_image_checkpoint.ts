/** Opening a checkpoint of Qwen-Image, Qwen-Image-Edit or Qwen-Image-Layered. */
import type { WeightVariant } from '../../core/model.ts';
import type { Engine } from '../../engine/engine.ts';
import * as autoencoder from '../../graphs/autoencoder_kl_qwen_image.ts';
import * as qwenVl from '../../graphs/qwen2_5_vl.ts';
import * as qwenImage from '../../graphs/qwen_image_transformer2d.ts';
import { PROMPT_FRAMES, QwenImageTokenizer } from '../../text/qwen_image_prompts.ts';
import type { CheckpointComponents } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { MmditFile } from '../../weights/mmdit_file.ts';
import type { LoadedModel } from '../family.ts';
import { openPart, readScheduler, requireFit, summarise, tokenizerTexts } from './flow_checkpoint.ts';
import { FlowModel } from './flow_model.ts';
import { LayeredModel } from './layered_model.ts';
import { QwenImageNetworks } from './qwen_image_networks.ts';
import { QwenLayeredNetworks } from './qwen_layered_networks.ts';
import { SIGHTS } from './qwen_sight.ts';
import { readVisionSettings } from './qwen_vision.ts';

/** diffusers' usual side, in pixels. */
const SIDES: Record<QwenImageKind, number> = { text: 1024, edit: 1024, edit_plus: 1024, layered: 640 };
/** The authors' recommendation: their example of editing with several pictures takes fewer steps. */
const HABITS: Record<QwenImageKind, { steps: number; guidance_scale: number }> = {
  text: { steps: 50, guidance_scale: 4 },
  edit: { steps: 50, guidance_scale: 4 },
  edit_plus: { steps: 40, guidance_scale: 4 },
  layered: { steps: 50, guidance_scale: 4 },
};

/** What such a checkpoint works from: words alone, a picture, several pictures, or a picture that it takes apart. */
export type QwenImageKind = keyof typeof PROMPT_FRAMES | 'layered';

const isEditing = (kind: QwenImageKind): kind is keyof typeof SIGHTS => kind in SIGHTS;

const SETTINGS = 'processor/preprocessor_config.json';
/** As all are published; files of the original layout have none. */
const USUAL_SETTINGS = JSON.stringify({ min_pixels: 56 * 56, max_pixels: 28 * 28 * 16384 });

function settingsOf(checkpoint: CheckpointComponents): Promise<string | undefined> {
  return checkpoint instanceof MmditFile ? Promise.resolve(USUAL_SETTINGS) : checkpoint.text(SETTINGS);
}

export async function openQwenImage(
  files: CheckpointFiles,
  checkpoint: CheckpointComponents,
  engine: Engine,
  weights: WeightVariant,
  kind: QwenImageKind,
): Promise<LoadedModel> {
  const [textEncoder, transformer, vae] = await Promise.all([
    openPart(checkpoint, 'text_encoder', qwenVl.className),
    openPart(checkpoint, 'transformer', qwenImage.className),
    openPart(checkpoint, 'vae', autoencoder.className),
  ]);
  const scheduler = await readScheduler(checkpoint);
  const ofTokens = checkpoint instanceof MmditFile ? (checkpoint.vocabularyFolder ?? '') : 'tokenizer';
  const tokenizer = new QwenImageTokenizer(
    await tokenizerTexts(checkpoint, ofTokens),
    // Layers are made of what the picture shows, in words as Qwen-Image reads them.
    PROMPT_FRAMES[kind === 'layered' ? 'text' : kind],
  );
  const Networks = kind === 'layered' ? QwenLayeredNetworks : QwenImageNetworks;
  const networks = new Networks(
    engine,
    files,
    { textEncoder, transformer, vae },
    tokenizer,
    weights,
    !isEditing(kind) ? null : { kind, settings: readVisionSettings(await settingsOf(checkpoint)) },
  );
  requireFit(checkpoint, {
    text: { read: networks.config.joint_attention_dim, given: networks.text.width },
    channels: { read: qwenImage.channelsOf(networks.config), given: networks.latents.channels },
  });
  const table = qwenVl.embeddingTable(textEncoder.weights);
  const isEye = (name: string) => /(?:^|\.)visual\./.test(name);
  const summary = await summarise(
    checkpoint,
    scheduler,
    [
      {
        component: textEncoder,
        weights,
        apart: (name) => name === table || name === 'lm_head.weight' || (!isEditing(kind) && isEye(name)),
      },
      { component: transformer, weights },
      { component: vae, weights: 'full' },
    ],
    [ofTokens],
    { width: SIDES[kind], height: SIDES[kind], ...HABITS[kind] },
    networks.latents.factor * qwenImage.PATCH,
  );
  const needs = isEditing(kind) && files.has(SETTINGS) ? [...summary.needs, SETTINGS] : summary.needs;
  const sight = isEditing(kind) ? { mostPictures: SIGHTS[kind].most } : {};
  const Kind = kind === 'layered' ? LayeredModel : FlowModel;
  return new Kind(files, engine, networks, scheduler, { ...summary, needs, ...sight });
}
