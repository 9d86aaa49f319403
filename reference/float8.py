"""
test/goldens/float8.json: every value of torch's 8-bit floating point types, as float32; what is no number is null, infinities are texts.
"""

import math

import torch

from files import GOLDENS, write_json

TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def plain(value: float) -> float | str | None:
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return None if math.isnan(value) else value


def make_float8() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    values = {name: [plain(value) for value in codes.view(dtype).float().tolist()] for name, dtype in TYPES.items()}
    write_json(GOLDENS / "float8.json", {"about": __doc__.strip(), **values})


if __name__ == "__main__":
    make_float8()
