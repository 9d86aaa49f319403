"""
Golden noise of other tools: test/goldens/noise.json.

    python reference/noise.py <a checkout of AUTOMATIC1111's web UI> <a checkout of ComfyUI>

Not part of make.py, as neither is a package. Of the web UI modules/rng.py and modules/rng_philox.py run as they are, with the modules around them empty; of ComfyUI
comfy/sample.py's prepare_noise and the noise samplers of comfy/k_diffusion/sampling.py. Brownian trees are torchsde's.
"""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import torch
import torchsde._brownian.brownian_interval as brownian

from comfyui import load
from files import GOLDENS, digits, write_rows

SHAPE = (4, 6, 8)
SEEDS = (0, 1, 42, 31337, 2**32 - 1, 2**32, 1234567890123, 2**64 - 2)
LEVELS = [14.614647, 7.0, 2.5, 1.2000001, 0.5, 0.0291675]

ABOUT = (
    "Noise of shape [batch, 4, 6, 8] as other tools draw it: `start`, then `steps` draws in steps. For `nv` and `a1111_cpu` by ImageRNG of AUTOMATIC1111 with randn_source NV and CPU, seeds "
    "seed + i (with a variation: the one seed, and variation seeds + i), for `comfyui` by prepare_noise and default_noise_sampler. With `tree` the steps are what BrownianTreeNoiseSampler "
    "gives between neighbours of `levels`, then from the first to the fourth. Each draw: its first 6 numbers, and the sum and the sum of squares of all in float64 (%.9g). `philox` is 5000 "
    "numbers of AUTOMATIC1111's generator, three times; `sequence` four words of numpy's SeedSequence with a pool of 24."
)


def load_webui(root: Path):
    """modules/rng.py with its surroundings empty."""
    modules = types.ModuleType("modules")
    modules.__path__ = [str(root / "modules")]
    shared = types.ModuleType("modules.shared")
    shared.opts = types.SimpleNamespace(randn_source="CPU", eta_noise_seed_delta=0)
    devices = types.ModuleType("modules.devices")
    devices.cpu = devices.device = shared.device = torch.device("cpu")
    modules.shared, modules.devices = shared, devices
    sys.modules |= {"modules": modules, "modules.shared": shared, "modules.devices": devices}
    return importlib.import_module("modules.rng"), shared.opts


def told(noise: torch.Tensor) -> list[str]:
    values = noise.double().reshape(-1)
    return [*digits(noise.reshape(-1)[:6]), "%.9g" % values.sum().item(), "%.9g" % values.square().sum().item()]


def tree_steps(sampler) -> list[torch.Tensor]:
    levels = [torch.tensor(level) for level in LEVELS]
    return [sampler(a, b) for a, b in zip(levels, levels[1:])] + [sampler(levels[0], levels[3])]


def webui_rows(rng, opts, sampling) -> list[dict]:
    rows = []

    def row(source: str, seed: int, batch: int, variation=None, strength=0.0, delta=0, tree=False) -> None:
        opts.randn_source, opts.eta_noise_seed_delta = {"nv": "NV", "a1111_cpu": "CPU"}[source], delta
        seeds = [seed + (0 if strength else i) for i in range(batch)]
        subseeds = None if variation is None else [variation + i for i in range(batch)]
        image = rng.ImageRNG(SHAPE, seeds, subseeds=subseeds, subseed_strength=strength)
        start = image.next()
        if tree:
            def patched(size, dtype, device, seed):
                return rng.randn_local(int(seed), size).to(device=device, dtype=dtype)

            kept, brownian._randn = brownian._randn, patched
            steps = tree_steps(sampling.BrownianTreeNoiseSampler(start, torch.tensor(LEVELS[-1]), torch.tensor(LEVELS[0]), seed=seeds))
            brownian._randn = kept
        else:
            steps = [image.next(), image.next()]
        rows.append({"noise": source, "seed": str(seed), "batch": batch, "variation": None if variation is None else str(variation), "strength": strength, "delta": delta, "tree": tree, "start": told(start), "steps": [told(step) for step in steps]})

    for source in ("nv", "a1111_cpu"):
        for seed in SEEDS:
            row(source, seed, 2 if seed < 2**63 else 1)
        row(source, 7, 3, variation=99, strength=0.3)
        row(source, 7, 1, variation=7, strength=0.5)
        row(source, 7, 2, delta=31337)
        for seed in SEEDS:
            row(source, seed, 2 if seed < 2**63 else 1, tree=True)
    return rows


def comfyui_rows(comfy_sample, sampling) -> list[dict]:
    rows = []
    for seed in SEEDS:
        for tree in (False, True):
            x = torch.zeros(2, *SHAPE)
            start = comfy_sample.prepare_noise(x, seed)
            if tree:
                steps = tree_steps(sampling.BrownianTreeNoiseSampler(x, torch.tensor(LEVELS[-1]), torch.tensor(LEVELS[0]), seed=seed, cpu=True))
            else:
                draw = sampling.default_noise_sampler(x, seed=seed)
                steps = [draw(None, None), draw(None, None)]
            rows.append({"noise": "comfyui", "seed": str(seed), "batch": 2, "variation": None, "strength": 0, "delta": 0, "tree": tree, "start": told(start), "steps": [told(step) for step in steps]})
    return rows


def main() -> None:
    _, _, sampling = load(Path(sys.argv[2]))
    sample = importlib.import_module("comfy.sample")
    rng, opts = load_webui(Path(sys.argv[1]))
    philox = []
    for seed in SEEDS:
        generator = rng.rng_philox.Generator(seed)
        for _ in range(3):
            values = generator.randn((5000,))
            philox.append({"seed": str(seed), "told": told(torch.from_numpy(values))})
    sequence = [
        {"entropy": str(seed), "spawn_key": list(key), "words": [int(word) for word in np.random.SeedSequence(entropy=seed, spawn_key=key, pool_size=24).generate_state(4)]}
        for seed in SEEDS
        for key in ((), (0, 0), (5, 3), (2**33 + 1, 34))
    ]
    head = {"about": ABOUT, "levels": digits(torch.tensor(LEVELS)), "philox": philox, "sequence": sequence}
    write_rows(GOLDENS / "noise.json", head, "rows", webui_rows(rng, opts, sampling) + comfyui_rows(sample, sampling))


if __name__ == "__main__":
    main()
