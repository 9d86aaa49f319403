"""
Tiny random pipelines of Wan 2.1 and 2.2, and what diffusers makes with them.

As flow_pipelines.py: folders of `test/weightless` without weights, and operations in `test/goldens/videos`. The pipelines want ftfy, which
leaves these prompts as they are.
"""

import sys

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

import t5
from animate_diff import VIDEOS
from files import fresh_folder, write_json, write_tensors
from flow_pipelines import save
from mmdit_pipelines import CHINESE, GERMAN, LONG, SPIECE
from pictures import picture

UNIPC = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
TRANSFORMER = dict(num_attention_heads=2, attention_head_dim=16, text_dim=96, freq_dim=32, ffn_dim=64, num_layers=2)
# Tables of shifts, scales and gates are no weights of a layer: their numbers are small beside 1.
GAINS = {"transformer": {"scale_shift_table": 2.0, "proj_out": 0.7, "pos_embed": 5.0}, "transformer_2": {"scale_shift_table": 2.0, "proj_out": 0.7}}


def texts() -> dict:
    words = t5.tokenizer(SPIECE, 512)
    return {"tokenizer": words, "text_encoder": t5.umt5(len(words))}


def transformer(latents: int, shown: int = 0, **more) -> WanTransformer3DModel:
    return WanTransformer3DModel(in_channels=latents + shown, out_channels=latents, **TRANSFORMER, **more)


def autoencoder() -> AutoencoderKLWan:
    """As 2.1 has it, with fewer channels."""
    return AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True])


def larger_autoencoder() -> AutoencoderKLWan:
    """As TI2V-5B has it: cells of 2x2 pixels as channels, and shortcuts past each level."""
    mean, deviation = [round(0.3 * ((7 * k) % 5 - 2), 4) for k in range(24)], [round(0.5 + 0.1 * ((3 * k) % 7), 4) for k in range(24)]
    return AutoencoderKLWan(
        base_dim=8, decoder_base_dim=12, z_dim=24, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True], is_residual=True, in_channels=12, out_channels=12,
        patch_size=2, scale_factor_spatial=16, latents_mean=mean, latents_std=deviation,
    )


def text_or_picture_to_video() -> WanPipeline:
    return WanPipeline(**texts(), vae=larger_autoencoder(), scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), transformer=transformer(24), expand_timesteps=True)


def experts() -> WanPipeline:
    return WanPipeline(**texts(), vae=autoencoder(), scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), transformer=transformer(16), transformer_2=transformer(16), boundary_ratio=0.875)


def picture_to_video() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        **texts(), vae=autoencoder(), scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), image_encoder=None, image_processor=None, transformer=transformer(16, 20), transformer_2=transformer(16, 20), boundary_ratio=0.9
    )


EYES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=30, patch_size=10, hidden_act="gelu")
PARTS = (EYES["image_size"] // EYES["patch_size"]) ** 2 + 1


def seen_picture_to_video(pictures: int) -> WanImageToVideoPipeline:
    """As 2.1 has it: CLIP sees the picture, or the first and the last one."""
    side = EYES["image_size"]
    return WanImageToVideoPipeline(
        **texts(), vae=autoencoder(), scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), image_encoder=CLIPVisionModel(CLIPVisionConfig(**EYES)),
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        transformer=transformer(16, 20, image_dim=EYES["hidden_size"], added_kv_proj_dim=32, pos_embed_seq_len=pictures * PARTS if pictures > 1 else None),
    )


def text_to_video() -> WanPipeline:
    return WanPipeline(**texts(), vae=autoencoder(), scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), transformer=transformer(16))


CASES = {
    # name: checkpoint, what is special, parameters, picture to start from
    "wan-text": ("tiny-wan", "a negative prompt, guidance, not square, UniPC", dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=4, guidance_scale=3, seed=42, width=48, height=64, frames=9), None),
    "wan-text-plain": ("tiny-wan", "no guidance, five frames, Chinese", dict(prompt=CHINESE, steps=3, guidance_scale=1, seed=7, width=64, height=32, frames=5), None),
    "wan-text-single": ("tiny-wan", "one frame, no words, one step", dict(prompt="", steps=1, guidance_scale=2, seed=3, width=32, height=48, frames=1), None),
    "wan-text-long": ("tiny-wan", "a prompt that is cut, thirteen frames, no negative prompt", dict(prompt=LONG * 3, steps=2, guidance_scale=5, seed=9, width=32, height=32, frames=13), None),
    "wan-text-german": ("tiny-wan", "German with marks of HTML and odd spaces, seventeen frames", dict(prompt=f"  {GERMAN} &amp;amp; &lt;Nebel&gt;\n ", negative_prompt="Tag", steps=5, guidance_scale=4, seed=12, width=48, height=32, frames=17), None),
    "wan-text-short": ("tiny-wan", "the smallest of more than one piece: one step, five frames", dict(prompt="an apple 🍎 on the moon", steps=1, guidance_scale=1, seed=4, width=32, height=16, frames=5), None),
    "wan-ti2v-text": ("tiny-wan-ti2v", "latents of the larger autoencoder, Euler, guidance, not square", dict(prompt="a lantern in the fog", negative_prompt="day", steps=4, guidance_scale=3, seed=21, width=64, height=96, frames=9), None),
    "wan-ti2v-picture": ("tiny-wan-ti2v", "the first frame is given and told a time of its own, guidance", dict(prompt="an oil painting", negative_prompt="photo", steps=4, guidance_scale=2, seed=5, width=96, height=64, frames=9), (96, 64, 1)),
    "wan-ti2v-picture-scaled": ("tiny-wan-ti2v", "from a picture of another size, no guidance", dict(prompt="a watercolour", steps=3, guidance_scale=1, seed=6, width=32, height=64, frames=5), (80, 96, 0)),
    "wan-experts-text": ("tiny-wan-experts", "two experts, guidance", dict(prompt="a fox", negative_prompt="blurry", steps=6, guidance_scale=3, seed=8, width=48, height=48, frames=5), None),
    "wan-i2v-picture": ("tiny-wan-i2v", "two experts that are shown a picture and which frames are given, guidance", dict(prompt="a ship sets sail", negative_prompt="still", steps=5, guidance_scale=2.5, seed=13, width=48, height=32, frames=9), (48, 32, 2)),
    "wan-i2v-picture-single": ("tiny-wan-i2v", "one frame from a picture, no guidance, German", dict(prompt=GERMAN, steps=3, guidance_scale=1, seed=14, width=32, height=32, frames=1), (32, 32, 1)),
    "wan-i2v-ends": ("tiny-wan-i2v", "two experts that are shown the first and the last picture, guidance", dict(prompt="a flower opens", negative_prompt="still", steps=3, guidance_scale=2, seed=15, width=32, height=32, frames=9), (32, 32, 0), (48, 32, 1)),
    "wan21-i2v-picture": ("tiny-wan21-i2v", "CLIP sees the picture, which is of another size, guidance", dict(prompt="a ship sets sail", negative_prompt="still", steps=4, guidance_scale=3, seed=16, width=48, height=32, frames=9), (64, 80, 2)),
    "wan21-i2v-picture-single": ("tiny-wan21-i2v", "one frame from a picture that CLIP sees, no guidance, German", dict(prompt=GERMAN, steps=3, guidance_scale=1, seed=17, width=32, height=32, frames=1), (32, 32, 1)),
    "wan21-flf2v-ends": ("tiny-wan21-flf2v", "CLIP sees the first and the last picture, guidance", dict(prompt="a flower opens", negative_prompt="blurry", steps=3, guidance_scale=2.5, seed=18, width=32, height=48, frames=9), (32, 48, 0), (64, 32, 1)),
    "wan21-flf2v-ends-plain": ("tiny-wan21-flf2v", "the same of five frames, no guidance, Chinese", dict(prompt=CHINESE, steps=2, guidance_scale=1, seed=19, width=32, height=32, frames=5), (40, 40, 2), (32, 32, 0)),
}


def write_case(name: str, checkpoint: str, about: str, pipeline, parameters: dict, source: tuple | None, config: str = "wan", unpacked=lambda latents: latents, last: tuple | None = None) -> None:
    """One operation, to its latents [1, channels, frames, height, width] and the pixels of all frames. @param unpacked makes the former of what the pipeline gives"""
    folder = fresh_folder(VIDEOS / name)
    call = dict(parameters)
    renamed = {"steps": "num_inference_steps", "frames": "num_frames", "rate": "frame_rate"}
    seed = call.pop("seed")
    given = {renamed.get(key, key): value for key, value in call.items()}
    shown = {}
    if source is not None:
        image = picture(*source)
        image.save(folder / "image.png")
        given["image"] = image
        parameters = {**parameters, "image": "image.png"}
        shown = {"image": torch.from_numpy(np.asarray(image).copy())}
    if last is not None:
        given["last_image"] = picture(*last)
        given["last_image"].save(folder / "last_image.png")
        parameters = {**parameters, "last_image": "last_image.png"}
    run = lambda output: pipeline(**given, generator=torch.Generator("cpu").manual_seed(seed), output_type=output).frames
    with torch.no_grad():
        latents = unpacked(run("latent"))
        pixels = (run("np")[0] * 255).round().astype("uint8")
    spread = (pixels.min(), int(np.median(pixels)), pixels.max(), float(np.abs(pixels[1:].astype(float) - pixels[:-1]).mean()) if len(pixels) > 1 else 0)
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, pixels {pixels.shape} {spread}")
    write_json(folder / "operation.json", {"operation": "video_generation", "config": config, "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": checkpoint, "timesteps": [float(t) for t in pipeline.scheduler.timesteps]})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "pixels": torch.from_numpy(pixels), **shown})


def make_wan(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    pipelines = {"tiny-wan": text_to_video(), "tiny-wan-ti2v": text_or_picture_to_video(), "tiny-wan-experts": experts(), "tiny-wan-i2v": picture_to_video(), "tiny-wan21-i2v": seen_picture_to_video(1), "tiny-wan21-flf2v": seen_picture_to_video(2)}
    for name, pipeline in pipelines.items():
        # transformers 5 has dropped a prefix that the published files have.
        save(name, pipeline, GAINS, {"image_encoder": "vision_model."} if name == "tiny-wan21-i2v" else {})
        pipeline.set_progress_bar_config(disable=True)
    for name, (checkpoint, about, parameters, source, *last) in CASES.items():
        if only and name not in only:
            continue
        pipeline = pipelines[checkpoint]
        if source is not None and not isinstance(pipeline, WanImageToVideoPipeline):
            pipeline = WanImageToVideoPipeline(**pipeline.components, image_encoder=None, image_processor=None, expand_timesteps=True)
            pipeline.set_progress_bar_config(disable=True)
        write_case(name, checkpoint, about, pipeline, parameters, source, last=last[0] if last else None)


if __name__ == "__main__":
    make_wan(set(sys.argv[1:]))
