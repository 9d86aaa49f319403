/** A graph's samplers of any kind, and which of them made the picture. */
import { MAX_WALK, linkNames, literal, type Graph, type Node, type Place } from './graph.ts';
import type { Routes } from './routes.ts';

const NAMED = /sampler|ultimatesdupscale|detailer|^ttn .*ksampler/i;
const NOT_ONE =
  /select|schedul|presampl|preset|script|config|sigma|provider|option|info|xy|list|^sampler[A-Z_](?!ustom)|pipe(in|out|edit)$|(to|from|edit)(basic|detailer)pipe|detailerhook|loader|modelsampl|^context/i;
const START =
  /^(latent_image|samples|latents?|optional_latent|image|images|image_embeds|.*pipe|.*ctx|context|sdxl_tuple|segs|hidream.*)$/i;

/**
 * The chain of samplers leading to the picture, last pass first: a picture that was enlarged and repainted has two. Of several chains, the
 * one leading to a saved picture counts.
 */
export function samplerChain(graph: Graph, routes: Routes): { chain: Node[]; others: number } {
  const all = [...graph.values()].filter(isSampler);
  const before = new Map(all.map((node) => [node, samplerBefore(node, routes)]));
  const feeding = new Set(before.values());
  const last = all.filter((node) => !feeding.has(node));
  const start = last.find((node) => isSaved(routes, node)) ?? last.at(0) ?? all.at(0);
  const chain: Node[] = [];
  for (let node = start; node && !chain.includes(node) && chain.length < MAX_WALK;) {
    chain.push(node);
    node = before.get(node) ?? undefined;
  }
  return { chain, others: last.filter((node) => node !== start).length };
}

export function isSampler(node: Node): boolean {
  const { type, inputs } = node;
  const has = (...names: string[]) => names.some((name) => inputs.has(name));
  const hasStart = linkNames(node).some((name) => START.test(name));
  const hasSeed = has('seed', 'noise_seed', 'noise');
  if (NOT_ONE.test(type)) {
    return false;
  }
  if (NAMED.test(type)) {
    const hasBundle = linkNames(node).some((name) => /pipe|ctx|context/i.test(name));
    return hasStart && (hasSeed || hasBundle);
  }
  return hasStart && hasSeed && has('steps') && has('cfg', 'cfg_scale', 'guidance', 'sampler_name', 'scheduler');
}

/** Passes that repaint existing content. */
export function isTouchUp({ type }: Node): boolean {
  return /detailer/i.test(type);
}

/** The sampler whose latents or picture this one continues from. */
function samplerBefore(sampler: Node, routes: Routes): Node | null {
  let place: Place | null = { node: sampler, output: -1 };
  const seen = new Set<Node>();
  while (place && !seen.has(place.node) && seen.size < MAX_WALK) {
    seen.add(place.node);
    place = routes.behind(place, 'latent');
    if (place && place.node !== sampler && isSampler(place.node)) {
      return place.node;
    }
  }
  return null;
}

function isSaved(routes: Routes, start: Node): boolean {
  const seen = new Set([start]);
  for (const node of seen) {
    if (/save|videocombine|output/i.test(node.type)) {
      return true;
    }
    if (seen.size < MAX_WALK) {
      routes.takers(node).forEach((taker) => seen.add(taker));
    }
  }
  return false;
}

/** `SamplerDPMPP_2M_SDE` samples as `dpmpp_2m_sde` does. */
export function samplerOfType({ type, inputs }: Node): string | undefined {
  const [, name] = /^Sampler_?(.+)$/.exec(type) ?? [];
  if (name === undefined || /custom|select/i.test(name) || inputs.has('sampler_name')) {
    return undefined;
  }
  return name
    .replace(/CFGpp$/i, '')
    .replace(/([a-z])([A-Z])/g, '$1_$2')
    .toLowerCase()
    .replace('adaptative', 'adaptive');
}

/** Sigma nodes make one kind of schedule each, except the one that names it. */
export function scheduleOfType(node: Node): string | undefined {
  const [, name] = /^(?:.*\.)?([A-Za-z0-9]+?)(?:Sampling)?Scheduler$/.exec(node.type) ?? [];
  if (literal(node, 'scheduler') !== undefined || name === undefined || name === 'Basic') {
    return undefined;
  }
  return { AlignYourSteps: 'Align Your Steps', SDTurbo: 'SD Turbo', OptimalSteps: 'Optimal Steps' }[name] ?? name;
}
