/** Attention over the tokens of words and picture together, which have projections of their own: what FLUX and Qwen-Image share. */
import type { Angles, LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

/** Tokens of both, [rows, dim] each. */
export interface Streams {
  picture: Value;
  words: Value;
}

export interface JointAttentionOptions {
  heads: number;
  /** Of the words' tokens and then the picture's. */
  turns: Angles;
  /** Of the norms of queries and keys. */
  epsilon: number;
  /** Whether the projections have biases. */
  biases: boolean;
  /** Added to the scores, [1, 1, all tokens, all tokens]. */
  mask?: Value | undefined;
}

/** diffusers' `Attention` with added projections for the words. */
export function jointAttention(
  g: LayerWriter,
  path: string,
  { picture, words }: Streams,
  { heads, turns, epsilon, biases, mask }: JointAttentionOptions,
): Streams {
  const [, dim] = picture.dims as [number, number];
  const project = (name: string, x: Value) => g.linear(`${path}.${name}`, x, dim, { bias: biases });
  const joined = (part: 'q' | 'k' | 'v') => {
    const own = project(`to_${part}`, picture);
    const added = project(`add_${part}_proj`, words);
    const normal = (name: string, x: Value) => (part === 'v' ? x : g.headNorm(`${path}.${name}`, x, heads, epsilon));
    return g.concat(`${path}/${part}`, [normal(`norm_added_${part}`, added), normal(`norm_${part}`, own)], 0);
  };
  const turned = (part: 'q' | 'k') => g.rotary(`${path}/${part}/turned`, joined(part), turns, 'neighbours');
  const mixed = g.attention(path, turned('q'), turned('k'), joined('v'), heads, mask ? { bias: mask } : {});
  const [ofWords, ofPicture] = g.split(`${path}/parts`, mixed, [words.dims[0], picture.dims[0]], 0);
  return { picture: project('to_out.0', ofPicture), words: project('to_add_out', ofWords) };
}
