"""
Tiny random pipelines of Stable Diffusion 3, 3.5 and FLUX.1, and what diffusers makes with them; T5 and UMT5 as text encoders.

As flow_pipelines.py: folders of `test/weightless` without weights, operations in `test/goldens/transformers`, and hidden states in
`test/goldens/t5_states.json`. Beside requirements.txt it wants sentencepiece 0.2.3, for the vocabulary alone.
"""

import json
import sys

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.t5.modeling_t5 import T5Attention

import t5
from files import CHECKPOINTS as CLIP_FOLDERS
from files import GOLDENS, fresh_folder, write_rows
from flow_pipelines import ABOUT, CHECKPOINTS, PROMPTS, TEXT, autoencoder, fill, results, save, write_case
from make_checkpoints import text_config

SPIECE = t5.train(TEXT.strip().split("\n"), PROMPTS)
# A buffer of the network and no weight, whose numbers are near 1.
GAINS = {"transformer": {"pos_embed.pos_embed": 64.0}}


def clip_tokenizer(name: str, pad: str) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(CLIP_FOLDERS / name / "tokenizer", pad_token=pad)


def clips(projected: bool) -> dict:
    """The smaller of CLIP's text encoders, as FLUX.1 (not projected) and Stable Diffusion 3 have it."""
    config = {**text_config(32, 2, 3, "quick_gelu", 32), "architectures": None}
    return {"tokenizer": clip_tokenizer("tiny-sd15", "<|endoftext|>"), "text_encoder": (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**config))}


def stable_diffusion_3(has_t5: bool, **transformer) -> StableDiffusion3Pipeline:
    words = t5.tokenizer(SPIECE, 512) if has_t5 else None
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, 1.5305, 0.0609),
        **clips(True),
        tokenizer_2=clip_tokenizer("tiny-sd21", "!"),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**{**text_config(48, 3, 3, "gelu", 40), "architectures": None})),
        tokenizer_3=words,
        text_encoder_3=t5.t5(len(words)) if has_t5 else None,
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=16, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=96, caption_projection_dim=32, pooled_projection_dim=72, out_channels=16,
            pos_embed_max_size=12, **transformer,
        ),
    )


def flux1(guided: bool) -> FluxPipeline:
    words = t5.tokenizer(SPIECE, 512)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0) if guided else FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder(16, 0.3611, 0.1159),
        **clips(False),
        tokenizer_2=words,
        text_encoder_2=t5.t5(len(words)),
        transformer=FluxTransformer2DModel(
            in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=96, pooled_projection_dim=32, guidance_embeds=guided, axes_dims_rope=(4, 6, 6)
        ),
    )


def shifted_results(pipeline, drawn):
    """The inpainting pipeline leaves the autoencoder's shift out when it decodes, unlike its siblings; its latents are decoded as theirs."""
    latents, _ = results(pipeline, drawn)
    vae = pipeline.vae
    decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
    return latents, pipeline.image_processor.postprocess(decoded, output_type="np")


def unpacked_results(pipeline, drawn):
    packed, images = results(pipeline, drawn)
    call = drawn()
    return pipeline._unpack_latents(packed, call["height"], call["width"], pipeline.vae_scale_factor), images


GERMAN = "Über den Dächern von Köln hängt Nebel; ein großer grauer Hund schläft am Fluss"
CHINESE = "一只猫坐在窗边，外面下着雪"
LONG = "the quick brown fox jumps over the lazy dog, " * 20

SD3 = {
    # name: checkpoint, what is special, parameters, picture to start from
    "sd3-text": ("tiny-sd3", "without T5, with a negative prompt; not square, odd in patches", dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=4, guidance_scale=3, seed=42, width=80, height=112), None),
    "sd3-text-batch": ("tiny-sd3", "two pictures of one generator, no guidance", dict(prompt=CHINESE, steps=2, guidance_scale=1, seed=7, width=64, height=48, batch_size=2), None),
    "sd3-transform": ("tiny-sd3", "from a picture, with guidance", dict(prompt="an oil painting", steps=4, guidance_scale=2, seed=5, width=80, height=64, strength=0.6), (80, 64, 1)),
    "sd3-inpaint": ("tiny-sd3", "in the white part of a soft mask, with guidance, two pictures", dict(prompt="a vase with flowers", negative_prompt="blurry", steps=5, guidance_scale=2, seed=21, width=80, height=64, strength=0.7, batch_size=2, overlay_inpaint=False, mask=True), (80, 64, 2)),
    "sd3-outpaint": ("tiny-sd3", "two sides, a soft seam, strength 0.8", dict(prompt="a harbour at night", negative_prompt="fog", steps=4, guidance_scale=2, seed=23, width=64, height=64, strength=0.8, outpaint_right=16, outpaint_top=16, outpaint_feather=6, overlay_inpaint=False), (48, 48, 1)),
    "sd35-text": ("tiny-sd35", "T5, dual attention and norms of queries and keys; guidance, German", dict(prompt=GERMAN, negative_prompt="blurry", steps=4, guidance_scale=4, seed=1, width=112, height=80), None),
    "sd35-text-long": ("tiny-sd35", "a prompt that CLIP and T5 both cut", dict(prompt=LONG, steps=2, guidance_scale=1, seed=9, width=48, height=64), None),
    "sd35-text-empty": ("tiny-sd35", "no words, largest size", dict(prompt="", steps=2, guidance_scale=2.5, seed=3, width=192, height=64), None),
    "sd35-skip-layers": ("tiny-sd35", "skip-layer guidance in some of the steps", dict(prompt="a lantern in the fog", negative_prompt="day", steps=6, guidance_scale=3.5, seed=12, width=64, height=80, skip_guidance_layers=[1, 2], skip_layer_guidance_scale=2.8, skip_layer_guidance_start=0.1, skip_layer_guidance_stop=0.6), None),
    "sd35-skip-layers-batch": ("tiny-sd35", "skip-layer guidance in the usual steps, two pictures", dict(prompt="a fox", steps=12, guidance_scale=2, seed=13, width=48, height=48, batch_size=2, skip_guidance_layers=[0]), None),
    "sd35-transform": ("tiny-sd35", "strength 1, no guidance", dict(prompt="a watercolour", steps=3, guidance_scale=1, seed=6, width=64, height=96, strength=1.0), (64, 96, 0)),
    "sd35-inpaint": ("tiny-sd35", "strength 1", dict(prompt="a vase with flowers", steps=3, guidance_scale=1.5, seed=22, width=64, height=96, strength=1.0, overlay_inpaint=False, mask=True), (64, 96, 0)),
}

FLUX = {
    "flux1-dev": ("tiny-flux1-dev", "embedded guidance and a dynamic shift; not square, odd in tokens", dict(prompt="a red house at the edge of the forest", steps=4, guidance_scale=3.5, seed=42, width=80, height=112), None),
    "flux1-dev-batch": ("tiny-flux1-dev", "two pictures of one generator, German, another guidance", dict(prompt=GERMAN, steps=3, guidance_scale=1.5, seed=7, width=64, height=48, batch_size=2), None),
    "flux1-dev-transform": ("tiny-flux1-dev", "from a picture", dict(prompt="an oil painting", steps=5, guidance_scale=2.5, seed=5, width=80, height=64, strength=0.6), (80, 64, 1)),
    "flux1-schnell": ("tiny-flux1-schnell", "no guidance, SentencePiece's own file alone", dict(prompt="an apple 🍎 on the moon", steps=4, guidance_scale=0, seed=3, width=96, height=64), None),
    "flux1-schnell-long": ("tiny-flux1-schnell", "a prompt that CLIP and T5 both cut", dict(prompt=LONG * 3, steps=2, guidance_scale=0, seed=9, width=48, height=64), None),
    "flux1-schnell-transform": ("tiny-flux1-schnell", "strength 0.9, two pictures", dict(prompt=CHINESE, steps=4, guidance_scale=0, seed=8, width=64, height=64, strength=0.9, batch_size=2), (64, 64, 2)),
}


def text_states(checkpoint: str, folder: str, words, encoder, length: int, masked: bool) -> list[dict]:
    """What T5 makes of the prompts: all their tokens and a few numbers of some hidden states."""
    rows = []
    older = t5.older(words)
    for prompt in PROMPTS:
        inputs = words(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        if older.encode(prompt).ids != words(prompt).input_ids:
            raise ValueError(f"both layouts of tokenizer.json mean the same: {prompt}")
        with torch.no_grad():
            states = encoder(inputs.input_ids, **({"attention_mask": inputs.attention_mask} if masked else {}))[0][0]
        kept = int(inputs.attention_mask.sum())
        tokens = sorted({0, min(9, kept - 1), kept - 1, *([] if masked else [length - 1])})
        rows.append({"checkpoint": checkpoint, "folder": folder, "prompt": prompt, "masked": masked, "length": length, "ids": inputs.input_ids[0][:kept].tolist(), "all": len(words(prompt).input_ids), "tokens": tokens, "states": [[float(f"{value:.6g}") for value in states[token]] for token in tokens]})
    return rows


def save_umt5() -> tuple:
    """A checkpoint of nothing but its text encoder."""
    folder = fresh_folder(CHECKPOINTS / "tiny-umt5")
    words = t5.tokenizer(SPIECE, 512)
    encoder = t5.umt5(len(words))
    table = fill(encoder, 0, 1.0, {})
    encoder.config.save_pretrained(folder / "text_encoder")
    words.save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"]}) + "\n")
    rows = ",\n".join("      " + json.dumps(row) for row in table)
    (folder / "weights.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "files": [\n    {{"path": "text_encoder/model.safetensors", "tensors": [\n{rows}\n    ]}}\n  ]\n}}\n')
    return words, encoder


def make_mmdit_pipelines(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    plain = stable_diffusion_3(False, num_layers=3)
    newer = stable_diffusion_3(True, num_layers=4, qk_norm="rms_norm", dual_attention_layers=(0, 1))
    dev, schnell = flux1(True), flux1(False)
    pipelines = {"tiny-sd3": plain, "tiny-sd35": newer, "tiny-flux1-dev": dev, "tiny-flux1-schnell": schnell}
    for name, pipeline in pipelines.items():
        save(name, pipeline, GAINS)
        pipeline.set_progress_bar_config(disable=True)
    for path in (CHECKPOINTS / "tiny-flux1-schnell" / "tokenizer_2").iterdir():
        path.unlink()
    (CHECKPOINTS / "tiny-flux1-schnell" / "tokenizer_2" / "spiece.model").write_bytes(SPIECE)
    for name, (checkpoint, about, parameters, source) in {**SD3, **FLUX}.items():
        if only and name not in only:
            continue
        pipeline, is_flux, how = pipelines[checkpoint], name.startswith("flux"), results
        if source is not None:
            kinds = (FluxImg2ImgPipeline, None) if is_flux else (StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline)
            pipeline = kinds["overlay_inpaint" in parameters](**pipeline.components)
            pipeline.set_progress_bar_config(disable=True)
            how = shifted_results if "overlay_inpaint" in parameters else results
        write_case(name, checkpoint, "flux1" if is_flux else "stable_diffusion_3", about, pipeline, parameters, source, unpacked_results if is_flux else how)
    if only:
        return
    words, encoder = save_umt5()
    rows = text_states("tiny-sd35", "text_encoder_3", newer.tokenizer_3, newer.text_encoder_3, 256, False) + text_states("tiny-umt5", "text_encoder", words, encoder, 64, True)
    about = "Prompts as tokens, and hidden states of T5 and UMT5 at some of these, with transformers; `buckets`: the row of the table for each distance back from a token."
    buckets = T5Attention._relative_position_bucket(-torch.arange(512)).tolist()
    write_rows(GOLDENS / "t5_states.json", {"about": about, "buckets": buckets}, "cases", rows)


if __name__ == "__main__":
    make_mmdit_pipelines(set(sys.argv[1:]))
