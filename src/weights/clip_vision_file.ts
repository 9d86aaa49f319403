/**
 * CLIP's vision encoders in one `.safetensors` file, as transformers names their tensors: `image_encoder/model.safetensors` of the repositories
 * of IP-Adapters, or the whole of a CLIP. How it is put together follows from the shapes and, where these do not tell, from whose it is.
 */
import { StudioError } from '../core/errors.ts';
import * as clipVision from '../graphs/clip_vision.ts';
import { TensorIndex } from './checkpoint.ts';
import { HEAD_WIDTH, Shapes } from './inferred_configs.ts';
import { requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader } from './safetensors.ts';

export interface ClipVisionFile {
  config: clipVision.Config;
  weights: TensorIndex;
}

const EMBEDDINGS = 'vision_model.embeddings';
const PATCHES = `${EMBEDDINGS}.patch_embedding.weight`;
const PROJECTION = 'visual_projection.weight';
/** In OpenCLIP's own layout. */
const OPEN_CLIP = 'visual.conv1.weight';

/** Widths of OpenAI's, whose heads are 64 wide and which compute the quick GELU. The larger ones are OpenCLIP's, with as many heads each. */
const OPEN_AI = new Set([768, 1024]);
const OPEN_CLIP_HEADS = 16;

/** From the header. @throws StudioError `checkpoint_damaged` */
export async function isClipVision(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  return (tensors.has(PATCHES) && tensors.has(PROJECTION)) || tensors.has(OPEN_CLIP);
}

/** @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for one in another layout */
export async function requireClipVision(blob: Blob, file: string): Promise<void> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  if (!tensors.has(PATCHES)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} is a CLIP in OpenCLIP's own layout; get its vision encoder as image_encoder/model.safetensors, as it lies beside IP-Adapters.`,
    );
  }
}

/**
 * @param file as graphs are to call it
 * @param name for people
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported`
 */
export async function readClipVision(blob: Blob, file: string, name: string): Promise<ClipVisionFile> {
  await requireClipVision(blob, name);
  const header = await readSafetensorsHeader(blob, file);
  requireReadable(header, name, (one) => one.startsWith('vision_model.') && !one.endsWith('position_ids'));
  const tensors = new Map(storedTensors(header, file).map((tensor) => [tensor.name, tensor]));
  const shapes = new Shapes(tensors);
  const [width, channels, patch] = shapes.of(PATCHES);
  const [positions] = shapes.of(`${EMBEDDINGS}.position_embedding.weight`);
  const isOpenAi = OPEN_AI.has(width);
  const config = clipVision.parseConfig({
    hidden_size: width,
    intermediate_size: shapes.of('vision_model.encoder.layers.0.mlp.fc1.weight')[0],
    projection_dim: shapes.of(PROJECTION)[0],
    num_hidden_layers: shapes.count(/^vision_model\.encoder\.layers\.(\d+)\./),
    num_attention_heads: isOpenAi ? width / HEAD_WIDTH : OPEN_CLIP_HEADS,
    num_channels: channels,
    image_size: patch * Math.round(Math.sqrt(positions - 1)),
    patch_size: patch,
    hidden_act: isOpenAi ? 'quick_gelu' : 'gelu',
  });
  return { config, weights: new TensorIndex(tensors) };
}
