/** Encodes prompts for a latent diffusion model, literally or in another tool's syntax. */
import type { Conditioning, PromptSyntax, TextRequest, TokenCount } from '../../core/model.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { samplers } from '../../samplers/registry.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import { planSampling } from '../../schedulers/plan.ts';
import type { ClipTokenizer, Encoded } from '../../text/clip_tokenizer.ts';
import { composedPrompts, promptSchedule } from '../../text/prompt_schedule.ts';
import { nameOfClip, tokensOfClip } from '../flow_transformer/clip_texts.ts';
import { TextConditioning, type TextSchedule } from './conditioned_texts.ts';
import type { EncodedText, Networks } from './networks.ts';
import { PromptReader } from './prompt_reader.ts';
import { OFFERS } from './sampling_offers.ts';

export interface ModelParts {
  networks: Networks;
  /** One for each text encoder. */
  tokenizers: ClipTokenizer[];
  /** Whether an empty negative prompt stands for zeros instead of what the text encoder makes of it. */
  zeroesEmpty: boolean;
  scheduler: SchedulerConfig;
}

export class TextEncoding {
  readonly #engine: Engine;
  readonly #parts: ModelParts;

  constructor(engine: Engine, parts: ModelParts) {
    this.#engine = engine;
    this.#parts = parts;
  }

  async encode(request: TextRequest): Promise<Conditioning> {
    const { networks, tokenizers, zeroesEmpty } = this.#parts;
    const [tokenizer] = tokenizers;
    const readsNegative =
      Object.hasOwn(samplers, request.sampler ?? '') && samplers[request.sampler ?? ''].readsNegative;
    const guided = (request.guidance_scale > 1 || readsNegative === true) && !(await networks.embedsGuidance());
    if (request.prompt_syntax !== undefined && request.prompt_syntax !== 'literal') {
      return this.#readSyntax(request, request.prompt_syntax, guided);
    }
    const options = { skip: request.clip_skip };
    const prompts = tokenizers.map((one) => one.encode(request.prompt));
    const negatives = guided ? tokenizers.map((one) => one.encode(request.negative_prompt)) : null;
    const [prompt, negative] = [prompts[0], negatives?.[0] ?? null];
    const encode = (texts: Encoded[]) =>
      networks.encodeText(
        texts.map(({ ids }) => ids),
        options,
      );
    const tokens = { prompt: prompt.tokens, negative: negative?.tokens ?? 0, limit: tokenizer.length };
    const texts = { prompt: prompt.text, negative: negative?.text ?? null };
    const encoded = await encode(prompts);
    const against =
      negatives && (zeroesEmpty && request.negative_prompt === '' ? this.#zeros(encoded) : await encode(negatives));
    return new TextConditioning(
      [{ weight: 1, schedule: [{ until: Infinity, text: encoded }] }],
      against && [{ until: Infinity, text: against }],
      tokens,
      texts,
      request.guidance_scale,
    );
  }

  count(prompt: string, syntax: PromptSyntax): TokenCount[] {
    const { networks, tokenizers } = this.#parts;
    if (syntax === 'literal') {
      return tokensOfClip(tokenizers, prompt);
    }
    const reader = new PromptReader(networks, this.#engine.arithmetic, tokenizers, syntax, {});
    // Of a prompt that changes or consists of several, what is read first.
    const [{ text }] = syntax === 'comfyui' ? [{ text: prompt }] : composedPrompts(prompt);
    const [first] = syntax === 'comfyui' ? [{ text }] : promptSchedule(text, 1);
    return reader.tokenize(first.text).prompts.map(({ tokens, chunks }, n) => {
      return { encoder: nameOfClip(n), tokens: tokens + 2, limit: tokenizers[n].length, rows: chunks.length };
    });
  }

  /** A prompt in a tool's syntax. Only AUTOMATIC1111's may consist of several, and change along the way. */
  async #readSyntax(
    request: TextRequest,
    syntax: Exclude<PromptSyntax, 'literal'>,
    guided: boolean,
  ): Promise<TextConditioning> {
    const { networks, tokenizers, zeroesEmpty } = this.#parts;
    const reader = new PromptReader(networks, this.#engine.arithmetic, tokenizers, syntax, { skip: request.clip_skip });
    const calls = this.#callsOf(request);
    let tokens = 0;
    const read = async (prompt: string): Promise<TextSchedule> => {
      const schedule = syntax === 'comfyui' ? [{ until: calls, text: prompt }] : promptSchedule(prompt, calls);
      const unique = [...new Set(schedule.map(({ text }) => text))];
      const tokenized = unique.map((text) => reader.tokenize(text));
      tokens = Math.max(tokens, ...tokenized.map(({ prompts: [own] }) => own.tokens));
      const encoded = await reader.read(tokenized);
      return schedule.map(({ until, text }) => ({ until, text: encoded[unique.indexOf(text)] }));
    };
    const composed = syntax === 'comfyui' ? [{ text: request.prompt, weight: 1 }] : composedPrompts(request.prompt);
    const prompts: { weight: number; schedule: TextSchedule }[] = [];
    for (const { text, weight } of composed) {
      prompts.push({ weight, schedule: await read(text) });
    }
    const promptTokens = tokens;
    tokens = 0;
    // ComfyUI encodes an empty negative prompt like any other.
    const isZero = zeroesEmpty && syntax === 'automatic1111' && request.negative_prompt === '';
    const negative =
      guided || prompts.length > 1 || prompts[0].weight !== 1
        ? isZero
          ? [{ until: calls, text: this.#zeros(prompts[0].schedule[0].text) }]
          : await read(request.negative_prompt)
        : null;
    return new TextConditioning(
      prompts,
      negative,
      {
        prompt: promptTokens + 2,
        negative: guided ? tokens + 2 : 0,
        limit: prompts[0].schedule[0].text.states.dims[1],
      },
      { prompt: request.prompt, negative: guided ? request.negative_prompt : null },
      request.guidance_scale,
      guided,
    );
  }

  /** Calls of the network as AUTOMATIC1111 counts them: two per step for samplers that call it twice. */
  #callsOf({ steps = 1, sampler }: TextRequest): number {
    const { steps: calls } = planSampling({ config: this.#parts.scheduler, sampler, steps }, OFFERS);
    return steps * Math.max(1, Math.round(calls.length / steps));
  }

  /** Zeros of the same shape. */
  #zeros({ states, pooled }: EncodedText): EncodedText {
    const like = ({ dims }: DeviceTensor) => this.#engine.arithmetic.upload(new Float32Array(elements(dims)), dims);
    return { states: like(states), pooled: pooled && like(pooled) };
  }
}
