/** OpenRouter's image route, with a key that a person types or gets by signing in there. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { MadePictures, PictureRequest, PictureService } from '../core/picture_service.ts';
import type { Probe, RemoteServer, SignInProof } from '../core/remote.ts';
import type { EngineSurroundings, ProbeSurroundings, RemoteEngine } from './engine.ts';
import { base64Of } from './http/base64.ts';
import { readPictures } from './http/pictures.ts';
import { probeService } from './http/probe.ts';
import { quoted, saidIn, usualRefusal } from './http/refusal.ts';
import type { Refusal, Refuser, Said } from './http/refusal.ts';
import { ServerCalls, jsonOf } from './http/server_calls.ts';
import { beginAsking, openService, postJson, whole } from './http/service.ts';
import type { ServiceMeans } from './http/service.ts';

const NAME = 'OpenRouter';

export interface OpenRouterRequest extends PictureRequest {
  n: number;
  aspect_ratio?: string | undefined;
  resolution?: string | undefined;
  quality?: string | undefined;
}

export const engine: RemoteEngine = {
  id: 'openrouter',
  label: { en: 'OpenRouter pictures', de: 'OpenRouter-Bilder' },
  servers: {
    address: 'https://openrouter.ai/api/v1',
    leaves:
      'Your words and the pictures that you give go to this service, which passes them on to whoever runs the model, and charges your account.',
    key: 'required',
    settings: [{ id: 'model', label: { en: 'Model', de: 'Modell' }, usual: '', isNeeded: true }],
    signIn: '/auth',
  },
  probe,
  signIn,
  open: (surroundings) => Promise.resolve(openRouter(surroundings)),
};

export function openRouter(
  surroundings: EngineSurroundings,
  means: ServiceMeans = {},
): PictureService<OpenRouterRequest> {
  return {
    make: async (request, news) => {
      const service = await openService(
        { name: NAME, address: request.server, needsKey: () => true },
        surroundings,
        means,
      );
      const { calls, server } = service;
      const model = request.model ?? server.settings.model;
      if (!model) {
        throw new StudioError(
          'invalid_operation',
          `No model is chosen for ${NAME}; choose one under "Engines", where "Look again" lists them.`,
        );
      }
      const refuser = { name: NAME, address: calls.address, key: calls.options.key };
      const body = await bodyOf(request, model);
      const { response, stop } = await beginAsking(
        service,
        '/images',
        () => postJson(body),
        async (answer) => {
          const told = await jsonOf(answer);
          return refusalOf(saidIn(answer.status, told), refuser, told);
        },
        news,
      );
      try {
        const read = () => readPictures(calls, response, news, (said) => refusalOf(said, refuser));
        const made: MadePictures = { ...(await whole(calls, read)), server: calls.address, model };
        surroundings.used(server, made.usage);
        return made;
      } finally {
        stop();
      }
    },
  };
}

async function bodyOf(request: OpenRouterRequest, model: string): Promise<object> {
  const { prompt, n, aspect_ratio, resolution, quality } = request;
  const input_references = await Promise.all(
    request.images.map(async (picture) => ({
      type: 'image_url',
      image_url: { url: `data:${picture.type || 'image/png'};base64,${await base64Of(picture)}` },
    })),
  );
  const all = {
    model,
    prompt,
    n,
    aspect_ratio,
    resolution,
    quality,
    input_references: input_references.length > 0 ? input_references : undefined,
    // Several pictures come in one piece.
    stream: n === 1 ? true : undefined,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

const reasonsSchema = v.object({ error: v.object({ metadata: v.object({ reasons: v.array(v.string()) }) }) });

function refusalOf(said: Said, refuser: Refuser, body?: unknown): Refusal {
  const reasons = v.safeParse(reasonsSchema, body);
  if (said.status === 403 && reasons.success) {
    const message = reasons.output.error.metadata.reasons.join(', ');
    return usualRefusal({ ...said, code: 'moderation', message }, refuser);
  }
  if ((said.status === 400 || said.status === 404) && /model|endpoints/i.test(said.message)) {
    return {
      error: new StudioError(
        'invalid_operation',
        `${NAME} does not make pictures with this model (${quoted(said.message, refuser.key)}); choose another one under "Engines", where "Look again" lists them.`,
      ),
      isBusy: false,
    };
  }
  return usualRefusal(said, refuser);
}

const keySchema = v.object({ data: v.object({ limit_remaining: v.fallback(v.nullish(v.number()), null) }) });
const modelsSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

async function probe(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe> {
  let left: number | null = null;
  const probed = await probeService(server, surroundings, {
    name: NAME,
    path: '/key',
    modelsIn: (body) => {
      const result = v.safeParse(keySchema, body);
      left = result.success ? (result.output.data.limit_remaining ?? null) : null;
      return result.success ? [] : null;
    },
  });
  // Anybody may ask which there are.
  const { address, through } = server;
  const calls = new ServerCalls({ address, through, name: NAME, key: null, signal: surroundings.signal });
  const list = await calls.ask('/models?output_modalities=image').then(jsonOf, () => undefined);
  const found = v.safeParse(modelsSchema, list);
  const models = found.success ? found.output.data.map(({ id }) => id) : [];
  const sentence =
    probed.isUp && left !== null ? `${NAME} answers; ${dollars(left)} is left for this key.` : probed.sentence;
  return { ...probed, sentence, models };
}

function dollars(amount: number): string {
  return `$${amount.toFixed(2)}`;
}

const issuedSchema = v.object({ key: v.pipe(v.string(), v.minLength(1)) });

async function signIn(
  { address }: RemoteServer,
  { code, verifier }: SignInProof,
  signal: AbortSignal,
): Promise<string> {
  const calls = new ServerCalls({ address, name: NAME, key: null, signal });
  const answer = await calls.ask(
    '/auth/keys',
    postJson({ code, code_verifier: verifier, code_challenge_method: 'S256' }),
  );
  const issued = v.safeParse(issuedSchema, await jsonOf(answer));
  if (answer.status !== 200 || !issued.success) {
    throw new StudioError(
      'invalid_operation',
      `${NAME} gave no key (${answer.status}); sign in again, or enter a key of yours.`,
    );
  }
  return issued.output.key;
}
