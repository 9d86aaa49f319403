"""
AnimateDiff's motion modules in the one file that their authors publish, without the weights (test/original_layouts), and what diffusers makes with them
and the Stable Diffusion of test/single_files (test/goldens/split_files).

Weights follow from the formula under the file's own names, and what these mean is decided by diffusers' conversion (loaders/single_file_utils.py).
"""

import re

import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, MotionAdapter, PNDMScheduler, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

import animate_diff
from files import fresh_folder
from flow_pipelines import scale_of
from make_checkpoints import PNDM, kl_config
from mmdit_files import shapes_of, write_table
from single_files import FOLDER, RECIPES, tokenizer
from split_flows import RESULTS
from vocabulary import END
from weightless import hashed

PLACES = "pos_embed.pe"


def authors_name(name: str) -> str:
    name = re.sub(r"\.motion_modules\.(\d+)\.", r".motion_modules.\1.temporal_transformer.", name)
    name = re.sub(r"\.attn([12])\.", lambda match: f".attention_blocks.{int(match[1]) - 1}.", name)
    return re.sub(r"\.norm([12])\.", lambda match: f".norms.{int(match[1]) - 1}.", name).replace(".norm3.", ".ff_norm.")


def make() -> None:
    recipe = RECIPES["sd1"]
    stored = {name: value.float() for name, value in load_file(FOLDER / "sd1.safetensors").items()}
    unet = UNet2DConditionModel.from_config(recipe["unet"]).eval()
    unet.load_state_dict(single_file_utils.convert_ldm_unet_checkpoint(dict(stored), recipe["unet"]))
    vae = AutoencoderKL.from_config(kl_config([32, 32, 32, 32], 32)).eval()
    vae.load_state_dict(single_file_utils.convert_ldm_vae_checkpoint(dict(stored), vae.config))
    text = CLIPTextModel(CLIPTextConfig(**{**recipe["text_encoder"], "vocab_size": 49408})).eval()
    words = single_file_utils.convert_ldm_clip_checkpoint(dict(stored))
    short = {name.removeprefix("text_model."): value for name, value in words.items()}
    text.load_state_dict({name: short[name.removeprefix("text_model.")] for name in text.state_dict()})
    adapter = MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=2, motion_num_attention_heads=8, motion_norm_num_groups=32, motion_max_seq_length=24, use_motion_mid_block=True).eval()
    shapes = {authors_name(name): shape for name, shape in shapes_of(adapter).items() if not name.endswith(PLACES)}
    # One for each attention there, and they count for nothing here: diffusers computes them.
    places = {re.sub(r"transformer_blocks\.0\..*", rf"transformer_blocks.0.attention_blocks.{n}.pos_encoder.pe", name): [1, 24, shape[0]] for name, shape in shapes.items() if name.endswith("ff_norm.weight") for n in range(2)}
    table, tensors = [], {}
    for name, shape in sorted((shapes | places).items()):
        scale, add = scale_of(name, shape, 1.0)
        table.append({"number": len(table), "name": name, "shape": shape, "scale": scale, "add": add})
        tensors[name] = hashed(table[-1]["number"], tuple(shape), scale, add)
    missing, unexpected = adapter.load_state_dict(single_file_utils.convert_animatediff_checkpoint_to_diffusers(tensors), strict=False)
    if unexpected or any(not name.endswith(PLACES) for name in missing):
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    write_table("motion", table)
    fresh_folder(RESULTS / "animatediff-file")
    pipeline = AnimateDiffPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer(FOLDER, END), unet=unet, motion_adapter=adapter, scheduler=PNDMScheduler.from_config(PNDM))
    pipeline.set_progress_bar_config(disable=True)
    animate_diff.VIDEOS = RESULTS
    parameters = dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry!", steps=4, guidance_scale=3, seed=42, width=48, height=32, frames=5)
    animate_diff.write_case("animatediff-file", "sd1.safetensors", "motion modules in a file of their own, beside a Stable Diffusion of one file", pipeline, parameters, None)


if __name__ == "__main__":
    make()
