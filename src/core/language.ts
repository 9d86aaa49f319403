/** What is known about a language model or a voice before its weights are loaded, and how to tell one from other checkpoints. */
import * as v from 'valibot';

/** Number formats of weights in transformers.js' layout, by that library's names; in no particular order. */
export const LANGUAGE_PRECISIONS = [
  'fp32',
  'fp16',
  'q8',
  'int8',
  'uint8',
  'q4',
  'q4f16',
  'bnb4',
  'q2',
  'q2f16',
  'q1',
  'q1f16',
] as const;
export type LanguagePrecision = (typeof LANGUAGE_PRECISIONS)[number];

/** What a language checkpoint does: it writes, or it speaks. */
export type LanguageKind = 'text' | 'speech';

export interface PrecisionChoice {
  precision: LanguagePrecision;
  /** Paths of all files that a run reads. */
  files: string[];
  /** Of those files. */
  bytes: number;
  /** An estimate of the device memory for the weights and the cache of a long conversation. */
  memoryBytes: number;
  /** A sentence on why it cannot run here; null if it can. */
  misfit: string | null;
}

export interface LanguageSummary {
  ref: string;
  name: string;
  kind: LanguageKind;
  /** The architecture in its config.json, such as `Qwen3ForCausalLM`. */
  architecture: string;
  /** The most tokens in prompt and reply together; null for voices, and if the model does not say. */
  contextTokens: number | null;
  /** The variants whose files are all there, best for this device first. */
  precisions: PrecisionChoice[];
  /** The first variant that runs here; null if none does. */
  recommended: LanguagePrecision | null;
}

const configSchema = v.looseObject({
  architectures: v.pipe(v.array(v.string()), v.minLength(1)),
  model_type: v.string(),
});

/** Whether the files are in transformers.js' layout; then config.json says what the checkpoint does. */
export function isLanguageLayout(paths: readonly string[]): boolean {
  return (
    paths.includes('config.json') &&
    !paths.includes('model_index.json') &&
    paths.some((path) => /^onnx\/[^/]+\.onnx$/.test(path))
  );
}

export interface LanguageConfig {
  architecture: string;
  modelType: string;
  /** Null for anything else, such as an image classifier. */
  kind: LanguageKind | null;
}

/** What a checkpoint is according to its config.json; null if it does not say. */
export function readLanguageConfig(config: unknown): LanguageConfig | null {
  const parsed = v.safeParse(configSchema, config);
  if (!parsed.success) {
    return null;
  }
  const {
    architectures: [architecture],
    model_type: modelType,
  } = parsed.output;
  const isVoice = /vits|supertonic|chatterbox|speecht5|text_?to_?(speech|waveform)/i.test(
    `${architecture} ${modelType}`,
  );
  const writes = /(ForCausalLM|LMHeadModel|ForConditionalGeneration)$/.test(architecture);
  return { architecture, modelType, kind: isVoice ? 'speech' : writes ? 'text' : null };
}
