/** The request that Civitai's own generator writes beside its graph: `extraMetadata`, JSON as text. */
import { Fields } from '../fields.ts';
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
  /** Models and LoRAs by their ids there. */
  resources: unknown;
  /** The other keys. */
  fields: Fields;
}

/** Keys about the order rather than the picture. */
const TOLD =
  /^(workflow(Id)?|baseModel|engine|process|priority|quantity|experimental|version|aspectRatio|creatorTip|civitaiTip)$/;

/** @param json the graph's object, or the one around it */
export function civitaiExtra(json: Record<string, unknown> | null): Extra | null {
  const extra = own(json, 'extra');
  const given = own(json, 'extraMetadata') ?? own(extra, 'extraMetadata');
  const found = isObject(given) ? given : readJsonObject(textOf(given));
  if (!found) {
    return null;
  }
  const fields = new Fields(found);
  fields.all(TOLD);
  const value = (...names: string[]) =>
    names.map((name) => fields.get(name)).find((one) => one !== undefined && one !== null);
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
    resources: value('resources', 'civitaiResources'),
    fields,
  };
}
