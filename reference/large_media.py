"""
Makes test/goldens/large_media.json: transformers of videos and sounds at their published width with one block of each kind, and random weights of 4 bits, as
large_flows.py does it for pictures: its formula, and of what torch makes of them the mean square and some values.
"""

import json
import re

import numpy as np
import torch
from diffusers import AceStepTransformer1DModel, LTXVideoTransformer3DModel, StableAudioDiTModel, WanTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed

import models  # noqa: F401  (quiet libraries)
from files import GOLDENS
from flow_pipelines import scale_of
from large_flows import INPUT, SAMPLES, TIMESTEP, quantised
from weightless import hashed

ABOUT = "As `blocks` in large_flows.json, whose `about` says how tensors and inputs are made."
TOKENS, WORDS = 16, 12
BLOCK = re.compile(r"^(?:blocks|transformer_blocks|layers)\.\d+\..*\.weight$")
# What is read before the blocks, in 8 bits, so that no test waits for it.
BEFORE = re.compile(r"^(?:condition_embedder\.(?:time_proj|text_embedder|weight)|time_embed(?:_r)?\.(?:linear|time_proj)|caption_projection|cross_attention_proj|global_proj)\b")

WAN = {"patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "num_layers": 1}
SIZE = (2, 4, 4)


def run_wan(module, sample, embeds):
    return module(hidden_states=sample, timestep=torch.tensor([TIMESTEP]), encoder_hidden_states=embeds, return_dict=False)[0]


def run_ltx(module, sample, embeds):
    channels = sample.shape[1]
    frames, height, width = SIZE
    tokens = sample.reshape(1, channels, -1).permute(0, 2, 1)
    # The last ones fill the prompt up.
    mask = torch.tensor([[1.0] * WORDS + [0.0] * (TOKENS - WORDS)])
    # 25 frames per second, eight for each latent.
    out = module(
        hidden_states=tokens, encoder_hidden_states=embeds, timestep=torch.tensor([TIMESTEP]), encoder_attention_mask=mask, num_frames=frames, height=height, width=width, rope_interpolation_scale=(8 / 25, 32, 32), return_dict=False
    )[0]
    return out.permute(0, 2, 1).reshape(sample.shape)


SOUND = 32


def run_stable_audio(module, sample, embeds, whole):
    width = module.config.attention_head_dim // 2
    turns = get_1d_rotary_pos_embed(width, module.config.sample_size + 1, use_real=True, repeat_interleave_real=False)
    return module(sample, torch.tensor([TIMESTEP / 1000]), encoder_hidden_states=embeds[None], global_hidden_states=whole[None], rotary_embedding=turns, return_dict=False)[0]


def run_ace_step(module, sample, context, embeds):
    time = torch.tensor([TIMESTEP / 1000])
    out = module(hidden_states=sample.permute(0, 2, 1), timestep=time, timestep_r=time, encoder_hidden_states=embeds[None], context_latents=context.permute(0, 2, 1), return_dict=False)[0]
    return out.permute(0, 2, 1)


# class, what is published (with one block), inputs, how it runs
TRANSFORMERS = {
    "wan21-1.3b": (WanTransformer3DModel, {**WAN, "num_attention_heads": 12, "in_channels": 16, "out_channels": 16, "ffn_dim": 8960}, {"sample": (1, 16, *SIZE), "prompt_embeds": (1, TOKENS, 4096)}, run_wan),
    "wan22-ti2v-5b": (WanTransformer3DModel, {**WAN, "num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336}, {"sample": (1, 48, *SIZE), "prompt_embeds": (1, TOKENS, 4096)}, run_wan),
    "ltx-2b": (LTXVideoTransformer3DModel, {"num_layers": 1}, {"sample": (1, 128, *SIZE), "prompt_embeds": (1, TOKENS, 4096)}, run_ltx),
    "stable-audio-open": (StableAudioDiTModel, {"num_layers": 1, "sample_size": SOUND}, {"sample": (1, 64, SOUND), "encoder_hidden_states": (TOKENS, 768), "global_hidden_states": (1, 1536)}, run_stable_audio),
    # A layer that sees all and one that sees a window, which is shorter than published, so that a short sound has several.
    "ace-step-1.5": (AceStepTransformer1DModel, {"num_hidden_layers": 2, "sliding_window": 4}, {"sample": (1, 64, SOUND), "context_latents": (1, 128, SOUND), "encoder_hidden_states": (TOKENS, 2048)}, run_ace_step),
}


def fill(module: torch.nn.Module) -> list[dict]:
    table = []
    for number, (name, value) in enumerate(sorted((name, value) for name, value in module.state_dict().items() if torch.is_floating_point(value))):
        shape = tuple(value.shape)
        bits = (4 if BLOCK.match(name) else 8 if BEFORE.match(name) else None) if value.ndim == 2 and shape[1] % 32 == 0 else None
        if bits:
            scale = float(np.float32(1 / ((4.6 if bits == 4 else 74) * shape[1] ** 0.5)))
            value.copy_(quantised(number, shape, bits, scale))
            table.append({"name": name, "shape": list(shape), "bits": bits, "scale": scale})
        else:
            scale, add = scale_of(name, shape, 1.0)
            value.copy_(hashed(number, shape, scale, add))
            table.append({"name": name, "shape": list(shape), "scale": scale, "add": add})
    return table


@torch.no_grad()
def block(name: str) -> dict:
    kind, config, inputs, run = TRANSFORMERS[name]
    # What torch would draw is overwritten.
    for draw in ("kaiming_uniform_", "uniform_", "normal_", "xavier_uniform_", "trunc_normal_"):
        setattr(torch.nn.init, draw, lambda tensor, *_, **__: tensor)
    module = kind(**config).eval()
    tensors = fill(module)
    given = [hashed(INPUT + k, shape, 1.0, 0.0) for k, shape in enumerate(inputs.values())]
    out = run(module, *given).contiguous().numpy().reshape(-1)
    if not np.isfinite(out).all():
        raise ValueError(f"{name}: not finite")
    places = [(n * 2654435761 + 12345) % out.size for n in range(SAMPLES)]
    exact = out.astype(np.float64)
    print(f"{name}: {sum(value.numel() for value in module.state_dict().values()) / 1e6:.0f} M, {out.size} values, mean {exact.mean():.3f}, square {(exact**2).mean():.3f}", flush=True)
    return {
        "config": config,
        "timestep": TIMESTEP,
        "inputs": {key: list(shape) for key, shape in inputs.items()},
        "tensors": tensors,
        "length": int(out.size),
        "square": float((exact**2).mean()),
        "values": [float(f"{out[place]:.9g}") for place in places],
    }


def main() -> None:
    content = {"about": ABOUT, "blocks": {name: block(name) for name in TRANSFORMERS}}
    rows = json.dumps(content, ensure_ascii=False, separators=(", ", ": "))
    # One tensor per line, so that a difference between two versions can be read.
    (GOLDENS / "large_media.json").write_text(re.sub(r"(?<=[\]}]), (?=[\[{\"])", ",\n", rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
