/**
 * LoRAs in operations: small files that change a checkpoint's weights. An operation names them in `loras`, or in its prompt as
 * AUTOMATIC1111 does, `<lora:name:0.8>`.
 */
import { StudioError } from './errors.ts';

/** One LoRA of an operation. */
export interface LoraUse {
  /**
   * A ref of the library, `lora:import:<name>`, `lora:url:<address>` or `lora:hub:<org>/<name>@<commit>/<path>`, or the name of a stored
   * one as prompts have it: its file without `.safetensors`.
   */
  lora: string;
  /** Factor of its changes: 1 as it was trained, 0 none, negative the opposite. */
  weight: number;
}

/** Of weights, in both directions. */
export const GREATEST_LORA_WEIGHT = 4;

const TAG = /<(?:lora|lyco):([^<>]*)>/gi;

/** Whether a ref of the library is a LoRA's; all others are checkpoints'. */
export function isLoraRef(ref: string): boolean {
  return ref.startsWith('lora:');
}

/** What a LoRA's file is called in prompts: `styles/Paper.safetensors` is `Paper`. */
export function loraName(file: string): string {
  return file.replace(/^.*[\\/]/, '').replace(/\.(safetensors|ckpt|pt|bin)$/i, '');
}

/**
 * Takes the tags `<lora:name>` and `<lora:name:weight>` out of a prompt, and leaves everything else as it is.
 * @throws StudioError `invalid_operation` for a tag that does not say one name and one weight from -4 to 4
 */
export function takeLoraTags(prompt: string): { words: string; loras: LoraUse[] } {
  const loras: LoraUse[] = [];
  const words = prompt.replace(TAG, (tag, inner: string) => {
    const [name, given, ...more] = inner.split(':').map((part) => part.trim());
    const weight = given === undefined ? 1 : Number(given);
    if (!name || given === '' || !(Math.abs(weight) <= GREATEST_LORA_WEIGHT) || more.length > 0) {
      throw new StudioError(
        'invalid_operation',
        `The prompt has "${tag.slice(0, 100)}", which is not a LoRA's name and one weight from -${GREATEST_LORA_WEIGHT} to ${GREATEST_LORA_WEIGHT}; write it as <lora:name:0.8>.`,
      );
    }
    loras.push({ lora: name, weight });
    return '';
  });
  return { words, loras };
}

/** The prompt's words alone, where its LoRAs are known from elsewhere. */
export function withoutLoraTags(prompt: string): string {
  return prompt.replace(TAG, '').trim();
}

/** The tags of these LoRAs, for programs that know them in prompts only. */
export function loraTags(loras: readonly { name: string; weight: number }[]): string {
  return loras.map(({ name, weight }) => `<lora:${name.replace(/[<>:,]/g, '')}:${weight}>`).join(' ');
}
