/** What Civitai's own generator writes beside its graph: `extraMetadata`, JSON as text, of what the person asked for. */
import { isObject, own, readJsonObject, textOf } from '../json.ts';

export interface Extra {
  prompt: unknown;
  negativePrompt: unknown;
  steps: unknown;
  cfgScale: unknown;
  sampler: unknown;
  scheduler: unknown;
  seed: unknown;
  width: unknown;
  height: unknown;
  clipSkip: unknown;
}

/** @param json the graph's object, or that around it */
export function civitaiExtra(json: Record<string, unknown> | null): Extra | null {
  const extra = own(json, 'extra');
  const given = own(json, 'extraMetadata') ?? own(extra, 'extraMetadata');
  const found = isObject(given) ? given : readJsonObject(textOf(given));
  if (!found) {
    return null;
  }
  const value = (...names: string[]) =>
    names.map((name) => own(found, name)).find((one) => one !== undefined && one !== null);
  return {
    prompt: value('prompt'),
    negativePrompt: value('negativePrompt', 'negative_prompt'),
    steps: value('steps'),
    cfgScale: value('cfgScale', 'cfg_scale', 'cfg'),
    sampler: value('sampler', 'sampler_name'),
    scheduler: value('scheduler'),
    seed: value('seed'),
    width: value('width'),
    height: value('height'),
    clipSkip: value('clipSkip', 'clip_skip'),
  };
}
