"""
LoRAs of flow transformers in their trainers' layouts, and the weights that diffusers and PEFT make with them: test/goldens/flow_loras.

Of each case the file lies there, and in `expected.safetensors`, below the case's name, of the merged weights of every layer that it changes
column 3 and the row in the middle. A
file in another layout than diffusers' goes through diffusers' own conversion; for kohya's of Stable Diffusion 3 there is none, so the products
are computed in the original layout and go through the conversion of checkpoints. Environment as for mmdit_files.py.

    python reference/flow_loras.py
"""

import inspect
import json

import torch
from diffusers import Flux2Transformer2DModel, Flux3Transformer2DModel, FluxTransformer2DModel, LTXVideoTransformer3DModel, QwenImageTransformer2DModel, SD3Transformer2DModel, WanTransformer3DModel, ZImageTransformer2DModel
from diffusers.loaders import lora_conversion_utils as conversion
from diffusers.loaders import single_file_utils

from files import GOLDENS, ROOT, fresh_folder, write_json, write_tensors
from mmdit_files import SD3, original_names
from weightless import hashed

FOLDER = GOLDENS / "flow_loras"
SCALE = 0.8
RANK = 4
COLUMN = 3


def transformer(checkpoint: str, kind):
    folder = ROOT / "test" / "weightless" / checkpoint
    model = kind.from_config(json.loads((folder / "transformer" / "config.json").read_text()))
    [table] = [file["tensors"] for file in json.loads((folder / "weights.json").read_text())["files"] if file["path"].startswith("transformer/")]
    model.load_state_dict({row["name"]: hashed(row["number"], tuple(row["shape"]), row["scale"], row["add"]) for row in table}, strict=True)
    return model.eval()


def kohya_flux1(state: dict) -> dict:
    # The conversion knows the published width and depth alone.
    source = inspect.getsource(conversion._convert_kohya_flux_lora_to_diffusers)
    inner = next(value for name, value in state.items() if name.endswith("single_blocks_0_linear2.lora_up.weight")).shape[0]
    scope = dict(vars(conversion))
    exec(source.replace("3072", str(inner)).replace("12288", str(4 * inner)).replace("range(19)", "range(2)").replace("range(38)", "range(2)"), scope)
    return scope["_convert_kohya_flux_lora_to_diffusers"](dict(state))


def kohya_sd3_changes(model: torch.nn.Module, state: dict) -> dict[str, torch.Tensor]:
    """What is added to each weight, by diffusers' names."""
    layers = {name.removesuffix(".weight").replace(".", "_"): name for name in original_names(model, SD3, False)}
    whole = {name: torch.zeros(shape) for name, shape in original_names(model, SD3, False).items()}
    for key in state:
        if key.endswith(".alpha"):
            path = key.removesuffix(".alpha")
            down, up = state[f"{path}.lora_down.weight"], state[f"{path}.lora_up.weight"]
            whole[layers[path.removeprefix("lora_unet_")]] += state[key] / len(down) * (up @ down)
    return {name: value for name, value in single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(whole).items() if value.abs().max() > 0}


def kohya(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


DOWN_UP = ("lora_down.weight", "lora_up.weight")
QWEN_LAYERS = [*(f"transformer_blocks.0.attn.{name}" for name in ("to_q", "add_k_proj", "to_out.0", "to_add_out")), "transformer_blocks.1.img_mlp.net.0.proj", "transformer_blocks.1.txt_mlp.net.2", "transformer_blocks.1.img_mod.1"]

LTX_LAYERS = ["proj_in", "time_embed.emb.timestep_embedder.linear_1", "time_embed.linear", "caption_projection.linear_2", "transformer_blocks.1.attn2.to_k", "proj_out"]


def ltx_original(name: str) -> str:
    return name.replace("proj_in", "patchify_proj").replace("time_embed.", "adaln_single.")


def from_ltx_original(state: dict) -> dict:
    return single_file_utils.convert_ltx_transformer_checkpoint_to_diffusers(conversion._convert_non_diffusers_ltxv_lora_to_diffusers(state))


# case: checkpoint, class, names of layers as [rows, columns], how a name and its two matrices are written, diffusers' conversion
def cases(width: dict[str, int]) -> dict:
    plain = lambda prefix: (lambda name: f"{prefix}{name}", ("lora_A.weight", "lora_B.weight"), None)
    f, z, k, s = width["tiny-flux1-dev"], width["tiny-z-image"], width["tiny-flux2-klein"], width["tiny-sd35"]
    w = width["tiny-wan"]
    flux3_layers = {"content_mode_blocks.image.0.q_proj": "mode_blocks.image.0.attn.to_q", "content_mode_blocks.image.0.attn_out": "mode_blocks.image.0.attn.to_out.0", "txt_mode_blocks.0.mlp_in": "txt_mode_blocks.0.ff.linear_in", "single_blocks.0.k_proj": "single_transformer_blocks.0.attn.to_k", "single_blocks.0.mlp_out": "single_transformer_blocks.0.ff.linear_out"}
    flux3_model = transformer("tiny-flux3", Flux3Transformer2DModel)
    flux3 = {name: tuple(flux3_model.get_submodule(own).weight.shape) for name, own in flux3_layers.items()}
    return {
        "flux1-peft": ("tiny-flux1-dev", FluxTransformer2DModel, ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.0.proj", "transformer_blocks.0.norm1.linear", "single_transformer_blocks.1.proj_out", "x_embedder"], *plain("transformer.")),
        "flux1-kohya": ("tiny-flux1-dev", FluxTransformer2DModel, {"double_blocks.0.img_attn.qkv": (3 * f, f), "double_blocks.1.txt_attn.proj": (f, f), "double_blocks.1.img_mlp.0": (4 * f, f), "double_blocks.0.txt_mod.lin": (6 * f, f), "single_blocks.0.linear1": (7 * f, f), "single_blocks.0.linear2": (f, 5 * f), "single_blocks.1.modulation.lin": (3 * f, f)}, kohya, ("lora_down.weight", "lora_up.weight"), kohya_flux1),
        "sd35-peft": ("tiny-sd35", SD3Transformer2DModel, ["transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.add_v_proj", "transformer_blocks.1.ff.net.2", "proj_out"], *plain("transformer.")),
        "z-image-ai-toolkit": ("tiny-z-image", ZImageTransformer2DModel, ["layers.0.attention.to_q", "layers.1.attention.to_out.0", "noise_refiner.0.feed_forward.w2"], lambda name: f"diffusion_model.{name}", ("lora_A.weight", "lora_B.weight"), conversion._convert_non_diffusers_z_image_lora_to_diffusers),
        "flux2-comfyui": ("tiny-flux2-klein", Flux2Transformer2DModel, {"double_blocks.0.img_attn.qkv": (3 * k, k), "double_blocks.1.txt_attn.qkv": (3 * k, k), "double_blocks.0.img_attn.proj": (k, k), "double_blocks.1.img_mlp.2": (k, 3 * k), "single_blocks.0.linear1": (9 * k, k), "single_blocks.1.linear2": (k, 4 * k)}, lambda name: f"diffusion_model.{name}", ("lora_A.weight", "lora_B.weight"), conversion._convert_non_diffusers_flux2_lora_to_diffusers),
        "qwen-kohya": ("tiny-qwen-image", QwenImageTransformer2DModel, QWEN_LAYERS, kohya, ("lora_down.weight", "lora_up.weight"), conversion._convert_non_diffusers_qwen_lora_to_diffusers),
        "qwen-lightning": ("tiny-qwen-image", QwenImageTransformer2DModel, QWEN_LAYERS, lambda name: name, ("lora_down.weight", "lora_up.weight"), conversion._convert_non_diffusers_qwen_lora_to_diffusers),
        "qwen-comfyui": ("tiny-qwen-image", QwenImageTransformer2DModel, QWEN_LAYERS, lambda name: f"diffusion_model.{name}", ("lora_A.weight", "lora_B.weight"), conversion._convert_non_diffusers_qwen_lora_to_diffusers),
        "wan-peft": ("tiny-wan", WanTransformer3DModel, ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj", "proj_out"], *plain("transformer.")),
        "wan-comfyui": ("tiny-wan", WanTransformer3DModel, {"blocks.0.self_attn.q": (w, w), "blocks.1.self_attn.o": (w, w), "blocks.0.cross_attn.k": (w, w), "blocks.1.ffn.0": (2 * w, w), "blocks.0.ffn.2": (w, 2 * w)}, lambda name: f"diffusion_model.{name}", ("lora_down.weight", "lora_up.weight"), conversion._convert_non_diffusers_wan_lora_to_diffusers),
        "sd35-kohya": ("tiny-sd35", SD3Transformer2DModel, {"joint_blocks.0.x_block.attn.qkv": (3 * s, s), "joint_blocks.1.context_block.attn.qkv": (3 * s, s), "joint_blocks.0.x_block.attn2.proj": (s, s), "joint_blocks.0.context_block.attn.proj": (s, s), "joint_blocks.1.x_block.mlp.fc1": (4 * s, s), "joint_blocks.0.context_block.mlp.fc2": (s, 4 * s), "joint_blocks.0.context_block.adaLN_modulation.1": (6 * s, s), "context_embedder": (s, 96)}, kohya, DOWN_UP, kohya_sd3_changes),
        "z-image-kohya": ("tiny-z-image", ZImageTransformer2DModel, ["layers.0.attention.to_q", "layers.1.attention.to_out.0", "context_refiner.0.feed_forward.w1", "noise_refiner.0.attention.to_v", "layers.0.adaLN_modulation.0"], kohya, DOWN_UP, conversion._convert_non_diffusers_z_image_lora_to_diffusers),
        "flux2-kohya": ("tiny-flux2-klein", Flux2Transformer2DModel, {"double_blocks.0.img_attn.qkv": (3 * k, k), "double_blocks.1.txt_attn.qkv": (3 * k, k), "double_blocks.1.txt_attn.proj": (k, k), "double_blocks.0.txt_mlp.0": (6 * k, k), "double_blocks.1.img_mlp.2": (k, 3 * k), "single_blocks.1.linear1": (9 * k, k), "single_blocks.0.linear2": (k, 4 * k)}, kohya, DOWN_UP, conversion._convert_kohya_flux2_lora_to_diffusers),
        "flux3-peft": ("tiny-flux3", Flux3Transformer2DModel, ["mode_blocks.image.0.attn.to_q", "mode_blocks.image_cond.0.ff.linear_in", "txt_mode_blocks.0.attn.to_out.0", "single_transformer_blocks.0.attn.to_v", "single_transformer_blocks.0.ff.linear_out"], *plain("transformer.")),
        "flux3-comfyui": ("tiny-flux3", Flux3Transformer2DModel, flux3, lambda name: f"diffusion_model.{name}", ("lora_A.weight", "lora_B.weight"), conversion._convert_non_diffusers_flux3_lora_to_diffusers),
        "ltx-peft": ("tiny-ltx", LTXVideoTransformer3DModel, LTX_LAYERS, *plain("transformer.")),
        # The same LoRA, called as in the original code, whose names diffusers converts of checkpoints alone.
        "ltx-comfyui": ("tiny-ltx", LTXVideoTransformer3DModel, LTX_LAYERS, lambda name: f"diffusion_model.{ltx_original(name)}", ("lora_A.weight", "lora_B.weight"), from_ltx_original),
    }


def fuse(model: torch.nn.Module, lora: dict) -> None:
    # Files come without what a pipeline calls the network.
    named = {name if name.startswith("transformer.") else f"transformer.{name}": value for name, value in lora.items()}
    model.load_lora_adapter(named, prefix="transformer", adapter_name="a")
    model.fuse_lora(lora_scale=SCALE, adapter_names=["a"])
    model.unload_lora()


def main() -> None:
    fresh_folder(FOLDER)
    kinds = {"tiny-flux1-dev": FluxTransformer2DModel, "tiny-sd35": SD3Transformer2DModel, "tiny-z-image": ZImageTransformer2DModel, "tiny-flux2-klein": Flux2Transformer2DModel, "tiny-flux3": Flux3Transformer2DModel, "tiny-qwen-image": QwenImageTransformer2DModel, "tiny-wan": WanTransformer3DModel, "tiny-ltx": LTXVideoTransformer3DModel}
    widths = {}
    for checkpoint, kind in kinds.items():
        model = transformer(checkpoint, kind)
        widths[checkpoint] = getattr(model, "inner_dim", None) or getattr(model.config, "dim", None) or model.config.num_attention_heads * model.config.attention_head_dim
    generator = torch.Generator().manual_seed(16)
    expected, table = {}, {}
    for case, (checkpoint, kind, layers, nameOf, (down, up), convert) in cases(widths).items():
        model = transformer(checkpoint, kind)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        if isinstance(layers, list):
            layers = {name: tuple(model.get_submodule(name).weight.shape) for name in layers}
        state = {}
        if checkpoint == "tiny-ltx":
            generator.manual_seed(17)
        for name, (rows, columns) in layers.items():
            state[f"{nameOf(name)}.{down}"] = torch.randn(RANK, columns, generator=generator) * 0.2
            state[f"{nameOf(name)}.{up}"] = torch.randn(rows, RANK, generator=generator) * 0.2
            if down.startswith("lora_down"):
                state[f"{nameOf(name)}.alpha"] = torch.tensor(2.0)
        write_tensors(FOLDER / f"{case}.safetensors", state)
        if convert is kohya_sd3_changes:
            for name, change in kohya_sd3_changes(model, state).items():
                model.state_dict()[name].add_(SCALE * change)
        else:
            fuse(model, convert(dict(state)) if convert else state)
        changed = {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        print(case, len(state), "tensors change", sorted(changed))
        # A column and a row of each tell whether all of it is right.
        expected.update({f"{case}/{name}": torch.cat([value[:, COLUMN], value[len(value) // 2]]) for name, value in changed.items()})
        table[case] = {"checkpoint": checkpoint}
    write_json(FOLDER / "cases.json", {"scale": SCALE, "cases": table})
    write_tensors(FOLDER / "expected.safetensors", expected)


if __name__ == "__main__":
    main()
