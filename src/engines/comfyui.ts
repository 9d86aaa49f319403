/** ComfyUI servers, one or more. A graph goes to the least busy server that has what it needs; another takes over if that one dies. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Probe, RemoteServer } from '../core/remote.ts';
import { optionsOf } from './comfyui/needs_of_graph.ts';
import { ComfyPool, NAME } from './comfyui/pool.ts';
import { otherStatus } from './comfyui/refusal.ts';
import { infoOf } from './comfyui/server_judgement.ts';
import type { ProbeSurroundings, RemoteEngine } from './engine.ts';
import { refusedByBrowser } from './http/reach.ts';
import { ServerCalls, jsonOf } from './http/server_calls.ts';

export const engine: RemoteEngine = {
  id: 'comfyui',
  label: { en: 'ComfyUI', de: 'ComfyUI' },
  servers: {
    address: 'http://127.0.0.1:8188',
    leaves: 'Your words, settings and pictures go to this server; whoever can reach it sees them there.',
    key: 'optional',
    settings: [],
  },
  probe,
  survey: async (workflow, surroundings) => (await ComfyPool.open(surroundings)).survey(workflow),
  open: (surroundings) => ComfyPool.open(surroundings),
};

const statsSchema = v.object({
  system: v.object({ comfyui_version: v.optional(v.string()) }),
  devices: v.fallback(v.array(v.object({ name: v.string() })), []),
});

/** Timeout of a probe, in milliseconds. */
const PROBE_WITHIN = 15_000;

async function probe(server: RemoteServer, { key, origin, signal }: ProbeSurroundings): Promise<Probe> {
  const calls = new ServerCalls({ address: server.address, through: server.through, name: NAME, key, signal });
  const flag = ['--enable-cors-header', origin].join(' ');
  try {
    const answer = await calls.ask('/system_stats', {}, PROBE_WITHIN);
    if (answer.status !== 200) {
      return { isUp: false, sentence: otherStatus(answer.status, NAME), flag };
    }
    const stats = v.safeParse(statsSchema, await jsonOf(answer));
    if (!stats.success) {
      return { isUp: false, sentence: `What answers at ${server.address} is not ComfyUI; check host and port.` };
    }
    const { system, devices } = stats.output;
    if (system.comfyui_version === undefined) {
      return {
        isUp: false,
        sentence: 'This ComfyUI is too old: it does not say its version; update it, then look again.',
      };
    }
    const [device] = devices;
    const loader = await infoOf(calls, 'CheckpointLoaderSimple');
    return {
      isUp: true,
      sentence: `ComfyUI ${[system.comfyui_version, ...(device ? [`(${device.name})`] : [])].join(' ')} answers.`,
      models: (loader && optionsOf(loader, 'ckpt_name')) ?? [],
    };
  } catch (error) {
    const { code, message } = StudioError.from(error);
    return code === 'origin_unavailable'
      ? refusedByBrowser(calls, { name: NAME, path: '/system_stats', flag, signal })
      : { isUp: false, sentence: message };
  }
}
