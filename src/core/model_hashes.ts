/** The hashes by which tools name the files of models in their recipes. */

/** Of one file, lower-case hex; what was not reckoned is not there. */
export interface ModelHashes {
  /** Of the whole file. Its first ten digits are AUTOMATIC1111's short hash and Civitai's AutoV2. */
  sha256?: string;
  /** SHA-256 of the tensors alone, without the header. Its first twelve digits are AUTOMATIC1111's LoRA hash and Civitai's AutoV3. */
  tensors?: string;
  /** BLAKE3 of the whole file: InvokeAI's hash. */
  blake3?: string;
  /** The first eight digits of the SHA-256 of 64 KiB from the second MiB on: AUTOMATIC1111's hash until 2022, Civitai's AutoV1. */
  old?: string;
}

/**
 * Whether a recipe's hash is one of a file's.
 * @param hash as the tool wrote it, such as "6ce0161689", "0x…", "sha256:…" or "blake3:…"
 * @returns null where that cannot be told: a hash of another kind, such as InvokeAI's "random:", or one that was not computed
 */
export function isHashOf(hash: string, { sha256, tensors, blake3, old }: ModelHashes): boolean | null {
  const [, kind = '', digits = ''] = /^(?:0x|(sha256|blake3\w*):)?([0-9a-f]+)$/.exec(hash.trim().toLowerCase()) ?? [];
  const candidates =
    kind === 'sha256' || digits.length === 10
      ? [sha256]
      : kind.startsWith('blake3')
        ? [blake3]
        : digits.length === 8
          ? [old]
          : digits.length === 12
            ? [tensors, sha256]
            : digits.length === 64
              ? [sha256, blake3, tensors]
              : [];
  const known = candidates.filter((one) => one !== undefined);
  return (
    known.some((one) => one.startsWith(digits)) ||
    (known.length < candidates.length || known.length === 0 ? null : false)
  );
}

/** Whether only a file that is read as a whole says if the hash is its own, while its SHA-256 is mostly known. */
export function wantsReading(hash: string): boolean {
  return isHashOf(hash, { sha256: '' }) === null && !/^random:/i.test(hash) && /[0-9a-f]{8}/i.test(hash);
}
