/**
 * The code a service adds to this page's URL after the person signed in there. It can be exchanged for a key once, so it is removed from
 * the URL before anything else happens, and stays in neither a copied URL nor the browser's history.
 */
let returned: string | null = null;

export function readReturnedCode(): void {
  const address = new URL(location.href);
  returned = address.searchParams.get('code');
  if (returned !== null) {
    address.searchParams.delete('code');
    address.hash = '#engines';
    history.replaceState(null, '', address);
  }
}

/** Null if nobody came back, and after the first call. */
export function takeReturnedCode(): string | null {
  const code = returned;
  returned = null;
  return code;
}
