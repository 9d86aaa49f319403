/** The tensors of a LoRA's file, by what their names say. */
import { createSHA256 } from 'hash-wasm';
import { StudioError } from '../core/errors.ts';
import { size } from './lora_layers.ts';
import type { LeftOut } from './lora_left_out.ts';
import { asFloats, isReadable } from './quantise.ts';
import { readSafetensorsHeader, type TensorEntry } from './safetensors.ts';
import { looksLikeEmbedding } from './textual_inversion.ts';

const PAIR =
  /^(?<module>.+?)(?:\.lora_(?<a>down|up|A|B)(?:\.(?!bias$|alpha$)(?<adapter>[^.]+?))??|(?:\.lora|\.lora_linear_layer|_lora)\.(?<b>down|up))(?:\.weight)?$/;
const ALPHA = /^(?<module>.+?)(?:\.lora|\.lora_linear_layer|_lora)?\.alpha$/;
const ROLES = { down: 'down', A: 'down', up: 'up', B: 'up' } as const;

/** Ends of names that make the change of their layer, or all of it, something else than a product of two matrices. */
const KINDS: [ending: RegExp, kind: string][] = [
  [/\.(?:oft_(?:blocks|diag|R).*|boft_.*)$/, 'OFT'],
  [/\.(?:glora_.*|bm\.weight)$/, 'another kind of GLoRA'],
  [/\.set_weight$/, 'whole weights'],
  [/\.(?:diff_b|b_norm|lora_B(?:\.[^.]+)?\.bias|lora_up\.bias)$/, 'a change of a bias'],
  [/\.lora_embedding_[AB].*$/, 'a change of the vocabulary'],
];
/** The lengths of DoRA: LyCORIS', which OneTrainer writes too, and PEFT's. */
const LENGTHS = /^(?<module>.+?)\.(?:(?<lycoris>dora_scale)|lora_magnitude_vector(?:\..+)?)$/;

/** Tensors of changes that are more than a product, below the module's name. */
const FACTOR =
  /^(?<module>.+?)\.(?<part>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|lora_mid|diff|w_norm|on_input|[ab][12](?=\.weight$))(?:\.weight)?$/;

/** The tensors of a file by what their names say. */
export interface Contents {
  /** By module and adapter. */
  pairs: { module: string; down?: TensorEntry; up?: TensorEntry }[];
  alphas: Map<string, TensorEntry>;
  /** By module, then by part. */
  factors: Map<string, Map<string, TensorEntry>>;
  /** By module, what DoRA gives it. */
  lengths: Map<string, { tensor: TensorEntry; by: 'LyCORIS' | 'PEFT' }>;
  leftOut: LeftOut[];
}

/** Every tensor goes to one of the places. */
export function sort(tensors: Iterable<TensorEntry>): Contents {
  const pairs = new Map<string, Contents['pairs'][number]>();
  const contents: Omit<Contents, 'pairs'> = { alphas: new Map(), factors: new Map(), lengths: new Map(), leftOut: [] };
  const { alphas, factors, lengths, leftOut } = contents;
  const all = [...tensors];
  const scaled = new Set(
    all.flatMap(({ name }) => (name.endsWith('.on_input') ? [name.slice(0, -'.on_input'.length)] : [])),
  );
  for (const tensor of all) {
    const { name } = tensor;
    const factor =
      FACTOR.exec(name)?.groups ??
      (name.endsWith('.weight') && scaled.has(name.slice(0, -'.weight'.length))
        ? { module: name.slice(0, -'.weight'.length), part: 'weight' }
        : undefined);
    if (factor) {
      const own = factors.get(factor.module) ?? new Map<string, TensorEntry>();
      factors.set(factor.module, own.set(factor.part === 'w_norm' ? 'diff' : factor.part, tensor));
      continue;
    }
    const { module, a, b, adapter = '' } = PAIR.exec(name)?.groups ?? {};
    const alphaOf = ALPHA.exec(name)?.groups?.module;
    const { module: lengthened, lycoris } = LENGTHS.exec(name)?.groups ?? {};
    const [ending, kind] = KINDS.find(([pattern]) => pattern.test(name)) ?? [];
    if (module !== undefined) {
      const pair = pairs.get(`${module} ${adapter}`) ?? { module };
      const role = ROLES[(a ?? b) as keyof typeof ROLES];
      if (pair[role]) {
        leftOut.push({ name, reason: 'twice', detail: '' });
      } else {
        pairs.set(`${module} ${adapter}`, { ...pair, [role]: tensor });
      }
    } else if (alphaOf !== undefined) {
      alphas.set(alphaOf, tensor);
    } else if (lengthened !== undefined) {
      lengths.set(lengthened, { tensor, by: lycoris ? 'LyCORIS' : 'PEFT' });
    } else if (ending && kind !== undefined) {
      const changed = name.replace(ending, '');
      if (!leftOut.some((left) => left.name === changed && left.detail === kind)) {
        leftOut.push({ name: changed, reason: 'kind', detail: kind });
      }
    } else {
      leftOut.push({ name, reason: name.startsWith('bundle_emb.') ? 'embedding' : 'unknown', detail: '' });
    }
  }
  return { ...contents, pairs: [...pairs.values()] };
}

const WHOLE_NUMBERS: Record<string, (view: DataView) => number | bigint> = {
  BOOL: (view) => view.getUint8(0),
  U8: (view) => view.getUint8(0),
  I8: (view) => view.getInt8(0),
  U16: (view) => view.getUint16(0, true),
  I16: (view) => view.getInt16(0, true),
  U32: (view) => view.getUint32(0, true),
  I32: (view) => view.getInt32(0, true),
  U64: (view) => view.getBigUint64(0, true),
  I64: (view) => view.getBigInt64(0, true),
};

/** The one number that a tensor of any shape and type holds; NaN where it is not one. */
export async function numberOf({ dtype, shape, offset, length }: TensorEntry, blob: Blob): Promise<number> {
  if (size({ shape }) !== 1) {
    return NaN;
  }
  const bytes = new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
  if (isReadable(dtype)) {
    return asFloats(bytes, dtype)[0];
  }
  return Object.hasOwn(WHOLE_NUMBERS, dtype) ? Number(WHOLE_NUMBERS[dtype](new DataView(bytes.buffer))) : NaN;
}

/** Whether a file changes layers as LoRAs and their relatives do, or is an embedding, which is kept beside them; from its header. @throws StudioError `checkpoint_damaged` */
export async function isLora(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  return (
    [...tensors.keys()].some((name) => PAIR.test(name) || FACTOR.test(name) || relativeOf(name) !== undefined) ||
    looksLikeEmbedding([...tensors.values()])
  );
}

/**
 * Reads the header of a file that is to be kept as a LoRA.
 * @param file its name, for the message
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for a file that changes no layer in the ways known here
 */
export async function requireLora(blob: Blob, file: string): Promise<void> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const names = [...tensors.keys()];
  if (names.some((name) => PAIR.test(name) || FACTOR.test(name)) || looksLikeEmbedding([...tensors.values()])) {
    return;
  }
  const relative = names.map(relativeOf).find((kind) => kind !== undefined);
  throw new StudioError(
    'checkpoint_unsupported',
    relative === undefined
      ? `${file} is not a LoRA; if it is a checkpoint, open it or get it as one.`
      : `${file} is a relative of LoRA (${relative}) that Darkroom cannot apply; use a plain LoRA.`,
  );
}

/** SHA-256 of everything behind the header, by which AUTOMATIC1111 and kohya know a LoRA whatever its metadata say; lower-case hex. */
export async function loraDataHash(blob: Blob, file: string): Promise<string> {
  const { headerBytes } = await readSafetensorsHeader(blob, file);
  const hasher = await createSHA256();
  const reader = blob.slice(headerBytes).stream().getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    hasher.update(part.value);
  }
  return hasher.digest('hex');
}

/** The kind of change that a tensor belongs to where nothing but relatives of LoRA have such names. */
function relativeOf(name: string): string | undefined {
  return KINDS.find(([ending, kind]) => ending.test(name) && /^(?:OFT|DoRA)$/.test(kind))?.[1];
}
