/** The surroundings of the library in a browser's worker. */
import type { Channel, LibraryMessage, Locks, Network, StorageEstimate } from './surroundings.ts';

const CHANNEL = 'darkroom:library';

export function browserLocks(): Locks {
  return {
    hold: (name, signal, work) => navigator.locks.request(name, { signal }, work),
    held: async () => {
      const { held = [] } = await navigator.locks.query();
      return new Set(held.flatMap(({ name }) => (name === undefined ? [] : [name])));
    },
  };
}

export function browserChannel(): Channel {
  const channel = new BroadcastChannel(CHANNEL);
  return {
    post: (message) => channel.postMessage(message),
    listen: (listener) => {
      channel.addEventListener('message', ({ data }: MessageEvent<LibraryMessage>) => listener(data));
    },
  };
}

export const browserStorage: StorageEstimate = {
  estimate: () => navigator.storage.estimate(),
  persisted: () => navigator.storage.persisted(),
};

/** @param script this worker's own URL, whose response carries the worker's policy */
export function browserNetwork(script: string): Network {
  let refusals = 0;
  globalThis.addEventListener('securitypolicyviolation', () => refusals++);
  let policy: Promise<string[] | null> | null = null;
  return {
    fetch: (url, init) => fetch(url, init),
    isOnline: () => navigator.onLine,
    random: () => Math.random(),
    refusals: () => refusals,
    allows: async (url) => {
      policy ??= connectSources(script);
      const sources = await policy;
      return sources === null || sources.some((source) => admits(source, url, new URL(script)));
    },
  };
}

/** The policy's `connect-src`; null if there is none, or if only a request can tell. */
async function connectSources(script: string): Promise<string[] | null> {
  try {
    const response = await fetch(script);
    void response.body?.cancel();
    const policy = response.headers.get('Content-Security-Policy');
    const directives = (policy ?? '').split(';').map((directive) => directive.trim().split(/\s+/));
    const connect =
      directives.find(([name]) => name === 'connect-src') ?? directives.find(([name]) => name === 'default-src');
    return connect?.slice(1) ?? null;
  } catch {
    return null;
  }
}

/** Whether a policy's source admits a URL: `'self'`, a scheme, or an origin, possibly with `*.`. */
export function admits(source: string, url: URL, own: URL): boolean {
  if (source === '*') {
    return url.protocol === 'https:' || url.protocol === own.protocol;
  }
  if (source === `'self'`) {
    return url.origin === own.origin;
  }
  if (/^[a-z]+:$/.test(source)) {
    return url.protocol === source;
  }
  const parts = /^(https?):\/\/(\*\.)?([^/:]+)(?::([0-9]+|\*))?\/?$/.exec(source);
  if (!parts) {
    return false;
  }
  const [, scheme, any, host, port] = parts;
  const isScheme = url.protocol === `${scheme}:` || (scheme === 'http' && url.protocol === 'https:');
  const isHost = any ? url.hostname.endsWith(`.${host}`) : url.hostname === host;
  const isPort = port === '*' || url.port === (port === undefined || isDefault(scheme, port) ? '' : port);
  return isScheme && isHost && isPort;
}

function isDefault(scheme: string, port: string): boolean {
  return port === (scheme === 'https' ? '443' : '80');
}
