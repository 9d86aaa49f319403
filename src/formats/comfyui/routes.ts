/**
 * Routes through nodes: which input feeds which output. A file seldom says. The outputs' names tell if the editor's form is present, this
 * table covers common nodes with several outputs, and the inputs' names have to do for the rest.
 */
import { MAX_WALK, follow, linkNames, literal, type Graph, type Input, type Node, type Place } from './graph.ts';

export type Side = 'positive' | 'negative';
/** The relevant kinds of values a link carries. */
export type Kind = Side | 'model' | 'latent';

const CONTEXT = ['context', 'model', 'clip', 'vae', 'positive', 'negative', 'latent', 'images', 'seed'];
const PIPE = ['pipe', 'model', 'positive', 'negative', 'latent', 'vae', 'clip', 'image', 'seed'];
const EFFICIENT = ['model', 'positive', 'negative', 'latent', 'vae', 'image'];
const OUTPUTS: Record<string, readonly string[]> = {
  'Efficient Loader': ['model', 'positive', 'negative', 'latent', 'vae', 'clip', 'dependencies'],
  'Eff. Loader SDXL': ['sdxl_tuple', 'latent', 'vae', 'dependencies'],
  'KSampler (Efficient)': EFFICIENT,
  'KSampler Adv. (Efficient)': EFFICIENT,
  'KSampler SDXL (Eff.)': ['sdxl_tuple', 'latent', 'vae', 'image'],
  'easy fullLoader': ['pipe', 'model', 'vae', 'clip', 'positive', 'negative', 'latent'],
  'easy pipeOut': PIPE,
  'easy pipeEdit': PIPE,
  'ttN pipeOUT': PIPE,
  'ttN pipeEDIT': PIPE,
  'ttN pipeKSampler_v2': PIPE,
  'ttN pipeLoader': ['pipe', 'model', 'positive', 'negative', 'latent', 'vae', 'clip', 'seed'],
  'ttN pipeLoader_v2': [
    ...['pipe', 'model', 'positive', 'negative', 'latent', 'vae', 'clip', 'seed', 'width', 'height'],
    ...['positive_string', 'negative_string'],
  ],
  FromBasicPipe: ['model', 'clip', 'vae', 'positive', 'negative'],
  FromBasicPipe_v2: ['basic_pipe', 'model', 'clip', 'vae', 'positive', 'negative'],
  EditBasicPipe: ['basic_pipe'],
  'Context (rgthree)': CONTEXT,
  'Context Switch (rgthree)': CONTEXT,
  'Context Merge (rgthree)': CONTEXT,
  'Context Big (rgthree)': [
    ...[...CONTEXT, 'steps', 'step_refiner', 'cfg', 'ckpt_name', 'sampler', 'scheduler', 'clip_width', 'clip_height'],
    ...['text_pos_g', 'text_pos_l', 'text_neg_g', 'text_neg_l', 'mask', 'control_net'],
  ],
  'Power Prompt (rgthree)': ['conditioning', 'model', 'clip', 'text'],
  ImpactWildcardEncode: ['model', 'clip', 'conditioning', 'populated_text'],
  ControlNetApplyAdvanced: ['positive', 'negative'],
  ControlNetApplySD3: ['positive', 'negative'],
  ControlNetInpaintingAliMamaApply: ['positive', 'negative'],
  'CR Apply Multi-ControlNet': ['positive', 'negative'],
  InpaintModelConditioning: ['positive', 'negative', 'latent'],
  InstructPixToPixConditioning: ['positive', 'negative', 'latent'],
  WanImageToVideo: ['positive', 'negative', 'latent'],
  LTXVImgToVideo: ['positive', 'negative', 'latent'],
  LTXVConditioning: ['positive', 'negative'],
  SDXLPromptStyler: ['text_positive', 'text_negative'],
  'easy stylesSelector': ['text_positive', 'text_negative'],
  'KSampler Config (rgthree)': ['steps_total', 'refiner_step', 'cfg', 'sampler_name', 'scheduler'],
};

const POSITIVE = /(^|[ _])(base[ _])?pos(itive)?([ _]|$)|conditioning\+$/i;
const NEGATIVE = /(^|[ _])(base[ _])?neg(ative)?([ _]|$)|conditioning-$/i;
/** Inputs to follow, in the order they are tried. */
const ONWARD: Record<'conditioning' | 'model' | 'latent', readonly RegExp[]> = {
  conditioning: [
    /^(conditioning|cond|conditionings)$/i,
    /^(conditioning|cond)(_?1|_?to|_?a|_new)$/i,
    /^text_embeds$/,
    /^(conditioning|cond)/i,
  ],
  model: [/^model$/i, /^(base_|opt_)?(model|unet)$/i, /^(model|unet)_?(1|a|to)$/i, /^unet|^model(?!_?patch)/i],
  latent: [
    /^(latent_image|samples|latent|latents|optional_latent)$/i,
    /^latent|^samples/i,
    /^(pixels|image|images|start_image|optional_image)$/i,
    /^image/i,
  ],
};
/** Inputs never to follow, even if there is no other. */
const NUMBER = /width|height|size|seed|steps|cfg|denoise|length|strength|text|vae|count/i;
/** Bundles of all kinds. */
const BUNDLE = /pipe|^(base_)?ctx|context|tuple|^bus$/i;
/** Names of outputs that are no words. */
const NO_TEXT =
  /^((base_|refiner_)?(pos(itive)?|neg(ative)?|cond(itioning)?[+-]?|model|clip|vae)|latent|samples|images?|.*pipe|context|sdxl_tuple)$/i;
/** The longest chain of nodes checked for text. */
const MAX_ASKED = 8;
/** Nodes that display or clean up what passes through them. */
const TRANSPARENT = /^reroute|^previewany$|showanything|display any|cleangpu|clearcache/i;

export class Routes {
  readonly #sides = new Map<Node, number[]>();
  readonly #lastUsed = new Map<Node, number>();
  readonly #takers = new Map<Node, Node[]>();

  constructor(readonly graph: Graph) {
    for (const node of graph.values()) {
      for (const [name, input] of node.inputs) {
        const place = follow(graph, input);
        if (place) {
          const takers = this.#takers.get(place.node) ?? [];
          takers.push(node);
          this.#takers.set(place.node, takers);
          this.#lastUsed.set(place.node, Math.max(place.output, this.lastUsed(place.node)));
        }
        if (place && (POSITIVE.test(name) || NEGATIVE.test(name))) {
          const used = this.#sides.get(place.node) ?? [];
          if (!used.includes(place.output)) {
            this.#sides.set(
              place.node,
              [...used, place.output].sort((a, b) => a - b),
            );
          }
        }
      }
    }
  }

  source(node: Node, name: string): Place | null {
    return follow(this.graph, node.inputs.get(name));
  }

  /** The nodes that take something of this one. */
  takers(node: Node): readonly Node[] {
    return this.#takers.get(node) ?? [];
  }

  /** A node's highest connected output; −1 if none is. */
  lastUsed(node: Node): number {
    return this.#lastUsed.get(node) ?? -1;
  }

  /** All nodes downstream of this one, including itself. */
  downstream(start: Node): Set<Node> {
    const seen = new Set([start]);
    for (const node of seen) {
      this.takers(node).forEach((taker) => seen.add(taker));
    }
    return seen;
  }

  /** The output's name in lower case; undefined if unknown. */
  outputName({ node, output }: Place): string | undefined {
    const name = Object.hasOwn(OUTPUTS, node.type) ? OUTPUTS[node.type].at(output) : node.outputs.at(output)?.name;
    return output < 0 || name === '' ? undefined : name?.toLowerCase();
  }

  /**
   * Whether this output is declared to be something other than text.
   * @param depth of the chain of checked nodes, since graphs may have cycles
   */
  isNoText(seen: Place, depth = 0): boolean {
    let place = seen;
    for (let n = 0, next = this.through(place.node); next && n < MAX_WALK; n++) {
      place = next;
      next = this.through(place.node);
    }
    const { node, output } = place;
    const type = output < 0 ? undefined : node.outputs.at(output)?.type;
    if (type !== undefined && type !== '' && type !== '*') {
      return !/STRING|COMBO|INT|FLOAT|LIST/i.test(type);
    }
    const name = this.outputName(place) ?? '';
    if (NO_TEXT.test(name)) {
      return true;
    }
    // A node that takes both prompts may join text as well as conditionings.
    const isPrompt = (one: string) => {
      const source = this.source(node, one);
      return source !== null && (depth >= MAX_ASKED || this.isNoText(source, depth + 1));
    };
    const hasParts = linkNames(node).some(
      (one) =>
        /^(clip|(opt_)?model|vae|cond(itioning)?(s|\d+|[_ ].+)?|control_net)$/i.test(one) ||
        BUNDLE.test(one) ||
        (/^(positive|negative)$/i.test(one) && isPrompt(one)),
    );
    return hasParts && !/text|string|prompt/.test(name);
  }

  /**
   * Which of the two prompts an output is: by its name; if two of a node's outputs are used as prompts, by their order; else the requested
   * one.
   */
  side(place: Place, asked: Side): Side {
    const name = this.outputName(place) ?? '';
    if (POSITIVE.test(name) || NEGATIVE.test(name)) {
      return NEGATIVE.test(name) ? 'negative' : 'positive';
    }
    const used = this.#sides.get(place.node) ?? [];
    const names = [...place.node.inputs.keys()];
    const hasBoth = names.some((one) => POSITIVE.test(one)) && names.some((one) => NEGATIVE.test(one));
    if (hasBoth && used.length > 1 && used.includes(place.output)) {
      return place.output === used[0] ? 'positive' : 'negative';
    }
    return asked;
  }

  /** The next place upstream for the requested kind; null at the end. */
  behind(place: Place, kind: Kind): Place | null {
    const { node } = place;
    const through = this.through(node);
    if (through) {
      return through;
    }
    const links = linkNames(node);
    const isSide = kind === 'positive' || kind === 'negative';
    const side = isSide ? this.side(place, kind) : null;
    const own = side ? [ofSide(side)] : [];
    const onward = ONWARD[isSide ? 'conditioning' : kind];
    if (side === 'negative' && place.output < 0) {
      // A sampler with one conditioning has no negative prompt.
      return this.#first(node, [...own, /^text_embeds$/, BUNDLE], true);
    }
    // Take the other side's input if nothing else could be meant.
    const lacksOwn = side !== null && ![...node.inputs.keys()].some((name) => own[0].test(name));
    const patterns = [...own, ...onward, BUNDLE, ...(lacksOwn ? [/^(positive|negative)$/i] : [])];
    return (
      this.#first(node, patterns, isSide) ??
      (links.length === 1 && !NUMBER.test(links[0]) ? this.source(node, links[0]) : null)
    );
  }

  /** The first of these inputs that is connected. */
  #first(node: Node, patterns: readonly RegExp[], isSide: boolean): Place | null {
    for (const pattern of patterns) {
      const found = linkNames(node)
        .filter((name) => pattern.test(name) && !(isSide && isNumberish(name)))
        .map((name) => this.source(node, name))
        .find((one) => one !== null && !(isSide && this.#isText(one)));
      if (found) {
        return found;
      }
    }
    return null;
  }

  /** All bundles a node takes, directly or indirectly, nearest first. */
  bundles(start: Node): Node[] {
    const found = new Set([start]);
    for (const node of found) {
      for (const name of linkNames(node)) {
        const source = BUNDLE.test(name) && found.size < MAX_WALK ? this.source(node, name)?.node : undefined;
        if (source) {
          found.add(source);
        }
      }
    }
    return [...found];
  }

  /** Nodes that pass one of their inputs through: reroutes, displays, switches. */
  through(node: Node): Place | null {
    const name = this.chosen(node);
    return name === null ? null : this.source(node, name);
  }

  /** The input such a node passes through; null for all others. */
  chosen(node: Node): string | null {
    const { type } = node;
    const links = linkNames(node);
    if (TRANSPARENT.test(type)) {
      return links[0] ?? null;
    }
    return chosenInput(node, (name) => this.value(node, name));
  }

  /** Text joined before encoding looks like conditionings if only the input's name is considered. */
  #isText(place: Place): boolean {
    const type = place.node.outputs.at(place.output)?.type;
    return type === 'STRING';
  }

  /** A value, or that of the node feeding it: a primitive, a seed, a size computed elsewhere. */
  value(node: Node, name: string): unknown {
    let input: Input | undefined = node.inputs.get(name);
    let asked = name;
    for (let n = 0; n < MAX_WALK && input && 'link' in input; n++) {
      const place = follow(this.graph, input);
      if (!place) {
        return undefined;
      }
      const source = place.node;
      const chosen = this.#isSwitch(source) && n < 20 ? this.chosen(source) : null;
      const label = this.outputName(place);
      const names = [
        label ?? '',
        asked,
        'value',
        'Value',
        'seed',
        'noise_seed',
        'int',
        'float',
        'number',
        'string',
        'text',
      ];
      const next: string | undefined = chosen ?? names.find((one) => source.inputs.has(one)) ?? onlyValue(source);
      asked = label !== undefined && /^(width|height|steps|cfg|seed)$/.test(label) ? label : asked;
      input = next === undefined ? undefined : source.inputs.get(next);
    }
    const value = input && 'value' in input ? input.value : undefined;
    return typeof value === 'number' || typeof value === 'string' || typeof value === 'boolean' ? value : undefined;
  }

  #isSwitch({ type }: Node): boolean {
    return /switch|select|reroute|ifelse|branch/i.test(type);
  }
}

export function ofSide(side: Side): RegExp {
  return side === 'positive' ? POSITIVE : NEGATIVE;
}

function isNumberish(name: string): boolean {
  return /score|strength|weight|scale|mask/i.test(name);
}

function onlyValue(node: Node): string | undefined {
  return node.inputs.size === 1 ? [...node.inputs.keys()][0] : undefined;
}

/**
 * The input a switch selects. Booleans choose between a true and a false input, or between the second and the first; numbers count from 1,
 * or from 0 if there is an input with that number; else the first connected one.
 */
function chosenInput(node: Node, value: (name: string) => unknown): string | null {
  if (!/switch|ifelse|if_else|conditionalbranch|textIndex/i.test(node.type)) {
    return null;
  }
  const names = [...node.inputs.keys()];
  const control = names.find((name) => /^(switch|boolean|bool|cond|condition|select|index|input|use_.*)$/i.test(name));
  const given = control === undefined ? undefined : value(control);
  const options = names.filter((name) => name !== control && !/sel_mode|mode|separator/i.test(name));
  const truth = given === true || given === 'true' ? true : given === false || given === 'false' ? false : undefined;
  if (truth !== undefined) {
    const named = options.find((name) => (truth ? /(^|_)(true|tt)(_|$)/i : /(^|_)(false|ff)(_|$)/i).test(name));
    // WAS selects the first of its two for true.
    return named ?? options.at(/^text input switch$/i.test(node.type) === truth ? 0 : 1) ?? null;
  }
  const number = Number(given);
  if (given !== undefined && Number.isInteger(number)) {
    const hasZero = options.some((name) => /\D0$/.test(name));
    const numbered = options.filter((name) => new RegExp(`\\D0*${number}$`).test(name));
    return (
      numbered.find((name) => hasLink(node, name)) ?? numbered[0] ?? options.at(hasZero ? number : number - 1) ?? null
    );
  }
  return options.find((name) => hasLink(node, name)) ?? options[0] ?? null;
}

function hasLink(node: Node, name: string): boolean {
  return literal(node, name) === undefined && node.inputs.has(name);
}
