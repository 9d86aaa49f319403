/**
 * The operation: what somebody asks for. The same JSON object comes from the page, the command line and every other door.
 */
import * as v from 'valibot';
import { StudioError } from './errors.ts';
import { fileFacts, isBlob, isFile } from './parameters.ts';

/** What a caller can have recorded beside the result. */
export const RECORDABLE = ['latents'] as const;
export type Recordable = (typeof RECORDABLE)[number];

const KIND = 'operation must be the name of a kind of operation, such as "image_generation".';

/** The envelope only: the chunks judge `parameters`, and the catalogue knows which kinds of operations exist. */
export const operationSchema = v.strictObject({
  operation: v.pipe(v.string(KIND), v.regex(/^[a-z][a-z0-9_]*$/, KIND)),
  config: v.pipe(
    v.string('config must be the name of a config, such as "stable_diffusion".'),
    v.nonEmpty('config must not be empty.'),
  ),
  parameters: v.record(v.string(), v.unknown(), 'parameters must be an object.'),
  priority: v.optional(v.picklist(['high', 'normal', 'low'], 'priority must be high, normal or low.'), 'normal'),
  checkpoint: v.optional(v.nullable(v.string('checkpoint must be a checkpoint reference or null.')), null),
  record: v.optional(v.array(v.picklist(RECORDABLE, `record may contain: ${RECORDABLE.join(', ')}.`)), () => []),
  /** Refs by step, for steps that run a different checkpoint or language model than `checkpoint`. */
  checkpoints: v.exactOptional(
    v.record(v.string(), v.string(), 'checkpoints must be an object that names one by the id of its step.'),
  ),
  /** Outputs by step that already exist, such as edited text; those steps are not run. */
  given: v.exactOptional(
    v.record(
      v.string(),
      v.record(v.string(), v.unknown(), 'given must hold, by the id of a step, an object of its outputs.'),
      'given must be an object of outputs by the id of their step.',
    ),
  ),
  /** The last step to run; absent = all of them. */
  until: v.exactOptional(v.string('until must be the id of a step.')),
});

/** An operation with a valid envelope; the chunk that runs it checks `parameters`. */
export type Operation = v.InferOutput<typeof operationSchema>;
export type OperationInput = v.InferInput<typeof operationSchema>;

/**
 * Validates operations from outside.
 * @throws StudioError `invalid_operation`, naming the field at fault.
 */
export function parseOperation(value: unknown): Operation {
  // Valibot takes a list for an object.
  if (Array.isArray((value as { parameters?: unknown } | null | undefined)?.parameters)) {
    throw new StudioError('invalid_operation', 'parameters must be an object.');
  }
  const operation = parse(operationSchema, value, 'The operation');
  const values = [...Object.entries(operation.parameters), ...Object.entries(operation.given ?? {})];
  for (const [name, value] of values) {
    if (!isPlain(value, new Set(), 0)) {
      throw new StudioError(
        'invalid_operation',
        `The parameter "${name}" must be plain data: text, numbers, true, false, null, lists and objects of these, or a picture.`,
      );
    }
  }
  return operation;
}

/** Whether it is a plain object; objects from a frame have a different Object.prototype. */
function isRecord(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Deepest nesting of parameters; nothing legitimate is deeper. */
const DEEPEST = 32;

/**
 * Whether JSON can hold it, apart from pictures. A job is stored, sent through every door and recorded; one that cannot be would block all
 * the others. Anything `seen` twice is circular.
 */
function isPlain(value: unknown, seen: Set<object>, depth: number): boolean {
  if (typeof value !== 'object' || value === null) {
    return typeof value !== 'function' && typeof value !== 'symbol' && typeof value !== 'bigint';
  }
  if (isBlob(value)) {
    return true;
  }
  if (seen.has(value) || depth > DEEPEST || !(Array.isArray(value) || isRecord(value))) {
    return false;
  }
  seen.add(value);
  return Object.values(value).every((inner) => isPlain(inner, seen, depth + 1));
}

/**
 * Parses `value`, or throws one sentence about the first problem.
 * @throws StudioError `invalid_operation`
 */
export function parse<S extends v.GenericSchema>(schema: S, value: unknown, subject: string): v.InferOutput<S> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) {
    return result.output;
  }
  const issue = result.issues[0];
  const path = v.getDotPath(issue);
  const isSentence = issue.message.endsWith('.');
  let message = isSentence ? issue.message : `${subject} is not valid: ${issue.message}.`;
  if (issue.type === 'strict_object') {
    message =
      issue.expected === 'never'
        ? `${subject} has an unknown field "${path ?? ''}"; remove it or check its spelling.`
        : `${subject} lacks the field "${path ?? ''}".`;
    if (path === null) {
      message = `${subject} must be a JSON object.`;
    }
  }
  throw new StudioError('invalid_operation', message);
}

/** The operation as JSON, with only type and size in place of pictures and other files. */
export function withoutPictures(operation: Operation): Operation {
  return {
    ...operation,
    parameters: told(operation.parameters),
    ...(operation.given === undefined
      ? {}
      : {
          given: Object.fromEntries(Object.entries(operation.given).map(([step, outputs]) => [step, told(outputs)])),
        }),
  };
}

/** Whether the operation contains pictures or other files, which its JSON form leaves out. */
export function holdsFiles({ parameters, given = {} }: Operation): boolean {
  return [parameters, ...Object.values(given)].some((values) => Object.values(values).flat().some(isFile));
}

function told(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.map((one: unknown) => fileFacts(one) ?? one) : (fileFacts(value) ?? value),
    ]),
  );
}
