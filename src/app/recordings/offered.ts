/** Files brought to the recordings. */

/** A file the person brought and may want to keep. */
export interface Offered {
  /** Its bytes, or the address of a picture. */
  picture: Blob | string;
  name: string;
}

/** The pasted text, if it is the URL of something that can be fetched. */
export function offeredAddress(text: string): Offered | null {
  const address = URL.canParse(text.trim()) ? new URL(text.trim()) : null;
  if (!address || !['data:', 'http:', 'https:'].includes(address.protocol)) {
    return null;
  }
  const name = address.protocol === 'data:' ? '' : (address.pathname.split('/').at(-1) ?? '');
  return { picture: address.href, name: name || 'pasted picture' };
}
