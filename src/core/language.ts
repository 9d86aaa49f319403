/** What is known of a language model or a voice before its weights are loaded, and how one is told from other checkpoints. */
import * as v from 'valibot';

/** How the weights of transformers.js' layout are kept; the names are that library's. In no order. */
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
  /** Paths of everything that a run with it reads. */
  files: string[];
  /** Of those files. */
  bytes: number;
  /** Of weights and the cache of a long conversation, once on the device; a guess. */
  memoryBytes: number;
  /** Why it cannot be run here, as a sentence; null when it can. */
  misfit: string | null;
}

export interface LanguageSummary {
  ref: string;
  name: string;
  kind: LanguageKind;
  /** As its config.json says, such as `Qwen3ForCausalLM`. */
  architecture: string;
  /** Tokens that prompt and reply may have together; null where it does not say, and of voices. */
  contextTokens: number | null;
  /** Those whose files are all there, best for this device first. */
  precisions: PrecisionChoice[];
  /** The first that runs here; null when none does. */
  recommended: LanguagePrecision | null;
}

const configSchema = v.looseObject({
  architectures: v.pipe(v.array(v.string()), v.minLength(1)),
  model_type: v.string(),
});

/** Whether these paths lie as transformers.js wants them; what the checkpoint does then stands in its config.json. */
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
  /** Null for other things, such as picture classifiers. */
  kind: LanguageKind | null;
}

/** What a config.json says that the checkpoint is; null when it does not say. */
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
