/** What could be read of how a picture was made, by whichever tool, in our names. */
import * as v from 'valibot';
import { loraName } from '../core/loras.ts';
import * as parameter from '../core/parameters.ts';
import { numberOf, textOf } from './json.ts';
import type { Metadata } from './metadata.ts';
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
const NETWORK_TAG = /<(lora|lyco|hypernet):([^<>:]+)(?::([^<>]*))?>/gi;

/** Gathers a reading: what passes our own schemas becomes a parameter, everything else is listed. */
export class Findings {
  readonly #parameters: ReadParameters = {};
  readonly #checkpoint: Reading['checkpoint'] = { name: null, hash: null };
  readonly #loras: ReadLora[] = [];
  readonly #loraHashes = new Map<string, string>();
  readonly #notRestored = new Set<string>();

  constructor(readonly tool: string) {}

  /** Takes network tags such as `<lora:name:0.8>` out of the words, as the tools do that know them. */
  prompt(value: unknown): this {
    const prompt = this.#words(value);
    if (prompt !== undefined) {
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

  /** Where `value` says that it was in use: not absent, empty, zero or off. */
  lostIf(value: unknown, what: string): this {
    const isOff = value === undefined || value === null || value === false || value === 0 || value === '';
    return isOff || (Array.isArray(value) && value.length === 0) || /^(none|false|0)$/i.test(textOf(value) ?? '')
      ? this
      : this.lost(what);
  }

  /** @param strength absent where the tool means 1 */
  lora(name: unknown, strength: unknown, sha256: string | null = null): this {
    const text = textOf(name);
    const weight = textOf(strength) === undefined ? 1 : numberOf(strength);
    if (text === undefined || !v.is(parameter.loraWeight(), weight)) {
      return this.lost(`the LoRA ${shown(name)} at ${shown(strength)}`);
    }
    if (this.#loras.length < MAX_NOT_RESTORED) {
      this.#loras.push({ name: loraName(text).slice(0, 256), weight, hash: null, sha256 });
    }
    return this;
  }

  /** @param list `name: hash, name: hash`, as AUTOMATIC1111 writes it */
  loraHashes(list: unknown): this {
    for (const pair of (textOf(list) ?? '').split(',').slice(0, MAX_NOT_RESTORED)) {
      const [name, hash] = pair.split(':').map((part) => part.trim());
      if (name && hash) {
        this.#loraHashes.set(name, hash);
      }
    }
    return this;
  }

  /** @returns null when nothing was found that an operation could use */
  reading(): Reading | null {
    if (Object.values(this.#parameters).every((value) => value === '')) {
      return null;
    }
    return {
      tool: this.tool,
      parameters: this.#parameters,
      checkpoint: this.#checkpoint,
      loras: this.#loras.map((lora) => ({ ...lora, hash: this.#loraHashes.get(lora.name) ?? null })),
      notRestored: [...this.#notRestored],
    };
  }

  #words(value: unknown): string | undefined {
    if (typeof value !== 'string') {
      return undefined;
    }
    let hasTags = false;
    const words = value.replace(NETWORK_TAG, (_, kind: string, name: string, strength?: string) => {
      hasTags = true;
      if (kind.toLowerCase() === 'hypernet') {
        this.lost(`the hypernetwork ${shown(name)}`);
      } else {
        this.lora(name, strength);
      }
      return '';
    });
    return hasTags ? words.trim() : words;
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

/** A value from a file, short enough for a sentence. */
export function shown(value: unknown): string {
  const text = (textOf(value) ?? '?').replace(/\s+/g, ' ').trim();
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 1).toWellFormed()}…` : text;
}
