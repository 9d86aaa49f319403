/** The checkpoints shipped with the page, in `public/checkpoints/`; `training/` trained or converted them. */

export interface BuiltinCheckpoint {
  /** Its folder. */
  id: string;
  /** The same as in its `manifest.json`. */
  name: string;
  /** One sentence on what it can and cannot do. */
  about: string;
  /** The words it was trained on, to show to people; empty for an upscaler. */
  knows: string;
  /** The value its summary has once it is opened. */
  pipelineClass: string;
  /** SPDX id. */
  license: string;
}

const SCENES =
  'Things: apple, banana, strawberry, pear, carrot, mushroom, cake, ice cream, cat, dog, rabbit, bird, fish, frog, turtle, butterfly, duck, owl, ' +
  'pig, elephant, snail, penguin, whale, tree, flower, sun, moon, star, cloud, heart, house, castle, car, bus, boat, rocket, plane, balloon, ' +
  'ball, umbrella, key, book, cup, hat, bell, robot, snowman, gift. One to four of them, small or large, in red, orange, yellow, green, blue, ' +
  'purple, pink, brown, black, white or grey; left of, right of, above, below, on, under, next to, in front of or behind another thing; in the ' +
  'sky, at night, at sea, in a meadow, in the desert, in the snow, in a room, or before a plain colour or a gradient; flat, outlined or softly ' +
  'shaded. In English and in German.';

const PAINTS = { pipelineClass: 'StableDiffusionPipeline', license: 'Apache-2.0' };

/** The ones that paint; the first is opened by default. */
export const BUILTIN_CHECKPOINTS: readonly [BuiltinCheckpoint, ...BuiltinCheckpoint[]] = [
  {
    id: 'scenes',
    name: 'Darkroom scenes',
    about:
      'A small one that paints 48 everyday things in simple scenes, and knows nothing else: no people, no photographs.',
    knows: SCENES,
    ...PAINTS,
  },
  {
    id: 'scenes-4-steps',
    name: 'Darkroom scenes, 4 steps',
    about: 'The same things in a fifth of the steps, for slow devices; it takes no negative prompt.',
    knows: SCENES,
    ...PAINTS,
  },
];

/** Enlarges pictures, whoever made them. */
export const BUILTIN_UPSCALER: BuiltinCheckpoint = {
  id: 'realesr-animevideov3',
  name: 'realesr-animevideov3',
  about:
    'Makes pictures up to four times as wide and high, with clean edges; made for drawn ones, so photographs lose their grain.',
  knows: '',
  pipelineClass: 'SRVGGNetCompact',
  license: 'BSD-3-Clause',
};

const ALL = [...BUILTIN_CHECKPOINTS, BUILTIN_UPSCALER];

const REF = /^builtin:(.+)$/;

export const DEFAULT_CHECKPOINT = `builtin:${BUILTIN_CHECKPOINTS[0].id}`;

/** @returns null for any other kind of ref, and for a checkpoint that this version does not ship */
export function builtinOf(ref: string): BuiltinCheckpoint | null {
  const id = REF.exec(ref)?.[1];
  return ALL.find((one) => one.id === id) ?? null;
}

export const UPSCALER = `builtin:${BUILTIN_UPSCALER.id}`;

/** The ref of the checkpoint to run when an operation names none. @param classes that can run; the first built-in one wins */
export function defaultCheckpoint(classes: readonly string[]): string {
  const one = ALL.find(({ pipelineClass }) => classes.includes(pipelineClass));
  return one ? `builtin:${one.id}` : DEFAULT_CHECKPOINT;
}

/** Whether the ref names a built-in checkpoint, of this version or another. */
export function isBuiltin(ref: string): boolean {
  return REF.test(ref);
}

/** The sentence for a built-in checkpoint that this version does not ship. */
export function goneSentence(ref: string): string {
  const list = ALL.map(({ id }) => `"builtin:${id}"`).join(', ');
  return `The checkpoint "${ref}" does not come with this version of Darkroom; those that do are ${list}.`;
}
