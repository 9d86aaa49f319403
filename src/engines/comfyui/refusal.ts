/** Sentences on why a server refused a graph, or could not finish it. */
import * as v from 'valibot';
import type { ComfyGraph } from '../../core/comfyui.ts';
import { StudioError } from '../../core/errors.ts';
import { ServerFailure } from './server_failure.ts';
import type { ExecutionError } from './socket_messages.ts';

const errorSchema = v.object({
  type: v.string(),
  message: v.fallback(v.string(), ''),
  details: v.fallback(v.string(), ''),
  extra_info: v.fallback(
    v.object({
      input_name: v.optional(v.string()),
      received_value: v.optional(v.unknown()),
      input_config: v.optional(v.unknown()),
    }),
    {},
  ),
});

const nodeErrorsSchema = v.record(
  v.string(),
  v.object({ errors: v.array(errorSchema), class_type: v.fallback(v.string(), '') }),
);

const refusalSchema = v.object({
  error: v.optional(
    v.union([
      v.string(),
      v.object({
        type: v.fallback(v.string(), ''),
        message: v.fallback(v.string(), ''),
        details: v.fallback(v.string(), ''),
      }),
    ]),
  ),
  node_errors: v.fallback(nodeErrorsSchema, {}),
});

type NodeError = v.InferOutput<typeof errorSchema>;

/**
 * What an answer to `POST /prompt` refuses; null if it accepts the whole graph. The server accepts a graph with one good output with
 * status 200 and silently drops the others: that counts as a refusal, too.
 */
export function refusalOf(status: number, answer: unknown, graph: ComfyGraph, server: string): StudioError | null {
  const result = v.safeParse(refusalSchema, answer);
  if (!result.success) {
    return status < 400 ? null : new ServerFailure('unable', 'origin_unavailable', otherStatus(status, server));
  }
  const { error, node_errors: nodes } = result.output;
  const sentences = Object.entries(nodes).flatMap(([id, { errors, class_type: type }]) =>
    errors.map((one) => nodeSentence(id, type, one, graph)),
  );
  if (sentences.length > 0) {
    return new StudioError(
      'invalid_operation',
      `${server} refuses the workflow: ${[...new Set(sentences)].join('; ')}.`,
    );
  }
  if (status < 400) {
    return null;
  }
  const words = typeof error === 'object' ? error.message || error.type : error;
  return new StudioError(
    'invalid_operation',
    `${server} refuses the workflow: ${(words || otherStatus(status, server)).replace(/\.$/, '')}.`,
  );
}

/** Why a response's status means failure. */
export function otherStatus(status: number, server: string): string {
  if (status === 401 || status === 403) {
    return `${server} does not let this page ask (${status}); check its key, and that it was started with --enable-cors-header.`;
  }
  return status === 413
    ? `${server} takes no request of this size; start it with a larger --max-upload-size, or use a smaller picture.`
    : `${server} answers with status ${status}; look at what it prints, then try again.`;
}

/** What happened to a job that the server aborted. */
export function failureOf(error: ExecutionError, graph: ComfyGraph, server: string): StudioError {
  const { exception_type: type, exception_message: message, node_id: id, node_type: nodeType } = error;
  const words = `${type ?? ''} ${message ?? ''}`;
  if (/OutOfMemory|out of memory|Allocation on device/i.test(words)) {
    return new ServerFailure(
      'unable',
      'out_of_memory',
      `${server} ran out of memory in the node ${nodeName(id ?? '', nodeType ?? '', graph)}; make it smaller, or free memory there.`,
      { cause: message },
    );
  }
  if (/No space left on device|ENOSPC/i.test(words)) {
    return new ServerFailure(
      'unable',
      'result_invalid',
      `${server} has no space left on its disk for what the node ${nodeName(id ?? '', nodeType ?? '', graph)} makes; free some there, then try again.`,
      { cause: message },
    );
  }
  const first = (message ?? '').trim().split('\n')[0].replace(/\.$/, '');
  return new StudioError(
    'result_invalid',
    `${server} failed in the node ${nodeName(id ?? '', nodeType ?? '', graph)}: ${first || type || 'it does not say why'}.`,
    { retry: 'same', cause: type },
  );
}

/** By somebody else, since nobody waits for a job cancelled here. */
export function interrupted(server: string): StudioError {
  return new StudioError('result_invalid', `Somebody stopped this job on ${server}; try again.`, { retry: 'same' });
}

function nodeSentence(id: string, type: string, error: NodeError, graph: ComfyGraph): string {
  const node = nodeName(id, type, graph);
  const { input_name: input, received_value: value } = error.extra_info;
  switch (error.type) {
    case 'required_input_missing':
      return `${node} lacks ${input ?? error.details}`;
    case 'value_not_in_list':
      return `${node} has no ${input ?? 'value'} "${String(value)}"`;
    case 'value_smaller_than_min':
    case 'value_bigger_than_max':
      return `${node}: ${input ?? ''} is ${String(value)}, ${limitOf(error)}`;
    default:
      return `${node}: ${(error.details || error.message || error.type).split('\n')[0]}`;
  }
}

function limitOf({ type, extra_info: { input_config: config } }: NodeError): string {
  const { min, max } = (Array.isArray(config) ? (config[1] as { min?: unknown; max?: unknown }) : {}) ?? {};
  return type === 'value_smaller_than_min' ? `below its least, ${String(min)}` : `above its most, ${String(max)}`;
}

function nodeName(id: string, type: string, graph: ComfyGraph): string {
  const node = Object.hasOwn(graph, id) ? graph[id] : undefined;
  return `"${node?._meta?.title ?? (type || node?.class_type || id)}"`;
}
