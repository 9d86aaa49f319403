/** What a model uses beside its own weights, of all kinds together. */
import type { LoadedCheckpoint, ModelAdditions, ModelLora } from '../src/models/family.ts';

/**
 * Uses exactly these, all of them or none: each kind refuses what does not fit before anything of it changes, so LoRAs are looked at before the
 * others are taken.
 * @returns sentences on what of the LoRAs is not used
 * @throws StudioError as `useLoras` and `useAdditions` do; the model is what it was then
 */
export async function useBeside(
  model: Pick<LoadedCheckpoint, 'checkLora' | 'useLoras' | 'useAdditions'>,
  loras: readonly ModelLora[],
  additions: ModelAdditions,
): Promise<string[]> {
  if (Object.values(additions).some(({ length }) => length > 0)) {
    for (const lora of loras) {
      await model.checkLora(lora);
    }
  }
  await model.useAdditions?.(additions);
  return model.useLoras(loras);
}
