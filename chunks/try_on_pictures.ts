/**
 * What a model that edits pictures is shown to dress somebody anew. In: a person's picture, one of a piece of clothing, what is to be said of them, and perhaps
 * a mask of what the person wears now. Out: both pictures, the masked part of the first painted over, and the prompt. Cost: none.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { luma } from '../src/core/luma.ts';
import type { PixelImage } from '../src/core/media.ts';
import { image, prompt } from '../src/core/parameters.ts';

export const meta = {
  id: 'try_on_pictures',
  media: 'image',
  operations: ['image_preparation'],
  needs: { gpu: false },
  stages: [{ id: 'prepare', label: { en: 'Laying out the clothes', de: 'Legt die Kleidung bereit' } }],
  outputs: { images: { medium: 'image', many: true }, prompt: { medium: 'text' } },
} as const satisfies ChunkMeta;

const words = (name: string) => {
  const message = `${name} must say in words what the model is to do.`;
  return v.pipe(v.string(message), v.regex(/\S/, message));
};
const COVER = 'cover must be a colour written as "#rrggbb", such as "#808080" for grey.';

export const parameters = v.strictObject({
  operation: v.picklist(meta.operations),
  person: v.pipe(image('person'), v.metadata({ words: 'try_on_person' } satisfies FieldMetadata)),
  cloth: v.pipe(image('cloth'), v.metadata({ words: 'try_on_cloth' } satisfies FieldMetadata)),
  /** White where the clothes are that go, black elsewhere, of the size of `person`. */
  mask_image: v.optional(
    v.pipe(
      image('mask_image'),
      v.metadata({ control: 'mask', over: 'person', words: 'try_on_mask' } satisfies FieldMetadata),
    ),
  ),
  /** Said of the two pictures, as the first and the second. */
  instruction: words('instruction'),
  /** Said beside it where there is a mask. */
  mask_instruction: words('mask_instruction'),
  /** What the masked part is painted over with. */
  cover: v.pipe(v.string(COVER), v.regex(/^#[0-9a-fA-F]{6}$/, COVER)),
  /** What else is to be said. */
  prompt: v.optional(v.pipe(prompt('prompt'), v.metadata({ words: 'try_on_words' } satisfies FieldMetadata)), ''),
});

export async function execute(
  { person, cloth, mask_image, instruction, mask_instruction, cover, prompt: more }: v.InferOutput<typeof parameters>,
  { readImage, progress }: Context,
): Promise<Outputs> {
  progress('prepare');
  const worn = await readImage(person, 'person');
  const mask = mask_image === undefined ? null : await readImage(mask_image, 'mask_image');
  const said = [instruction, ...(mask ? [mask_instruction] : []), more.trim()];
  return {
    images: [mask ? covered(worn, mask, cover) : worn, await readImage(cloth, 'cloth')],
    prompt: said.filter((text) => text !== '').join(' '),
  };
}

/** @throws StudioError `invalid_operation` for a mask of another size */
function covered(picture: PixelImage, mask: PixelImage, colour: string): PixelImage {
  const { width, height } = picture;
  if (mask.width !== width || mask.height !== height) {
    throw new StudioError(
      'invalid_operation',
      `The mask has ${mask.width}×${mask.height} pixels and the picture of the person ${width}×${height}; paint the mask on that picture.`,
    );
  }
  const data = picture.data.slice();
  const channels = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  for (let i = 0; i < data.length; i += 4) {
    const share = luma(mask.data, i);
    channels.forEach((value, channel) => {
      data[i + channel] = Math.round((data[i + channel] * (255 - share) + value * share) / 255);
    });
  }
  return { width, height, data };
}
