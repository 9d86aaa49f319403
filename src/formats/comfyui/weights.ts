/** The checkpoint and LoRAs feeding a sampler: loaders, stacks and multi-loaders, if switched on. */
import { loraName } from '../../core/loras.ts';
import { isObject, numberOf, own, textOf } from '../json.ts';
import { shown, type Findings } from '../findings.ts';
import { MAX_WALK, linkNames, literal, word, type Node, type Place } from './graph.ts';
import type { Routes } from './routes.ts';

const CHECKPOINT =
  /^(ckpt_name|unet_name|base_ckpt_name|ckpt|checkpoint|checkpoint_name|model_name|diffusion_model|base_model|ckpt_name1?|model|model_path|gguf_name)$/i;
/** Inputs that mention LoRAs without naming one. */
const NO_NAME =
  /strength|weight|_wt|_str(_|$)|count|num_|stack|mode|info|switch|toggle|enable|active|_on$|clip$|syntax|trigger|block/i;
const STACK = /lora.*stack|stack.*lora|^prev_lora$|^lora$|^loras$|^lora_params$/i;
const TAG = /<lora:([^<>:]+)(?::([^<>:]*))?(?::([^<>:]*))?[^<>]*>/gi;
const OFF = new Set(['off', 'false', 'disable', 'disabled', 'no', 'none', '0']);

export class WeightFinder {
  /** Nodes between the sampler and the checkpoint. */
  readonly passed: Node[] = [];
  readonly #seen = new Set<Node>();

  constructor(
    readonly routes: Routes,
    readonly findings: Findings,
  ) {}

  find(start: Place | null): void {
    for (let place = start; place && !this.#seen.has(place.node) && this.#seen.size < MAX_WALK;) {
      const { node } = place;
      this.#seen.add(node);
      this.passed.push(node);
      this.#loras(node);
      const name = this.#checkpoint(node);
      if (name !== undefined) {
        this.findings.checkpoint(readableName(name));
        return;
      }
      place = this.routes.behind(place, 'model');
    }
  }

  #checkpoint(node: Node): string | undefined {
    if (/upscale|controlnet|vaeloader|cliploader/i.test(node.type)) {
      return undefined;
    }
    const names = [...node.inputs.keys()].filter((name) => CHECKPOINT.test(name));
    for (const name of names.sort((a, b) => Number(/^model/i.test(a)) - Number(/^model/i.test(b)))) {
      const value = literal(node, name);
      const given = isObject(value) ? (own(value, 'content') ?? own(value, 'name')) : this.routes.value(node, name);
      const text = textOf(given);
      // An input that is called so is mostly a link to the next node.
      const isName = !/^model$/i.test(name) || (value !== undefined && /loader/i.test(node.type));
      if (text !== undefined && !isNone(text) && isName) {
        return text;
      }
    }
    return undefined;
  }

  /** The LoRAs of one node and of the stacks it takes. */
  #loras(start: Node): void {
    const nodes = new Set([start]);
    for (const node of nodes) {
      this.#ownLoras(node);
      for (const name of linkNames(node)) {
        const source = STACK.test(name) && nodes.size < MAX_WALK ? this.routes.source(node, name) : null;
        const through = source && (this.routes.through(source.node) ?? source);
        if (through && !this.#seen.has(through.node)) {
          this.#seen.add(through.node);
          nodes.add(through.node);
        }
      }
    }
  }

  #ownLoras(node: Node): void {
    if (/lora/i.test(node.type) && /^(off|false)$/i.test(word(node, 'switch') || word(node, 'toggle'))) {
      return;
    }
    const names = [...node.inputs.keys()].slice(0, 4 * MAX_WALK);
    for (const name of names) {
      const value = literal(node, name);
      if (isEntry(value)) {
        this.#entry(value);
      } else if (Array.isArray(value) && /lora/i.test(name)) {
        value
          .slice(0, MAX_WALK)
          .filter(isEntry)
          .forEach((entry) => this.#entry(entry));
      }
    }
    if (!names.some((name) => isEntry(literal(node, name)) || Array.isArray(literal(node, name)))) {
      this.#tagged(node, names);
    }
    const most = numberOf(literal(node, 'lora_count') ?? literal(node, 'num_loras')) ?? Infinity;
    for (const name of names.filter((one) => /lora/i.test(one) && !NO_NAME.test(one))) {
      const index = numberIn(name);
      if (index !== '' && Number(index) > most) {
        continue;
      }
      const given = literal(node, name);
      if (given === undefined && STACK.test(name)) {
        continue;
      }
      const value = isObject(given) ? own(given, 'content') : this.routes.value(node, name);
      const isOn = !names.some((one) => isSwitchOf(one, index) && isOff(this.routes.value(node, one)));
      const file = typeof value === 'string' ? value : '';
      if (isOn && file.trim() !== '' && !isNone(file) && isFileName(name, file, node)) {
        const [strength, onWords] = this.#strengths(node, names, index);
        this.#found(file, strength, onWords);
        if (textOf(literal(node, 'block_vector')) !== undefined) {
          this.findings.lost(`the strengths of single parts of the LoRA ${shown(loraName(file))}`);
        }
      }
    }
  }

  /** rgthree's `{on, lora, strength}`, LoRA Manager's `{active, name, strength}`. */
  #entry(entry: Record<string, unknown>): void {
    const name = textOf(own(entry, 'lora') ?? own(entry, 'name'));
    const isOn = own(entry, 'on') ?? own(entry, 'active') ?? own(entry, 'enabled') ?? true;
    if (name !== undefined && !isNone(name) && !isOff(isOn)) {
      this.#found(
        name,
        own(entry, 'strength') ?? own(entry, 'strength_model') ?? own(entry, 'weight'),
        own(entry, 'strengthTwo') ?? own(entry, 'clipStrength') ?? own(entry, 'strength_clip'),
      );
    }
  }

  /** Loaders that take their LoRAs from a text: `<lora:brass:0.7>`, `<lora:brass:0.7:0.2>` with a strength for the words. */
  #tagged(node: Node, names: readonly string[]): void {
    if (!/lora/i.test(node.type)) {
      return;
    }
    for (const name of names) {
      const text = this.routes.value(node, name);
      for (const [, file, strength, onWords] of typeof text === 'string'
        ? [...text.matchAll(TAG)].slice(0, MAX_WALK)
        : []) {
        if (!this.findings.hasLora(file)) {
          this.#found(file, strength, onWords);
        }
      }
    }
  }

  /** Strengths for the model and, if separate, the text encoder. */
  #strengths(node: Node, names: readonly string[], index: string): [ofModel: unknown, onWords: unknown] {
    const every = names.filter((name) => numberIn(name) === index && /strength|weight|_wt(_|$)|_str(_|$)/i.test(name));
    const all = every.filter((name) => !/clip|text|block/i.test(name));
    const mode = word(node, 'input_mode') || word(node, 'mode');
    const ofModel = all.filter((name) => /model|unet/i.test(name));
    const plain = all.filter((name) => !ofModel.includes(name));
    const isSimple = /simple/i.test(mode);
    const order = isSimple ? [...plain, ...ofModel] : [...ofModel, ...plain];
    const valueOf = (asked: readonly string[]) =>
      asked.map((name) => this.routes.value(node, name)).find((value) => value !== undefined);
    return [valueOf(order), isSimple ? undefined : valueOf(every.filter((name) => /clip/i.test(name)))];
  }

  #found(file: string, strength: unknown, onWords: unknown): void {
    // At 0 it changes nothing.
    if (numberOf(strength) !== 0 || (numberOf(onWords) ?? 0) !== 0) {
      this.findings.lora(readableName(file), strength, { onWords });
    }
  }
}

function isEntry(value: unknown): value is Record<string, unknown> {
  const name = own(value, 'lora') ?? own(value, 'name');
  return isObject(value) && typeof name === 'string' && ('strength' in value || 'on' in value || 'active' in value);
}

function isSwitchOf(name: string, index: string): boolean {
  return numberIn(name) === index && /switch|toggle|enable|active|(^|_)on(_|$)/i.test(name);
}

function isOff(value: unknown): boolean {
  return value === false || value === 0 || (typeof value === 'string' && OFF.has(value.toLowerCase()));
}

function isNone(name: string): boolean {
  return /^(none|null|undefined|\[?no lora\]?)$/i.test(name.trim());
}

/** Texts with tags, such as LoRA Manager's, are no file names. */
function isFileName(input: string, value: string, node: Node): boolean {
  return (
    !value.includes('<') &&
    !value.includes('\n') &&
    (/lora/i.test(node.type) || /lora_?\d*_?name|lora_\d+$|^lora$/i.test(input))
  );
}

function numberIn(name: string): string {
  return /\d+/.exec(name)?.[0].replace(/^0+(?=\d)/, '') ?? '';
}

/** Civitai names models by numbers: `urn:air:sd1:checkpoint:civitai:1@2`. */
export function readableName(name: string): string {
  const [, model, version] = /^urn:air:.*:civitai:(\d+)(?:@(\d+))?/.exec(name) ?? [];
  return model === undefined ? name : `Civitai model ${model}${version === undefined ? '' : `, version ${version}`}`;
}
