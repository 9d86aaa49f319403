"""
Golden levels and trajectories of ComfyUI's nodes ModelSamplingAuraFlow, ModelSamplingFlux and ModelSamplingSD3.

    python reference/model_sampling.py <a checkout of ComfyUI>

As reference/comfyui.py, whose made-up model this uses: nodes, model types, schedulers and samplers are ComfyUI's own.
"""

import importlib
import sys
import types
from pathlib import Path

import torch

from comfyui import COMMIT, COUNT, Model, load, sigmas_of
from files import GOLDENS, digits, write_rows

NODES = (
    ("ModelSamplingAuraFlow", {"shift": 1.73}), ("ModelSamplingAuraFlow", {"shift": 3.1}), ("ModelSamplingSD3", {"shift": 3.0}), ("ModelSamplingSD3", {"shift": 0.5}),
    ("ModelSamplingFlux", {"max_shift": 1.15, "base_shift": 0.5, "width": 1024, "height": 1024}),
    ("ModelSamplingFlux", {"max_shift": 1.15, "base_shift": 0.5, "width": 512, "height": 768}),
    ("ModelSamplingFlux", {"max_shift": 0.9, "base_shift": 0.2, "width": 1328, "height": 760}),
)
SCHEDULES = ("simple", "sgm_uniform", "normal", "beta", "ddim_uniform", "linear_quadratic", "karras", "exponential", "kl_optimal")
SAMPLED = (("euler", "simple", 1.0), ("dpmpp_2m", "beta", 1.0), ("res_multistep", "sgm_uniform", 1.0), ("uni_pc", "normal", 1.0), ("euler", "simple", 0.6))
STEPS = 6
SURROUNDINGS = ("comfy.sd", "comfy.latent_formats", "nodes", "node_helpers")

ABOUT = (
    "ComfyUI's nodes that say how the levels of a flow are shifted, each over the model of comfyui_samplers.json: `levels` by schedule, of 6 steps, and `ends`, x in the end by sampler, "
    "schedule and denoise. The network is told 1000 times the level, whatever the node's multiplier, which is only in what units it is told."
)


class Flow(Model):
    """The model whose node is asked; networks are told levels times 1000, whatever unit theirs is."""

    model_config = types.SimpleNamespace(sampling_settings={})

    def __init__(self, samplers):
        super().__init__(samplers, None)
        self.model = self

    def clone(self):
        return self

    def add_object_patch(self, _, sampling):
        unit = 500 / float(sampling.timestep(torch.tensor(0.5)))
        told = sampling.timestep
        self.model_sampling = sampling
        self.model_sampling.__class__.told = lambda self, sigma: told(sigma) * unit


def main() -> None:
    comfy = load(Path(sys.argv[1]))
    for name in SURROUNDINGS:
        sys.modules[name] = types.ModuleType(name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])
    sys.modules["nodes"].MAX_RESOLUTION = 16384
    nodes = importlib.import_module("comfy_extras.nodes_model_advanced")
    generator = torch.Generator().manual_seed(7)
    noise, image = (torch.randn(1, COUNT, 1, 1, generator=generator) for _ in range(2))
    rows = []
    for name, settings in NODES:
        def patched():
            node = getattr(nodes, name)()
            return getattr(node, node.FUNCTION)(model=Flow(comfy[0]), **settings)[0]

        levels = {schedule: digits(sigmas_of(comfy, patched(), "euler", schedule, STEPS, 1.0)) for schedule in SCHEDULES}
        ends = {}
        for sampler, schedule, denoise in SAMPLED:
            model = patched()
            sigmas = sigmas_of(comfy, model, sampler, schedule, STEPS, denoise).clone()
            # The samplers have asked what they need of the levels' times; from here on only the network is told any.
            telling = types.SimpleNamespace(timestep=model.model_sampling.told)
            inner = model.model_sampling

            class Told:
                def __getattr__(self, key):
                    return getattr(telling if key == "timestep" else inner, key)

            model.model_sampling = Told()
            latent = image if denoise < 1 else torch.zeros_like(image)
            with torch.no_grad():
                x = comfy[0].sampler_object(sampler).sample(model, sigmas, {"seed": 0, "model_options": {}}, None, noise.clone(), latent, disable_pbar=True)
            assert x.isfinite().all()
            ends[f"{sampler} {schedule} {denoise:g}"] = digits(x.reshape(-1))
        rows.append({"node": name, "settings": settings, "levels": levels, "ends": ends})
    head = {"about": ABOUT, "comfyui": COMMIT, "steps": STEPS, "noise": digits(noise), "image": digits(image)}
    write_rows(GOLDENS / "model_sampling.json", head, "rows", rows)
    print(f"{len(rows)} nodes")


if __name__ == "__main__":
    main()
