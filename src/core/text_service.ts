/** Writing text with a language model: the chunk's request, and what comes back during and after it. */

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface TextRequest {
  /** Ref of a language model in the library or in an opened folder, such as `hub:onnx-community/Qwen3-0.6B-ONNX@<commit>`. */
  model: string;
  messages: ChatMessage[];
  /** At least 1. Cut short if the model's context runs out; see {@link TextResult.finish}. */
  max_new_tokens: number;
  /** 0 = greedy: always the most likely token. */
  temperature: number;
  /** 0 < top_p ≤ 1; undefined = the value in the model's generation_config.json, else 1. */
  top_p?: number | undefined;
  /** At least 1; undefined = the value in the model's generation_config.json, else all tokens. */
  top_k?: number | undefined;
  /** Undefined = the value in the model's generation_config.json, else none (1). */
  repetition_penalty?: number | undefined;
  /** Whether a model with optional thinking thinks before it answers; undefined = its template's default. */
  thinking?: boolean | undefined;
  /** An integer. The same request with the same seed gives the same text on the same device. */
  seed: string;
}

export interface TextDelta {
  text: string;
  /** Whether it is part of the model's thoughts rather than its answer. */
  thinking: boolean;
}

export interface TextResult {
  /** The answer, without thoughts and special tokens. */
  text: string;
  thinking: string;
  /** The number of all generated tokens, including thoughts and the end token. */
  ids: number[];
  /** `limit` is the most tokens in prompt and reply together; null if the model does not say. */
  tokens: { prompt: number; generated: number; limit: number | null };
  /** `length`: cut off by `max_new_tokens` or by the limit. */
  finish: 'stop' | 'length';
}

/** Bytes of weights loaded onto the device, before the first token. */
export interface ModelLoading {
  done: number;
  total: number;
}

/** A chunk's request; its step's model and its job's signal are added. */
export type StepTextRequest = Omit<TextRequest, 'model'>;

/** The text service as a chunk gets it: bound to its step's model, with loading reported as the job's progress. */
export interface StepText {
  /** @throws StudioError like {@link TextService.generate} */
  generate(request: StepTextRequest, onDelta: (delta: TextDelta) => void): Promise<TextResult>;
}

export interface TextService {
  /**
   * Answers a chat.
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
