/** What loaded checkpoints that make sounds have in common. */
import type { Precision } from '../../core/model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import { OpenedCheckpoint, type OpenedNetworks } from '../latent_diffusion/opened_checkpoint.ts';

export class SoundCheckpoint<
  Networks extends OpenedNetworks & { readonly form: SoundForm },
> extends OpenedCheckpoint<Networks> {
  get form(): SoundForm {
    return this.networks.form;
  }

  protected override get precision(): Precision {
    return 'f32';
  }
}
