/** InvokeAI: `invokeai_metadata` since version 3, `sd-metadata` in version 2, and the command line in `Dream` before. */
import { isObject, own, readJsonObject, textOf } from '../json.ts';
import { Findings, type Reading, type Tool } from '../reading.ts';

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
  const findings = new Findings(NAME)
    .prompt(json.positive_prompt)
    .negativePrompt(json.negative_prompt)
    .steps(json.steps)
    .guidance(json.cfg_scale)
    .seed(json.seed)
    .size(json.width, json.height);
  scheduler(findings, json.scheduler);
  const { model } = json;
  findings.checkpoint(own(model, 'name') ?? own(model, 'model_name') ?? own(model, 'key'), own(model, 'hash'));
  for (const lora of listOf(json.loras)) {
    const named = own(lora, 'model') ?? own(lora, 'lora');
    findings.lora(own(named, 'name') ?? own(named, 'model_name'), own(lora, 'weight'));
  }
  findings
    .lostIf(json.controlnets, 'the ControlNet')
    .lostIf(json.control_layers, 'the control layers')
    .lostIf(json.ipAdapters, 'the IP adapter')
    .lostIf(json.t2iAdapters, 'the T2I adapter')
    .lostIf(isObject(json.vae) ? json.vae.name : json.vae, 'another VAE')
    .lostIf(json.clip_skip, `clip skip ${textOf(json.clip_skip) ?? ''}`)
    .lostIf(json.hrf_enabled, 'the second pass at a larger size')
    .lostIf(isObject(json.refiner_model), 'the refiner')
    .lostIf(json.seamless_x === true || json.seamless_y === true, 'seamless tiling')
    .lostIf(json.positive_style_prompt !== json.positive_prompt && json.positive_style_prompt, 'the style prompt')
    .lostIf(json.rand_device === 'cuda' || json.rand_device === 'mps', 'its noise, which was drawn on the GPU');
  if (textOf(json.init_image) !== undefined || /img2img|inpaint|outpaint/.test(textOf(json.generation_mode) ?? '')) {
    findings.strength(json.strength).lost('the picture it started from');
  }
  if (/inpaint|outpaint/.test(textOf(json.generation_mode) ?? '')) {
    findings.lost('the mask');
  }
  return findings.reading();
}

function fromOldMetadata(json: Record<string, unknown>): Reading | null {
  const image = json.image;
  const prompt = own(image, 'prompt');
  const first: unknown = Array.isArray(prompt) ? own(prompt[0], 'prompt') : prompt;
  const findings = new Findings(NAME)
    .steps(own(image, 'steps'))
    .guidance(own(image, 'cfg_scale'))
    .seed(own(image, 'seed'))
    .size(own(image, 'width'), own(image, 'height'))
    .checkpoint(json.model_weights, json.model_hash)
    .lostIf(Array.isArray(prompt) && prompt.length > 1, 'further prompts that were blended with the first')
    .lostIf(own(image, 'postprocessing'), 'what was done to the picture afterwards')
    .lostIf(own(image, 'seamless'), 'seamless tiling');
  scheduler(findings, own(image, 'sampler'));
  withNegative(findings, textOf(first) ?? '');
  if (own(image, 'type') === 'img2img') {
    findings.strength(own(image, 'strength')).lost('the picture it started from');
  }
  return findings.reading();
}

/** `"words [negative words]" -s 50 -S 123 -W 512 -H 512 -C 7.5 -A k_lms` */
function fromDream(line: string): Reading | null {
  const words = /^\s*"([^"]*)"/.exec(line);
  if (!words) {
    return null;
  }
  const options = new Map<string, string>();
  for (const [, option, value] of line.slice(words[0].length).matchAll(/\s-([A-Za-z])\s?([^\s-]\S*)/g)) {
    options.set(option, value);
  }
  if (options.size === 0) {
    return null;
  }
  const findings = new Findings(NAME)
    .steps(options.get('s'))
    .guidance(options.get('C'))
    .seed(options.get('S'))
    .size(options.get('W'), options.get('H'));
  scheduler(findings, options.get('A'));
  withNegative(findings, words[1]);
  if (options.has('I')) {
    findings.strength(options.get('f')).lost('the picture it started from');
  }
  return findings.reading();
}

/** Before version 3 negative words stood in brackets. */
function withNegative(findings: Findings, prompt: string): void {
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

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value.slice(0, 40) : [];
}
