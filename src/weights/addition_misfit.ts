/** What does not go with the checkpoint that it is used with. */
import { ADDITIONS, type Addition } from '../core/additions.ts';
import { StudioError } from '../core/errors.ts';

export type Said = number | readonly number[] | null | undefined;

/**
 * @param what of its configuration differs: `own` in the addition, `its` in the checkpoint called `of`
 */
export function madeForAnother(
  kind: Addition,
  name: string,
  what: string,
  own: Said,
  { its, of }: { its: Said; of: string },
): StudioError {
  return new StudioError(
    'checkpoint_unsupported',
    `The ${ADDITIONS[kind]} "${name}" was made for another kind of model: its ${what} is ${show(own)}, and that of "${of}" is ${show(its)}; choose one for this kind of checkpoint.`,
  );
}

function show(value: Said): string {
  return typeof value === 'object' && value !== null ? value.join(', ') : String(value ?? 0);
}
