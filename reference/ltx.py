"""
Tiny random pipelines of LTX-Video, and what diffusers makes with them.

As wan.py; diffusers samples no single step with the scheduler of LTX-Video. tiny-ltx has the autoencoder of 0.9.0 with fewer channels, tiny-ltx-095 that of 0.9.5, whose decoder is told how much noise there is, and the pipeline of that version.
"""

import sys

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXLatentUpsamplePipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

import t5
from animate_diff import VIDEOS
from files import GOLDENS, write_tensors
from flow_pipelines import save
from mmdit_pipelines import CHINESE, GERMAN, LONG, SPIECE
from wan import write_case
from pictures import picture
from weightless import hashed

CHANNELS = 16
GAINS = {"transformer": {"scale_shift_table": 2.0, "proj_out": 0.7}, "vae": {"decoder.conv_out": 0.4}}


def transformer() -> LTXVideoTransformer3DModel:
    return LTXVideoTransformer3DModel(in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32, num_layers=2, caption_channels=96)


def autoencoder() -> AutoencoderKLLTXVideo:
    return AutoencoderKLLTXVideo(
        latent_channels=CHANNELS, block_out_channels=(8, 12, 16, 16), decoder_block_out_channels=(8, 12, 16, 16), layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1)
    )


def newer_autoencoder() -> AutoencoderKLLTXVideo:
    return AutoencoderKLLTXVideo(
        latent_channels=CHANNELS, block_out_channels=(8, 16, 16, 32, 32), down_block_types=("LTXVideo095DownBlock3D",) * 4, decoder_block_out_channels=(16, 32, 64), layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1), spatio_temporal_scaling=(True,) * 4, decoder_spatio_temporal_scaling=(True,) * 3, decoder_inject_noise=(False,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"), upsample_residual=(True,) * 3, upsample_factor=(2,) * 3, timestep_conditioning=True, spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )


def upsampler(dims: int) -> LTXLatentUpsamplerModel:
    return LTXLatentUpsamplerModel(in_channels=CHANNELS, mid_channels=32, num_blocks_per_stage=1, dims=dims)


def parts(tokens: int) -> dict:
    words = t5.tokenizer(SPIECE, tokens)
    return dict(text_encoder=t5.t5(len(words)), tokenizer=words, transformer=transformer())


def older() -> LTXPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096, shift_terminal=0.1)
    return LTXPipeline(scheduler=scheduler, vae=autoencoder(), **parts(128))


def newer() -> LTXConditionPipeline:
    return LTXConditionPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), vae=newer_autoencoder(), **parts(256))


# As Lightricks publishes them for 0.9.7 and 0.9.8 distilled.
DISTILLED = dict(timesteps=[1000, 993, 987, 981, 975, 909, 725, 0.03], steps=8, guidance_scale=1)
# The second pass of the authors' example; a timestep of 0 at its end changes nothing.
AGAIN = dict(upsampled_timesteps=[1000, 909, 725, 421], upsampled_steps=4, upsampled_strength=0.999, adain_factor=1, tone_map_compression_ratio=0.6)
NOISE = dict(decode_timestep=0.05, decode_noise_scale=0.025)
CASES = {
    # name: checkpoint, what is special, parameters, picture to start from
    "ltx-text": ("tiny-ltx", "a negative prompt, guidance, not square", dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=4, guidance_scale=3, seed=42, width=64, height=32, frames=17, rate=24), None),
    "ltx-text-plain": ("tiny-ltx", "no guidance, nine frames, Chinese, a slow rate", dict(prompt=CHINESE, steps=3, guidance_scale=1, seed=7, width=96, height=32, frames=9, rate=8), None),
    "ltx-text-single": ("tiny-ltx", "one frame, no words", dict(prompt="", steps=2, guidance_scale=2, seed=3, width=64, height=32, frames=1, rate=25), None),
    "ltx-text-long": ("tiny-ltx", "a prompt that is cut, no negative prompt, so many frames that they are decoded in pieces", dict(prompt=LONG, steps=2, guidance_scale=5, seed=9, width=32, height=32, frames=49, rate=30), None),
    "ltx-text-short": ("tiny-ltx", "the smallest of more than one latent: two steps, nine frames", dict(prompt="an apple 🍎 on the moon", steps=2, guidance_scale=1, seed=4, width=32, height=32, frames=9, rate=25), None),
    "ltx-picture": ("tiny-ltx", "the first frame is given and told a time of its own, guidance", dict(prompt="an oil painting", negative_prompt="photo", steps=4, guidance_scale=2, seed=5, width=32, height=64, frames=17, rate=25), (32, 64, 1)),
    "ltx-picture-scaled": ("tiny-ltx", "from a picture of another size, no guidance", dict(prompt="a watercolour", steps=3, guidance_scale=1, seed=6, width=32, height=64, frames=9, rate=25), (80, 96, 0)),
    "ltx-095-text": ("tiny-ltx-095", "a decoder that is told how much noise there is, German, guidance", dict(prompt=GERMAN, negative_prompt="Tag", steps=5, guidance_scale=4, seed=12, width=64, height=32, frames=25, rate=25, **NOISE), None),
    "ltx-095-text-clean": ("tiny-ltx-095", "the same decoder without noise, in pieces, and a prompt that is cut", dict(prompt=LONG, steps=2, guidance_scale=1, seed=21, width=32, height=32, frames=41, rate=25, decode_timestep=0, decode_noise_scale=0), None),
    "ltx-095-picture": ("tiny-ltx-095", "the first frame is given, guidance", dict(prompt="a ship sets sail", negative_prompt="still", steps=4, guidance_scale=3, seed=13, width=32, height=64, frames=9, rate=25, **NOISE), (32, 64, 2)),
    "ltx-095-ends": ("tiny-ltx-095", "the first and the last frame are given, guidance", dict(prompt="a ship sets sail", negative_prompt="still", steps=4, guidance_scale=3, seed=31, width=32, height=64, frames=17, rate=25, last_image="last_image.png", **NOISE), (32, 64, 2)),
    "ltx-095-last": ("tiny-ltx-095", "the last frame is given, of another size, no guidance", dict(prompt=GERMAN, steps=3, guidance_scale=1, seed=32, width=64, height=32, frames=9, rate=12, last_image="last_image.png", **NOISE), None),
    "ltx-distilled-text": ("tiny-ltx-095", "the timesteps of a distilled checkpoint", dict(prompt="a lighthouse in a storm", seed=41, width=64, height=32, frames=9, rate=24, **DISTILLED, **NOISE), None),
    "ltx-distilled-ends": ("tiny-ltx-095", "the same, between two pictures", dict(prompt="a flower opens", seed=42, width=32, height=32, frames=9, rate=25, last_image="last_image.png", **DISTILLED, **NOISE), (48, 48, 1)),
    "ltx-upsampled": ("tiny-ltx-095", "a second pass at twice the sides, whose latents get back their spread and are tone-mapped, from a picture", dict(prompt="a lighthouse", seed=51, width=32, height=32, frames=9, rate=25, latent_upsampler="import:tiny-ltx-upsampler", **DISTILLED, **AGAIN, **NOISE), (40, 32, 1)),
    "ltx-upsampled-again": ("tiny-ltx-095", "a second pass with the usual schedule and guidance, one frame, an upsampler of single frames", dict(prompt="a lighthouse", negative_prompt="fog", steps=3, guidance_scale=3, seed=52, width=32, height=64, frames=1, rate=25, latent_upsampler="import:tiny-ltx-upsampler-2d", upsampled_steps=5, upsampled_strength=0.5, adain_factor=0.5, **NOISE), None),
    "ltx-upsampled-only": ("tiny-ltx-095", "what was enlarged as it is", dict(prompt="a lighthouse", steps=2, guidance_scale=1, seed=53, width=64, height=32, frames=1, rate=25, latent_upsampler="import:tiny-ltx-upsampler", upsampled_strength=0, tone_map_compression_ratio=1, **NOISE), None),
}
# The picture to end with.
LAST = {"ltx-095-ends": (32, 64, 1), "ltx-095-last": (64, 64, 0), "ltx-distilled-ends": (32, 32, 2)}


class Ending:
    """A pipeline that is given the last frame, too."""

    def __init__(self, pipeline: LTXConditionPipeline, last) -> None:
        self.pipeline, self.last, self.scheduler = pipeline, last, pipeline.scheduler

    def __call__(self, image=None, last_image=None, **call):
        first = [LTXVideoCondition(image=image, frame_index=0)] if image is not None else []
        return self.pipeline(conditions=[*first, LTXVideoCondition(image=self.last, frame_index=call["num_frames"] - 1)], **call)


class InTwoPasses:
    """A pipeline, an upsampler of its latents, and the pipeline again from there."""

    def __init__(self, pipeline: LTXConditionPipeline, upsampler: LTXLatentUpsamplerModel) -> None:
        self.pipeline, self.scheduler = pipeline, pipeline.scheduler
        self.upsample = LTXLatentUpsamplePipeline(vae=pipeline.vae, latent_upsampler=upsampler)
        self.upsample.set_progress_bar_config(disable=True)

    def __call__(self, width, height, generator, output_type, latent_upsampler, adain_factor=0.0, tone_map_compression_ratio=0.0, **call):
        again = {name.removeprefix("upsampled_"): call.pop(name) for name in list(call) if name.startswith("upsampled_")}
        strength, seed = again.pop("strength", 0.4), generator.initial_seed()
        anew = lambda: torch.Generator("cpu").manual_seed(seed)
        first = self.pipeline(width=width, height=height, generator=generator, output_type="latent", **call).frames
        larger = dict(width=2 * width, height=2 * height)
        changed = dict(adain_factor=adain_factor, tone_map_compression_ratio=tone_map_compression_ratio)
        if strength == 0:
            noise = {name: call[name] for name in ("decode_timestep", "decode_noise_scale")}
            return self.upsample(latents=first, **larger, **changed, generator=anew(), output_type=output_type, **noise)
        latents = self.upsample(latents=first, **larger, **changed, output_type="latent").frames
        second = {**call, "num_inference_steps": again.get("steps", 10), "timesteps": again.get("timesteps")}
        return self.pipeline(**larger, **second, latents=latents, denoise_strength=strength, generator=anew(), output_type=output_type)


def unpacked(pipeline, parameters: dict):
    """The latents of a video from the order of its tokens."""
    larger = 2 if "latent_upsampler" in parameters else 1
    frames, rows, columns = (parameters["frames"] - 1) // 8 + 1, larger * parameters["height"] // 32, larger * parameters["width"] // 32
    return lambda latents: latents if latents.ndim == 5 else pipeline._unpack_latents(latents, frames, rows, columns)


def write_encodings(autoencoders: dict) -> None:
    """What the encoders make of a video of 17 frames: the mean, as sampling takes it."""
    made = {}
    for number, (name, vae) in enumerate(autoencoders.items()):
        video = hashed(9000 + number, (1, 3, 17, 64, 32), 1.0, 0.0)
        with torch.no_grad():
            latents = vae.encode(video).latent_dist.mode()
        mean, deviation = (tensor.view(1, -1, 1, 1, 1) for tensor in (vae.latents_mean, vae.latents_std))
        made[name] = ((latents - mean) / deviation).contiguous()
        print(f"{name}: {tuple(latents.shape)} std {made[name].std():.3f}")
    write_tensors(GOLDENS / "ltx_encodings.safetensors", made)


def make_ltx(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    pipelines = {"tiny-ltx": older(), "tiny-ltx-095": newer()}
    for name, pipeline in pipelines.items():
        save(name, pipeline, GAINS)
        pipeline.set_progress_bar_config(disable=True)
    upsamplers = {"tiny-ltx-upsampler": upsampler(3), "tiny-ltx-upsampler-2d": upsampler(2)}
    for name, model in upsamplers.items():
        save(name, LTXLatentUpsamplePipeline(vae=pipelines["tiny-ltx-095"].vae, latent_upsampler=model), {}, only=("latent_upsampler",))
    write_encodings({name: pipeline.vae for name, pipeline in pipelines.items()})
    for name, (checkpoint, about, parameters, source) in CASES.items():
        if only and name not in only:
            continue
        pipeline = pipelines[checkpoint]
        if source is not None and isinstance(pipeline, LTXPipeline):
            pipeline = LTXImageToVideoPipeline(**pipeline.components)
            pipeline.set_progress_bar_config(disable=True)
        order = unpacked(pipeline, parameters)
        last = picture(*LAST[name]) if name in LAST else None
        if "latent_upsampler" in parameters:
            pipeline = InTwoPasses(pipeline, upsamplers[parameters["latent_upsampler"].removeprefix("import:")])
        write_case(name, checkpoint, about, Ending(pipeline, last) if last else pipeline, parameters, source, "ltx", order)
        if last:
            last.save(VIDEOS / name / "last_image.png")


if __name__ == "__main__":
    make_ltx(set(sys.argv[1:]))
