import { StudioError } from '../../core/errors.ts';
import { secretOf } from '../../core/remote.ts';
import type { RemoteServer } from '../../core/remote.ts';

/** @throws StudioError `invalid_operation` if the key was forgotten, or was only kept for a page that is now closed */
export async function keyOf(server: RemoteServer, secret: (name: string) => Promise<string>): Promise<string> {
  try {
    return await secret(secretOf(server));
  } catch (cause) {
    throw new StudioError(
      'invalid_operation',
      `The key of ${server.address} is not here any more; enter it under "Engines", then try again.`,
      { cause },
    );
  }
}
