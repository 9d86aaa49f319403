"""
Autoencoders that are used in place of a checkpoint's own, by the formula of architectures.py, one file each in test/architectures/files: in
diffusers' names, in those of the original layout, and AutoencoderTiny; and pictures that diffusers makes with them, in
test/goldens/architectures.
"""

import sys
import zlib

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders import single_file_utils

from architectures import KL, MODELS, Network, calibrate, make_networks, put_together
from files import GOLDENS
from image_prompts import keep
from pipelines import make_case
from single_files import vae_name

# As many halvings as the tiny autoencoders of the checkpoints.
TINY = {"encoder_block_out_channels": [16, 16, 16], "decoder_block_out_channels": [16, 16, 16], "num_encoder_blocks": [1, 1, 2], "num_decoder_blocks": [2, 1, 1]}

# By name: class, config, and whether it has the original layout's names.
VAES = {
    "vae-kl": (AutoencoderKL, KL, False),
    "vae-kl-original": (AutoencoderKL, KL, True),
    "vae-kl-xl": (AutoencoderKL, {**KL, "scaling_factor": 0.13025, "force_upcast": True}, False),
    "vae-tiny": (AutoencoderTiny, TINY, False),
}

SIZE = dict(width=32, height=32)
WORDS = dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry, low quality", guidance_scale=2, seed=42)
STARTED = dict(prompt="a watercolor", negative_prompt="photo", steps=4, guidance_scale=2, seed=1, strength=0.5, image=(48, 32, 1), width=48, height=32)

CASES = {
    "vae-sd1-text": ("sd1", "another autoencoder", "vae-kl", dict(WORDS, steps=2, **SIZE)),
    "vae-sd1-transform-original": ("sd1", "another autoencoder, in the names of the original layout, strength 0.5", "vae-kl-original", dict(STARTED)),
    "vae-sd1-tiny": ("sd1", "AutoencoderTiny as decoder", "vae-tiny", dict(WORDS, steps=2, **SIZE)),
    "vae-sd1-tiny-transform": ("sd1", "AutoencoderTiny, strength 0.5", "vae-tiny", dict(STARTED)),
    "vae-sdxl-text": ("sdxl", "another autoencoder", "vae-kl-xl", dict(WORDS, steps=2, **SIZE)),
}


@torch.no_grad()
def make_vaes() -> dict:
    made = {}
    for name, (network_class, config, is_original) in VAES.items():
        network = network_class.from_config(config).eval()
        renamed = (lambda key: f"first_stage_model.{vae_name(key, 3)}") if is_original else (lambda key: key)
        linear = lambda key: is_original and ".attentions." in key and key.endswith("weight") and "group_norm" not in key
        shapes = {renamed(key): (*value.shape, 1, 1) if linear(key) else tuple(value.shape) for key, value in network.state_dict().items()}
        number = zlib.crc32(name.encode()) % 10_000
        file = Network(10_000 * number, shapes)
        fill = lambda: network.load_state_dict(single_file_utils.convert_ldm_vae_checkpoint(file.tensors(), config) if is_original else file.tensors(), strict=True)
        fill()
        if network_class is AutoencoderKL:
            calibrate(network, file, {layer: renamed(f"{layer}.weight") for layer in ("quant_conv", "decoder.conv_out")}, number)
        else:
            generator = torch.Generator().manual_seed(number)
            pictures = torch.rand(2, 3, 32, 32, generator=generator).round() * 2 - 1
            *_, encoder_last = (key for key in shapes if key.startswith("encoder.") and key.endswith("weight"))
            *_, decoder_last = (key for key in shapes if key.startswith("decoder.") and key.endswith("weight"))
            file.rescale(encoder_last, 1.0 / float(network.encode(pictures).latents.std()))
            file.rescale(decoder_last, 0.5 / float(network.decode(torch.randn(2, 4, 8, 8, generator=generator) * 5).sample.std()))
            # What it makes lies from 0 to 1, so that its middle is a half.
            file.rows[decoder_last.replace("weight", "bias")] = [[3], 0.03125, 0.5]
        fill()
        keep(name, file)
        made[name] = network
    return made


def main() -> None:
    torch.set_num_threads(1)
    only = sys.argv[1:]
    networks = make_networks()
    vaes = make_vaes()
    for name, (checkpoint, note, vae, chosen) in CASES.items():
        if only and not any(name.startswith(start) for start in only):
            continue
        operation = "image_transform" if "image" in chosen else "image_generation"
        part = MODELS[checkpoint][2]["vae"]
        pipeline = put_together({**networks, part: vaes[vae]}, checkpoint, MODELS[checkpoint][0], operation)
        print(make_case(GOLDENS / "architectures" / name, checkpoint, note, {**chosen, "vae": vae}, lambda *_: pipeline), flush=True)


if __name__ == "__main__":
    main()
