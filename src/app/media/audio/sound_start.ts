/** A sound as the start of another one; loaded when somebody wants that. */
import type { Making, Way } from '../../studio/making.svelte.ts';
import { ConfigForm } from '../../studio/config_form.svelte.ts';
import type { Studio } from '../../studio/studio.svelte.ts';

/** Gives it to the form that is shown where that takes a sound, else to the one of sounds that does. */
export async function startFromSound({ making, form, told }: Studio, blob: Blob, name: string): Promise<void> {
  if (!making.form?.sound) {
    // What was chosen last among sounds comes first.
    await making.choose('audio');
    const way = making.form?.sound ? null : wayWithSound(making);
    if (way) {
      await making.choose('audio', way.config.id);
    }
  }
  const field = making.form?.sound;
  if (field) {
    field.give([{ blob, name }]);
    field.entry.ask();
    form.options.settingsOpen ||= field.description.group === 'more';
    told.announce(`Starting from ${name}.`);
  }
}

/** Best one that asks for a sound before anything is unfolded. */
function wayWithSound({ ways }: Making): Way | null {
  const taking = ways.flatMap((way) => {
    const { sound } = new ConfigForm(way);
    return sound ? [{ way, group: sound.description.group }] : [];
  });
  return (taking.find(({ group }) => group === 'main') ?? taking[0])?.way ?? null;
}
