/** What a weight file is that is used beside a checkpoint, by its header. */
import type { Addition } from '../../core/additions.ts';
import { isClipVision, requireClipVision } from '../clip_vision_file.ts';
import { isControlNet, requireControlNet } from '../controlnet_file.ts';
import { isIpAdapter, requireIpAdapter } from '../ip_adapter_file.ts';
import { isLora, requireLora } from '../lora_contents.ts';
import { isVae, requireVae } from '../vae_file.ts';

interface Kind {
  kind: Addition;
  /** Whether a file is one, or a relative of it. @throws StudioError `checkpoint_damaged` */
  is(blob: Blob, file: string): Promise<boolean>;
  /** @throws StudioError `checkpoint_unsupported` for what cannot be used */
  require(blob: Blob, file: string): Promise<void>;
}

/** The first one that knows a file has it: IP-Adapters for faces hold LoRAs. */
const KINDS: Kind[] = [
  { kind: 'controlnet', is: isControlNet, require: requireControlNet },
  { kind: 'ip_adapter', is: isIpAdapter, require: requireIpAdapter },
  { kind: 'image_encoder', is: isClipVision, require: requireClipVision },
  { kind: 'vae', is: isVae, require: requireVae },
  { kind: 'lora', is: isLora, require: requireLora },
];

async function kindOf(blob: Blob, file: string): Promise<Kind | null> {
  for (const kind of KINDS) {
    if (await kind.is(blob, file)) {
      return kind;
    }
  }
  return null;
}

/** Null for a file that is none. @throws StudioError `checkpoint_damaged` */
export async function additionIn(blob: Blob, file: string): Promise<Addition | null> {
  return (await kindOf(blob, file))?.kind ?? null;
}

/** @throws StudioError `checkpoint_unsupported` for what is none, or of a kind that cannot be used */
export async function requireAddition(blob: Blob, file: string): Promise<Addition> {
  const known = await kindOf(blob, file);
  // What nothing knows is told to be no LoRA, which is what most of these files are.
  await (known?.require ?? requireLora)(blob, file);
  return known?.kind ?? 'lora';
}
