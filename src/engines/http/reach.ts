/** Why a page cannot reach a server. The browser tells scripts only "failed", so the likely causes are checked in turn. */
import type { Probe } from '../../core/remote.ts';
import { isLoopback } from '../../core/remote.ts';
import type { ServerCalls } from './server_calls.ts';

interface Ask {
  /** What the server is called in sentences. */
  name: string;
  path: string;
  /** The command-line flag that lets this page in; null if there is none. */
  flag: string | null;
  /** What an unreadable answer means if there is no flag. */
  heldBack?: string;
  signal: AbortSignal;
}

/** In milliseconds. */
const WITHIN = 10_000;

export async function refusedByBrowser(
  { address, base }: Pick<ServerCalls, 'address' | 'base'>,
  { name, path, flag, heldBack, signal }: Ask,
): Promise<Probe> {
  if (blocked.has(new URL(base).origin)) {
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
  // An opaque answer proves that something is there.
  const isThere = await fetch(`${base}${path}`, {
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
      ? (heldBack ?? `${name} at ${address} does not let pages ask it.`)
      : `Nothing answers at ${address}; start ${name} there, or check host and port, then look again.`,
    ...(flag === null ? {} : { flag }),
  };
}

/** Origins blocked by this worker's policy. */
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
    // A browser without this permission does not ask.
    return null;
  }
}
