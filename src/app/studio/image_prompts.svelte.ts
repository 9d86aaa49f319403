/** The image prompts of the form: pictures that an IP-Adapter sees, and how much they count. */
import * as v from 'valibot';
import type { CheckpointSummary } from '../../core/model.ts';
import { MOST_PROMPT_IMAGES } from '../../core/parameters.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { AdditionUse, AdditionUses, putGiven, type AdditionChoice } from './addition_uses.svelte.ts';

export class ImagePrompt extends AdditionUse {
  readonly #lack: () => string | null;

  /** @param lack what is missing beside all of them */
  constructor(lack: () => string | null) {
    super(MOST_PROMPT_IMAGES);
    this.#lack = lack;
  }

  protected problemOf(choice: AdditionChoice | undefined): string | null {
    if (!choice) {
      return t('Choose an IP-Adapter for these pictures, or remove them.');
    }
    if (choice.problem !== null) {
      return said(choice.problem);
    }
    return this.pictures.length === 0
      ? t('This image prompt needs a picture; choose one, or remove it.')
      : this.#lack();
  }
}

const usesSchema = v.fallback(
  v.array(
    v.object({
      ip_adapter: v.string(),
      weight: v.fallback(v.number(), 1),
      images: v.fallback(v.number(), 1),
    }),
  ),
  [],
);

export class ImagePrompts extends AdditionUses<ImagePrompt> {
  constructor(client: JobClient, library: Library) {
    super('ip_adapter', client, library);
  }

  isTaken({ takesImagePrompts }: CheckpointSummary): boolean {
    return takesImagePrompts === true;
  }

  override get lack(): string | null {
    const isHere = this.library.additions.some(
      ({ ref, state }) => ref.startsWith('image_encoder:') && state === 'complete',
    );
    return isHere
      ? null
      : t(
          'IP-Adapters see pictures by a CLIP vision encoder, and none is stored here; add the file image_encoder/model.safetensors that lies beside the IP-Adapter.',
        );
  }

  protected make(): ImagePrompt {
    return new ImagePrompt(() => this.lack);
  }

  parameters(): Record<string, unknown> {
    const used = this.list.filter(({ pictures }) => pictures.length > 0);
    return used.length === 0
      ? {}
      : {
          ip_adapters: used.map(({ ref, weight, pictures }) => ({
            ip_adapter: ref,
            weight: weight.value,
            images: pictures.length,
          })),
          ip_adapter_images: used.flatMap(({ pictures }) => pictures.map(({ blob }) => blob)),
        };
  }

  async restore(parameters: Record<string, unknown>, read: (file: string) => Promise<Blob>): Promise<void> {
    this.clear();
    const given: unknown = parameters.ip_adapter_images;
    const pictures: unknown[] = Array.isArray(given) ? given.slice() : [];
    for (const { ip_adapter: named, weight, images } of v.parse(usesSchema, parameters.ip_adapters)) {
      const prompt = this.addNamed(named);
      prompt.weight.text = String(weight);
      for (const picture of pictures.splice(0, images)) {
        await putGiven(prompt, picture, read, t('Image prompt'));
      }
    }
  }
}
