/** A file to record that is named by its address. */
import { StudioError } from '../core/errors.ts';

/**
 * @param fetch rejects if nothing answers
 * @returns its bytes, and what is told of where it was
 * @throws StudioError `invalid_operation` for other addresses than blob:, data:, http: and https:, `origin_unavailable` if it is not there
 */
export async function fileAt(
  url: string,
  fetch: (url: string) => Promise<Response>,
): Promise<{ blob: Blob; source: { source?: string } }> {
  const address = URL.canParse(url) ? new URL(url) : null;
  if (!address || !['blob:', 'data:', 'http:', 'https:'].includes(address.protocol)) {
    throw new StudioError('invalid_operation', 'The URL to save from must be a blob:, data:, http: or https: address.');
  }
  // A query string may contain a key.
  const source = address.protocol.startsWith('http') ? { source: `${address.origin}${address.pathname}` } : {};
  return { blob: await fetched(url, fetch), source };
}

async function fetched(url: string, fetch: (url: string) => Promise<Response>): Promise<Blob> {
  let response: Response;
  try {
    response = await fetch(url);
    if (response.ok) {
      return await response.blob();
    }
  } catch (cause) {
    throw new StudioError(
      'origin_unavailable',
      'What should be saved could not be fetched; check its address and the connection, then try again.',
      { retry: 'same', cause },
    );
  }
  throw new StudioError(
    'origin_unavailable',
    `What should be saved could not be fetched (the server answers ${response.status}); check its address.`,
  );
}
