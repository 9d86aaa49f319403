"""The networks of the built-in checkpoint, in the classes that diffusers and transformers use for Stable Diffusion.

Both sizes of the recipe paint on 32×32 latents. `python training/networks.py` prints parameters and operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

LATENT_CHANNELS = 4
TEXT_WIDTH = 128
TEXT_LENGTH = 77
# The text encoder writes what a sentence says into the last positions, which are padding for any ordinary prompt: one for
# each drawn thing, one for the surroundings.
THING_SLOTS = 4
HINTS = THING_SLOTS + 1
# Most operations for a 256×256 picture at 4 steps, and most bytes of the folders.
FLOP_LIMIT = 12e9
FOLDER_LIMIT, FEW_STEP_FOLDER_LIMIT = 24_000_000, 16_000_000


@dataclass(frozen=True)
class Size:
    """One of the two sizes of the recipe."""

    name: Literal["small", "full"]  # of the vocabulary, too
    picture: int  # pixels per side
    vae_widths: tuple[int, ...]  # of AutoencoderKL, from the picture down to the latents
    tiny_decoder: tuple[int, ...]  # blocks of AutoencoderTiny's decoder, from the latents up
    text_layers: int
    unet_widths: tuple[int, ...]
    unet_attends: tuple[bool, ...]  # which of these levels attend to the text; the middle always does

    @property
    def factor(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** (len(self.vae_widths) - 1)

    @property
    def latent(self) -> int:
        """Latents per side."""
        return self.picture // self.factor


SIZES = {
    # At 128 pixels, things are so small that latents of 8×8 pixels would lose their faces. So there are four times as many,
    # and the UNet does little at its widest level.
    "small": Size("small", 128, (12, 24, 48), (3, 3, 1), 3, (24, 56, 112, 128), (False, True, True, False)),
    "full": Size("full", 256, (16, 32, 64, 96), (3, 3, 3, 1), 4, (56, 112, 128), (False, True, True)),
}


def make_vae(size: Size) -> AutoencoderKL:
    levels = len(size.vae_widths)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.vae_widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,  # more groups would wash out flat colours: there are few channels
        sample_size=size.picture,
        scaling_factor=1.0,  # see `normalise_latents`
    )
    _begin_as_box_filter(vae)
    return vae


@torch.no_grad()
def _begin_as_box_filter(vae: AutoencoderKL) -> None:
    """Starting weights under which latents 0-2 are the picture's colours, averaged over a latent's pixels, and the decoder paints
    them back: training then only has to learn the edges. Colours go through channels 0-2; channels 3 and 4 carry a large
    constant, beside which the normalisation before the last convolution hardly depends on the picture."""
    constant, slope, offset = 8.0, 0.5, 2.0

    def identity(conv: torch.nn.Module, channels: int, taps: slice = slice(1, 2)) -> None:
        conv.weight[:5] = 0
        conv.bias[:5] = 0
        if conv.weight.shape[-1] == 1:
            taps = slice(0, 1)
        for c in range(channels):
            conv.weight[c, c, taps, taps] = 1 / (taps.stop - taps.start) ** 2

    for half in (vae.encoder, vae.decoder):
        identity(half.conv_in, 3)
        half.conv_in.bias[3], half.conv_in.bias[4] = constant, -constant
        for name, module in half.named_modules():
            if name.endswith("downsamplers.0.conv"):
                identity(module, 5, slice(0, 2))
            elif name.endswith(("upsamplers.0.conv", "conv_shortcut")):
                identity(module, 5)
            elif name.endswith(("conv2", "to_out.0")):
                module.weight *= 0.1
                module.bias *= 0
        half.conv_norm_out.weight[:3] = slope * constant * (2 / half.conv_norm_out.num_channels) ** 0.5
        half.conv_norm_out.bias[:3] = offset
        gain = torch.sigmoid(torch.tensor(offset)) * (1 + offset * torch.sigmoid(torch.tensor(-offset)))
        half.conv_out.weight[:3] = 0
        for c in range(3):
            half.conv_out.weight[c, c, 1, 1] = 1 / (slope * gain)
        half.conv_out.bias[:3] = -torch.nn.functional.silu(torch.tensor(offset)) / (slope * gain)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:3], conv.bias[:3] = 0, 0
        for c in range(3):
            conv.weight[c, c] = 1
    vae.quant_conv.bias[LATENT_CHANNELS:] = -5  # little noise


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: torch.Tensor, deviation: torch.Tensor, noise: torch.Tensor) -> None:
    """Folds per-channel statistics into the 1×1 convolutions at both ends of the latents, which then have mean 0 and
    deviation 1 in every channel: a diffusers config has one scaling factor only, for all channels. The encoder's own noise goes,
    as the UNet learns from the means. A channel that says less than its noise, because the decoder came to do without it, becomes 0:
    otherwise a UNet learns to paint what does not show (measured: half of its loss).

    mean, deviation, noise: [LATENT_CHANNELS], of the latents' means and of the encoder's noise before this."""
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.bias[:LATENT_CHANNELS] = (inner.bias[:LATENT_CHANNELS] - mean) / deviation
    inner.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    inner.weight[LATENT_CHANNELS:] = 0
    inner.bias[LATENT_CHANNELS:] = -20  # log variances
    unused = deviation < noise
    inner.weight[:LATENT_CHANNELS][unused] = 0
    inner.bias[:LATENT_CHANNELS][unused] = 0
    outer.bias += (outer.weight[:, :, 0, 0] * mean).sum(1)
    outer.weight *= deviation[None, :, None, None]


def make_tiny_vae(size: Size) -> AutoencoderTiny:
    """Decodes the same latents with fewer operations. Its width is set by FLOP_LIMIT."""
    levels = len(size.tiny_decoder)
    return AutoencoderTiny(
        encoder_block_out_channels=(16,) * levels,
        decoder_block_out_channels=(16,) * levels,
        num_encoder_blocks=(1, *(2,) * (levels - 1)),
        num_decoder_blocks=size.tiny_decoder,
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )


def make_text_encoder(size: Size, vocab_size: int, bos: int, eos: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=size.text_layers,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def make_unet(size: Size) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=size.latent,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in size.unet_attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in size.unet_attends[::-1]),
        block_out_channels=size.unet_widths,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1
        norm_num_groups=8,
    )
    _begin_as_identity(unet)
    return unet


@torch.no_grad()
def _begin_as_identity(unet: UNet2DConditionModel) -> None:
    """Every residual branch begins with nothing to say, and so does the output: deep networks learn faster from there."""
    for name, module in unet.named_modules():
        if name.endswith((".conv2", ".proj_out")) or name == "conv_out":
            module.weight.zero_()
            module.bias.zero_()


# --- operations ---


def flops_of(call: Callable[[], object]) -> int:
    """Operations of one call (a multiplication and an addition are two). Works on the meta device: nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def picture_flops(size: Size, picture: int) -> dict[str, int]:
    """Operations of each network for one picture of `picture` pixels per side, by name."""
    latent = picture // size.factor
    with torch.device("meta"):
        latents = torch.empty(1, LATENT_CHANNELS, latent, latent)
        states = torch.empty(1, TEXT_LENGTH, TEXT_WIDTH)
        tokens = torch.zeros(1, TEXT_LENGTH, dtype=torch.long)
        time = torch.zeros((), dtype=torch.long)
        text_encoder = make_text_encoder(size, 2000, 0, 1)
        unet, vae, tiny = make_unet(size), make_vae(size), make_tiny_vae(size)
        return {
            "text encoder": flops_of(lambda: text_encoder(tokens)),
            "UNet, one step": flops_of(lambda: unet(latents, time, states)),
            "AutoencoderKL, decoder": flops_of(lambda: vae.decode(latents)),
            "AutoencoderTiny, decoder": flops_of(lambda: tiny.decode(latents)),
        }


def few_step_flops(size: Size, steps: int = 4) -> int:
    """Of one picture of the size's own pixels by the distilled variant: no guidance, the tiny decoder."""
    flops = picture_flops(size, size.picture)
    return flops["text encoder"] + steps * flops["UNet, one step"] + flops["AutoencoderTiny, decoder"]


def main() -> None:
    for size in SIZES.values():
        networks = {
            "text encoder": make_text_encoder(size, 2000, 0, 1),
            "UNet": make_unet(size),
            "AutoencoderKL": make_vae(size),
            "AutoencoderTiny": make_tiny_vae(size),
        }
        for name, network in networks.items():
            print(f"{size.name}: {name} {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters")
        for name, flops in picture_flops(size, size.picture).items():
            print(f"{size.name}, {size.picture} px: {name} {flops / 1e9:.3f} GFLOP")
        total = few_step_flops(size)
        limit = f"limit {FLOP_LIMIT / 1e9:.0f}"
        print(f"{size.name}: {size.picture} px at 4 steps, decoder included: {total / 1e9:.2f} GFLOP ({limit})")
        assert total <= FLOP_LIMIT


if __name__ == "__main__":
    main()
