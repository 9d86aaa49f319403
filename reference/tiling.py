"""Tiled decoding and encoding: diffusers' AutoencoderKL with `enable_tiling`, on latents and pictures of a size that leaves small tiles over."""

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor

from files import GOLDENS, write_tensors
from models import load
from pictures import picture

CHECKPOINT = "tiny-sd15"
TILE = 64  # pixels per side
SIZE = (11, 14)  # latents: tiles begin every 6, so the last ones are 5 high and 2 wide


@torch.no_grad()
def make_tiling() -> None:
    vae = load(CHECKPOINT).vae
    latents = torch.randn(1, vae.config.latent_channels, *SIZE, generator=torch.Generator().manual_seed(5))
    scaled = latents / vae.config.scaling_factor
    vae.enable_tiling()
    vae.tile_sample_min_size = TILE
    vae.tile_latent_min_size = TILE // 2 ** (len(vae.config.block_out_channels) - 1)
    tiled = vae.decode(scaled).sample
    drawn = picture(SIZE[1] * 8, SIZE[0] * 8, 1)
    encoded = vae.encode(VaeImageProcessor(vae_scale_factor=8).preprocess(drawn)).latent_dist.parameters
    vae.disable_tiling()
    whole = vae.decode(scaled).sample
    write_tensors(GOLDENS / "tiling.safetensors", {"latents": latents, "tiled": tiled, "whole": whole})
    write_tensors(GOLDENS / "tiled_encoding.safetensors", {"picture": torch.from_numpy(np.array(drawn)), "moments": encoded})


if __name__ == "__main__":
    make_tiling()
