"""As wan_shapes.py, of LTX-Video 2B: the transformer of all versions, and the autoencoders of 0.9.0 and 0.9.5."""

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

from files import GOLDENS, write_json
from wan_shapes import tensors

VAE_095 = dict(
    block_out_channels=(128, 256, 512, 1024, 2048), down_block_types=("LTXVideo095DownBlock3D",) * 4, decoder_block_out_channels=(256, 512, 1024), layers_per_block=(4, 6, 6, 2, 2),
    decoder_layers_per_block=(5, 5, 5, 5), spatio_temporal_scaling=(True,) * 4, decoder_spatio_temporal_scaling=(True,) * 3, decoder_inject_noise=(False,) * 4,
    downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"), upsample_residual=(True,) * 3, upsample_factor=(2,) * 3, timestep_conditioning=True, spatial_compression_ratio=32,
    temporal_compression_ratio=8,
)


def make_shapes() -> None:
    with torch.device("meta"):
        made = LTXVideoTransformer3DModel()
        vaes = {name: {"config": config, "tensors": tensors(AutoencoderKLLTXVideo(**config))} for name, config in {"0.9.0": {}, "0.9.5": VAE_095}.items()}
    transformer = {"config": {}, "parameters": sum(p.numel() for p in made.parameters()), "tensors": tensors(made, "transformer_blocks.")}
    write_json(GOLDENS / "ltx_shapes.json", {"transformer": transformer, "vaes": vaes})


if __name__ == "__main__":
    make_shapes()
