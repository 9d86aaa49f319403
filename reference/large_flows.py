"""
Makes test/goldens/large_flows.json: flow transformers at their published width, with random weights of 4 bits.

`checkpoints` holds the configurations of whole published checkpoints and the shapes of their tensors, to plan with; no weight is made for them.
`blocks` holds transformers of that width with one block of each kind or two, and of what torch makes of them the mean, the mean square and some
values. Matrices of the blocks are made in 4 bits (those that modulate in 8) by a formula, and torch is given what these stand for.
"""

import json
import re
import sys

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, Flux2Transformer2DModel, QwenImageTransformer2DModel, SD3Transformer2DModel, ZImageTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM, T5Config, T5EncoderModel

import models  # noqa: F401  (quiet libraries)
from files import GOLDENS, ROOT
from flow_pipelines import scale_of
from weightless import hashed

ABOUT = (
    "Tensor number k of `tensors` without `bits` is made as test/weightless says. One of 4 or 8 bits [N, K] is data and N * K / 32 scales: word i of the data (little endian) is lowbias32((i + k * 0x9E3779B9) mod 2^32), "
    "4 bits begin with the lower half of a byte; the scales are tensor number 5000 + k with scale `scale` / 2 and add `scale`. Element = scale * (q - 8), or (q - 128). `inputs` are tensors number 10000 and up, scale 1. "
    "Value n of `values` is the output's element (n * 2654435761 + 12345) mod its length; `mean` and `square` are of all of it. In `shapes`, # stands for the numbers that are named: all below a count, or those of a list."
)
INPUT = 10000
SCALES = 5000
SAMPLES = 48
TIMESTEP = 500.0
LATENTS, TOKENS = 8, 16

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


BLOCK = re.compile(r"^(?:single_transformer_blocks|transformer_blocks|layers|noise_refiner|context_refiner)\.\d+\..*\.weight$")
MODULATES = re.compile(r"norm1(?:_context)?\.linear|_mod\.1|adaLN_modulation")


def words(number: int, count: int) -> np.ndarray:
    x = (np.arange(count, dtype=np.uint64) + np.uint64(number * 0x9E3779B9)).astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def quantised(number: int, shape: tuple[int, int], bits: int, scale: float, scales: torch.dtype = torch.float32) -> torch.Tensor:
    n, k = shape
    data = words(number, n * k * bits // 32).view(np.uint8)
    if bits == 4:
        data = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)
    q = torch.from_numpy(data).to(torch.float32).reshape(n, k // 32, 32) - (8 if bits == 4 else 128)
    return (q * hashed(SCALES + number, (n, k // 32, 1), scale / 2, scale).to(scales).to(torch.float32)).reshape(n, k)


def fill(module: torch.nn.Module) -> list[dict]:
    table = []
    for number, (name, value) in enumerate(sorted((name, value) for name, value in module.state_dict().items() if torch.is_floating_point(value))):
        shape = tuple(value.shape)
        if BLOCK.match(name) and value.ndim == 2 and shape[1] % 32 == 0:
            bits = 8 if MODULATES.search(name) else 4
            # As far as unit variance asks for: 4.6 and 74 are the spreads of such numbers.
            scale = float(np.float32(1 / ((4.6 if bits == 4 else 74) * shape[1] ** 0.5)))
            value.copy_(quantised(number, shape, bits, scale))
            table.append({"name": name, "shape": list(shape), "bits": bits, "scale": scale})
        else:
            scale, add = scale_of(name, shape, 1.0)
            value.copy_(hashed(number, shape, scale, add))
            table.append({"name": name, "shape": list(shape), "scale": scale, "add": add})
    return table


def packed(latents: torch.Tensor) -> torch.Tensor:
    channels, height, width = latents.shape[1:]
    return latents.view(1, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, height * width // 4, channels * 4)


def unpacked(tokens: torch.Tensor, side: int) -> torch.Tensor:
    return tokens.reshape(1, side // 2, side // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, -1, side, side)


def run_klein(module, sample, embeds):
    side = sample.shape[-1]
    image = torch.tensor([[0, row, column, 0] for row in range(side) for column in range(side)])
    text = torch.tensor([[0, 0, 0, token] for token in range(TOKENS)])
    tokens = sample.reshape(1, sample.shape[1], -1).permute(0, 2, 1)
    out = module(hidden_states=tokens, encoder_hidden_states=embeds, timestep=torch.tensor([TIMESTEP / 1000]), img_ids=image[None], txt_ids=text[None], return_dict=False)[0]
    return out.permute(0, 2, 1).reshape(sample.shape)


def run_z_image(module, sample, embeds):
    out = module(list(sample.permute(1, 0, 2, 3)[None]), torch.tensor([(1000 - TIMESTEP) / 1000]), [embeds[0]], return_dict=False)[0]
    # The pipeline takes the opposite.
    return -out[0].permute(1, 0, 2, 3)


def run_sd35(module, sample, embeds, pooled):
    return module(hidden_states=sample, encoder_hidden_states=embeds, pooled_projections=pooled, timestep=torch.tensor([TIMESTEP]), return_dict=False)[0]


def run_qwen(module, sample, embeds):
    mask = torch.ones((1, TOKENS), dtype=torch.bool)
    shapes = [[(1, LATENTS // 2, LATENTS // 2)]]
    out = module(hidden_states=packed(sample), encoder_hidden_states=embeds, encoder_hidden_states_mask=mask, timestep=torch.tensor([TIMESTEP / 1000]), img_shapes=shapes, return_dict=False)[0]
    return unpacked(out, LATENTS)


# of which checkpoint, what differs from it, inputs, how it runs
BLOCKS = {
    "klein-4b": ({"num_layers": 1, "num_single_layers": 2}, {"sample": (1, 128, 4, 4), "prompt_embeds": (1, TOKENS, 7680)}, run_klein),
    "z-image": ({"n_layers": 2, "n_refiner_layers": 1}, {"sample": (1, 16, LATENTS, LATENTS), "prompt_embeds": (1, TOKENS, 2560)}, run_z_image),
    "sd35-large": ({"num_layers": 3, "pos_embed_max_size": 4}, {"sample": (1, 16, LATENTS, LATENTS), "prompt_embeds": (1, TOKENS, 4096), "pooled_projections": (1, 2048)}, run_sd35),
    "qwen-image": ({"num_layers": 2}, {"sample": (1, 16, LATENTS, LATENTS), "prompt_embeds": (1, TOKENS, 3584)}, run_qwen),
}


@torch.no_grad()
def blocks(name: str) -> dict:
    changes, inputs, run = BLOCKS[name]
    tiny, parts = CHECKPOINTS[name]
    kind, _, own = parts["transformer"]
    config = config_of(tiny, "transformer", own | changes)
    # What torch would draw is overwritten.
    for draw in ("kaiming_uniform_", "uniform_", "normal_", "xavier_uniform_", "trunc_normal_"):
        setattr(torch.nn.init, draw, lambda tensor, *_, **__: tensor)
    module = made(kind, None, config).eval()
    tensors = fill(module)
    given = [hashed(INPUT + k, shape, 1.0, 0.0) for k, shape in enumerate(inputs.values())]
    out = run(module, *given).contiguous().numpy().reshape(-1)
    if not np.isfinite(out).all():
        raise ValueError(f"{name}: not finite")
    places = [(n * 2654435761 + 12345) % out.size for n in range(SAMPLES)]
    exact = out.astype(np.float64)
    print(f"{name}: {out.size} values, mean {exact.mean():.3f}, square {(exact**2).mean():.3f}", flush=True)
    return {
        "config": config,
        "timestep": TIMESTEP,
        "inputs": {key: list(shape) for key, shape in inputs.items()},
        "tensors": tensors,
        "length": int(out.size),
        "mean": float(exact.mean()),
        "square": float((exact**2).mean()),
        "values": [float(f"{out[place]:.9g}") for place in places],
    }


def main() -> None:
    path = GOLDENS / "large_flows.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    names = sys.argv[1:] or list(CHECKPOINTS)
    content = {
        "about": ABOUT,
        "checkpoints": {name: checkpoint(name) for name in CHECKPOINTS},
        "blocks": {name: blocks(name) if name in names else known["blocks"][name] for name in CHECKPOINTS if name in names or name in known.get("blocks", {})},
    }
    rows = json.dumps(content, ensure_ascii=False, separators=(", ", ": "))
    # One tensor or shape per line, so that a difference between two versions can be read.
    path.write_text(re.sub(r"(?<=[\]}]), (?=[\[{\"])", ",\n", rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
