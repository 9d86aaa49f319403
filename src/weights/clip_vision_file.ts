/**
 * CLIP's vision encoders in one `.safetensors` file, as transformers names their tensors: `image_encoder/model.safetensors` of the repositories
 * of IP-Adapters, or the whole of a CLIP. How it is put together follows from the shapes and, where these do not tell, from whose it is.
 */
import { StudioError } from '../core/errors.ts';
import * as clipVision from '../graphs/clip_vision.ts';
import { TensorIndex } from './checkpoint.ts';
import { Shapes, clipVisionConfig } from './inferred_configs.ts';
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
  const config = clipVision.parseConfig(clipVisionConfig(new Shapes(tensors)));
  return { config, weights: new TensorIndex(tensors) };
}
