/** Where a sampler started: from empty latents of a size, or from a picture. */
import { numberOf, textOf } from '../json.ts';
import type { Findings } from '../findings.ts';
import { MAX_WALK, literal, word, type Node, type Place } from './graph.ts';
import type { Routes } from './routes.ts';

const SIZES = [
  ['width', 'height'],
  ['empty_latent_width', 'empty_latent_height'],
  ['latent_width', 'latent_height'],
] as const;
const PRESET = /resolution|dimension|ratio|aspect|^size|preset/i;
const GIVEN = /load.*(image|video|latent)|image.*load|video.*load|image_?input|inputimage/i;

/** @param denoise how much of a given picture was changed */
export function readStart(sampler: Node, denoise: number | undefined, routes: Routes, findings: Findings): void {
  let size: [unknown, unknown] | null = null;
  let isSilent = false;
  let isEncoded = [...sampler.inputs.keys()].some((name) => /^images?$/.test(name));
  let isGiven = false;
  const seen = new Set<Node>();
  for (
    let place: Place | null = { node: sampler, output: -1 };
    place && !seen.has(place.node) && seen.size < MAX_WALK;
  ) {
    const { node }: Place = place;
    seen.add(node);
    isSilent ||= node.inputs.has('seconds');
    size ??= node.inputs.has('pixels') || GIVEN.test(node.type) ? null : sizeOf(node, routes);
    isEncoded ||= /VAEEncode/i.test(node.type) || /^inpaint.*cond/i.test(node.type);
    isGiven ||= GIVEN.test(node.type);
    place = isGiven || /empty/i.test(node.type) ? null : routes.behind(place, 'latent');
  }
  if (isEncoded || isGiven) {
    findings.lost('the picture it started from');
  }
  if (isEncoded) {
    findings.strength(denoise);
  }
  if (size) {
    findings.size(...size);
  } else if (!isEncoded && !isGiven && !isSilent) {
    findings.lost('the size');
  }
}

/** The size a node makes; null if it makes none, or gets it from something that cannot be followed. */
export function sizeOf(node: Node, routes: Routes): [unknown, unknown] | null {
  const preset = presetOf(node);
  if (preset) {
    return preset;
  }
  for (const [width, height] of SIZES) {
    const source = routes.source(node, width)?.node;
    const behind = source && routes.source(node, height)?.node === source ? presetOf(source) : null;
    const size = behind ?? [routes.value(node, width), routes.value(node, height)];
    if (numberOf(size[0]) !== undefined && numberOf(size[1]) !== undefined) {
      return [size[0], size[1]];
    }
  }
  return null;
}

/** Sizes that are chosen from a list, such as "1:1 square 1024x1024". */
function presetOf(node: Node): [number, number] | null {
  for (const name of node.inputs.keys()) {
    const text = PRESET.test(name) ? textOf(literal(node, name)) : undefined;
    const [, width, height] = /(\d{2,5})\s*[x×*]\s*(\d{2,5})/i.exec(text ?? '') ?? [];
    if (width !== undefined) {
      const isTurned = /^(on|true)$/i.test(word(node, 'swap_dimensions'));
      return isTurned ? [Number(height), Number(width)] : [Number(width), Number(height)];
    }
  }
  return null;
}
