/** Control pictures as ControlNets see them, and how much each counts at which call of the network. */
import type { SampleRequest } from '../../core/model.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import type { Arithmetic, DeviceTensor } from '../../engine/arithmetic.ts';
import { detected } from '../../formats/edges.ts';
import { imageToTensor } from '../../formats/resample.ts';
import type { ControlRequest } from './networks.ts';

/**
 * Reference: diffusers/pipelines/controlnet (prepare_control_image, controlnet_keep)
 * @param calls total calls of the network
 * @param hold keeps tensors until the sampling is over
 * @returns undefined where no ControlNet leads
 */
export function controlRequests(
  arithmetic: Arithmetic,
  { controls = [], width, height }: Pick<SampleRequest, 'controls' | 'width' | 'height'>,
  calls: number,
  hold: (tensor: DeviceTensor) => DeviceTensor,
): ControlRequest[] | undefined {
  if (controls.length === 0) {
    return undefined;
  }
  return controls.map(({ picture, detector, kind, guess, weight, start, end }) => {
    const seen = detected(picture, detector, { width, height });
    const { data, dims } = imageToTensor(resizeLanczos(seen, width, height));
    return {
      kind,
      guess,
      picture: hold(
        arithmetic.upload(
          data.map((value) => (value + 1) / 2),
          dims,
        ),
      ),
      weights: Array.from({ length: calls }, (_, call) =>
        call / calls < start || (call + 1) / calls > end ? 0 : weight,
      ),
    };
  });
}
