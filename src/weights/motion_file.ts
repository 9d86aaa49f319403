/**
 * AnimateDiff's motion modules in the one file that their authors publish, as people lay it beside a Stable Diffusion.
 * Reference: diffusers/loaders/single_file_utils.py (convert_animatediff_checkpoint_to_diffusers)
 */
import type { StoredTensor } from '../graphs/graph.ts';
import { adapterClassName } from '../graphs/unet_motion.ts';
import { TensorIndex, type Component } from './checkpoint.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { Shapes, each } from './inferred_configs.ts';
import { isWeightFile, readWeightFile } from './weight_file.ts';

/** The frames' places. They are a sinusoid, so the graph has them of its own. */
const PLACES = '.pos_encoder.pe';
const FIRST = 'down_blocks.0.motion_modules.0.';
/** Of every published module, since no shape tells them. */
const [HEADS, GROUPS] = [8, 32];

/** The two files of a Stable Diffusion and of modules for it, where just these were opened; null for anything else. */
export async function filesWithMotion(files: CheckpointFiles): Promise<{ still: string; motion: string } | null> {
  const weights = files.paths().filter((path) => !path.includes('/') && isWeightFile(path));
  if (weights.length !== 2 || files.has('model_index.json')) {
    return null;
  }
  const areMotion = await Promise.all(weights.map((path) => isMotionFile(files, path)));
  const motion = areMotion.indexOf(true);
  return motion >= 0 && areMotion.includes(false) ? { still: weights[1 - motion], motion: weights[motion] } : null;
}

/** False for a file that cannot be read at all. */
async function isMotionFile(files: CheckpointFiles, path: string): Promise<boolean> {
  try {
    const { names } = await readWeightFile(files, path);
    return [...names].some((name) => ownName(name).startsWith(FIRST));
  } catch {
    return false;
  }
}

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` */
export async function readMotionFile(files: CheckpointFiles, path: string): Promise<Component> {
  const file = await readWeightFile(files, path);
  file.requireReadable((name) => !name.endsWith(PLACES));
  const tensors = new Map<string, StoredTensor>();
  let frames = 0;
  for (const tensor of file.tensors) {
    const name = ownName(tensor.name);
    if (name.endsWith(PLACES)) {
      frames = tensor.shape[1];
    } else {
      tensors.set(name, { ...tensor, name });
    }
  }
  const shapes = new Shapes(tensors);
  return {
    name: 'motion_adapter',
    className: adapterClassName,
    config: {
      block_out_channels: each(
        shapes.count(/^down_blocks\.(\d+)\./),
        (block) => shapes.of(`down_blocks.${block}.motion_modules.0.norm.weight`)[0],
      ),
      motion_layers_per_block: shapes.count(/^down_blocks\.0\.motion_modules\.(\d+)\./),
      motion_transformer_layers_per_block: shapes.count(
        /^down_blocks\.0\.motion_modules\.0\.transformer_blocks\.(\d+)\./,
      ),
      motion_num_attention_heads: HEADS,
      motion_norm_num_groups: GROUPS,
      motion_max_seq_length: frames,
      use_motion_mid_block: [...tensors.keys()].some((name) => name.startsWith('mid_block.')),
    },
    weights: new TensorIndex(tensors),
    files: [path],
  };
}

/** In diffusers' module; some files have the name of a wrapper of training before it. */
function ownName(name: string): string {
  return name
    .replace(/^module\./, '')
    .replace('.temporal_transformer', '')
    .replace(/\.attention_blocks\.([01])(?=\.)/, (_, n: string) => `.attn${Number(n) + 1}`)
    .replace(/\.norms\.([01])(?=\.)/, (_, n: string) => `.norm${Number(n) + 1}`)
    .replace('.ff_norm.', '.norm3.');
}
