/** What is used beside a checkpoint, other than LoRAs: ControlNets, image prompts, another autoencoder, upscalers, tiles. Loaded when somebody uses one. */
import type { CheckpointSummary } from '../../core/model.ts';
import type { OperationInput } from '../../core/operation.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import type { AdditionChoices } from './addition_uses.svelte.ts';
import { Controls } from './controls.svelte.ts';
import { EnlargingChoices, LATENT_UPSAMPLERS, UPSCALERS } from './enlarging_choices.svelte.ts';
import type { Form } from './form.svelte.ts';
import { ImagePrompts } from './image_prompts.svelte.ts';
import { Tiles } from './tiles.svelte.ts';
import { VaeChoice } from './vae_choice.svelte.ts';

export class Guides {
  readonly controls: Controls;
  readonly images: ImagePrompts;
  readonly vae: VaeChoice;
  readonly upscalers: EnlargingChoices;
  readonly latentUpsamplers: EnlargingChoices;
  readonly tiles: Tiles;
  readonly #library: Library;

  constructor(client: JobClient, library: Library, form: Form) {
    this.controls = new Controls(client, library);
    this.images = new ImagePrompts(client, library);
    this.vae = new VaeChoice(client, library);
    this.upscalers = new EnlargingChoices(client, library, UPSCALERS);
    this.latentUpsamplers = new EnlargingChoices(client, library, LATENT_UPSAMPLERS);
    this.tiles = new Tiles(form);
    this.#library = library;
  }

  /** How many are in use. */
  used(uses: 'controls' | 'images' | 'vae'): number {
    return uses === 'vae' ? Number(this.vae.ref !== '') : this[uses].list.length;
  }

  /** Stores a file from the disk and uses it. @throws StudioError */
  async addFile(file: File): Promise<void> {
    const stored = await this.#library.importAddition(file);
    // A vision encoder is used by whatever needs it, and may be what was missing.
    this.images.list.forEach((prompt) => {
      prompt.problem = null;
    });
    this.#all.find(({ kind }) => stored?.ref.startsWith(`${kind}:`))?.takeStored(stored?.ref ?? '');
  }

  /** What is wrong says so from now on. @param isInTiles see `Tiles.isUsed` */
  isValid(checkpoint: CheckpointSummary, isInTiles: boolean): boolean {
    return [...this.#taken(checkpoint), ...(isInTiles ? [this.tiles] : [])]
      .map((uses) => uses.isValid())
      .every(Boolean);
  }

  /** The operation with what guides it. */
  applyTo(operation: OperationInput, checkpoint: CheckpointSummary, isInTiles: boolean): OperationInput {
    const guided = Object.assign({}, ...this.#taken(checkpoint).map((uses) => uses.parameters())) as object;
    const whole = { ...operation, parameters: { ...operation.parameters, ...guided } };
    return isInTiles ? this.tiles.applyTo(whole) : whole;
  }

  /**
   * Takes over what an operation had, and nothing else.
   * @param read gives a recorded file
   */
  async restore(parameters: Record<string, unknown>, read: (file: string) => Promise<Blob>): Promise<void> {
    for (const uses of this.#all) {
      await uses.restore(parameters, read);
    }
    this.tiles.restore(parameters);
  }

  get #all(): AdditionChoices[] {
    return [this.controls, this.images, this.vae];
  }

  #taken(checkpoint: CheckpointSummary): AdditionChoices[] {
    return this.#all.filter((uses) => uses.isTaken(checkpoint));
  }
}
