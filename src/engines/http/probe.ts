/** What a service behind a key is: its models, or why it cannot be used. */
import { StudioError } from '../../core/errors.ts';
import type { Probe, RemoteServer } from '../../core/remote.ts';
import type { ProbeSurroundings } from '../engine.ts';
import { refusedByBrowser } from './reach.ts';
import { quoted, saidIn, usualRefusal } from './refusal.ts';
import type { Refusal, Refuser, Said } from './refusal.ts';
import { ServerCalls, jsonOf } from './server_calls.ts';
import type { CallOptions } from './server_calls.ts';

interface Question {
  name: string;
  /** Costs nothing, and wants the key. */
  path: string;
  authorize?: CallOptions['authorize'];
  /** Names of models that make pictures, or null where the answer is none of this service. */
  modelsIn: (body: unknown) => string[] | null;
  refusalOf?: (said: Said, refuser: Refuser) => Refusal;
}

/** In milliseconds. */
const WITHIN = 15_000;

export async function probeService(
  { address, through }: RemoteServer,
  { key, signal }: ProbeSurroundings,
  { name, path, authorize, modelsIn, refusalOf = usualRefusal }: Question,
): Promise<Probe> {
  const calls = new ServerCalls({ address, through, name, key, signal, authorize });
  try {
    const answer = await calls.ask(path, {}, WITHIN);
    const body = await jsonOf(answer);
    if (answer.status === 404) {
      return { isUp: false, sentence: `${name} is not at ${address}; look at the address and its path.` };
    }
    if (answer.status !== 200) {
      const { error } = refusalOf(saidIn(answer.status, body), { name, address, key });
      return { isUp: false, sentence: error.message };
    }
    const models = modelsIn(body);
    return models === null
      ? { isUp: false, sentence: `What answers at ${address} is not ${name}; look at the address.` }
      : { isUp: true, sentence: `${name} answers.`, models };
  } catch (error) {
    const { code, message } = StudioError.from(error);
    return code === 'origin_unavailable'
      ? refusedByBrowser(calls, {
          name,
          path,
          flag: null,
          heldBack: `${name} at ${address} answers, but not so that this page may read it; most often that is a wrong key, or a service that is down.`,
          signal,
        })
      : { isUp: false, sentence: quoted(message, key) };
  }
}
