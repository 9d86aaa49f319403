/**
 * IP-Adapters in one `.safetensors` file, as they are published: `image_proj.…` makes tokens of what an image encoder sees, and
 * `ip_adapter.<n>.to_k_ip` and `to_v_ip` make keys and values of these. How it is put together follows from the shapes.
 *
 * Reference: diffusers/loaders/unet.py (_convert_ip_adapter_image_proj_to_diffusers, _convert_ip_adapter_attn_to_diffusers)
 */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { WHOLE_TOKENS, type Config, type Projection } from '../graphs/ip_adapter.ts';
import { crossAttentions, type Config as UNetConfig } from '../graphs/unet2d_condition.ts';
import { madeForAnother } from './addition_misfit.ts';
import { TensorIndex } from './checkpoint.ts';
import { Shapes } from './inferred_configs.ts';
import { requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader, type SafetensorsHeader } from './safetensors.ts';

export interface IpAdapterFile {
  config: Config;
  weights: TensorIndex;
}

const OWN = /^(?:image_proj|ip_adapter)\./;
const ATTENTION = /^ip_adapter\.(\d+)\.to_k_ip\.weight$/;

/** Relatives that cannot be run, by a name that only they have, and why. */
const RELATIVES: [pattern: RegExp, refusal: (file: string) => string][] = [
  [
    /^(?:ip_adapter\..*_lora\.|image_proj\.perceiver_resampler\.)/,
    (file) =>
      `${file} is an IP-Adapter for faces (FaceID), which sees them by a network that Darkroom does not have; choose a plain, plus or full-face one.`,
  ],
  [
    /^(?:ip_adapter_proj_model\.|(?:double|single)_blocks\..*ip_adapter|ip_adapter\.\d+\.norm_)/,
    (file) =>
      `${file} is an IP-Adapter of a flow transformer, which Darkroom cannot run; choose one for Stable Diffusion 1 or XL.`,
  ],
];

/** Whether a file is an IP-Adapter or one of its relatives, from its header. @throws StudioError `checkpoint_damaged` */
export async function isIpAdapter(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const names = [...tensors.keys()];
  return names.some((name) => OWN.test(name)) || refusalOf(names) !== undefined;
}

function refusalOf(names: readonly string[]): ((file: string) => string) | undefined {
  return RELATIVES.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1];
}

/**
 * Reads the header of a file that is to be kept as an IP-Adapter.
 * @param file its name, for the message
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported`
 */
export async function requireIpAdapter(blob: Blob, file: string): Promise<void> {
  const header = await readSafetensorsHeader(blob, file);
  const names = [...header.tensors.keys()];
  const refusal = refusalOf(names);
  if (refusal !== undefined) {
    throw new StudioError('checkpoint_unsupported', refusal(file));
  }
  if (!names.some((name) => ATTENTION.test(name)) || !projectionOf(new Shapes(tensorsIn(header, file)))) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} is not an IP-Adapter of a kind that Darkroom knows; choose a plain, plus or full-face one for Stable Diffusion 1 or XL.`,
    );
  }
}

/**
 * @param file as graphs are to call it
 * @param name for people
 * @param unet of the checkpoint that it is used with
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for one of another kind of model
 */
export async function readIpAdapter(
  blob: Blob,
  file: string,
  name: string,
  { config: unet, of }: { config: UNetConfig; of: string },
): Promise<IpAdapterFile> {
  await requireIpAdapter(blob, name);
  const header = await readSafetensorsHeader(blob, file);
  requireReadable(header, name, (one) => OWN.test(one));
  const tensors = tensorsIn(header, file);
  const shapes = new Shapes(tensors);
  const found = projectionOf(shapes);
  if (!found) {
    throw new Error('Assertion failed: requireIpAdapter has looked');
  }
  const refuse = (what: string, own: number | number[], its: number | number[]) => {
    throw madeForAnother('ip_adapter', name, what, own, { its, of });
  };
  const { cross_attention_dim: dim } = unet;
  const width = Array.isArray(dim) ? dim[0] : dim;
  if (found.width !== width) {
    refuse('cross_attention_dim', found.width, width);
  }
  const attentions = crossAttentions(unet);
  const numbers = [...tensors.keys()].filter((one) => ATTENTION.test(one)).length;
  if (numbers !== attentions.length) {
    refuse('number of cross-attentions', numbers, attentions.length);
  }
  attentions.forEach(({ channels }, index) => {
    const [own] = shapes.of(`ip_adapter.${2 * index + 1}.to_k_ip.weight`);
    if (own !== channels) {
      refuse('width of the cross-attentions', own, channels);
    }
  });
  return { config: { ...found, attentions }, weights: new TensorIndex(tensors) };
}

function tensorsIn(header: SafetensorsHeader, file: string): Map<string, StoredTensor> {
  return new Map(storedTensors(header, file).map((tensor) => [tensor.name, tensor]));
}

/** Null where the shapes are those of no kind that is known. */
function projectionOf(shapes: Shapes): Pick<Config, 'projection' | 'given' | 'width'> | null {
  const [whole, embedded] = shapes.of('image_proj.proj.weight');
  if (whole !== undefined) {
    return { projection: { kind: 'base' }, given: embedded, width: whole / WHOLE_TOKENS };
  }
  const [, queries, width] = shapes.of('image_proj.latents');
  if (queries !== undefined) {
    const projection: Projection = {
      kind: 'plus',
      queries,
      width,
      inner: shapes.of('image_proj.layers.0.0.to_q.weight')[0],
      hidden: shapes.of('image_proj.layers.0.1.1.weight')[0],
      layers: shapes.count(/^image_proj\.layers\.(\d+)\./),
    };
    return {
      projection,
      given: shapes.of('image_proj.proj_in.weight')[1],
      width: shapes.of('image_proj.proj_out.weight')[0],
    };
  }
  const [normed] = shapes.of('image_proj.proj.3.weight');
  const [, given] = shapes.of('image_proj.proj.0.weight');
  return normed === undefined || given === undefined ? null : { projection: { kind: 'full' }, given, width: normed };
}
