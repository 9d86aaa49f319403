/** What the settings in an infotext mean in our terms, in the spellings of AUTOMATIC1111 and its descendants. */
import { readHashes, readResources } from './civitai_resources.ts';
import { Fields } from './fields.ts';
import { Findings, shown } from './findings.ts';
import type { Infotext } from './infotext.ts';
import { numberOf, textOf } from './json.ts';
import type { PromptSyntax } from './prompt_syntax.ts';
import type { Reading } from './reading.ts';
import { hiresUpscalerNamed } from './sampler_labels.ts';

/** Describes how the picture was made, but needs no restoring. */
const TOLD =
  /^(Version|User|App|Operations|Pipeline|Backend|Parser|Created( Date)?|Model hash|VAE hash|Init image hash)$/;
const TEMPLATE = /^(Negative )?(Template|Wildcard (negative )?prompt|Prompt template)\b/i;

const HIRES = 'the second pass at a larger size (hires)';
const DRAWN = 'the template that its words were drawn from';

/** Keys that belong together, and their common description. */
const GROUPS: readonly (readonly [keys: RegExp, what: string])[] = [
  [/^ADetailer/, 'the faces or hands that were painted again (ADetailer)'],
  [/^(Script|[XYZ] (Type|Values)|Fixed [XYZ] Values)$/, 'the grid of pictures that it was a part of'],
  [/^Regional Prompter|^RP /, 'the prompts of single regions'],
  [/^FreeU/, 'FreeU'],
  [/^Tiled Diffusion/, 'that it was made in tiles'],
  [/^Civitai metadata$/, "Civitai's notes about it"],
  [TEMPLATE, DRAWN],
];

/**
 * @param syntax of its prompts; null if they are plain text
 * @returns null if the text has no pairs, and so is no infotext
 */
export function readingOf(
  { prompt, negative_prompt, fields: given, behind = [] }: Infotext,
  tool: string,
  syntax: PromptSyntax | null = 'automatic1111',
): Reading | null {
  if (given.size === 0) {
    return null;
  }
  const fields = new Fields(given);
  const findings = new Findings(tool, syntax)
    .prompt(prompt)
    .negativePrompt(negative_prompt)
    .steps(fields.get('Steps'))
    .sampler(fields.get('Sampler'), fields.get('Schedule type'))
    .guidance(fields.get('CFG scale'))
    .seed(fields.get('Seed'))
    .size(fields.get('Size-1'), fields.get('Size-2'))
    .checkpoint(fields.get('Model'), fields.get('Model hash'));
  readNetworks(findings, fields);
  fields.all(TOLD);
  // Fooocus' usual one.
  findings.lostIf(
    fields.get('ADM Guidance') === '(1.5, 0.8, 0.3)' ? null : fields.get('ADM Guidance'),
    'the guidance by size',
  );
  readControlNets(findings, fields);
  const strength = fields.get('Denoising strength');
  const isTwice = readHires(findings, fields, strength);
  readTiles(findings, fields);
  for (const [keys, what] of GROUPS) {
    findings.lostIf(
      fields.all(keys).map(([, value]) => value),
      what,
    );
  }
  if (strength !== undefined && !isTwice) {
    findings.strength(strength).lost('the picture it started from');
  }
  readNoise(findings, fields);
  // SD.Next hands it to diffusers.
  findings.guidanceRescale(fields.get('CFG rescale'));
  findings.clipSkip(fields.get('Clip skip'));
  // stable-diffusion.cpp says it of every picture.
  findings.lostIf(fields.get('Guidance'), `the Flux guidance ${numberOf(fields.get('Guidance')) ?? '?'}`);
  // A template may have several lines, and is the last that is written.
  const template = behind.findIndex((line) => TEMPLATE.test(line));
  const notes = template < 0 ? behind : behind.slice(0, template);
  findings.lostIf(template >= 0, DRAWN).lostIf(notes, 'notes behind its settings');
  return findings.unread(fields).reading();
}

/**
 * @param strength of the second pass, where there is one
 * @returns whether there is
 */
function readHires(findings: Findings, fields: Fields, strength: unknown): boolean {
  const [scale, steps, label] = ['upscale', 'steps', 'upscaler'].map((name) => fields.get(`Hires ${name}`));
  const [across, down] = [1, 2].map(
    (side) => Number(fields.get(`Hires resize-${side}`)) / Number(fields.get(`Size-${side}`)),
  );
  const all = fields.all(/^Hires /);
  if (scale === undefined && !(Math.abs(across - down) < 0.01)) {
    findings.lostIf(
      all.map(([, value]) => value),
      HIRES,
    );
    return all.length > 0;
  }
  // Forge says of what is as in the first pass that it is.
  const guidance = textOf(fields.get('CFG scale'));
  const others = all.filter(
    ([key, value]) =>
      !/^Hires (upscale|steps|upscaler|resize-\d)$/.test(key) &&
      value !== 'Use same choices' &&
      !(key === 'Hires CFG Scale' && value === guidance),
  );
  findings.lostIf(
    others.map(([, value]) => value),
    'what the second pass (hires) had of its own',
  );
  const upscaler = hiresUpscalerNamed(label);
  if (label !== undefined && upscaler === undefined && label !== 'None') {
    findings.lost(`the upscaler ${shown(label)} of the second pass, in whose place the picture is scaled (Lanczos)`);
  }
  // It runs all of them over that share of the noise, and we run that share of them.
  const [run, share] = [numberOf(steps) || numberOf(fields.get('Steps')), numberOf(strength)];
  findings.hires(scale ?? Math.round(across * 1000) / 1000, {
    steps: run && share ? Math.ceil(run / share) : steps,
    strength,
    upscaler: upscaler ?? 'lanczos',
  });
  return true;
}

/** The script "SD upscale" says nothing of the factor, in which case there is nothing to restore; its forks and Darkroom do. */
function readTiles(findings: Findings, fields: Fields): void {
  const number = (value: unknown) => numberOf(value) ?? undefined;
  const scale = number(fields.get('SD upscale scale factor'));
  const size = number(fields.get('SD upscale tileSize'));
  const overlap = number(fields.get('SD upscale overlap'));
  const label = fields.get('SD upscale upscaler');
  const all = fields.all(/^(Ultimate )?SD upscale /);
  if (scale === undefined) {
    findings.lostIf(
      all.map(([, value]) => value),
      'how it was enlarged and painted in tiles (SD upscale)',
    );
    return;
  }
  const upscaler = hiresUpscalerNamed(label);
  if (label !== undefined && upscaler === undefined && label !== 'None') {
    findings.lost(`the upscaler ${shown(label)} before its tiles, in whose place the picture is scaled (Lanczos)`);
  }
  findings.tiled({
    tiled_scale: scale,
    tiled_size: size,
    tiled_overlap: overlap,
    tiled_upscaler: upscaler ?? 'lanczos',
  });
}

/** ControlNets by name: their control pictures are never in a recipe, so a person has to give them again. */
function readControlNets(findings: Findings, fields: Fields): void {
  const found = fields.all(/^ControlNet/);
  const names = found.flatMap(([key, value]) => {
    const text = textOf(value) ?? '';
    const model = /\bModel$/.test(key) ? text : (/\bModel: ([^,]+)/.exec(text)?.[1] ?? '');
    const name = model.replace(/ \[[0-9a-f]+\]$/i, '').trim();
    return name === '' || name === 'None' ? [] : [name];
  });
  names.forEach((name) => {
    findings.lost(`the ControlNet ${shown(name)}, as its control picture is not in these settings`);
  });
  if (names.length === 0) {
    findings.lostIf(
      found.map(([, value]) => value),
      'the ControlNet',
    );
  }
}

/** LoRAs and embeddings, in the various spellings of lists beside the prompt. */
function readNetworks(findings: Findings, fields: Fields): void {
  findings.loraHashes(fields.get('Lora hashes')).embeddings(fields.get('TI hashes'));
  const hashes = fields.get('Hashes');
  if (hashes !== undefined) {
    readHashes(findings, hashes);
  }
  // Additional Networks: AddNet Module 1: LoRA, AddNet Model 1: brass(0123456789ab), AddNet Weight A 1: 0.8
  for (const [key, model] of fields.all(/^AddNet Model \d+$/)) {
    const number = key.replace(/^\D+/, '');
    const [, name, hash] = /^(.*?)(?:\(([0-9a-f]+)\))?$/i.exec(textOf(model) ?? '') ?? [];
    if (!/^none$/i.test(name)) {
      findings.lora(name, fields.get(`AddNet Weight A ${number}`), { hash: hash ?? null });
    }
  }
  fields.all(/^AddNet /);
  // Fooocus: Lora weights: "brass: 0.5, ink: 0.3"
  for (const pair of (textOf(fields.get('Lora weights')) ?? '').split(',')) {
    const [, name, weight] = /^(.+):([^:]+)$/.exec(pair.trim()) ?? [];
    if (name && !findings.hasLora(name)) {
      findings.lora(name, weight);
    }
  }
  // ComfyUI-Image-Saver: Lora_0 Model name: brass.safetensors, Lora_0 Model hash: …, Lora_0 Strength model: 0.8
  for (const [key, name] of fields.all(/^Lora_\d+ Model name$/)) {
    const [prefix] = key.split(' ');
    const hash = textOf(fields.get(`${prefix} Model hash`)) ?? null;
    if (!findings.hasLora(textOf(name) ?? '')) {
      findings.lora(name, fields.get(`${prefix} Strength model`), { hash });
    }
  }
  fields.all(/^Lora_\d+ /);
  const resources = fields.get('Civitai resources');
  if (resources !== undefined) {
    readResources(findings, resources);
  }
}

/** Version strings of AUTOMATIC1111 and its descendants, which record where noise was drawn unless it was the GPU. */
const DRAWS_ON_GPU = /^(v\d|f\d|neo)/;

/** The source of the noise. A GPU is nearly always an NVIDIA one, which the imitation reproduces. */
function readNoise(findings: Findings, fields: Fields): void {
  const source = textOf(fields.get('RNG'))?.toLowerCase();
  const version = textOf(fields.get('Version')) ?? '';
  if (source === undefined ? DRAWS_ON_GPU.test(version) : ['nv', 'cuda', 'gpu'].includes(source)) {
    findings.noise('nv');
  } else if (source === 'cpu') {
    // Our own infotexts say so if one generator drew the noise of all pictures.
    findings.noise(version.startsWith('Darkroom') ? undefined : 'a1111_cpu');
  } else if (source !== undefined) {
    findings.lost(`its noise, which was drawn in another way (${shown(source)})`);
  }
  findings.variation(fields.get('Variation seed'), fields.get('Variation seed strength')).seedDelta(fields.get('ENSD'));
}
