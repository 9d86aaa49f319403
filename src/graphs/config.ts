/** Schema parts for a network's `config.json`: the reference's defaults for missing keys, and refusals of what is not implemented. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';

/** A key that may be missing or null, and otherwise must have an implemented value. */
export function only<const T extends string | number>(values: readonly T[], fallback: T) {
  const implemented = v.custom<T | null>((value) => value === null || values.includes(value as T));
  const chosen = v.pipe(
    implemented,
    v.transform((value) => value ?? fallback),
  );
  return v.optional(chosen, fallback);
}

/** A key for an option that is not implemented: missing, null, or a value that switches it off. */
export function unused(...same: readonly (string | number | boolean)[]) {
  return v.optional(v.custom<unknown>((value) => value === null || same.includes(value as string)));
}

export const count = (fallback: number) => v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), fallback);

export const real = (fallback: number) => v.optional(v.number(), fallback);

export const flag = (fallback: boolean) => v.optional(v.boolean(), fallback);

export const counts = (fallback: number[]) =>
  v.optional(v.pipe(v.array(v.pipe(v.number(), v.integer(), v.minValue(1))), v.minLength(1)), () => [...fallback]);

/** One value for all blocks, or one for each. */
export const perBlock = <const S extends v.GenericSchema>(schema: S) => v.union([schema, v.array(schema)]);

/** The value of {@link perBlock} for each of `blocks` blocks. */
export function each<T extends number | boolean>(value: T | T[], blocks: number): T[] {
  return Array.isArray(value) ? value : Array.from({ length: blocks }, () => value);
}

/** Whether `parts` (groups, heads) divides every width. */
export const divides = (parts: number, widths: number[]): boolean => widths.every((width) => width % parts === 0);

/**
 * Parses a network's `config.json`; keys that the schema does not name are ignored.
 * @throws StudioError `checkpoint_unsupported`, naming the first key whose value is not implemented
 */
export function parseNetworkConfig<S extends v.GenericSchema>(className: string, schema: S, json: unknown) {
  const result = v.safeParse(schema, json, { abortEarly: true });
  if (result.success) {
    return result.output;
  }
  const [issue] = result.issues;
  const path = v.getDotPath(issue);
  throw new StudioError(
    'checkpoint_unsupported',
    path === null
      ? `This ${className} cannot be run: ${issue.message}; choose another checkpoint.`
      : `This ${className} has "${path}": ${JSON.stringify(issue.input) ?? 'nothing'}, which Darkroom cannot run; choose another checkpoint.`,
  );
}
