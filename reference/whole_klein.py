"""
Makes FLUX.2 klein 4B once through: one step of 64 x 64 pixels with random weights of 4 bits, for `node bench/whole_klein.js FOLDER`. Call it
with that FOLDER. Its 8 billion weights are given by the formula of `large_flows.py`, and each layer's are made when it is computed, in single
precision, so that all of it takes a few gigabytes. Takes some minutes and is not run by `make.py`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from transformers import AutoTokenizer

import models  # noqa: F401  (quiet libraries)
from files import ROOT, write_json, write_tensors
from flow_pipelines import flux2_latents, scale_of
from large_flows import CHECKPOINTS, MODULATES, config_of, made, quantised
from weightless import hashed

# Tensors of each part are numbered from here.
FIRST = {"transformer": 0, "text_encoder": 20_000, "vae": 40_000}
TABLE = "model.embed_tokens.weight"
# Of Qwen3's 36 layers the last that is read is number 27; with one more, what it gives is not normalised.
LAYERS_READ = 28
PROMPT, SEED, SIDE = "a red house at the edge of the forest", 42, 64


def tensors_of(part: str, module: torch.nn.Module) -> list[dict]:
    tied = getattr(module, "_tied_weights_keys", None) or {}
    names = sorted(name for name, value in module.state_dict().items() if torch.is_floating_point(value) and name not in tied)
    table = []
    for number, name in enumerate(names, FIRST[part]):
        shape = list(module.state_dict()[name].shape)
        if part != "vae" and name != TABLE and len(shape) == 2 and shape[1] % 32 == 0:
            bits = 8 if MODULATES.search(name) or "modulation" in name else 4
            # As far as unit variance asks for: 4.6 and 74 are the spreads of such numbers.
            scale, add = 1 / ((4.6 if bits == 4 else 74) * shape[1] ** 0.5), 0.0
            table.append({"name": name, "number": number, "shape": shape, "bits": bits, "scale": float(np.float32(scale)), "add": add})
        else:
            scale, add = scale_of(name, tuple(shape), 1.0)
            table.append({"name": name, "number": number, "shape": shape, "scale": float(np.float32(scale)), "add": add})
    return table


def value_of(tensor: dict) -> torch.Tensor:
    shape = tuple(tensor["shape"])
    if "bits" in tensor:
        # Scales lie in half precision in the files that the library keeps.
        return quantised(tensor["number"], shape, tensor["bits"], tensor["scale"], torch.float16)
    return hashed(tensor["number"], shape, tensor["scale"], tensor["add"])


class Rows(torch.nn.Module):
    """In place of the table of embeddings, which has 1.5 GB: makes the rows that are asked for."""

    def __init__(self, tensor: dict):
        super().__init__()
        self.tensor = tensor

    def forward(self, ids):
        _, width = self.tensor["shape"]
        rows = {int(row): hashed(self.tensor["number"], (width,), self.tensor["scale"], self.tensor["add"], int(row) * width) for row in ids.unique()}
        return torch.stack([rows[int(row)] for row in ids.reshape(-1)]).reshape(*ids.shape, width)


def on_processor(kind: type) -> type:
    """Of a class of modules, one whose tensors go to the processor although its own weights are nowhere."""
    return type(kind.__name__, (kind,), {"device": property(lambda _: torch.device("cpu"))})


def made_as_needed(module: torch.nn.Module, tensors: list[dict]) -> None:
    """Each layer has its weights only while it is computed."""
    by_name = {tensor["name"]: tensor for tensor in tensors}
    for path, layer in module.named_modules():
        own = [name for name, _ in layer.named_parameters(recurse=False) if f"{path}.{name}" in by_name]
        empty = {name: layer._parameters[name] for name in own}

        def come(layer, _, path=path, own=own):
            for name in own:
                layer._parameters[name] = torch.nn.Parameter(value_of(by_name[f"{path}.{name}"]), requires_grad=False)

        def go(layer, *_, empty=empty):
            layer._parameters.update(empty)

        layer.register_forward_pre_hook(come)
        layer.register_forward_hook(go)


@torch.no_grad()
def main(folder: Path) -> None:
    torch.set_num_threads(2)
    tiny, parts = CHECKPOINTS["klein-4b"]
    tables, modules = {}, {}
    for part, (kind, settings, changes) in parts.items():
        config = config_of(tiny, part, changes)
        with torch.device("meta"):
            tables[part] = {"config": config, "tensors": tensors_of(part, made(kind, settings, config))}
            if part == "text_encoder":
                config = config | {"num_hidden_layers": LAYERS_READ, "layer_types": config["layer_types"][:LAYERS_READ]}
            modules[part] = made(kind, settings, config).eval()
        if part != "vae":
            made_as_needed(modules[part], tables[part]["tensors"])
            modules[part].__class__ = on_processor(kind)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "klein.json", {"like": tiny, "parts": tables, "parameters": {"prompt": PROMPT, "steps": 1, "seed": str(SEED), "width": SIDE, "height": SIDE}})
    qwen = modules["text_encoder"]
    qwen.model.rotary_emb = type(qwen.model.rotary_emb)(qwen.config)
    qwen.model.embed_tokens = Rows(next(tensor for tensor in tables["text_encoder"]["tensors"] if tensor["name"] == TABLE))
    # What it makes of words is not asked for.
    qwen.lm_head = torch.nn.Identity()
    vae = modules["vae"].to_empty(device="cpu")
    state = vae.state_dict()
    for tensor in tables["vae"]["tensors"]:
        state[tensor["name"]].copy_(value_of(tensor))

    Flux2KleinPipeline._execution_device = property(lambda _: torch.device("cpu"))
    source = ROOT / "test" / "weightless" / tiny
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(source / "scheduler"),
        vae=vae,
        text_encoder=qwen,
        tokenizer=AutoTokenizer.from_pretrained(source / "tokenizer"),
        transformer=modules["transformer"],
        is_distilled=True,
    )
    embeds, _ = pipeline.encode_prompt(prompt=PROMPT, device=torch.device("cpu"))
    print(f"prompt: {tuple(embeds.shape)}, spread {embeds.std():.3f}", flush=True)
    latents = flux2_latents(pipeline, {"prompt_embeds": embeds, "width": SIDE, "height": SIDE, "num_inference_steps": 1, "guidance_scale": 1, "generator": torch.Generator("cpu").manual_seed(SEED)})
    print(f"latents: {tuple(latents.shape)}, spread {latents.std():.3f}", flush=True)
    write_tensors(folder / "expected.safetensors", {"latents": latents.contiguous()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
