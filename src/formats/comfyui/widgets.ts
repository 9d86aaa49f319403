/**
 * Names for the widget values of an editor's node. Files list values by position, including some that are no inputs, such as
 * `control_after_generate`. Newer files also name them and list every widget among the inputs; for older ones this table covers ComfyUI's
 * own nodes and common custom ones.
 */
import { isObject, own } from '../json.ts';

/** Widgets in order; an empty name means skip. */
const WIDGETS: Record<string, readonly string[]> = {
  KSampler: ['seed', '', 'steps', 'cfg', 'sampler_name', 'scheduler', 'denoise'],
  KSamplerAdvanced: [
    'add_noise',
    'noise_seed',
    '',
    'steps',
    'cfg',
    'sampler_name',
    'scheduler',
    'start_at_step',
    'end_at_step',
    'return_with_leftover_noise',
  ],
  SamplerCustom: ['add_noise', 'noise_seed', '', 'cfg'],
  RandomNoise: ['noise_seed'],
  KSamplerSelect: ['sampler_name'],
  BasicScheduler: ['scheduler', 'steps', 'denoise'],
  KarrasScheduler: ['steps'],
  ExponentialScheduler: ['steps'],
  PolyexponentialScheduler: ['steps'],
  LaplaceScheduler: ['steps'],
  VPScheduler: ['steps'],
  BetaSamplingScheduler: ['steps'],
  SDTurboScheduler: ['steps', 'denoise'],
  AlignYourStepsScheduler: ['model_type', 'steps', 'denoise'],
  OptimalStepsScheduler: ['model_type', 'steps', 'denoise'],
  GITSScheduler: ['coeff', 'steps', 'denoise'],
  Flux2Scheduler: ['steps', 'width', 'height'],
  LTXVScheduler: ['steps'],
  CFGGuider: ['cfg'],
  DualCFGGuider: ['cfg_conds', 'cfg_cond2_negative'],
  PerpNegGuider: ['cfg', 'neg_scale'],
  FluxGuidance: ['guidance'],
  ModelSamplingSD3: ['shift'],
  ModelSamplingAuraFlow: ['shift'],
  ModelSamplingFlux: ['max_shift', 'base_shift', 'width', 'height'],
  CLIPSetLastLayer: ['stop_at_clip_layer'],
  CLIPTextEncode: ['text'],
  CLIPTextEncodeSDXL: ['width', 'height', 'crop_w', 'crop_h', 'target_width', 'target_height', 'text_g', 'text_l'],
  CLIPTextEncodeSDXLRefiner: ['ascore', 'width', 'height', 'text'],
  CLIPTextEncodeFlux: ['clip_l', 't5xxl', 'guidance'],
  CLIPTextEncodeSD3: ['clip_l', 'clip_g', 't5xxl', 'empty_padding'],
  CLIPTextEncodeHiDream: ['clip_l', 'clip_g', 't5xxl', 'llama'],
  CLIPTextEncodeHunyuanDiT: ['bert', 'mt5xl'],
  CLIPTextEncodeLumina2: ['system_prompt', 'user_prompt'],
  CLIPTextEncodePixArtAlpha: ['width', 'height', 'text'],
  CLIPTextEncodeKandinsky5: ['clip_l', 'qwen25_7b'],
  CLIPTextEncodeControlnet: ['text'],
  TextEncodeQwenImageEdit: ['prompt'],
  TextEncodeQwenImageEditPlus: ['prompt'],
  TextEncodeZImageOmni: ['prompt', 'auto_resize_images'],
  TextEncodeAceStepAudio: ['tags', 'lyrics', 'lyrics_strength'],
  'TextEncodeAceStepAudio1.5': ['tags', 'lyrics', 'seed', '', 'bpm', 'duration'],
  PhotoMakerEncode: ['text'],
  GLIGENTextBoxApply: ['text', 'width', 'height', 'x', 'y'],
  EmptyLatentImage: ['width', 'height', 'batch_size'],
  EmptySD3LatentImage: ['width', 'height', 'batch_size'],
  EmptyFlux2LatentImage: ['width', 'height', 'batch_size'],
  EmptyHunyuanImageLatent: ['width', 'height', 'batch_size'],
  EmptyHunyuanLatentVideo: ['width', 'height', 'length', 'batch_size'],
  EmptyMochiLatentVideo: ['width', 'height', 'length', 'batch_size'],
  EmptyLTXVLatentVideo: ['width', 'height', 'length', 'batch_size'],
  EmptyAceStepLatentAudio: ['seconds', 'batch_size'],
  WanImageToVideo: ['width', 'height', 'length', 'batch_size'],
  Wan22ImageToVideoLatent: ['width', 'height', 'length', 'batch_size'],
  LatentUpscale: ['upscale_method', 'width', 'height', 'crop'],
  LatentUpscaleBy: ['upscale_method', 'scale_by'],
  ImageScale: ['upscale_method', 'width', 'height', 'crop'],
  CheckpointLoaderSimple: ['ckpt_name'],
  ImageOnlyCheckpointLoader: ['ckpt_name'],
  unCLIPCheckpointLoader: ['ckpt_name'],
  CheckpointLoader: ['config_name', 'ckpt_name'],
  UNETLoader: ['unet_name', 'weight_dtype'],
  UnetLoaderGGUF: ['unet_name'],
  VAELoader: ['vae_name'],
  HypernetworkLoader: ['hypernetwork_name', 'strength'],
  LoraLoader: ['lora_name', 'strength_model', 'strength_clip'],
  LoraLoaderModelOnly: ['lora_name', 'strength_model'],
  'LoraLoader|pysssss': ['lora_name', 'strength_model', 'strength_clip'],
  ControlNetApply: ['strength'],
  ControlNetApplyAdvanced: ['strength', 'start_percent', 'end_percent'],
  ConditioningAverage: ['conditioning_to_strength'],
  UpscaleModelLoader: ['model_name'],
  LoadImage: ['image'],
  PrimitiveString: ['value'],
  PrimitiveStringMultiline: ['value'],
  PrimitiveInt: ['value'],
  PrimitiveFloat: ['value'],
  PrimitiveBoolean: ['value'],
  StringConcatenate: ['string_a', 'string_b', 'delimiter'],
  StringReplace: ['string', 'find', 'replace'],
  StringSubstring: ['string', 'start', 'end'],
  StringTrim: ['string', 'mode'],
  CaseConverter: ['string', 'mode'],
  RegexReplace: ['string', 'regex_pattern', 'replace', 'case_insensitive', 'multiline', 'dotall', 'count'],
  RegexExtract: ['string', 'regex_pattern', 'mode', 'case_insensitive', 'multiline', 'dotall', 'group_index'],
  'Text Concatenate': ['delimiter', 'clean_whitespace'],
  'Text Multiline': ['text'],
  'Text String': ['text', 'text_b', 'text_c', 'text_d'],
  'Text Find and Replace': ['find', 'replace'],
  'ShowText|pysssss': ['text_0'],
  'StringFunction|pysssss': ['action', 'tidy_tags', 'text_a', 'text_b', 'text_c'],
  JoinStrings: ['delimiter'],
  JoinStringMulti: ['inputcount', 'delimiter'],
  StringConstant: ['string'],
  StringConstantMultiline: ['string', 'strip_newlines'],
  'CR Text': ['text'],
  'CR Prompt Text': ['prompt'],
  'CR Text Concatenate': ['text1', 'text2', 'separator'],
  'CR LoRA Stack': [1, 2, 3].flatMap((n) => [`switch_${n}`, `lora_name_${n}`, `model_weight_${n}`, `clip_weight_${n}`]),
  'easy positive': ['positive'],
  'easy negative': ['negative'],
  'easy string': ['value'],
  'easy promptConcat': ['prompt1', 'prompt2', 'separator'],
  'easy promptReplace': ['prompt', 'find1', 'replace1', 'find2', 'replace2', 'find3', 'replace3'],
  'Seed (rgthree)': ['seed'],
  'easy seed': ['seed', ''],
  'Efficient Loader': [
    'ckpt_name',
    'vae_name',
    'clip_skip',
    'lora_name',
    'lora_model_strength',
    'lora_clip_strength',
    'positive',
    'negative',
    'token_normalization',
    'weight_interpretation',
    'empty_latent_width',
    'empty_latent_height',
    'batch_size',
  ],
  'KSampler (Efficient)': [
    'seed',
    '',
    'steps',
    'cfg',
    'sampler_name',
    'scheduler',
    'denoise',
    'preview_method',
    'vae_decode',
  ],
  'LoRA Stacker': [
    'input_mode',
    'lora_count',
    ...Array.from({ length: 49 }, (_, i) => [
      `lora_name_${i + 1}`,
      `lora_wt_${i + 1}`,
      `model_str_${i + 1}`,
      `clip_str_${i + 1}`,
    ]).flat(),
  ],
  'Lora Loader Stack (rgthree)': ['01', '02', '03', '04'].flatMap((n) => [`lora_${n}`, `strength_${n}`]),
};

const AFTER_GENERATE = new Set<unknown>(['fixed', 'increment', 'decrement', 'randomize']);

/** @param node of the editor's form */
export function widgetValues(node: unknown, type: string): Map<string, unknown> {
  const named = own(node, 'widgets_values_named');
  const values = own(node, 'widgets_values');
  if (isObject(named)) {
    return new Map(Object.entries(named));
  }
  if (isObject(values)) {
    return new Map(Object.entries(values));
  }
  if (!Array.isArray(values)) {
    return new Map();
  }
  const listed = listedWidgets(node, values);
  if (listed) {
    return listed;
  }
  if (Object.hasOwn(WIDGETS, type)) {
    return new Map(WIDGETS[type].flatMap((name, i) => (name !== '' && i < values.length ? [[name, values[i]]] : [])));
  }
  return guessed(values);
}

/** If every widget is also an input, the inputs give the names. */
function listedWidgets(node: unknown, values: readonly unknown[]): Map<string, unknown> | null {
  const names = widgetNames(node);
  const found = new Map<string, unknown>();
  let at = 0;
  for (const name of names) {
    if (AFTER_GENERATE.has(values[at]) && at > 0 && values.length - at > names.length - found.size) {
      at++;
    }
    found.set(name, values[at++]);
  }
  at += AFTER_GENERATE.has(values[at]) ? 1 : 0;
  return names.length > 0 && at === values.length ? found : null;
}

/** The inputs that are widgets, in order. */
export function widgetNames(node: unknown): string[] {
  const inputs = own(node, 'inputs');
  return (Array.isArray(inputs) ? inputs : []).flatMap((input: unknown) => {
    const name = own(own(input, 'widget'), 'name');
    return typeof name === 'string' ? [name] : [];
  });
}

/** For unknown nodes: the longest text among the values is their prompt, and objects are LoRAs. */
function guessed(values: readonly unknown[]): Map<string, unknown> {
  const texts = values.filter((value) => typeof value === 'string');
  const found = new Map<string, unknown>();
  if (texts.length > 0) {
    found.set(
      'text',
      texts.reduce((a, b) => (b.length > a.length ? b : a)),
    );
  }
  values.forEach((value, i) => {
    if (isObject(value)) {
      found.set(`widget_${i}`, value);
    }
  });
  return found;
}
