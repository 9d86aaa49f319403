/** One file of weights as a checkpoint has it, `.safetensors` or `.gguf`, of which only the header is read. */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { architectureOf, ggufTensors, readGgufHeader, unreadableOf, type GgufValue } from './gguf.ts';
import { requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader } from './safetensors.ts';

/** Bytes of a file. */
export interface FilePlace {
  path: string;
  offset: number;
  length: number;
}

export interface WeightFile {
  path: string;
  /** Of all tensors, also of those that cannot be read. */
  names: ReadonlySet<string>;
  /** Those that can be read. */
  tensors: readonly StoredTensor[];
  /** What a GGUF file says that it holds, such as `flux`. */
  architecture: string | null;
  /** Of a GGUF file, else empty. */
  metadata: ReadonlyMap<string, GgufValue>;
  /**
   * @param isWeight whether this tensor is one that a network needs
   * @throws StudioError `checkpoint_unsupported` where a weight is of a type that cannot be read, by its name
   */
  requireReadable(isWeight: (name: string) => boolean): void;
  /** Where a tensor of any type lies, by its name in the file; null for what is no tensor of it, and in GGUF files. */
  placeOf(name: string): FilePlace | null;
}

const GGUF = /\.gguf$/i;

export function isWeightFile(path: string): boolean {
  return /\.safetensors$/i.test(path) || GGUF.test(path);
}

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` */
export async function readWeightFile(files: CheckpointFiles, path: string): Promise<WeightFile> {
  const blob = await files.blob(path);
  if (GGUF.test(path)) {
    const header = await readGgufHeader(blob, path);
    return {
      path,
      names: new Set(header.tensors.map(({ name }) => name)),
      tensors: ggufTensors(header, path),
      architecture: architectureOf(header),
      metadata: header.metadata,
      requireReadable(isWeight) {
        const unreadable = unreadableOf(header, isWeight);
        if (unreadable) {
          throw new StudioError(
            'checkpoint_unsupported',
            `${path} has its weights stored as ${unreadable.type} (such as "${unreadable.name}"), which Darkroom cannot read; get this model as Q8_0, Q4_0, one of the K types (Q2_K to Q6_K), IQ4 or F16.`,
          );
        }
      },
      placeOf: () => null,
    };
  }
  const header = await readSafetensorsHeader(blob, path);
  const tensors = storedTensors(header, path);
  return {
    path,
    names: new Set([...header.tensors.keys(), ...tensors.map(({ name }) => name)]),
    tensors,
    architecture: null,
    metadata: new Map(),
    requireReadable: (isWeight) => {
      requireReadable(header, path, isWeight);
    },
    placeOf: (name) => {
      const tensor = header.tensors.get(name);
      return tensor ? { path, offset: tensor.offset, length: tensor.length } : null;
    },
  };
}
