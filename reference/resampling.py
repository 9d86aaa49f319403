"""Golden pictures before and after a pipeline: what diffusers' VaeImageProcessor does to pictures (PIL Lanczos) and masks, and how it
lays the original over the result."""

import numpy as np
import torch
from PIL import Image
from diffusers.image_processor import VaeImageProcessor

from files import GOLDENS, write_json, write_tensors
from pictures import picture, soft_mask

# width, height -> width, height
PICTURES = [((64, 64), (64, 64)), ((64, 48), (96, 64)), ((100, 75), (64, 64)), ((37, 53), (64, 128)), ((129, 65), (48, 40)), ((31, 17), (8, 8)), ((5, 7), (24, 16)), ((100, 75), (96, 64)), ((60, 90), (72, 40))]
MASKS = [((64, 64), (64, 64)), ((96, 64), (96, 64)), ((75, 100), (64, 96)), ((33, 29), (64, 128))]
# original -> result
OVERLAYS = [((64, 64), (64, 64)), ((75, 100), (64, 96))]


def overlaid(image: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """`image` inside the mask, `original` outside."""
    images = VaeImageProcessor(vae_scale_factor=8)
    original, mask = (images.resize(one, image.height, image.width) for one in (original, mask))
    return images.apply_overlay(mask, original, image)


def make_resampling() -> None:
    images = VaeImageProcessor(vae_scale_factor=8)
    masks = VaeImageProcessor(vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    tensors, cases = {}, []
    for index, (before, (width, height)) in enumerate(PICTURES):
        source = picture(*before, index)
        resized = images.resize(source, height, width)
        tensors[f"picture.{index}.in"] = torch.from_numpy(np.array(source))
        tensors[f"picture.{index}.out"] = torch.from_numpy(np.array(resized))
        tensors[f"picture.{index}.tensor"] = images.preprocess(source, height, width)
        cases.append({"name": f"picture.{index}", "from": list(before), "to": [width, height]})
    for index, (before, (width, height)) in enumerate(MASKS):
        source = soft_mask(*before)
        if index % 2:
            source = source.convert("RGB")
        mask = masks.preprocess(source, height, width)
        tensors[f"mask.{index}.in"] = torch.from_numpy(np.array(source))
        tensors[f"mask.{index}.out"] = mask
        tensors[f"mask.{index}.latent"] = torch.nn.functional.interpolate(mask, size=(height // 8, width // 8))
        cases.append({"name": f"mask.{index}", "from": list(before), "to": [width, height]})
    for index, (before, after) in enumerate(OVERLAYS):
        original, mask, result = picture(*before, index), soft_mask(*before), picture(*after, index + 1)
        shown = {"picture": original, "mask": mask, "result": result, "out": overlaid(result, original, mask)}
        tensors |= {f"overlay.{index}.{name}": torch.from_numpy(np.array(one)) for name, one in shown.items()}
        cases.append({"name": f"overlay.{index}", "from": list(before), "to": list(after)})
    write_tensors(GOLDENS / "resample.safetensors", tensors)
    about = (
        "diffusers VaeImageProcessor. picture.N.in / .out: u8 [height, width, 3] before and after PIL's Lanczos; .tensor: f32 "
        "[1, 3, height, width] in [-1, 1]. mask.N.in: u8 [height, width] or [height, width, 3]; .out: f32 [1, 1, height, "
        "width], resized (Lanczos), then grey, then 0 below 0.5 and 1 from 0.5 on; .latent: that, nearest neighbour to 1/8 "
        "(torch.nn.functional.interpolate). overlay.N.picture and .mask (scaled to it) over .result: .out, by apply_overlay. Sizes in the cases are [width, height]."
    )
    write_json(GOLDENS / "resample.json", {"about": about, "cases": cases})
