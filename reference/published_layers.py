"""Makes test/goldens/published_layers.json: layers of the published checkpoints at their full width, for pictures of 512 to 1024 pixels.

Their weights and inputs follow from the hash of weightless.py, so nothing of them is stored; of what torch makes of them, the mean, the
mean square and some values are.
"""

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

import models  # noqa: F401  (quiet libraries)
from export_bench import _scale_and_add
from files import GOLDENS, write_json
from weightless import hashed

GROUPS = 32
TOKENS = 77
SAMPLES = 48
PIXELS = (512, 768, 1024)
INPUT, TEXT = 1000, 1001
# Queries as large as trained ones: with less, every token looks at all of them alike.
SHARPNESS = 4.0

ABOUT = (
    "Layers of published checkpoints, computed by torch. Tensor number k of `tensors` is made as bench/graphs/weights.json says, the input x "
    f"is number {INPUT} and the text number {TEXT}, both with scale 1.75. Value n of `values` is the output's element "
    "(n * 2654435761 + 12345) mod its length; `mean` and `square` are of all of it."
)


def transformer(channels: int, heads: int, text: int, linear: bool):
    module = Transformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=channels // heads,
        in_channels=channels,
        num_layers=1,
        cross_attention_dim=text,
        norm_num_groups=GROUPS,
        use_linear_projection=linear,
    )
    return module, lambda x, states: module(x, states, return_dict=False)[0], {"channels": channels, "heads": heads, "text": text}


def middle(channels: int):
    module = Attention(channels, heads=1, dim_head=channels, norm_num_groups=GROUPS, eps=1e-6, bias=True, residual_connection=True, _from_deprecated_attn_block=True)
    return module, lambda x, _: module(x), {"channels": channels}


def resnet(channels: int, out: int):
    module = ResnetBlock2D(in_channels=channels, out_channels=out, temb_channels=None, groups=GROUPS, eps=1e-6)
    return module, lambda x, _: module(x, None), {"channels": channels, "out": out}


# name: kind, module, run, options; pixels per element of a side, sizes of the picture
LAYERS = {
    "Stable Diffusion 1, 64 of 512": ("transformer", transformer(320, 8, 768, False), 8, PIXELS),
    "Stable Diffusion 1, 32 of 512": ("transformer", transformer(640, 8, 768, False), 16, PIXELS),
    "Stable Diffusion 1, 16 of 512": ("transformer", transformer(1280, 8, 768, False), 32, PIXELS),
    "Stable Diffusion 2 and Turbo, 64 of 512": ("transformer", transformer(320, 5, 1024, True), 8, PIXELS),
    "Stable Diffusion XL, 32 of 512": ("transformer", transformer(640, 10, 2048, True), 16, PIXELS),
    "Stable Diffusion XL, 16 of 512": ("transformer", transformer(1280, 20, 2048, True), 32, PIXELS),
    "AutoencoderKL, middle": ("middle", middle(512), 8, PIXELS),
    # Whole pictures beyond this are decoded in tiles.
    "AutoencoderKL, up block 0": ("resnet", resnet(512, 512), 8, (512,)),
    "AutoencoderKL, up block 1": ("resnet", resnet(512, 512), 4, (512,)),
    "AutoencoderKL, up block 2": ("resnet", resnet(512, 256), 2, (512,)),
    "AutoencoderKL, up block 3": ("resnet", resnet(256, 128), 1, (512,)),
}


def fill(module: torch.nn.Module) -> list[dict]:
    tensors = []
    for number, (name, value) in enumerate(sorted(module.state_dict().items())):
        shape = tuple(value.shape)
        scale, add = _scale_and_add(name, shape)
        scale *= SHARPNESS if name.endswith("to_q.weight") else 1
        value.copy_(hashed(number, shape, scale, add))
        tensors.append({"name": name, "shape": list(shape), "scale": scale, "add": add})
    return tensors


@torch.no_grad()
def main() -> None:
    layers = []
    for name, (kind, (module, run, options), unit, pixels) in LAYERS.items():
        tensors = fill(module.eval())
        states = hashed(TEXT, (1, TOKENS, options["text"]), 1.75, 0.0) if "text" in options else None
        cases = []
        for size in pixels:
            side = size // unit
            out = run(hashed(INPUT, (1, options["channels"], side, side), 1.75, 0.0), states).numpy().reshape(-1)
            if not np.isfinite(out).all():
                raise ValueError(f"{name}: not finite")
            places = [(n * 2654435761 + 12345) % out.size for n in range(SAMPLES)]
            exact = out.astype(np.float64)
            cases.append({"pixels": size, "side": side, "mean": float(exact.mean()), "square": float((exact**2).mean()), "values": [float(f"{out[place]:.9g}") for place in places]})
            print(f"{name} at {size}: {out.size} values, square {cases[-1]['square']:.3f}", flush=True)
        layers.append({"name": name, "kind": kind, "options": options, "tensors": tensors, "cases": cases})
    write_json(GOLDENS / "published_layers.json", {"about": ABOUT, "layers": layers})


if __name__ == "__main__":
    main()
