/** The library's LoRAs and embeddings that a model runs with. */
import type { Wildcards } from '../src/core/choices.ts';
import type { LoraUse } from '../src/core/loras.ts';
import type { ModelLora } from '../src/models/family.ts';
import { storedAddition, storedAdditions } from '../src/weights/library/stored_additions.ts';
import { isEmbedding } from '../src/weights/textual_inversion.ts';
import type { Opened } from './opened_models.ts';
import { library } from './source_files.ts';

/** A LoRA of the library, by its ref or its name. */
export async function openLora({ lora, weight, text_weight: textStrength, ...use }: LoraUse): Promise<ModelLora> {
  const { ref, name, file, sha256 } = await storedAddition(library, 'lora', lora);
  return { ref, name, file, sha256, strength: weight, textStrength, ...use };
}

/**
 * Compares the LoRAs that a step's parameters name, in their list or by tags of the prompt, with its model, by headers alone.
 * @throws StudioError `checkpoint_unsupported` for one of another kind of model, `invalid_operation` for a tag that cannot be read,
 *   `checkpoint_damaged`, and as {@link openLora}
 */
export async function requireLoras(model: Opened, parameters: Record<string, unknown>): Promise<void> {
  if (!model.summary.takesLoras) {
    return;
  }
  const { loras } = parameters;
  for (const lora of [...(Array.isArray(loras) ? (loras as LoraUse[]) : []), ...(await tagged(parameters))]) {
    await model.checkLora(await openLora(lora));
  }
}

/** The LoRAs that tags of a prompt name, which is read as its chunk will read it, choices drawn by the seed included. */
async function tagged({
  prompt,
  prompt_syntax: syntax,
  seed,
  wildcards,
  steps,
}: Record<string, unknown>): Promise<LoraUse[]> {
  if (typeof prompt !== 'string' || !/<(?:lora|lyco):/i.test(prompt)) {
    return [];
  }
  const [{ drawChoices, hasChoices }, { takeLoraTags }] = await Promise.all([
    import('../src/core/choices.ts'),
    import('../src/core/lora_tags.ts'),
  ]);
  const lists = wildcards as Wildcards | undefined;
  const isDrawn = syntax !== undefined && syntax !== 'literal' && hasChoices(prompt, lists);
  const read = isDrawn ? drawChoices(prompt, String(seed), 0, lists) : prompt;
  return takeLoraTags(read, typeof steps === 'number' ? steps : 1).loras;
}

/** @param words may name embeddings in the library, which come with the LoRAs */
export async function openLoras(model: Opened, loras: readonly LoraUse[], words: string): Promise<ModelLora[]> {
  const opened = await Promise.all(loras.map(openLora));
  return model.summary.takesLoras ? [...opened, ...(await embeddingsNamed(words, opened))] : opened;
}

/** @returns sentences on what of the LoRAs is not used */
export async function mergeLoras(model: Opened, loras: readonly LoraUse[]): Promise<string[]> {
  const opened = await openLoras(model, loras, '');
  const leftOut = await model.useLoras(opened);
  await noteUse(opened);
  return leftOut;
}

/** The library says when something of it was used last. */
export async function noteUse(used: readonly { ref?: string }[]): Promise<void> {
  const usedAt = Date.now();
  await Promise.all(used.flatMap(({ ref }) => (ref === undefined ? [] : [library.changeManifest(ref, { usedAt })])));
}

/** Embeddings in the library that the words name, except those already present. */
async function embeddingsNamed(words: string, there: readonly ModelLora[]): Promise<ModelLora[]> {
  const lower = words.toLowerCase();
  const stored = words === '' ? [] : await storedAdditions(library, 'lora');
  const named = stored.filter(
    ({ ref, name }) => lower.includes(name.toLowerCase()) && !there.some((one) => one.ref === ref),
  );
  const opened = await Promise.all(named.map(({ ref }) => openLora({ lora: ref, weight: 1 })));
  const isOne = await Promise.all(opened.map(({ file, name }) => isEmbedding(file, name)));
  return opened.filter((_, i) => isOne[i]);
}
