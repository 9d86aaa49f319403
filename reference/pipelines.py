"""Golden pictures: whole operations through diffusers' Stable Diffusion pipelines, from the prompt to the pixels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeZeroStarGuidance, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from files import GOLDENS, digits, fresh_folder, write_json, write_tensors
from models import load
from pictures import picture, soft_mask
from resampling import overlaid
from samplers import ESSENCE, SCHEDULERS
from schedules import COMFYUI, check_against_comfyui, sigma_table

CLASSES = {
    "image_generation": StableDiffusionPipeline,
    "image_transform": StableDiffusionImg2ImgPipeline,
    "image_inpaint": StableDiffusionInpaintPipeline,
}
# What Stable Diffusion XL is told of sizes, by the reference's names.
SIZES = {
    "original_size": ("original_height", "original_width"),
    "crops_coords_top_left": ("crop_top", "crop_left"),
    "target_size": ("target_height", "target_width"),
}
LONG = "a quiet library with tall shelves, a ladder, green lamps, leather chairs, dust in the light, " * 6

# name: checkpoint, what is special, parameters. Sizes are width x height; `image` is the drawn picture's size and variant.
CASES = {
    # Each checkpoint as it comes.
    "sd15-defaults": ("tiny-sd15", "the checkpoint's own scheduler, guidance and a negative prompt", dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry, low quality", steps=4, guidance_scale=7.5, seed=42)),
    "sd21-defaults": ("tiny-sd21", "v-prediction, linear projections, several head counts", dict(prompt="a fox in the forest, morning mist", negative_prompt="watermark!", steps=4, guidance_scale=7.5, seed=0)),
    "turbo-1-step": ("tiny-turbo", "one step, no guidance, tiny autoencoder", dict(prompt="a cat sleeping on a green sofa", steps=1, guidance_scale=0, seed=42)),
    "turbo-4-steps": ("tiny-turbo", "four steps, two pictures of one generator", dict(prompt="a robot made of copper and brass", steps=4, guidance_scale=0, seed=1234567890123, batch_size=2, width=96)),
    "sd15-f16-defaults": ("tiny-sd15-f16", "float16 weights, fp16 variant files, old attention names in the autoencoder", dict(prompt="an old map of an unknown island", steps=3, guidance_scale=7.5, seed=7)),
    "sd21-bf16-defaults": ("tiny-sd21-bf16", "bfloat16 weights", dict(prompt="a bowl of fruit on a wooden table", steps=3, guidance_scale=7.5, seed=7)),
    # Samplers and schedules.
    "sd15-euler-leading": ("tiny-sd15", "start noise times sqrt(sigma^2 + 1)", dict(prompt="a castle and a dragon", steps=3, guidance_scale=7.5, sampler="euler", schedule="leading", seed=4294967295, height=128)),
    "sd15-euler-trailing-unguided": ("tiny-sd15", "guidance 1 is no guidance: the negative prompt does nothing", dict(prompt="a castle and a dragon", negative_prompt="people", steps=5, guidance_scale=1, sampler="euler", schedule="trailing", seed=4294967297)),
    "sd15-euler-normal": ("tiny-sd15", "ComfyUI's normal sigmas", dict(prompt="pine trees in the snow", steps=4, guidance_scale=1.5, sampler="euler", schedule="normal", seed=3)),
    "sd15-euler-simple": ("tiny-sd15", "ComfyUI's simple sigmas; a non-square size whose halves are odd", dict(prompt="pine trees in the snow", steps=3, guidance_scale=1.5, sampler="euler", schedule="simple", seed=3, width=96)),
    "sd15-euler-karras": ("tiny-sd15", "Karras sigmas, fractional timesteps", dict(prompt="neon lights, rain on the street", steps=4, guidance_scale=1.5, sampler="euler", schedule="karras", seed=11)),
    "sd15-ddim-leading": ("tiny-sd15", "the last step ends at the first alpha, not at 1", dict(prompt="a spaceship landing on a distant planet", steps=3, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=42)),
    "sd15-ddim-linspace": ("tiny-sd15", "linspace timesteps", dict(prompt="a spaceship landing on a distant planet", steps=3, guidance_scale=0, sampler="ddim", schedule="linspace", seed=42)),
    "sd15-dpmpp-2m-karras": ("tiny-sd15", "the usual choice, with guidance", dict(prompt="portrait of an old woman with a kind smile", negative_prompt="deformed hands", steps=6, guidance_scale=7.5, sampler="dpmpp_2m", schedule="karras", seed=123456789)),
    "sd15-dpmpp-2m-linspace-batch": ("tiny-sd15", "two pictures with guidance, 96 x 64", dict(prompt="bauhaus poster, blue and yellow", steps=4, guidance_scale=1.5, sampler="dpmpp_2m", schedule="linspace", seed=5, batch_size=2, width=96)),
    "sd15-plms-empty-prompt": ("tiny-sd15", "PLMS reaches order 4; empty prompt", dict(prompt="", steps=5, guidance_scale=1.5, sampler="plms", schedule="leading", seed=0)),
    "sd15-long-prompt": ("tiny-sd15", "the prompt is cut at 77 tokens", dict(prompt=LONG, steps=3, guidance_scale=7.5, sampler="plms", schedule="trailing", seed=9)),
    "sd15-class-default-spacing": ("tiny-sd15", "sampler named, schedule not, and the checkpoint's file has no timestep_spacing: the scheduler class's default (linspace) holds", dict(prompt="a fish in the water", steps=3, guidance_scale=1, sampler="dpmpp_2m", seed=8)),
    "sd21-euler-trailing": ("tiny-sd21", "v-prediction with sigmas", dict(prompt="snow on the roof! smoke from the chimney!", steps=4, guidance_scale=7.5, sampler="euler", schedule="trailing", seed=2)),
    "sd21-dpmpp-2m-karras": ("tiny-sd21", "v-prediction, second order, 64 x 128", dict(prompt="Straße in München im Frühling", steps=4, guidance_scale=7.5, sampler="dpmpp_2m", schedule="karras", seed=2, height=128)),
    "sd21-plms-leading": ("tiny-sd21", "v-prediction, PLMS", dict(prompt="a quiet library", steps=4, guidance_scale=1, sampler="plms", schedule="leading", seed=2)),
    # The prediction chosen by hand. Levels that end in pure noise go with trailing timesteps, as their authors ask.
    "sd15-velocity-ddim": ("tiny-sd15", "v-prediction by hand", dict(prompt="a lantern in the fog", steps=4, guidance_scale=1.5, sampler="ddim", schedule="leading", prediction_type="v_prediction", seed=12)),
    "sd15-velocity-zero-snr-ddim": ("tiny-sd15", "v-prediction and zero terminal SNR by hand", dict(prompt="a lantern in the fog", steps=4, guidance_scale=1.5, sampler="ddim", schedule="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True, seed=12)),
    "sd15-velocity-zero-snr-euler": ("tiny-sd15", "the same with sigmas, of which the first is 4096", dict(prompt="a lantern in the fog", steps=4, guidance_scale=1, sampler="euler", schedule="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True, seed=13)),
    "sd21-noise-by-hand": ("tiny-sd21", "epsilon by hand, where the checkpoint asks for v-prediction; its own scheduler", dict(prompt="a lantern in the fog", steps=3, guidance_scale=1, prediction_type="epsilon", seed=14)),
    # Guidance.
    "sd15-guidance-rescale": ("tiny-sd15", "guidance brought back to the spread of the prompt's own prediction, two pictures", dict(prompt="a storm over the sea", negative_prompt="calm", steps=4, guidance_scale=12, guidance_rescale=0.7, sampler="ddim", schedule="trailing", seed=15, batch_size=2)),
    "sd15-apg": ("tiny-sd15", "projected guidance, shortened, with a part of what lies along; two pictures", dict(prompt="a storm over the sea", negative_prompt="calm", steps=4, guidance_scale=9, guidance_method="apg", apg_eta=0.25, apg_norm_threshold=6.5, sampler="euler", schedule="trailing", seed=15, batch_size=2)),
    "sd21-apg-rescaled": ("tiny-sd21", "projected guidance of velocities at any length, rescaled", dict(prompt="a storm over the sea", steps=4, guidance_scale=7, guidance_method="apg", apg_norm_threshold=0, guidance_rescale=0.4, sampler="ddim", schedule="trailing", seed=16)),
    "sd15-cfg-zero-star": ("tiny-sd15", "CFG-Zero*; two pictures", dict(prompt="a storm over the sea", negative_prompt="calm", steps=4, guidance_scale=5, guidance_method="cfg_zero_star", sampler="ddim", schedule="leading", seed=17, batch_size=2)),
    # Pictures in.
    "sd15-transform-euler-03": ("tiny-sd15", "strength 0.3", dict(prompt="a watercolor", steps=8, guidance_scale=7.5, sampler="euler", schedule="leading", seed=42, image=(64, 64, 0), strength=0.3)),
    "sd15-transform-plms": ("tiny-sd15", "the checkpoint's own PNDM, strength 0.75", dict(prompt="a watercolor", steps=4, guidance_scale=7.5, seed=1, image=(96, 64, 1), width=96, strength=0.75)),
    "sd21-transform-ddim-resized": ("tiny-sd21", "the picture is resized (Lanczos), strength 1.0 is still not pure noise, two pictures from one latent sample", dict(prompt="crayon on paper", steps=3, guidance_scale=1.5, sampler="ddim", schedule="leading", seed=77, image=(100, 75, 2), width=96, strength=1.0, batch_size=2)),
    "turbo-transform": ("tiny-turbo", "tiny autoencoder: no latent sampling, so the generator's first numbers are the noise", dict(prompt="a black and white photograph", steps=4, guidance_scale=0, seed=6, image=(64, 64, 1), strength=0.75)),
    "sd15-transform-dpmpp-2m": ("tiny-sd15", "strength 0.75, Karras", dict(prompt="an oil painting", steps=6, guidance_scale=7.5, sampler="dpmpp_2m", schedule="karras", seed=5, image=(37, 53, 0), strength=0.75)),
    "sd15-inpaint-06": ("tiny-sd15", "strength 0.6, soft mask, not square", dict(prompt="a vase with flowers", steps=6, guidance_scale=7.5, sampler="ddim", schedule="leading", seed=21, image=(96, 64, 2), mask=(96, 64), width=96, strength=0.6, overlay_inpaint=False)),
    "sd21-inpaint-10": ("tiny-sd21", "strength 1.0 starts from pure noise here; picture and mask are resized, and laid over the result", dict(prompt="a vase with flowers", steps=4, guidance_scale=7.5, sampler="euler", schedule="trailing", seed=21, image=(75, 100, 0), mask=(75, 100), height=96, strength=1.0)),
    # What comes with the page, as it is used.
    "builtin-scenes": ("builtin:scenes", "the built-in checkpoint, its own scheduler and size, in few steps", dict(prompt="a castle in a green meadow", negative_prompt="a star", steps=2, guidance_scale=2.5, seed=7, width=128, height=128)),
    "builtin-4-steps": ("builtin:scenes-4-steps", "the distilled checkpoint that comes with the page, as it is used: DDIM, tiny autoencoder, no guidance", dict(prompt="a red apple left of a yellow duck in a green meadow", steps=4, guidance_scale=1, seed=7, width=128, height=128)),
}


def _scheduler(pipeline, sampler: str | None, schedule: str | None, predicts: dict):
    """The scheduler an operation asks for, everything else from the checkpoint's own scheduler_config.json."""
    if sampler is None:
        return type(pipeline.scheduler).from_config(pipeline.scheduler.config, **predicts) if predicts else pipeline.scheduler
    options = {**ESSENCE[sampler], **predicts}
    if schedule in ("leading", "trailing", "linspace"):
        options["timestep_spacing"] = schedule
    elif schedule is not None:
        options["timestep_spacing"] = "linspace"
        options["use_karras_sigmas"] = schedule == "karras"
    return SCHEDULERS[sampler].from_config(pipeline.scheduler.config, **options)


def _guider(parameters: dict):
    """Has diffusers' guider make one prediction of the two, which the pipeline's own guidance then finds to be the same."""
    common = {"guidance_scale": parameters["guidance_scale"], "guidance_rescale": parameters.get("guidance_rescale", 0.0)}
    if parameters["guidance_method"] == "apg":
        guider = AdaptiveProjectedGuidance(
            **common, eta=parameters.get("apg_eta", 0), adaptive_projected_guidance_rescale=parameters.get("apg_norm_threshold", 15)
        )
    else:
        guider = ClassifierFreeZeroStarGuidance(**common, zero_init_steps=0)
        guider.set_state(step=0, num_inference_steps=parameters["steps"], timestep=None)

    def guide(_, __, output):
        uncond, cond = output[0].chunk(2)
        prediction = guider.forward(cond, uncond).pred
        return (torch.cat([prediction, prediction]),)

    return guide


def _plain(config) -> dict:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def make_case(folder: Path, checkpoint: str, note: str, chosen: dict, made_with=load) -> str:
    """Writes one golden into `folder`; `made_with(checkpoint, class)` gives the pipeline."""
    name = fresh_folder(folder).name
    parameters = {"negative_prompt": "", "width": 64, "height": 64, "batch_size": 1, **chosen, "seed": str(chosen["seed"])}
    image, mask, controls, prompts = (parameters.pop(name, None) for name in ("image", "mask", "controls", "image_prompts"))
    operation = "image_inpaint" if mask else "image_transform" if image else "image_generation"
    pipeline = made_with(checkpoint, CLASSES[operation])
    predicts = {name: parameters[name] for name in ("prediction_type", "rescale_betas_zero_snr") if name in parameters}
    pipeline.scheduler = _scheduler(pipeline, parameters.get("sampler"), parameters.get("schedule"), predicts)

    arguments = {
        "prompt": parameters["prompt"],
        # Stable Diffusion XL reads none where none is given, and not an empty one; to the others it is the same.
        "negative_prompt": parameters["negative_prompt"] or None,
        "num_inference_steps": parameters["steps"],
        "guidance_scale": parameters["guidance_scale"],
        "num_images_per_prompt": parameters["batch_size"],
        "generator": torch.Generator("cpu").manual_seed(int(parameters["seed"])),
        "output_type": "latent",
    }
    if "guidance_rescale" in parameters and "guidance_method" not in parameters:
        arguments["guidance_rescale"] = parameters["guidance_rescale"]
    arguments |= {name: tuple(parameters[side] for side in sides) for name, sides in SIZES.items() if sides[0] in parameters}
    if parameters.get("schedule") in COMFYUI:
        arguments["sigmas"] = COMFYUI[parameters["schedule"]](sigma_table(), parameters["steps"])
    if operation != "image_transform":
        arguments |= {"width": parameters["width"], "height": parameters["height"]}
    if image:
        parameters["image"] = "image.png"
        arguments["strength"] = parameters["strength"]
        drawn = picture(*image)
        drawn.save(folder / "image.png")
        # The image-to-image pipeline takes no size: it gets what VaeImageProcessor.resize makes of the picture.
        resized = pipeline.image_processor.resize(drawn, parameters["height"], parameters["width"])
        arguments["image"] = resized if operation == "image_transform" else drawn
    if mask:
        parameters["mask_image"] = "mask.png"
        arguments["mask_image"] = soft_mask(*mask)
        arguments["mask_image"].save(folder / "mask.png")

    if controls:
        arguments |= _control(folder, operation, parameters, controls)
    if prompts:
        arguments["ip_adapter_image"] = _image_prompts(folder, parameters, prompts)

    calls = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda _, given, named: calls.append((len(given[0]), float(given[1]))), with_kwargs=True
    )
    guided = pipeline.unet.register_forward_hook(_guider(parameters)) if "guidance_method" in parameters else hook
    latents = pipeline(**arguments).images
    hook.remove()
    guided.remove()
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    pixels = np.stack([np.array(shot) for shot in pipeline.image_processor.postprocess(decoded)])
    _check(name, latents, pixels)
    if mask and parameters.get("overlay_inpaint", True):
        pixels = np.stack([np.array(overlaid(Image.fromarray(shot), drawn, arguments["mask_image"])) for shot in pixels])

    scheduler = pipeline.scheduler
    sigmas = getattr(scheduler, "sigmas", None)
    named = {"checkpoint": checkpoint} if checkpoint.startswith("builtin:") else {}
    write_json(folder / "operation.json", {"operation": operation, "config": "stable_diffusion", **named, "parameters": parameters, "record": ["latents"]})
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
    clipped = ((pixels == 0) | (pixels == 255)).mean()
    return f"{name}: {len(calls)} x {calls[0][0]} UNet, latents std {latents.std():.2f} max {latents.abs().max():.1f}, pixels std {pixels.std():.0f}, clipped {clipped:.1%}"


def _control(folder: Path, operation: str, parameters: dict, controls: list[tuple[str, tuple, dict]]) -> dict:
    """What a pipeline with ControlNets takes: of each its name, its drawn picture, and weight, start and end where they are not the usual."""
    drawn = [picture(*which) for _, which, _ in controls]
    names = [f"control-{number}.png" for number in range(1, len(controls) + 1)]
    for name, one in zip(names, drawn):
        one.save(folder / name)
    parameters["control_images"] = names
    parameters["controlnets"] = [{"controlnet": name, **chosen} for name, _, chosen in controls]
    each = lambda key, usual: [chosen.get(key, usual) for _, _, chosen in controls]
    scales, starts, ends = each("weight", 1.0), each("start", 0.0), each("end", 1.0)
    single = len(controls) == 1
    kind = controls[0][2].get("kind")
    # Pipelines of unions name the picture alike in all operations, and take kinds by their numbers.
    union = {} if kind is None else {"control_mode": ["pose", "depth", "scribble", "lines", "normal", "segments", "tile", "repaint"].index(kind)}
    guess = {"guess_mode": True} if controls[0][2].get("guess") else {}
    return union | guess | {
        "image" if operation == "image_generation" and not union else "control_image": drawn[0] if single else drawn,
        "controlnet_conditioning_scale": scales[0] if single else scales,
        "control_guidance_start": starts,
        "control_guidance_end": ends,
        "width": parameters["width"],
        "height": parameters["height"],
    }


def _image_prompts(folder: Path, parameters: dict, prompts: list[tuple[str, list[tuple], float]]) -> list[list[Image.Image]]:
    """The pictures for each IP-Adapter: of each its name, its drawn pictures and its weight."""
    drawn = [[picture(*which) for which in pictures] for _, pictures, _ in prompts]
    names = []
    for one in (one for pictures in drawn for one in pictures):
        names.append(f"image-prompt-{len(names) + 1}.png")
        one.save(folder / names[-1])
    parameters["ip_adapter_images"] = names
    parameters["ip_adapters"] = [
        {"ip_adapter": name, "weight": weight, **({"images": len(pictures)} if len(pictures) > 1 else {})} for name, pictures, weight in prompts
    ]
    return drawn


def _check(name: str, latents: torch.Tensor, pixels: np.ndarray) -> None:
    if not latents.isfinite().all():
        raise ValueError(f"{name}: latents are not finite")
    if pixels.std() < 20 or ((pixels == 0) | (pixels == 255)).mean() > 0.2:
        raise ValueError(f"{name}: the picture has no contrast or is clipped")
    if len(pixels) > 1 and np.abs(pixels[0].astype(int) - pixels[1]).mean() < 5:
        raise ValueError(f"{name}: the pictures of the batch are alike")


def make_pipelines() -> None:
    print(f"sigmas agree with ComfyUI in {check_against_comfyui()} cases")
    fresh_folder(GOLDENS / "pipelines")
    for name, (checkpoint, note, parameters) in CASES.items():
        print(make_case(GOLDENS / "pipelines" / name, checkpoint, note, parameters), flush=True)
