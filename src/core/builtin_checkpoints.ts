/** The checkpoints that come with the page, in `public/checkpoints/`; `training/` made them. */

export interface BuiltinCheckpoint {
  /** Its folder. */
  id: string;
  /** As in its `manifest.json`. */
  name: string;
  /** What it is and what it is not, in one sentence. */
  about: string;
  /** The words that it was trained on, for people. */
  knows: string;
}

/** The first one is open where nobody has chosen. */
export const BUILTIN_CHECKPOINTS: readonly [BuiltinCheckpoint, ...BuiltinCheckpoint[]] = [
  {
    id: 'shapes',
    name: 'Darkroom shapes',
    about: 'A small one that draws one or two plain shapes, roughly, to try things out; it knows nothing else.',
    knows:
      'Circle, square, triangle, star, heart and diamond, in red, orange, yellow, green, blue, purple, black or white; big; left of, right of, ' +
      'above or below another one; on a background of one of these colours.',
  },
];

const REF = /^builtin:(.+)$/;

export const DEFAULT_CHECKPOINT = `builtin:${BUILTIN_CHECKPOINTS[0].id}`;

/** @returns null for a ref of another kind, and for one that does not come with this version */
export function builtinOf(ref: string): BuiltinCheckpoint | null {
  const id = REF.exec(ref)?.[1];
  return BUILTIN_CHECKPOINTS.find((one) => one.id === id) ?? null;
}

/** Whether the ref is one of a built-in checkpoint, be it of another version. */
export function isBuiltin(ref: string): boolean {
  return REF.test(ref);
}

/** What to say of a built-in checkpoint that this version does not have. */
export function goneSentence(ref: string): string {
  const refs = BUILTIN_CHECKPOINTS.map(({ id }) => `"builtin:${id}"`).join(' and ');
  return `The checkpoint "${ref}" does not come with this version of Darkroom; what does is ${refs}.`;
}
