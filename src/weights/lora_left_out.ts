/** What of a LoRA's file is not used, and why: in sentences for people. */

/** A layer's change, or another tensor of the file, that is not used. */
export interface LeftOut {
  /** As the file calls it; a layer of another size as the checkpoint does. */
  name: string;
  reason: Reason;
  /** What belongs to the reason: shapes, a kind, a number format. */
  detail: string;
}

export type Reason =
  'elsewhere' | 'unnamed' | 'size' | 'type' | 'kind' | 'part' | 'twice' | 'alpha' | 'embedding' | 'scales' | 'unknown';

const OTHER_MODEL = 'choose a LoRA that was made for this kind of model';

/** What is said where other layers are used, and where nothing is. */
const SENTENCES: Record<Reason, { aside: (detail: string) => string; refusal: (left: LeftOut) => string }> = {
  elsewhere: {
    aside: () => 'not in this checkpoint',
    refusal: ({ name }) => `changes "${name}", which this checkpoint does not have; ${OTHER_MODEL}`,
  },
  unnamed: {
    aside: () => 'a name that Darkroom does not know',
    refusal: ({ name }) =>
      `names its layers in a way that Darkroom does not know, such as "${name}"; get it in the form of kohya or diffusers`,
  },
  size: {
    aside: () => 'of another size in this checkpoint',
    refusal: ({ name, detail }) => `changes "${name}" by ${detail} there; ${OTHER_MODEL}`,
  },
  type: {
    aside: (type) => `stored as ${type}, which Darkroom cannot read`,
    refusal: ({ detail }) => `is stored as ${detail}, which Darkroom cannot read; get it in F16, BF16 or F32`,
  },
  kind: {
    aside: (kind) => `${kind}, which Darkroom cannot apply`,
    refusal: ({ detail }) => `is of a kind that Darkroom cannot apply (${detail}); use a plain LoRA`,
  },
  part: {
    aside: () => 'incomplete in the file',
    refusal: ({ name }) => `has only part of its change of "${name}"; get it again`,
  },
  twice: {
    aside: () => 'in the file a second time',
    refusal: ({ name }) => `changes "${name}" twice; get it again`,
  },
  alpha: {
    aside: () => 'an alpha that is not one number',
    refusal: ({ name }) => `has an alpha for "${name}" that is not one number; get it again`,
  },
  embedding: {
    aside: () => 'an embedding, which Darkroom cannot use yet',
    refusal: ({ name }) => `holds an embedding ("${name}") and no layers; use a plain LoRA`,
  },
  scales: {
    aside: () => 'its own scales, which cannot be read',
    refusal: () => 'has no layers; get it again',
  },
  unknown: {
    aside: () => 'no part of a LoRA that Darkroom knows',
    refusal: ({ name }) => `has a tensor "${name}", of a kind that Darkroom cannot apply; use a plain LoRA`,
  },
};

/** Names in one sentence are at most this many per reason. */
const NAMED = 2;

/**
 * What of a LoRA is not used, as sentences for people; null where all of it is.
 * @param used how many layers are changed
 * @param file its name
 */
export function sentencesOf(leftOut: readonly LeftOut[], used: number, file: string): string | null {
  if (leftOut.length === 0) {
    return null;
  }
  const asides = new Map<string, string[]>();
  for (const { name, reason, detail } of leftOut) {
    const aside = SENTENCES[reason].aside(detail);
    asides.set(aside, [...(asides.get(aside) ?? []), name]);
  }
  const sentences = [...asides].map(([aside, names]) => {
    const first = names.slice(0, NAMED).map((name) => `"${name}"`);
    const list = names.length > NAMED ? `${first.join(', ')} and ${names.length - NAMED} more` : first.join(', ');
    return `The LoRA ${file} is used without ${list} (${aside}).`;
  });
  const misfits = leftOut.filter(({ reason }) => reason === 'elsewhere' || reason === 'size').length;
  if (misfits > used) {
    sentences.push('Most of it does not fit this checkpoint, so it was probably made for another kind of model.');
  }
  return sentences.join(' ');
}

/** Why nothing of a file is used, as the end of a sentence about it: the most frequent reason counts. */
export function refusalOf(leftOut: readonly LeftOut[]): string {
  const [left] = mostOften(leftOut);
  return left ? SENTENCES[left.reason].refusal(left) : 'is empty; get it again';
}

/** Those of the most frequent reason, in order. */
function mostOften(leftOut: readonly LeftOut[]): LeftOut[] {
  return [...new Set(leftOut.map(({ reason }) => reason))]
    .map((reason) => leftOut.filter((left) => left.reason === reason))
    .reduce((most, some) => (some.length > most.length ? some : most), []);
}
