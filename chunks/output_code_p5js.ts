/** A moving picture: a p5.js sketch written by a language model. In: words, or a failed sketch and its error. Out: code for the sandbox. */
import * as v from 'valibot';
import type { ChunkMeta, ContextOf, Outputs } from '../src/core/chunk.ts';
import { drawnSeed } from '../src/core/parameters.ts';
import { MENDING, SKETCH_RECORDS, isMending, sketchFields, writeSketch } from '../src/core/sketch_writing.ts';
import { WRITE } from '../src/core/writing.ts';

export const meta = {
  id: 'output_code_p5js',
  media: 'code',
  operations: ['code_generation'],
  needs: { gpu: true, language: 'text' },
  stages: [WRITE],
  outputs: { sketch: { medium: 'code', entity: 'p5' } },
  records: SKETCH_RECORDS,
} as const satisfies ChunkMeta;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    ...sketchFields(),
    seed: drawnSeed(),
  }),
  v.check((input) => isMending(input), MENDING),
);

export function execute(input: v.InferOutput<typeof parameters>, context: ContextOf<typeof meta>): Promise<Outputs> {
  return writeSketch('p5', input, context);
}
