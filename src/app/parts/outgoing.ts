/** Saving results from the page. */
import type { Medium, SaveChoice, Saved } from '../../media/medium.ts';
import { inscriptionOf, settingsOf } from '../../formats/settings.ts';

/** The formats for saving this result of a medium, starting with the recorded one. */
export function choicesOf(medium: Medium, file: Blob): Promise<readonly SaveChoice[]> {
  return medium.saving?.choices(file) ?? Promise.resolve([recorded(medium, file)]);
}

function recorded(medium: Medium, { type }: Blob): SaveChoice {
  const format = medium.formats.find(({ mime }) => mime === type) ?? medium.formats[0];
  return { id: format.extension, label: format.label, format };
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
  const isForeign = medium.keepsOrigin === true && metadata?.made_by !== undefined;
  if (isForeign && choice === recorded(medium, file).id) {
    return { file, notices: [] };
  }
  const settings = metadata && settingsOf(metadata);
  const inscription = settings && inscriptionOf(settings);
  if (medium.saving) {
    return medium.saving.convert(file, choice, inscription);
  }
  return { file: medium.inscribe ? await medium.inscribe(file, inscription) : file, notices: [] };
}
