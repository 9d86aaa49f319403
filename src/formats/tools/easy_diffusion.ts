/**
 * Easy Diffusion: one PNG text for each setting, under the request's name or under its label, by its version; in WebP and JPEG all
 * of them as JSON in EXIF UserComment.
 */
import { ExifTag } from '../exif.ts';
import { Fields, isOff } from '../fields.ts';
import { listOf, placesOf, readJsonObject, textOf } from '../json.ts';
import { Findings } from '../findings.ts';
import type { Tool } from '../reading.ts';

const NAME = 'Easy Diffusion';

/** Labels that are not the name with spaces for underscores. */
const LABELS: Record<string, string> = {
  Steps: 'num_inference_steps',
  Sampler: 'sampler_name',
  Scheduler: 'scheduler_name',
  'Stable Diffusion model': 'use_stable_diffusion_model',
  'VAE model': 'use_vae_model',
  'LoRA model': 'use_lora_model',
  'LoRA Strength': 'lora_alpha',
  'Hypernetwork model': 'use_hypernetwork_model',
  'ControlNet model': 'use_controlnet_model',
  'ControlNet Filter': 'control_filter_to_apply',
  'ControlNet Strength': 'control_alpha',
  'Embedding models': 'use_embeddings_model',
  use_embedding_models: 'use_embeddings_model',
  'Use Upscaling': 'use_upscale',
  'Upscale By': 'upscale_amount',
  'Seamless Tiling': 'tiling',
};

/** Storage options, and details of other settings. */
const TOLD =
  /^(used_random_seed|num_outputs|session_id|request_id|output_.*|block_nsfw|metadata_output_format|show_only_filtered_image|save_to_disk_path|render_devices?|use_cpu|vram_usage_level|stream_.*|original_prompt|active_tags|inactive_tags|init_image|hypernetwork_strength|control_.*|upscale_amount|latent_upscaler_steps|codeformer_.*)$/;

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts, exif }) {
    const all =
      texts.has('negative_prompt') || texts.has('Negative Prompt')
        ? Object.fromEntries(texts)
        : (readJsonObject(exif.get(ExifTag.userComment)) ?? {});
    const fields = new Fields(Object.fromEntries(Object.entries(all).map(([name, value]) => [nameOf(name), value])));
    // Others may have a text of the name `negative_prompt`, too.
    if (fields.get('num_inference_steps') === undefined || fields.get('guidance_scale') === undefined) {
      return null;
    }
    const findings = new Findings(NAME, 'compel')
      .prompt(fields.get('prompt'))
      .negativePrompt(fields.get('negative_prompt'))
      .steps(fields.get('num_inference_steps'))
      .guidance(fields.get('guidance_scale'))
      .seed(fields.get('seed'))
      .size(fields.get('width'), fields.get('height'))
      .sampler(fields.get('sampler_name'), fields.get('scheduler_name'))
      .checkpoint(fields.get('use_stable_diffusion_model'));
    const strength = fields.get('prompt_strength');
    if (!isOff(strength)) {
      findings.strength(strength).lost('the picture it started from');
    }
    // One of each, or a list of as many; in PNG as the text of a Python list.
    const strengths = placesOf(fields.get('lora_alpha'));
    placesOf(fields.get('use_lora_model')).forEach((lora, i) => {
      if (!isOff(lora)) {
        findings.lora(lora, strengths[i]);
      }
    });
    for (const embedding of listOf(fields.get('use_embeddings_model'))) {
      findings.lostIf(embedding, `the effect of the embedding ${textOf(embedding) ?? '?'}`);
    }
    findings
      .lostIf(fields.get('use_controlnet_model'), 'the ControlNet')
      .lostIf(fields.get('use_vae_model'), `the VAE ${textOf(fields.get('use_vae_model')) ?? ''}`)
      .lostIf(fields.get('use_hypernetwork_model'), 'the hypernetwork')
      .clipSkip(isOff(fields.get('clip_skip')) ? null : 2)
      .lostIf(fields.get('tiling'), 'seamless tiling')
      .lostIf(fields.get('mask'), 'the mask')
      .lostIf(fields.get('use_face_correction'), 'face correction')
      .lostIf(fields.get('use_upscale'), 'upscaling');
    fields.all(TOLD);
    return findings.unread(fields).reading();
  },
};

function nameOf(label: string): string {
  return Object.hasOwn(LABELS, label) ? LABELS[label] : label.toLowerCase().replaceAll(' ', '_');
}
