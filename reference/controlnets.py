"""
ControlNets by the formula of architectures.py, one file each in test/architectures/files, in diffusers' names and in those of the original
layout, and pictures that diffusers makes with them, in test/goldens/architectures.
"""

import sys
import zlib

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)
from diffusers.loaders import single_file_utils

from architectures import FOLDER, MODELS, NETWORKS, PAINTED, SD, Network, make_networks, put_together
from files import GOLDENS
from pipelines import make_case
from single_files import unet_name

CLASSES = {
    "image_generation": StableDiffusionControlNetPipeline,
    "image_transform": StableDiffusionControlNetImg2ImgPipeline,
    "image_inpaint": StableDiffusionControlNetInpaintPipeline,
}
XL_CLASSES = {
    "image_generation": StableDiffusionXLControlNetPipeline,
    "image_transform": StableDiffusionXLControlNetImg2ImgPipeline,
    "image_inpaint": StableDiffusionXLControlNetInpaintPipeline,
}

UNION_CLASSES = {
    "image_generation": StableDiffusionXLControlNetUnionPipeline,
    "image_transform": StableDiffusionXLControlNetUnionImg2ImgPipeline,
    "image_inpaint": StableDiffusionXLControlNetUnionInpaintPipeline,
}
# Of xinsir's union; its transformer has eight heads.
KINDS = ["pose", "depth", "scribble", "lines", "normal", "segments"]

# As many halvings of the control picture as the tiny autoencoders have.
CONDITIONING = [8, 16, 16]
BLOCKS = 2 * (len(CONDITIONING) - 1)
ONLY_UNET = ("_class_name", "_diffusers_version", "center_input_sample", "dual_cross_attention", "out_channels", "sample_size", "up_block_types")


def config_of(unet: str) -> dict:
    config = {key: value for key, value in NETWORKS[unet][1].items() if key not in ONLY_UNET}
    return {**config, "conditioning_embedding_out_channels": CONDITIONING}


def original_name(name: str) -> str:
    path, ending = name.rsplit(".", 1)
    if path.startswith("controlnet_down_blocks."):
        return f"control_model.zero_convs.{path.split('.')[1]}.0.{ending}"
    if path == "controlnet_mid_block":
        return f"control_model.middle_block_out.0.{ending}"
    if path.startswith("controlnet_cond_embedding."):
        part = path.removeprefix("controlnet_cond_embedding.")
        place = {"conv_in": 0, "conv_out": 2 + 2 * BLOCKS}.get(part)
        return f"control_model.input_hint_block.{2 + 2 * int(part.split('.')[1]) if place is None else place}.{ending}"
    return f"control_model.{unet_name(name, 1)}"


# By name: the UNet that it is for, and whether it has the original layout's names.
CONTROLNETS = {
    "control-sd1": ("unet-sd1", False),
    "control-sd1-other": ("unet-sd1", False),
    "control-sd1-original": ("unet-sd1", True),
    "control-sd2": ("unet-sd2", False),
    "control-xl": ("unet-xl", False),
    "control-xl-other": ("unet-xl", False),
}

UNIONS = {"union-xl": "unet-xl"}
# Control-LoRAs, in the names of Stability's files: layers of the UNet changed by products of this rank, their biases and norms whole, and what only a ControlNet has.
CONTROL_LORAS = {"control-lora-xl": "unet-xl", "control-lora-sd1": "unet-sd1"}
CONTROL_RANK = 4

SIZE = dict(width=32, height=32)
WORDS = dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry, low quality")
STARTED = dict(prompt="a watercolor", negative_prompt="photo", steps=6, strength=0.5, image=(48, 32, 1), width=48, height=32)
AT = (32, 32, 2)

CASES = {
    "control-sd1-text": ("sd1", "one ControlNet", dict(WORDS, steps=4, guidance_scale=7.5, seed=42, controls=[("control-sd1", AT, {})], **SIZE)),
    "control-sd1-text-two": ("sd1", "two of other weights, each in a part of the steps, two pictures; the control pictures are scaled", dict(WORDS, steps=5, guidance_scale=4, sampler="euler", schedule="leading", seed=7, batch_size=2, controls=[("control-sd1", (50, 40, 0), {"weight": 0.6, "end": 0.6}), ("control-sd1-other", (32, 48, 1), {"weight": 1.3, "start": 0.2})], width=48, height=32)),
    "control-sd1-text-unguided": ("sd1", "without guidance, from the middle of the steps on", dict(prompt="a fox", steps=4, guidance_scale=1, seed=3, controls=[("control-sd1", AT, {"weight": 0.8, "start": 0.5})], **SIZE)),
    "control-sd1-text-original": ("sd1", "in the names of the original layout", dict(WORDS, steps=3, guidance_scale=7.5, seed=5, controls=[("control-sd1-original", AT, {})], **SIZE)),
    "control-sd1-transform": ("sd1", "strength 0.5", dict(STARTED, guidance_scale=7.5, seed=1, controls=[("control-sd1", (48, 32, 2), {"weight": 0.9})])),
    "control-sd1-inpaint": ("sd1", "in a mask, strength 0.7", dict(PAINTED, steps=5, guidance_scale=7.5, strength=0.7, controls=[("control-sd1", (40, 32, 0), {})])),
    "control-sd1-inpaint-9": ("sd1-inpaint", "a UNet of 9 channels, from noise alone", dict(PAINTED, steps=4, guidance_scale=7.5, strength=1.0, controls=[("control-sd1", (40, 32, 0), {})])),
    "control-sd2-text": ("sd2", "velocity, linear projections", dict(WORDS, steps=4, guidance_scale=5, seed=11, controls=[("control-sd2", AT, {})], **SIZE)),
    "control-sd2-transform": ("sd2", "strength 0.5", dict(STARTED, guidance_scale=3, seed=1, controls=[("control-sd2", (48, 32, 2), {"end": 0.5})])),
    "control-sd2-inpaint": ("sd2", "in a mask, strength 0.7", dict(PAINTED, steps=5, guidance_scale=3, strength=0.7, controls=[("control-sd2", (40, 32, 0), {})])),
    "control-sdxl-text": ("sdxl", "told of pooled text and sizes, too", dict(WORDS, steps=4, guidance_scale=2, seed=42, controls=[("control-xl", AT, {})], **SIZE)),
    "control-sdxl-text-two": ("sdxl", "two of other weights", dict(WORDS, steps=4, guidance_scale=2, sampler="dpmpp_2m", schedule="karras", seed=9, controls=[("control-xl", AT, {"weight": 0.5}), ("control-xl-other", AT, {"weight": 0.7, "end": 0.5})], **SIZE)),
    "control-lora-sd1-text": ("sd1", "a Control-LoRA", dict(WORDS, steps=4, guidance_scale=7.5, seed=8, controls=[("control-lora-sd1", AT, {})], **SIZE)),
    "control-lora-sdxl-text": ("sdxl", "a Control-LoRA", dict(WORDS, steps=4, guidance_scale=2, seed=8, controls=[("control-lora-xl", AT, {"weight": 0.8})], **SIZE)),
    "guess-sd1-text": ("sd1", "guess mode", dict(WORDS, steps=4, guidance_scale=4, seed=42, controls=[("control-sd1", AT, {"guess": True})], **SIZE)),
    "guess-sd1-two-unguided": ("sd1", "guess mode without guidance, two ControlNets of other weights", dict(prompt="a fox", steps=4, guidance_scale=1, seed=3, controls=[("control-sd1", AT, {"guess": True, "weight": 0.8}), ("control-sd1-other", AT, {"guess": True, "weight": 1.2, "end": 0.5})], **SIZE)),
    "guess-sdxl-text": ("sdxl", "guess mode, two pictures", dict(WORDS, steps=4, guidance_scale=2, seed=6, batch_size=2, controls=[("control-xl", AT, {"guess": True})], **SIZE)),
    "union-sdxl-text": ("sdxl", "for several kinds of pictures (union), told that these are lines", dict(WORDS, steps=4, guidance_scale=2, seed=42, controls=[("union-xl", AT, {"kind": "lines"})], **SIZE)),
    "union-sdxl-text-part": ("sdxl", "a union, told of another kind, with a weight, in a part of the steps, two pictures", dict(WORDS, steps=5, guidance_scale=2, seed=4, batch_size=2, controls=[("union-xl", (50, 40, 0), {"kind": "depth", "weight": 0.6, "end": 0.6})], **SIZE)),
    "union-sdxl-transform": ("sdxl", "a union, strength 0.5", dict(STARTED, guidance_scale=2, seed=1, controls=[("union-xl", (48, 32, 2), {"kind": "pose"})])),
    "control-sdxl-transform": ("sdxl", "strength 0.5", dict(STARTED, guidance_scale=2, seed=1, controls=[("control-xl", (48, 32, 2), {})])),
    "control-sdxl-inpaint": ("sdxl", "in a mask, strength 0.7", dict(PAINTED, steps=5, guidance_scale=2, strength=0.7, controls=[("control-xl", (40, 32, 0), {})])),
}


def make_controlnets(networks: dict) -> dict[str, ControlNetModel]:
    made = {}
    for name, (unet, is_original) in CONTROLNETS.items():
        config = config_of(unet)
        network = ControlNetModel.from_config(config).eval()
        shapes = {original_name(key) if is_original else key: tuple(value.shape) for key, value in network.state_dict().items()}
        file = Network(10_000 * (zlib.crc32(name.encode()) % 10_000), shapes)
        tensors = file.tensors()
        if is_original:
            # Its names are ours; what they mean is diffusers' own conversion, which knows only as many halvings as published ones have.
            tensors = single_file_utils.convert_controlnet_checkpoint(dict(tensors), dict(network.config))
            tensors = {key.replace(f"blocks.{BLOCKS}.", "conv_out.") if "cond_embedding" in key else key: value for key, value in tensors.items()}
        network.load_state_dict(tensors, strict=True)
        path = FOLDER / "files" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(file.text({"config": {}}), encoding="utf-8")
        made[name] = network
    for name, unet in CONTROL_LORAS.items():
        config = config_of(unet)
        network = ControlNetModel.from_config(config).eval()
        own = networks[unet].state_dict()
        shapes = {}
        for key, value in network.state_dict().items():
            if key.endswith(".weight") and key in own and value.dim() > 1 and "norm" not in key:
                base = original_name(key).removeprefix("control_model.").removesuffix(".weight")
                shapes |= {f"{base}.up": (len(value), CONTROL_RANK), f"{base}.down": (CONTROL_RANK, *value.shape[1:])}
            else:
                shapes[original_name(key).removeprefix("control_model.")] = tuple(value.shape)
        # Norms of the middle are left to the UNet.
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("middle_block.1.norm")}
        file = Network(10_000 * (zlib.crc32(name.encode()) % 10_000), shapes)
        file.rows["lora_controlnet"] = [[0], 0.0, 0.0]
        for key in (key for key in shapes if key.endswith(".up")):
            # Larger ones saturate attention, and then single and double precision differ by more than is allowed.
            file.rescale(key, 0.2)
        tensors, state = file.tensors(), {}
        for key, value in network.state_dict().items():
            base = original_name(key).removeprefix("control_model.")
            stem = base.removesuffix(".weight")
            if f"{stem}.up" in tensors:
                state[key] = own[key] + (tensors[f"{stem}.up"] @ tensors[f"{stem}.down"].flatten(1)).reshape(value.shape)
            else:
                state[key] = tensors[base] if base in tensors else own[key]
        network.load_state_dict(state, strict=True)
        (FOLDER / "files" / f"{name}.json").write_text(file.text({"config": {}}), encoding="utf-8")
        made[name] = network
    for name, unet in UNIONS.items():
        config = config_of(unet)
        width = config["block_out_channels"][0]
        network = ControlNetUnionModel.from_config({**config, "num_control_type": len(KINDS), "num_trans_channel": width, "num_proj_channel": width}).eval()
        file = Network(10_000 * (zlib.crc32(name.encode()) % 10_000), {key: tuple(value.shape) for key, value in network.state_dict().items()})
        network.load_state_dict(file.tensors(), strict=True)
        (FOLDER / "files" / f"{name}.json").write_text(file.text({"config": {}}), encoding="utf-8")
        made[name] = network
    return made


def main() -> None:
    torch.set_num_threads(1)
    only = sys.argv[1:]
    networks = make_networks()
    controlnets = make_controlnets(networks)
    for name, (checkpoint, note, chosen) in CASES.items():
        if only and not any(name.startswith(start) for start in only):
            continue
        operation = "image_inpaint" if "mask" in chosen else "image_transform" if "image" in chosen else "image_generation"
        used = [controlnets[controlnet] for controlnet, _, _ in chosen["controls"]]
        kind = chosen["controls"][0][2].get("kind")
        classes = UNION_CLASSES if kind else CLASSES if MODELS[checkpoint][0] is SD else XL_CLASSES
        pipeline = put_together(networks, checkpoint, classes, operation, controlnet=used[0] if len(used) == 1 else used)
        print(make_case(GOLDENS / "architectures" / name, checkpoint, note, chosen, lambda *_: pipeline), flush=True)


if __name__ == "__main__":
    main()
