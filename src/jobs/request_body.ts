/** The body of an HTTP request: an operation with its pictures, or JSON; and refusing a request. */

/** The most bytes of a request's body, including pictures. */
export const MAX_BODY_BYTES = 64 * 2 ** 20;

/** Thrown to answer with this instead. */
export class Refusal extends Error {
  readonly status: number;
  readonly headers: Record<string, string>;

  constructor(status: number, sentence: string, headers: Record<string, string> = {}) {
    super(sentence);
    this.status = status;
    this.headers = headers;
  }
}

/**
 * An operation as JSON, or as a form with its pictures; not yet validated.
 * @throws Refusal
 */
export async function readOperation(request: Request): Promise<unknown> {
  const type = mediaType(request);
  if (type === 'application/json') {
    return readJson(request);
  }
  if (type !== 'multipart/form-data') {
    throw new Refusal(415, 'An operation comes as application/json or as multipart/form-data; set the Content-Type.');
  }
  const form = await readForm(request);
  const given = form.getAll('operation');
  if (given.length !== 1) {
    throw new Refusal(400, 'The form must have one field "operation" that holds the operation as JSON.');
  }
  const operation = parseJson(typeof given[0] === 'string' ? given[0] : await textOf(given[0]));
  const parameters = isRecord(operation) && isRecord(operation.parameters) ? operation.parameters : {};
  for (const [name, value] of form) {
    if (name === 'operation') {
      continue;
    }
    if (typeof value === 'string') {
      throw new Refusal(400, `The form's field "${name}" is text; put it into the parameters of the operation.`);
    }
    if (Object.hasOwn(parameters, name)) {
      throw new Refusal(400, `The parameter "${name}" is given twice; leave one of the two out.`);
    }
    Object.defineProperty(parameters, name, { value, enumerable: true, writable: true, configurable: true });
  }
  return operation;
}

/** @throws Refusal */
export async function readJson(request: Request): Promise<unknown> {
  if (mediaType(request) !== 'application/json') {
    throw new Refusal(415, 'This comes as JSON; set the Content-Type to application/json.');
  }
  return parseJson(await textOf(await readBody(request)));
}

async function readForm(request: Request): Promise<FormData> {
  const type = request.headers.get('Content-Type') ?? '';
  const body = await readBody(request);
  try {
    return await new Response(body, { headers: { 'Content-Type': type } }).formData();
  } catch {
    throw new Refusal(400, 'The form cannot be read; send it as a browser sends a FormData object.');
  }
}

async function readBody(request: Request): Promise<Blob> {
  const tooLarge = new Refusal(
    413,
    `The request is larger than ${MAX_BODY_BYTES / 2 ** 20} MiB; send smaller pictures.`,
  );
  if (Number(request.headers.get('Content-Length')) > MAX_BODY_BYTES) {
    throw tooLarge;
  }
  const body = await request.blob();
  if (body.size > MAX_BODY_BYTES) {
    throw tooLarge;
  }
  return body;
}

async function textOf(body: Blob): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await body.arrayBuffer());
  } catch {
    throw new Refusal(400, 'The request is not text in UTF-8.');
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new Refusal(400, 'The request is not JSON.');
  }
}

function mediaType(request: Request): string {
  return (request.headers.get('Content-Type') ?? '').split(';')[0].trim().toLowerCase();
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
