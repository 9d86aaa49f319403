/** Pictures in the form of OpenAI's image routes, which others took over: in one piece, or as events with drafts before. */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { MadePictures, PictureNews } from '../../core/picture_service.ts';
import type { Usage } from '../../core/remote.ts';
import { fileOf } from './base64.ts';
import { dataOf, eventsOf } from './events.ts';
import { saidIn } from './refusal.ts';
import type { Refusal, Said } from './refusal.ts';
import { jsonOf } from './server_calls.ts';
import type { ServerCalls } from './server_calls.ts';

const pictureSchema = v.object({
  b64_json: v.fallback(v.nullish(v.string()), null),
  url: v.fallback(v.nullish(v.string()), null),
  revised_prompt: v.fallback(v.nullish(v.string()), null),
});
type Given = v.InferOutput<typeof pictureSchema>;

const usageSchema = v.object({
  input_tokens: v.fallback(v.optional(v.number()), undefined),
  output_tokens: v.fallback(v.optional(v.number()), undefined),
  prompt_tokens: v.fallback(v.optional(v.number()), undefined),
  completion_tokens: v.fallback(v.optional(v.number()), undefined),
  cost: v.fallback(v.optional(v.number()), undefined),
});

const answerSchema = v.object({ data: v.array(pictureSchema), usage: v.fallback(v.nullish(usageSchema), null) });

const eventSchema = v.object({
  type: v.string(),
  ...pictureSchema.entries,
  usage: v.fallback(v.nullish(usageSchema), null),
});

type Read = Pick<MadePictures, 'pictures' | 'usage'>;

/**
 * @param refusalOf what a failure means that is told in the middle of an answer
 * @throws StudioError `result_invalid` for an answer without a picture, what `refusalOf` says, and as `ServerCalls.pieces`
 */
export async function readPictures(
  calls: ServerCalls,
  response: Response,
  news: Pick<PictureNews, 'onPreview'>,
  refusalOf: (said: Said) => Refusal,
): Promise<Read> {
  const isStream = response.headers.get('content-type')?.includes('text/event-stream') ?? false;
  const { pictures, usage } = isStream
    ? await readEvents(calls, response, news, refusalOf)
    : await readAnswer(calls, response, refusalOf);
  const { name, address } = calls.options;
  if (pictures.length === 0) {
    throw new StudioError('result_invalid', `${name} at ${address} answers with no picture; try again.`, {
      retry: 'same',
    });
  }
  return { pictures: pictures.map((given) => pictureOf(given, name)), usage };
}

async function readAnswer(
  calls: ServerCalls,
  response: Response,
  refusalOf: (said: Said) => Refusal,
): Promise<{ pictures: Given[]; usage: Usage }> {
  const answer = await calls.read(response);
  const body = await jsonOf(answer);
  throwSaid(body, refusalOf);
  const result = v.safeParse(answerSchema, body);
  return result.success
    ? { pictures: result.output.data, usage: usageOf(result.output.usage) }
    : { pictures: [], usage: {} };
}

async function readEvents(
  calls: ServerCalls,
  response: Response,
  news: Pick<PictureNews, 'onPreview'>,
  refusalOf: (said: Said) => Refusal,
): Promise<{ pictures: Given[]; usage: Usage }> {
  const pictures: Given[] = [];
  let usage: Usage = {};
  for await (const event of eventsOf(calls, response)) {
    const data = dataOf(event);
    throwSaid(data, refusalOf);
    const result = v.safeParse(eventSchema, data);
    if (!result.success) {
      continue;
    }
    const { type, b64_json: base64 } = result.output;
    if (type.endsWith('.partial_image') && typeof base64 === 'string') {
      news.onPreview(fileOf(base64));
    } else if (type.endsWith('.completed')) {
      pictures.push(result.output);
      usage = usageOf(result.output.usage);
    }
  }
  return { pictures, usage };
}

/** A failure may come with any status, once an answer has begun. */
function throwSaid(data: unknown, refusalOf: (said: Said) => Refusal): void {
  if (typeof data !== 'object' || data === null) {
    return;
  }
  const isError = ('error' in data && data.error) || ('type' in data && data.type === 'error');
  if (isError) {
    const said = saidIn(500, data);
    throw refusalOf({ ...said, status: /^[45]\d\d$/.test(said.code) ? Number(said.code) : 500 }).error;
  }
}

function pictureOf({ b64_json: base64, url, revised_prompt: words }: Given, name: string): Read['pictures'][number] {
  const data = base64 ?? (url?.startsWith('data:') ? url : undefined);
  if (data === undefined) {
    // Whoever follows addresses out of an answer asks hosts that nobody entered.
    throw new StudioError(
      'result_invalid',
      `${name} answers with an address in place of a picture, which is not followed; set it to answer with base64.`,
    );
  }
  return { file: fileOf(data), ...(typeof words === 'string' ? { says: { revised_prompt: words } } : {}) };
}

function usageOf(told: v.InferOutput<typeof usageSchema> | null | undefined): Usage {
  const input = told?.input_tokens ?? told?.prompt_tokens;
  const output = told?.output_tokens ?? told?.completion_tokens;
  return {
    ...(input === undefined ? {} : { input }),
    ...(output === undefined ? {} : { output }),
    ...(told?.cost === undefined ? {} : { cost: told.cost }),
  };
}
