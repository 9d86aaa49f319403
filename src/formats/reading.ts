/** What could be read of how a picture was made, by whichever tool, in our names. */
import * as v from 'valibot';
import { loraName } from '../core/loras.ts';
import * as parameter from '../core/parameters.ts';
import { isOff, type Fields } from './fields.ts';
import { isObject, listOf, numberOf, readJsonObject, textOf } from './json.ts';
import type { Metadata } from './metadata.ts';
import { inactiveSyntax, type PromptSyntax } from './prompt_syntax.ts';
import { samplerNamed, scheduleNamed } from './sampler_labels.ts';

/** Only values that an operation takes; what is not known is absent. */
export interface ReadParameters {
  prompt?: string;
  negative_prompt?: string;
  steps?: number;
  guidance_scale?: number;
  /** ComfyUI's ids, whether or not we have that sampler or schedule. */
  sampler?: string;
  schedule?: string;
  seed?: string;
  width?: number;
  height?: number;
  strength?: number;
  /** What a person said of the network by hand; only Darkroom's own files have it. */
  prediction_type?: string;
  rescale_betas_zero_snr?: boolean;
}

export interface Reading {
  /** Its name as people know it. */
  tool: string;
  parameters: ReadParameters;
  /** Hints: the tool's file name or key, and a hash as the tool writes it, short or long. */
  checkpoint: { name: string | null; hash: string | null };
  /** What changed the checkpoint's weights; `hash` as the tool writes it, or of the whole file in `sha256`. */
  loras: ReadLora[];
  /** What was there and could not be taken over, each as a part of a sentence: `the LoRA "paper" at 0.8`. */
  notRestored: string[];
}

export interface ReadLora {
  /** As prompts have it: a file without its ending. */
  name: string;
  weight: number;
  hash: string | null;
  sha256: string | null;
}

/** One file of src/formats/tools: how one tool's pictures are known and read. */
export interface Tool {
  name: string;
  /**
   * In which turn it is asked: `own` has a signature that no other tool writes, `shared` takes a form that others write too, so
   * that these are asked before.
   */
  turn: 'own' | 'shared';
  /** @returns null when the picture is not from this tool */
  read(metadata: Metadata): Reading | null;
}

const MAX_NOT_RESTORED = 40;
const MAX_SHOWN = 60;
const MAX_NAME = 40;
const NETWORK_TAG = /<(lora|lyco|hypernet):([^<>:]+)(?::([^<>]*))?>/gi;

/** Gathers a reading: what passes our own schemas becomes a parameter, everything else is listed. */
export class Findings {
  readonly #parameters: ReadParameters = {};
  readonly #checkpoint: Reading['checkpoint'] = { name: null, hash: null };
  readonly #loras: ReadLora[] = [];
  readonly #loraHashes = new Map<string, string>();
  readonly #notRestored = new Set<string>();
  readonly #unread: string[] = [];

  /** @param syntax of its prompts; null where they are words and nothing else */
  constructor(
    readonly tool: string,
    readonly syntax: PromptSyntax | null = 'automatic1111',
  ) {}

  /** Takes network tags such as `<lora:name:0.8>` out of the words, as the tools do that know them. */
  prompt(value: unknown): this {
    const prompt = this.#words(value);
    if (prompt !== undefined) {
      this.#parameters.prompt = prompt;
    }
    return this;
  }

  /** A prompt that has no tags, whatever looks like one. */
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

  /** @param value of a picture to start from; a strength of 0 changes nothing and cannot be asked for */
  strength(value: unknown): this {
    return this.#number('strength', value, parameter.strength(), 'the strength');
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
   * @param schedule label or id, where the tool keeps it apart
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

  /** @param what as in {@link Reading.notRestored} */
  lost(what: string): this {
    if (this.#notRestored.size < MAX_NOT_RESTORED) {
      this.#notRestored.add(what);
    }
    return this;
  }

  hasLost(what: string): boolean {
    return this.#notRestored.has(what);
  }

  /** Where `value` says that it was in use: not absent, empty, zero or off. */
  lostIf(value: unknown, what: string): this {
    return isOff(value) ? this : this.lost(what);
  }

  /** Whatever no one has asked for is named, if anything else tells that these are settings. */
  unread(fields: Fields): this {
    this.#unread.push(...fields.unread().map(([name, value]) => settingNamed(name, value)));
    return this;
  }

  /**
   * @param strength absent where the tool means 1
   * @param hash as in {@link ReadLora.hash}
   * @param onWords how much it changes the text encoder, where that is said apart; we have one strength for all of it
   */
  lora(
    name: unknown,
    strength: unknown,
    { sha256 = null, hash = null, onWords }: Partial<Pick<ReadLora, 'sha256' | 'hash'>> & { onWords?: unknown } = {},
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
      this.#loras.push({ name: loraName(text).slice(0, 256), weight, hash, sha256 });
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

  /** Embeddings are words of the prompt, which stay there; @param list as for {@link loraHashes} */
  embeddings(list: unknown): this {
    for (const [name] of namedHashes(list)) {
      this.lost(`the effect of the embedding ${shown(loraName(name))}`);
    }
    return this;
  }

  /** @returns null when nothing was found that an operation could use or somebody has to be told */
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
    // Hashes of LoRAs that no one put to use: in a prompt for a second pass, or beside a tag that another tool took out.
    for (const name of this.#loraHashes.keys()) {
      if (!loras.some((lora) => nameKey(lora.name) === name)) {
        this.lost(`the LoRA ${shown(name)}, whose strength is missing`);
      }
    }
    this.#unread.forEach((what) => this.lost(what));
    const inactive = this.syntax === null ? [] : inactiveSyntax([prompt ?? '', negative ?? ''], this.syntax);
    const lostPrompt = prompt === undefined && ![...this.#notRestored].some((what) => what.startsWith('the prompt'));
    return {
      tool: this.tool,
      parameters: this.#parameters,
      checkpoint: this.#checkpoint,
      loras,
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
    this.lora(name, network, { onWords: words ?? (network === undefined ? undefined : 1) });
    if (parts.some((part) => part.includes('=') && !/^(te|unet)=/.test(part))) {
      this.lost(`the strengths of single parts of the LoRA ${shown(loraName(name))}`);
    }
  }

  #number(name: 'steps' | 'guidance_scale' | 'strength', value: unknown, schema: v.GenericSchema, label: string): this {
    const number = numberOf(value);
    if (v.is(schema, number)) {
      this.#parameters[name] = number;
    } else if (textOf(value) !== undefined) {
      this.lost(`${label} ${shown(value)}`);
    }
    return this;
  }
}

/** Tools name the same LoRA with its folder and without, with its ending and without. */
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

/** A value from a file, short enough for a sentence; JSON and other data are none. */
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
