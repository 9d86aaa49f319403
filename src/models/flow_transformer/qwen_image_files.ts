/**
 * Qwen-Image and Qwen-Image-Edit in files of the original layout, whose tensors are the same: which of them it is, its published name says
 * (`qwen_image_edit_2509_fp8_e4m3fn.safetensors`), and of 2511 a mark that ComfyUI puts into the file.
 * Reference: ComfyUI's comfy/model_detection.py
 */
import { StudioError } from '../../core/errors.ts';
import type { PROMPT_FRAMES } from '../../text/qwen_image_prompts.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { MmditFile, mmditTransformer } from '../../weights/mmdit_file.ts';

export type QwenImageKind = keyof typeof PROMPT_FRAMES;

const PIPELINE_CLASSES: Record<QwenImageKind, string> = {
  text: 'QwenImagePipeline',
  edit: 'QwenImageEditPipeline',
  edit_plus: 'QwenImageEditPlusPipeline',
};

/** That pictures which are shown are told to the network as such. */
const MARK = '__index_timestep_zero__';

/** A tensor that only Qwen-Image-Layered has. */
const LAYERED = 'time_text_embed.addition_t_embedding.weight';

/** What these files make pictures from; null for those of other families. */
export async function qwenImageFileKind(files: CheckpointFiles): Promise<QwenImageKind | null> {
  return (await recognised(files))?.kind ?? null;
}

/**
 * @throws StudioError as {@link MmditFile.open}, `checkpoint_incomplete` where pictures cannot be seen, `checkpoint_unsupported` for
 * Qwen-Image-Layered
 */
export async function openQwenImageFile(files: CheckpointFiles): Promise<MmditFile> {
  const { kind = 'text', isMarked = false, isLayered = false } = (await recognised(files)) ?? {};
  if (isLayered) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is Qwen-Image-Layered, which Darkroom opens from its diffusers folder alone; get Qwen/Qwen-Image-Layered.`,
    );
  }
  const file = await MmditFile.open(files, 'qwen_image', {
    pipelineClass: PIPELINE_CLASSES[kind],
    transformer: { zero_cond_t: isMarked },
  });
  if (kind !== 'text' && !('vision_config' in (await file.component('text_encoder')).config)) {
    throw new StudioError(
      'checkpoint_incomplete',
      `The text encoder of "${files.name}" has no eyes, as GGUF files of Qwen2.5-VL have none, so it cannot see the picture to edit; choose qwen_2.5_vl_7b_fp8_scaled.safetensors (Comfy-Org/Qwen-Image_ComfyUI) in its place.`,
    );
  }
  return file;
}

async function recognised(
  files: CheckpointFiles,
): Promise<{ kind: QwenImageKind; isMarked: boolean; isLayered: boolean } | null> {
  const found = await mmditTransformer(files);
  if (found?.kind !== 'qwen_image') {
    return null;
  }
  const { path, names } = found.file;
  const name = path.slice(path.lastIndexOf('/') + 1);
  const isEditing = /edit/i.test(name);
  const isMarked = [...names].some((each) => each.endsWith(MARK)) || (isEditing && /2511/.test(name));
  const isLayered = [...names].some((each) => each.endsWith(LAYERED));
  const isPlus = isMarked || /2509|plus/i.test(name);
  return { kind: isPlus && (isEditing || isMarked) ? 'edit_plus' : isEditing ? 'edit' : 'text', isMarked, isLayered };
}
