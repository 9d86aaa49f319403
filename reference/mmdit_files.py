"""
test/original_layouts: Stable Diffusion 3.5 and FLUX.1 in one file, as ComfyUI has them, without the weights; and pictures that diffusers makes
with them, in test/goldens/original_layouts. As mmdit_pipelines.py, whose formula the weights follow under the file's own names: what
these mean is decided by diffusers' conversion (loaders/single_file_utils.py), whose results the pipelines are made of.
"""

import inspect
import json
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import t5
from files import GOLDENS, ROOT, fresh_folder, write_json, write_tensors
from flow_pipelines import ABOUT, scale_of
from make_checkpoints import text_config
from mmdit_pipelines import SPIECE, unpacked_results
from flow_pipelines import results
from single_files import tokenizer, vae_name
from vocabulary import END
from weightless import hashed

FOLDER = ROOT / "test" / "original_layouts"
RESULTS = GOLDENS / "original_layouts"

SD3 = [
    (r"pos_embed\.pos_embed", r"pos_embed"),
    (r"pos_embed\.proj\.", r"x_embedder.proj."),
    (r"time_text_embed\.timestep_embedder\.linear_([12])\.", lambda m: f"t_embedder.mlp.{2 * int(m[1]) - 2}."),
    (r"time_text_embed\.text_embedder\.linear_([12])\.", lambda m: f"y_embedder.mlp.{2 * int(m[1]) - 2}."),
    (r"norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.(\d+)\.(attn2?)\.(?:to_[qkv]|add_[qkv]_proj|norm_(?:added_)?[qk]|to_out\.0|to_add_out)\.", None),
    (r"^transformer_blocks\.(\d+)\.norm1(_context)?\.linear\.", lambda m: f"joint_blocks.{m[1]}.{'context' if m[2] else 'x'}_block.adaLN_modulation.1."),
    (r"^transformer_blocks\.(\d+)\.ff(_context)?\.net\.(0\.proj|2)\.", lambda m: f"joint_blocks.{m[1]}.{'context' if m[2] else 'x'}_block.mlp.fc{1 if m[3] == '0.proj' else 2}."),
]
FLUX = [
    (r"time_text_embed\.(timestep|text|guidance)_embedder\.linear_([12])\.", lambda m: f"{ {'timestep': 'time', 'text': 'vector', 'guidance': 'guidance'}[m[1]] }_in.{'in' if m[2] == '1' else 'out'}_layer."),
    (r"^context_embedder\.", "txt_in."),
    (r"^x_embedder\.", "img_in."),
    (r"norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.(\d+)\.(attn)\.(?:to_[qkv]|add_[qkv]_proj|norm_(?:added_)?[qk]|to_out\.0|to_add_out)\.", None),
    (r"^transformer_blocks\.(\d+)\.norm1(_context)?\.linear\.", lambda m: f"double_blocks.{m[1]}.{'txt' if m[2] else 'img'}_mod.lin."),
    (r"^transformer_blocks\.(\d+)\.ff(_context)?\.net\.(0\.proj|2)\.", lambda m: f"double_blocks.{m[1]}.{'txt' if m[2] else 'img'}_mlp.{m[3][0]}."),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.lin."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_([qk])\.weight", lambda m: f"single_blocks.{m[1]}.norm.{'query' if m[2] == 'q' else 'key'}_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.(?:attn\.to_[qkv]|proj_mlp)\.", r"single_blocks.\1.linear1."),
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
]


def attention_name(name: str, is_flux: bool) -> str:
    _, block, attention, part, ending = re.fullmatch(r"(transformer_blocks)\.(\d+)\.(attn2?)\.(.+)\.(weight|bias)", name).groups()
    words = "add" in part
    if is_flux:
        path = f"double_blocks.{block}.{'txt' if words else 'img'}_attn"
        if part.startswith("norm_"):
            return f"{path}.norm.{'query' if part.endswith('q') else 'key'}_norm.scale"
    else:
        path = f"joint_blocks.{block}.{'context' if words else 'x'}_block.{attention}"
        if part.startswith("norm_"):
            return f"{path}.ln_{part[-1]}.{ending}"
    return f"{path}.{'proj' if 'out' in part else 'qkv'}.{ending}"


def original_names(model: torch.nn.Module, rules: list, is_flux: bool) -> dict[str, list[int]]:
    """The file's tensors with their shapes: what has one name there lies together, row by row."""
    shapes = {}
    for name, value in model.state_dict().items():
        shape = list(value.shape)
        for pattern, replacement in rules:
            if re.search(pattern, name):
                name = attention_name(name, is_flux) if replacement is None else re.sub(pattern, replacement, name)
                break
        shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes else shape
    return shapes


def filled(shapes: dict[str, list[int]], table: list[dict]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, shape in sorted(shapes.items()):
        scale, add = scale_of(name, shape, 64.0 if name.endswith("pos_embed") else 1.0)
        table.append({"number": len(table), "name": name, "shape": shape, "scale": scale, "add": add})
        tensors[name] = hashed(table[-1]["number"], tuple(shape), scale, add)
    return tensors


def prefixed(prefix: str, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return {prefix + name: shape for name, shape in shapes.items()}


def shapes_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items() if value.is_floating_point()}


def load(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    model.load_state_dict(tensors, strict=True)
    model.eval()


def without(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def clip(config: dict, projected: bool):
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(CLIPTextConfig(**{**config, "vocab_size": 49408, "architectures": None}))


def autoencoder(scale: float, shift: float) -> AutoencoderKL:
    # Groups of 32, as in every published checkpoint, since no shape tells them.
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[32] * 4, layers_per_block=1, latent_channels=16,
        norm_num_groups=32, scaling_factor=scale, shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False,
    )


def vae_shapes(vae: AutoencoderKL) -> dict[str, list[int]]:
    linear = lambda name, shape: [*shape, 1, 1] if ".attentions." in name and len(shape) == 2 else shape
    return {vae_name(name, 4): linear(name, shape) for name, shape in shapes_of(vae).items()}


def write(name: str, table: list[dict], pipeline, how, parameters: dict, config: str) -> None:
    write_table(name, table)
    write_case(RESULTS / name, f"{name}.safetensors", pipeline, how, parameters, config)


def write_table(name: str, table: list[dict]) -> None:
    rows = ",\n".join("    " + json.dumps(row) for row in table)
    (FOLDER / f"{name}.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "tensors": [\n{rows}\n  ]\n}}\n')


def write_case(folder: Path, checkpoint: str, pipeline, how, parameters: dict, config: str) -> None:
    pipeline.set_progress_bar_config(disable=True)
    given = {**parameters, "num_inference_steps": parameters["steps"]}
    seed = given.pop("seed")
    del given["steps"]
    with torch.no_grad():
        latents, images = how(pipeline, lambda: {**given, "generator": torch.Generator("cpu").manual_seed(seed)})
    print(f"{folder.name}: latents {tuple(latents.shape)} std {latents.std():.3f}, pixels from {images.min():.2f} to {images.max():.2f}")
    write_json(folder / "operation.json", {"operation": "image_generation", "config": config, "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"checkpoint": checkpoint})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float(), "pixels": torch.from_numpy((images * 255).round().astype("uint8"))})


def stable_diffusion_35() -> None:
    transformer = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=256, caption_projection_dim=32, pooled_projection_dim=192, out_channels=16,
        pos_embed_max_size=12, num_layers=3, qk_norm="rms_norm", dual_attention_layers=(0,),
    )
    first, second = clip(text_config(64, 1, 2, "quick_gelu", 64), True), clip(text_config(128, 2, 2, "gelu", 128), True)
    vae = autoencoder(1.5305, 0.0609)
    shapes = {
        **prefixed("model.diffusion_model.", original_names(transformer, SD3, False)),
        **prefixed("text_encoders.clip_l.transformer.", {name: shape for name, shape in shapes_of(first).items() if name != "text_projection.weight"}),
        **prefixed("text_encoders.clip_g.transformer.", shapes_of(second)),
        **prefixed("first_stage_model.", vae_shapes(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table)
    load(transformer, single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(without(tensors, "model.diffusion_model.")))
    # The file has no projection of the smaller encoder: it is the identity.
    load(first, {**without(tensors, "text_encoders.clip_l.transformer."), "text_projection.weight": torch.eye(64)})
    load(second, without(tensors, "text_encoders.clip_g.transformer."))
    load(vae, single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), vae.config))
    pipeline = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, text_encoder=first, tokenizer=tokenizer(FOLDER, END), text_encoder_2=second, tokenizer_2=tokenizer(FOLDER, "!"), text_encoder_3=None,
        tokenizer_3=None, transformer=transformer,
    )
    write("sd35", table, pipeline, results, dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry!", steps=3, guidance_scale=3.5, seed=42, width=80, height=64), "stable_diffusion_3")


def flux1_tensors() -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The file, and the table of how it is made."""
    transformer, reader, large, vae = flux1_networks()
    t5_shapes = {name: shape for name, shape in shapes_of(large).items() if name != "encoder.embed_tokens.weight"}
    clip_shapes = {name if name.startswith("text_model.") else f"text_model.{name}": shape for name, shape in shapes_of(reader).items()}
    shapes = {
        **prefixed("model.diffusion_model.", original_names(transformer, FLUX, True)),
        **prefixed("text_encoders.clip_l.transformer.", clip_shapes),
        **prefixed("text_encoders.t5xxl.transformer.", t5_shapes),
        **prefixed("vae.", vae_shapes(vae)),
    }
    table: list[dict] = []
    return filled(shapes, table), table


def flux1_networks():
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=1, joint_attention_dim=96, pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(4, 14, 14)
    )
    return transformer, clip(text_config(64, 1, 2, "quick_gelu", 64), False), t5.t5(len(t5.tokenizer(SPIECE, 512))), autoencoder(0.3611, 0.1159)


def flux1_pipeline(tensors: dict[str, torch.Tensor]) -> FluxPipeline:
    transformer, reader, large, vae = flux1_networks()
    # The conversion knows the published width alone.
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers).replace("inner_dim = 3072", "inner_dim = 32")
    scope = {"torch": torch}
    exec(source, scope)
    load(transformer, scope["convert_flux_transformer_checkpoint_to_diffusers"](without(tensors, "model.diffusion_model.")))
    own = set(reader.state_dict())
    load(reader, {name if name in own else name.removeprefix("text_model."): value for name, value in without(tensors, "text_encoders.clip_l.transformer.").items()})
    states = without(tensors, "text_encoders.t5xxl.transformer.")
    load(large, {**states, "encoder.embed_tokens.weight": states["shared.weight"]})
    load(vae, single_file_utils.convert_ldm_vae_checkpoint({name.replace("vae.", "first_stage_model.", 1): value for name, value in tensors.items()}, vae.config))
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0), vae=vae, text_encoder=reader, tokenizer=tokenizer(FOLDER, END), text_encoder_2=large,
        tokenizer_2=t5.tokenizer(SPIECE, 512), transformer=transformer,
    )


FLUX1 = dict(prompt="a fox in the forest, morning mist", steps=3, guidance_scale=3.5, seed=7, width=64, height=80)


def flux1() -> None:
    tensors, table = flux1_tensors()
    write("flux1", table, flux1_pipeline(tensors), unpacked_results, FLUX1, "flux1")


if __name__ == "__main__":
    fresh_folder(FOLDER)
    fresh_folder(RESULTS)
    stable_diffusion_35()
    flux1()
