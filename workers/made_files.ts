/** Files made by other machines, identified by their bytes rather than their names. */
import { StudioError } from '../src/core/errors.ts';
import type { ChunkMeta, Outputs } from '../src/core/chunk.ts';
import { MadeFile } from '../src/core/remote.ts';
import type { Medium } from '../src/media/medium.ts';
import { recogniseFile } from '../src/media/registry.ts';
import type { Kind } from '../src/media/registry.ts';

const kinds = new WeakMap<Blob, Promise<Kind | null>>();

/** Cached, since reading even the first bytes of a file takes milliseconds. */
function kindOf(file: Blob): Promise<Kind | null> {
  const kind = kinds.get(file) ?? recogniseFile(file);
  kinds.set(file, kind);
  return kind;
}

/**
 * A step's outputs, with each file moved to the output of its actual medium, if the step has one.
 * @param notice receives one sentence about each file that was moved
 */
export async function sortedByContent(
  outputs: Outputs,
  declared: ChunkMeta['outputs'],
  notice: (sentence: string) => void,
): Promise<Outputs> {
  const sorted: Outputs = { ...outputs };
  for (const [name, { medium }] of Object.entries(declared)) {
    const values: unknown[] = Array.isArray(outputs[name]) ? outputs[name] : [];
    for (const value of values.filter((one) => one instanceof MadeFile)) {
      const kind = await kindOf(value.file);
      const isOther = kind !== null && kind.medium.id !== medium;
      const [other] =
        Object.entries(declared).find(([, one]) => isOther && one.many && one.medium === kind.medium.id) ?? [];
      if (kind && other !== undefined) {
        sorted[name] = (sorted[name] as unknown[]).filter((one) => one !== value);
        sorted[other] = [...(sorted[other] as unknown[]), value];
        notice(
          `The server calls a file as if it were another kind; it is recorded as what it is: ${kind.medium.label.en}.`,
        );
      }
    }
  }
  return sorted;
}

/**
 * A file as recorded: unchanged.
 * @throws StudioError `result_invalid` if it is not what it claims to be
 */
export async function madeElsewhere({ file, metadata: origin }: MadeFile, medium: Medium, step: string) {
  const kind = await kindOf(file);
  if (kind?.medium.id !== medium.id) {
    throw new StudioError(
      'result_invalid',
      `The step "${step}" was given a file that is no ${medium.label.en.toLowerCase()}; look at what the server made, then try again.`,
    );
  }
  // The bytes decide what it is, not the server's name for it.
  const typed = new Blob([file], { type: kind.format.mime });
  const measured = medium.measure?.(typed) ?? medium.decode(typed).then((value) => medium.facts(value));
  const facts = await measured.catch((error: unknown): Record<string, number | string> => {
    if (medium.id === 'image') {
      throw error;
    }
    return {}; // A codec this browser lacks; it can still be saved.
  });
  return { file: typed, facts, origin };
}
