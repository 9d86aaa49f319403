/** InvokeAI: `invokeai_metadata` since version 3, `sd-metadata` in version 2, and the command line in `Dream` before. */
import { parseDream } from '../dream.ts';
import { Fields } from '../fields.ts';
import { isObject, listOf, numberOf, own, readJsonObject, textOf } from '../json.ts';
import { Findings } from '../findings.ts';
import type { Reading, Tool } from '../reading.ts';

const NAME = 'InvokeAI';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts }) {
    const json = readJsonObject(texts.get('invokeai_metadata'));
    const old = readJsonObject(texts.get('sd-metadata'));
    const dream = texts.get('Dream');
    return (
      (json && fromMetadata(json)) ?? (old && fromOldMetadata(old)) ?? (dream === undefined ? null : fromDream(dream))
    );
  },
};

function fromMetadata(json: Record<string, unknown>): Reading | null {
  const fields = new Fields(json);
  const prompt = fields.get('positive_prompt');
  const findings = new Findings(NAME, 'compel')
    .prompt(prompt)
    .negativePrompt(fields.get('negative_prompt'))
    .steps(fields.get('steps'))
    .guidance(fields.get('cfg_scale'))
    .guidanceRescale(fields.get('cfg_rescale_multiplier'))
    .seed(fields.get('seed'))
    .size(fields.get('width'), fields.get('height'));
  scheduler(findings, fields.get('scheduler'));
  const model = fields.get('model');
  findings.checkpoint(own(model, 'name') ?? own(model, 'model_name') ?? own(model, 'key'), own(model, 'hash'));
  for (const lora of listOf(fields.get('loras'))) {
    const named = own(lora, 'model') ?? own(lora, 'lora');
    findings.lora(own(named, 'name') ?? own(named, 'model_name'), own(lora, 'weight'), {
      hash: textOf(own(named, 'hash')) ?? null,
    });
  }
  const vae = fields.get('vae');
  const style = fields.get('positive_style_prompt');
  const device = fields.get('rand_device');
  const mode = textOf(fields.get('generation_mode')) ?? '';
  const strength = fields.get('strength');
  findings
    .lostIf(fields.get('controlnets'), 'the ControlNet')
    .lostIf(fields.get('control_layers'), 'the control layers')
    .lostIf(fields.get('ipAdapters'), 'the IP adapter')
    .lostIf(fields.get('t2iAdapters'), 'the T2I adapter')
    .lostIf(fields.get('regions'), 'the prompts of single regions')
    .lostIf(fields.get('ref_images'), 'the reference pictures')
    .lostIf(isObject(vae) ? vae.name : vae, 'another VAE')
    // Layers that are left out.
    .clipSkip((numberOf(fields.get('clip_skip')) ?? 0) + 1)
    .lostIf(fields.get('hrf_enabled'), 'the second pass at a larger size')
    .lostIf(fields.get('refiner_model'), 'the refiner')
    .lostIf(fields.get('seamless_x') === true || fields.get('seamless_y') === true, 'seamless tiling')
    .lostIf(style !== prompt && style, 'the style prompt')
    .lostIf(device === 'cuda' || device === 'mps', 'its noise, which was drawn on the GPU');
  if (textOf(fields.get('init_image')) !== undefined || /img2img|inpaint|outpaint/.test(mode)) {
    findings.strength(strength).lost('the picture it started from');
  }
  if (/inpaint|outpaint/.test(mode)) {
    findings.lost('the mask');
  }
  // Their details are reported with them, and the canvas is the picture's background.
  fields.all(/^(hrf_|refiner_|app_version$|metadata_version$|canvas_v2_metadata$|negative_style_prompt$)/);
  return findings.unread(fields).reading();
}

function fromOldMetadata(json: Record<string, unknown>): Reading | null {
  const all = new Fields(json);
  const image = all.get('image');
  const fields = new Fields(isObject(image) ? image : {});
  const prompt = fields.get('prompt');
  const first: unknown = Array.isArray(prompt) ? own(prompt[0], 'prompt') : prompt;
  const findings = new Findings(NAME, 'compel')
    .steps(fields.get('steps'))
    .guidance(fields.get('cfg_scale'))
    .seed(fields.get('seed'))
    .size(fields.get('width'), fields.get('height'))
    .checkpoint(all.get('model_weights'), all.get('model_hash'))
    .lostIf(Array.isArray(prompt) && prompt.length > 1, 'further prompts that were blended with the first')
    .lostIf(fields.get('postprocessing'), 'what was done to the picture afterwards')
    .lostIf(fields.get('seamless'), 'seamless tiling')
    .lostIf(fields.get('hires_fix'), 'the second pass at a larger size')
    .lostIf(fields.get('variations'), 'the variations of the seed');
  scheduler(findings, fields.get('sampler'));
  withNegative(findings, textOf(first));
  const strength = fields.get('strength');
  if (fields.get('type') === 'img2img') {
    findings.strength(strength).lost('the picture it started from');
  }
  findings.lostIf(fields.get('mask_image_path'), 'the mask');
  fields.all(/^(init_image_path|fit|grid)$/);
  all.all(/^(model|model_id|app_id|app_version)$/);
  return findings.unread(fields).unread(all).reading();
}

function fromDream(line: string): Reading | null {
  const dream = parseDream(line);
  if (!dream) {
    return null;
  }
  const fields = new Fields(dream.options);
  const findings = new Findings(NAME, 'compel')
    .steps(fields.get('steps'))
    .guidance(fields.get('cfg_scale'))
    .seed(fields.get('seed'))
    .size(fields.get('width'), fields.get('height'));
  scheduler(findings, fields.get('sampler'));
  withNegative(findings, dream.prompt);
  const strength = fields.get('strength');
  if (fields.get('init_img') !== undefined) {
    findings.strength(strength).lost('the picture it started from');
  }
  findings
    .lostIf(fields.get('init_mask') ?? fields.get('text_mask'), 'the mask')
    .lostIf(fields.get('variations'), 'the variations of the seed')
    .lostIf(fields.get('hires_fix'), 'the second pass at a larger size')
    .lostIf(fields.get('seamless'), 'seamless tiling')
    .lostIf(fields.get('face restoration'), 'face restoration')
    .lostIf(fields.get('upscaling'), 'upscaling');
  fields.all(
    /^(iterations|batch_size|grid|individual|fit|facetool|codeformer_fidelity|skip_normalize|png_compression|full_precision|init_color)$/,
  );
  return findings.unread(fields).reading();
}

/** Before version 3, negative words were in brackets. */
function withNegative(findings: Findings, prompt: string | undefined): void {
  if (prompt === undefined) {
    return;
  }
  const negative: string[] = [];
  const positive = prompt.replace(/\[([^[\]]*)\]/g, (_, words: string) => {
    negative.push(words.trim());
    return '';
  });
  findings.prompt(positive.trim()).negativePrompt(negative.join(', '));
}

/** Its `_k` at the end of a name is Karras' schedule. */
function scheduler(findings: Findings, value: unknown): void {
  const name = textOf(value);
  const isKarras = name !== undefined && /[^_]_k$/.test(name);
  findings.sampler(isKarras ? name.slice(0, -2) : name, isKarras ? 'karras' : undefined);
}
