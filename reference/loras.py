"""
Tiny LoRAs for tiny-sd15 in the layouts that are around, and what diffusers makes of them.

`kohya` has linear layers of both networks, 1x1 and 3x3 convolutions, with alphas. diffusers 0.42.1 takes one alpha for all of
attention and one for the text encoder, whatever the file says, so there is one; and it loses the text encoder's attention (with
transformers 5), so that is left out. `peft` has all of these layers in diffusers' own layout, its alphas in the file's metadata; `old` attention alone, without alphas. Their numbers differ. `expected.safetensors` holds, for each,
outputs of the networks with the LoRA fused at scale 0.8, for the inputs `unet.0` and `input_ids.0` of components/tiny-sd15, and two
merged weights. `picture` is a whole operation with the kohya file at that scale.
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
