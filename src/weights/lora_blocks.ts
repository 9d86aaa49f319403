/**
 * Which block of a UNet a layer lies in, as its original code counts them and lists of block weights name them.
 *
 * Reference: sd-webui-lora-block-weight; diffusers/loaders/single_file_utils.py (convert_ldm_unet_checkpoint)
 */
import { BLOCK_FORMS } from '../core/loras.ts';
import type { WeightIndex } from '../graphs/graph.ts';

/** Of a UNet: `IN04` for `down_blocks.1.attentions.0.…`; null for a layer that lies in no block. */
export function blockFinder(weights: WeightIndex): (path: string) => string | null {
  const layers = new Set([...weights.names()].flatMap((name) => /^down_blocks\.0\.resnets\.\d+/.exec(name) ?? [])).size;
  return (path) => {
    if (path.startsWith('conv_in')) {
      return 'IN00';
    }
    if (path.startsWith('mid_block')) {
      return 'M00';
    }
    const [, way, block, kind, place] = /^(down|up)_blocks\.(\d+)\.(\w+?)\.(\d+)/.exec(path) ?? [];
    if (!way) {
      return null;
    }
    // Behind its layers, of which there is one more on the way up, a block halves or doubles the picture.
    const number = Number(block) * (layers + 1);
    if (way === 'down') {
      return `IN${two(1 + number + (kind === 'downsamplers' ? layers : Number(place)))}`;
    }
    return `OUT${two(number + (kind === 'upsamplers' ? layers : Number(place)))}`;
  };
}

/** The factor of a block; 0 for one that the form does not have, 1 for what lies in none. */
export function blockFactor(blocks: readonly number[] | undefined, block: string | null): number {
  return blocks && block !== null ? (blocks[BLOCK_FORMS[blocks.length]?.indexOf(block) ?? -1] ?? 0) : 1;
}

/** Blocks that are given a weight and that no layer of the UNet lies in. */
export function blocksNotThere(blocks: readonly number[], weights: WeightIndex): string[] {
  const blockOf = blockFinder(weights);
  const there = new Set([...weights.names()].map(blockOf));
  return (BLOCK_FORMS[blocks.length] ?? []).filter((name) => name !== 'BASE' && !there.has(name));
}

function two(number: number): string {
  return String(number).padStart(2, '0');
}
