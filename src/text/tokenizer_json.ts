/** The JSON files of a tokenizer's folder, checked as they are read. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';

/** @throws StudioError `checkpoint_damaged`; @returns undefined if there is no such file */
export function readTokenizerJson<S extends v.GenericSchema>(
  files: TokenizerFiles,
  name: string,
  schema: S,
  folder = 'tokenizer',
): v.InferOutput<S> | undefined {
  const text = files.read(name);
  if (text === undefined) {
    return undefined;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const message = `The file ${folder}/${name} of this checkpoint is not valid JSON; get it again.`;
    throw new StudioError('checkpoint_damaged', message, { cause });
  }
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (!result.success) {
    const entry = v.getDotPath(result.issues[0]) ?? 'the whole file';
    const message = `The file ${folder}/${name} of this checkpoint has a wrong entry (${entry}); get it again.`;
    throw new StudioError('checkpoint_damaged', message);
  }
  return result.output;
}
