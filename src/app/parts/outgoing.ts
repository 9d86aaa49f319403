/** Results as they leave the page. */
import type { Medium, SaveChoice, Saved } from '../../media/medium.ts';
import { inscriptionOf, settingsOf } from '../../formats/settings.ts';

/** The ways to save a result of this medium, the recorded one first. */
export function choicesOf(medium: Medium): Promise<readonly SaveChoice[]> {
  const [format] = medium.formats;
  return medium.saving?.choices() ?? Promise.resolve([{ id: format.extension, label: format.label, format }]);
}

/**
 * @param file as recorded
 * @param choice the id of one of {@link choicesOf}
 * @param metadata what was recorded beside it, to be written into it; null = it leaves with nothing in it
 * @throws StudioError `image_unreadable`, `media_unreadable`, also where the browser cannot write the format
 */
export async function outgoing(
  medium: Medium,
  file: Blob,
  choice: string,
  metadata: Record<string, unknown> | null,
): Promise<Saved> {
  const settings = metadata && settingsOf(metadata);
  return medium.saving?.convert(file, choice, settings && inscriptionOf(settings)) ?? { file, notices: [] };
}
