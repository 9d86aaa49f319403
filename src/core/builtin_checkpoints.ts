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

const SCENES =
  'Things: apple, banana, strawberry, pear, carrot, mushroom, cake, ice cream, cat, dog, rabbit, bird, fish, frog, turtle, butterfly, duck, owl, ' +
  'pig, elephant, snail, penguin, whale, tree, flower, sun, moon, star, cloud, heart, house, castle, car, bus, boat, rocket, plane, balloon, ' +
  'ball, umbrella, key, book, cup, hat, bell, robot, snowman, gift. One to four of them, small or large, in red, orange, yellow, green, blue, ' +
  'purple, pink, brown, black, white or grey; left of, right of, above, below, on, under, next to, in front of or behind another thing; in the ' +
  'sky, at night, at sea, in a meadow, in the desert, in the snow, in a room, or before a plain colour or a gradient; flat, outlined or softly ' +
  'shaded. In English and in German.';

/** The first one is open where nobody has chosen. */
export const BUILTIN_CHECKPOINTS: readonly [BuiltinCheckpoint, ...BuiltinCheckpoint[]] = [
  {
    id: 'scenes',
    name: 'Darkroom scenes',
    about:
      'A small one that paints 48 everyday things in simple scenes, and knows nothing else: no people, no photographs.',
    knows: SCENES,
  },
  {
    id: 'scenes-4-steps',
    name: 'Darkroom scenes, 4 steps',
    about: 'The same things in a fifth of the steps, for slow devices; it takes no negative prompt.',
    knows: SCENES,
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
  return `The checkpoint "${ref}" does not come with this version of Darkroom; those that do are ${refs}.`;
}
