"""The three networks, in the module classes that diffusers and transformers use for Stable Diffusion."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

LATENT_SIZE = 16
TEXT_WIDTH = 128
TEXT_LENGTH = 77


def make_vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # more groups would wash out flat colours: there are only 8 channels
        sample_size=128,
    )
    _begin_as_box_filter(vae)
    return vae


@torch.no_grad()
def _begin_as_box_filter(vae: AutoencoderKL) -> None:
    """Starting weights under which latents 0-2 are the picture's colours, averaged over 8x8 pixels, and
    the decoder paints them back: training then only has to learn the edges. Colours go through
    channels 0-2; channels 3 and 4 carry a large constant, beside which the normalisation before the
    last convolution hardly depends on the picture."""
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
    vae.quant_conv.bias[4:] = -5  # little noise


def make_text_encoder(vocab_size: int, bos: int, eos: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1
        norm_num_groups=8,
    )
