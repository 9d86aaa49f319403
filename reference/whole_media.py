"""
Makes test/goldens/whole_media.json: the configurations of published checkpoints of sounds and videos, and the shapes of all their tensors, as `checkpoints` of
large_flows.json. No weight is made; `npm run bench -- --whole` makes its own while they are read.
"""

import json
import re

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderKLLTXVideo, AutoencoderKLWan, AutoencoderOobleck, LTXVideoTransformer3DModel, StableAudioDiTModel, WanTransformer3DModel
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer, AceStepConditionEncoder
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from transformers import Qwen3Config, Qwen3Model, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

import models  # noqa: F401  (quiet libraries)
from files import GOLDENS
from large_flows import T5_XXL, config_of, made, shapes_of
from wan_shapes import MODELS

ABOUT = "As `checkpoints` in test/goldens/large_flows.json, whose `about` says how shapes are told; each component with its whole configuration."
T5_BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "relu", "dense_act_fn": "relu", "is_gated_act": False}
QWEN3_EMBEDDING = {"vocab_size": 151669, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768}
OOBLECK_48 = {"downsampling_ratios": [2, 4, 4, 6, 10], "sampling_rate": 48000}
UMT5 = (UMT5EncoderModel, UMT5Config, T5_XXL | {"vocab_size": 256384})

# name: the tiny checkpoint whose files it has otherwise, and of each component its class with what it is made with, or with its class of configurations and what differs
CHECKPOINTS = {
    "stable-audio-open": (
        "tiny-stable-audio",
        {
            "transformer": (StableAudioDiTModel, {}),
            "text_encoder": (T5EncoderModel, T5Config, T5_BASE),
            "projection_model": (StableAudioProjectionModel, {"text_encoder_dim": 768, "conditioning_dim": 768, "min_value": 0, "max_value": 512}),
            "vae": (AutoencoderOobleck, {}),
        },
    ),
    "ace-step-1.5": (
        "tiny-ace-step",
        {
            "transformer": (AceStepTransformer1DModel, {}),
            "text_encoder": (Qwen3Model, Qwen3Config, QWEN3_EMBEDDING),
            "condition_encoder": (AceStepConditionEncoder, {}),
            "audio_tokenizer": (AceStepAudioTokenizer, {}),
            "audio_token_detokenizer": (AceStepAudioTokenDetokenizer, {}),
            "vae": (AutoencoderOobleck, OOBLECK_48),
        },
    ),
    "ltx-2b": ("tiny-ltx", {"transformer": (LTXVideoTransformer3DModel, {}), "text_encoder": (T5EncoderModel, T5Config, T5_XXL), "vae": (AutoencoderKLLTXVideo, {})}),
    "wan21-1.3b": ("tiny-wan", {"transformer": (WanTransformer3DModel, MODELS["wan21_1_3b"][0]), "text_encoder": UMT5, "vae": (AutoencoderKLWan, MODELS["wan21_1_3b"][1])}),
    "wan22-ti2v-5b": ("tiny-wan-ti2v", {"transformer": (WanTransformer3DModel, MODELS["wan22_ti2v_5b"][0]), "text_encoder": UMT5, "vae": (AutoencoderKLWan, MODELS["wan22_ti2v_5b"][1])}),
}


def component(tiny: str, part: str, kind: type, *how) -> dict:
    *settings, changes = how
    with torch.device("meta"):
        if settings:
            config = config_of(tiny, part, changes)
            module = made(kind, settings[0], config)
        else:
            module = kind(**changes)
            config = {"_class_name": kind.__name__, **{name: value for name, value in module.config.items() if not name.startswith("_")}}
    print(tiny, part, f"{sum(value.numel() for value in module.state_dict().values()) / 1e6:.0f} M", flush=True)
    return {"config": config, "shapes": shapes_of(module)}


def main() -> None:
    content = {name: {"like": tiny, "components": {part: component(tiny, part, *how) for part, how in parts.items()}} for name, (tiny, parts) in CHECKPOINTS.items()}
    rows = json.dumps({"about": ABOUT, "checkpoints": content}, ensure_ascii=False, separators=(", ", ": "))
    # One shape per line, so that a difference between two versions can be read.
    (GOLDENS / "whole_media.json").write_text(re.sub(r"(?<=[\]}]), (?=[\[{\"])", ",\n", rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
