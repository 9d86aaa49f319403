/**
 * Qwen-Image, Qwen-Image-Edit and Qwen-Image-Layered in files of the original layout. The last has a tensor of its own; the tensors of the others are
 * the same, and which of them it is, its published name says (`qwen_image_edit_2509_fp8_e4m3fn.safetensors`), and of 2511 a mark that ComfyUI puts
 * into the file.
 * Reference: ComfyUI's comfy/model_detection.py
 */
import { StudioError } from '../../core/errors.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { MmditFile, mmditTransformer } from '../../weights/mmdit_file.ts';
import { LAYERED } from '../../weights/mmdit_published.ts';
import type { QwenImageKind } from './qwen_image_checkpoint.ts';

const PIPELINE_CLASSES: Record<QwenImageKind, string> = {
  text: 'QwenImagePipeline',
  edit: 'QwenImageEditPipeline',
  edit_plus: 'QwenImageEditPlusPipeline',
  layered: 'QwenImageLayeredPipeline',
};

/** That pictures which are shown are told to the network as such. */
const MARK = '__index_timestep_zero__';

/** Colours, and how opaque they are. */
const PLANES = 4;

/** What these files make pictures from; null for those of other families. */
export async function qwenImageFileKind(files: CheckpointFiles): Promise<QwenImageKind | null> {
  return (await recognised(files))?.kind ?? null;
}

/**
 * @throws StudioError as {@link MmditFile.open}, `checkpoint_incomplete` where pictures cannot be seen, `checkpoint_unsupported` where the
 * autoencoder is the one of layers and the transformer is not, or the other way round
 */
export async function openQwenImageFile(files: CheckpointFiles): Promise<MmditFile> {
  const { kind = 'text', isMarked = false } = (await recognised(files)) ?? {};
  const file = await MmditFile.open(files, 'qwen_image', {
    pipelineClass: PIPELINE_CLASSES[kind],
    transformer: { zero_cond_t: isMarked },
  });
  const { config } = await file.component('vae');
  if ((config.input_channels === PLANES) !== (kind === 'layered')) {
    const wanted = file.publishedPart('vae');
    throw new StudioError(
      'checkpoint_unsupported',
      kind === 'layered'
        ? `The autoencoder of "${files.name}" knows no transparency, which Qwen-Image-Layered makes layers with; choose ${wanted} in its place.`
        : `The autoencoder of "${files.name}" is the one of Qwen-Image-Layered; choose ${wanted} in its place.`,
    );
  }
  if (
    (kind === 'edit' || kind === 'edit_plus') &&
    !('vision_config' in (await file.component('text_encoder')).config)
  ) {
    throw new StudioError(
      'checkpoint_incomplete',
      `The text encoder of "${files.name}" has no eyes, as GGUF files of Qwen2.5-VL have none, so it cannot see the picture to edit; choose qwen_2.5_vl_7b_fp8_scaled.safetensors (Comfy-Org/Qwen-Image_ComfyUI) in its place.`,
    );
  }
  return file;
}

async function recognised(files: CheckpointFiles): Promise<{ kind: QwenImageKind; isMarked: boolean } | null> {
  const found = await mmditTransformer(files);
  if (found?.kind !== 'qwen_image') {
    return null;
  }
  const { path, names } = found.file;
  const name = path.slice(path.lastIndexOf('/') + 1);
  const isEditing = /edit/i.test(name);
  const isMarked = [...names].some((each) => each.endsWith(MARK)) || (isEditing && /2511/.test(name));
  if ([...names].some((each) => each.endsWith(LAYERED))) {
    return { kind: 'layered', isMarked };
  }
  const isPlus = isMarked || /2509|plus/i.test(name);
  return { kind: isPlus && (isEditing || isMarked) ? 'edit_plus' : isEditing ? 'edit' : 'text', isMarked };
}
