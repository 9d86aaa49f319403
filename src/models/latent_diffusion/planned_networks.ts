/** What the networks of a Stable Diffusion checkpoint cost on the device, before anything is loaded. */
import * as clipText from '../../graphs/clip_text.ts';
import * as unet2d from '../../graphs/unet2d_condition.ts';
import type { Provider } from '../../graphs/graph.ts';
import { factorOf } from '../../weights/vae_file.ts';
import type { Components } from './components.ts';
import { plannedControlNets } from './control_nets.ts';
import type { GraphCosts, NetworkRequest, PlannedNetwork } from './estimate.ts';
import { plannedImagePrompts } from './image_prompts.ts';

export function plannedNetworks(
  costs: GraphCosts,
  components: Components,
  provider: Provider,
  request: NetworkRequest,
): PlannedNetwork[] {
  const { textEncoders, unetComponent, unet, motion, vae } = components;
  // Whichever takes its place is not read yet, and hardly larger.
  const { weights } = components.vaeComponent;
  const { rows, calls, steps, texts, encodings, decodings, decoded, startsFromPicture, height, width, controlnets } =
    request;
  const sequence = textEncoders[0].config.max_position_embeddings;
  const latents = { provider, batch: 1, ...decoded, weights: 'full' as const };
  const pixels = { ...latents, height: decoded.height * factorOf(vae), width: decoded.width * factorOf(vae) };
  const context = { provider, batch: rows, sequence, height: 0, width: 0 };
  const once = { runsPerStep: 0, precision: 'f32' as const };
  const networks = [
    ...textEncoders.map(({ name, component: { weights }, config, outputs }) =>
      costs.network({ name, phase: 'read', runs: texts, ...once }, { ...context, batch: 1 }, (options) =>
        clipText.build(config, weights, options, outputs),
      ),
    ),
    costs.network(
      { name: 'unet_context', phase: 'sample', runs: calls, runsPerStep: 0, precision: null },
      context,
      (options) => unet2d.buildContext(unet, unetComponent.weights, options),
    ),
    costs.network(
      { name: 'unet', phase: 'sample', runs: calls * steps, runsPerStep: calls, precision: null },
      { ...context, height, width, projected: true, controlled: controlnets > 0 },
      (options) => unet2d.build(unet, unetComponent.weights, { ...options, motion }),
    ),
    ...plannedControlNets(costs, unet, unetComponent.weights, { ...context, height, width }, request),
    ...plannedImagePrompts(costs, unet, provider, request),
    costs.network({ name: 'vae_decoder', phase: 'decode', runs: decodings, ...once }, latents, (options) =>
      vae.kind === 'gaussian'
        ? vae.graphs.buildDecoder(vae.config, weights, options)
        : vae.graphs.buildDecoder(vae.config, weights, options),
    ),
  ];
  if (startsFromPicture) {
    networks.push(
      costs.network({ name: 'vae_encoder', phase: 'read', runs: encodings, ...once }, pixels, (options) =>
        vae.kind === 'gaussian'
          ? vae.graphs.buildEncoder(vae.config, weights, options)
          : vae.graphs.buildEncoder(vae.config, weights, options),
      ),
    );
  }
  return networks;
}
