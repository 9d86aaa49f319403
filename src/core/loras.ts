/**
 * LoRAs in operations: small files that change a checkpoint's weights. An operation names them in `loras`, or in its prompt like
 * AUTOMATIC1111: `<lora:name:0.8>`.
 */
import { StudioError } from './errors.ts';

/** One LoRA of an operation. */
export interface LoraUse {
  /**
   * A ref in the library (`lora:import:<name>`, `lora:url:<address>` or `lora:hub:<org>/<name>@<commit>/<path>`), or the name that prompts
   * use: its file without `.safetensors`.
   */
  lora: string;
  /** Scales its changes: 1 = as trained, 0 = none, negative = the opposite. */
  weight: number;
  /** The same for the text encoders; absent = `weight`. */
  text_weight?: number | undefined;
}

/** The largest weight, positive or negative. */
export const GREATEST_LORA_WEIGHT = 4;

const TAG = /<(?:lora|lyco):([^<>]*)>/gi;

/** The name that prompts use for a LoRA's file, and operations for any addition's: `Paper` for `styles/Paper.safetensors`. */
export function loraName(file: string): string {
  return file.replace(/^.*[\\/]/, '').replace(/\.(safetensors|ckpt|pt|bin)$/i, '');
}

/**
 * Removes the tags `<lora:name>`, `<lora:name:weight>` and, like AUTOMATIC1111, `<lora:name:text encoder's weight:UNet's weight>` from a
 * prompt, leaving everything else as it is.
 * @throws StudioError `invalid_operation` for a tag without exactly one name and weights from -4 to 4
 */
export function takeLoraTags(prompt: string): { words: string; loras: LoraUse[] } {
  const loras: LoraUse[] = [];
  const words = prompt.replace(TAG, (tag, inner: string) => {
    const [name, ...given] = inner.split(':').map((part) => part.trim());
    const weights = given.length === 0 ? [1] : given.map((one) => (one === '' ? NaN : Number(one)));
    if (!name || weights.length > 2 || !weights.every((one) => Math.abs(one) <= GREATEST_LORA_WEIGHT)) {
      throw new StudioError(
        'invalid_operation',
        `The prompt has "${tag.slice(0, 100)}", which is not a LoRA's name and one weight from -${GREATEST_LORA_WEIGHT} to ${GREATEST_LORA_WEIGHT}; write it as <lora:name:0.8>.`,
      );
    }
    const [first, weight = first] = weights;
    loras.push({ lora: name, weight, ...(weights.length === 2 && { text_weight: first }) });
    return '';
  });
  return { words, loras };
}

/** The prompt without its tags, for when its LoRAs are known from elsewhere. */
export function withoutLoraTags(prompt: string): string {
  return prompt.replace(TAG, '').trim();
}

/** The tags of these LoRAs, for programs that know LoRAs only in prompts. */
export function loraTags(loras: readonly { name: string; weight: number }[]): string {
  return loras.map(({ name, weight }) => `<lora:${name.replace(/[<>:,]/g, '')}:${weight}>`).join(' ');
}
