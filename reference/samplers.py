"""Golden sampler trajectories without a network: every diffusers scheduler we follow, stepped over a made-up model."""

import math

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

from files import GOLDENS, digits, write_rows

SCHEDULERS = {
    "euler": EulerDiscreteScheduler,
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "plms": PNDMScheduler,
    "dpmpp_2m_sde": DPMSolverMultistepScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "lms": LMSDiscreteScheduler,
    "uni_pc": UniPCMultistepScheduler,
    "uni_pc_bh2": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
}
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# What turns a scheduler into the sampler of that name, whatever the checkpoint's own configuration says.
ESSENCE = {
    "euler": {},
    "ddim": {"clip_sample": False},
    "dpmpp_2m": {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    "plms": {"skip_prk_steps": True},
    "euler_ancestral": {},
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    "heun": {},
    "lms": {},
    # With a last level without noise the class divides by zero here.
    "uni_pc": {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    "uni_pc_bh2": {"solver_type": "bh2"},
    "lcm": {},
    "tcd": {},
}

STOCHASTIC = {"dpmpp_2m_sde", "euler_ancestral", "lcm", "tcd"}

ABOUT = (
    "Schedulers of diffusers stepped over a made-up model. At each of `timesteps`: x_in = scheduler.scale_model_input(x, t); "
    "out[k] = f32(f32(0.6 * x_in[k]) * 0.5 + f32(0.3 * sin(0.01 * t + k))), k = 0..7, the sine in float64; "
    "x = scheduler.step(out, t, x) with the class's own eta; a stochastic scheduler draws from a generator seeded with 11, 8 values a step. `trace` is x after each step, float32 as text (%.9g). `scale` is what "
    "scale_model_input multiplies by at each step (null: it changes nothing). `x0` is the start vector; with `strength` it is "
    "the clean one: timesteps are cut as the img2img pipeline does (set_begin_index where the scheduler has it), and the "
    "first x is `start` = add_noise(x0, noise, timesteps[0]). Without strength the first x is x0 * init_noise_sigma. "
    "`sigmas` is the scheduler's whole table (also with strength), each level once, null where the scheduler has none."
)


def _cases() -> list[dict]:
    cases = []

    def add(sampler: str, steps, spacing: str, strength: float | None = None, **config) -> None:
        for count in steps:
            cases.append({"sampler": sampler, "steps": count, "strength": strength, "config": {"timestep_spacing": spacing, **config}})

    v = {"prediction_type": "v_prediction"}
    for spacing in ("leading", "trailing", "linspace"):
        add("euler", (1, 2, 5, 10), spacing, steps_offset=1)
        add("euler", (7,), spacing, steps_offset=0, **v)
        add("ddim", (1, 2, 5), spacing, steps_offset=1, set_alpha_to_one=False)
        add("ddim", (10,), spacing, steps_offset=0, set_alpha_to_one=True)
        add("ddim", (7,), spacing, steps_offset=1, set_alpha_to_one=False, **v)
        add("dpmpp_2m", (1, 2, 5, 10), spacing, steps_offset=1)
        add("dpmpp_2m", (7, 20), spacing, steps_offset=0, **v)
    for spacing in ("leading", "trailing"):
        add("plms", (1, 2, 5, 10), spacing, steps_offset=1, set_alpha_to_one=False)
        add("plms", (7,), spacing, steps_offset=0, set_alpha_to_one=True)
        add("plms", (5,), spacing, steps_offset=1, set_alpha_to_one=False, **v)
    add("euler", (20,), "leading", steps_offset=1)
    add("euler", (20,), "leading", steps_offset=0)
    add("ddim", (20,), "leading", steps_offset=1, set_alpha_to_one=False)
    add("ddim", (20,), "trailing", steps_offset=1, set_alpha_to_one=True, **v)
    add("dpmpp_2m", (20,), "leading", steps_offset=1)
    add("plms", (20,), "leading", steps_offset=1, set_alpha_to_one=False)
    karras = {"use_karras_sigmas": True}
    add("euler", (1, 2, 7, 10), "linspace", steps_offset=1, **karras)
    add("euler", (5,), "leading", steps_offset=1, **karras)
    add("euler", (5,), "trailing", steps_offset=0, **karras, **v)
    add("dpmpp_2m", (2, 7, 10, 20), "linspace", steps_offset=1, **karras)
    add("dpmpp_2m", (5,), "leading", steps_offset=1, **karras)
    add("dpmpp_2m", (5,), "linspace", steps_offset=1, **karras, **v)
    smallest = {"final_sigmas_type": "sigma_min"}
    add("euler", (5,), "leading", steps_offset=1, **smallest)
    add("dpmpp_2m", (2, 7, 10), "leading", steps_offset=1, **smallest)
    add("dpmpp_2m", (10,), "linspace", steps_offset=1, **smallest, **v)
    add("dpmpp_2m", (7,), "linspace", steps_offset=1, **smallest, **karras)
    for strength in (0.6, 0.25):
        add("euler", (10,), "leading", strength, steps_offset=1)
        add("euler", (7,), "linspace", strength, steps_offset=1, **karras)
        add("ddim", (10,), "leading", strength, steps_offset=1, set_alpha_to_one=False)
        add("dpmpp_2m", (10,), "leading", strength, steps_offset=1)
        add("dpmpp_2m", (7,), "linspace", strength, steps_offset=1, **karras)
        add("plms", (10,), "leading", strength, steps_offset=1, set_alpha_to_one=False)
    for strength in (0.6, 1.0):
        add("euler", (5,), "trailing", strength, steps_offset=1, **v)
        add("ddim", (7,), "trailing", strength, steps_offset=1, set_alpha_to_one=True, **v)
        add("dpmpp_2m", (5,), "trailing", strength, steps_offset=1)
        add("plms", (5,), "trailing", strength, steps_offset=0, set_alpha_to_one=False)
    add("ddim", (5,), "leading", 1.0, steps_offset=1, set_alpha_to_one=False)
    add("plms", (7,), "leading", 1.0, steps_offset=1, set_alpha_to_one=False)
    for solver in ("midpoint", "heun"):
        add("dpmpp_2m_sde", (1, 2, 5, 10, 20), "linspace", steps_offset=1, solver_type=solver)
        add("dpmpp_2m_sde", (7,), "leading", steps_offset=1, solver_type=solver, **v)
        add("dpmpp_2m_sde", (7,), "linspace", 0.6, steps_offset=1, solver_type=solver, **karras)
    for spacing in ("leading", "trailing", "linspace"):
        add("euler_ancestral", (1, 2, 5, 10), spacing, steps_offset=1)
        add("euler_ancestral", (7,), spacing, steps_offset=0, **v)
        add("euler_ancestral", (10,), spacing, 0.6, steps_offset=1)
    add("euler", (1, 7), "linspace", steps_offset=1, use_exponential_sigmas=True)
    for spacing in ("leading", "trailing", "linspace"):
        for sampler in ("heun", "lms"):
            add(sampler, (1, 2, 5, 10), spacing, steps_offset=1)
            add(sampler, (7,), spacing, steps_offset=0, **v)
            add(sampler, (10,), spacing, 0.6, steps_offset=1)
        for sampler in ("uni_pc", "uni_pc_bh2"):
            add(sampler, (1, 2, 5, 10), spacing, steps_offset=1)
            add(sampler, (7,), spacing, steps_offset=0, solver_order=3, **v)
            add(sampler, (10,), spacing, 0.6, steps_offset=1, solver_order=3)
    for sampler in ("heun", "lms"):
        add(sampler, (1, 7), "linspace", steps_offset=1, **karras)
        add(sampler, (7,), "leading", 0.25, steps_offset=1, use_exponential_sigmas=True)
    add("uni_pc_bh2", (1, 2, 3, 20), "linspace", steps_offset=1, solver_order=3)
    add("uni_pc_bh2", (5,), "linspace", steps_offset=1, solver_order=1)
    add("uni_pc_bh2", (7,), "linspace", steps_offset=1, **karras)
    add("uni_pc_bh2", (7,), "leading", steps_offset=1, **smallest)
    add("uni_pc_bh2", (5,), "trailing", steps_offset=1, rescale_betas_zero_snr=True, **v)
    for sampler in ("lcm", "tcd"):
        add(sampler, (1, 2, 4, 8, 50), "leading")
        add(sampler, (4,), "leading", **v)
        add(sampler, (8,), "leading", 0.5)
        add(sampler, (4,), "leading", original_inference_steps=100, timestep_scaling=1.0)
    return cases


def _made_up_model(x_in: torch.Tensor, timestep: float) -> torch.Tensor:
    wave = np.float32([0.3 * math.sin(0.01 * timestep + k) for k in range(8)])
    return x_in * 0.6 * 0.5 + torch.from_numpy(wave)


def _trace(case: dict, x0: torch.Tensor, noise: torch.Tensor) -> dict:
    sampler, steps, strength = case["sampler"], case["steps"], case["strength"]
    scheduler = SCHEDULERS[sampler].from_config({**SCALED_LINEAR, **ESSENCE[sampler], **case["config"]})
    scheduler.set_timesteps(steps)
    timesteps, first = scheduler.timesteps, 0
    if strength is not None:
        first = max(steps - min(int(steps * strength), steps), 0)
        timesteps = timesteps[first * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first * scheduler.order)
        x = start = scheduler.add_noise(x0, noise, timesteps[:1])
    else:
        x, start = x0 * scheduler.init_noise_sigma, None
    stochastic = {"generator": torch.Generator().manual_seed(11)} if sampler in STOCHASTIC else {}
    scales, trace = [], []
    for timestep in timesteps:
        x_in = scheduler.scale_model_input(x, timestep)
        scales.append(scheduler.scale_model_input(torch.ones(1), timestep).item())
        # UniPC wants a batch of channels.
        output, sample = (value.reshape(1, 1, -1) for value in (_made_up_model(x_in, timestep.item()), x))
        x = scheduler.step(output, timestep, sample, **stochastic).prev_sample.flatten()
        trace.append(x)
    if not all(step.isfinite().all() for step in trace):
        raise ValueError(f"not finite: {case}")
    sigmas = getattr(scheduler, "sigmas", None)
    if scheduler.order == 2:
        sigmas = torch.cat([sigmas[:1], sigmas[1::2]])
    config = {**SCALED_LINEAR, **ESSENCE[sampler], **case["config"]}
    return {
        "sampler": sampler,
        "class": type(scheduler).__name__,
        "config": config,
        "steps": steps,
        "strength": strength,
        "timesteps": [timestep.item() for timestep in timesteps],
        "sigmas": None if sigmas is None else digits(sigmas),
        "init_noise_sigma": digits([float(scheduler.init_noise_sigma)])[0],
        "scale": None if all(scale == 1 for scale in scales) else digits(scales),
        "start": None if start is None else digits(start),
        "trace": [digits(step) for step in trace],
    }


def make_samplers() -> int:
    generator = torch.Generator().manual_seed(7)
    x0, noise = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    rows = [_trace(case, x0, noise) for case in _cases()]
    write_rows(GOLDENS / "samplers.json", {"about": ABOUT, "x0": digits(x0), "noise": digits(noise)}, "cases", rows)
    return len(rows)
