"""
Makes test/goldens/large_flows.json: the configurations of whole published checkpoints of flow transformers, and the shapes of their tensors, to plan
with. No weight is made.
"""

import json
import re

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, Flux2Transformer2DModel, QwenImageTransformer2DModel, SD3Transformer2DModel, ZImageTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM, T5Config, T5EncoderModel

import models  # noqa: F401  (quiet libraries)
from files import GOLDENS, ROOT

ABOUT = (
    "Published checkpoints: `changes` is what their configurations have other than those of the tiny checkpoint `like`. In `shapes`, [pattern, shape, numbers], # stands for "
    "the numbers that are named: all below a count, or those of a list."
)

QWEN3 = {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960}
T5_XXL = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280}
CLIP_VOCABULARY = {"vocab_size": 49408}
QWEN_VL = {
    "text_config": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "rope_parameters": {"mrope_section": [16, 24, 24]}},
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584, "fullatt_block_indexes": [7, 15, 23, 31]},
}
KL = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}

KLEIN = {"in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 7680, "axes_dims_rope": [32, 32, 32, 32]}
Z_IMAGE = {"dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560, "axes_dims": [32, 48, 48], "axes_lens": [1024, 512, 512]}
SD35 = {"num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64, "caption_projection_dim": 2432, "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "sample_size": 128, "dual_attention_layers": []}
QWEN = {"num_layers": 60, "num_attention_heads": 24, "attention_head_dim": 128, "joint_attention_dim": 3584, "axes_dims_rope": [16, 56, 56]}

# name: the tiny checkpoint whose files it has otherwise, and of each component its class, its class of configurations and what differs
CHECKPOINTS = {
    "klein-4b": ("tiny-flux2-klein", {"transformer": (Flux2Transformer2DModel, None, KLEIN), "text_encoder": (Qwen3ForCausalLM, Qwen3Config, QWEN3), "vae": (AutoencoderKLFlux2, None, KL | {"latent_channels": 32})}),
    "z-image": ("tiny-z-image-turbo", {"transformer": (ZImageTransformer2DModel, None, Z_IMAGE), "text_encoder": (Qwen3ForCausalLM, Qwen3Config, QWEN3), "vae": (AutoencoderKL, None, KL)}),
    "sd35-large": (
        "tiny-sd35",
        {
            "transformer": (SD3Transformer2DModel, None, SD35),
            "text_encoder": (CLIPTextModelWithProjection, CLIPTextConfig, CLIP_L | CLIP_VOCABULARY),
            "text_encoder_2": (CLIPTextModelWithProjection, CLIPTextConfig, CLIP_G | CLIP_VOCABULARY),
            "text_encoder_3": (T5EncoderModel, T5Config, T5_XXL),
            "vae": (AutoencoderKL, None, KL),
        },
    ),
    "qwen-image": ("tiny-qwen-image", {"transformer": (QwenImageTransformer2DModel, None, QWEN), "text_encoder": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, QWEN_VL), "vae": (AutoencoderKLQwenImage, None, {"base_dim": 96, "num_res_blocks": 2})}),
}


def merged(config: dict, changes: dict) -> dict:
    return {name: merged(config[name], changes[name]) if isinstance(changes.get(name), dict) else changes.get(name, config.get(name)) for name in config | changes}


def config_of(tiny: str, part: str, changes: dict) -> dict:
    config = merged(json.loads((ROOT / "test" / "weightless" / tiny / part / "config.json").read_text()), changes)
    layers = config.get("num_hidden_layers")
    for inner in (config, config.get("text_config", {})):
        if "layer_types" in inner:
            inner["layer_types"] = ["full_attention"] * inner.get("num_hidden_layers", layers)
    return config


def made(kind, settings, config: dict) -> torch.nn.Module:
    if settings is None:
        return kind.from_config({name: value for name, value in config.items() if not name.startswith("_")})
    return kind(settings(**{name: value for name, value in config.items() if name != "architectures"}))


def shapes_of(module: torch.nn.Module) -> list:
    """[pattern, shape, numbers] of all floating-point tensors, tied ones once."""
    tied = getattr(module, "_tied_weights_keys", None) or {}
    found: dict[tuple[str, tuple], list[int]] = {}
    for name, tensor in module.state_dict().items():
        if not torch.is_floating_point(tensor) or name in tied:
            continue
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        pattern = name if number is None else name[: number.start()] + "#" + name[number.end() :]
        found.setdefault((pattern, tuple(tensor.shape)), []).append(-1 if number is None else int(number.group()))
    return [[pattern, list(shape), len(numbers) if numbers == list(range(len(numbers))) else numbers] if numbers != [-1] else [pattern, list(shape)] for (pattern, shape), numbers in found.items()]


def checkpoint(name: str) -> dict:
    tiny, parts = CHECKPOINTS[name]
    components = {}
    for part, (kind, settings, changes) in parts.items():
        config = config_of(tiny, part, changes)
        with torch.device("meta"):
            module = made(kind, settings, config)
        print(name, part, f"{sum(value.numel() for value in module.state_dict().values()) / 1e6:.0f} M", flush=True)
        components[part] = {"changes": {key: config[key] for key in config if key in changes or key == "layer_types"}, "shapes": shapes_of(module)}
    return {"like": tiny, "components": components}


def main() -> None:
    content = {"about": ABOUT, "checkpoints": {name: checkpoint(name) for name in CHECKPOINTS}}
    rows = json.dumps(content, ensure_ascii=False, separators=(", ", ": "))
    # One shape per line, so that a difference between two versions can be read.
    (GOLDENS / "large_flows.json").write_text(re.sub(r"(?<=[\]}]), (?=[\[{\"])", ",\n", rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
