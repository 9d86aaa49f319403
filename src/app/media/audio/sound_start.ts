/** A sound as the start of another one; loaded when somebody wants that. */
import type { Studio } from '../../studio/studio.svelte.ts';

/** Gives it to the form that is shown where that takes a sound, else to the first one that does. */
export async function startFromSound({ making, told }: Studio, blob: Blob, name: string): Promise<void> {
  if (!making.form?.sound) {
    await making.choose('audio');
    for (const { config } of making.form?.sound ? [] : making.ways) {
      await making.choose('audio', config.id);
      if (making.form?.sound) {
        break;
      }
    }
  }
  const field = making.form?.sound;
  if (field) {
    field.give([{ blob, name }]);
    field.entry.ask();
    told.announce(`Starting from ${name}.`);
  }
}
