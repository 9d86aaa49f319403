/** Which layers of diffusers' modules a layer of an original code is. */

/** A layer of diffusers' modules, and which rows of the original's it has. */
export interface LayerPart {
  path: string;
  /** Of `of` equal shares of the rows, those from `from` to before `to`; absent = all rows. */
  rows?: Rows;
}

export interface Rows {
  from: number;
  to: number;
  of: number;
}

/** The one layer at this path; none where there is no path. */
export function whole(path: string | undefined): LayerPart[] {
  return path === undefined ? [] : [{ path }];
}

/**
 * Queries, keys and values in one tensor.
 * @param words whether they are those of the text in an attention that has two streams
 */
export function together(attention: string, words: boolean): LayerPart[] {
  return ['q', 'k', 'v'].map((part, i) => ({
    path: `${attention}.${words ? `add_${part}_proj` : `to_${part}`}`,
    rows: { from: i, to: i + 1, of: 3 },
  }));
}

/** The shift before the scale, which diffusers has the other way round: each half is a layer of its own here. */
export function shiftFirst(path: string): LayerPart[] {
  return ['shift', 'scale'].map((part, i) => ({ path: `${path}.${part}`, rows: { from: i, to: i + 1, of: 2 } }));
}

/** The layer that shifts and scales before the last one, in all original codes that have it. */
export const HEAD_MODULATION = 'final_layer.adaLN_modulation.1';
