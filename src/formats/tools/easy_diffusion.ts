/**
 * Easy Diffusion: one PNG text for each setting, under the request's name or under its label, by its version; in WebP and JPEG all
 * of them as JSON in EXIF UserComment.
 */
import { ExifTag } from '../exif.ts';
import { readJsonObject, textOf } from '../json.ts';
import { Findings, type Tool } from '../reading.ts';

const NAME = 'Easy Diffusion';

/** Labels that are not the name with spaces for underscores. */
const LABELS: Record<string, string> = {
  num_inference_steps: 'Steps',
  sampler_name: 'Sampler',
  use_stable_diffusion_model: 'Stable Diffusion model',
  use_vae_model: 'VAE model',
  use_lora_model: 'LoRA model',
  lora_alpha: 'LoRA Strength',
  use_hypernetwork_model: 'Hypernetwork model',
  use_controlnet_model: 'ControlNet model',
  use_upscale: 'Use Upscaling',
  tiling: 'Seamless Tiling',
};

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts, exif }) {
    const all: ReadonlyMap<string, unknown> =
      texts.has('negative_prompt') || texts.has('Negative Prompt')
        ? texts
        : new Map(Object.entries(readJsonObject(exif.get(ExifTag.userComment)) ?? {}));
    const get = (name: string): unknown => all.get(name) ?? all.get(LABELS[name] ?? label(name));
    // Others may have a text of the name `negative_prompt`, too.
    if (get('num_inference_steps') === undefined || get('guidance_scale') === undefined) {
      return null;
    }
    const findings = new Findings(NAME)
      .prompt(get('prompt'))
      .negativePrompt(get('negative_prompt'))
      .steps(get('num_inference_steps'))
      .guidance(get('guidance_scale'))
      .seed(get('seed'))
      .size(get('width'), get('height'))
      .sampler(get('sampler_name'))
      .checkpoint(get('use_stable_diffusion_model'));
    const strength = get('prompt_strength');
    if (textOf(strength) !== undefined && !/^none$/i.test(textOf(strength) ?? '')) {
      findings.strength(strength).lost('the picture it started from');
    }
    const lora = textOf(get('use_lora_model'));
    if (lora !== undefined && !/^(none|\[\])$/i.test(lora)) {
      findings.lora(lora, get('lora_alpha'));
    }
    return findings
      .lostIf(get('use_controlnet_model'), 'the ControlNet')
      .lostIf(get('use_vae_model'), `the VAE ${textOf(get('use_vae_model')) ?? ''}`)
      .lostIf(get('use_hypernetwork_model'), 'the hypernetwork')
      .lostIf(get('clip_skip'), 'clip skip')
      .lostIf(get('tiling'), 'seamless tiling')
      .lostIf(get('use_face_correction'), 'face correction')
      .lostIf(get('use_upscale'), 'upscaling')
      .reading();
  },
};

function label(name: string): string {
  return name
    .split('_')
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join(' ');
}
