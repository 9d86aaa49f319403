/** ComfyUI's websocket messages. Anything unknown or malformed becomes null, since nodes may send messages of their own. */
import * as v from 'valibot';

const nodeState = v.object({ value: v.number(), max: v.number(), state: v.string() });
const id = v.string();

const schema = v.variant('type', [
  v.object({
    type: v.literal('status'),
    data: v.object({ status: v.object({ exec_info: v.object({ queue_remaining: v.number() }) }) }),
  }),
  v.object({ type: v.literal('execution_start'), data: v.object({ prompt_id: id }) }),
  v.object({ type: v.literal('execution_cached'), data: v.object({ prompt_id: id, nodes: v.array(v.string()) }) }),
  v.object({
    type: v.literal('executing'),
    // The server omits the job's id when it repeats this after a reconnect.
    data: v.object({ prompt_id: v.optional(id), node: v.nullable(v.string()) }),
  }),
  v.object({
    type: v.literal('progress_state'),
    data: v.object({ prompt_id: id, nodes: v.record(v.string(), nodeState) }),
  }),
  v.object({
    type: v.literal('progress'),
    data: v.object({
      prompt_id: v.optional(v.nullable(id)),
      node: v.optional(v.nullable(v.string())),
      value: v.number(),
      max: v.number(),
    }),
  }),
  v.object({ type: v.literal('executed'), data: v.object({ prompt_id: id, node: v.string(), output: v.unknown() }) }),
  v.object({ type: v.literal('execution_success'), data: v.object({ prompt_id: id }) }),
  v.object({ type: v.literal('execution_interrupted'), data: v.object({ prompt_id: id }) }),
  v.object({
    type: v.literal('execution_error'),
    data: v.object({
      prompt_id: id,
      node_id: v.nullish(v.string(), ''),
      node_type: v.nullish(v.string(), ''),
      exception_message: v.nullish(v.string(), ''),
      exception_type: v.nullish(v.string(), ''),
    }),
  }),
]);

export type SocketMessage = v.InferOutput<typeof schema>;
export type ExecutionError = Extract<SocketMessage, { type: 'execution_error' }>['data'];

export function readMessage(text: string): SocketMessage | null {
  try {
    const result = v.safeParse(schema, JSON.parse(text));
    return result.success ? result.output : null;
  } catch {
    return null;
  }
}

/** A failure as found in the history and in `/api/jobs`. */
export function readExecutionError(data: unknown): ExecutionError | null {
  const result = v.safeParse(schema, { type: 'execution_error', data });
  return result.success && result.output.type === 'execution_error' ? result.output.data : null;
}

/** A picture from the socket. */
export interface SocketPicture {
  picture: Blob;
  /** Its node; null in the older format, which implies the running node. */
  of: { node: string; promptId: string } | null;
}

const metadataSchema = v.object({
  node_id: v.nullish(v.string(), ''),
  prompt_id: v.nullish(v.string(), ''),
  image_type: v.fallback(v.picklist(['image/png', 'image/jpeg', 'image/webp']), 'image/jpeg'),
});

/** Events 1 and 4 of the binary messages. All numbers are big-endian, 32 bits. */
export function readPicture(bytes: ArrayBuffer): SocketPicture | null {
  const view = new DataView(bytes);
  if (bytes.byteLength < 8) {
    return null;
  }
  const [event, second] = [view.getUint32(0), view.getUint32(4)];
  if (event === 1) {
    return { picture: new Blob([bytes.slice(8)], { type: second === 2 ? 'image/png' : 'image/jpeg' }), of: null };
  }
  if (event !== 4 || 8 + second > bytes.byteLength) {
    return null;
  }
  try {
    const json: unknown = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, second)));
    const { node_id: node, prompt_id: promptId, image_type: type } = v.parse(metadataSchema, json);
    return {
      picture: new Blob([bytes.slice(8 + second)], { type }),
      of: { node: node ?? '', promptId: promptId ?? '' },
    };
  } catch {
    return null;
  }
}
