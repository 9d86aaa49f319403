/** Weights that another program packed for itself: told by the names of what lies beside them, and refused with the name people know. */
import { StudioError } from '../core/errors.ts';

/** By the ends of tensors' names, of which there have to be all. */
const FORMATS: { name: string; has: readonly RegExp[] }[] = [
  { name: 'NF4 (bitsandbytes)', has: [/\.quant_state\.bitsandbytes__nf4$/] },
  { name: 'FP4 (bitsandbytes)', has: [/\.quant_state\.bitsandbytes__fp4$/] },
  { name: 'int8 (bitsandbytes)', has: [/\.SCB$/] },
  { name: 'SVDQuant (Nunchaku)', has: [/\.qweight$/, /\.(?:wscales|smooth(?:_factor|_orig)?)$/] },
  { name: 'GPTQ', has: [/\.qweight$/, /\.qzeros$/] },
  { name: 'int8 (torchao)', has: [/[:_](?:qdata|int_data)$/] },
  { name: 'NVFP4', has: [/\.weight_scale_2$/] },
];

/** @returns the name of the format; null where nothing tells of one */
export function packedFormat(names: Iterable<string>): string | null {
  const all = [...names];
  return FORMATS.find(({ has }) => has.every((end) => all.some((name) => end.test(name))))?.name ?? null;
}

/** @throws StudioError `checkpoint_unsupported` for a file that is packed so */
export function requireUnpacked(names: Iterable<string>, file: string): void {
  const format = packedFormat(names);
  if (format !== null) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} has its weights packed as ${format}, which Darkroom cannot run; get this model in BF16, F16 or 8-bit floating point (fp8), or as a GGUF file.`,
    );
  }
}
