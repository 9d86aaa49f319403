"""
A tiny random pipeline of Qwen-Image-Layered, and what diffusers makes with it.

As qwen_pipelines.py, into the same folders. The pipeline knows two sizes, squares of 640 and of 1024 pixels, whose pictures would be too large
to keep; `sized` makes it take the size of a case, as its own formula reckons everything else from that.
"""

import json
import sys
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageLayeredPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_layered as module
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import flow_pipelines
from files import GOLDENS, write_json
from flow_pipelines import PIPELINES, save
from pictures import picture, soft_mask
from qwen_pipelines import GAINS, GERMAN, SCHEDULER, Processor, autoencoder, text_encoder, transformer, words

CHECKPOINT = "tiny-qwen-image-layered"


def qwen_layered() -> QwenImageLayeredPipeline:
    vocabulary = words()
    return QwenImageLayeredPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=autoencoder(input_channels=4),
        text_encoder=text_encoder(vocabulary),
        tokenizer=vocabulary,
        processor=Processor(Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 36}), vocabulary),
        transformer=transformer(use_additional_t_cond=True, use_layer3d_rope=True),
    )


def see_through(width: int, height: int, variant: int) -> Image.Image:
    image = picture(width, height, variant)
    image.putalpha(soft_mask(width, height))
    return image


LAYERED = {
    # name: what is special, parameters, the picture
    "qwen-layered": ("two layers, guidance brought back to the prompt's length as its authors recommend; not square", dict(prompt="a red house at the edge of the forest", negative_prompt=" ", layers=2, steps=3, guidance_scale=4, seed=51, width=64, height=48), picture(64, 48, 1).convert("RGBA")),
    "qwen-layered-four": ("four layers, more than half the tokens of a side, behind which the text stands; odd in tokens, no guidance, a picture of another size", dict(prompt=GERMAN, layers=4, steps=2, guidance_scale=1, seed=52, width=32, height=48), picture(50, 70, 2).convert("RGBA")),
    "qwen-layered-transparent": ("a layer of a picture that is transparent itself, plain guidance", dict(prompt="a vase with flowers", negative_prompt="blurry", layers=1, steps=2, guidance_scale=3, seed=53, width=64, height=64, guidance_method="cfg"), see_through(90, 72, 0)),
}


# Of the pipeline itself; below it is replaced.
DIMENSIONS = module.calculate_dimensions


def results(pipeline, drawn):
    """Latents after the last step [1 + layers, channels, height, width] and pictures from 0 to 1, with their transparency."""
    given = drawn()
    layers, method = given.pop("layers"), given.pop("method")
    width, height, scale = (given.pop(key) for key in ("width", "height", "guidance_scale"))
    (image,) = given.pop("image")
    module.calculate_dimensions = lambda area, ratio: (width, height)
    kept = {}
    # Asked for latents alone it breaks off.
    images = pipeline(**given, image=image, true_cfg_scale=scale, layers=layers, cfg_normalize=method != "cfg", output_type="np", callback_on_step_end=lambda _, step, timestep, tensors: kept.update(tensors) or {}).images
    latents = pipeline._unpack_latents(kept["latents"], height, width, layers, pipeline.vae_scale_factor)[0].permute(1, 0, 2, 3)
    return latents, images[0]


def make_qwen_layered(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    pipeline = qwen_layered()
    # As matrices: like Qwen-Image's own.
    save(CHECKPOINT, pipeline, GAINS, as_matrices=("gamma",))
    pipeline.set_progress_bar_config(disable=True)
    for name, (about, parameters, image) in LAYERED.items():
        if not only or name in only:
            write_layers(PIPELINES, name, CHECKPOINT, about, pipeline, parameters, image)
    if only:
        return
    sizes = [(640, 640), (1920, 1080), (333, 777), (90, 70), (3000, 100)]
    rows = [{"width": width, "height": height, "resolution": side, "expected": [int(value) // 16 * 16 for value in DIMENSIONS(side * side, width / height)]} for width, height in sizes for side in (640, 1024)]
    write_json(GOLDENS / "qwen_layer_sizes.json", rows)


def write_layers(root: Path, name: str, checkpoint: str, about: str, pipeline, parameters: dict, image: Image.Image) -> None:
    """`write_case` knows neither layers nor one picture of any kind, so it is told of them by the pipeline's own arguments."""
    own = {key: parameters[key] for key in ("layers", "guidance_method") if key in parameters}
    more = {"layers": own["layers"], "method": own.get("guidance_method", "cfg_norm")}
    plain = {key: value for key, value in parameters.items() if key not in own}
    with_more = lambda one, drawn: results(one, lambda: {**drawn(), **more})
    flow_pipelines.PIPELINES = root
    flow_pipelines.write_case(name, checkpoint, "qwen_image_layered", about, pipeline, {**plain, "images": [image]}, None, with_more)
    folder = root / name
    (folder / "image_0.png").rename(folder / "image.png")
    operation = json.loads((folder / "operation.json").read_text())
    del operation["parameters"]["images"]
    operation["operation"] = "image_transform"
    operation["parameters"] |= {**own, "image": "image.png"}
    write_json(folder / "operation.json", operation)


if __name__ == "__main__":
    make_qwen_layered(set(sys.argv[1:]))
