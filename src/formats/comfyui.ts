/**
 * ComfyUI's graphs: the API form (`prompt`: nodes by id with their inputs) and the editor's form (`workflow`: nodes with widgets, and
 * a list of links). Both become one graph, which is walked from the sampler node to what fed it. Graphs come from anywhere, with
 * nodes of anybody's making and with circles: every walk has a limit.
 */
import { isObject, numberOf, own, readJsonObject, textOf } from './json.ts';
import { Findings, shown, type Reading } from './reading.ts';

type Link = { node: string; output: number };
type Input = { link: Link } | { value: unknown };

interface Node {
  id: string;
  type: string;
  inputs: Map<string, Input>;
}

type Graph = Map<string, Node>;

const MAX_NODES = 5_000;
/** Nodes on one walk. */
const MAX_WALK = 200;

/** Which value of the editor's list of widgets is what, for ComfyUI's own nodes. An empty name is skipped. */
const WIDGETS: Record<string, string[]> = {
  KSampler: ['seed', '', 'steps', 'cfg', 'sampler_name', 'scheduler', 'denoise'],
  KSamplerAdvanced: [
    'add_noise',
    'noise_seed',
    '',
    'steps',
    'cfg',
    'sampler_name',
    'scheduler',
    'start_at_step',
    'end_at_step',
  ],
  SamplerCustom: ['add_noise', 'noise_seed', '', 'cfg'],
  RandomNoise: ['noise_seed'],
  KSamplerSelect: ['sampler_name'],
  BasicScheduler: ['scheduler', 'steps', 'denoise'],
  KarrasScheduler: ['steps'],
  CFGGuider: ['cfg'],
  FluxGuidance: ['guidance'],
  CLIPTextEncode: ['text'],
  CLIPTextEncodeSDXL: ['width', 'height', 'crop_w', 'crop_h', 'target_width', 'target_height', 'text_g', 'text_l'],
  EmptyLatentImage: ['width', 'height', 'batch_size'],
  EmptySD3LatentImage: ['width', 'height', 'batch_size'],
  CheckpointLoaderSimple: ['ckpt_name'],
  CheckpointLoader: ['config_name', 'ckpt_name'],
  UNETLoader: ['unet_name', 'weight_dtype'],
  LoraLoader: ['lora_name', 'strength_model', 'strength_clip'],
  LoraLoaderModelOnly: ['lora_name', 'strength_model'],
  PrimitiveNode: ['value'],
  PrimitiveString: ['value'],
  PrimitiveStringMultiline: ['value'],
  PrimitiveInt: ['value'],
  PrimitiveFloat: ['value'],
};

/** Inputs that lead on from a node that only passes its kind of thing through, in the order in which they are tried. */
const CONDITIONING = ['conditioning', 'conditioning_1', 'conditioning_to', 'positive', 'negative'];
const LATENT = ['latent_image', 'samples', 'latent', 'pixels'];
const MODEL = ['model', 'unet', 'clip'];
const STRINGS = [
  'text',
  'value',
  'string',
  'prompt',
  'text_g',
  'text_l',
  'positive',
  'populated_text',
  'wildcard_text',
];

/**
 * @param prompt the API form, or null
 * @param workflow the editor's form, or null; used where the API form is missing
 * @returns null when there is no graph, or no sampler in it
 */
export function readComfyui(prompt: string | null, workflow: string | null): Reading | null {
  const graph = apiGraph(readJsonObject(prompt)) ?? editorGraph(readJsonObject(workflow));
  const samplers = graph ? samplerChain(graph) : [];
  const sampler = samplers.at(-1);
  return graph && sampler ? new Walk(graph, sampler, samplers.length - 1).reading() : null;
}

class Walk {
  readonly #findings = new Findings('ComfyUI');

  constructor(
    readonly graph: Graph,
    readonly sampler: Node,
    readonly laterPasses: number,
  ) {}

  reading(): Reading | null {
    const findings = this.#findings;
    const { sampler } = this;
    const guider = this.#source(sampler, 'guider') ?? sampler;
    const sigmas = this.#source(sampler, 'sigmas') ?? sampler;
    const positive = this.#source(guider, 'positive') ?? this.#source(guider, 'conditioning');
    findings
      .prompt(this.#words(positive, 'positive'))
      .negativePrompt(this.#words(this.#source(guider, 'negative'), 'negative'))
      .steps(this.#number(sigmas, 'steps'))
      .guidance(this.#number(guider, 'cfg'))
      .seed(this.#first([sampler, this.#source(sampler, 'noise')], ['seed', 'noise_seed']))
      .sampler(
        this.#first([sampler, this.#source(sampler, 'sampler')], ['sampler_name']),
        this.#first([sigmas], ['scheduler']) ?? (sigmas.type === 'KarrasScheduler' ? 'karras' : undefined),
      );
    this.#latent(this.#number(sigmas, 'denoise'));
    this.#model(this.#source(guider, 'model') ?? this.#source(sampler, 'model') ?? this.#source(sigmas, 'model'));
    if (this.laterPasses > 0) {
      findings.lost(this.laterPasses === 1 ? 'a second pass' : `${this.laterPasses} further passes`);
    }
    if ((this.#number(sampler, 'start_at_step') ?? 0) > 0) {
      findings.lost('the step it began at');
    }
    return findings.reading();
  }

  /** From the sampler to the empty latents, or to the picture that it started from. */
  #latent(denoise: number | undefined): void {
    const findings = this.#findings;
    for (const node of this.#upstream(this.#source(this.sampler, 'latent_image'), LATENT)) {
      const width = this.#number(node, 'width');
      const height = this.#number(node, 'height');
      if (
        /Empty.*Latent/i.test(node.type) ||
        (width !== undefined && height !== undefined && !node.inputs.has('pixels'))
      ) {
        findings.size(width, height);
        return;
      }
      if (/SetLatentNoiseMask|VAEEncodeForInpaint|InpaintModelConditioning/.test(node.type)) {
        findings.lost('the mask');
      }
      if (/VAEEncode/i.test(node.type)) {
        findings.strength(denoise).lost('the picture it started from');
        return;
      }
    }
  }

  #model(start: Node | null): void {
    for (const node of this.#upstream(start, MODEL)) {
      const lora = this.#first([node], ['lora_name']);
      const name = this.#first([node], ['ckpt_name', 'unet_name', 'model_name', 'base_ckpt_name']);
      if (lora !== undefined) {
        this.#findings.lora(withoutEnding(textOf(lora) ?? ''), this.#number(node, 'strength_model'));
      } else if (name !== undefined) {
        this.#findings.checkpoint(name);
        return;
      }
    }
  }

  /** The words that a conditioning comes from; '' where it was emptied. */
  #words(start: Node | null, side: 'positive' | 'negative'): string | undefined {
    const order = [side, ...CONDITIONING];
    for (const node of this.#upstream(start, order)) {
      if (/ConditioningZeroOut/.test(node.type)) {
        return '';
      }
      if (/ControlNet/i.test(node.type)) {
        this.#findings.lost('a ControlNet');
      } else if (/IPAdapter|unCLIP|StyleModel|ReferenceLatent/i.test(node.type)) {
        this.#findings.lost('a picture that guided it');
      } else if (/^ConditioningCombine|^ConditioningConcat|^ConditioningAverage|^ConditioningSetArea/.test(node.type)) {
        this.#findings.lost('further prompts that were combined with the first');
      }
      const text = this.#string(node, new Set());
      if (text !== undefined) {
        return text;
      }
    }
    return undefined;
  }

  /** A text of this node, or of the node that feeds it, such as a primitive. */
  #string(node: Node, seen: Set<Node>): string | undefined {
    if (seen.has(node) || seen.size >= MAX_WALK) {
      return undefined;
    }
    seen.add(node);
    for (const name of STRINGS) {
      const input = node.inputs.get(name);
      if (input && 'value' in input && typeof input.value === 'string') {
        return input.value;
      }
      const source = input && 'link' in input ? this.graph.get(input.link.node) : undefined;
      // A conditioning is no text, though the names of the inputs are the same.
      const text = source && !isConditioning(node, name) ? this.#string(source, seen) : undefined;
      if (text !== undefined) {
        return text;
      }
    }
    return undefined;
  }

  #number(node: Node | null, name: string): number | undefined {
    return node ? numberOf(this.#value(node, name)) : undefined;
  }

  /** The first of these inputs of the first of these nodes that has a value. */
  #first(nodes: readonly (Node | null)[], names: readonly string[]): unknown {
    for (const node of nodes) {
      for (const name of names) {
        const value = node ? this.#value(node, name) : undefined;
        if (value !== undefined) {
          return value;
        }
      }
    }
    return undefined;
  }

  /** A literal, or that of the primitive which feeds it. */
  #value(node: Node, name: string): unknown {
    let input = node.inputs.get(name);
    for (let n = 0; n < MAX_WALK && input && 'link' in input; n++) {
      const source = this.graph.get(input.link.node);
      input =
        source &&
        ['value', 'seed', 'noise_seed', 'int', 'float', name].map((one) => source.inputs.get(one)).find(Boolean);
    }
    const value = input && 'value' in input ? input.value : undefined;
    return typeof value === 'number' || typeof value === 'string' ? value : undefined;
  }

  #source(node: Node | null, name: string): Node | null {
    const input = node?.inputs.get(name);
    return (input && 'link' in input && this.graph.get(input.link.node)) || null;
  }

  /** This node and what lies before it, by the first of these inputs that each has; a node with one link only is passed through. */
  *#upstream(start: Node | null, names: readonly string[]): Generator<Node> {
    const seen = new Set<Node>();
    for (let node = start; node && !seen.has(node) && seen.size < MAX_WALK;) {
      seen.add(node);
      yield node;
      const links = [...node.inputs.values()].filter((input) => 'link' in input);
      const name = names.find((one) => this.#source(node, one) !== null);
      const only = links.length === 1 ? this.graph.get(links[0].link.node) : undefined;
      node = name === undefined ? (only ?? null) : this.#source(node, name);
    }
  }
}

/**
 * The samplers that lie one behind the other before the picture, the last pass first: a picture that was enlarged and
 * painted over has two.
 */
function samplerChain(graph: Graph): Node[] {
  const all = [...graph.values()].filter(isSampler);
  const feeding = new Set(all.map((node) => before(graph, node)).filter((node) => node !== null));
  const last = all.find((node) => !feeding.has(node)) ?? all.at(0);
  const chain: Node[] = [];
  for (let node = last ?? null; node && !chain.includes(node) && chain.length < MAX_WALK; node = before(graph, node)) {
    chain.push(node);
  }
  return chain;
}

/** The sampler whose latents or picture this one goes on from. */
function before(graph: Graph, sampler: Node): Node | null {
  let node = sampler;
  for (let n = 0; n < MAX_WALK; n++) {
    const input = [...LATENT, 'image', 'images', 'input']
      .map((name) => node.inputs.get(name))
      .find((one) => one && 'link' in one);
    const source = input && 'link' in input ? graph.get(input.link.node) : undefined;
    if (!source || source === sampler) {
      return null;
    }
    if (isSampler(source)) {
      return source;
    }
    node = source;
  }
  return null;
}

function isSampler({ type, inputs }: Node): boolean {
  const has = (...names: string[]) => names.some((name) => inputs.has(name));
  return /Sampler/.test(type) && has('latent_image') && (has('seed', 'noise_seed') || has('noise'));
}

function isConditioning({ inputs }: Node, name: string): boolean {
  return (name === 'positive' || name === 'negative') && (inputs.has('cfg') || inputs.has('control_net'));
}

/** Some tools keep the API form under `prompt` of an object. */
function apiGraph(json: Record<string, unknown> | null): Graph | null {
  const nodes = isObject(json?.prompt) && !own(json.prompt, 'class_type') ? json.prompt : json;
  const graph: Graph = new Map();
  for (const [id, node] of Object.entries(nodes ?? {}).slice(0, MAX_NODES)) {
    const type = own(node, 'class_type');
    const inputs = own(node, 'inputs');
    if (typeof type === 'string' && isObject(inputs)) {
      graph.set(id, {
        id,
        type,
        inputs: new Map(Object.entries(inputs).map(([name, value]) => [name, inputOf(value)])),
      });
    }
  }
  return graph.size > 0 ? graph : null;
}

function inputOf(value: unknown): Input {
  if (Array.isArray(value) && value.length === 2 && textOf(value[0]) !== undefined && typeof value[1] === 'number') {
    return { link: { node: String(value[0]), output: value[1] } };
  }
  return { value };
}

function editorGraph(json: Record<string, unknown> | null): Graph | null {
  const { nodes, links } = json ?? {};
  if (!Array.isArray(nodes)) {
    return null;
  }
  // v0.4 lists links as [id, from node, from output, to node, to input, type], v1.0 as objects.
  const sources = new Map<unknown, Link>();
  for (const link of Array.isArray(links) ? links.slice(0, 4 * MAX_NODES) : []) {
    const [id, node, output] = Array.isArray(link)
      ? (link as unknown[])
      : [own(link, 'id'), own(link, 'origin_id'), own(link, 'origin_slot')];
    sources.set(id, { node: textOf(node) ?? '', output: numberOf(output) ?? 0 });
  }
  const graph: Graph = new Map();
  for (const node of nodes.slice(0, MAX_NODES)) {
    const id = textOf(own(node, 'id'));
    const type = own(node, 'type');
    // 2: muted, 4: bypassed.
    const isOff = own(node, 'mode') === 2;
    if (id !== undefined && typeof type === 'string' && !isOff) {
      graph.set(id, { id, type, inputs: editorInputs(node, type, sources) });
    }
  }
  return graph.size > 0 ? graph : null;
}

function editorInputs(node: unknown, type: string, sources: Map<unknown, Link>): Map<string, Input> {
  const inputs = new Map<string, Input>();
  const values = own(node, 'widgets_values');
  if (Array.isArray(values)) {
    (Object.hasOwn(WIDGETS, type) ? WIDGETS[type] : []).forEach((name, i) => {
      if (name !== '' && i < values.length) {
        inputs.set(name, { value: values[i] as unknown });
      }
    });
    // Nodes of others often have their text as the only text among their widgets.
    if (!Object.hasOwn(WIDGETS, type)) {
      inputs.set('text', { value: values.find((value) => typeof value === 'string') as unknown });
    }
  } else if (isObject(values)) {
    Object.entries(values).forEach(([name, value]) => inputs.set(name, { value }));
  }
  const slots = own(node, 'inputs');
  for (const slot of Array.isArray(slots) ? slots.slice(0, MAX_WALK) : []) {
    const name = own(slot, 'name');
    const link = sources.get(own(slot, 'link'));
    if (typeof name === 'string' && link) {
      inputs.set(name, { link });
    }
  }
  return inputs;
}

function withoutEnding(name: string): string {
  return shown(name.replace(/\.(safetensors|ckpt|pt|bin)$/i, ''));
}
