/** The files that make a folder a checkpoint in diffusers' layout: they name its pipeline and its parts. */

/** Of a pipeline of one piece; where a repository has both, it is this one that says what the folder is. */
export const INDEX = 'model_index.json';
/** Of a pipeline made of blocks (Modular Diffusers), which lists each part with the repository that it comes from. */
export const MODULAR_INDEX = 'modular_model_index.json';

export const INDEXES = [INDEX, MODULAR_INDEX] as const;

/** The path of the folder's index, undefined where it has none. */
export function indexOf(has: (path: string) => boolean): string | undefined {
  return INDEXES.find((path) => has(path));
}
