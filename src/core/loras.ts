/**
 * LoRAs in operations: small files that change a checkpoint's weights. An operation names them in `loras`, or in its prompt like
 * AUTOMATIC1111: `<lora:name:0.8>`.
 */
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
  /** Further factors, for the text encoders and for each block of the UNet, in one of {@link BLOCK_FORMS}; absent = 1 for all. */
  blocks?: number[] | undefined;
  /** It counts in the steps between these shares of all that are run; absent = from the first, to the last. */
  start?: number | undefined;
  end?: number | undefined;
}

/** The largest weight, positive or negative. */
export const GREATEST_LORA_WEIGHT = 4;

const IN = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `IN${two(from + i)}`);
const OUT = (from: number, to: number) => IN(from, to).map((name) => name.replace('IN', 'OUT'));

/**
 * What the numbers of a list of block weights are for, by how many there are: BASE are the text encoders, the others blocks of a UNet as its
 * original code counts them. Blocks that a form does not have count as 0. 17 and 26 are made for Stable Diffusion 1 and 2, 12 and 20 for XL.
 *
 * Reference: sd-webui-lora-block-weight
 */
export const BLOCK_FORMS: Partial<Record<number, readonly string[]>> = {
  12: ['BASE', 'IN04', 'IN05', 'IN07', 'IN08', 'M00', ...OUT(0, 5)],
  17: ['BASE', 'IN01', 'IN02', 'IN04', 'IN05', 'IN07', 'IN08', 'M00', ...OUT(3, 11)],
  20: ['BASE', ...IN(0, 8), 'M00', ...OUT(0, 8)],
  26: ['BASE', ...IN(0, 11), 'M00', ...OUT(0, 11)],
};

/** The name that prompts use for a LoRA's file, and operations for any addition's: `Paper` for `styles/Paper.safetensors`. */
export function loraName(file: string): string {
  return file.replace(/^.*[\\/]/, '').replace(/\.(safetensors|ckpt|pt|bin)$/i, '');
}

/** Whether these are block weights in one of the forms. */
export function areBlocks(blocks: readonly number[]): boolean {
  return BLOCK_FORMS[blocks.length] !== undefined && blocks.every((one) => Math.abs(one) <= GREATEST_LORA_WEIGHT);
}

function two(number: number): string {
  return String(number).padStart(2, '0');
}
