"""
Golden trajectories of ComfyUI: its own samplers and schedulers, stepped over a made-up model.

    python reference/comfyui.py <a checkout of ComfyUI>

It is not part of make.py, as ComfyUI is no package. What ComfyUI's sampling code imports beside itself (model management, hooks) is replaced by empty modules;
samplers, schedulers, model types and guidance are its own.
"""

import importlib
import inspect
import sys
import types
from pathlib import Path

import numpy as np
import torch

from files import GOLDENS, digits, write_rows

COMMIT = "a125cd84b054a57729b5eecab930ca9408719832"
STEPS = 7
GUIDANCE = 2.0
COUNT = 4
EMPTY = ("einops", "comfy.model_management", "comfy.sampler_helpers", "comfy.patcher_extension", "comfy.hooks", "comfy.context_windows", "comfy.utils", "comfy_api", "comfy_api.latest")

SAMPLERS = (
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "ipndm_v", "deis",
    "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde",
    "sa_solver", "ddim", "uni_pc", "uni_pc_bh2",
)
SCHEDULES = ("simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic", "kl_optimal")
NODES = ("polyexponential", "align_your_steps", "gits")

ABOUT = (
    "ComfyUI's samplers over a made-up model of four values. What the network is given and told is the model type's (calculate_input, timestep); it gives, k = 0..3, "
    "f32(0.3 * in[k]) + f32(0.3 * sin(0.01 * t + k)) for the prompt and f32(0.2 * in[k]) + f32(0.25 * cos(0.013 * t + 2 * k)) for the negative one, sine and cosine in "
    "float64; guidance 2. The start is ComfyUI's noise_scaling of `noise` and of nothing, or of `image` with a denoise below 1. Stochastic samplers draw from one generator seeded with 11, four "
    "values a time, whatever they would draw from by themselves. Each row holds the cases of one sampler and prediction: by schedule, steps and denoise the x in the end. flow has shift 3."
)


def load(root: Path):
    """ComfyUI's sampling code, with its surroundings empty."""
    for name in EMPTY:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["einops"].repeat = sys.modules["einops"].rearrange = None
    sys.modules["comfy_api.latest"].ComfyExtension = object
    sys.modules["comfy_api.latest"].io = types.SimpleNamespace(ComfyNode=object, Schema=None, NodeOutput=lambda sigmas: types.SimpleNamespace(result=(sigmas,)))
    sys.modules["comfy.hooks"].HookGroup = sys.modules["comfy.hooks"].EnumHookType = object
    patcher = types.ModuleType("comfy.model_patcher")

    def post_cfg(options, function, disable_cfg1_optimization=False):
        return {**options, "sampler_post_cfg_function": [*options.get("sampler_post_cfg_function", []), function], "disable_cfg1_optimization": disable_cfg1_optimization}

    patcher.set_model_options_post_cfg_function = post_cfg
    patcher.ModelPatcher = object
    sys.modules["comfy.model_patcher"] = patcher
    sys.path.insert(0, str(root))
    comfy = importlib.import_module("comfy")
    for name in [*EMPTY, "comfy.model_patcher"]:
        if name.startswith("comfy."):
            setattr(comfy, name.removeprefix("comfy."), sys.modules[name])
    return importlib.import_module("comfy.samplers"), importlib.import_module("comfy.model_sampling"), importlib.import_module("comfy.k_diffusion.sampling")


class Model:
    """Everything that ComfyUI's samplers ask of a model: the patcher, the guider and the network in one."""

    def __init__(self, samplers, model_sampling):
        self.samplers, self.model_sampling = samplers, model_sampling
        self.inner_model = self.model_patcher = self
        self.load_device, self.model_options = torch.device("cpu"), {}

    def get_model_object(self, name: str):
        return getattr(self, name)

    def __call__(self, x, sigma, model_options={}, seed=None):
        types = self.model_sampling
        timestep = float(types.timestep(sigma).float()[0])
        given = types.calculate_input(sigma, x)
        ramp = np.arange(COUNT)

        def wave(values) -> torch.Tensor:
            return torch.from_numpy(values.astype(np.float32)).reshape(x.shape)

        cond = given * 0.3 + wave(0.3 * np.sin(0.01 * timestep + ramp))
        uncond = given * 0.2 + wave(0.25 * np.cos(0.013 * timestep + 2 * ramp))
        denoised = [types.calculate_denoised(sigma, out, x) for out in (cond, uncond)]
        return self.samplers.cfg_function(self, *denoised, GUIDANCE, x, sigma, model_options=model_options)


def model_types(model_sampling, prediction: str):
    kinds = {
        "epsilon": (model_sampling.EPS, model_sampling.ModelSamplingDiscrete, {}),
        "v_prediction": (model_sampling.V_PREDICTION, model_sampling.ModelSamplingDiscrete, {}),
        "v_prediction, zero SNR": (model_sampling.V_PREDICTION, model_sampling.ModelSamplingDiscrete, {"zsnr": True}),
        "sample": (model_sampling.X0, model_sampling.ModelSamplingDiscrete, {}),
        "flow_prediction": (model_sampling.CONST, model_sampling.ModelSamplingDiscreteFlow, {"shift": 3.0}),
    }
    meaning, levels, settings = kinds[prediction]
    kind = type("Kind", (levels, meaning), {})
    return kind(types.SimpleNamespace(sampling_settings=settings))


def sigmas_of(comfy, model, sampler: str, schedule: str, steps: int, denoise: float) -> torch.Tensor:
    samplers, _, sampling = comfy
    if schedule not in NODES:
        return samplers.KSampler(model, steps, "cpu", sampler=sampler, scheduler=schedule, denoise=denoise).sigmas
    if schedule == "polyexponential":
        levels = model.model_sampling
        return sampling.get_sigmas_polyexponential(steps, float(levels.sigma_min), float(levels.sigma_max))
    if schedule == "align_your_steps":
        node = importlib.import_module("comfy_extras.nodes_align_your_steps").AlignYourStepsScheduler
        return node.execute("SD1", steps, denoise).result[0]
    return importlib.import_module("comfy_extras.nodes_gits").GITSScheduler.execute(1.2, steps, denoise).result[0]


def trajectory(comfy, prediction: str, sampler: str, schedule: str, steps: int, denoise: float, noise, image):
    """x in the end, or None where ComfyUI gives no finite numbers."""
    samplers, model_sampling, _ = comfy
    model = Model(samplers, model_types(model_sampling, prediction))
    sigmas = sigmas_of(comfy, model, sampler, schedule, steps, denoise).clone()
    one = samplers.sampler_object(sampler)
    if "noise_sampler" in inspect.signature(one.sampler_function).parameters:
        generator = torch.Generator().manual_seed(11)
        one.extra_options = {"noise_sampler": lambda *_: torch.randn(noise.shape, generator=generator)}
    latent = image if denoise < 1 else torch.zeros_like(image)
    with torch.no_grad():
        x = one.sample(model, sigmas, {"seed": 0, "model_options": {}}, None, noise.clone(), latent, disable_pbar=True)
    return x.reshape(-1) if x.isfinite().all() else None


def main() -> None:
    comfy = load(Path(sys.argv[1]))
    generator = torch.Generator().manual_seed(7)
    noise, image = (torch.randn(1, COUNT, 1, 1, generator=generator) for _ in range(2))
    samplers_that_drop = comfy[0].KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    rows = []
    for sampler in SAMPLERS:
        for prediction in ("epsilon", "v_prediction", "flow_prediction", "sample", "v_prediction, zero SNR"):
            flow = prediction == "flow_prediction"
            usual = prediction in ("epsilon", "v_prediction")
            # Seven points of `normal` lie exactly between two timesteps, and the last bit of torch's logarithm decides which is told to the network.
            fewer = 0 if sampler in samplers_that_drop else 1
            cases = [(schedule, STEPS - (fewer if schedule == "normal" else 0), 1.0) for schedule in (SCHEDULES + NODES if usual else SCHEDULES if flow else ("normal",))]
            if prediction in ("epsilon", "flow_prediction"):
                cases += [("normal", 2, 1.0), ("simple", 4, 1.0), ("karras", 12, 1.0), ("normal", 5, 0.6)]
            # One step from σ = 4518 loses three digits of f32, on both sides.
            if sampler not in ("uni_pc", "uni_pc_bh2") and not flow and "zero" not in prediction:
                cases += [("normal", 1, 1.0)]
            ends = {}
            for schedule, steps, denoise in cases:
                x = trajectory(comfy, prediction, sampler, schedule, steps, denoise, noise, image)
                if x is not None:
                    ends[f"{schedule} {steps} {denoise:g}"] = digits(x)
                else:
                    print("not finite:", sampler, prediction, schedule, steps, denoise)
            if ends:
                rows.append({"sampler": sampler, "prediction": prediction, "ends": ends})
    head = {"about": ABOUT, "comfyui": COMMIT, "noise": digits(noise), "image": digits(image)}
    write_rows(GOLDENS / "comfyui_samplers.json", head, "rows", rows)
    print(f"{sum(len(row['ends']) for row in rows)} cases of ComfyUI's samplers")


if __name__ == "__main__":
    main()
