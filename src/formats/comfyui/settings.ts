/** A sampler's settings, whether they are its own or come from parts (guider, sigmas, noise) or a bundle. */
import { numberOf, textOf } from '../json.ts';
import { shown, type Findings } from '../findings.ts';
import type { Extra } from './civitai.ts';
import { MAX_WALK, type Node } from './graph.ts';
import type { Routes } from './routes.ts';
import { samplerOfType, scheduleOfType } from './samplers.ts';

const CFG = ['cfg', 'cfg_scale', 'guidance_scale', 'true_cfg', 'true_gs', 'cfg_conds', 'video_cfg'];
const SEED = ['seed', 'noise_seed', 'seed_num'];

/** A sampler's own node first, then what it takes. */
export interface Parts {
  sampler: Node;
  guider: Node;
  sigmas: readonly Node[];
  samplers: readonly Node[];
  all: readonly Node[];
}

export function partsOf(sampler: Node, routes: Routes): Parts {
  const taken = (name: string) => {
    const place = routes.source(sampler, name);
    return place ? onward(place.node, name, routes) : [];
  };
  const guiders = taken('guider');
  // Split or flipped schedules come from one further upstream, which has the steps.
  const sigmas = taken('sigmas').sort((a, b) => Number(/scheduler/i.test(b.type)) - Number(/scheduler/i.test(a.type)));
  const samplers = taken('sampler');
  const bundles = routes.bundles(sampler);
  return {
    sampler,
    guider: guiders.at(-1) ?? sampler,
    sigmas,
    samplers,
    all: [...new Set([...bundles, ...guiders, ...sigmas, ...samplers, ...taken('noise')])],
  };
}

function onward(start: Node, name: string, routes: Routes): Node[] {
  const found = new Set([start]);
  for (const node of found) {
    const place = routes.source(node, name) ?? routes.through(node);
    if (place && found.size < MAX_WALK) {
      found.add(place.node);
    }
  }
  return [...found];
}

/** @param distilled guidance that a conditioning carries, as for Flux */
export function readSettings(
  { sampler, guider, sigmas, samplers, all }: Parts,
  routes: Routes,
  findings: Findings,
  extra: Extra | null,
  distilled: unknown,
): void {
  const first = (nodes: readonly Node[], names: readonly string[]): unknown => {
    for (const node of nodes) {
      for (const name of names) {
        const value = routes.value(node, name);
        if (value !== undefined && value !== '') {
          return value;
        }
      }
    }
    return undefined;
  };
  const isAsked = (names: readonly string[]) => all.some((node) => names.some((name) => node.inputs.has(name)));
  const steps = first([...sigmas, ...all], ['steps']) ?? extra?.steps;
  findings.steps(steps);
  if (steps === undefined) {
    findings.lost('the number of steps');
  }
  const seed = first(all, SEED) ?? extra?.seed;
  findings.seed(seed);
  if (seed !== undefined) {
    findings.noise('comfyui').follows('comfyui');
  }
  if (seed === undefined && isAsked(SEED)) {
    findings.lost('the seed');
  }
  const schedule = first([...sigmas, ...all], ['scheduler']) ?? sigmas.map(scheduleOfType).find(Boolean);
  findings.sampler(
    first([...samplers, ...all], ['sampler_name']) ??
      samplers.map(samplerOfType).find(Boolean) ??
      first(all, ['sampler']) ??
      extra?.sampler,
    schedule ?? extra?.scheduler,
  );
  readGuidance(
    first([guider, sampler, ...all], CFG) ?? extra?.cfgScale,
    distilled ?? first(all, ['guidance']),
    findings,
  );
}

/** Models with distilled guidance run without CFG, shown by a cfg of 1. */
function readGuidance(cfg: unknown, distilled: unknown, findings: Findings): void {
  const isOff = cfg === undefined || numberOf(cfg) === 1;
  findings.guidance(isOff ? (distilled ?? cfg) : cfg);
  if (!isOff && textOf(distilled) !== undefined) {
    findings.lost(`the distilled guidance of ${shown(distilled)}`);
  }
}

/** The number of an input of a sampler or of what it takes. */
export function numberAmong(nodes: readonly Node[], names: readonly string[], routes: Routes): number | undefined {
  return nodes
    .flatMap((node) => names.map((name) => numberOf(routes.value(node, name))))
    .find((value) => value !== undefined);
}
