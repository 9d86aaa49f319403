/**
 * The denoiser of AnimateDiff: with its motion modules in it, as its pipeline saves it; in the folder `motion_adapter` beside a Stable Diffusion's;
 * or in a file of their own beside a Stable Diffusion of one file.
 */
import { StudioError } from '../../core/errors.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import * as unetMotion from '../../graphs/unet_motion.ts';
import { Checkpoint, type CheckpointComponents, type Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { filesWithMotion, readMotionFile } from '../../weights/motion_file.ts';
import { plainDenoiser, type Denoiser } from './diffusers_model.ts';

const ADAPTER = 'motion_adapter';

/** Whether motion modules lie beside the networks of this folder. */
export function hasMotionAdapter(files: CheckpointFiles): boolean {
  return files.has(`${ADAPTER}/config.json`);
}

/** @throws StudioError `checkpoint_incomplete` for a Stable Diffusion with no motion modules anywhere */
export async function movingDenoiser(checkpoint: CheckpointComponents): Promise<Denoiser> {
  const { files } = checkpoint;
  const isWhole = checkpoint instanceof Checkpoint && checkpoint.componentClass('unet') === unetMotion.className;
  if (isWhole) {
    const unetComponent = await checkpoint.component('unet');
    return { unetComponent, ...unetMotion.parseConfig(unetComponent.config) };
  }
  const plain = await plainDenoiser(checkpoint);
  const adapter = await adapterOf(checkpoint);
  if (!adapter) {
    throw new StudioError(
      'checkpoint_incomplete',
      `"${files.name}" has no motion modules; put a motion adapter for Stable Diffusion 1.5 into its folder ${ADAPTER}, as config.json and diffusion_pytorch_model.safetensors.`,
    );
  }
  return {
    unetComponent: {
      ...plain.unetComponent,
      files: [...plain.unetComponent.files, ...adapter.files],
      weights: together(plain.unetComponent.weights, adapter.weights),
    },
    unet: plain.unet,
    motion: unetMotion.parseAdapterConfig(adapter.config, plain.unet),
  };
}

/** Null where there is none. */
async function adapterOf(checkpoint: CheckpointComponents): Promise<Component | null> {
  const { files } = checkpoint;
  if (checkpoint instanceof Checkpoint) {
    return hasMotionAdapter(files) ? checkpoint.componentOf(ADAPTER, unetMotion.adapterClassName) : null;
  }
  const found = await filesWithMotion(files);
  return found && readMotionFile(files, found.motion);
}

/** Their names never meet. */
function together(first: WeightIndex, second: WeightIndex): WeightIndex {
  return {
    get: (name) => first.get(name) ?? second.get(name),
    names: () => [...first.names(), ...second.names()],
  };
}
