"""
FLUX.3 klein in its original layout, distilled and base, without the weights (test/original_layouts/flux3.json), and what diffusers makes with the same
networks (test/goldens/split_files). Called by split_files.py; `python reference/flux3_files.py` makes these alone.

As split_flows.py: weights follow from the formula under the files' own names, and what these mean is decided by diffusers' conversion
(loaders/single_file_utils.py). The base model is the same without the embedder of the step that a step leads to. The text encoder is named as
transformers and ComfyUI name Qwen3-VL's parts, eyes included; the autoencoder as diffusers does.
"""

import re

import torch
from diffusers import AutoencoderKLFlux2, Flux3Transformer2DModel
from diffusers.loaders import single_file_utils

import flow_pipelines
from flow_pipelines import tokenizer
from flux3_pipelines import AFTER, modular, qwen3_vl, results
from mmdit_files import load, prefixed, shapes_of, without, write_table
from split_flows import FILES, RESULTS, TRANSFORMER, filled, through_gguf

READER = "text_encoders.qwen3vl_4b.transformer."

# The conversion backwards, for names alone.
LAYERS = [
    (r"^x_embedders\.", "emb_in."),
    (r"^context_embedder\.", "txt_in."),
    (r"^(target_)?timestep_embedder\.linear_([12])\.", lambda m: f"{'ref_' if m[1] else ''}time_in.{'in' if m[2] == '1' else 'out'}_layer."),
    (r"^proj_out\.", "final_layer.image.linear."),
    (r"^norm_out\.linear\.", "final_layer.image.adaLN_modulation.1."),
    (r"^mode_blocks\.", "content_mode_blocks."),
    (r"^single_transformer_blocks\.", "single_blocks."),
    (r"(_stream_modulations\.\w+)\.linear\.", r"\1.lin."),
]
PARTS = [
    (r"\.attn\.to_([qkv])\.", r".\1_proj."),
    (r"\.attn\.to_out\.0\.", ".attn_out."),
    (r"\.attn\.norm_([qk])\.weight$", lambda m: f".norm.{'query' if m[1] == 'q' else 'key'}_norm.scale"),
    (r"\.ff\.linear_(in|out)\.", r".mlp_\1."),
]


def original_name(name: str) -> str:
    for pattern, replacement in LAYERS + PARTS:
        name = re.sub(pattern, replacement, name)
    return name


def networks(distilled: bool):
    words = tokenizer()
    transformer = Flux3Transformer2DModel(
        in_channels=32, cond_in_channels=32, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=1, joint_attention_dim=16 * len(AFTER), axes_dims_rope=(8, 8, 8, 8), flow_map=distilled
    )
    # Groups of 32, as in every published checkpoint, since no shape tells them.
    vae = AutoencoderKLFlux2(block_out_channels=[32] * 4, layers_per_block=1, latent_channels=8, norm_num_groups=32)
    return words, transformer, qwen3_vl(len(words), 16, 33), vae


def pipeline_of(tensors: dict[str, torch.Tensor], distilled: bool):
    words, transformer, reader, vae = networks(distilled)
    load(transformer, single_file_utils.convert_flux3_transformer_checkpoint_to_diffusers(without(tensors, TRANSFORMER)))
    states = without(tensors, READER)
    load(reader, {**states, "lm_head.weight": states["model.language_model.embed_tokens.weight"]})
    own = without(tensors, "vae.")
    load(vae, {name: own.get(name, value) for name, value in vae.state_dict().items()})
    return modular(distilled, words, text_encoder=reader, vae=vae, transformer=transformer)


ABOUT_CASES = {
    # name: what is special, whether it is distilled, parameters
    "flux3": ("files of its original layout, a picture is shown", True, dict(prompt="make it night", steps=3, guidance_scale=1, seed=5, width=80, height=64, images=[(50, 74, 2)])),
    "flux3-gguf": ("its transformer a GGUF of several types", True, dict(prompt="a red house at the edge of the forest", steps=3, guidance_scale=1, seed=42, width=64, height=80)),
    "flux3-base": ("files of its original layout that was not distilled, with guidance", False, dict(prompt="Über den Dächern von Köln hängt Nebel", negative_prompt="blurry", steps=3, guidance_scale=3.5, seed=1, width=64, height=48)),
}
TYPES = [(r"\.scale$", "F32"), (r"^(emb_in|txt_in|final_layer)\.", "BF16"), (r"_modulations\.", "Q5_1"), (r"\.mlp_", "Q8_0"), (r"time_in\.", "Q4_1"), (r"", "Q4_0")]


def make_flux3_files() -> None:
    _, transformer, reader, vae = networks(True)
    shapes = {
        **prefixed(TRANSFORMER, {original_name(name): shape for name, shape in shapes_of(transformer).items()}),
        **prefixed(READER, {name: shape for name, shape in shapes_of(reader).items() if name != "lm_head.weight"}),
        **prefixed("vae.", shapes_of(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table)
    write_table("flux3", table)
    read = through_gguf(FILES / "flux3.gguf", "flux", without(tensors, TRANSFORMER), TYPES)
    base = {name: value for name, value in tensors.items() if ".ref_time_in." not in name}
    given = {"flux3": tensors, "flux3-gguf": {**tensors, **{TRANSFORMER + name: value for name, value in read.items()}}, "flux3-base": base}
    # Where operations with pictures are written to.
    flow_pipelines.PIPELINES = RESULTS
    for name, (about, distilled, parameters) in ABOUT_CASES.items():
        flow_pipelines.write_case(name, "flux3", "flux3", about, pipeline_of(given[name], distilled), parameters, None, results)


if __name__ == "__main__":
    make_flux3_files()
