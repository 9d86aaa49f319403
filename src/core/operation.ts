/**
 * The operation: what somebody asks for. The same JSON object from the page, the command line and every later door.
 */
import * as v from 'valibot';
import { StudioError } from './errors.ts';

export const OPERATION_KINDS = ['image_generation', 'image_transform', 'image_inpaint'] as const;
export type OperationKind = (typeof OPERATION_KINDS)[number];

/** Things beside the result that a caller can ask to have recorded. */
export const RECORDABLE = ['latents'] as const;
export type Recordable = (typeof RECORDABLE)[number];

const operationSchema = v.strictObject({
  operation: v.picklist(
    OPERATION_KINDS,
    ({ received }) => `operation must be one of ${OPERATION_KINDS.join(', ')}; it is ${received}.`,
  ),
  config: v.pipe(
    v.string('config must be the name of a config, such as "stable_diffusion".'),
    v.nonEmpty('config must not be empty.'),
  ),
  parameters: v.record(v.string(), v.unknown(), 'parameters must be an object.'),
  priority: v.optional(v.picklist(['high', 'normal', 'low'], 'priority must be high, normal or low.'), 'normal'),
  checkpoint: v.optional(v.nullable(v.string('checkpoint must be a checkpoint reference or null.')), null),
  record: v.optional(v.array(v.picklist(RECORDABLE, `record may contain: ${RECORDABLE.join(', ')}.`)), () => []),
});

/** An operation whose envelope is valid; its `parameters` are checked by the chunk that runs them. */
export type Operation = v.InferOutput<typeof operationSchema>;
export type OperationInput = v.InferInput<typeof operationSchema>;

/**
 * The schema gate for operations from outside.
 * @throws StudioError `invalid_operation`, naming the field at fault.
 */
export function parseOperation(value: unknown): Operation {
  return parse(operationSchema, value, 'The operation');
}

/**
 * Parses `value`, or throws one sentence about the first thing that is wrong.
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
