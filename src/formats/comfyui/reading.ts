/**
 * Reads settings from ComfyUI's graphs: the API form (`prompt`: nodes by id with their inputs), or the editor's (`workflow`) if that is
 * missing. The graph is walked upstream from the sampler that made the picture; everything left over is listed.
 */
import { isObject, own, readJsonObject, textOf } from '../json.ts';
import { Findings } from '../findings.ts';
import type { Reading } from '../reading.ts';
import { civitaiExtra, type Extra } from './civitai.ts';
import { editorGraph } from './editor.ts';
import { apiGraph, linkNames, nameOutputs, upstreamOf, type Graph, type Node } from './graph.ts';
import { modelSamplingAmong } from './model_sampling.ts';
import { nameRemainder } from './remainder.ts';
import { Routes } from './routes.ts';
import { isTouchUp, samplerChain } from './samplers.ts';
import { numberAmong, partsOf, readSettings } from './settings.ts';
import { readStart, sizeOf } from './start.ts';
import { Strings } from './strings.ts';
import { WeightFinder } from './weights.ts';
import { WordFinder, type Words } from './words.ts';

const NAME = 'ComfyUI';
/** Nodes to search for a prompt if there is no sampler. */
const MOST_ASKED = 500;
const NO_WORDS = /note|display|show|save|load|preview|filename/i;
/** In unknown nodes, a single word only counts as a prompt if the node's type suggests one. */
const WORDED = /encode|prompt|text|string|generat|image|video|audio|api/i;

/** Accepts JSON as text or parsed; null if it is neither. */
export type GraphText = string | Record<string, unknown> | null;

/**
 * @param prompt the API form
 * @param workflow the editor's form; used where the API form is missing
 * @returns null when there is no graph in them
 */
export function readComfyui(prompt: GraphText, workflow: GraphText): Reading | null {
  const [sent, drawn] = [prompt, workflow].map((one) => (typeof one === 'string' ? readJsonObject(one) : one));
  const editor = editorGraph(drawn) ?? editorGraph(sent);
  const graph = apiGraph(sent) ?? apiGraph(drawn) ?? editor;
  const inner = own(drawn, 'extra');
  const extra = civitaiExtra(sent) ?? civitaiExtra(drawn) ?? civitaiExtra(isObject(inner) ? inner : null);
  if (graph) {
    nameOutputs(graph, editor);
    return new GraphReader(graph, extra).reading();
  }
  return extra && readExtra(extra);
}

class GraphReader {
  readonly #findings = new Findings(NAME, 'comfyui');
  readonly #routes: Routes;
  readonly #strings: Strings;
  readonly #words: WordFinder;
  readonly #lost = (what: string) => void this.#findings.lost(what);

  constructor(
    readonly graph: Graph,
    readonly extra: Extra | null,
  ) {
    this.#routes = new Routes(graph);
    this.#strings = new Strings(this.#routes);
    this.#words = new WordFinder(this.#routes, this.#strings, this.#lost);
  }

  reading(): Reading | null {
    const { chain, others } = samplerChain(this.graph, this.#routes);
    const sampler = chain.at(-1);
    if (sampler) {
      this.#sampled(sampler, chain);
      if (others > 0) {
        this.#lost('what further samplers of the same graph made');
      }
    } else if ([...this.graph.values()].every((node) => linkNames(node).length === 0)) {
      return null;
    } else {
      this.#unsampled();
    }
    return this.#findings.reading() ?? nothingRead();
  }

  #sampled(sampler: Node, chain: readonly Node[]): void {
    const findings = this.#findings;
    const parts = partsOf(sampler, this.#routes);
    const start = { node: parts.guider, output: -1 };
    const positive = this.#words.find(start, 'positive');
    this.#prompts(positive, this.#words.find(start, 'negative'));
    readSettings(parts, this.#routes, findings, this.extra, positive.guidance);
    const denoise = numberAmong([...parts.sigmas, ...parts.all], ['denoise', 'denoise_strength'], this.#routes);
    readStart(sampler, denoise, this.#routes, findings);
    const weights = new WeightFinder(this.#routes, findings);
    for (const holder of [parts.guider, sampler, ...parts.sigmas]) {
      weights.find({ node: holder, output: -1 });
    }
    for (const node of this.graph.values()) {
      if (/CLIPSetLastLayer/i.test(node.type) && this.#routes.takers(node).length > 0) {
        findings.clipSkip(-(numberAmong([node], ['stop_at_clip_layer'], this.#routes) ?? -1));
      }
    }
    const passes = chain.filter((node) => !isTouchUp(node)).length - 1;
    if (passes > 0) {
      findings.lost(passes === 1 ? 'a second pass' : `${passes} further passes`);
    }
    this.#stepsRun(sampler, passes > 0);
    const shift = modelSamplingAmong(weights.passed, this.#routes);
    const isTaken = shift !== null && findings.takesModelSampling(shift.request);
    nameRemainder(this.graph, this.#routes, chain, weights.passed, this.#lost, isTaken ? [shift.node] : []);
  }

  /** KSamplerAdvanced may run only some of the steps, without adding noise before them or leaving noise after them. */
  #stepsRun(sampler: Node, goesOn: boolean): void {
    const findings = this.#findings;
    const number = (name: string) => numberAmong([sampler], [name], this.#routes);
    const isSaid = (name: string, word: string) => this.#routes.value(sampler, name) === word;
    if ((number('start_at_step') ?? 0) > 0) {
      findings.lost('the step it began at');
    }
    if (isSaid('add_noise', 'disable')) {
      findings.lost('that no noise was added');
    }
    // A later pass, which is listed, continues from there.
    if (!goesOn && (number('end_at_step') ?? Infinity) < (number('steps') ?? 0)) {
      findings.lost('the step it ended at');
    }
    if (!goesOn && isSaid('return_with_leftover_noise', 'enable')) {
      findings.lost('that noise was left in it');
    }
  }

  #prompts(positive: Words, negative: Words): void {
    const findings = this.#findings;
    const prompt = positive.text ?? textOf(this.extra?.prompt);
    findings.prompt(prompt);
    if (prompt === undefined) {
      findings.lost('the prompt, whose words could not be read');
    }
    const negativePrompt = negative.text ?? textOf(this.extra?.negativePrompt);
    if (negativePrompt !== undefined) {
      findings.negativePrompt(negativePrompt);
    } else if (negative.isThere) {
      findings.negativePrompt('').lost('the negative prompt, whose words could not be read');
    }
    if (this.#strings.isPartial) {
      findings.lost('some of its words, which were made or changed while the graph ran');
    }
  }

  /** For a paid service or an unknown sampler: the node with text nearest to the saved output. */
  #unsampled(): void {
    const saved = [...this.graph.values()].filter((node) => this.#routes.takers(node).length === 0);
    for (const node of [...upstreamOf(this.graph, saved)].slice(0, MOST_ASKED)) {
      const start = { node, output: -1 };
      const words = NO_WORDS.test(node.type) ? null : this.#words.find(start, 'positive');
      if (words?.text && (/\s/.test(words.text) || WORDED.test(words.node?.type ?? ''))) {
        const negative = this.#words.find(start, 'negative');
        // A node with one text has no negative prompt.
        const isSame = negative.node === words.node && negative.text === words.text;
        this.#prompts(words, isSame ? { ...negative, text: undefined, isThere: false } : negative);
        const made = words.node ?? node;
        this.#findings.seed(this.#routes.value(made, 'seed') ?? this.extra?.seed);
        const size = sizeOf(made, this.#routes);
        if (size) {
          this.#findings.size(...size);
        }
        nameRemainder(this.graph, this.#routes, [made], [], this.#lost);
        return;
      }
    }
    this.#findings.lost('the prompt, whose words could not be read');
  }
}

/** An unusable graph is reported, since the words in the form are not this picture's. */
function nothingRead(): Reading {
  return {
    tool: NAME,
    parameters: {},
    checkpoint: { name: null, hash: null },
    loras: [],
    notRestored: ['the prompt, whose words could not be read'],
  };
}

function readExtra(extra: Extra): Reading | null {
  return new Findings(NAME, 'comfyui')
    .prompt(extra.prompt)
    .negativePrompt(extra.negativePrompt)
    .steps(extra.steps)
    .guidance(extra.cfgScale)
    .sampler(extra.sampler, extra.scheduler)
    .seed(extra.seed)
    .noise('comfyui')
    .follows('comfyui')
    .size(extra.width, extra.height)
    .clipSkip(extra.clipSkip)
    .lostIf(extra.resources, 'the list of models and LoRAs that Civitai keeps')
    .unread(extra.fields)
    .reading();
}
