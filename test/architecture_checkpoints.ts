/** The tiny checkpoints of `test/architectures`, whose weights are made here by the formula; see `reference/architectures.py`. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensors } from '../src/weights/safetensors.ts';
import type { ModelAdditions, ModelLora } from '../src/models/family.ts';
import type { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { hashed } from './hashed_weights.ts';

const ROOT = join(import.meta.dirname, 'architectures');

interface NetworkFile {
  config: Record<string, unknown>;
  /** Number of the first tensor; the others follow. */
  first: number;
  tensors: [name: string, shape: number[], scale: number, add: number][];
}

interface CheckpointFile {
  /** Small files, by path. */
  files: Record<string, unknown>;
  /** By component; of `networks/`. */
  networks: Record<string, string>;
  /** By component; those of `test/checkpoints`. */
  tokenizers: Record<string, string>;
}

/** The files of a diffusers folder. */
export function architectureContents(name: string): Contents {
  const { files, networks, tokenizers } = read<CheckpointFile>(`${name}.json`);
  const contents: Contents = new Map();
  for (const [path, value] of Object.entries(files)) {
    contents.set(path, json(value));
  }
  for (const [component, network] of Object.entries(networks)) {
    const file = read<NetworkFile>(`networks/${network}.json`);
    const stem = component.startsWith('text_encoder') ? 'model' : 'diffusion_pytorch_model';
    contents.set(`${component}/config.json`, json(file.config));
    contents.set(`${component}/${stem}.safetensors`, weightsOf(file));
  }
  for (const [component, checkpoint] of Object.entries(tokenizers)) {
    const folder = join(import.meta.dirname, 'checkpoints', checkpoint, 'tokenizer');
    for (const path of readdirSync(folder)) {
      contents.set(`${component}/${path}`, new Uint8Array(readFileSync(join(folder, path))));
    }
  }
  return contents;
}

/** A folder as a person opens it, or a file if the name is a file's. */
export function architectureFiles(name: string): FolderFiles {
  return filesOf(
    name,
    name.endsWith('.safetensors') ? new Map([[name, architectureFile(name)]]) : architectureContents(name),
  );
}

/** The LoRAs merged into the checkpoint of a case; see LORAS_OF in the script. */
export function lorasOf(name: string): ModelLora[] {
  return name === 'sdxl-lora'
    ? [{ file: new Blob([architectureFile('sdxl-kohya.safetensors')]), name: 'kohya', strength: 0.75 }]
    : [];
}

interface NamedFile {
  name: string;
  file: Blob;
}

/** The vision encoders by which the image prompts of the cases see. */
export const IMAGE_ENCODERS = ['vision-h', 'vision-g'];

/** What is used beside the checkpoint in a case. */
export function additionsOf(parameters: Record<string, unknown>): Record<keyof ModelAdditions, NamedFile[]> {
  const named = (key: 'controlnet' | 'ip_adapter') =>
    ((parameters[`${key}s`] ?? []) as Record<string, string>[]).map((use) => use[key]);
  const files = (names: string[]) =>
    names.map((name) => ({ file: new Blob([architectureFile(`${name}.safetensors`)]), name }));
  const adapters = named('ip_adapter');
  return {
    controlnets: files(named('controlnet')),
    ip_adapters: files(adapters),
    image_encoders: files(adapters.length > 0 ? IMAGE_ENCODERS : []),
    vaes: files(typeof parameters.vae === 'string' ? [parameters.vae] : []),
    first_vaes: files(typeof parameters.first_vae === 'string' ? [parameters.first_vae] : []),
  };
}

/** A whole checkpoint, LoRA or other addition in one file, such as `sdxl.safetensors`. */
export function architectureFile(name: string): Uint8Array<ArrayBuffer> {
  return weightsOf(read<NetworkFile>(`files/${name.replace('.safetensors', '.json')}`));
}

/** A file of {@link architectureFile} with renamed tensors; null drops one. */
export function renamed(name: string, change: (tensor: string) => string | null): Blob {
  const file = architectureFile(`${name}.safetensors`);
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, name);
  const { tensors } = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, name);
  const entries = [...tensors.values()].flatMap(({ name: own, shape, offset, length: bytes }) => {
    const other = change(own);
    const data = new Float32Array(file.slice(offset, offset + bytes).buffer);
    return other === null ? [] : [[other, { dims: shape, data }] as [string, { dims: number[]; data: typeof data }]];
  });
  return new Blob([writeSafetensors(entries)]);
}

export const same = (name: string): string => name;

function weightsOf({ first, tensors }: NetworkFile): Uint8Array<ArrayBuffer> {
  return writeSafetensors(
    tensors.map(([name, dims, scale, add], index) => [
      name,
      {
        dims,
        data: hashed(
          first + index,
          dims.reduce((product, dim) => product * dim, 1),
          scale,
          add,
        ),
      },
    ]),
  );
}

function read<T>(path: string): T {
  return JSON.parse(readFileSync(join(ROOT, path), 'utf8')) as T;
}

function json(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(value));
}
