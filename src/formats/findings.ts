/** Collects what a tool's file says of how a picture was made, and judges which of it an operation can take. */
import * as v from 'valibot';
import { GUIDANCE_METHODS, apgEta, apgNormThreshold, guidanceMethod } from '../core/guidance.ts';
import { hiresScale, hiresSteps, hiresStrength, hiresUpscaler } from '../core/hires.ts';
import { tiledEntries } from '../core/tiled.ts';
import { loraName } from '../core/loras.ts';
import { loraParts } from '../core/lora_tags.ts';
import { isWholeShift, modelSamplingEntries, type ModelSamplingRequest } from '../core/model_sampling.ts';
import * as parameter from '../core/parameters.ts';
import { isOff, type Fields } from './fields.ts';
import { isObject, listOf, numberOf, readJsonObject, textOf } from './json.ts';
import { inactiveSyntax, type PromptSyntax } from './prompt_syntax.ts';
import type { PromptReading, ReadLora, Reading, ReadParameters } from './reading.ts';
import { samplerNamed, scheduleNamed } from './sampler_labels.ts';

const MAX_NOT_RESTORED = 40;
const MAX_SHOWN = 60;
const MAX_NAME = 40;
const NETWORK_TAG = /<(lora|lyco|hypernet):([^<>:]+)(?::([^<>]*))?>/gi;

/** Builds a reading: values that pass our schemas become parameters, everything else is listed. */
export class Findings {
  readonly #parameters: ReadParameters = {};
  readonly #checkpoint: Reading['checkpoint'] = { name: null, hash: null };
  readonly #loras: ReadLora[] = [];
  readonly #loraHashes = new Map<string, string>();
  readonly #notRestored = new Set<string>();
  readonly #unread: string[] = [];
  #promptSyntax: PromptReading | undefined;

  /** @param syntax of its prompts; null if they are plain text */
  constructor(
    readonly tool: string,
    readonly syntax: PromptSyntax | null = 'automatic1111',
  ) {}

  /** Removes network tags such as `<lora:name:0.8>` from the prompt, like the tools that support them. */
  prompt(value: unknown): this {
    const prompt = this.#words(value);
    if (prompt !== undefined) {
      this.#parameters.prompt = prompt;
    }
    return this;
  }

  /** A prompt without tags, even if something looks like one. */
  words(prompt: unknown): this {
    if (typeof prompt === 'string') {
      this.#parameters.prompt = prompt;
    }
    return this;
  }

  negativePrompt(value: unknown): this {
    const prompt = this.#words(value);
    if (prompt !== undefined) {
      this.#parameters.negative_prompt = prompt;
    }
    return this;
  }

  steps(value: unknown): this {
    return this.#number('steps', value, parameter.steps(), 'the number of steps');
  }

  guidance(value: unknown): this {
    return this.#number('guidance_scale', value, parameter.guidanceScale(), 'the guidance');
  }

  /**
   * @param layer of the text encoder to read, counted from the last, 1
   * @param usual the tool's default
   */
  clipSkip(layer: unknown, usual = 1): this {
    const number = numberOf(layer);
    if (isOff(layer) || number === usual) {
      return this;
    }
    if (v.is(parameter.clipSkip(), number)) {
      this.#parameters.clip_skip = number;
      return this;
    }
    return this.lost(`clip skip ${shown(layer)}`);
  }

  /** @param name as in operations, if the file has it; otherwise the tool's default */
  promptSyntax(name: unknown): this {
    this.#promptSyntax = v.is(parameter.promptSyntax(), name) ? name : undefined;
    return this;
  }

  guidanceRescale(value: unknown): this {
    return isOff(value)
      ? this
      : this.#number('guidance_rescale', value, parameter.guidanceRescale(), 'the rescaled guidance');
  }

  /** @param value of the strength on an input picture; 0 changes nothing and is not allowed */
  strength(value: unknown): this {
    return this.#number('strength', value, parameter.strength(), 'the strength');
  }

  /** The second pass at a larger size. @param upscaler as in operations */
  hires(
    scale: unknown,
    { steps, strength, upscaler }: { steps?: unknown; strength?: unknown; upscaler?: unknown },
  ): this {
    const [factor, count, share] = [scale, steps, strength].map(numberOf);
    if (factor === 1 || isOff(scale)) {
      return this;
    }
    if (!v.is(hiresScale(), factor)) {
      return this.lost(`the second pass at ${shown(scale)} times the size`);
    }
    this.#parameters.hires_scale = factor;
    if (v.is(hiresSteps(), count)) {
      this.#parameters.hires_steps = count;
    } else {
      this.lostIf(steps, `the ${shown(steps)} steps of the second pass`);
    }
    if (v.is(hiresStrength(), share)) {
      this.#parameters.hires_denoising_strength = share;
    } else {
      this.lostIf(strength, `the strength ${shown(strength)} of the second pass`);
    }
    if (v.is(hiresUpscaler(), upscaler)) {
      this.#parameters.hires_upscaler = upscaler;
    }
    return this;
  }

  /** How a picture was painted in tiles. @param said what is not allowed is left out */
  tiled(said: Readonly<Record<keyof ReturnType<typeof tiledEntries>, unknown>>): this {
    for (const [name, schema] of Object.entries(tiledEntries())) {
      const value = said[name as keyof typeof said];
      if (value !== undefined && v.is(schema, value)) {
        Object.assign(this.#parameters, { [name]: value });
      }
    }
    return this;
  }

  upscale(scale: number | undefined): this {
    if (scale !== undefined) {
      this.#parameters.scale = scale;
    }
    return this;
  }

  size(width: unknown, height: unknown): this {
    const size = { width: numberOf(width), height: numberOf(height) };
    if (size.width === undefined && size.height === undefined) {
      return this;
    }
    if (v.is(parameter.size('width'), size.width) && v.is(parameter.size('height'), size.height)) {
      Object.assign(this.#parameters, size);
      return this;
    }
    return this.lost(`the size ${shown(width)}×${shown(height)}`);
  }

  /** A seed below 0 means "any" in most tools. */
  seed(value: unknown): this {
    const seed = textOf(value)?.trim();
    if (v.is(parameter.seed(), seed)) {
      this.#parameters.seed = seed;
    } else if (seed !== undefined) {
      this.lost(`the seed ${shown(seed)}`);
    }
    return this;
  }

  /**
   * @param sampler label or id, joined with a schedule or not
   * @param schedule label or id, if the tool keeps it separate
   */
  sampler(sampler: unknown, schedule?: unknown): this {
    const label = textOf(sampler);
    const named = label === undefined ? null : samplerNamed(label);
    if (named) {
      this.#parameters.sampler = named.sampler;
    } else if (label !== undefined && scheduleNamed(label) !== undefined) {
      this.lost(`the sampler ${shown(label)}`);
    }
    const scheduleText = textOf(schedule);
    const id = (scheduleText === undefined ? undefined : scheduleNamed(scheduleText)) ?? named?.schedule;
    if (typeof id === 'string') {
      this.#parameters.schedule = id;
    } else if (scheduleText !== undefined && scheduleNamed(scheduleText) === null) {
      this.lost(`the schedule ${shown(scheduleText)}`);
    }
    return this;
  }

  /** @param name as in operations; anything else is skipped */
  noise(name: unknown): this {
    if (v.is(parameter.noise(), name)) {
      this.#parameters.noise = name;
    }
    return this;
  }

  /** How the two predictions become one. */
  guidanceMethod(method: unknown, eta: unknown, longest: unknown): this {
    if (v.is(guidanceMethod(GUIDANCE_METHODS), method)) {
      this.#parameters.guidance_method = method;
    }
    if (method === 'apg' && v.is(apgEta(), eta)) {
      this.#parameters.apg_eta = eta;
    }
    if (method === 'apg' && v.is(apgNormThreshold(), longest)) {
      this.#parameters.apg_norm_threshold = longest;
    }
    return this;
  }

  /** Takes all of it, as a part would shift otherwise, or nothing. */
  takesModelSampling(request: { [Name in keyof ModelSamplingRequest]: unknown }): boolean {
    const known = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined));
    const entries = { ...modelSamplingEntries(), shift: v.optional(parameter.flowShift()) };
    const result = v.safeParse(v.strictObject(entries), known);
    if (!result.success || !isWholeShift(result.output)) {
      return false;
    }
    Object.assign(this.#parameters, result.output);
    return true;
  }

  follows(name: unknown): this {
    if (v.is(parameter.follows(), name)) {
      this.#parameters.follows = name;
    }
    return this;
  }

  /** A variation towards another seed's noise; none without a strength. */
  variation(seed: unknown, strength: unknown): this {
    if (isOff(strength)) {
      return this;
    }
    const [text, share] = [textOf(seed)?.trim(), numberOf(strength)];
    if (v.is(parameter.seed(), text) && v.is(parameter.variationStrength(), share)) {
      this.#parameters.variation_seed = text;
      this.#parameters.variation_strength = share;
      return this;
    }
    return this.lost(`the variation seed ${shown(seed)} at ${shown(strength)}`);
  }

  /** @param delta added to the seed for the noise of steps, if each picture has its own generator */
  seedDelta(delta: unknown): this {
    const number = numberOf(delta);
    if (isOff(delta)) {
      return this;
    }
    if (['nv', 'a1111_cpu'].includes(this.#parameters.noise ?? '') && v.is(parameter.etaNoiseSeedDelta(), number)) {
      this.#parameters.eta_noise_seed_delta = number;
      return this;
    }
    return this.lost(`ensd ${shown(delta)}`);
  }

  prediction(type: unknown, rescales: unknown): this {
    if (v.is(parameter.predictionType(), type)) {
      this.#parameters.prediction_type = type;
      this.#parameters.rescale_betas_zero_snr = rescales === true;
    }
    return this;
  }

  checkpoint(name: unknown, hash?: unknown): this {
    this.#checkpoint.name ??= textOf(name)?.slice(0, 256) ?? null;
    this.#checkpoint.hash ??= textOf(hash)?.slice(0, 256) ?? null;
    return this;
  }

  /** @param what see {@link Reading.notRestored} */
  lost(what: string): this {
    if (this.#notRestored.size < MAX_NOT_RESTORED) {
      this.#notRestored.add(what);
    }
    return this;
  }

  hasLost(what: string): boolean {
    return this.#notRestored.has(what);
  }

  /** Reports it if `value` means in use: not absent, empty, zero or off. */
  lostIf(value: unknown, what: string): this {
    return isOff(value) ? this : this.lost(what);
  }

  /** Lists whatever was not asked for, if anything else shows that these are settings. */
  unread(fields: Fields): this {
    this.#unread.push(...fields.unread().map(([name, value]) => settingNamed(name, value)));
    return this;
  }

  /**
   * @param strength absent if the tool means 1
   * @param hash as in {@link ReadLora.hash}
   * @param onWords its strength on the text encoder, if separate
   * @param use by block and by step
   */
  lora(
    name: unknown,
    strength: unknown,
    {
      sha256 = null,
      hash = null,
      onWords,
      ...use
    }: Partial<Omit<ReadLora, 'name' | 'weight'>> & { onWords?: unknown } = {},
  ): this {
    const text = textOf(name);
    const weight = textOf(strength) === undefined ? 1 : numberOf(strength);
    if (text === undefined) {
      return this.lost(`a LoRA at ${shown(strength)} whose name is missing`);
    }
    if (!v.is(parameter.loraWeight(), weight)) {
      return this.lost(`the LoRA ${shown(loraName(text))} at ${shown(strength)}`);
    }
    if (this.#loras.length < MAX_NOT_RESTORED) {
      this.#loras.push({ name: loraName(text).slice(0, 256), weight, hash, sha256, ...use });
    }
    if (textOf(onWords) !== undefined && numberOf(onWords) !== weight) {
      this.lost(`the separate strength of the LoRA ${shown(loraName(text))} on the prompt (${shown(onWords)})`);
    }
    return this;
  }

  /** Those found so far. */
  get loras(): readonly ReadLora[] {
    return this.#loras;
  }

  hasLora(name: string): boolean {
    return this.#loras.some((lora) => nameKey(lora.name) === nameKey(name));
  }

  /** @param list `name: hash, name: hash`, as AUTOMATIC1111 writes it, or an object of them */
  loraHashes(list: unknown): this {
    for (const [name, hash] of namedHashes(list)) {
      this.#loraHashes.set(nameKey(name), hash);
    }
    return this;
  }

  /** Embeddings stay in the prompt as words; @param list as for {@link loraHashes} */
  embeddings(list: unknown): this {
    for (const [name] of namedHashes(list)) {
      this.lost(`the effect of the embedding ${shown(loraName(name))}`);
    }
    return this;
  }

  /** @returns null if nothing was found that an operation could use or the person must know */
  reading(): Reading | null {
    const { prompt, negative_prompt: negative } = this.#parameters;
    const isNothing = Object.values(this.#parameters).every((value) => value === '');
    if (isNothing && this.#notRestored.size === 0 && this.#loras.length === 0) {
      return null;
    }
    const loras = this.#loras.map((lora) => ({
      ...lora,
      hash: lora.hash ?? this.#loraHashes.get(nameKey(lora.name)) ?? null,
    }));
    // Hashes of unused LoRAs: from the prompt of a second pass, or a tag that another tool removed.
    for (const name of this.#loraHashes.keys()) {
      if (!loras.some((lora) => nameKey(lora.name) === name)) {
        this.lost(`the LoRA ${shown(name)}, whose strength is missing`);
      }
    }
    this.#unread.forEach((what) => this.lost(what));
    const inactive = this.syntax === null ? [] : inactiveSyntax([prompt ?? '', negative ?? ''], this.syntax);
    const syntax =
      this.#promptSyntax ?? (this.syntax === 'automatic1111' || this.syntax === 'comfyui' ? this.syntax : 'literal');
    const lostPrompt = prompt === undefined && ![...this.#notRestored].some((what) => what.startsWith('the prompt'));
    return {
      tool: this.tool,
      parameters: this.#parameters,
      checkpoint: this.#checkpoint,
      loras,
      ...(syntax !== 'literal' && { prompt_syntax: syntax }),
      notRestored: [...(lostPrompt ? ['the prompt, which could not be read'] : []), ...this.#notRestored, ...inactive],
    };
  }

  #words(value: unknown): string | undefined {
    if (typeof value !== 'string') {
      return undefined;
    }
    let hasTags = false;
    const words = value.replace(NETWORK_TAG, (_, kind: string, name: string, strengths?: string) => {
      hasTags = true;
      if (kind.toLowerCase() === 'hypernet') {
        this.lost(`the hypernetwork ${shown(name)}`);
      } else {
        this.#tag(name, strengths);
      }
      return '';
    });
    return hasTags ? words.trim() : words;
  }

  /**
   * `0.8`; `0.5:0.8` for the text encoder and the rest, in ComfyUI's nodes and SwarmUI the other way round; `te=0.5:unet=0.8`; and what
   * SD.Next and others add.
   */
  #tag(name: string, strengths = ''): void {
    const parts = strengths
      .split(':')
      .map((part) => part.trim())
      .filter((part) => part !== '');
    const named = (key: string) => parts.find((part) => part.startsWith(`${key}=`))?.slice(key.length + 1);
    const plain = parts.filter((part) => !part.includes('='));
    const [first, second] = this.syntax === 'comfyui' ? [plain[1], plain[0]] : plain;
    const words = named('te') ?? first ?? second;
    const network = named('unet') ?? second ?? words;
    const byPart = parts.filter((part) => part.includes('=') && !/^(te|unet)=/.test(part));
    const use = byPart.length === 0 ? {} : this.syntax === 'automatic1111' ? loraParts(byPart) : null;
    this.lora(name, network, { onWords: words ?? (network === undefined ? undefined : 1), ...use });
    if (use === null) {
      this.lost(`the strengths of single parts of the LoRA ${shown(loraName(name))}`);
    }
  }

  #number(
    name: 'steps' | 'guidance_scale' | 'guidance_rescale' | 'strength',
    value: unknown,
    schema: v.GenericSchema,
    label: string,
  ): this {
    const number = numberOf(value);
    if (v.is(schema, number)) {
      this.#parameters[name] = number;
    } else if (textOf(value) !== undefined) {
      this.lost(`${label} ${shown(value)}`);
    }
    return this;
  }
}

/** Tools name the same LoRA with or without its folder and extension. */
function nameKey(name: string): string {
  return loraName(name).toLowerCase();
}

function namedHashes(list: unknown): [name: string, hash: string][] {
  const given = isObject(list) ? list : readJsonObject(textOf(list)?.trim().startsWith('{') ? textOf(list) : null);
  const pairs = given
    ? Object.entries(given).map(([name, hash]) => [name, textOf(hash)?.trim()] as const)
    : (textOf(list) ?? '').split(',').map((pair) => {
        const colon = pair.lastIndexOf(':');
        return colon < 0
          ? ([pair.trim(), ''] as const)
          : ([pair.slice(0, colon).trim(), pair.slice(colon + 1).trim()] as const);
      });
  return pairs.slice(0, MAX_NOT_RESTORED).flatMap(([name, hash]) => (name && hash ? [[name, hash]] : []));
}

/** `clip skip 2`, `face restoration`, or `the setting "civitai metadata"` for what is no word or number. */
function settingNamed(name: string, value: unknown): string {
  const words = name
    .slice(0, MAX_NAME)
    .replace(/([a-z])([A-Z])/g, '$1 $2')
    .replace(/[\s_-]+/g, ' ')
    .replace(/ \d$/, '')
    .trim()
    .toLowerCase();
  if (value === true || /^(true|yes|on|enabled?)$/i.test(textOf(value) ?? '')) {
    return words;
  }
  const list = listOf(value);
  if (list.length > 0 && list.every((one) => textOf(one) !== undefined && !isData(one))) {
    return `${words} ${shown(list.map(textOf).join(', '))}`;
  }
  return `the setting "${words}"`;
}

/** A value from a file, if short enough for a sentence; JSON and other data are not. */
export function shown(value: unknown): string {
  const text = (textOf(value) ?? '').replace(/\s+/g, ' ').trim();
  if (text === '' || isData(text)) {
    return '?';
  }
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 1).toWellFormed()}…` : text;
}

function isData(value: unknown): boolean {
  return /^\s*[[{<]|":/.test(textOf(value) ?? '');
}
