/** What sampling is asked for where a test says nothing else. */
import type { SampleRequest } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';

export function sampleRequest(
  more: Pick<SampleRequest, 'width' | 'height' | 'batch_size' | 'steps' | 'guidance_scale'> & Partial<SampleRequest>,
): SampleRequest {
  return {
    strength: 1,
    random: new TorchGenerator('7'),
    start: undefined,
    guidance_mode: 'auto',
    mask: undefined,
    previews: false,
    signal: new AbortController().signal,
    resume: null,
    keep: () => undefined,
    onStart: () => undefined,
    onStep: () => undefined,
    ...more,
  };
}
