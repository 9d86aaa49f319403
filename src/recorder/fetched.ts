/** Content from an address, to be recorded. */
import { StudioError } from '../core/errors.ts';

/**
 * @returns the content, and for http(s) the address it came from
 * @throws StudioError `invalid_operation` for an address of another kind, `origin_unavailable` if it does not answer
 */
export async function fetched(
  url: string,
  fetch: (url: string) => Promise<Response>,
): Promise<{ blob: Blob; source: string | null }> {
  const address = URL.canParse(url) ? new URL(url) : null;
  if (!address || !['blob:', 'data:', 'http:', 'https:'].includes(address.protocol)) {
    throw new StudioError('invalid_operation', 'The URL to save from must be a blob:, data:, http: or https: address.');
  }
  // A query string may contain a key.
  const source = address.protocol.startsWith('http') ? `${address.origin}${address.pathname}` : null;
  let response: Response;
  try {
    response = await fetch(url);
    if (response.ok) {
      return { blob: await response.blob(), source };
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
