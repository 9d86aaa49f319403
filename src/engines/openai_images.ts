/** OpenAI's image routes, and servers that speak like them, such as stable-diffusion.cpp. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { MadePictures, PictureRequest, PictureService } from '../core/picture_service.ts';
import type { Probe, RemoteServer } from '../core/remote.ts';
import type { EngineSurroundings, ProbeSurroundings, RemoteEngine } from './engine.ts';
import { transparentMask } from './http/mask.ts';
import { readPictures } from './http/pictures.ts';
import { probeService } from './http/probe.ts';
import { quoted, saidIn, usualRefusal } from './http/refusal.ts';
import type { Refusal, Refuser, Said } from './http/refusal.ts';
import { jsonOf } from './http/server_calls.ts';
import { beginAsking, postJson, whole } from './http/service.ts';
import type { ServiceMeans } from './http/service.ts';
import { onServer } from './http/service_pool.ts';
import type { Look } from './http/service_pool.ts';
import usualModels from './usual_models.json';

const NAME = 'The image service';
const ADDRESS = 'https://api.openai.com/v1';

/** Values of the service's own parameters, by their names there. */
export interface OpenAiImagesRequest extends PictureRequest {
  n: number;
  /** Drafts to show, each at a small charge. */
  partial_images: number;
  size?: string | undefined;
  quality?: string | undefined;
  background?: string | undefined;
  output_format?: string | undefined;
  output_compression?: number | undefined;
  moderation?: string | undefined;
}

export const engine: RemoteEngine = {
  id: 'openai_images',
  label: { en: 'OpenAI pictures', de: 'OpenAI-Bilder' },
  servers: {
    address: ADDRESS,
    leaves:
      'Your words and the pictures that you give go to this service, which charges your account and has its own rules for what it keeps.',
    key: 'required',
    settings: [{ id: 'model', label: { en: 'Model', de: 'Modell' }, usual: usualModels.openai_images }],
    variables: 'OPENAI',
  },
  probe,
  open: (surroundings) => Promise.resolve(openAiImages(surroundings)),
};

export interface OpenAiImagesMeans extends ServiceMeans {
  /** Node has no pictures. */
  transparentMask?: typeof transparentMask;
}

export function openAiImages(
  surroundings: EngineSurroundings,
  means: OpenAiImagesMeans = {},
): PictureService<OpenAiImagesRequest> {
  return {
    make: (request, news) => {
      const opening = { name: NAME, address: request.server, needsKey: isHosted };
      return onServer(opening, having(request.model), surroundings, means, news, async (service) => {
        const { calls, server } = service;
        const model = request.model ?? (server.settings.model || usualModels.openai_images);
        const refuser = { name: NAME, address: calls.address, key: calls.options.key };
        const { path, init } = await requestOf(request, model, means);
        const { response, stop } = await beginAsking(
          service,
          path,
          init,
          async (answer) => refusalOf(saidIn(answer.status, await jsonOf(answer)), refuser),
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
      });
    },
  };
}

/** Local servers may need no key. */
function isHosted(address: string): boolean {
  return address.startsWith('https:');
}

/** Of each picture, in bytes, as OpenAI has it. */
const LARGEST_PICTURE = 50 * 2 ** 20;

async function requestOf(
  request: OpenAiImagesRequest,
  model: string,
  means: OpenAiImagesMeans,
): Promise<{ path: string; init: () => RequestInit }> {
  const { prompt, images, mask, n, partial_images: drafts, moderation } = request;
  const { size, quality, background, output_format, output_compression } = request;
  // Several pictures come in one piece.
  const stream = n === 1 && drafts > 0 ? { stream: true, partial_images: drafts } : {};
  const all = { model, prompt, n, size, quality, background, output_format, output_compression, ...stream };
  const said = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  if (images.length === 0) {
    const body = moderation === undefined ? said : { ...said, moderation };
    return { path: '/images/generations', init: () => postJson(body) };
  }
  if (images.some((picture) => picture.size > LARGEST_PICTURE)) {
    throw new StudioError('invalid_operation', 'Each picture may have 50 MB at most; make them smaller.');
  }
  const form = new FormData();
  Object.entries(said).forEach(([name, value]) => form.append(name, String(value)));
  images.forEach((picture, at) => form.append('image[]', picture, `${at + 1}.${endingOf(picture)}`));
  if (mask) {
    form.append('mask', await (means.transparentMask ?? transparentMask)(mask, images[0]), 'mask.png');
  }
  // The browser writes its content type, with the boundary.
  return { path: '/images/edits', init: () => ({ method: 'POST', body: form }) };
}

function endingOf({ type }: Blob): string {
  return /^image\/(jpeg|webp)$/.exec(type)?.[1] ?? 'png';
}

function refusalOf(said: Said, refuser: Refuser): Refusal {
  const { name, address, key } = refuser;
  const refuse = (sentence: string) => ({ error: new StudioError('invalid_operation', sentence), isBusy: false });
  if (said.status === 403 && /verif/i.test(said.message)) {
    return refuse(
      `${name} at ${address} makes pictures for verified organizations only; have yours verified in its settings there, then try again.`,
    );
  }
  if (said.code === 'model_not_found' || (said.status === 404 && /model/i.test(said.message))) {
    return refuse(
      `${name} at ${address} has no such model, or no longer (${quoted(said.message, key)}); choose another one under "Engines", where "Look again" lists them.`,
    );
  }
  return usualRefusal(said, refuser);
}

const modelsSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

/** Of several servers, those that list a model come before those that do not. */
function having(model: string | undefined): Look {
  return {
    path: '/models',
    load: (body) => {
      const listed = v.safeParse(modelsSchema, body);
      const lacks = model !== undefined && listed.success && !listed.output.data.some(({ id }) => id === model);
      return lacks ? Infinity : 0;
    },
  };
}

function probe(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe> {
  return probeService(server, surroundings, {
    name: NAME,
    path: '/models',
    modelsIn: (body) => {
      const result = v.safeParse(modelsSchema, body);
      const ids = result.success ? result.output.data.map(({ id }) => id) : null;
      const pictures = ids?.filter((id) => /image|dall-e|flux|diffusion/i.test(id)) ?? [];
      return pictures.length > 0 ? pictures : ids;
    },
  });
}
