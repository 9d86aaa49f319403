"""ComfyUI's `normal` and `simple` sigmas, for diffusers' `sigmas=`; checked against ComfyUI's own in shared/goldens."""

import json

import numpy as np
import torch

from files import GOLDENS


def sigma_table() -> np.ndarray:
    """The 1000 sigmas of Stable Diffusion, ascending."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    cumulative = torch.cumprod(1 - betas, dim=0)
    return (((1 - cumulative) / cumulative) ** 0.5).double().numpy()


def simple(table: np.ndarray, steps: int) -> list[float]:
    return [float(table[-(1 + int(step * len(table) / steps))]) for step in range(steps)] + [0.0]


def normal(table: np.ndarray, steps: int) -> list[float]:
    timesteps = np.linspace(len(table) - 1, 0, steps)
    return [float(sigma) for sigma in np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))] + [0.0]


COMFYUI = {"normal": normal, "simple": simple}


def check_against_comfyui() -> int:
    """Compares with the cases that ComfyUI's own code gave, and returns how many there were (0 without shared/)."""
    path = GOLDENS / "schedulers.json"
    if not path.exists():
        return 0
    cases = [
        case
        for case in json.loads(path.read_text())["comfyui"]
        if case["scheduler"] in COMFYUI and case["id"].startswith("comfy_sd15_")
    ]
    for case in cases:
        np.testing.assert_allclose(COMFYUI[case["scheduler"]](sigma_table(), case["steps"]), case["sigmas"], rtol=2e-6, atol=1e-6)
    return len(cases)
