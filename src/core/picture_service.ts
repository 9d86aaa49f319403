/** Pictures made by a service behind an API: the chunk's request, the events meanwhile, and the result. */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs, StageDeclaration } from './chunk.ts';
import { assert } from './errors.ts';
import type { FieldMetadata } from './field.ts';
import { image, images, prompt } from './parameters.ts';
import { MadeFile, SENT, answerLost, wasSent } from './remote.ts';
import type { Usage } from './remote.ts';

/** What all services have in common; each adds settings of its own. */
export interface PictureRequest {
  prompt: string;
  /** Reference pictures, in order; none = from words alone. */
  images: Blob[];
  /** White = change, of the size of the first picture. */
  mask: Blob | undefined;
  /** Replaces the model chosen for the server. */
  model: string | undefined;
  /** The server's address; the first one entered by default. */
  server: string | undefined;
}

export interface PictureNews {
  /** The request is being sent; from here on, a second one may be charged too. */
  onSent: () => void;
  /** The request was refused: nothing was made or charged. */
  onRefused: () => void;
  /** The service is rate-limiting; the request is repeated in this many seconds. */
  onWaiting: (seconds: number) => void;
  /** Of all of it, 0 to 1. */
  onProgress: (share: number) => void;
  onPreview: (picture: Blob) => void;
  /** The address of the server that is asked. */
  onServer?: (server: string) => void;
  /** A server is too busy to begin, for this reason; another one is asked. */
  onHandedOn?: (reason: string) => void;
}

export interface MadePictures {
  /** Each with what the service says about it, such as its revised prompt. */
  pictures: { file: Blob; says?: Record<string, unknown> }[];
  /** The address. */
  server: string;
  /** Null if the server does not say. */
  model: string | null;
  usage: Usage;
}

/** The engine of a chunk that makes pictures this way. */
export interface PictureService<Request extends PictureRequest> {
  /** @throws StudioError in one sentence, what the service refused or why there is no picture */
  make(request: Request, news: PictureNews): Promise<MadePictures>;
}

/** Progress of a service is reported in hundredths. */
const HUNDREDTHS = 100;

export const PICTURE_STAGES = [
  { id: 'wait', label: { en: 'Waiting', de: 'Wartet' } },
  { id: 'sample', label: { en: 'Developing', de: 'Entwickelt' }, unit: 'steps' },
] as const satisfies readonly StageDeclaration[];

export const PICTURE_OUTPUTS = { images: { medium: 'image', many: true } } as const satisfies ChunkMeta['outputs'];

const MODEL = 'model must be the name of a model.';
const SERVER = 'server must be the address of a server that is entered.';
const main = { group: 'main' } satisfies FieldMetadata;

/** @param most the most pictures the service takes */
export const pictureFields = (most: number) => ({
  prompt: prompt('prompt'),
  images: v.optional(v.pipe(images('images', most), v.metadata(main))),
  model: v.optional(v.pipe(v.string(MODEL), v.nonEmpty(MODEL))),
  server: v.optional(v.pipe(v.string(SERVER), v.nonEmpty(SERVER))),
});

export const maskField = () => v.optional(image('mask_image'));

type Common = v.InferOutput<v.ObjectSchema<ReturnType<typeof pictureFields>, undefined>>;

/** The part of a request that all services take. */
export function commonRequest(
  { prompt: words, images: given = [], model, server }: Common,
  mask?: Blob | string,
): PictureRequest {
  return {
    prompt: words,
    images: given.map(asBlob),
    mask: mask === undefined ? undefined : asBlob(mask),
    model,
    server,
  };
}

/** Asks once, however often the job is restarted: a lost answer may have been charged. */
export async function makePictures<Request extends PictureRequest>(
  request: Request,
  { id }: { id: string },
  context: Context,
): Promise<Outputs> {
  if (wasSent(context.resume)) {
    throw answerLost();
  }
  context.progress('wait');
  const service = (await context.engine()) as PictureService<Request>;
  let done = 0;
  const { pictures, server, model, usage } = await service.make(request, {
    onSent: () => context.keep(SENT),
    onRefused: () => context.keep(null),
    onWaiting: (seconds) =>
      context.notice(`The service takes no more requests for now; it is asked again in ${seconds} s.`),
    onProgress: (share) => {
      done = Math.max(done, Math.round(HUNDREDTHS * share));
      context.progress('sample', done, HUNDREDTHS);
    },
    onPreview: context.develop,
    onServer: (address) => {
      context.place(address, 0);
    },
    onHandedOn: (reason) => {
      context.notice(`Another server goes on with it: ${reason}`);
    },
  });
  const origin = { engine: id, server, model, usage };
  return { images: pictures.map(({ file, says }) => new MadeFile(file, { made_by: { ...origin, ...says } })) };
}

/** The executor has read the files by then. */
function asBlob(source: Blob | string): Blob {
  assert(typeof source !== 'string', 'a picture is a file by now');
  return source;
}
