"""
Pictures in larger frames: diffusers' inpainting pipelines over a picture that numpy framed and a mask as ComfyUI's ImagePadForOutpaint makes
it. Adds its cases to `pipelines/`.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

import models  # noqa: F401, for its settings of the libraries
from files import GOLDENS, digits, fresh_folder, write_json, write_tensors
from models import load
from pictures import picture
from pipelines import _check, _plain, _scheduler
from resampling import overlaid

SIDES = ("left", "top", "right", "bottom")


@dataclass
class Frame:
    picture: Image.Image
    mask: Image.Image


def feathered(width: int, height: int, left: int, top: int, right: int, bottom: int, feather: int) -> np.ndarray:
    """ComfyUI, nodes.py (ImagePadForOutpaint.expand_image): 1 on the new ground, and how near a widened side is, squared, inside."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    far = np.full((height, width), np.inf)
    distance = np.minimum.reduce([y if top else far, height - y if bottom else far, x if left else far, width - x if right else far])
    inside = (np.clip((feather - distance) / feather, 0, 1) ** 2) if feather else np.zeros((height, width))
    mask = np.ones((height + top + bottom, width + left + right))
    mask[top : top + height, left : left + width] = inside
    return mask


def framed(drawn: Image.Image, left=0, top=0, right=0, bottom=0, feather=0, content="fill", background=(255, 255, 255)) -> Frame:
    sides = ((top, bottom), (left, right), (0, 0))
    pixels = np.array(drawn)
    if content == "original":
        whole = np.stack([np.pad(pixels[..., c], sides[:2], constant_values=background[c]) for c in range(3)], axis=-1)
    else:
        whole = np.pad(pixels, sides, mode="edge")
    mask = feathered(*drawn.size, left, top, right, bottom, feather)
    return Frame(Image.fromarray(whole), Image.fromarray((mask * 255).round().astype(np.uint8)))


CASES = {
    "sd15-outpaint-fill": ("two sides, a soft seam, strength 0.7, laid over", (64, 48, 1), dict(right=32, top=16, feather=10), dict(prompt="a harbour at night", negative_prompt="fog", steps=6, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=31, strength=0.7)),
    "sd15-outpaint-whole": ("all sides, strength 1 starts from noise alone, two pictures", (48, 32, 2), dict(left=16, top=8, right=32, bottom=24), dict(prompt="a vase with flowers", steps=4, guidance_scale=2, sampler="euler", schedule="leading", seed=32, batch_size=2, overlay_inpaint=False)),
    "sd15-outpaint-background": ("one colour around it", (48, 64, 0), dict(left=16, content="original", background=(32, 64, 96)), dict(prompt="a watercolor", steps=5, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=33, strength=0.6)),
    "sd15-outpaint-noise": ("latents of noise around it", (64, 64, 1), dict(right=32, feather=8, content="latent_noise"), dict(prompt="a watercolor", steps=5, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=34, strength=0.6)),
}


def ground(pipeline, frame: Frame, content: str, seed: int, generator: torch.Generator, batch: int) -> dict:
    """The pipeline's picture as latents, with noise from the seed's beginning or zeros under the mask (AUTOMATIC1111, `inpainting_fill` 2 and 3)."""
    if content not in ("latent_noise", "latent_nothing"):
        return {"image": frame.picture}
    width, height = frame.picture.size
    pixels = pipeline.image_processor.preprocess(frame.picture, height, width)
    latents = pipeline._encode_vae_image(pixels, generator).repeat(batch, 1, 1, 1)
    mask = torch.nn.functional.interpolate(pipeline.mask_processor.preprocess(frame.mask, height, width), size=latents.shape[-2:])
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed)) if content == "latent_noise" else torch.zeros_like(latents)
    # Without a picture in pixels there is nothing that the mask could cover; a network of 4 channels does not look at that.
    return {"image": torch.where(mask > 0.5, noise, latents), "masked_image_latents": torch.zeros_like(latents[:1])}


def make_case(folder, checkpoint: str, pipeline, note: str, source: tuple, sides: dict, chosen: dict) -> None:
    """Writes one golden into `folder`."""
    folder = fresh_folder(folder)
    drawn = picture(*source)
    drawn.save(folder / "image.png")
    frame = framed(drawn, **sides)
    width, height = frame.picture.size
    parameters = {"negative_prompt": "", "batch_size": 1, **chosen, "seed": str(chosen["seed"]), "image": "image.png"}
    parameters |= {f"outpaint_{name}": value for name, value in sides.items() if name != "background"}
    if "background" in sides:
        parameters["background"] = "#" + "".join(f"{value:02x}" for value in sides["background"])
    pipeline.scheduler = _scheduler(pipeline, chosen.get("sampler"), chosen.get("schedule"), {})
    generator = torch.Generator("cpu").manual_seed(chosen["seed"])
    calls = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, given, named: calls.append((len(given[0]), float(given[1]))), with_kwargs=True)
    latents = pipeline(
        prompt=chosen["prompt"],
        negative_prompt=chosen.get("negative_prompt") or None,
        num_inference_steps=chosen["steps"],
        guidance_scale=chosen["guidance_scale"],
        num_images_per_prompt=parameters["batch_size"],
        strength=chosen.get("strength", 1.0),
        **ground(pipeline, frame, sides.get("content", "fill"), chosen["seed"], generator, parameters["batch_size"]),
        mask_image=frame.mask,
        width=width,
        height=height,
        generator=generator,
        output_type="latent",
    ).images
    hook.remove()
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    pixels = np.stack([np.array(shot) for shot in pipeline.image_processor.postprocess(decoded)])
    _check(folder.name, latents, pixels)
    if parameters.get("overlay_inpaint", True):
        pixels = np.stack([np.array(overlaid(Image.fromarray(shot), frame.picture, frame.mask)) for shot in pixels])
    write_case(folder, "image_outpaint", checkpoint, pipeline, note, parameters, calls, latents, pixels)


def write_case(folder, operation: str, checkpoint: str, pipeline, note: str, parameters: dict, calls: list, latents: torch.Tensor, pixels: np.ndarray) -> None:
    """@param calls rows and timestep of each call of the network"""
    scheduler = pipeline.scheduler
    sigmas = getattr(scheduler, "sigmas", None)
    write_json(folder / "operation.json", {"operation": operation, "config": "stable_diffusion", "parameters": parameters, "record": ["latents"]})
    write_json(
        folder / "case.json",
        {
            "checkpoint": checkpoint,
            "pipeline": type(pipeline).__name__,
            "scheduler": {"class": type(scheduler).__name__, "config": _plain(scheduler.config)},
            "timesteps": [timestep for _, timestep in calls],
            "sigmas": None if sigmas is None else digits(sigmas),
            "init_noise_sigma": digits([float(scheduler.init_noise_sigma)])[0],
            "unet_calls": len(calls),
            "unet_batch": calls[0][0],
            "note": note,
        },
    )
    write_tensors(folder / "expected.safetensors", {"latents": latents, "pixels": torch.from_numpy(pixels)})
    print(f"{folder.name}: latents std {latents.std():.2f}, pixels std {pixels.std():.0f}", flush=True)


def make_outpainting(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    for name, (note, source, sides, chosen) in CASES.items():
        if not only or name in only:
            make_case(GOLDENS / "pipelines" / name, "tiny-sd15", load("tiny-sd15", StableDiffusionInpaintPipeline), note, source, sides, chosen)


if __name__ == "__main__":
    make_outpainting(set(sys.argv[1:]))
