/** Signing in at a service to get a key (PKCE): the page navigates away and comes back with a code, which is exchanged for a key with a secret kept here. */
import * as v from 'valibot';
import type { RemoteServer, SignInProof } from '../../core/remote.ts';

const KEY = 'darkroom.signing_in';

const schema = v.object({ server: v.string(), verifier: v.string() });

/** Leaves the page. Queued jobs continue when it is back. */
export async function leaveToSignIn(server: RemoteServer, path: string): Promise<void> {
  const verifier = base64Url(crypto.getRandomValues(new Uint8Array(48)));
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(verifier)));
  // Belongs to this tab, and disappears with it.
  sessionStorage.setItem(KEY, JSON.stringify({ server: server.id, verifier }));
  const target = new URL(path, server.address);
  target.searchParams.set('callback_url', `${location.origin}${location.pathname}${location.search}`);
  target.searchParams.set('code_challenge', base64Url(hash));
  target.searchParams.set('code_challenge_method', 'S256');
  location.assign(target);
}

/** What this tab left for, returned once; null if it did not. */
export function backFromSigningIn(code: string | null): ({ server: string } & SignInProof) | null {
  const kept = sessionStorage.getItem(KEY);
  sessionStorage.removeItem(KEY);
  if (kept === null || code === null) {
    return null;
  }
  try {
    return { ...v.parse(schema, JSON.parse(kept)), code };
  } catch {
    return null;
  }
}

function base64Url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replace(/=+$/, '');
}
