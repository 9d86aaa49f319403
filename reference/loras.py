"""
Tiny LoRAs for tiny-sd15 in the layouts that are around, and what diffusers makes of them.

`kohya` has linear layers of both networks, 1x1 and 3x3 convolutions, with alphas. diffusers 0.42.1 takes one alpha for all of
attention and one for the text encoder, whatever the file says, so there is one; and it loses the text encoder's attention (with
transformers 5), so that is left out. `peft` has all of these layers in diffusers' own layout, its alphas in the file's metadata; `old` attention alone, without alphas. Their numbers differ. `expected.safetensors` holds, for each,
outputs of the networks with the LoRA fused at scale 0.8, for the inputs `unet.0` and `input_ids.0` of components/tiny-sd15, and two
merged weights. `picture` is a whole operation with the kohya file at that scale.

`lora_uses/` has pictures for which the kohya file is weighted by block, by diffusers' set_adapters, or counts in a part of the steps: before each call of the UNet the
adapter's weight is set. Text is read with what counts at the first step.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from files import GOLDENS, fresh_folder, write_json, write_tensors
from models import load
from pipelines import make_case

CHECKPOINT = "tiny-sd15"
SCALE = 0.8
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0"
# module -> rank
UNET = {
    f"{ATTENTION}.attn1.to_q": 4,
    f"{ATTENTION}.attn1.to_v": 4,
    f"{ATTENTION}.attn1.to_out.0": 4,
    f"{ATTENTION}.attn2.to_k": 2,
    f"{ATTENTION}.ff.net.0.proj": 8,
    "mid_block.attentions.0.proj_in": 4,
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2": 4,
    "down_blocks.0.resnets.0.conv1": 4,
    "up_blocks.1.resnets.0.conv_shortcut": 4,
    "up_blocks.2.resnets.1.time_emb_proj": 4,
}
TEXT = {"encoder.layers.0.self_attn.q_proj": 4, "encoder.layers.1.mlp.fc1": 2, "encoder.layers.1.mlp.fc2": 2}
OLD = [f"{ATTENTION}.attn1.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
MERGED = [f"{ATTENTION}.attn1.to_q", "down_blocks.0.resnets.0.conv1"]


def pair(weight: torch.Tensor, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """down and up, so that the product is about as large as the weight."""
    inner = weight[0].numel()
    spread = weight.std().item() ** 0.5
    down = torch.randn(rank, inner, generator=generator) * spread / rank**0.5
    up = torch.randn(weight.shape[0], rank, generator=generator) * spread
    if weight.dim() == 4:
        return down.reshape(rank, *weight.shape[1:]), up.reshape(weight.shape[0], rank, 1, 1)
    return down, up


def make_files(pipeline) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]]:
    generator = torch.Generator().manual_seed(7)
    unet, text = pipeline.unet, pipeline.text_encoder
    modules = {f"unet.{name}": (unet.get_submodule(name), rank) for name, rank in UNET.items()}
    modules |= {f"text_encoder.{name}": (text.get_submodule(name), rank) for name, rank in TEXT.items()}
    kohya, peft, old = {}, {}, {}
    alphas, ranks = {}, {}
    for index, (name, (module, rank)) in enumerate(modules.items()):
        alpha = [float(rank), rank / 2, 1.0][index % 3]
        common = 3.0 if ".attn" in name else 1.5 if name.startswith("text_encoder") else alpha
        network, path = name.split(".", 1)
        stem = f"lora_unet_{path}" if network == "unet" else f"lora_te_text_model_{path}"
        stem = stem.replace(".", "_")
        if "self_attn" not in name:
            down, up = pair(module.weight, rank, generator)
            kohya |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(common)}
        down, up = pair(module.weight, rank, generator)
        peft |= {f"{network}.{path}.lora_A.weight": down, f"{network}.{path}.lora_B.weight": up}
        alphas[f"{network}.{path}"], ranks[f"{network}.{path}"] = alpha, rank
    for path in OLD:
        down, up = pair(unet.get_submodule(path).weight, 4, generator)
        attention, part = path.split(".attn1.")
        key = f"unet.{attention}.attn1.processor.{part.removesuffix('.0')}_lora"
        old |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    adapter = {}
    for network in ("unet", "text_encoder"):
        own = {name.removeprefix(f"{network}."): alpha for name, alpha in alphas.items() if name.startswith(f"{network}.")}
        own_ranks = {name.removeprefix(f"{network}."): rank for name, rank in ranks.items() if name.startswith(f"{network}.")}
        adapter |= {f"{network}.r": 4, f"{network}.lora_alpha": 4, f"{network}.rank_pattern": own_ranks}
        adapter |= {f"{network}.alpha_pattern": own, f"{network}.target_modules": sorted(own)}
    metadata = {"lora_adapter_metadata": json.dumps(adapter)}
    return {"kohya": (kohya, {"ss_network_module": "networks.lora"}), "peft": (peft, metadata), "old": (old, {})}


def make_lora_picture(folder: Path) -> None:
    """A whole operation with the kohya file, as in pipelines/."""

    def with_lora(checkpoint, pipeline_class):
        pipeline = load(checkpoint, pipeline_class)
        pipeline.load_lora_weights(folder, weight_name="kohya.safetensors")
        pipeline.fuse_lora(lora_scale=SCALE)
        return pipeline

    chosen = dict(prompt="a lighthouse at dusk, oil painting", steps=3, guidance_scale=7.5, seed=42)
    print(make_case(folder / "picture", CHECKPOINT, f"kohya.safetensors fused at {SCALE}", chosen, with_lora))


BLOCKS = {
    12: "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    26: " ".join(["BASE", *(f"IN{n:02}" for n in range(12)), "M00", *(f"OUT{n:02}" for n in range(12))]),
}
VALUES = [0.5, 0.2, 1, -0.7, 0.4, 1.5, 0.9, 1.2, 0.3, 0.6, 1.1, 0.8, -0.5, 0.7, 1, 1.3, 0.1, 0.9, 0.6, -0.2, 1.4, 0.5, 1, 0.3, 0.8, 1.2]
MOVING = dict(prompt="a lighthouse at dusk, oil painting", sampler="euler", schedule="leading", seed=42)
USES = {
    "blocks-17": ("weighted by 17 blocks", dict(MOVING, steps=3, guidance_scale=7.5), dict(blocks=VALUES[:17])),
    "blocks-26": ("weighted by 26 blocks", dict(MOVING, steps=3, guidance_scale=1), dict(blocks=VALUES)),
    "blocks-12": ("weighted by 12 blocks, which are made for XL; the others are left out", dict(MOVING, steps=3, guidance_scale=1), dict(blocks=VALUES[:12])),
    "until-half": ("in the first half of the steps", dict(MOVING, steps=6, guidance_scale=7.5), dict(end=0.5)),
    "from-third": ("from a third of the steps on", dict(MOVING, steps=6, guidance_scale=1), dict(start=0.33)),
    "between-blocks": ("weighted by 17 blocks, in the middle", dict(MOVING, steps=6, guidance_scale=1), dict(blocks=VALUES[:17], start=0.2, end=0.7)),
}


def scales_of(blocks: list[float] | None) -> dict | float:
    """As set_adapters takes them."""
    if blocks is None:
        return SCALE
    given = dict(zip(BLOCKS[len(blocks)].split(), blocks))
    of = lambda name: SCALE * given.get(name, 0)
    down = {f"block_{b}": [of(f"IN{1 + 3 * b + i:02}") for i in range(2)] for b in range(3)}
    up = {f"block_{b}": [of(f"OUT{3 * b + i:02}") for i in range(3)] for b in range(1, 4)}
    return {"text_encoder": of("BASE"), "unet": {"down": down, "mid": of("M00"), "up": up}}


def make_use(folder: Path, note: str, chosen: dict, use: dict) -> None:
    start, end = use.get("start", 0), use.get("end", 1)

    def with_lora(checkpoint, pipeline_class):
        pipeline = load(checkpoint, pipeline_class)
        pipeline.load_lora_weights(GOLDENS / "lora", weight_name="kohya.safetensors", adapter_name="a")
        pipeline.set_adapters(["a"], [scales_of(use.get("blocks"))] if start == 0 else [0.0])
        calls = 0

        def move(*_):
            nonlocal calls
            is_on = start <= calls / chosen["steps"] < end
            pipeline.set_adapters(["a"], [scales_of(use.get("blocks")) if is_on else 0.0])
            calls += 1

        pipeline.unet.register_forward_pre_hook(move)
        return pipeline

    loras = [{"lora": "kohya", "weight": SCALE, **use}]
    print(make_case(folder, CHECKPOINT, f"kohya.safetensors at {SCALE}, {note}", dict(chosen, loras=loras), with_lora))


def make_uses() -> None:
    for name, (note, chosen, use) in USES.items():
        make_use(GOLDENS / "lora_uses" / name, note, chosen, use)


@torch.no_grad()
def make_loras() -> None:
    folder = fresh_folder(GOLDENS / "lora")
    inputs = load_file(GOLDENS / "components" / f"{CHECKPOINT}.safetensors")
    expected, about = {}, {}
    for name, (tensors, metadata) in make_files(load(CHECKPOINT)).items():
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, {"format": "pt", **metadata})
        path.chmod(0o644)
        pipeline = load(CHECKPOINT)
        pipeline.load_lora_weights(folder, weight_name=path.name)
        pipeline.fuse_lora(lora_scale=SCALE)
        unet_inputs = [inputs[f"unet.0.{key}"] for key in ("sample", "timestep", "encoder_hidden_states")]
        expected[f"{name}.unet.out"] = pipeline.unet(*unet_inputs).sample
        expected[f"{name}.prompt_embeds"] = pipeline.text_encoder(inputs["input_ids.0"].long()).last_hidden_state
        for module in (module for module in MERGED if module in (OLD if name == "old" else UNET)):
            layer = pipeline.unet.get_submodule(module)
            expected[f"{name}.{module}.weight"] = getattr(layer, "base_layer", layer).weight
        embeds = inputs["prompt_embeds.0"]
        text_change = (expected[f"{name}.prompt_embeds"] - embeds).norm() / embeds.norm()
        change = (expected[f"{name}.unet.out"] - inputs["unet.0.out"]).norm() / inputs["unet.0.out"].norm()
        about[name] = {"tensors": len(tensors), "change of unet.0.out": round(change.item(), 4), "of prompt_embeds.0": round(text_change.item(), 4)}
    make_lora_picture(folder)
    write_tensors(folder / "expected.safetensors", expected)
    write_json(folder / "expected.json", {"about": __doc__.strip(), "checkpoint": CHECKPOINT, "scale": SCALE, "files": about})


if __name__ == "__main__":
    make_loras()
    make_uses()
