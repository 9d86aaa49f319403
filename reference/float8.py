"""
test/goldens/float8.json: every value of torch's 8-bit floating point types, as float32; what is no number is null, infinities are texts.

test/goldens/scaled_float8: random weights in these types with scales for the whole or for each row, in both of ComfyUI's spellings, and what
torch makes of them, as float32: the number times its scale.
"""

import json
import math

import torch

from files import GOLDENS, fresh_folder, write_json, write_tensors

TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def plain(value: float) -> float | str | None:
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return None if math.isnan(value) else value


def make_float8() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    values = {name: [plain(value) for value in codes.view(dtype).float().tolist()] for name, dtype in TYPES.items()}
    write_json(GOLDENS / "float8.json", {"about": __doc__.strip().split("\n\n")[0], **values})


def make_scaled_float8() -> None:
    folder = fresh_folder(GOLDENS / "scaled_float8")
    generator = torch.Generator().manual_seed(16)
    tensors, expected = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, {}
    for name, spelling, dtype, shape, kind in (
        ("whole", "scale_weight", torch.float8_e4m3fn, (), torch.float32),
        ("today", "weight_scale", torch.float8_e4m3fn, (), torch.float32),
        ("one", "weight_scale", torch.float8_e5m2, (1,), torch.float32),
        ("rows", "weight_scale", torch.float8_e4m3fn, (9,), torch.float32),
        ("column", "weight_scale", torch.float8_e4m3fn, (9, 1), torch.bfloat16),
    ):
        weight = (torch.randn(9, 40, generator=generator) * 40).to(dtype)
        scale = (torch.rand(shape, generator=generator) * 0.01 + 1e-4).to(kind)
        tensors |= {f"{name}.weight": weight, f"{name}.{spelling}": scale, f"{name}.bias": torch.randn(9, generator=generator)}
        if spelling == "weight_scale":
            tensors |= {f"{name}.input_scale": torch.tensor(0.5), f"{name}.comfy_quant": torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)}
        else:
            tensors |= {f"{name}.scale_input": torch.tensor(0.5)}
        expected[f"{name}.weight"] = weight.to(torch.float32) * (scale if scale.numel() == 1 else scale.reshape(-1, 1)).to(torch.float32)
    write_tensors(folder / "weights.safetensors", tensors)
    write_tensors(folder / "expected.safetensors", expected)


if __name__ == "__main__":
    make_float8()
    make_scaled_float8()
