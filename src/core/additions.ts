/** Files that are used along with a checkpoint, by kind; the library keeps them under refs that begin with the kind. */
import type { ControlNetUse } from './controlnets.ts';
import type { IpAdapterUse } from './image_prompts.ts';
import type { LoraUse } from './loras.ts';

/** By the beginning of their refs, what they are called. */
export const ADDITIONS = {
  lora: 'LoRA',
  controlnet: 'ControlNet',
  ip_adapter: 'IP-Adapter',
  image_encoder: 'CLIP vision encoder',
  vae: 'VAE',
} as const;
export type Addition = keyof typeof ADDITIONS;

/** Kinds whose files fit one kind of checkpoint and no other. */
export type CheckedAddition = 'controlnet' | 'ip_adapter' | 'vae';

/** What a ref of the library is of; null for a checkpoint's. */
export function additionOf(ref: string): Addition | null {
  const kind = ref.slice(0, Math.max(0, ref.indexOf(':')));
  return Object.hasOwn(ADDITIONS, kind) ? (kind as Addition) : null;
}

/** What its ref says behind the kind: where its file lies, which at an address is all that lies there. */
export function additionPlace({ ref, origin }: { ref: string; origin: { kind: string } }, path: string): string {
  return origin.kind === 'hub' ? `${ref}/${path}` : ref;
}

/** What an operation uses beside its checkpoint. */
export interface UsedAdditions {
  loras?: readonly LoraUse[] | undefined;
  controlnets?: readonly ControlNetUse[] | undefined;
  ip_adapters?: readonly IpAdapterUse[] | undefined;
  /** What sees the pictures for `ip_adapters`; undefined = a stored one that fits each of them. */
  image_encoder?: string | undefined;
  /** The autoencoder in place of the checkpoint's own, by ref or name. */
  vae?: string | undefined;
  /** The autoencoder that shows the picture before it is decoded, by ref or name. */
  first_vae?: string | undefined;
}
