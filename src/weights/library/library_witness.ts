/**
 * A second record of the library's content, outside its database. If the browser has thrown the database away, manifests are restored from
 * here as damaged: the person sees what is gone, Repair fetches it again, and any surviving pieces are kept.
 */
import * as v from 'valibot';
import type { StudioErrorData } from '../../core/errors.ts';
import type { Witness } from '../../storage/witness.ts';
import type { KeyValues } from './key_values.ts';
import { keyOf, parseLicenses, parseManifest } from './records.ts';
import type { Manifest } from './records.ts';

const SCHEMA_VERSION = 1;

const witnessSchema = v.object({
  schema_version: v.literal(SCHEMA_VERSION),
  manifests: v.array(v.unknown()),
  licenses: v.unknown(),
});

export class LibraryWitness {
  /** Resolves once lost manifests are restored; never rejects. */
  readonly restored: Promise<void>;
  readonly #witness: Witness;
  readonly #values: KeyValues;
  #isLooking = false;
  #isStale = false;

  constructor(witness: Witness, values: KeyValues) {
    this.#witness = witness;
    this.#values = values;
    this.restored = this.#restore().catch(() => undefined);
  }

  /** Records the database's current content. Nobody needs to wait for it. */
  look(): void {
    this.#isStale = true;
    if (!this.#isLooking) {
      void this.#lookWhileStale();
    }
  }

  /** Forgets a checkpoint that is about to be removed, so that it does not come back. */
  async dismiss(ref: string): Promise<void> {
    await this.#takeDown((manifest) => manifest.ref !== ref);
  }

  async #lookWhileStale(): Promise<void> {
    this.#isLooking = true;
    while (this.#isStale) {
      this.#isStale = false;
      await this.#takeDown(() => true).catch(() => undefined);
    }
    this.#isLooking = false;
  }

  async #takeDown(isKept: (manifest: Manifest) => boolean): Promise<void> {
    // Otherwise an emptied database would be recorded before it was noticed.
    await this.restored;
    const [licenses, ...values] = await this.#values.read([
      keyOf.licenses,
      ...(await this.#values.keys(keyOf.manifest(''))),
    ]);
    const manifests = values.map(parseManifest).filter((manifest) => manifest !== null);
    await this.#witness.write({
      schema_version: SCHEMA_VERSION,
      manifests: manifests.filter(isKept),
      licenses: parseLicenses(licenses),
    });
  }

  async #restore(): Promise<void> {
    const told = v.safeParse(witnessSchema, await this.#witness.read());
    if (!told.success) {
      return;
    }
    for (const value of told.output.manifests) {
      const manifest = parseManifest(value);
      if (manifest) {
        // Another tab may have stored it since it was read.
        await this.#values.update(keyOf.manifest(manifest.ref), (there) =>
          there === undefined
            ? { ...manifest, complete: false, damaged: true, error: lostBecause(manifest) }
            : undefined,
        );
      }
    }
    const licenses = parseLicenses(told.output.licenses);
    await this.#values.update(keyOf.licenses, (there) => {
      const known = parseLicenses(there);
      return licenses.every((ref) => known.includes(ref)) ? undefined : [...new Set([...known, ...licenses])];
    });
  }
}

function lostBecause({ origin }: Manifest): StudioErrorData {
  const lost = 'The browser has lost what was stored of it, which can happen when it is killed';
  return {
    code: 'checkpoint_damaged',
    message: `${lost}; ${origin.kind === 'import' ? 'read its file or folder in again' : 'Repair fetches it again'}.`,
    retry: 'same',
  };
}
