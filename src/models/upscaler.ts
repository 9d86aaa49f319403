/** Upscalers from one `.safetensors` file: RRDBNet (ESRGAN, Real-ESRGAN, BSRGAN) and SRVGGNetCompact, recognised by their tensors' names. */
import type { Engine } from '../engine/engine.ts';
import * as rrdbnet from '../graphs/rrdbnet.ts';
import * as srvgg from '../graphs/srvgg_net_compact.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { requireReadable, storedTensors } from '../weights/quantise.ts';
import { readSafetensorsHeader } from '../weights/safetensors.ts';
import { singleFileOf } from '../weights/single_file.ts';
import { isUpscalerFile, upscalerNetwork } from '../weights/upscaler_layout.ts';
import type { Family, LoadedUpscaler } from './family.ts';
import { UpscalerModel } from './upscaling/upscaler_model.ts';

async function open(files: CheckpointFiles, engine: Engine): Promise<LoadedUpscaler> {
  const path = singleFileOf(files) ?? '';
  const header = await readSafetensorsHeader(await files.blob(path), path);
  requireReadable(header, path, () => true);
  return UpscalerModel.open(files, path, engine, upscalerNetwork(storedTensors(header, path), path));
}

export const family: Family = {
  pipelineClasses: [rrdbnet.className, srvgg.className],
  async recognises(files) {
    const single = singleFileOf(files);
    return single !== null && (await isUpscalerFile(files, single));
  },
  open,
};
