/** Server-sent events of an answer to a POST, which `EventSource` cannot read. */
import { createParser } from 'eventsource-parser';
import type { EventSourceMessage } from 'eventsource-parser';
import type { ServerCalls } from './server_calls.ts';

/** In which a stream has to say something, in milliseconds: a server at home may load a model before it does. */
const TRICKLE = 10 * 60_000;

/**
 * Events in order. A line may have megabytes: a picture is one.
 * @throws StudioError as {@link ServerCalls.pieces}
 */
export async function* eventsOf(
  calls: ServerCalls,
  response: Response,
  trickle = TRICKLE,
): AsyncGenerator<EventSourceMessage> {
  const decoder = new TextDecoder();
  let events: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (event) => events.push(event) });
  for await (const piece of calls.pieces(response, trickle)) {
    parser.feed(decoder.decode(piece, { stream: true }));
    yield* events;
    events = [];
  }
  // A last event that nothing follows.
  parser.feed(`${decoder.decode()}\n\n`);
  yield* events;
}

/** What an event says, or undefined where it is no JSON, such as the `[DONE]` at the end. */
export function dataOf({ data }: EventSourceMessage): unknown {
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}
