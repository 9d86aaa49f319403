"""
IP-Adapters and CLIP's vision encoders by the formula of architectures.py, one file each in test/architectures/files, in the names of the
published files, and pictures that diffusers makes with them, in test/goldens/architectures.
"""

import sys
import zlib

import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from architectures import FOLDER, MODELS, PAINTED, Network, make_networks, put_together
from controlnets import CLASSES as CONTROL_CLASSES
from controlnets import make_controlnets
from files import GOLDENS, write_tensors
from pictures import picture
from pipelines import make_case

# Sixteen heads and GELU, as all of OpenCLIP's have that published adapters ask for. As with those the width of the one is what the other gives.
ENCODERS = {
    "vision-h": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=16, projection_dim=48, image_size=32, patch_size=8, hidden_act="gelu"),
    "vision-g": dict(hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=16, projection_dim=64, image_size=32, patch_size=8, hidden_act="gelu"),
}

QUERIES, RESAMPLED, INNER, DEPTH = 6, 64, 128, 4


def base(given: int, width: int) -> dict:
    return {"proj.weight": (4 * width, given), "proj.bias": (4 * width,), "norm.weight": (width,), "norm.bias": (width,)}


def plus(given: int, width: int) -> dict:
    shapes = {"latents": (1, QUERIES, RESAMPLED), "proj_in.weight": (RESAMPLED, given), "proj_in.bias": (RESAMPLED,)}
    shapes |= {"proj_out.weight": (width, RESAMPLED), "proj_out.bias": (width,), "norm_out.weight": (width,), "norm_out.bias": (width,)}
    for layer in (f"layers.{number}." for number in range(DEPTH)):
        shapes |= {f"{layer}{norm}.{part}": (RESAMPLED,) for norm in ("0.norm1", "0.norm2", "1.0") for part in ("weight", "bias")}
        shapes |= {f"{layer}0.to_q.weight": (INNER, RESAMPLED), f"{layer}0.to_kv.weight": (2 * INNER, RESAMPLED), f"{layer}0.to_out.weight": (RESAMPLED, INNER)}
        shapes |= {f"{layer}1.1.weight": (4 * RESAMPLED, RESAMPLED), f"{layer}1.3.weight": (RESAMPLED, 4 * RESAMPLED)}
    return shapes


def full(given: int, width: int) -> dict:
    shapes = {"proj.0.weight": (given, given), "proj.0.bias": (given,), "proj.2.weight": (width, given), "proj.2.bias": (width,)}
    return shapes | {"proj.3.weight": (width,), "proj.3.bias": (width,)}


# By name: the UNet that it is for, the encoder that it was made with, and its shapes.
ADAPTERS = {
    "ip-adapter-sd1": ("unet-sd1", "vision-h", base(48, 32)),
    "ip-adapter-plus-sd1": ("unet-sd1", "vision-h", plus(64, 32)),
    "ip-adapter-full-sd1": ("unet-sd1", "vision-h", full(64, 32)),
    "ip-adapter-xl": ("unet-xl", "vision-g", base(64, 80)),
    "ip-adapter-plus-xl": ("unet-xl", "vision-h", plus(64, 80)),
}

SIZE = dict(width=32, height=32)
WORDS = dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry, low quality")
STARTED = dict(prompt="a watercolor", negative_prompt="photo", steps=4, strength=0.5, image=(48, 32, 1), width=48, height=32)
AT = (48, 40, 2)

CASES = {
    "image-prompt-sd1-text": ("sd1", "the picture as a whole, of weight 1", dict(WORDS, steps=3, guidance_scale=7.5, seed=42, image_prompts=[("ip-adapter-sd1", [AT], 1.0)], **SIZE)),
    "image-prompt-sd1-text-weight": ("sd1", "of weight 0.6, two pictures", dict(WORDS, steps=3, guidance_scale=4, sampler="euler", schedule="leading", seed=7, batch_size=2, image_prompts=[("ip-adapter-sd1", [(40, 70, 0)], 0.6)], width=48, height=32)),
    "image-prompt-sd1-text-off": ("sd1", "of weight 0", dict(WORDS, steps=2, guidance_scale=7.5, seed=5, image_prompts=[("ip-adapter-sd1", [AT], 0.0)], **SIZE)),
    "image-prompt-sd1-plus": ("sd1", "the picture's parts, read by a resampler", dict(WORDS, steps=2, guidance_scale=7.5, seed=42, image_prompts=[("ip-adapter-plus-sd1", [AT], 1.0)], **SIZE)),
    "image-prompt-sd1-plus-unguided": ("sd1", "without guidance, two pictures for one adapter, of weight 0.6", dict(prompt="a fox", steps=2, guidance_scale=1, seed=3, image_prompts=[("ip-adapter-plus-sd1", [AT, (32, 32, 1)], 0.6)], **SIZE)),
    "image-prompt-sd1-full": ("sd1", "all parts of the picture, as for whole faces", dict(WORDS, steps=2, guidance_scale=4, seed=8, image_prompts=[("ip-adapter-full-sd1", [(32, 32, 0)], 0.6)], **SIZE)),
    "image-prompt-sd1-two": ("sd1", "two adapters together; without negative words", dict(prompt="", steps=2, guidance_scale=4, sampler="euler", schedule="leading", seed=9, image_prompts=[("ip-adapter-sd1", [(32, 32, 0)], 0.5), ("ip-adapter-plus-sd1", [AT], 0.8)], **SIZE)),
    "image-prompt-sd1-transform": ("sd1", "strength 0.5", dict(STARTED, guidance_scale=7.5, seed=1, image_prompts=[("ip-adapter-sd1", [AT], 0.6)])),
    "image-prompt-sdxl-inpaint": ("sdxl", "in a mask, strength 0.7", dict(PAINTED, steps=4, guidance_scale=2, strength=0.7, image_prompts=[("ip-adapter-xl", [AT], 0.8)])),
    "image-prompt-sd1-inpaint": ("sd1", "in a mask, strength 0.7", dict(PAINTED, steps=3, guidance_scale=7.5, strength=0.7, image_prompts=[("ip-adapter-plus-sd1", [AT], 1.0)])),
    "image-prompt-sd1-control": ("sd1", "together with a ControlNet", dict(WORDS, steps=2, guidance_scale=7.5, seed=4, controls=[("control-sd1", (32, 32, 2), {})], image_prompts=[("ip-adapter-sd1", [AT], 0.6)], **SIZE)),
    "image-prompt-sdxl-text": ("sdxl", "the picture as a whole, by the larger encoder", dict(WORDS, steps=2, guidance_scale=2, seed=42, image_prompts=[("ip-adapter-xl", [AT], 1.0)], **SIZE)),
    "image-prompt-sdxl-plus": ("sdxl", "the picture's parts, by the smaller encoder, of weight 0.6", dict(WORDS, steps=3, guidance_scale=2, sampler="dpmpp_2m", schedule="karras", seed=9, image_prompts=[("ip-adapter-plus-xl", [AT], 0.6)], **SIZE)),
    "image-prompt-sdxl-transform": ("sdxl", "strength 0.5", dict(STARTED, guidance_scale=2, seed=1, image_prompts=[("ip-adapter-xl", [(32, 48, 1)], 0.6)])),
}

# Pictures as CLIP sees them.
SEEN = {"wide": (70, 40, 0), "tall": (37, 90, 1), "small": (20, 24, 2), "same": (32, 32, 0)}


def number_of(name: str) -> int:
    return 10_000 * (zlib.crc32(name.encode()) % 10_000)


def keep(name: str, file: Network) -> dict[str, torch.Tensor]:
    path = FOLDER / "files" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(file.text({"config": {}}), encoding="utf-8")
    return file.tensors()


def make_encoders() -> dict[str, CLIPVisionModelWithProjection]:
    made = {}
    for name, config in ENCODERS.items():
        network = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(keep(name, Network(number_of(name), shapes)), strict=True)
        made[name] = network
    return made


def make_adapters(networks: dict) -> dict[str, dict]:
    made = {}
    for name, (unet, _, projection) in ADAPTERS.items():
        shapes = {f"image_proj.{key}": shape for key, shape in projection.items()}
        number = 1
        for path in networks[unet].attn_processors:
            if path.endswith("attn2.processor"):
                attention = networks[unet].get_submodule(path.removesuffix(".processor"))
                shapes |= {f"ip_adapter.{number}.to_{part}_ip.weight": tuple(attention.to_k.weight.shape) for part in "kv"}
                number += 2
        tensors = keep(name, Network(number_of(name), shapes))
        made[name] = {part: {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")} for part in ("image_proj", "ip_adapter")}
    return made


@torch.no_grad()
def make_seen(encoders: dict) -> None:
    """Pictures as CLIP's processor gives them, and what the encoders make of one."""
    folder = GOLDENS / "clip_vision"
    folder.mkdir(exist_ok=True)
    processor = CLIPImageProcessor(size=32, crop_size=32)
    tensors = {}
    for name, which in SEEN.items():
        drawn = picture(*which)
        drawn.save(folder / f"{name}.png")
        tensors[f"pixels.{name}"] = processor(drawn, return_tensors="pt").pixel_values
    for name, encoder in encoders.items():
        given = encoder(tensors["pixels.wide"], output_hidden_states=True)
        tensors |= {f"{name}.embeds": given.image_embeds, f"{name}.states": given.hidden_states[-2]}
    write_tensors(folder / "expected.safetensors", tensors)


def main() -> None:
    torch.set_num_threads(1)
    only = sys.argv[1:]
    networks = make_networks()
    controlnets = make_controlnets(networks)
    encoders = make_encoders()
    adapters = make_adapters(networks)
    make_seen(encoders)
    for name, (checkpoint, note, chosen) in CASES.items():
        if only and not any(name.startswith(start) for start in only):
            continue
        operation = "image_inpaint" if "mask" in chosen else "image_transform" if "image" in chosen else "image_generation"
        used = [adapter for adapter, _, _ in chosen["image_prompts"]]
        if "controls" in chosen:
            [(controlnet, _, _)] = chosen["controls"]
            pipeline = put_together(networks, checkpoint, CONTROL_CLASSES, operation, controlnet=controlnets[controlnet])
        else:
            pipeline = put_together(networks, checkpoint, MODELS[checkpoint][0], operation)
        pipeline.register_modules(image_encoder=encoders[ADAPTERS[used[0]][1]], feature_extractor=CLIPImageProcessor(size=32, crop_size=32))
        pipeline.load_ip_adapter([adapters[adapter] for adapter in used], subfolder="", weight_name=used, image_encoder_folder=None, low_cpu_mem_usage=False)
        pipeline.set_ip_adapter_scale([weight for _, _, weight in chosen["image_prompts"]])
        print(make_case(GOLDENS / "architectures" / name, checkpoint, note, chosen, lambda *_: pipeline), flush=True)
        # The networks are those of all cases.
        pipeline.unload_ip_adapter()


if __name__ == "__main__":
    main()
