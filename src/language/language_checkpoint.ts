/**
 * Language models and voices in transformers.js' layout: `config.json` and the tokenizer at the top, networks as
 * `onnx/<network><suffix>.onnx`, where the suffix names the weights' precision, with external data beside them. Files and configuration
 * decide what a checkpoint is, never its name.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import { LANGUAGE_PRECISIONS, isLanguageLayout, readLanguageConfig } from '../core/language.ts';
import type { LanguageKind, LanguagePrecision, LanguageSummary, PrecisionChoice } from '../core/language.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';

/** The device that computes. */
export interface LanguageDevice {
  backend: 'webgpu' | 'wasm';
  /** Whether it has `shader-f16`. */
  hasF16: boolean;
}

const SUFFIXES: Record<LanguagePrecision, string> = {
  fp32: '',
  fp16: '_fp16',
  q8: '_quantized',
  int8: '_int8',
  uint8: '_uint8',
  q4: '_q4',
  q4f16: '_q4f16',
  bnb4: '_bnb4',
  q2: '_q2',
  q2f16: '_q2f16',
  q1: '_q1',
  q1f16: '_q1f16',
};

/** The fallback precision for a network that the repository lacks in the chosen one. */
const INSTEAD: Partial<Record<LanguagePrecision, LanguagePrecision[]>> = {
  q4: ['q8', 'fp32'],
  q4f16: ['fp16', 'q4'],
  q8: ['fp32'],
  q2: ['q4', 'q8', 'fp32'],
  q2f16: ['q4f16', 'fp16'],
  q1: ['q4', 'q8', 'fp32'],
  q1f16: ['q4f16', 'fp16'],
};

/**
 * Best first. Integer matrix products always run on the processor (WebGPU has no kernels for them), so they come last on a GPU; on the
 * processor they are the fastest.
 */
const PREFERRED: Record<'f16' | 'f32' | 'wasm', LanguagePrecision[]> = {
  f16: ['q4f16', 'q4', 'fp16', 'fp32', 'bnb4', 'q2f16', 'q2', 'q1f16', 'q1', 'q8', 'int8', 'uint8'],
  f32: ['q4', 'fp32', 'bnb4', 'q2', 'q1', 'q8', 'int8', 'uint8', 'q4f16', 'fp16', 'q2f16', 'q1f16'],
  wasm: ['q8', 'int8', 'uint8', 'q4', 'fp32', 'bnb4', 'q2', 'q1', 'q4f16', 'fp16', 'q2f16', 'q1f16'],
};

/** For voices, whose networks are small and sound worse when quantised. */
const PREFERRED_VOICE: Record<'f16' | 'f32' | 'wasm', LanguagePrecision[]> = {
  f16: ['fp32', 'fp16', 'q8', 'int8', 'uint8', 'q4', 'q4f16', 'bnb4', 'q2', 'q2f16', 'q1', 'q1f16'],
  f32: ['fp32', 'q8', 'int8', 'uint8', 'q4', 'bnb4', 'fp16', 'q4f16', 'q2', 'q2f16', 'q1', 'q1f16'],
  wasm: ['fp32', 'q8', 'int8', 'uint8', 'q4', 'bnb4', 'fp16', 'q4f16', 'q2', 'q2f16', 'q1', 'q1f16'],
};

/** Length of the cache assumed in memory estimates, in tokens: a long conversation. */
const CACHED_TOKENS = 4096;

const whole = v.pipe(v.number(), v.integer(), v.minValue(1));
const optional = v.optional(v.nullish(v.fallback(v.nullable(whole), null)), null);

/** The parts of a text model's configuration used here; multimodal models have them in `text_config`. */
const sizesSchema = v.looseObject({
  max_position_embeddings: optional,
  n_positions: optional,
  max_seq_len: optional,
  seq_length: optional,
  num_hidden_layers: optional,
  n_layer: optional,
  num_attention_heads: optional,
  n_head: optional,
  num_key_value_heads: optional,
  head_dim: optional,
  hidden_size: optional,
  n_embd: optional,
});

/** The networks of supported families of voices, by `model_type`. */
const VOICES: Record<string, string[]> = { vits: ['model'] };

export class LanguageCheckpoint {
  private constructor(
    readonly files: CheckpointFiles,
    /** The whole of config.json. */
    readonly config: Record<string, unknown>,
    readonly kind: LanguageKind,
    readonly architecture: string,
    readonly modelType: string,
    /** File names of its networks, without suffix and extension. */
    readonly networks: readonly string[],
    /** The networks' limit of tokens in prompt and reply together. */
    readonly contextTokens: number | null,
    readonly tokenizerConfig: Record<string, unknown>,
    /** Jinja, or several by name; null for voices. */
    readonly chatTemplate: unknown,
  ) {}

  /**
   * Reads its small files only.
   * @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported`
   */
  static async open(files: CheckpointFiles): Promise<LanguageCheckpoint> {
    const { name } = files;
    if (!isLanguageLayout(files.paths())) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${name}" is no language model for the browser: that has a config.json and networks in a folder onnx; choose a repository made for transformers.js, such as those of onnx-community.`,
      );
    }
    const config = await json(files, 'config.json');
    const known = readLanguageConfig(config);
    if (!known?.kind) {
      const what = known ? `a ${known.architecture}` : 'something that its config.json does not name';
      throw new StudioError(
        'checkpoint_unsupported',
        `"${name}" is ${what}, which neither writes text nor speaks; choose an instruct model or a text-to-speech model.`,
      );
    }
    const { kind, architecture, modelType } = known;
    for (const path of ['tokenizer.json', 'tokenizer_config.json']) {
      if (!files.has(path)) {
        throw new StudioError('checkpoint_incomplete', `"${name}" has no ${path}; get the whole checkpoint.`);
      }
    }
    const tokenizerConfig = await json(files, 'tokenizer_config.json');
    if (kind === 'speech') {
      requireFreeFrontEnd(name, modelType, tokenizerConfig);
    }
    return new LanguageCheckpoint(
      files,
      config,
      kind,
      architecture,
      modelType,
      kind === 'speech' ? VOICES[modelType] : textNetworks(files, architecture),
      kind === 'speech' ? null : contextOf(config, tokenizerConfig),
      tokenizerConfig,
      kind === 'speech' ? null : await chatTemplate(files, tokenizerConfig),
    );
  }

  /** The summary of the checkpoint. */
  async summary(device: LanguageDevice): Promise<LanguageSummary> {
    const precisions = await this.precisions(device);
    return {
      ref: this.files.ref,
      name: this.files.name,
      kind: this.kind,
      architecture: this.architecture,
      contextTokens: this.contextTokens,
      precisions,
      recommended: precisions.find(({ misfit }) => misfit === null)?.precision ?? null,
    };
  }

  /** The precisions available for all its networks, best for the device first. */
  async precisions(device: LanguageDevice): Promise<PrecisionChoice[]> {
    const preferred = this.kind === 'speech' ? PREFERRED_VOICE : PREFERRED;
    const order = preferred[device.backend === 'wasm' ? 'wasm' : device.hasF16 ? 'f16' : 'f32'];
    const choices: PrecisionChoice[] = [];
    for (const precision of order) {
      const taken = this.networkPrecisions(precision);
      // If no network has the chosen precision, it would be another one by a wrong name.
      if (taken && Object.values(taken).includes(precision)) {
        const networks = Object.entries(taken).flatMap(([network, one]) => this.#networkFiles(network, one));
        const sizes = await Promise.all(networks.map(async (path) => (await this.files.blob(path)).size));
        const weights = sizes.reduce((sum, size) => sum + size, 0);
        const small = this.#smallFiles();
        const rest = await Promise.all(small.map(async (path) => (await this.files.blob(path)).size));
        choices.push({
          precision,
          files: [...small, ...networks],
          bytes: rest.reduce((sum, size) => sum + size, weights),
          memoryBytes: weights + this.#cacheBytes(),
          misfit: Object.values(taken).some(isHalf) ? halfMisfit(device) : null,
        });
      }
    }
    return choices;
  }

  /** Each network's precision if this one is chosen; null if a network is unavailable. */
  networkPrecisions(precision: LanguagePrecision): Record<string, LanguagePrecision> | null {
    const taken: Record<string, LanguagePrecision> = {};
    for (const network of this.networks) {
      const one = [precision, ...(INSTEAD[precision] ?? [])].find((other) =>
        this.files.has(networkPath(network, other)),
      );
      if (one === undefined) {
        return null;
      }
      taken[network] = one;
    }
    return taken;
  }

  /** A network's graph, then its external data. */
  #networkFiles(network: string, precision: LanguagePrecision): string[] {
    const path = networkPath(network, precision);
    return [
      path,
      ...this.files.paths().filter((other) => other.startsWith(`${path}_data`) || other.startsWith(`${path}.data`)),
    ];
  }

  #smallFiles(): string[] {
    const wanted =
      /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|preprocessor_config|chat_template)\.json$|^chat_template\.jinja$/;
    return this.files.paths().filter((path) => wanted.test(path));
  }

  /** Bytes of keys and values in f32, for {@link CACHED_TOKENS} or the context length if shorter. */
  #cacheBytes(): number {
    if (this.kind === 'speech') {
      return 0;
    }
    const sizes = sizesOf(this.config);
    const layers = sizes.num_hidden_layers ?? sizes.n_layer ?? 0;
    const heads = sizes.num_attention_heads ?? sizes.n_head ?? 1;
    const width = sizes.head_dim ?? (sizes.hidden_size ?? sizes.n_embd ?? 0) / heads;
    const tokens = Math.min(CACHED_TOKENS, this.contextTokens ?? CACHED_TOKENS);
    return Math.round(2 * 4 * layers * (sizes.num_key_value_heads ?? heads) * width * tokens);
  }
}

export function networkPath(network: string, precision: LanguagePrecision): string {
  return `onnx/${network}${SUFFIXES[precision]}.onnx`;
}

function isHalf(precision: LanguagePrecision): boolean {
  return precision.endsWith('16');
}

function halfMisfit({ backend, hasF16 }: LanguageDevice): string | null {
  if (backend === 'webgpu' && hasF16) {
    return null;
  }
  return backend === 'wasm'
    ? 'It computes in half precision, which the processor cannot; take another one.'
    : 'It computes in half precision, which this GPU does not offer; take another one.';
}

function textNetworks(files: CheckpointFiles, architecture: string): string[] {
  const has = (network: string) => LANGUAGE_PRECISIONS.some((precision) => files.has(networkPath(network, precision)));
  const isWithoutWords = architecture.endsWith('ForConditionalGeneration') && !has('embed_tokens') && !has('model');
  if (has('encoder_model') || isWithoutWords) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" (${architecture}) has an encoder of its own, which Darkroom cannot talk to; choose an instruct model.`,
    );
  }
  if (has('decoder_model_merged')) {
    return has('embed_tokens') ? ['embed_tokens', 'decoder_model_merged'] : ['decoder_model_merged'];
  }
  if (!has('model')) {
    throw new StudioError(
      'checkpoint_incomplete',
      `"${files.name}" has no network onnx/model.onnx in any precision; get the whole checkpoint.`,
    );
  }
  return ['model'];
}

function sizesOf(config: Record<string, unknown>): v.InferOutput<typeof sizesSchema> {
  const inner = v.safeParse(sizesSchema, config.text_config ?? config);
  return inner.success ? inner.output : v.parse(sizesSchema, {});
}

function contextOf(config: Record<string, unknown>, tokenizerConfig: Record<string, unknown>): number | null {
  const sizes = sizesOf(config);
  const positions = sizes.max_position_embeddings ?? sizes.n_positions ?? sizes.max_seq_len ?? sizes.seq_length;
  // transformers writes a thirty-digit number for a tokenizer without a limit.
  const longest = Number(tokenizerConfig.model_max_length);
  const limits = [positions, longest].filter(
    (limit): limit is number => typeof limit === 'number' && limit >= 1 && limit < 1e9,
  );
  return limits.length > 0 ? Math.min(...limits) : null;
}

/** A separate file takes precedence over tokenizer_config.json, as in transformers. @throws StudioError `checkpoint_unsupported` */
async function chatTemplate(files: CheckpointFiles, tokenizerConfig: Record<string, unknown>): Promise<unknown> {
  if (files.has('chat_template.jinja')) {
    return (await files.blob('chat_template.jinja')).text();
  }
  const own = files.has('chat_template.json') ? await json(files, 'chat_template.json') : {};
  const template = own.chat_template ?? tokenizerConfig.chat_template;
  if (!template) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" has no chat template, so it cannot be talked to; choose an instruct or chat model.`,
    );
  }
  return template;
}

/**
 * Voices that speak phonemes need a phonemizer, and the one they were all trained with (eSpeak) is GPL.
 * @throws StudioError `checkpoint_unsupported`
 */
function requireFreeFrontEnd(name: string, modelType: string, tokenizerConfig: Record<string, unknown>): void {
  if (tokenizerConfig.phonemize === true || modelType === 'style_text_to_speech_2') {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${name}" speaks phonemes, and the program that makes them (eSpeak) is under a licence that Darkroom cannot include; choose a voice that reads letters, such as an MMS one.`,
    );
  }
  if (tokenizerConfig.is_uroman === true) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${name}" wants its text in Latin letters (uroman), which Darkroom cannot write; choose a voice that reads the letters of its own language.`,
    );
  }
  if (!(modelType in VOICES)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${name}" is a ${modelType} voice, which Darkroom cannot run yet; it runs: ${Object.keys(VOICES).join(', ')}.`,
    );
  }
}

async function json(files: CheckpointFiles, path: string): Promise<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(await (await files.blob(path)).text());
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
  } catch (error) {
    if (error instanceof StudioError) {
      throw error;
    }
  }
  throw new StudioError('checkpoint_damaged', `${path} of "${files.name}" is not a JSON object; get the file again.`);
}
