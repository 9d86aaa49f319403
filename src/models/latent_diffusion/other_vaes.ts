/** The autoencoder that takes the place of the checkpoint's own. */
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readVae, type Autoencoder, type VaeFile } from '../../weights/vae_file.ts';
import type { ModelAddition } from '../family.ts';
import { ReadAdditions } from './read_additions.ts';

/** What of an autoencoder is on the device, whichever it is. */
const NETWORKS = ['vae_encoder', 'vae_decoder', 'preview_decoder'];
/** Of the one that shows pictures before they are decoded. */
export const FIRST_DECODER = 'first_decoder';

export class OtherVaes extends ReadAdditions<VaeFile> {
  constructor(
    shelf: NetworkShelf,
    readonly model: { files: CheckpointFiles; vae: Autoencoder },
    /** Whether it shows pictures before they are decoded, and takes nobody's place. */
    readonly isFirst = false,
  ) {
    super('vae', [], shelf);
  }

  /** Null = the checkpoint's own is used. */
  get current(): VaeFile | null {
    return this.list.at(0) ?? null;
  }

  get name(): string | undefined {
    return this.list.at(0)?.given.name;
  }

  protected override get prefix(): string {
    return this.isFirst ? 'first_vae' : super.prefix;
  }

  override async prepare(vaes: readonly ModelAddition[]): Promise<() => Promise<void>> {
    const take = await super.prepare(vaes);
    return async () => {
      const before = this.current;
      await take();
      if (this.current?.weights !== before?.weights) {
        for (const network of this.isFirst ? [FIRST_DECODER] : NETWORKS) {
          await this.shelf.drop(network);
        }
      }
    };
  }

  protected async read(given: ModelAddition, file: string): Promise<VaeFile> {
    const { files, vae: own } = this.model;
    const read = await readVae(given.file, file, given.name, { vae: own, of: files.name });
    const { vae, weights } = read;
    // Builds without weights, and says which of them is missing or of another size.
    const options = { provider: 'wasm', dtype: 'f32', batch: 1, height: 8, width: 8 } as const;
    if (vae.kind === 'gaussian') {
      vae.graphs.buildDecoder(vae.config, weights, options);
    } else {
      vae.graphs.buildDecoder(vae.config, weights, options);
    }
    return read;
  }
}
