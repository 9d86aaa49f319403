/** Language models behind OpenAI's chat route: Ollama, LM Studio, llama.cpp, vLLM and others at home, and services with a key. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import { readRemoteModel } from '../core/remote.ts';
import type { Probe, RemoteServer, Usage } from '../core/remote.ts';
import type { TextDelta, TextRequest, TextResult, TextService } from '../core/text_service.ts';
import { ThinkingSplitter } from '../core/thinking.ts';
import type { EngineSurroundings, ProbeSurroundings, RemoteEngine } from './engine.ts';
import { dataOf, eventsOf } from './http/events.ts';
import { refusedByBrowser } from './http/reach.ts';
import { quoted, saidIn, usualRefusal } from './http/refusal.ts';
import type { Refusal, Refuser } from './http/refusal.ts';
import { ServerCalls, jsonOf } from './http/server_calls.ts';
import type { Answer } from './http/server_calls.ts';
import { beginAsking, openService, postJson, whole } from './http/service.ts';
import type { Service, ServiceMeans } from './http/service.ts';

const NAME = 'The language server';

export const engine: RemoteEngine = {
  id: 'openai_chat',
  label: {
    en: 'Language models (Ollama, LM Studio, llama.cpp, vLLM, …)',
    de: 'Sprachmodelle (Ollama, LM Studio, llama.cpp, vLLM, …)',
  },
  servers: {
    address: 'http://127.0.0.1:11434/v1',
    leaves: 'Your words and rules go to this server, whenever its model is chosen to rewrite, translate or program.',
    key: 'optional',
    settings: [{ id: 'model', label: { en: 'Model', de: 'Modell' }, usual: '', isNeeded: true }],
    writes: true,
  },
  probe,
  open: (surroundings) => Promise.resolve(textServiceOf(surroundings)),
};

export function textServiceOf(surroundings: EngineSurroundings, means: ServiceMeans = {}): TextService {
  return {
    generate: async (request, onDelta) => {
      const named = readRemoteModel(request.model);
      if (!named) {
        throw new StudioError('invalid_operation', `"${request.model}" names no model on a server.`);
      }
      const opening = { name: NAME, address: named.address };
      const service = await openService(opening, surroundings, means);
      const { result, usage } = await new Conversation(service, named.model).generate(request, onDelta);
      surroundings.used(service.server, usage);
      return result;
    },
  };
}

/** Dialects of servers, from the one most of them take to that of OpenAI's reasoning models. */
interface Habits {
  limit: 'max_tokens' | 'max_completion_tokens';
  countsTokens: boolean;
}

/** By address and model, as learned from refusals. */
const habitsOf = new Map<string, Habits>();

const usual: Habits = { limit: 'max_tokens', countsTokens: true };

class Conversation {
  readonly #service: Service;
  readonly #model: string;

  constructor(service: Service, model: string) {
    this.#service = service;
    this.#model = model;
  }

  async generate(
    request: TextRequest,
    onDelta: (delta: TextDelta) => void,
  ): Promise<{ result: TextResult; usage: Usage }> {
    const { calls } = this.#service;
    const { response, stop } = await this.#begin(request);
    const reply = new Reply(onDelta, { name: NAME, address: calls.address, key: calls.options.key });
    try {
      await whole(calls, async () => {
        if (response.headers.get('content-type')?.includes('text/event-stream')) {
          for await (const event of eventsOf(calls, response)) {
            reply.take(dataOf(event));
            if (reply.isOver) {
              break;
            }
          }
        } else {
          // A server that does not stream.
          reply.take(await jsonOf(await calls.read(response)));
        }
      });
    } finally {
      stop();
    }
    return reply.end();
  }

  /** Learns what a server does not take from its refusal, which means nothing was done. */
  async #begin(request: TextRequest): ReturnType<typeof beginAsking> {
    const { calls } = this.#service;
    const place = `${calls.address}#${this.#model}`;
    for (;;) {
      const habits = habitsOf.get(place) ?? usual;
      let better: Habits | null = null;
      try {
        return await beginAsking(
          this.#service,
          '/chat/completions',
          () => postJson(this.#body(request, habits)),
          async (answer) => {
            const refusal = await this.#refusalOf(answer);
            better =
              answer.status === 400 || answer.status === 422 ? betterHabits(habits, refusal.error.message) : null;
            return refusal;
          },
          {},
        );
      } catch (error) {
        if (better === null) {
          throw error;
        }
        habitsOf.set(place, better);
      }
    }
  }

  #body(request: TextRequest, { limit, countsTokens }: Habits): object {
    const { messages, max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed } = request;
    if (top_k !== undefined || repetition_penalty !== undefined) {
      throw new StudioError(
        'invalid_operation',
        'Servers take no top_k and no repetition_penalty; leave them out, or choose a language model of this device.',
      );
    }
    if (BigInt(seed) > LARGEST_SEED) {
      throw new StudioError('invalid_operation', `seed must be at most ${LARGEST_SEED} on a server.`);
    }
    return {
      model: this.#model,
      messages,
      stream: true,
      temperature,
      seed: Number(seed),
      [limit]: max_new_tokens,
      ...(top_p === undefined ? {} : { top_p }),
      ...(countsTokens ? { stream_options: { include_usage: true } } : {}),
    };
  }

  async #refusalOf(answer: Answer): Promise<Refusal> {
    const { address, options } = this.#service.calls;
    return refusalOf(
      saidIn(answer.status, await jsonOf(answer)),
      { name: NAME, address, key: options.key },
      this.#model,
    );
  }
}

/** The range every server takes: llama.cpp reads 32 bits. */
const LARGEST_SEED = 2n ** 32n - 1n;

function betterHabits(habits: Habits, message: string): Habits | null {
  if (habits.limit === 'max_tokens' && message.includes('max_completion_tokens')) {
    return { ...habits, limit: 'max_completion_tokens' };
  }
  return habits.countsTokens && message.includes('stream_options') ? { ...habits, countsTokens: false } : null;
}

function refusalOf(said: ReturnType<typeof saidIn>, refuser: Refuser, model: string): Refusal {
  if (said.status === 404 && /model/i.test(`${said.code} ${said.message}`)) {
    return {
      error: new StudioError(
        'invalid_operation',
        `${NAME} at ${refuser.address} has no model "${model}"; get it there, or choose another one under "Engines".`,
      ),
      isBusy: false,
    };
  }
  return usualRefusal(said, refuser);
}

const words = v.fallback(v.nullish(v.string()), null);
const partSchema = v.object({ content: words, reasoning_content: words, reasoning: words });

const chunkSchema = v.object({
  choices: v.fallback(
    v.array(
      v.object({
        delta: v.optional(partSchema),
        message: v.optional(partSchema),
        finish_reason: v.fallback(v.nullish(v.string()), null),
      }),
    ),
    [],
  ),
  usage: v.fallback(
    v.nullish(
      v.object({
        prompt_tokens: v.number(),
        completion_tokens: v.number(),
        cost: v.fallback(v.optional(v.number()), undefined),
      }),
    ),
    null,
  ),
});

/** An answer while it arrives. */
class Reply {
  readonly #onDelta: (delta: TextDelta) => void;
  readonly #refuser: Refuser;
  readonly #splitter = new ThinkingSplitter('');
  #text = '';
  #thinking = '';
  #pieces = 0;
  #finish: string | null = null;
  #usage: { prompt_tokens: number; completion_tokens: number; cost?: number | undefined } | null = null;

  constructor(onDelta: (delta: TextDelta) => void, refuser: Refuser) {
    this.#onDelta = onDelta;
    this.#refuser = refuser;
  }

  /** Usage, if reported, comes last. */
  get isOver(): boolean {
    return this.#finish !== null && this.#usage !== null;
  }

  /** @throws StudioError an error the server reports in the middle of its answer */
  take(data: unknown): void {
    if (typeof data === 'object' && data !== null && 'error' in data && data.error) {
      // A failure, whatever the answer's status was.
      const { code, type, message } = saidIn(500, data);
      throw usualRefusal({ status: /^[45]\d\d$/.test(code) ? Number(code) : 500, code, type, message }, this.#refuser)
        .error;
    }
    const result = v.safeParse(chunkSchema, data);
    if (!result.success) {
      return;
    }
    const [choice] = result.output.choices;
    this.#usage = result.output.usage ?? this.#usage;
    if (!choice) {
      return;
    }
    const { content, reasoning_content, reasoning } = choice.delta ?? choice.message ?? {};
    const thought = reasoning_content ?? reasoning ?? '';
    if (thought !== '') {
      this.#give({ text: thought, thinking: true });
    }
    this.#splitter.push(content ?? '').forEach((delta) => this.#give(delta));
    this.#finish = choice.finish_reason ?? this.#finish;
  }

  /** @throws StudioError `invalid_operation` if the answer was withheld */
  end(): { result: TextResult; usage: Usage } {
    this.#splitter.end().forEach((delta) => this.#give(delta));
    if (this.#finish === 'content_filter') {
      throw new StudioError('invalid_operation', `${NAME} holds its answer back; say it in other words.`);
    }
    if (this.#finish === null && this.#pieces === 0) {
      throw new StudioError(
        'result_invalid',
        `What answers at ${this.#refuser.address} is no language server; look at the address under "Engines".`,
      );
    }
    const { prompt_tokens: prompt = 0, completion_tokens: generated = this.#pieces, cost } = this.#usage ?? {};
    return {
      result: {
        text: this.#text,
        thinking: this.#thinking,
        ids: [],
        tokens: { prompt, generated, limit: null },
        finish: this.#finish === 'length' ? 'length' : 'stop',
      },
      usage: this.#usage ? { input: prompt, output: generated, ...(cost === undefined ? {} : { cost }) } : {},
    };
  }

  #give(delta: TextDelta): void {
    this.#pieces++;
    if (delta.thinking) {
      this.#thinking += delta.text;
    } else {
      this.#text += delta.text;
    }
    this.#onDelta(delta);
  }
}

/** Timeout of a probe, in milliseconds. */
const PROBE_WITHIN = 15_000;

const modelsSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

async function probe(server: RemoteServer, { key, origin, signal }: ProbeSurroundings): Promise<Probe> {
  const { address, through } = server;
  const calls = new ServerCalls({ address, through, name: NAME, key, signal });
  const { name, flag } = knownServer(address, origin);
  try {
    const answer = await calls.ask('/models', {}, PROBE_WITHIN);
    const body = await jsonOf(answer);
    if (answer.status === 403) {
      return {
        isUp: false,
        sentence: `${name} at ${address} does not let this page ask it.`,
        ...(flag === null ? {} : { flag }),
      };
    }
    if (answer.status === 404) {
      return { isUp: false, sentence: notThere(name, address) };
    }
    if (answer.status !== 200) {
      return { isUp: false, sentence: usualRefusal(saidIn(answer.status, body), { name, address, key }).error.message };
    }
    const models = v.safeParse(modelsSchema, body);
    if (!models.success) {
      return {
        isUp: false,
        sentence: `What answers at ${address} is no language server; look at host, port and path.`,
      };
    }
    const ids = models.output.data.map(({ id }) => id);
    return ids.length === 0
      ? { isUp: false, sentence: `${name} answers and has no model yet; get one there, then look again.`, models: [] }
      : { isUp: true, sentence: `${name} answers.`, models: ids };
  } catch (error) {
    const { code, message } = StudioError.from(error);
    return code === 'origin_unavailable'
      ? refusedByBrowser(calls, { name, path: '/models', flag, signal })
      : { isUp: false, sentence: quoted(message, key) };
  }
}

function notThere(name: string, address: string): string {
  if (!address.endsWith('/v1')) {
    return `There is no language server at ${address}; its address most likely ends with /v1.`;
  }
  return name === 'Ollama'
    ? 'This Ollama is too old: it has no /v1/models; update it, then look again.'
    : `There is no language server at ${address}; look at host, port and path.`;
}

/** By default port: each server's name, and the setting that lets a page in. */
function knownServer(address: string, origin: string): { name: string; flag: string | null } {
  switch (new URL(address).port) {
    case '11434':
      return { name: 'Ollama', flag: [`OLLAMA_ORIGINS=${origin}`, 'ollama', 'serve'].join(' ') };
    case '1234':
      return { name: 'LM Studio', flag: ['lms', 'server', 'start', '--cors'].join(' ') };
    case '8080':
      return { name: 'llama.cpp', flag: ['--cors-origins', origin].join(' ') };
    case '8000':
      return { name: 'vLLM', flag: ['--allowed-origins', `'["${origin}"]'`].join(' ') };
    default:
      return { name: NAME, flag: null };
  }
}
