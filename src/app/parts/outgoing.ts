/** Saving results from the page. */
import type { Medium, SaveChoice, Saved } from '../../media/medium.ts';
import { inscriptionOf, settingsOf } from '../../formats/settings.ts';

/** The formats for saving this result of a medium, starting with the recorded one. */
export function choicesOf(medium: Medium, { type }: Blob): Promise<readonly SaveChoice[]> {
  const format = medium.formats.find(({ mime }) => mime === type) ?? medium.formats[0];
  return medium.saving?.choices() ?? Promise.resolve([{ id: format.extension, label: format.label, format }]);
}

/**
 * @param file as recorded
 * @param choice the id of one of {@link choicesOf}
 * @param metadata recorded beside it, to write into it; null = write nothing into it
 * @throws StudioError `image_unreadable`, `media_unreadable`, also if the browser cannot write the format
 */
export async function outgoing(
  medium: Medium,
  file: Blob,
  choice: string,
  metadata: Record<string, unknown> | null,
): Promise<Saved> {
  const settings = metadata && settingsOf(metadata);
  if (medium.saving) {
    return medium.saving.convert(file, choice, settings && inscriptionOf(settings));
  }
  // What another machine made keeps what that one wrote into it.
  const inscribe = metadata?.made_by === undefined ? medium.inscribe : null;
  return { file: inscribe ? await inscribe(file, settings && inscriptionOf(settings)) : file, notices: [] };
}
