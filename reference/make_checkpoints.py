"""Makes test/checkpoints: tiny random Stable Diffusion checkpoints, laid out and configured as the published ones are.

The config files carry the keys the originals carry and no others, so a reader has to know the defaults; tensors have the
published names, including the traps: `text_model.` prefixes, a stored `position_ids`, and the old attention names of the
Stable Diffusion 1 autoencoder (in tiny-sd15-f16).
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from files import CHECKPOINTS, fresh_folder, write_json, write_tensors
from vocabulary import END, START, write_vocabulary
from weights import fit_autoencoder_kl, fit_autoencoder_tiny, fit_unet, randomise

BETAS = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085}

PNDM = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **BETAS,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
DDIM_V = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    **BETAS,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
EULER_TRAILING = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.24.0.dev0",
    **BETAS,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "timestep_type": "discrete",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def unet_config(channels: list[int], groups: int, cross: int, heads, **more) -> dict:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": cross,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": groups,
        "out_channels": 4,
        "sample_size": 8,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        **more,
    }


SD2_UNET = {"dual_cross_attention": False, "only_cross_attention": False, "upcast_attention": True, "use_linear_projection": True}


def kl_config(channels: list[int], groups: int) -> dict:
    """As Stable Diffusion 1.5's: no scaling_factor, the class's default 0.18215 holds."""
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": groups,
        "out_channels": 3,
        "sample_size": 64,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def tiny_config(channels: int) -> dict:
    """As TAESD's."""
    return {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": "0.20.0.dev0",
        "act_fn": "relu",
        "decoder_block_out_channels": [channels] * 4,
        "encoder_block_out_channels": [channels] * 4,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": 4,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": [3, 3, 3, 1],
        "num_encoder_blocks": [1, 3, 3, 3],
        "out_channels": 3,
        "scaling_factor": 1.0,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    }


def text_config(hidden: int, heads: int, layers: int, activation: str, projection: int) -> dict:
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": activation,
        "hidden_size": hidden,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * hidden,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": projection,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": 1024,
    }


RECIPES = {
    "tiny-sd15": {
        "seed": 15,
        "scheduler": PNDM,
        "tokenizer": "clip",
        "text_encoder": text_config(48, 4, 3, "quick_gelu", 48),
        "unet": unet_config([32, 32, 32, 64], 8, 48, 8),
        "vae": kl_config([16, 32, 32, 32], 16),
        "dtype": torch.float32,
        "fit": {"echo": 1.05, "own": 0.12},
    },
    "tiny-sd21": {
        "seed": 21,
        "scheduler": DDIM_V,
        "tokenizer": "openclip",
        "text_encoder": text_config(64, 4, 2, "gelu", 32),
        "unet": unet_config([32, 32, 32, 64], 8, 64, [2, 4, 4, 8], **SD2_UNET),
        "vae": kl_config([16, 32, 32, 32], 8),
        "dtype": torch.float32,
        "fit": {"echo": 0.3, "own": 0.8},
    },
    "tiny-turbo": {
        "seed": 1,
        "scheduler": EULER_TRAILING,
        "tokenizer": "openclip",
        "text_encoder": text_config(32, 2, 2, "gelu", 32),
        "unet": unet_config([16, 32, 32, 32], 4, 32, [2, 4, 4, 4], **SD2_UNET),
        "vae": tiny_config(24),
        "dtype": torch.float32,
        "fit": {"echo": 1.05, "own": 0.1},
    },
    "tiny-sd15-f16": {
        "seed": 16,
        "scheduler": PNDM,
        "tokenizer": "clip",
        "text_encoder": text_config(32, 4, 2, "quick_gelu", 32),
        "unet": unet_config([16, 32, 32, 32], 4, 32, 4),
        "vae": kl_config([16, 16, 32, 32], 8),
        "dtype": torch.float16,
        "variant": "fp16",
        "old_attention_names": True,
        "fit": {"echo": 1.0, "own": 0.12},
    },
    "tiny-sd21-bf16": {
        "seed": 22,
        "scheduler": DDIM_V,
        "tokenizer": "openclip",
        "text_encoder": text_config(32, 4, 2, "gelu", 32),
        "unet": unet_config([16, 32, 32, 32], 4, 32, [2, 4, 4, 4], **SD2_UNET),
        "vae": kl_config([16, 16, 32, 32], 8),
        "dtype": torch.bfloat16,
        "fit": {"echo": 0.3, "own": 0.8},
    },
}

OLD_ATTENTION_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def write_clip_tokenizer(folder: Path) -> None:
    """As Stable Diffusion 1.5's: vocabulary and merges, no tokenizer.json, padded with the end token."""
    write_vocabulary(folder)
    token = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": {**token, "content": START},
            "do_lower_case": True,
            "eos_token": {**token, "content": END},
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": END,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {**token, "content": END},
        },
    )
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write_json(
        folder / "special_tokens_map.json",
        {
            "bos_token": {"content": START, **plain},
            "eos_token": {"content": END, **plain},
            "pad_token": END,
            "unk_token": {"content": END, **plain},
        },
    )


def write_openclip_tokenizer(folder: Path, scratch: Path) -> None:
    """As Stable Diffusion 2's, in one tokenizer.json: padded with "!", which is id 0."""
    write_vocabulary(scratch)
    tokenizer = CLIPTokenizer(
        vocab=str(scratch / "vocab.json"), merges=str(scratch / "merges.txt"), pad_token="!", model_max_length=77
    )
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    folder.mkdir(parents=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": START, "eos_token": END, "pad_token": "!", "unk_token": END}
    write_json(
        folder / "tokenizer_config.json",
        {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77, **special, "tokenizer_class": "CLIPTokenizer"},
    )
    write_json(folder / "special_tokens_map.json", special)


def text_tensors(encoder: CLIPTextModel, with_positions: bool) -> dict[str, torch.Tensor]:
    tensors = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in encoder.state_dict().items()}
    if with_positions:
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return tensors


def vae_tensors(vae, old_attention_names: bool) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in vae.state_dict().items():
        if old_attention_names and ".attentions." in name:
            for new, old in OLD_ATTENTION_NAMES.items():
                name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = value
    return tensors


def make_checkpoint(name: str, recipe: dict) -> None:
    folder = fresh_folder(CHECKPOINTS / name)
    seed, dtype = recipe["seed"], recipe["dtype"]

    text_encoder = CLIPTextModel(CLIPTextConfig(**recipe["text_encoder"])).eval()
    randomise(text_encoder, seed)
    unet = UNet2DConditionModel.from_config(recipe["unet"]).eval()
    randomise(unet, seed + 100)
    fit_unet(unet, text_encoder, seed + 100, **recipe["fit"])
    kl = recipe["vae"]["_class_name"] == "AutoencoderKL"
    vae = (AutoencoderKL if kl else AutoencoderTiny).from_config(recipe["vae"]).eval()
    randomise(vae, seed + 200)
    (fit_autoencoder_kl if kl else fit_autoencoder_tiny)(vae, seed + 200)

    clip = recipe["tokenizer"] == "clip"
    if clip:
        write_clip_tokenizer(folder / "tokenizer")
    else:
        write_openclip_tokenizer(folder / "tokenizer", folder / "scratch")
    write_json(folder / "scheduler" / "scheduler_config.json", recipe["scheduler"])
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.24.0",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", recipe["scheduler"]["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", recipe["vae"]["_class_name"]],
        },
    )
    ending = f".{recipe['variant']}.safetensors" if "variant" in recipe else ".safetensors"
    for part, stem, tensors in (
        ("text_encoder", "model", text_tensors(text_encoder, with_positions=clip)),
        ("unet", "diffusion_pytorch_model", unet.state_dict()),
        ("vae", "diffusion_pytorch_model", vae_tensors(vae, recipe.get("old_attention_names", False))),
    ):
        write_json(folder / part / "config.json", recipe[part])
        stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
        write_tensors(folder / part / (stem + ending), stored)


def main() -> None:
    torch.set_num_threads(1)
    fresh_folder(CHECKPOINTS)
    for name, recipe in RECIPES.items():
        make_checkpoint(name, recipe)
        size = sum(file.stat().st_size for file in (CHECKPOINTS / name).rglob("*") if file.is_file())
        print(f"{name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
