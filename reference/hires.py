"""Pictures in two passes (hires fix): two calls of diffusers with an enlargement between them, and what torch's interpolation makes of latents."""

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import models  # noqa: F401, for its settings of the libraries
from files import BUILTIN, GOLDENS, digits, fresh_folder, write_json, write_tensors
from models import load
from pipelines import _plain, _scheduler

# As AUTOMATIC1111 calls torch (modules/shared_items.py, latent_upscale_modes); ComfyUI's LatentUpscale calls three of them.
MODES = {
    "latent": {"mode": "bilinear"},
    "latent_antialiased": {"mode": "bilinear", "antialias": True},
    "latent_bicubic": {"mode": "bicubic"},
    "latent_bicubic_antialiased": {"mode": "bicubic", "antialias": True},
    "latent_nearest": {"mode": "nearest"},
    "latent_nearest_exact": {"mode": "nearest-exact"},
}

CASES = {
    "sd15-hires-latent": ("tiny-sd15", "two passes, bilinear latents, 1.5 times, other steps in the second; two pictures", dict(prompt="a harbour at night", negative_prompt="fog", width=64, height=48, steps=3, guidance_scale=2, sampler="euler", schedule="leading", seed=31, batch_size=2, hires_scale=1.5, hires_steps=4, hires_denoising_strength=0.6, hires_upscaler="latent")),
    "sd15-hires-nearest": ("tiny-sd15", "two passes of a sampler that adds noise, nearest latents, twice as large", dict(prompt="a harbour at night", width=48, height=48, steps=3, guidance_scale=2, sampler="euler_ancestral", schedule="leading", seed=32, batch_size=1, hires_scale=2, hires_denoising_strength=0.75, hires_upscaler="latent_nearest_exact")),
    # The picture between the passes has 8 bits: where a value lies within 1e-5 of the middle between two levels, rounding decides, and one level
    # moves the latents by 7e-3 of their spread. Of 160 seeds this one keeps all values farthest from there.
    "sd15-hires-lanczos": ("tiny-sd15", "two passes, the picture decoded, scaled by PIL and encoded again", dict(prompt="a harbour at night", width=32, height=32, steps=3, guidance_scale=2, sampler="ddim", schedule="leading", seed=147, batch_size=1, hires_scale=1.5, hires_steps=4, hires_denoising_strength=0.5, hires_upscaler="lanczos")),
    # Small for the same reason: the upscaler's picture is rounded, too, and of 50 seeds this one has the scaled picture depend on it least.
    "sd15-hires-upscaler": ("tiny-sd15", "two passes, the picture decoded, enlarged by the upscaler that comes with the page, scaled by PIL and encoded again", dict(prompt="a harbour at night", width=16, height=16, steps=3, guidance_scale=2, sampler="ddim", schedule="leading", seed=33, batch_size=1, hires_scale=1.5, hires_steps=4, hires_denoising_strength=0.5, hires_upscaler="builtin:realesr-animevideov3")),
}


def upscaler(name: str):
    """SRVGGNetCompact, as basicsr has it (realesrgan/archs/srvgg_arch.py), on pictures; rounded as realesrgan's RealESRGANer does it."""
    state = {key: value.float() for key, value in load_file(BUILTIN / name / f"{name}.safetensors").items()}
    last = max(int(key.split(".")[1]) for key in state)
    scale = round((len(state[f"body.{last}.bias"]) / 3) ** 0.5)

    def enlarge(image: torch.Tensor) -> torch.Tensor:
        hidden = image
        for n in range(0, last, 2):
            hidden = functional.conv2d(hidden, state[f"body.{n}.weight"], state[f"body.{n}.bias"], padding=1)
            hidden = functional.prelu(hidden, state[f"body.{n + 1}.weight"])
        hidden = functional.conv2d(hidden, state[f"body.{last}.weight"], state[f"body.{last}.bias"], padding=1)
        return functional.pixel_shuffle(hidden, scale) + functional.interpolate(image, scale_factor=scale, mode="nearest")

    def run(picture: Image.Image) -> Image.Image:
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        return Image.fromarray((enlarge(image)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))

    return run


def _larger(side: int, scale: float) -> int:
    return int(side * scale / 8) * 8


def _make(name: str, checkpoint: str, note: str, given: dict) -> None:
    folder = fresh_folder(GOLDENS / "pipelines" / name)
    parameters = {"negative_prompt": "", **given, "seed": str(given["seed"])}
    pipeline = load(checkpoint, StableDiffusionPipeline)
    pipeline.scheduler = _scheduler(pipeline, given["sampler"], given["schedule"], {})
    calls = []
    pipeline.unet.register_forward_pre_hook(lambda _, args, named: calls.append((len(args[0]), float(args[1]))), with_kwargs=True)
    common = {
        "prompt": given["prompt"],
        "negative_prompt": given.get("negative_prompt") or None,
        "guidance_scale": given["guidance_scale"],
        "num_images_per_prompt": given["batch_size"],
        "output_type": "latent",
    }
    generator = lambda: torch.Generator("cpu").manual_seed(given["seed"])
    first = pipeline(**common, width=given["width"], height=given["height"], num_inference_steps=given["steps"], generator=generator()).images
    first_calls = len(calls)
    width, height = (_larger(given[side], given["hires_scale"]) for side in ("width", "height"))
    kind, _, network = given["hires_upscaler"].rpartition(":")
    if kind or network == "lanczos":
        with torch.no_grad():
            decoded = pipeline.vae.decode(first / pipeline.vae.config.scaling_factor).sample
            shots = pipeline.image_processor.postprocess(decoded)
            shots = [upscaler(network)(shot) for shot in shots] if kind else shots
        # AUTOMATIC1111 (modules/upscaler.py) and ComfyUI's ImageScale scale what came out at another size.
        image = [shot.resize((width, height), Image.LANCZOS) for shot in shots]
    else:
        image = functional.interpolate(first, size=(height // 8, width // 8), **MODES[given["hires_upscaler"]])
    again = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    # Latents of a batch are given as they are, so each has its prompt.
    batch = given["batch_size"]
    words = {"prompt": [given["prompt"]] * batch, "negative_prompt": [given.get("negative_prompt", "")] * batch, "num_images_per_prompt": 1}
    latents = again(
        **{**common, **words},
        image=image,
        strength=given["hires_denoising_strength"],
        num_inference_steps=given.get("hires_steps", given["steps"]),
        generator=generator(),
    ).images
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    pixels = np.stack([np.array(shot) for shot in pipeline.image_processor.postprocess(decoded)])
    write_json(folder / "operation.json", {"operation": "image_generation", "config": "stable_diffusion", "parameters": parameters, "record": ["latents"]})
    # The timesteps and levels are those of the first pass.
    pipeline.scheduler.set_timesteps(given["steps"])
    sigmas = getattr(pipeline.scheduler, "sigmas", None)
    write_json(
        folder / "case.json",
        {
            "checkpoint": checkpoint,
            "pipeline": "StableDiffusionPipeline, StableDiffusionImg2ImgPipeline",
            "scheduler": {"class": type(pipeline.scheduler).__name__, "config": _plain(pipeline.scheduler.config)},
            "timesteps": [timestep for _, timestep in calls[:first_calls]],
            "sigmas": None if sigmas is None else digits(sigmas),
            "init_noise_sigma": digits([float(pipeline.scheduler.init_noise_sigma)])[0],
            "unet_calls": len(calls),
            "unet_batch": calls[0][0],
            "note": note,
        },
    )
    write_tensors(folder / "expected.safetensors", {"latents": latents, "pixels": torch.from_numpy(pixels)})
    print(f"{name}: {first_calls} + {len(calls) - first_calls} UNet, latents std {latents.std():.2f}, pixels std {pixels.std():.0f}")


def make_hires() -> None:
    generator = torch.Generator().manual_seed(19)
    latents = torch.randn(2, 4, 5, 7, generator=generator)
    resized = {name: functional.interpolate(latents, size=(8, 12), **options) for name, options in MODES.items()}
    write_tensors(GOLDENS / "latent_resize.safetensors", {"latents": latents, **resized})
    for name, case in CASES.items():
        _make(name, *case)


if __name__ == "__main__":
    make_hires()
