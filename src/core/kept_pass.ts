/** What an attempt keeps in the second of two passes, so that the first is not run again. In the first it keeps the sampling's own state. */
import * as v from 'valibot';

const keptSchema = v.object({
  /** The latents that the second pass starts from. */
  enlarged: v.object({
    dims: v.pipe(v.array(v.number()), v.length(4)),
    data: v.custom<Float32Array<ArrayBuffer>>((data) => data instanceof Float32Array && data.every(Number.isFinite)),
  }),
  /** Of its sampling. Before its first step the first pass's last state still stands. */
  state: v.unknown(),
});

export type KeptPass = v.InferOutput<typeof keptSchema>;

/**
 * What was kept of this very second pass; null for what an attempt kept in its first pass, and for anything foreign.
 * @param isIts whether latents of this shape are those that it starts from
 */
export function keptPass(resume: unknown, isIts: (dims: readonly number[]) => boolean): KeptPass | null {
  const result = v.safeParse(keptSchema, resume);
  if (!result.success) {
    return null;
  }
  const { dims, data } = result.output.enlarged;
  const isWhole = data.length === dims.reduce((count, dim) => count * dim, 1);
  return isWhole && isIts(dims) ? result.output : null;
}
