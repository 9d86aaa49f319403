/**
 * The JSON that Civitai and compatible programs add to an infotext's settings: the model and LoRAs by their titles on the site (`Civitai
 * resources`), and the hashes of all of them (`Hashes`).
 */
import { isObject, numberOf, own, readJson, textOf } from './json.ts';
import type { Findings } from './findings.ts';

const LORA = /^(lora|lycoris|locon|loha|lokr|dora)$/i;
const EMBEDDING = /^(embed(ding)?|textual ?inversion|ti)$/i;
const MAX_RESOURCES = 40;

/**
 * Titles are not file names, so a LoRA that the prompt names by its file appears here again: if number and strengths match, they are the
 * same ones.
 * @param resources as text
 */
export function readResources(findings: Findings, resources: unknown): void {
  const list = typeof resources === 'string' ? readJson(resources) : resources;
  if (!Array.isArray(list)) {
    findings.lostIf(resources, 'the list of models and LoRAs that Civitai keeps');
    return;
  }
  const loras: { name: string; weight: unknown; hash: string | null }[] = [];
  for (const one of list.slice(0, MAX_RESOURCES).filter(isObject)) {
    // Newer ones combine type and number: urn:air:sd1:lora:civitai:12@34.
    const air = (textOf(one.air) ?? '').split(':');
    const type = textOf(one.type) ?? air[3] ?? '';
    const id = textOf(one.modelVersionId) ?? air[5]?.split('@')[1];
    const title = textOf(one.modelName) ?? textOf(one.name) ?? (id === undefined ? undefined : `Civitai ${id}`);
    if (/^(checkpoint|model)$/i.test(type)) {
      findings.checkpoint(title, one.hash);
    } else if (LORA.test(type)) {
      loras.push({ name: title ?? '', weight: one.weight ?? one.strength, hash: textOf(one.hash) ?? null });
    } else if (EMBEDDING.test(type)) {
      findings.lost(`the effect of the embedding ${title ?? '?'}`);
    } else {
      findings.lost(`the Civitai resource ${[type.toLowerCase(), title].filter(Boolean).join(' ') || '?'}`);
    }
  }
  const strengths = (weights: unknown[]) =>
    weights
      .map((weight) => numberOf(weight) ?? 1)
      .sort((a, b) => a - b)
      .join();
  if (strengths(loras.map(({ weight }) => weight)) !== strengths(findings.loras.map(({ weight }) => weight))) {
    const named = new Set(findings.loras.map(({ name }) => plain(name)));
    loras
      .filter(({ name }) => !named.has(plain(name)))
      .forEach(({ name, weight, hash }) => findings.lora(name, weight, { hash }));
  }
}

/** @param hashes the text of `{"model": "…", "vae": "…", "lora:brass": "…", "embed:easynegative": "…"}` */
export function readHashes(findings: Findings, hashes: unknown): void {
  const json = typeof hashes === 'string' ? readJson(hashes) : hashes;
  if (!isObject(json)) {
    return;
  }
  findings.checkpoint(undefined, own(json, 'model'));
  const of = (kind: RegExp) =>
    Object.fromEntries(
      Object.entries(json).flatMap(([key, hash]) => {
        const [type, ...name] = key.split(':');
        return name.length > 0 && kind.test(type) ? [[name.join(':'), hash]] : [];
      }),
    );
  findings.loraHashes(of(LORA)).embeddings(of(EMBEDDING));
  Object.keys(of(/^hypernet/i)).forEach((name) => findings.lost(`the hypernetwork ${name}`));
}

function plain(name: string): string {
  return name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
}
