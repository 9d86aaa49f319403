/** What a job's operation uses beside its checkpoint, from the library; LoRAs are opened by `used_loras.ts`. */
import type { Addition, UsedAdditions } from '../src/core/additions.ts';
import { StudioError } from '../src/core/errors.ts';
import type { ModelAddition } from '../src/models/family.ts';
import { storedAddition, storedAdditions } from '../src/weights/library/stored_additions.ts';
import { useBeside } from './beside.ts';
import type { Opened } from './opened_models.ts';
import { library } from './source_files.ts';
import { noteUse, openLoras } from './used_loras.ts';

/**
 * Uses exactly these, all of them or none.
 * @param words may name embeddings in the library
 * @returns sentences on what of the LoRAs is not used
 * @throws StudioError `invalid_operation` for a model that takes none, or one that is not stored
 */
export async function useAdditions(
  model: Opened,
  {
    loras = [],
    controlnets = [],
    ip_adapters: adapters = [],
    image_encoder: encoder,
    vae,
    first_vae: firstVae,
  }: UsedAdditions,
  words: string,
): Promise<string[]> {
  const { name, takesControlNets, takesImagePrompts, takesVae } = model.summary;
  if (controlnets.length > 0 && takesControlNets !== true) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" cannot be led by ControlNets; leave them out, or choose a Stable Diffusion 1, 2 or XL checkpoint.`,
    );
  }
  if (adapters.length > 0 && takesImagePrompts !== true) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" takes no pictures as prompts; leave the IP-Adapters out, or choose a Stable Diffusion 1 or XL checkpoint.`,
    );
  }
  if ((vae !== undefined || firstVae !== undefined) && takesVae !== true) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" takes no other VAE than its own; leave it out, or choose a Stable Diffusion 1, 2 or XL checkpoint.`,
    );
  }
  const nets = await Promise.all(controlnets.map(({ controlnet, ...use }) => stored('controlnet', controlnet, use)));
  const ips = await Promise.all(adapters.map(({ ip_adapter: named, ...use }) => stored('ip_adapter', named, use)));
  const vaes = vae === undefined ? [] : [await stored('vae', vae)];
  const firsts = firstVae === undefined ? [] : [await stored('vae', firstVae)];
  const merged = await openLoras(model, loras, words);
  const leftOut = await useBeside(model, merged, {
    controlnets: nets,
    ip_adapters: ips,
    image_encoders: ips.length > 0 ? await encoders(encoder) : [],
    vaes,
    first_vaes: firsts,
  });
  await noteUse([...merged, ...nets, ...ips, ...vaes, ...firsts]);
  return leftOut;
}

async function stored(kind: Addition, named: string, use?: Record<string, unknown>): Promise<ModelAddition> {
  return { ...(await storedAddition(library, kind, named)), ...(use && { use }) };
}

/** The one that is named, else all that are here. */
async function encoders(named: string | undefined): Promise<ModelAddition[]> {
  const names = named === undefined ? (await storedAdditions(library, 'image_encoder')).map(({ ref }) => ref) : [named];
  return Promise.all(names.map((one) => stored('image_encoder', one)));
}
