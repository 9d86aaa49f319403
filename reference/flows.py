"""Golden trajectories of rectified flows without a network: FlowMatchEulerDiscreteScheduler and UniPCMultistepScheduler as diffusers' pipelines set them up."""

import math

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift

from files import GOLDENS, digits, write_rows

ABOUT = (
    "FlowMatchEulerDiscreteScheduler of diffusers, or the class that a config names, stepped over a made-up model: out[k] = f32(f32(0.6 * x[k]) * 0.5 + f32(0.3 * sin(0.01 * t + k))), "
    "k = 0..7, the sine in float64. `course` says what a pipeline adds: the tokens of the picture, the law of the dynamic shift, and whether it "
    "hands linspace(1, 1/steps) to the scheduler (`step`) or leaves the levels to it (`trained`). With `strength` the timesteps are cut as the "
    "image-to-image pipelines of flows do it, and the first x is `start` = scale_noise(x0, t, noise); without, it is x0. `end` is x after the last step."
)
FLUX = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "shift": 3.0}
QWEN = {**FLUX, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02, "shift": 1.0}
LINEAR = {"shift": "linear", "least": "step"}
# As Wan's checkpoints have it.
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def _cases() -> list[dict]:
    cases = []

    def add(steps, config: dict, tokens: int = 4096, strength: float | None = None, **course) -> None:
        for count in steps:
            cases.append({"config": config, "steps": count, "strength": strength, "course": {"tokens": tokens, **LINEAR, **course}})

    add((1, 2, 4, 28), {})
    add((1, 4, 8, 9), {"shift": 3.0})
    add((1, 4, 28), {"shift": 3.0}, least="trained")
    for tokens in (16, 256, 1024, 4096, 16384):
        add((4, 20), FLUX, tokens)
        add((4, 50), FLUX, tokens, shift="empirical")
    add((2, 4, 50), QWEN, 6032)
    add((4,), {**FLUX, "base_shift": math.log(3), "max_shift": math.log(3)}, 1024)
    add((5,), {**FLUX, "time_shift_type": "linear"}, 1024)
    add((2, 7), {"shift": 3.0, "use_karras_sigmas": True})
    add((2, 7), {**FLUX, "use_exponential_sigmas": True}, 1024)
    for strength in (0.6, 0.25, 1.0):
        add((4, 7), {"shift": 3.0}, strength=strength)
        add((4, 7), FLUX, 1024, strength)
    add((1, 2, 3, 4, 20, 50), UNIPC, least="trained")
    add((1, 4, 30), {**UNIPC, "flow_shift": 5.0, "solver_order": 1}, least="trained")
    add((2, 8), {**UNIPC, "flow_shift": 1.0}, least="trained")
    return cases


def _trace(case: dict, x0: torch.Tensor, noise: torch.Tensor) -> dict:
    config, steps, strength, course = case["config"], case["steps"], case["strength"], case["course"]
    kind = UniPCMultistepScheduler if config.get("_class_name") == "UniPCMultistepScheduler" else FlowMatchEulerDiscreteScheduler
    scheduler = kind.from_config(config)
    c = scheduler.config
    mu = None
    if kind is FlowMatchEulerDiscreteScheduler and c.use_dynamic_shifting:
        linear = calculate_shift(course["tokens"], c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
        mu = linear if course["shift"] == "linear" else compute_empirical_mu(course["tokens"], steps)
    sigmas = np.linspace(1.0, 1 / steps, steps) if course["least"] == "step" else None
    scheduler.set_timesteps(steps, **({} if kind is UniPCMultistepScheduler else {"sigmas": sigmas, "mu": mu}))
    first = 0 if strength is None else int(max(steps - min(steps * strength, steps), 0))
    timesteps = scheduler.timesteps[first:]
    scheduler.set_begin_index(first)
    x, start = x0, None
    if strength is not None:
        x = start = scheduler.scale_noise(x0, timesteps[:1], noise)
    for timestep in timesteps:
        wave = np.float32([0.3 * math.sin(0.01 * timestep.item() + k) for k in range(8)])
        # A batch of one, as UniPC joins its predictions by what follows the batch.
        x = scheduler.step((x * 0.6 * 0.5 + torch.from_numpy(wave))[None], timestep, x[None]).prev_sample[0]
    return {
        **case,
        "timesteps": [timestep.item() for timestep in timesteps],
        "sigmas": digits(scheduler.sigmas),
        "start": None if start is None else digits(start),
        "end": digits(x),
    }


def make_flows() -> int:
    generator = torch.Generator().manual_seed(7)
    x0, noise = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    rows = [_trace(case, x0, noise) for case in _cases()]
    write_rows(GOLDENS / "flows.json", {"about": ABOUT, "x0": digits(x0), "noise": digits(noise)}, "cases", rows)
    return len(rows)


if __name__ == "__main__":
    print(f"flows: {make_flows()} cases")
