"""As wan_shapes.py, of Stable Audio 3: its transformer as the class is by default (medium), and both sizes of its autoencoder."""

import torch
from diffusers import AutoencoderSAME, StableAudio3DiTModel

from files import GOLDENS, write_json
from wan_shapes import tensors

SAMES = {"SAME-S": {}, "SAME-L": dict(encoder_channels=256, encoder_transformer_depths=(12,), decoder_sinusoidal_blocks=(8,))}


def make_shapes() -> None:
    with torch.device("meta"):
        transformer = StableAudio3DiTModel()
        vaes = {name: {"config": config, "tensors": tensors(AutoencoderSAME(**config))} for name, config in SAMES.items()}
    made = {"parameters": sum(p.numel() for p in transformer.parameters()), "tensors": tensors(transformer, "transformer_blocks.")}
    write_json(GOLDENS / "stable_audio_3_shapes.json", {"transformer": made, "vaes": vaes})


if __name__ == "__main__":
    make_shapes()
