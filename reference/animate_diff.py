"""
Tiny random pipelines of AnimateDiff, and what diffusers makes with them.

As flow_pipelines.py: folders of `test/weightless` without weights, and operations in `test/goldens/videos`. tiny-animatediff is laid out as
the pipeline saves itself, its UNet with the motion modules in it; tiny-sd15-motion is a Stable Diffusion with a motion adapter beside it.
"""

import json
import sys

import numpy as np
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from files import CHECKPOINTS as CLIP_FOLDERS
from files import GOLDENS, fresh_folder, write_json, write_tensors
from flow_pipelines import save
from make_checkpoints import text_config
from pictures import picture

VIDEOS = GOLDENS / "videos"

LEVELS = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, sample_size=8)
MOTION = dict(motion_max_seq_length=24, use_motion_mid_block=True)
# Buffers of the network and no weights, whose numbers are near 1; and the last layer, so that what it gives has a sane size.
GAINS = {"pos_embed.pe": 20.0, "conv_out": 0.7}
DDIM = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, timestep_spacing="linspace", steps_offset=1)


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[8, 8, 16, 16],
        layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.18215,
    )


def texts() -> dict:
    return {
        "tokenizer": CLIPTokenizer.from_pretrained(CLIP_FOLDERS / "tiny-sd15" / "tokenizer", pad_token="<|endoftext|>"),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**{**text_config(32, 2, 3, "quick_gelu", 32), "architectures": None})),
    }


def whole() -> AnimateDiffPipeline:
    """Heads differ between spaces and times, and so do the two levels' numbers of heads."""
    unet = UNetMotionModel(
        **LEVELS, down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), cross_attention_dim=32, num_attention_heads=4,
        motion_num_attention_heads=(2, 4), **MOTION,
    )
    adapter = MotionAdapter(block_out_channels=LEVELS["block_out_channels"], motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2, **MOTION)
    return AnimateDiffPipeline(vae=autoencoder(), **texts(), unet=unet, motion_adapter=adapter, scheduler=DDIMScheduler(**DDIM))


class Parts:
    """What `save` asks a pipeline for."""

    def __init__(self, unet, adapter, **others):
        self.unet, self.motion_adapter = unet, adapter
        for name, part in others.items():
            setattr(self, name, part)

    def save_pretrained(self, folder) -> None:
        for name in ("text_encoder", "tokenizer", "unet", "vae", "scheduler", "motion_adapter"):
            getattr(self, name).save_pretrained(folder / name)
        classes = {name: ["transformers" if name.startswith("t") else "diffusers", type(getattr(self, name)).__name__] for name in ("text_encoder", "tokenizer", "unet", "vae", "scheduler")}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **classes}) + "\n")


def beside() -> Parts:
    unet = UNet2DConditionModel(
        **LEVELS, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, attention_head_dim=4,
    )
    # Without a module in the middle, as the first and the third version of the published ones are.
    adapter = MotionAdapter(block_out_channels=LEVELS["block_out_channels"], motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=4, motion_max_seq_length=24, use_motion_mid_block=False)
    return Parts(unet, adapter, vae=autoencoder(), **texts(), scheduler=EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1))


CASES = {
    # name: checkpoint, what is special, parameters, picture to start from
    "animatediff-text": ("tiny-animatediff", "as its pipeline saves it; a negative prompt, guidance, not square, an odd number of frames", dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=3, guidance_scale=3, seed=42, width=40, height=56, frames=5), None),
    "animatediff-text-plain": ("tiny-animatediff", "no guidance, as many frames as there are places", dict(prompt="a fox", steps=2, guidance_scale=1, seed=7, width=32, height=32, frames=24), None),
    "animatediff-text-single": ("tiny-animatediff", "one frame, no words", dict(prompt="", steps=2, guidance_scale=2, seed=3, width=48, height=32, frames=1), None),
    "animatediff-picture": ("tiny-animatediff", "from a picture that every frame starts as", dict(prompt="an oil painting", negative_prompt="photo", steps=4, guidance_scale=2, seed=5, width=40, height=32, strength=0.6, frames=6), (40, 32, 1)),
    "animatediff-picture-all": ("tiny-animatediff", "from a picture, strength 1, no guidance", dict(prompt="a watercolour", steps=3, guidance_scale=1, seed=6, width=32, height=48, strength=1.0, frames=3), (32, 48, 0)),
    "animatediff-beside-text": ("tiny-sd15-motion", "a motion adapter beside a Stable Diffusion; the sampler draws noise in each step", dict(prompt="a lantern in the fog", negative_prompt="day", steps=3, guidance_scale=2.5, seed=12, width=56, height=40, frames=7), None),
    "animatediff-beside-plain": ("tiny-sd15-motion", "a motion adapter beside a Stable Diffusion, no guidance", dict(prompt="Über den Dächern von Köln", steps=2, guidance_scale=0, seed=9, width=32, height=40, frames=16), None),
    "animatediff-beside-picture": ("tiny-sd15-motion", "from a picture, noise in each step", dict(prompt="an oil painting", steps=5, guidance_scale=2, seed=8, width=40, height=40, strength=0.5, frames=4), (40, 40, 2)),
}


def write_case(name: str, checkpoint: str, about: str, pipeline, parameters: dict, source: tuple | None) -> None:
    """One operation, to its latents [frames, channels, height, width] and the pixels of all frames."""
    folder = fresh_folder(VIDEOS / name)
    call = dict(parameters)
    given = {"prompt": call.pop("prompt"), "num_inference_steps": call.pop("steps"), "guidance_scale": call.pop("guidance_scale"), "width": call.pop("width"), "height": call.pop("height")}
    if "negative_prompt" in call:
        given["negative_prompt"] = call.pop("negative_prompt")
    seed, frames = call.pop("seed"), call.pop("frames")
    shown = {}
    if source is None:
        given["num_frames"] = frames
    else:
        image = picture(*source)
        image.save(folder / "image.png")
        given.update(video=[image] * frames, strength=call.pop("strength"))
        parameters = {**parameters, "image": "image.png"}
        shown = {"image": torch.from_numpy(np.asarray(image).copy())}
    if call:
        raise ValueError(f"left over: {call}")
    run = lambda output: pipeline(**given, generator=torch.Generator("cpu").manual_seed(seed), output_type=output).frames
    with torch.no_grad():
        latents = run("latent")[0].permute(1, 0, 2, 3)
        pixels = (run("np")[0] * 255).round().astype("uint8")
    spread = (pixels.min(), int(np.median(pixels)), pixels.max(), float(np.abs(pixels[1:].astype(float) - pixels[:-1]).mean()) if frames > 1 else 0)
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, pixels {pixels.shape} {spread}")
    write_json(folder / "operation.json", {"operation": "video_generation", "config": "animatediff", "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": checkpoint, "timesteps": [float(t) for t in pipeline.scheduler.timesteps]})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "pixels": torch.from_numpy(pixels), **shown})


def make_animate_diff(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    made, parts = whole(), beside()
    save("tiny-animatediff", made, {"unet": GAINS})
    save("tiny-sd15-motion", parts, {"unet": GAINS, "motion_adapter": GAINS})
    both = AnimateDiffPipeline(vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=parts.unet, motion_adapter=parts.motion_adapter, scheduler=parts.scheduler)
    for name, (checkpoint, about, parameters, source) in CASES.items():
        if only and name not in only:
            continue
        pipeline = made if checkpoint == "tiny-animatediff" else both
        if source is not None:
            own = {key: value for key, value in pipeline.components.items() if key not in ("feature_extractor", "image_encoder")}
            pipeline = AnimateDiffVideoToVideoPipeline(**own)
        pipeline.set_progress_bar_config(disable=True)
        write_case(name, checkpoint, about, pipeline, parameters, source)


if __name__ == "__main__":
    make_animate_diff(set(sys.argv[1:]))
