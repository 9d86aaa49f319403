/** The files in an operation's parameters: extracted, recorded beside them, and converted for the steps. */
import { isColour, isFile, isMask } from '../src/core/parameters.ts';
import { WHITE, isOpaque, layOn } from '../src/formats/background.ts';
import { decodePicture, encodePng } from '../src/formats/picture.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';

export interface GivenFiles {
  list: (Blob | string)[];
  isList: boolean;
}

/** Extracts the files from parameters, by name. */
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
 * A file as steps take it: pictures of any format become PNG without transparency; sounds and videos stay as they are.
 * @param steps those that take it; their parameters may set the colour behind transparent parts
 * @param notice called if white was used because no such colour was set
 */
export async function asUsed(
  source: Blob | string,
  name: string,
  steps: readonly { chunk: string; parameters: Record<string, unknown> }[],
  notice: (message: string) => void,
): Promise<Blob> {
  const type = typeof source === 'string' ? source.slice('data:'.length) : source.type;
  if (/^(audio|video)\//.test(type)) {
    return typeof source === 'string' ? (await fetch(source)).blob() : source;
  }
  const picture = await decodePicture(source, name);
  // A mask's colours carry its meaning, so it stays as it is.
  if (isMask(name) || isOpaque(picture) || steps.every(keepsTransparency)) {
    return encodePng(picture);
  }
  const background = steps.map(({ parameters }) => parameters.background).find(isColour);
  if (background === undefined) {
    notice(`The transparent parts of ${name} were filled with white; background chooses another colour.`);
  }
  return encodePng(layOn(picture, background ?? WHITE));
}

function keepsTransparency({ chunk }: { chunk: string }): boolean {
  return catalogue.chunks[chunk].meta.keepsTransparency === true;
}

/** The size of a step's first input picture, and the number of pictures; null if there is none that can be read. */
export async function givenPictures(
  parameters: Record<string, unknown>,
): Promise<{ width: number; height: number; batch_size: number } | null> {
  const { image, images } = parameters;
  const given = [image, images].flat().filter(isFile);
  if (given.length === 0) {
    return null;
  }
  // The error is reported when the step starts.
  const picture = await decodePicture(given[0], 'image').catch(() => null);
  return picture && { width: picture.width, height: picture.height, batch_size: given.length };
}
