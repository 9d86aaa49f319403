"""Large pictures painted tile by tile: diffusers' image-to-image for each tile of an enlarged picture, blended.

The picture is enlarged by Pillow's Lanczos to `tiled_scale` times its size, sides rounded down to multiples of 8. Along a side of length L, tiles of
side T that overlap by at least V are n = ceil((L - V) / (T - V)), one if L <= T, and begin at round(k (L - T) / (n - 1)). Tile k of all, row by row, is
painted with the seed plus k, and is a picture of 8 bits then. Between two neighbours that begin at a < b, the share of the later one rises linearly from
0 to 1 over V pixels around the middle of what they share, (a + T + b) / 2, taken at the middle of each pixel; the earlier one has the rest. The share
of a pixel is the product of those along both sides.
"""

import math
import sys

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from architectures import MODELS, make_networks, put_together
from files import GOLDENS, digits, fresh_folder, write_json, write_tensors
from models import load
from pictures import picture
from pipelines import _plain, _scheduler

CASES = {
    "sd15-tiled": ("tiny-sd15", "enlarged twice, three by two tiles of 64 pixels that overlap by more than they must", dict(prompt="a harbour at night", negative_prompt="fog", steps=5, guidance_scale=2, sampler="euler", schedule="leading", seed=41, batch_size=1, image=(56, 40, 0), strength=0.4, tiled_scale=2, tiled_size=64, tiled_overlap=24)),
    "turbo-tiled": ("tiny-turbo", "two pictures of each tile, noise in the steps, not enlarged; the last seed wraps around", dict(prompt="a harbour at night", steps=4, guidance_scale=0, sampler="euler_ancestral", schedule="leading", seed=2**64 - 1, batch_size=2, image=(104, 64, 1), strength=0.5, tiled_scale=1, tiled_size=64, tiled_overlap=16)),
}


# Of the checkpoints of architectures.py.
ARCHITECTURES = {
    "sdxl-tiled": ("sdxl", "two by one tiles, each of which is told its own size; two text encoders", dict(prompt="a harbour at night", negative_prompt="fog", steps=4, guidance_scale=3, sampler="euler", schedule="leading", seed=43, batch_size=1, image=(56, 32, 2), strength=0.5, tiled_scale=2, tiled_size=64, tiled_overlap=16)),
}


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - overlap) / (side - overlap))
    # As JavaScript rounds, halves upward.
    return [math.floor(k * (length - side) / (count - 1) + 0.5) for k in range(count)]


def _shares(starts: list[int], at: int, side: int, overlap: int) -> np.ndarray:
    def into(tile: int) -> np.ndarray:
        middle = (starts[tile - 1] + side + starts[tile]) / 2
        return np.clip((starts[at] + np.arange(side) + 0.5 - middle + overlap / 2) / overlap, 0, 1)

    entered = into(at) if at > 0 else np.ones(side)
    return entered - into(at + 1) if at + 1 < len(starts) else entered


def _make(group: str, name: str, checkpoint: str, note: str, given: dict, pipeline) -> None:
    folder = fresh_folder(GOLDENS / group / name)
    parameters = {"negative_prompt": "", **given, "seed": str(given["seed"]), "image": "image.png"}
    drawn = picture(*given["image"])
    drawn.save(folder / "image.png")
    pipeline.scheduler = _scheduler(pipeline, given["sampler"], given["schedule"], {})
    calls = []
    pipeline.unet.register_forward_pre_hook(lambda _, args, named: calls.append((len(args[0]), float(args[1]))), with_kwargs=True)
    width, height = (int(side * given["tiled_scale"] / 8) * 8 for side in drawn.size)
    enlarged = drawn.convert("RGB").resize((width, height), Image.LANCZOS)
    side, overlap, batch = given["tiled_size"], given["tiled_overlap"], given["batch_size"]
    tile_width, tile_height = min(side, width), min(side, height)
    columns, rows = _starts(width, side, overlap), _starts(height, side, overlap)
    whole = np.zeros((batch, height, width, 3))
    latents = []
    for row, top in enumerate(rows):
        for column, left in enumerate(columns):
            seed = (given["seed"] + len(latents)) % 2**64
            made = pipeline(
                prompt=given["prompt"],
                negative_prompt=given.get("negative_prompt") or None,
                image=enlarged.crop((left, top, left + tile_width, top + tile_height)),
                strength=given["strength"],
                num_inference_steps=given["steps"],
                guidance_scale=given["guidance_scale"],
                num_images_per_prompt=batch,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="latent",
            ).images
            latents.append(made)
            with torch.no_grad():
                decoded = pipeline.vae.decode(made / pipeline.vae.config.scaling_factor).sample
            shares = np.outer(_shares(rows, row, tile_height, overlap), _shares(columns, column, tile_width, overlap))
            for n, shot in enumerate(pipeline.image_processor.postprocess(decoded)):
                whole[n, top : top + tile_height, left : left + tile_width] += shares[..., None] * np.array(shot)
    write_json(folder / "operation.json", {"operation": "image_transform", "config": "stable_diffusion", "parameters": parameters, "record": ["latents"]})
    sigmas = getattr(pipeline.scheduler, "sigmas", None)
    write_json(
        folder / "case.json",
        {
            "checkpoint": checkpoint,
            "pipeline": type(pipeline).__name__,
            "scheduler": {"class": type(pipeline.scheduler).__name__, "config": _plain(pipeline.scheduler.config)},
            "timesteps": [timestep for _, timestep in calls[: len(calls) // len(latents)]],
            "sigmas": None if sigmas is None else digits(sigmas),
            "init_noise_sigma": digits([float(pipeline.scheduler.init_noise_sigma)])[0],
            "unet_calls": len(calls),
            "unet_batch": calls[0][0],
            "note": note,
        },
    )
    pixels = np.rint(whole).astype(np.uint8)
    write_tensors(folder / "expected.safetensors", {"latents": torch.cat(latents), "pixels": torch.from_numpy(pixels)})
    print(f"{name}: {len(latents)} tiles, {len(calls)} UNet, latents std {torch.cat(latents).std():.2f}, pixels std {pixels.std():.0f}")


def make_tiled() -> None:
    for name, (checkpoint, *case) in CASES.items():
        _make("pipelines", name, checkpoint, *case, load(checkpoint, StableDiffusionImg2ImgPipeline))


def make_tiled_architectures(networks: dict[str, object]) -> None:
    for name, (checkpoint, *case) in ARCHITECTURES.items():
        _make("architectures", name, checkpoint, *case, put_together(networks, checkpoint, MODELS[checkpoint][0], "image_transform"))


if __name__ == "__main__":
    if sys.argv[1:] == ["architectures"]:
        make_tiled_architectures(make_networks())
    else:
        make_tiled()
