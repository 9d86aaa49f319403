/** Why a server cannot be reached from a page. The browser tells scripts nothing but "failed", so the likely causes are checked in turn. */
import type { Probe } from '../../core/remote.ts';
import { isLoopback } from '../../core/remote.ts';

interface Ask {
  /** What the server is called in sentences. */
  name: string;
  path: string;
  /** What lets this page ask it, for a command line; null where nothing does. */
  flag: string | null;
  signal: AbortSignal;
}

/** In milliseconds. */
const WITHIN = 10_000;

export async function refusedByBrowser(address: string, { name, path, flag, signal }: Ask): Promise<Probe> {
  if (blocked.has(new URL(address).origin)) {
    return {
      isUp: false,
      sentence: `This page does not reach ${address} yet, because its host sends it no way there; reload the page once, then look again.`,
    };
  }
  const state = await permission(isLoopback(address) ? 'loopback-network' : 'local-network');
  if (state === 'denied') {
    return {
      isUp: false,
      sentence: `The browser does not let this page speak to devices nearby; allow it in the site's settings, beside the address bar, then look again.`,
    };
  }
  // An answer that may not be read proves that somebody is there.
  const isThere = await fetch(`${address}${path}`, {
    mode: 'no-cors',
    credentials: 'omit',
    cache: 'no-store',
    signal: AbortSignal.any([signal, AbortSignal.timeout(WITHIN)]),
  }).then(
    () => true,
    () => false,
  );
  if (isThere && flag !== null) {
    return {
      isUp: false,
      sentence: `${name} runs at ${address}, but does not let this page ask it; start it with this flag, then look again.`,
      flag,
    };
  }
  return {
    isUp: false,
    sentence: isThere
      ? `${name} at ${address} does not let pages ask it.`
      : `Nothing answers at ${address}; start ${name} there, or check host and port, then look again.`,
    ...(flag === null ? {} : { flag }),
  };
}

/** Origins that the policy of this worker kept it from. */
const blocked = new Set<string>();

// Node has no policies.
(globalThis as Partial<EventTarget>).addEventListener?.('securitypolicyviolation', (event) => {
  const { blockedURI } = event as SecurityPolicyViolationEvent;
  if (URL.canParse(blockedURI)) {
    blocked.add(new URL(blockedURI).origin);
  }
});

async function permission(name: string): Promise<PermissionState | null> {
  try {
    const { permissions } = globalThis.navigator;
    return (await permissions.query({ name: name as PermissionName })).state;
  } catch {
    // A browser without such a permission asks nobody.
    return null;
  }
}
