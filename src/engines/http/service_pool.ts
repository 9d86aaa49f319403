/**
 * Several servers of one service. A job goes to the least busy one that answers; one that is too busy to begin passes it on. What was accepted is
 * never passed on, as it may be charged for.
 */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { PictureNews } from '../../core/picture_service.ts';
import type { EngineSurroundings } from '../engine.ts';
import { jsonOf } from './server_calls.ts';
import { BusyServer, openService } from './service.ts';
import type { Opening, Service, ServiceMeans } from './service.ts';

/** How to tell a server's load; costs nothing. */
export interface Look {
  path: string;
  /** @returns jobs of others that run there; Infinity if it lacks what the request needs */
  load: (body: unknown) => number;
}

/** Our jobs on each server, by address. */
const ours = new Map<string, number>();

/** For a server to tell its load, in milliseconds. */
const WITHIN = 5000;

type Told = Pick<PictureNews, 'onServer' | 'onHandedOn'>;

/**
 * @param opening its address, if any, is the only server that is meant
 * @throws StudioError what `work` throws, or why no server can be asked
 */
export async function onServer<T>(
  opening: Opening,
  look: Look,
  surroundings: EngineSurroundings,
  means: ServiceMeans,
  news: Told,
  work: (service: Service) => Promise<T>,
): Promise<T> {
  const entered = (await surroundings.servers()).filter(({ address }) => address === (opening.address ?? address));
  if (entered.length < 2) {
    return counted(await openService(opening, surroundings, means), news, work);
  }
  const refusals: StudioError[] = [];
  const openings = entered.map(({ address }) => openService({ ...opening, address }, surroundings, means));
  let left = await settled(openings, refusals);
  for (;;) {
    const loads = await settled(
      left.map(async (service) => ({ service, load: await loadOf(service, look) })),
      refusals,
    );
    if (surroundings.signal.aborted) {
      throw cancelled();
    }
    const inOrder = loads
      .map(({ service, load }) => ({ service, load: load + (ours.get(service.calls.address) ?? 0) }))
      .sort((a, b) => a.load - b.load);
    const [best] = inOrder;
    if (!best) {
      // One that was left out has said why.
      throw refusals.at(-1) ?? cancelled();
    }
    try {
      return await counted({ ...best.service, isReplaceable: inOrder.length > 1 }, news, work);
    } catch (error) {
      if (!(error instanceof BusyServer)) {
        throw error;
      }
      left = inOrder.map(({ service }) => service).filter((service) => service !== best.service);
      news.onHandedOn?.(error.message);
    }
  }
}

async function counted<T>(service: Service, news: Told, work: (service: Service) => Promise<T>): Promise<T> {
  const { address } = service.calls;
  ours.set(address, (ours.get(address) ?? 0) + 1);
  news.onServer?.(address);
  try {
    return await work(service);
  } finally {
    ours.set(address, (ours.get(address) ?? 1) - 1);
  }
}

/** @throws StudioError if it does not answer */
async function loadOf({ calls }: Service, { path, load }: Look): Promise<number> {
  return load(await jsonOf(await calls.ask(path, {}, WITHIN)));
}

async function settled<T>(promises: Promise<T>[], refusals: StudioError[]): Promise<T[]> {
  const results = await Promise.allSettled(promises);
  return results.flatMap((result) => {
    if (result.status === 'fulfilled') {
      return [result.value];
    }
    refusals.push(StudioError.from(result.reason));
    return [];
  });
}
