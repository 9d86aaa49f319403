/**
 * Upscalers in one `.safetensors` file, recognised by the names of their tensors, in every spelling that they are published in; and which network they
 * are, from their shapes. What is none of those that run here is named, where its names tell.
 *
 * Spellings: basicsr (Real-ESRGAN), BSRGAN and RealSR, and the first ESRGAN, whose layers are numbered.
 */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor, WeightIndex } from '../graphs/graph.ts';
import * as rrdbnet from '../graphs/rrdbnet.ts';
import * as srvgg from '../graphs/srvgg_net_compact.ts';
import { TensorIndex } from './checkpoint.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { readSafetensorsHeader } from './safetensors.ts';

export type UpscalerNetwork =
  | { className: typeof rrdbnet.className; config: rrdbnet.Config; weights: WeightIndex }
  | { className: typeof srvgg.className; config: srvgg.Config; weights: WeightIndex };

/** Around the tensors of a file that was saved with its training. */
const PREFIX = /^(?:params_ema|params|model_ema|module|netG|generator)\./;

type Kind = 'rrdbnet' | 'numbered_rrdbnet' | 'srvgg';

/** A tensor that only this kind has. The first names decide. */
const KINDS: [Kind, RegExp][] = [
  ['rrdbnet', /^(?:body\.0\.rdb1|RRDB_trunk\.0\.RDB1)\.conv1\.weight$/],
  ['numbered_rrdbnet', /^model\.1\.sub\.0\.RDB1\.conv1\.0\.weight$/],
  ['srvgg', /^body\.1\.weight$/],
];

/** Upscalers that do not run here, by a tensor that only they have. */
const OTHERS: [name: string, has: RegExp][] = [
  ['SwinIR', /^layers\.0\.residual_group\.blocks\.0\.attn\.relative_position_bias_table$/],
  ['HAT', /^layers\.0\.residual_group\.overlap_attn\./],
  ['DAT', /^layers\.0\.blocks\.0\.(?:attn\.attns|ffn\.sg)\./],
  ['SPAN', /^block_1\.c1_r\.(?:sk|eval_conv)\.weight$/],
  ['OmniSR', /^residual_layer\.0\.residual_layer\.0\./],
  ['PLKSR', /^feats\.1\.(?:lk|channe_mixer|channel_mixer)\./],
  ['ESRGAN+', /^model\.1\.sub\.0\.RDB1\.conv1x1\./],
  ['EDSR', /^(?:body\.0\.(?:conv1|body\.0)|upsample\.0)\.weight$/],
];

/** Whether it is an upscaler, be it of a kind that does not run here; false for a file that cannot be read at all. */
export async function isUpscalerFile(files: CheckpointFiles, path: string): Promise<boolean> {
  try {
    const { tensors } = await readSafetensorsHeader(await files.blob(path), path);
    const names = Array.from(tensors.keys(), bareName);
    return kindOf(names) !== undefined || otherOf(names) !== undefined;
  } catch {
    return false;
  }
}

/**
 * @param path of the file, for the sentence
 * @throws StudioError `checkpoint_unsupported` for a network that does not run here, `checkpoint_damaged` where the shapes contradict each other
 */
export function upscalerNetwork(tensors: readonly StoredTensor[], path: string): UpscalerNetwork {
  const byName = new Map(tensors.map((tensor) => [bareName(tensor.name), tensor]));
  const names = [...byName.keys()];
  const other = otherOf(names);
  const kind = kindOf(names);
  if (kind === undefined || other === 'ESRGAN+') {
    throw new StudioError(
      'checkpoint_unsupported',
      `${path} is an upscaler of the kind ${other ?? 'unknown'}, which Darkroom cannot run; it runs RRDBNet (ESRGAN, Real-ESRGAN, BSRGAN) and SRVGGNetCompact.`,
    );
  }
  const shape = (name: string): number[] => {
    const tensor = byName.get(name);
    if (!tensor) {
      throw new StudioError(
        'checkpoint_damaged',
        `${path} lacks the tensor "${name}" of an upscaler; download it again, or choose another one.`,
      );
    }
    return tensor.shape;
  };
  return kind === 'srvgg' ? srvggOf(byName, shape, path) : rrdbnetOf(byName, kind, shape, path);
}

function srvggOf(tensors: Map<string, StoredTensor>, shape: (name: string) => number[], path: string): UpscalerNetwork {
  const last = Math.max(...Array.from(tensors.keys(), (name) => Number(/^body\.(\d+)\./.exec(name)?.[1] ?? 0)));
  const [features, inputs] = shape('body.0.weight');
  const scale = Math.sqrt(shape(`body.${last}.weight`)[0] / 3);
  requireColours(inputs, Number.isInteger(scale) ? 3 : shape(`body.${last}.weight`)[0], path);
  return {
    className: srvgg.className,
    config: { features, convolutions: last / 2 - 1, scale },
    weights: new TensorIndex(tensors),
  };
}

function rrdbnetOf(
  tensors: Map<string, StoredTensor>,
  kind: Kind,
  shape: (name: string) => number[],
  path: string,
): UpscalerNetwork {
  const names = [...tensors.keys()];
  const rename = kind === 'numbered_rrdbnet' ? numberedNames(names) : spelled;
  const renamed = new Map(Array.from(tensors, ([name, tensor]) => [rename(name), tensor]));
  const own = (name: string) => renamed.get(name)?.shape ?? shape(name);
  const count = (pattern: RegExp) =>
    new Set(Array.from(renamed.keys(), (name) => pattern.exec(name)?.[1]).filter((found) => found !== undefined)).size;
  const [features, inputs] = own('conv_first.weight');
  const unshuffle = Math.sqrt(inputs / 3);
  requireColours(Number.isInteger(unshuffle) ? 3 : inputs, own('conv_last.weight')[0], path);
  return {
    className: rrdbnet.className,
    config: {
      features,
      growth: own('body.0.rdb1.conv1.weight')[0],
      blocks: count(/^body\.(\d+)\.rdb1\./),
      doublings: count(/^conv_up(\d+)\.weight$/),
      unshuffle,
    },
    weights: new TensorIndex(renamed),
  };
}

/** BSRGAN's and RealSR's names as basicsr's. */
function spelled(name: string): string {
  return name
    .replace(/^RRDB_trunk\.(\d+)\.RDB(\d)\./, 'body.$1.rdb$2.')
    .replace(/^trunk_conv\./, 'conv_body.')
    .replace(/^upconv(\d)\./, 'conv_up$1.')
    .replace(/^HRconv\./, 'conv_hr.');
}

/** The first ESRGAN's layers stand in one sequence: an upsampling, a convolution and its activation for each doubling, then two convolutions. */
function numberedNames(names: readonly string[]): (name: string) => string {
  const place = (name: string) => Number(/^model\.(\d+)\./.exec(name)?.[1] ?? 0);
  const last = Math.max(...names.map(place));
  return (name) => {
    const at = place(name);
    const part = name.slice(name.lastIndexOf('.') + 1);
    const dense = /^model\.1\.sub\.(\d+)\.RDB(\d)\.(conv\d)\.0\./.exec(name);
    if (dense) {
      return `body.${dense[1]}.rdb${dense[2]}.${dense[3]}.${part}`;
    }
    if (at <= 1) {
      return `${at === 0 ? 'conv_first' : 'conv_body'}.${part}`;
    }
    return at === last ? `conv_last.${part}` : at === last - 2 ? `conv_hr.${part}` : `conv_up${at / 3}.${part}`;
  };
}

/** @throws StudioError `checkpoint_unsupported` */
function requireColours(inputs: number, outputs: number, path: string): void {
  if (inputs !== 3 || outputs !== 3) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${path} is an upscaler from ${inputs} to ${outputs} channels; Darkroom runs those that take and give the three of a colour picture.`,
    );
  }
}

function kindOf(names: readonly string[]): Kind | undefined {
  const [kind] = KINDS.find(([, has]) => names.some((name) => has.test(name))) ?? [];
  // A chain of convolutions begins with one, and ends with one.
  return kind !== 'srvgg' || names.every((name) => /^body\.\d+\.(weight|bias)$/.test(name)) ? kind : undefined;
}

function otherOf(names: readonly string[]): string | undefined {
  return OTHERS.find(([, has]) => names.some((name) => has.test(name)))?.[0];
}

function bareName(name: string): string {
  return name.replace(PREFIX, '');
}
