/** Writing text with a language model: what chunks ask for, and what comes back while and after it is written. */

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface TextRequest {
  /** Ref of a language model in the library or of an opened folder, such as `hub:onnx-community/Qwen3-0.6B-ONNX@<commit>`. */
  model: string;
  messages: ChatMessage[];
  /** At least 1. What the model's context has no room for is cut off, see {@link TextResult.finish}. */
  max_new_tokens: number;
  /** 0 = greedy: always the likeliest token. */
  temperature: number;
  /** 0 < top_p ≤ 1; undefined = what the model's generation_config.json says, else 1. */
  top_p?: number | undefined;
  /** At least 1; undefined = what the model's generation_config.json says, else all tokens. */
  top_k?: number | undefined;
  /** Undefined = what the model's generation_config.json says, else none (1). */
  repetition_penalty?: number | undefined;
  /** Whether a model that can do either thinks before it answers; undefined = as its template does by itself. */
  thinking?: boolean | undefined;
  /** A whole number. The same request with the same seed gives the same text on the same device. */
  seed: string;
}

export interface TextDelta {
  text: string;
  /** Whether it belongs to the model's thoughts instead of its answer. */
  thinking: boolean;
}

export interface TextResult {
  /** The answer, without thoughts and without the model's marks. */
  text: string;
  thinking: string;
  /** Of all tokens that were generated, those of the thoughts and the closing mark included. */
  ids: number[];
  /** `limit` is how many tokens prompt and reply may have together; null where the model does not say. */
  tokens: { prompt: number; generated: number; limit: number | null };
  /** `length`: it was cut off by `max_new_tokens` or by the limit. */
  finish: 'stop' | 'length';
}

/** Bytes of weights brought to the device, before the first token. */
export interface ModelLoading {
  done: number;
  total: number;
}

/** What a chunk asks for; its step's model and its job's signal are added. */
export type StepTextRequest = Omit<TextRequest, 'model'>;

/** The text service as a chunk gets it: bound to the model of its step. Loading is told as the job's progress. */
export interface StepText {
  /** @throws StudioError as {@link TextService.generate} */
  generate(request: StepTextRequest, onDelta: (delta: TextDelta) => void): Promise<TextResult>;
}

export interface TextService {
  /**
   * Chat in, words out.
   * @throws StudioError `context_too_long` | `invalid_operation` | `checkpoint_incomplete` | `checkpoint_damaged` |
   *   `checkpoint_unsupported` | `out_of_memory` | `gpu_lost` | `worker_failed` | `cancelled`, the last within one token of the signal
   */
  generate(
    request: TextRequest,
    onDelta: (delta: TextDelta) => void,
    signal: AbortSignal,
    onLoading?: (loading: ModelLoading) => void,
  ): Promise<TextResult>;
}
