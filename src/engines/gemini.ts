/** Gemini's picture models. A picture comes in one piece, sometimes with words, and an answer of status 200 may hold none. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { MadePictures, PictureRequest, PictureService } from '../core/picture_service.ts';
import type { Probe, RemoteServer, Usage } from '../core/remote.ts';
import type { EngineSurroundings, ProbeSurroundings, RemoteEngine } from './engine.ts';
import { base64Of, fileOf } from './http/base64.ts';
import { probeService } from './http/probe.ts';
import { quoted, saidIn, usualRefusal } from './http/refusal.ts';
import type { Refusal, Refuser, Said } from './http/refusal.ts';
import { jsonOf } from './http/server_calls.ts';
import { ask, openService, postJson } from './http/service.ts';
import type { ServiceMeans } from './http/service.ts';
import usualModels from './usual_models.json';

const NAME = 'Gemini';

export interface GeminiRequest extends PictureRequest {
  aspect_ratio?: string | undefined;
  image_size?: string | undefined;
}

export const engine: RemoteEngine = {
  id: 'gemini',
  label: { en: 'Gemini pictures', de: 'Gemini-Bilder' },
  servers: {
    address: 'https://generativelanguage.googleapis.com/v1beta',
    leaves:
      'Your words and the pictures that you give go to this service, which charges your account and has its own rules for what it keeps.',
    key: 'required',
    settings: [{ id: 'model', label: { en: 'Model', de: 'Modell' }, usual: usualModels.gemini }],
  },
  probe,
  open: (surroundings) => Promise.resolve(gemini(surroundings)),
};

export function gemini(surroundings: EngineSurroundings, means: ServiceMeans = {}): PictureService<GeminiRequest> {
  return {
    make: async (request, news) => {
      const opening = { name: NAME, address: request.server, authorize, needsKey: () => true };
      const service = await openService(opening, surroundings, means);
      const { calls, server } = service;
      const model = request.model ?? (server.settings.model || usualModels.gemini);
      const refuser = { name: NAME, address: calls.address, key: calls.options.key };
      const body = await bodyOf(request);
      const answer = await ask(
        service,
        `/models/${encodeURIComponent(model)}:generateContent`,
        () => postJson(body),
        async (refused) => {
          const told: unknown = await jsonOf(refused);
          return refusalOf(saidIn(refused.status, told), refuser, told);
        },
        news,
      );
      const result = v.safeParse(answerSchema, await jsonOf(answer));
      if (!result.success) {
        throw new StudioError(
          'result_invalid',
          `What answers at ${calls.address} is not ${NAME}; look at the address.`,
        );
      }
      const usage = usageOf(result.output.usageMetadata);
      // Also what comes without a picture is charged.
      surroundings.used(server, usage);
      return { ...pictureIn(result.output, refuser), usage, server: calls.address, model } satisfies MadePictures;
    },
  };
}

function authorize(key: string): Record<string, string> {
  return { 'x-goog-api-key': key };
}

/** Of a request with its pictures, in bytes. */
const LARGEST_REQUEST = 20 * 2 ** 20;

async function bodyOf({ prompt, images, aspect_ratio, image_size }: GeminiRequest): Promise<object> {
  // Four characters of base64 stand for three bytes.
  const bytes = images.reduce((sum, picture) => sum + (4 * picture.size) / 3, prompt.length);
  if (bytes > LARGEST_REQUEST) {
    throw new StudioError(
      'invalid_operation',
      `${NAME} takes 20 MB at once, and these pictures have ${Math.ceil(bytes / 2 ** 20)} MB as text; use fewer or smaller ones.`,
      { retry: 'smaller' },
    );
  }
  const pictures = await Promise.all(
    images.map(async (picture) => ({
      inlineData: { mimeType: picture.type || 'image/png', data: await base64Of(picture) },
    })),
  );
  const imageConfig = Object.fromEntries(
    Object.entries({ aspectRatio: aspect_ratio, imageSize: image_size }).filter(([, value]) => value !== undefined),
  );
  return {
    contents: [{ role: 'user', parts: [{ text: prompt }, ...pictures] }],
    generationConfig: {
      // Without words, a refusal comes without any, too.
      responseModalities: ['TEXT', 'IMAGE'],
      ...(Object.keys(imageConfig).length > 0 ? { imageConfig } : {}),
    },
  };
}

const text = v.fallback(v.optional(v.string()), undefined);
const count = v.fallback(v.optional(v.number(), 0), 0);

const partSchema = v.object({
  text,
  thought: v.fallback(v.optional(v.boolean(), false), false),
  inlineData: v.fallback(v.optional(v.object({ data: v.string() })), undefined),
});

const usageSchema = v.object({ promptTokenCount: count, candidatesTokenCount: count, thoughtsTokenCount: count });

const answerSchema = v.object({
  candidates: v.fallback(
    v.array(
      v.object({
        content: v.fallback(v.object({ parts: v.fallback(v.array(partSchema), []) }), { parts: [] }),
        finishReason: text,
        finishMessage: text,
      }),
    ),
    [],
  ),
  promptFeedback: v.fallback(v.optional(v.object({ blockReason: text })), undefined),
  usageMetadata: v.fallback(v.optional(usageSchema), undefined),
});

type Told = v.InferOutput<typeof answerSchema>;

function usageOf(told: Told['usageMetadata']): Usage {
  return told ? { input: told.promptTokenCount, output: told.candidatesTokenCount + told.thoughtsTokenCount } : {};
}

/** The last picture that is no draft of its thoughts, with the words beside it. */
function pictureIn({ candidates: [first], promptFeedback }: Told, { key }: Refuser): Pick<MadePictures, 'pictures'> {
  const parts =
    (first as Told['candidates'][number] | undefined)?.content.parts.filter(({ thought }) => !thought) ?? [];
  const words = parts
    .flatMap((part) => part.text ?? [])
    .join('')
    .trim();
  const picture = parts.findLast(({ inlineData }) => inlineData !== undefined)?.inlineData;
  if (!picture) {
    const reason = promptFeedback?.blockReason ?? (first as Told['candidates'][number] | undefined)?.finishReason ?? '';
    throw noPicture(
      reason,
      quoted((first as Told['candidates'][number] | undefined)?.finishMessage ?? words, key),
      promptFeedback?.blockReason !== undefined,
    );
  }
  return { pictures: [{ file: fileOf(picture.data), says: words === '' ? {} : { text: words } }] };
}

/** @param isAsked whether what was asked was refused, before anything was made */
function noPicture(reason: string, words: string, isAsked: boolean): StudioError {
  const refused = (sentence: string) => new StudioError('invalid_operation', sentence);
  const failed = (sentence: string) => new StudioError('result_invalid', sentence, { retry: 'same' });
  if (isAsked) {
    return refused(
      `${NAME} does not take these words or pictures (${reason || 'OTHER'}); say it in other words, or leave a picture out.`,
    );
  }
  switch (reason) {
    case 'SAFETY':
    case 'IMAGE_SAFETY':
      return failed(
        `${NAME} made a picture and held it back as unsafe (${words}); say it in other words, or try again.`,
      );
    case 'PROHIBITED_CONTENT':
    case 'IMAGE_PROHIBITED_CONTENT':
      return refused(`${NAME} is not allowed to make this (${words}); ask for something else.`);
    case 'RECITATION':
    case 'IMAGE_RECITATION':
      return failed(
        `${NAME} held its picture back as too much like one that exists (${words}); say it in other words.`,
      );
    case 'MAX_TOKENS':
      return failed(`${NAME} used all of its tokens before there was a picture; ask for less, or try again.`);
    case 'NO_IMAGE':
    case 'STOP':
      return failed(`${NAME} answered without a picture (${words}); say that you want one, or try again.`);
    default:
      return failed(`${NAME} made no picture and does not say more than ${reason || 'OTHER'} (${words}); try again.`);
  }
}

const errorSchema = v.object({
  error: v.object({
    status: v.fallback(v.string(), ''),
    details: v.fallback(v.array(v.object({ reason: text, retryDelay: text })), []),
  }),
});

function refusalOf(said: Said, refuser: Refuser, body: unknown): Refusal {
  const parsed = v.safeParse(errorSchema, body);
  const { details } = parsed.success ? parsed.output.error : { details: [] };
  const { name, address, key } = refuser;
  if (
    details.some(({ reason }) => reason === 'API_KEY_INVALID') ||
    /API key not valid|API key expired/i.test(said.message)
  ) {
    return usualRefusal({ ...said, status: 401 }, refuser);
  }
  if (said.status === 429) {
    const delay = details.flatMap(({ retryDelay }) => retryDelay ?? []).map((one) => 1000 * Number.parseFloat(one));
    // Of a model that a key has no quota for nothing says when to come back.
    return delay.length === 0 && /quota/i.test(said.message)
      ? usualRefusal({ ...said, status: 402 }, refuser)
      : { ...usualRefusal(said, refuser), ...(delay.length > 0 ? { after: delay[0] } : {}) };
  }
  if (said.status === 404) {
    return {
      error: new StudioError(
        'invalid_operation',
        `${name} at ${address} has no such model, or no longer (${quoted(said.message, key)}); choose another one under "Engines", where "Look again" lists them.`,
      ),
      isBusy: false,
    };
  }
  return usualRefusal(said, refuser);
}

const modelsSchema = v.object({ models: v.array(v.object({ name: v.string() })) });

function probe(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe> {
  return probeService(server, surroundings, {
    name: NAME,
    path: '/models?pageSize=1000',
    authorize,
    modelsIn: (body) => {
      const result = v.safeParse(modelsSchema, body);
      const ids = result.success ? result.output.models.map(({ name }) => name.replace(/^models\//, '')) : null;
      return ids && ids.filter((id) => /image|banana/i.test(id));
    },
    refusalOf: (said, refuser) => refusalOf(said, refuser, undefined),
  });
}
