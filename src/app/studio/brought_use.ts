/** Puts the settings that a file brought along where they belong: those of a sound or a video into the form of their own config. */
import type { Brought } from './brought.svelte.ts';
import type { Forms } from './restoring.svelte.ts';

/** How weights are kept is the affair of the device. */
const OF_DEVICE = ['weights'];

/**
 * @param isRecording whether the file is a sound or a video, and not the starting picture
 * @returns what became of them
 */
export async function useBrought(forms: Forms, brought: Brought, isRecording: boolean): Promise<string> {
  const { form, loras, picture, opened, making } = forms;
  const recipe = brought.reading?.recipe;
  if (isRecording && recipe && (await making.chooseConfig(recipe.config)) && making.form) {
    const parameters = Object.fromEntries(
      Object.entries(recipe.parameters).filter(([name]) => !OF_DEVICE.includes(name)),
    );
    // What was given to it is not in the file.
    const missing = await making.form.restore(parameters, () => Promise.resolve(null));
    const kinds = missing.map((control) =>
      control === 'sound' ? 'the sound it started from' : 'the picture it started from',
    );
    const place = recipe.index > 0 ? [`that it was number ${recipe.index + 1} of several made at once`] : [];
    brought.taken([...new Set(kinds), ...place]);
  } else {
    const stored = brought.reading && brought.models?.checkpoint(brought.reading);
    if (stored && stored.ref !== opened.checkpoint?.ref) {
      await opened.openStored(stored.ref);
    }
    brought.use(form, loras);
    const { parameters } = brought.reading ?? {};
    const guides = parameters?.tiled_scale === undefined ? forms.guides : await forms.openGuides();
    guides?.tiles.restore({ ...parameters });
    if (!isRecording) {
      // It came out of the settings and is not what they start from.
      picture.remove();
    }
  }
  const outcome = brought.outcome(opened.checkpoint);
  return outcome ? [outcome.whole, ...outcome.notes].join(' ') : '';
}
