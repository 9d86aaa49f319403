"""Random weights that make a hard test: every tensor matters, and the networks still behave like trained ones.

Norm weights and biases are random too, attention is far from uniform, and prompt, timestep and input all move the output.
The last layer of each network is then fitted so that trajectories and pictures keep a sane range: a UNet of pure noise
would let the latents grow with sigma and a wrong sampler would hardly show.
"""

import torch
from torch import nn

# How far a layer's weights go beyond the variance-preserving 1/sqrt(fan_in), by the end of the module's name.
GAINS = {
    "attn1.to_q": 1.5,
    "attn1.to_k": 1.5,
    "attn2.to_q": 2.0,
    "attn2.to_k": 2.0,
    "attn2.to_v": 1.5,
    "attn2.to_out.0": 0.45,
    "q_proj": 1.5,
    "k_proj": 1.5,
    "time_emb_proj": 1.5,
}


# How much louder the last resnet hears the skip from `conv_in`, the only place where the input is still itself.
SKIP = 4.0


def _normal(shape, std: float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * std


def randomise(network: nn.Module, seed: int) -> None:
    """Fills every parameter of `network`, each module from its own seed."""
    with torch.no_grad():
        for index, (name, module) in enumerate(sorted(network.named_modules())):
            generator = torch.Generator().manual_seed(seed * 100003 + index)
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                weight.copy_(1 + _normal(weight.shape, 0.25, generator))
                bias.copy_(_normal(bias.shape, 0.2, generator))
            elif isinstance(module, nn.Embedding):
                weight.copy_(_normal(weight.shape, 1.0, generator))
            elif isinstance(module, (nn.Linear, nn.Conv2d)):
                gain = next((value for end, value in GAINS.items() if name.endswith(end)), 1.0)
                fan_in = weight[0].numel()
                weight.copy_(_normal(weight.shape, gain * fan_in**-0.5, generator))
                if bias is not None:
                    bias.copy_(_normal(bias.shape, 0.1, generator))


def _captured(module: nn.Module, run) -> torch.Tensor:
    """What `module` receives while `run` runs."""
    inputs = []
    hook = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    run()
    hook.remove()
    return torch.cat(inputs)


@torch.no_grad()
def fit_unet(unet, text_encoder, seed: int, echo: float, own: float) -> None:
    """Sets `conv_out` so that the output is about `echo` times the input plus something of the network's own of size `own`.

    The echo is what a denoiser does (it recognises the noise) and keeps x bounded from sigma 14 down to 0; it is the ridge
    regression from the features before `conv_out` to the input. The rest is a random projection of the same features.
    """
    width = unet.conv_in.out_channels
    unet.up_blocks[-1].resnets[-1].conv_shortcut.weight[:, -width:].mul_(SKIP)
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(24, unet.config.in_channels, 8, 8, generator=generator)
    timesteps = torch.randint(0, 1000, (24,), generator=generator)
    ids = torch.randint(0, text_encoder.config.vocab_size, (24, 77), generator=generator)
    states = text_encoder(ids)[0]
    features = _captured(unet.conv_out, lambda: unet(samples, timesteps, states))
    columns = torch.nn.functional.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    centred = columns - columns.mean(0)
    target = samples.permute(0, 2, 3, 1).reshape(-1, samples.shape[1]).double() * echo
    gram = centred.T @ centred + 0.02 * len(columns) * torch.eye(columns.shape[1], dtype=torch.float64)
    fitted = torch.linalg.solve(gram, centred.T @ target)
    random = torch.randn(fitted.shape, generator=generator, dtype=torch.float64)
    random *= own / (centred @ random).std(0)
    weight = fitted + random
    unet.conv_out.weight.copy_(weight.T.reshape(unet.conv_out.weight.shape))
    unet.conv_out.bias.copy_(-(columns.mean(0) @ weight) + 0.05 * torch.randn(4, generator=generator, dtype=torch.float64))


@torch.no_grad()
def scale_output(layer: nn.Module, run, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Rescales `layer`, the last one of a network, so that each channel of what `run` returns has this mean and std."""
    output = run()
    channels = output.transpose(0, 1).flatten(1)
    factor = std / channels.std(1)
    layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.sub_(channels.mean(1)).mul_(factor).add_(mean)


@torch.no_grad()
def fit_autoencoder_kl(vae, seed: int) -> None:
    """Latent means of std 5 (so 0.9 after scaling), log variances around -3, pictures that use the range without clipping."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(4, 3, 64, 64, generator=generator).round() * 2 - 1
    mean = torch.tensor([0.0] * 4 + [-3.0] * 4)
    std = torch.tensor([5.0] * 4 + [1.0] * 4)
    scale_output(vae.quant_conv, lambda: vae.encode(pictures).latent_dist.parameters, mean, std)
    latents = torch.randn(4, 4, 8, 8, generator=generator) * 6
    scale_output(vae.decoder.conv_out, lambda: vae.decode(latents).sample, torch.zeros(3), torch.full((3,), 0.55))


@torch.no_grad()
def fit_autoencoder_tiny(vae, seed: int) -> None:
    """Latents of std 1 and pictures around middle grey; without norms inside, only this keeps either in range."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(4, 3, 64, 64, generator=generator).round() * 2 - 1
    scale_output(vae.encoder.layers[-1], lambda: vae.encode(pictures).latents, torch.zeros(4), torch.ones(4))
    latents = torch.randn(4, 4, 8, 8, generator=generator) * 6
    # decode() returns 2 y - 1 of the last layer's y, so y itself is to lie around 0.5.
    scale_output(vae.decoder.layers[-1], lambda: (vae.decode(latents).sample + 1) / 2, torch.full((3,), 0.5), torch.full((3,), 0.22))
