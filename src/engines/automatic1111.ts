/**
 * AUTOMATIC1111's web UI, Forge and SD.Next, and stable-diffusion.cpp through the same routes. A request is answered once its pictures are
 * done; progress and queue position are polled separately.
 */
import * as v from 'valibot';
import type { MadePictures, PictureNews, PictureRequest, PictureService } from '../core/picture_service.ts';
import { StudioError } from '../core/errors.ts';
import type { Probe, RemoteServer } from '../core/remote.ts';
import type { EngineSurroundings, ProbeSurroundings, RemoteEngine } from './engine.ts';
import { base64Of, fileOf } from './http/base64.ts';
import { refusedByBrowser } from './http/reach.ts';
import { quoted, saidIn, usualRefusal } from './http/refusal.ts';
import type { Refusal } from './http/refusal.ts';
import { ServerCalls, jsonOf } from './http/server_calls.ts';
import type { Answer } from './http/server_calls.ts';
import { ask, passed, postJson } from './http/service.ts';
import type { Service, ServiceMeans } from './http/service.ts';
import { onServer } from './http/service_pool.ts';
import type { Look } from './http/service_pool.ts';

const NAME = 'The web UI';

/** The request, by the names of our parameters. */
export interface WebUiRequest extends PictureRequest {
  negative_prompt: string;
  strength: number;
  width: number;
  height: number;
  steps: number;
  guidance_scale: number;
  sampler?: string | undefined;
  scheduler?: string | undefined;
  seed: string;
  batch_size: number;
}

export const engine: RemoteEngine = {
  id: 'automatic1111',
  label: {
    en: 'AUTOMATIC1111, Forge, SD.Next, stable-diffusion.cpp',
    de: 'AUTOMATIC1111, Forge, SD.Next, stable-diffusion.cpp',
  },
  servers: {
    address: 'http://127.0.0.1:7860',
    leaves: 'Your words, settings and pictures go to this server; whoever can reach it sees them there.',
    key: 'optional',
    // By default, the checkpoint loaded there.
    settings: [{ id: 'model', label: { en: 'Checkpoint', de: 'Checkpoint' }, usual: '' }],
    variables: 'A1111',
  },
  probe,
  open: (surroundings) => Promise.resolve(webUi(surroundings)),
};

export interface WebUiMeans extends ServiceMeans {
  /** Milliseconds between polls of the progress. */
  poll?: number;
  newId?: () => string;
}

export function webUi(surroundings: EngineSurroundings, means: WebUiMeans = {}): PictureService<WebUiRequest> {
  return {
    make: (request, news) => {
      const opening = { name: NAME, authorize, address: request.server };
      return onServer(opening, LOAD, surroundings, means, news, async (service) => {
        const made = await new WebUiJob(service, means, surroundings.signal).make(request, news);
        surroundings.used(service.server, {});
        return made;
      });
    },
  };
}

/** `--api-auth user:password` needs both; other keys belong to a proxy. */
function authorize(key: string): Record<string, string> {
  const scheme = key.includes(':') ? 'Basic' : 'Bearer';
  return { authorization: [scheme, key.includes(':') ? btoa(key) : key].join(' ') };
}

/** The server reads this as a 32-bit number. */
const LARGEST_SEED = 2n ** 32n - 1n;

const answerSchema = v.object({ images: v.array(v.string()), info: v.fallback(v.string(), '') });

const progressSchema = v.object({
  progress: v.fallback(v.nullish(v.number()), null),
  /** The requested job's progress, if the server knows it. */
  active: v.fallback(v.optional(v.boolean()), undefined),
  live_preview: v.fallback(v.nullish(v.string()), null),
  id_live_preview: v.fallback(v.nullish(v.number()), null),
  current_image: v.fallback(v.nullish(v.string()), null),
});

type Told = v.InferOutput<typeof progressSchema>;

/** Servers that do not tell their progress count as free. */
const LOAD: Look = {
  path: '/sdapi/v1/progress?skip_current_image=true',
  load: (body) => {
    const told = v.safeParse(progressSchema, body);
    return told.success && (told.output.progress ?? 0) > 0 ? 1 : 0;
  },
};

class WebUiJob {
  readonly #service: Service;
  readonly #means: WebUiMeans;
  readonly #signal: AbortSignal;
  readonly #id: string;
  /** Not aborted with the job, which must be stopped there first. */
  readonly #besides: ServerCalls;
  /** Null until known: some servers know their jobs by id, others report whichever is running. */
  #knowsIds: boolean | null = null;
  /** Whether the server is running this job, as far as can be known. */
  #isOurs = false;
  #wasIdle = false;
  #preview = -1;

  constructor(service: Service, means: WebUiMeans, signal: AbortSignal) {
    this.#service = service;
    this.#means = means;
    this.#signal = signal;
    this.#id = `darkroom-${means.newId?.() ?? crypto.randomUUID()}`;
    const { signal: forever } = new AbortController();
    this.#besides = new ServerCalls({ ...service.calls.options, signal: forever });
  }

  async make(request: WebUiRequest, news: PictureNews): Promise<MadePictures> {
    const body = await this.#body(request);
    const route = request.images.length > 0 ? 'img2img' : 'txt2img';
    this.#wasIdle = !((await this.#overall())?.progress ?? 0);
    const over = new AbortController();
    const stop = () => void this.#stop(over.signal).catch(() => undefined);
    this.#signal.addEventListener('abort', stop);
    const watching = this.#watch(news, over.signal);
    try {
      const answer = await ask(
        this.#service,
        `/sdapi/v1/${route}`,
        () => postJson(body),
        (refused) => this.#refusalOf(refused),
        news,
      );
      return await this.#made(answer, request);
    } finally {
      // A cancelled job is stopped there before it is released.
      if (!this.#signal.aborted) {
        over.abort();
      }
      await watching;
      this.#signal.removeEventListener('abort', stop);
    }
  }

  async #body(request: WebUiRequest): Promise<object> {
    const { mask, model, seed } = request;
    const picture = request.images.at(0);
    if (BigInt(seed) > LARGEST_SEED) {
      throw new StudioError('invalid_operation', `seed must be at most ${LARGEST_SEED} on a server.`);
    }
    const checkpoint = model ?? (this.#service.server.settings.model || undefined);
    return {
      prompt: request.prompt,
      negative_prompt: request.negative_prompt,
      steps: request.steps,
      cfg_scale: request.guidance_scale,
      width: request.width,
      height: request.height,
      seed: Number(seed),
      batch_size: request.batch_size,
      force_task_id: this.#id,
      ...(request.sampler === undefined ? {} : { sampler_name: request.sampler }),
      ...(request.scheduler === undefined ? {} : { scheduler: request.scheduler }),
      // For this request only: afterwards the server restores what was loaded.
      ...(checkpoint === undefined ? {} : { override_settings: { sd_model_checkpoint: checkpoint } }),
      ...(picture === undefined
        ? {}
        : { init_images: [await base64Of(picture)], denoising_strength: request.strength }),
      // Masked content: original.
      ...(mask ? { mask: await base64Of(mask), inpainting_fill: 1, inpaint_full_res: false } : {}),
    };
  }

  async #made(answer: Answer, { model, batch_size: count }: WebUiRequest): Promise<MadePictures> {
    const result = v.safeParse(answerSchema, await jsonOf(answer));
    if (!result.success || result.output.images.length === 0) {
      throw new StudioError(
        'result_invalid',
        `${NAME} at ${this.#service.calls.address} answers with no picture; look at what it prints, then try again.`,
        { retry: 'same' },
      );
    }
    const info = infoOf(result.output.info);
    // A grid, or an extension's mask, comes with them without metadata of its own.
    const made = result.output.images.slice(0, Math.max(1, count));
    return {
      pictures: made.map((picture, at) => ({
        file: fileOf(picture),
        says: info.all_seeds?.[at] === undefined ? {} : { seed: String(info.all_seeds[at]) },
      })),
      server: this.#service.calls.address,
      model: info.sd_model_name ?? model ?? null,
      usage: {},
    };
  }

  async #refusalOf(answer: Answer): Promise<Refusal> {
    const { address, options } = this.#service.calls;
    const refuser = { name: NAME, address, key: options.key };
    const body = await jsonOf(answer);
    const said = saidIn(answer.status, body);
    const { errors } = (typeof body === 'object' && body !== null ? body : {}) as { errors?: unknown };
    const why = typeof errors === 'string' && errors !== '' ? errors : said.message;
    if (/OutOfMemory|out of memory/i.test(`${why} ${said.message}`)) {
      return usualRefusal({ ...said, message: why, code: 'OutOfMemory' }, refuser);
    }
    if (answer.status === 404 && /^(|Not Found)$/.test(said.message)) {
      return {
        error: new StudioError(
          'invalid_operation',
          `${NAME} at ${address} was started without its API; start it with --api, then try again.`,
        ),
        isBusy: false,
      };
    }
    return usualRefusal({ ...said, message: why }, refuser);
  }

  async #watch(news: PictureNews, over: AbortSignal): Promise<void> {
    while (!over.aborted && !this.#signal.aborted) {
      await passed(this.#means.poll ?? 1000, AbortSignal.any([over, this.#signal]));
      if (over.aborted || this.#signal.aborted) {
        return;
      }
      const told = await this.#told();
      if (told && !over.aborted && !this.#signal.aborted) {
        this.#tell(told, news);
      }
    }
  }

  #tell({ progress, live_preview: preview, id_live_preview: number, current_image: current }: Told, news: PictureNews) {
    if (!this.#isOurs) {
      return;
    }
    news.onProgress(progress ?? 0);
    const picture = preview ?? current;
    if (typeof picture === 'string' && (number === null || number !== this.#preview)) {
      this.#preview = number ?? -1;
      news.onPreview(fileOf(picture));
    }
  }

  /** Its progress; null if unknown. */
  async #told(): Promise<Told | null> {
    try {
      if (this.#knowsIds !== false) {
        const answer = await this.#besides.ask(
          '/internal/progress',
          postJson({ id_task: this.#id, id_live_preview: this.#preview }),
          ANSWER_WITHIN,
        );
        this.#knowsIds = answer.status === 200;
        const told = v.safeParse(progressSchema, await jsonOf(answer));
        if (this.#knowsIds && told.success) {
          this.#isOurs = told.output.active === true;
          return told.output;
        }
        this.#knowsIds = false;
      }
      const told = await this.#overall();
      // Whatever starts on an idle server after this was sent is most likely this job.
      this.#isOurs ||= this.#wasIdle && (told?.progress ?? 0) > 0;
      return told;
    } catch {
      return null;
    }
  }

  /** Progress of whichever job is running there; null if the server does not say. */
  async #overall(): Promise<Told | null> {
    try {
      const answer = await this.#besides.ask('/sdapi/v1/progress?skip_current_image=false', {}, ANSWER_WITHIN);
      const told = v.safeParse(progressSchema, await jsonOf(answer));
      return answer.status === 200 && told.success ? told.output : null;
    } catch {
      return null;
    }
  }

  /** The server's interrupt hits whichever job is running, so it is only used when that is known to be ours. */
  async #stop(over: AbortSignal): Promise<void> {
    for (let asked = 0; asked < MOST_QUESTIONS; asked++) {
      await this.#told();
      if (this.#isOurs) {
        await this.#besides.ask('/sdapi/v1/interrupt', { method: 'POST' }, ANSWER_WITHIN);
        return;
      }
      if (this.#knowsIds !== true) {
        return;
      }
      await passed(this.#means.poll ?? 1000, over);
    }
  }
}

/** Timeout of polls beside a job, in milliseconds. */
const ANSWER_WITHIN = 15_000;
/** A cancelled job still queued there is watched this long, once a second. */
const MOST_QUESTIONS = 3600;

const infoSchema = v.object({
  all_seeds: v.fallback(v.optional(v.array(v.number())), undefined),
  sd_model_name: v.fallback(v.optional(v.string()), undefined),
});

function infoOf(text: string): v.InferOutput<typeof infoSchema> {
  try {
    const result = v.safeParse(infoSchema, JSON.parse(text));
    return result.success ? result.output : {};
  } catch {
    return {};
  }
}

/** Timeout of a probe, in milliseconds. */
const PROBE_WITHIN = 15_000;

const modelsSchema = v.array(v.object({ title: v.string() }));

async function probe(server: RemoteServer, { key, origin, signal }: ProbeSurroundings): Promise<Probe> {
  const { address, through } = server;
  const calls = new ServerCalls({ address, through, name: NAME, key, signal, authorize });
  const flag = ['--api', `--cors-allow-origins=${origin}`].join(' ');
  try {
    const answer = await calls.ask('/sdapi/v1/sd-models', {}, PROBE_WITHIN);
    const body = await jsonOf(answer);
    if (answer.status === 404) {
      return {
        isUp: false,
        sentence: `${NAME} at ${address} was started without its API, or this is something else; start it with this flag, then look again.`,
        flag,
      };
    }
    if (answer.status !== 200) {
      return {
        isUp: false,
        sentence: usualRefusal(saidIn(answer.status, body), { name: NAME, address, key }).error.message,
      };
    }
    const models = v.safeParse(modelsSchema, body);
    return models.success
      ? { isUp: true, sentence: `${NAME} answers.`, models: models.output.map(({ title }) => title) }
      : { isUp: false, sentence: `What answers at ${address} is no such web UI; look at host and port.` };
  } catch (error) {
    const { code, message } = StudioError.from(error);
    return code === 'origin_unavailable'
      ? refusedByBrowser(calls, { name: NAME, path: '/sdapi/v1/sd-models', flag, signal })
      : { isUp: false, sentence: quoted(message, key) };
  }
}
