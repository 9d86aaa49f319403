"""
Flow transformers in files of their own, as ComfyUI users have them, and the pictures that diffusers makes with them: test/goldens/split_files.

`z-image` is Z-Image in the original layout, whose weights follow from test/original_layouts/z_image.json. `flux1-gguf` is the FLUX.1 of
mmdit_files.py with its transformer in test/split_files/flux1.gguf, written by the `gguf` package, in several of its types; diffusers gets the
numbers that the package reads from it. Qwen-Image, FLUX.2 klein and Wan are in split_flows.py. Environment as for mmdit_files.py, and

    pip install gguf==0.19.0 ftfy
    python reference/split_files.py
"""

import re

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.loaders import single_file_utils

from files import GOLDENS, ROOT, fresh_folder
from flow_pipelines import qwen3, results, tokenizer
from mmdit_files import FLUX1, autoencoder, filled, flux1_pipeline, flux1_tensors, load, prefixed, shapes_of, vae_shapes, without, write_case, write_table
from mmdit_pipelines import unpacked_results
from split_flows import make_split_flows, through_gguf

RESULTS = GOLDENS / "split_files"
FILES = ROOT / "test" / "split_files"

Z_IMAGE = [
    (r"^all_(x_embedder|final_layer)\.2-1\.", r"\1."),
    (r"\.attention\.to_[qkv]\.", ".attention.qkv."),
    (r"\.attention\.to_out\.0\.", ".attention.out."),
    (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
]


def original_names(model: torch.nn.Module) -> dict[str, list[int]]:
    shapes = {}
    for name, value in model.state_dict().items():
        shape = list(value.shape)
        for pattern, replacement in Z_IMAGE:
            name = re.sub(pattern, replacement, name)
        shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes else shape
    return shapes


def z_image() -> None:
    words = tokenizer()
    transformer = ZImageTransformer2DModel(in_channels=16, dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32, axes_dims=[8, 12, 12], axes_lens=[1024, 512, 512])
    reader, vae = qwen3(len(words), 32, 3), autoencoder(0.3611, 0.1159)
    shapes = {
        **prefixed("model.diffusion_model.", original_names(transformer)),
        **prefixed("text_encoders.qwen3_4b.transformer.", {name: shape for name, shape in shapes_of(reader).items() if name != "lm_head.weight"}),
        **prefixed("vae.", vae_shapes(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table)
    write_table("z_image", table)
    load(transformer, single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers(without(tensors, "model.diffusion_model.")))
    states = without(tensors, "text_encoders.qwen3_4b.transformer.")
    load(reader, {**states, "lm_head.weight": states["model.embed_tokens.weight"]})
    load(vae, single_file_utils.convert_ldm_vae_checkpoint({name.replace("vae.", "first_stage_model.", 1): value for name, value in tensors.items()}, vae.config))
    pipeline = ZImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, text_encoder=reader, tokenizer=words, transformer=transformer)
    parameters = dict(prompt="a red house at the edge of the forest", steps=3, guidance_scale=0, seed=42, width=80, height=64)
    write_case(RESULTS / "z-image", "z_image", pipeline, results, parameters, "z_image")


# By what a tensor's name has in it; the first that matches.
TYPES = [
    (r"\.(bias|scale)$", "F32"),
    (r"^(img_in|txt_in|final_layer\.linear)\.", "BF16"),
    (r"^(time_in|vector_in|guidance_in)\.", "F16"),
    (r"_mod\.lin|modulation\.lin|adaLN_modulation", "Q8_0"),
    (r"^double_blocks\.0\.img_", "Q4_1"),
    (r"^double_blocks\.0\.txt_", "Q5_0"),
    (r"^single_blocks\.0\.", "Q5_1"),
    (r"", "Q4_0"),
]


def flux1_gguf() -> None:
    tensors, _ = flux1_tensors()
    prefix = "model.diffusion_model."
    read = through_gguf(FILES / "flux1.gguf", "flux", without(tensors, prefix), TYPES)
    pipeline = flux1_pipeline({**tensors, **{prefix + name: value for name, value in read.items()}})
    write_case(RESULTS / "flux1-gguf", "flux1", pipeline, unpacked_results, FLUX1, "flux1")


if __name__ == "__main__":
    fresh_folder(RESULTS)
    fresh_folder(FILES)
    z_image()
    flux1_gguf()
    make_split_flows()
