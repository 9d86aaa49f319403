/**
 * transformers.js as its own documentation uses it, in a worker: its loader, its runtime, its greedy search. The baseline for the language
 * engine. Takes `open` with the files of a checkpoint, then `generate` with messages, and answers each on the same port.
 */
import { AutoModelForCausalLM, AutoTokenizer, BaseStreamer, env } from '@huggingface/transformers';
import wasmModule from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url';
import wasm from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url';
import type { LanguagePrecision } from '../src/core/language.ts';
import type { ChatMessage } from '../src/core/text_service.ts';

export type PlainRequest =
  | { type: 'open'; files: { path: string; file: File }[]; backend: 'webgpu' | 'wasm'; dtype: LanguagePrecision }
  | { type: 'generate'; messages: ChatMessage[]; tokens: number };

export type PlainAnswer =
  { type: 'opened' } | { type: 'token' } | { type: 'done'; ids: number[] } | { type: 'failed'; message: string };

const MODEL = 'raced';

const say = (answer: PlainAnswer) => postMessage(answer);

let model: Awaited<ReturnType<typeof AutoModelForCausalLM.from_pretrained>>;
let tokenizer: Awaited<ReturnType<typeof AutoTokenizer.from_pretrained>>;

async function open({ files, backend, dtype }: Extract<PlainRequest, { type: 'open' }>): Promise<void> {
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = '/models/';
  env.useBrowserCache = false;
  env.useWasmCache = false;
  env.useCustomCache = true;
  env.customCache = {
    match: (request: string) => {
      const path = request.split(`/${MODEL}/`).at(-1);
      const file = files.find((one) => one.path === path)?.file;
      return Promise.resolve(file && new Response(file));
    },
    put: () => Promise.resolve(),
  };
  const { wasm: settings } = env.backends.onnx;
  if (settings) {
    settings.wasmPaths = { mjs: wasmModule, wasm };
  }
  tokenizer = await AutoTokenizer.from_pretrained(MODEL);
  model = await AutoModelForCausalLM.from_pretrained(MODEL, { device: backend, dtype });
}

class Teller extends BaseStreamer {
  #hasPrompt = false;

  override put(): void {
    if (this.#hasPrompt) {
      say({ type: 'token' });
    }
    this.#hasPrompt = true;
  }

  override end(): void {}
}

async function generate({ messages, tokens }: Extract<PlainRequest, { type: 'generate' }>): Promise<number[]> {
  const inputs = tokenizer.apply_chat_template(messages, { add_generation_prompt: true, return_dict: true }) as {
    input_ids: { dims: number[] };
  };
  const output = (await model.generate({
    ...inputs,
    max_new_tokens: tokens,
    do_sample: false,
    streamer: new Teller() as never,
  })) as { data: BigInt64Array };
  return [...output.data].slice(inputs.input_ids.dims[1]).map(Number);
}

addEventListener('message', ({ data }: MessageEvent<PlainRequest>) => {
  const work =
    data.type === 'open'
      ? open(data).then(() => say({ type: 'opened' }))
      : generate(data).then((ids) => say({ type: 'done', ids }));
  work.catch((error: unknown) => say({ type: 'failed', message: String(error) }));
});
