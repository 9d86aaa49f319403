"""
Tiny random pipelines of Qwen-Image and Qwen-Image-Edit, and what diffusers makes with them.

As flow_pipelines.py: folders of `test/weightless` without weights, operations in `test/goldens/transformers`, and in
`test/goldens/qwen_states.json` what the text encoder makes of prompts, with pictures and without.

Pipelines for editing do not tell transformers 5 which tokens are pictures (`mm_token_type_ids`), so it puts these on a line; transformers 4,
with which the models were made, put them on a grid (M-RoPE). `positioned` tells it.
"""

import functools
import json
import math
import sys

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from files import GOLDENS, ROOT, write_json, write_rows
from flow_pipelines import PIPELINES, PROMPTS, TEXT, save, tokenizer, write_case
from pictures import picture, soft_mask

VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# As it is published.
SCHEDULER = dict(base_image_seq_len=256, base_shift=0.5, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02, use_dynamic_shifting=True)
WIDTH = 64
# Random networks saturate what is decoded, unlike taught ones.
GAINS = {"vae": {"decoder.conv_out": 0.5}}


def words() -> object:
    """A tokenizer that has seen the templates, so that these are about as long as in the real one."""
    templates = [cls.__init__.__code__.co_consts for cls in (QwenImagePipeline, QwenImageEditPipeline)]
    sentences = [each for consts in templates for each in consts if isinstance(each, str) and "<|im_start|>" in each]
    lines = [line.split("<|im_end|>")[0] for each in sentences for line in each.split("\n")]
    return tokenizer("\n".join([TEXT, *[line for line in lines if "<|" not in line] * 8, *["Picture 1: "] * 8]), 720, VISION)


def text_encoder(vocabulary) -> Qwen2_5_VLForConditionalGeneration:
    ids = dict(zip(("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"), vocabulary.convert_tokens_to_ids(list(VISION))))
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=dict(
                vocab_size=len(vocabulary), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}, bos_token_id=None, eos_token_id=vocabulary.eos_token_id,
            ),
            vision_config=dict(depth=3, hidden_size=32, intermediate_size=44, num_heads=2, out_hidden_size=WIDTH, patch_size=14, window_size=112, fullatt_block_indexes=[1], tokens_per_second=2),
            tie_word_embeddings=True,
            **ids,
        )
    )


class Processor(Qwen2_5_VLProcessor):
    """transformers' own without videos, for which it wants torchvision."""

    def __init__(self, image_processor, tokenizer):
        self.image_processor, self.tokenizer, self.chat_template = image_processor, tokenizer, None
        self.image_token, self.video_token = VISION[2:]
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(list(VISION[2:]))

    def save_pretrained(self, folder, **_):
        self.image_processor.save_pretrained(folder)


Processor.__name__ = "Qwen2VLProcessor"
Processor.__module__ = Qwen2_5_VLProcessor.__module__


def autoencoder(**more) -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(**{"base_dim": 8, "num_res_blocks": 1, **more})


def transformer(**more) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6), **more)


def qwen_image() -> QwenImagePipeline:
    vocabulary = words()
    return QwenImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER), vae=autoencoder(), text_encoder=text_encoder(vocabulary), tokenizer=vocabulary, transformer=transformer())


def positioned(encoder: torch.nn.Module, image: int) -> None:
    forward = encoder.forward

    @functools.wraps(forward)
    def with_kinds(input_ids, **given):
        return forward(input_ids=input_ids, mm_token_type_ids=(input_ids == image).int(), **given)

    encoder.forward = with_kinds


def qwen_edit(kind, **more):
    """These show pictures of a million pixels to the network, so an autoencoder that makes few latents of them."""
    vocabulary = words()
    encoder = text_encoder(vocabulary)
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=autoencoder(base_dim=4, dim_mult=[1, 1, 1, 2, 2, 4], temperal_downsample=[False, False, False, True, True]),
        text_encoder=encoder,
        tokenizer=vocabulary,
        processor=Processor(Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 36}), vocabulary),
        transformer=transformer(**more),
    )


def results(pipeline, drawn):
    """Latents after the last step, unpacked, and pictures from 0 to 1."""
    given = drawn()
    # Its guidance is called `true_cfg_scale`; the other is for networks that take it as an input, of which there is none.
    more = {"true_cfg_scale": given.pop("guidance_scale")}
    if isinstance(pipeline, QwenImageEditPipeline):
        # Of a list it would leave the sizes as they are.
        (more["image"],) = given["image"]
    run = lambda output: pipeline(**{**{key: value for key, value in drawn().items() if key != "guidance_scale"}, **more, "output_type": output}).images
    return pipeline._unpack_latents(run("latent"), given["height"], given["width"], pipeline.vae_scale_factor)[:, :, 0], run("np")


GERMAN = "Über den Dächern von Köln hängt Nebel; ein großer grauer Hund schläft am Fluss"
CHINESE = "一只猫坐在窗边，外面下着雪"

QWEN = {
    # name: checkpoint, what is special, parameters, picture to start from
    "qwen-image": ("tiny-qwen-image", "true guidance with a negative prompt; not square, odd in tokens", dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=4, guidance_scale=4, seed=42, width=80, height=112), None),
    "qwen-image-batch": ("tiny-qwen-image", "two pictures of one generator, Chinese, no guidance", dict(prompt=CHINESE, steps=2, guidance_scale=1, seed=7, width=64, height=48, batch_size=2), None),
    "qwen-image-long": ("tiny-qwen-image", "a prompt of more than 512 tokens is cut, guidance by a run without words", dict(prompt="the quick brown fox jumps over the lazy dog, " * 60, negative_prompt="", steps=2, guidance_scale=2, seed=9, width=48, height=64), None),
    "qwen-image-german": ("tiny-qwen-image", "guidance, two pictures, one token wide", dict(prompt=GERMAN, negative_prompt=" ", steps=3, guidance_scale=2.5, seed=3, width=16, height=80, batch_size=2), None),
    "qwen-image-transform": ("tiny-qwen-image", "from a picture, with guidance", dict(prompt="an oil painting", negative_prompt="", steps=4, guidance_scale=3, seed=5, width=80, height=64, strength=0.6), (80, 64, 1)),
    "qwen-image-transform-whole": ("tiny-qwen-image", "strength 1, no guidance, two pictures", dict(prompt="a watercolour", steps=3, guidance_scale=1, seed=6, width=64, height=96, strength=1.0, batch_size=2), (64, 96, 0)),
    "qwen-image-inpaint": ("tiny-qwen-image", "in the white part of a soft mask, with guidance", dict(prompt="a vase with flowers", negative_prompt="blurry", steps=5, guidance_scale=2, seed=21, width=80, height=64, strength=0.7, overlay_inpaint=False, mask=True), (80, 64, 2)),
    "qwen-image-outpaint": ("tiny-qwen-image", "two sides, a soft seam, no guidance", dict(prompt="a harbour at night", steps=4, guidance_scale=1, seed=23, width=48, height=48, strength=0.8, outpaint_left=16, outpaint_top=16, outpaint_feather=5, overlay_inpaint=False), (32, 32, 1)),
    "qwen-image-inpaint-whole": ("tiny-qwen-image", "strength 1, no guidance", dict(prompt="a vase with flowers", steps=3, guidance_scale=1, seed=22, width=64, height=96, strength=1.0, overlay_inpaint=False, mask=True), (64, 96, 0)),
}

# The scheduler of https://github.com/ModelTC/Qwen-Image-Lightning; our `shift` says the same.
LIGHTNING = {**SCHEDULER, "base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
LIGHTNING_CASE = ("tiny-qwen-image", "four steps with a shift of 3 and no guidance, as with a Lightning LoRA", dict(prompt="a red house at the edge of the forest", steps=4, guidance_scale=1, seed=12, width=64, height=80), None)

EDIT = {
    "qwen-edit": ("tiny-qwen-image-edit", "a picture, with guidance; not square", dict(prompt="make it night", negative_prompt="blurry", steps=3, guidance_scale=4, seed=5, width=192, height=128, images=[(90, 70, 1)])),
    "qwen-edit-german": ("tiny-qwen-image-edit", "a tall picture, no guidance, two results", dict(prompt=GERMAN, steps=2, guidance_scale=1, seed=6, width=64, height=192, images=[(60, 120, 0)], batch_size=2)),
    "qwen-edit-plus": ("tiny-qwen-image-edit-2509", "a picture, no guidance", dict(prompt="make it night", steps=2, guidance_scale=1, seed=5, width=128, height=64, images=[(90, 70, 1)])),
    "qwen-edit-plus-two": ("tiny-qwen-image-edit-2509", "two pictures of different shapes, with guidance", dict(prompt="put the first beside the second", negative_prompt="", steps=3, guidance_scale=3, seed=8, width=128, height=192, images=[(64, 64, 0), (80, 48, 1)])),
    "qwen-edit-plus-three": ("tiny-qwen-image-edit-2509", "three pictures, Chinese", dict(prompt=CHINESE, negative_prompt=" ", steps=2, guidance_scale=2, seed=9, width=64, height=64, images=[(64, 64, 0), (80, 48, 1), (50, 100, 2)])),
    "qwen-edit-2511": ("tiny-qwen-image-edit-2511", "pictures that are shown are without noise to the network (`zero_cond_t`); two of them, with guidance", dict(prompt="put the first beside the second", negative_prompt=" ", steps=3, guidance_scale=4, seed=10, width=128, height=64, images=[(64, 64, 0), (80, 48, 1)])),
    "qwen-edit-2511-one": ("tiny-qwen-image-edit-2511", "a picture, no guidance, two results", dict(prompt="", steps=2, guidance_scale=1, seed=11, width=64, height=128, images=[(70, 90, 2)], batch_size=2)),
}

# Of `src/configs/try_on.json`, whose words are what the pipeline is told. The last value: whether what the person wears is painted over.
TRY_ON = {
    "try-on-masked": ("tiny-qwen-image-edit-2509", "a person whose clothes are painted over and a piece of clothing, further words, guidance", dict(prompt="Tuck the shirt in.", negative_prompt=" ", steps=2, guidance_scale=3, seed=31, width=64, height=128), True),
    "try-on": ("tiny-qwen-image-edit-2511", "a person and a piece of clothing, no further words", dict(prompt="", steps=2, guidance_scale=1, seed=32, width=128, height=64), False),
}


def write_try_on(name: str, checkpoint: str, about: str, pipeline, parameters: dict, masks: bool) -> None:
    """Pillow lays grey on the person where the mask is white; the operation has the pictures before that, and only the person's own words."""
    config = json.loads((ROOT / "src" / "configs" / "try_on.json").read_text())["parameters"]
    person, cloth, mask = picture(60, 90, 1), picture(72, 64, 0), soft_mask(60, 90)
    covered = Image.composite(Image.new("RGB", person.size, config["COVER"]), person, mask) if masks else person
    said = " ".join(text for text in (config["INSTRUCTION"], config["MASK_INSTRUCTION"] if masks else "", parameters["prompt"]) if text)
    write_case(name, checkpoint, "try_on", about, pipeline, {**parameters, "prompt": said, "images": [covered, cloth]}, None, results)
    folder = PIPELINES / name
    for number in range(2):
        (folder / f"image_{number}.png").unlink()
    for key, image in {"person": person, "cloth": cloth, **({"mask": mask} if masks else {})}.items():
        image.save(folder / f"{key}.png")
    operation = json.loads((folder / "operation.json").read_text())
    del operation["parameters"]["images"]
    operation["parameters"].update(parameters, seed=str(parameters["seed"]), person="person.png", cloth="cloth.png", **({"mask_image": "mask.png"} if masks else {}))
    write_json(folder / "operation.json", operation)


def text_states(name: str, pipeline, shown: list | None) -> list[dict]:
    """What the transformer is given for the prompts: a few numbers of some tokens."""
    rows = []
    for prompt in PROMPTS[: 4 if shown else None]:
        with torch.no_grad():
            given = {} if shown is None else {"image": [picture(*size) for size in shown] if isinstance(pipeline, QwenImageEditPlusPipeline) else picture(*shown[0])}
            embeds = pipeline.encode_prompt(prompt, max_sequence_length=512, **given)[0][0]
        tokens = sorted({0, len(embeds) // 3, len(embeds) // 2, len(embeds) - 1})
        rows.append({"checkpoint": name, "prompt": prompt, "images": shown, "length": len(embeds), "tokens": tokens, "states": [[float(f"{value:.6g}") for value in embeds[token]] for token in tokens]})
    return rows


def make_qwen_pipelines(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    plain = qwen_image()
    edits = {
        "tiny-qwen-image-edit": qwen_edit(QwenImageEditPipeline),
        "tiny-qwen-image-edit-2509": qwen_edit(QwenImageEditPlusPipeline),
        "tiny-qwen-image-edit-2511": qwen_edit(QwenImageEditPlusPipeline, zero_cond_t=True),
    }
    for name, pipeline in {"tiny-qwen-image": plain, **edits}.items():
        # Their goldens were made before factors of channels had a rule.
        save(name, pipeline, GAINS, as_matrices=("gamma",))
        pipeline.set_progress_bar_config(disable=True)
    for pipeline in edits.values():
        positioned(pipeline.text_encoder, pipeline.processor.image_token_id)
    for name, (checkpoint, about, parameters, source) in QWEN.items():
        if not only or name in only:
            kind = QwenImagePipeline if source is None else QwenImageInpaintPipeline if "overlay_inpaint" in parameters else QwenImageImg2ImgPipeline
            pipeline = kind(**plain.components)
            pipeline.set_progress_bar_config(disable=True)
            write_case(name, checkpoint, "qwen_image", about, pipeline, parameters, source, results)
    name = "qwen-image-lightning"
    if not only or name in only:
        quick = QwenImagePipeline(**{**plain.components, "scheduler": FlowMatchEulerDiscreteScheduler(**LIGHTNING)})
        quick.set_progress_bar_config(disable=True)
        write_case(name, LIGHTNING_CASE[0], "qwen_image", LIGHTNING_CASE[1], quick, LIGHTNING_CASE[2], None, results)
        path = PIPELINES / name / "operation.json"
        operation = json.loads(path.read_text())
        write_json(path, {**operation, "parameters": {**operation["parameters"], "shift": 3}})
    for name, (checkpoint, about, parameters) in EDIT.items():
        if not only or name in only:
            write_case(name, checkpoint, "qwen_image_edit", about, edits[checkpoint], parameters, None, results)
    for name, (checkpoint, about, parameters, masks) in TRY_ON.items():
        if not only or name in only:
            write_try_on(name, checkpoint, about, edits[checkpoint], parameters, masks)
    if only:
        return
    about = "What the text encoder of Qwen-Image's pipelines hands to the transformer for prompts, with pictures (width, height, variant) and without, at some tokens."
    rows = text_states("tiny-qwen-image", plain, None) + [row for name, sizes in (("tiny-qwen-image-edit", [(140, 112, 1)]), ("tiny-qwen-image-edit-2509", [(84, 84, 0), (140, 112, 1), (56, 196, 2)])) for row in text_states(name, edits[name], sizes)]
    write_rows(GOLDENS / "qwen_states.json", {"about": about}, "cases", rows)


if __name__ == "__main__":
    make_qwen_pipelines(set(sys.argv[1:]))
