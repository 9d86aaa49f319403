"""
How a mask is used: grown as by ComfyUI's GrowMask, its edge blurred as by diffusers' mask_processor, only what is masked painted (diffusers'
`padding_mask_crop`), what lies under it filled as by AUTOMATIC1111's `masking.fill`, or left as noise or nothing, and greys that change less (differential
diffusion). Adds its cases to `pipelines/`.
"""

import sys

import numpy as np
import scipy.ndimage
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image, ImageFilter, ImageOps

import models  # noqa: F401, for its settings of the libraries
from files import GOLDENS, fresh_folder
from models import load
from outpainting import Frame, ground, write_case
from pictures import picture
from pipelines import _check, _scheduler
from resampling import overlaid


def ellipse(width: int, height: int, middle: tuple[float, float], radius: float) -> Image.Image:
    """White in the middle, its edge two pixels of grey."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(x + 0.5 - middle[0], 1.3 * (y + 0.5 - middle[1]))
    return Image.fromarray((np.clip((radius - distance) / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8))


def slope(width: int, height: int) -> Image.Image:
    """From black to white."""
    row = np.linspace(0, 255, width).round().astype(np.uint8)
    return Image.fromarray(np.repeat(row[None], height, axis=0))


def grown(mask: Image.Image, pixels: int) -> Image.Image:
    """ComfyUI, comfy_extras/nodes_mask.py (GrowMask.expand_mask), with tapered corners."""
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    values = np.array(mask)
    for _ in range(abs(pixels)):
        values = (scipy.ndimage.grey_dilation if pixels > 0 else scipy.ndimage.grey_erosion)(values, footprint=cross)
    return Image.fromarray(values)


def filled(drawn: Image.Image, mask: Image.Image) -> Image.Image:
    """What AUTOMATIC1111's `masking.fill` has Pillow do."""
    whole = Image.new("RGBA", drawn.size)
    kept = Image.new("RGBa", drawn.size)
    kept.paste(drawn.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask))
    for radius, times in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1)):
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            whole.alpha_composite(layer)
    return whole.convert("RGB")


class Differential:
    """diffusers, examples/community/pipeline_stable_diffusion_xl_differential_img2img.py: what its loop does before each but the first call."""

    def __init__(self, pipeline, mask: Image.Image, start: torch.Tensor, noise: torch.Tensor, steps: int):
        size = (mask.width, mask.height)
        latent = torch.nn.functional.interpolate(torch.from_numpy(np.array(mask, dtype=np.float32) / 255)[None, None], size=start.shape[-2:])
        assert size == (start.shape[-1] * 8, start.shape[-2] * 8)
        self.keeps, self.start, self.noise, self.steps = 1 - latent, start, noise, steps

    def __call__(self, pipeline, done: int, timestep, given: dict) -> dict:
        timesteps = pipeline.scheduler.timesteps[-pipeline._num_timesteps :]
        if done + 1 < len(timesteps):
            kept = (self.keeps > (done + 1) / self.steps).float()
            original = pipeline.scheduler.add_noise(self.start, self.noise, timesteps[done + 1 : done + 2])
            given["latents"] = original * kept + given["latents"] * (1 - kept)
        return given


CASES = {
    "sd15-inpaint-shaped": ("a mask grown by 3 pixels, then a blur of 4 at its edge", (64, 48, 1), ellipse(64, 48, (30, 22), 14), dict(mask_grow=3, mask_feather=4), dict(prompt="a harbour at night", negative_prompt="fog", steps=5, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=41, strength=0.7)),
    "sd15-inpaint-shrunk": ("a mask made smaller, strength 1 starts from noise alone", (64, 48, 2), ellipse(64, 48, (40, 26), 18), dict(mask_grow=-4, mask_feather=1.5), dict(prompt="a vase", steps=4, guidance_scale=3, sampler="euler", schedule="leading", seed=42)),
    "sd15-inpaint-only-masked": ("only what is masked, at twice its size, put back into the picture", (96, 72, 0), ellipse(96, 72, (60, 30), 9), dict(mask_feather=2, mask_padding=6), dict(prompt="a small boat", steps=4, guidance_scale=5, sampler="ddim", schedule="leading", seed=43, strength=0.8, width=64, height=64)),
    "sd15-inpaint-fill": ("colours of what is around under the mask", (48, 48, 1), ellipse(48, 48, (26, 22), 13), dict(mask_feather=2, mask_content="fill"), dict(prompt="a meadow", steps=5, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=44, strength=0.6)),
    "sd15-inpaint-nothing": ("latents of zero under the mask", (48, 48, 2), ellipse(48, 48, (20, 26), 14), dict(mask_content="latent_nothing"), dict(prompt="a meadow", steps=5, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=45, strength=0.6)),
    "sd15-inpaint-noise": ("latents of noise under the mask", (48, 48, 0), ellipse(48, 48, (20, 26), 14), dict(mask_content="latent_noise"), dict(prompt="a meadow", steps=5, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=46, strength=0.7)),
    "sd15-inpaint-soft": ("a slope of grey changes more and more of the picture", (64, 48, 1), slope(64, 48), dict(soft_inpainting=True), dict(prompt="a forest", steps=8, guidance_scale=6, sampler="ddim", schedule="leading", seed=47, strength=0.9, overlay_inpaint=False)),
    "sd15-inpaint-soft-whole": ("the same from the whole of the noise, by Euler's method", (48, 48, 2), slope(48, 48), dict(soft_inpainting=True), dict(prompt="a forest", steps=6, guidance_scale=4, sampler="euler", schedule="leading", seed=48, strength=1.0)),
}


def make_case(folder, checkpoint: str, note: str, source: tuple, mask: Image.Image, shape: dict, chosen: dict) -> None:
    folder = fresh_folder(folder)
    drawn = picture(*source)
    drawn.save(folder / "image.png")
    mask.save(folder / "mask.png")
    is_soft = shape.get("soft_inpainting", False)
    pipeline = load(checkpoint, StableDiffusionImg2ImgPipeline if is_soft else StableDiffusionInpaintPipeline)
    pipeline.scheduler = _scheduler(pipeline, chosen["sampler"], chosen["schedule"], {})
    parameters = {"negative_prompt": "", "batch_size": 1, **chosen, **shape, "seed": str(chosen["seed"]), "image": "image.png", "mask_image": "mask.png"}
    used = grown(mask, shape.get("mask_grow", 0))
    if "mask_feather" in shape:
        used = StableDiffusionInpaintPipeline.from_pipe(pipeline).mask_processor.blur(used, shape["mask_feather"])
    padding = shape.get("mask_padding")
    width, height = (chosen["width"], chosen["height"]) if padding is not None else drawn.size
    generator = torch.Generator("cpu").manual_seed(chosen["seed"])
    calls = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, given, named: calls.append((len(given[0]), float(given[1]))), with_kwargs=True)
    asked = dict(
        prompt=chosen["prompt"],
        negative_prompt=chosen.get("negative_prompt") or None,
        num_inference_steps=chosen["steps"],
        guidance_scale=chosen["guidance_scale"],
        strength=chosen.get("strength", 1.0),
        generator=generator,
        output_type="latent",
    )
    content = shape.get("mask_content", "original")
    if is_soft:
        # The pipeline draws the picture's sample and then the noise; the same again from the seed.
        again = torch.Generator("cpu").manual_seed(chosen["seed"])
        with torch.no_grad():
            start = pipeline.vae.encode(pipeline.image_processor.preprocess(drawn)).latent_dist.sample(again) * pipeline.vae.config.scaling_factor
        noise = torch.randn(start.shape, generator=again)
        latents = pipeline(image=drawn, callback_on_step_end=Differential(pipeline, used, start, noise, chosen["steps"]), **asked).images
    elif padding is not None:
        region = pipeline.mask_processor.get_crop_region(used, width, height, pad=padding)
        # With crops diffusers lays latents over pictures, so that they are cropped before.
        crops = [images.resize(one.crop(region), height, width, resize_mode="fill") for images, one in ((pipeline.image_processor, drawn), (pipeline.mask_processor, used))]
        latents = pipeline(image=crops[0], mask_image=crops[1], width=width, height=height, **asked).images
    else:
        given = {"image": filled(drawn, used)} if content == "fill" else ground(pipeline, Frame(drawn, used), content, chosen["seed"], generator, 1)
        latents = pipeline(mask_image=used, width=width, height=height, **given, **asked).images
    hook.remove()
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    (shot,) = pipeline.image_processor.postprocess(decoded)
    if padding is not None:
        print(f"{folder.name}: region {region} of {drawn.size}")
        shot = pipeline.image_processor.apply_overlay(used, drawn, shot, region)
    elif parameters.get("overlay_inpaint", True):
        shot = overlaid(shot, drawn, used)
    pixels = np.array(shot)[None]
    _check(folder.name, latents, pixels)
    write_case(folder, "image_inpaint", checkpoint, pipeline, note, parameters, calls, latents, pixels)


def make_inpainting(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    for name, (note, source, mask, shape, chosen) in CASES.items():
        if not only or name in only:
            make_case(GOLDENS / "pipelines" / name, "tiny-sd15", note, source, mask, shape, chosen)


if __name__ == "__main__":
    make_inpainting(set(sys.argv[1:]))
