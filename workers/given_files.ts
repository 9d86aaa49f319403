/** The files of an operation's parameters: taken out of them, recorded beside them, and made into what steps take. */
import { isColour, isFile, isMask } from '../src/core/parameters.ts';
import { WHITE, isOpaque, layOn } from '../src/formats/background.ts';
import { decodePicture, encodePng } from '../src/formats/picture.ts';

export interface GivenFiles {
  list: (Blob | string)[];
  isList: boolean;
}

/** Takes the files out of parameters, by name. */
export function takeFiles(parameters: Record<string, unknown>): Map<string, GivenFiles> {
  const files = new Map<string, GivenFiles>();
  for (const [name, value] of Object.entries(parameters)) {
    if (isFile(value)) {
      files.set(name, { list: [value], isList: false });
      delete parameters[name];
    } else if (Array.isArray(value) && value.length > 0 && value.every(isFile)) {
      files.set(name, { list: value, isList: true });
      delete parameters[name];
    }
  }
  return files;
}

/**
 * A file as steps take it: pictures become PNG without transparency, whatever they came as; sounds and videos stay as they are.
 * @param steps whose parameters may choose the colour behind transparent parts
 * @param notice told when white was chosen for want of such a colour
 */
export async function asUsed(
  source: Blob | string,
  name: string,
  steps: readonly { parameters: Record<string, unknown> }[],
  notice: (message: string) => void,
): Promise<Blob> {
  const type = typeof source === 'string' ? source.slice('data:'.length) : source.type;
  if (/^(audio|video)\//.test(type)) {
    return typeof source === 'string' ? (await fetch(source)).blob() : source;
  }
  const picture = await decodePicture(source, name);
  // What a mask means stands in its colours, so it stays as it is.
  if (isMask(name) || isOpaque(picture)) {
    return encodePng(picture);
  }
  const background = steps.map(({ parameters }) => parameters.background).find(isColour);
  if (background === undefined) {
    notice(`The transparent parts of ${name} were filled with white; background chooses another colour.`);
  }
  return encodePng(layOn(picture, background ?? WHITE));
}
