"""
Tiny random pipelines of FLUX.3, base and distilled, and what diffusers' modular pipeline makes with them.

The checkpoints lie in `test/weightless`, as modular repositories do: with a `modular_model_index.json` and without scheduler. The prompt upsampler, a language
model in a repository of its own that rewrites prompts beforehand, is taken out of the blocks. Made with diffusers 0.42.1, transformers 5.23.0 and torch 2.13.0 on the CPU.
"""

import json
import sys

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, ClassifierFreeGuidance, Flux3AutoBlocks, Flux3DistilledAutoBlocks, Flux3Transformer2DModel, ModularPipeline
from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor
from PIL import Image
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from files import GOLDENS, write_rows
from flow_pipelines import CHECKPOINTS, PROMPTS, save, tokenizer, write_case
from pictures import picture

# What diffusers reads by default: the window's multiple, and the layers whose states are stacked.
PAD = 80
AFTER = (4, 8, 12, 16, 20, 24, 28, 32)
# As Qwen3-VL's template writes a turn of text alone.
TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


class Processor:
    """Qwen3-VL's processor as far as text goes. The published one needs torchvision for the videos that it can read as well."""

    def __init__(self, words) -> None:
        self.tokenizer = words

    def apply_chat_template(self, messages, **options) -> str:
        return self.tokenizer.apply_chat_template(messages, **options)


def qwen3_vl(vocabulary: int, hidden: int, layers: int) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=dict(
                vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                max_position_embeddings=16384, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
            ),
            # Prompts are read without pictures.
            vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=hidden, patch_size=4, temporal_patch_size=2, spatial_merge_size=2, num_position_embeddings=16, deepstack_visual_indexes=[0]),
            tie_word_embeddings=True,
        )
    )


def modular(distilled: bool, words, **networks) -> ModularPipeline:
    """The blocks without what rewrites prompts, over these networks."""
    words.chat_template = TEMPLATE
    blocks = (Flux3DistilledAutoBlocks if distilled else Flux3AutoBlocks)()
    blocks.sub_blocks.pop("prompt_upsampler")
    pipeline = blocks.init_pipeline()
    pipeline.update_components(**networks)
    pipeline.tokenizer = Processor(words)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux3(distilled: bool) -> ModularPipeline:
    words = tokenizer()
    return modular(
        distilled,
        words,
        # The pipeline reads the states after layers 4 to 32, and those after the last one come with the model's norm.
        text_encoder=qwen3_vl(len(words), 16, 33),
        vae=AutoencoderKLFlux2(block_out_channels=[8, 8, 16, 16], layers_per_block=1, latent_channels=8, norm_num_groups=4),
        transformer=Flux3Transformer2DModel(
            in_channels=32, cond_in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16 * len(AFTER), axes_dims_rope=(4, 4, 4, 4), flow_map=distilled
        ),
    )


def save_modular(name: str, pipeline) -> None:
    """`save`, and what a repository would say of itself in place of this machine's folders."""
    save(name, pipeline, {})
    folder = CHECKPOINTS / name
    pipeline.tokenizer.tokenizer.save_pretrained(folder / "tokenizer")
    for path in (folder / "tokenizer").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False) + "\n", encoding="utf-8")
    path = folder / "modular_model_index.json"
    index = json.loads(path.read_text())
    index.pop("_name_or_path", None)
    for part in ("text_encoder", "vae", "transformer", "tokenizer"):
        library, kind, spec = index[part]
        index[part] = [library, kind, {**spec, "pretrained_model_name_or_path": f"someone/{name}", "subfolder": part}]
    index["tokenizer"][:2] = ["transformers", "Qwen3VLProcessor"]
    path.write_text(json.dumps(index) + "\n")
    again = ModularPipeline.from_pretrained(str(folder))
    assert type(again) is type(pipeline), type(again)


def results(pipeline, drawn):
    """Latents after the last step and pictures from 0 to 1; `drawn` gives the arguments with a fresh generator."""
    given = drawn()
    scale = given.pop("guidance_scale")
    if hasattr(pipeline, "guider"):
        pipeline.update_components(guider=ClassifierFreeGuidance(guidance_scale=scale))
    state = pipeline(**{key: value for key, value in given.items() if value is not None}, output_type="np")
    return state.get("latents"), state.get("images")


LONG = "a red house at the edge of the forest; smoke rises from the chimney, and the first snow lies on the roof, " * 3
FLUX3 = {
    # name: checkpoint, what is special, parameters
    "flux3": ("tiny-flux3", "as the distilled model is used; not square, odd in tokens", dict(prompt="a red house at the edge of the forest", steps=4, guidance_scale=1, seed=42, width=80, height=112)),
    "flux3-batch": ("tiny-flux3", "two pictures of one generator, Chinese; guidance is ignored", dict(prompt="一只猫坐在窗边，外面下着雪", steps=2, guidance_scale=4, seed=7, width=64, height=48, batch_size=2)),
    "flux3-long": ("tiny-flux3", "a prompt that fills more than one window of 80 tokens", dict(prompt=LONG, steps=3, guidance_scale=1, seed=9, width=48, height=64)),
    "flux3-picture": ("tiny-flux3", "the size is that of the picture shown, whose sides are no multiples of 16", dict(prompt="make it night", steps=3, guidance_scale=1, seed=5, images=[(74, 66, 1)])),
    "flux3-picture-sized": ("tiny-flux3", "a picture is shown, and the size is another one", dict(prompt="make it night", steps=2, guidance_scale=1, seed=6, width=80, height=64, images=[(50, 74, 2)])),
    "flux3-pictures": ("tiny-flux3", "three pictures are shown, in order; the size is that of the first", dict(prompt="put all of them on a table", steps=2, guidance_scale=1, seed=8, images=[(52, 66, 0), (48, 48, 1), (32, 64, 2)])),
    "flux3-base": ("tiny-flux3-base", "guidance away from no words", dict(prompt="Über den Dächern von Köln hängt Nebel", steps=3, guidance_scale=3.5, seed=1, width=96, height=80)),
    "flux3-base-unequal": ("tiny-flux3-base", "guidance; the prompt fills more windows than the negative prompt", dict(prompt=LONG, negative_prompt="blurry", steps=3, guidance_scale=2.5, seed=2, width=64, height=80)),
    "flux3-base-unguided": ("tiny-flux3-base", "no guidance, no words", dict(prompt="", steps=2, guidance_scale=1, seed=4, width=48, height=48)),
    "flux3-base-picture": ("tiny-flux3-base", "guidance, and a picture is shown", dict(prompt="an oil painting", negative_prompt=LONG, steps=3, guidance_scale=4, seed=3, width=64, height=64, images=[(76, 50, 2)])),
}


def hidden_states(name: str, pipeline) -> list[dict]:
    """What the text encoder makes of the prompts, as the pipeline's own step has it: a few numbers at some tokens."""
    rows = []
    words = pipeline.tokenizer.tokenizer
    step = pipeline.blocks.sub_blocks["text_encoder"]
    for prompt in PROMPTS:
        text = words.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        ids = words(text).input_ids
        with torch.no_grad():
            joined = step._get_qwen3_vl_prompt_embeds(pipeline.text_encoder, pipeline.tokenizer, prompt)[0]
        kept = len(ids)
        tokens = sorted({0, kept - 1, len(joined) - 1})
        rows.append({"checkpoint": name, "prompt": prompt, "ids": ids, "length": len(joined), "kept": kept, "tokens": tokens, "states": [[float(f"{value:.6g}") for value in joined[token]] for token in tokens]})
    return rows


# Sides of pictures that are shown alone: usual ones, some around four million pixels and around a token, very long and very small ones.
SIDES = [(1024, 1024), (1000, 750), (2048, 2048), (2049, 2047), (2047, 2040), (4000, 3000), (4095, 1023), (4096, 1025), (9000, 120), (16, 16), (17, 400), (63, 65), (20, 33), (9, 12), (1, 1), (1, 90)]


def canvases() -> list[dict]:
    """The canvas of each picture and where the picture lies in it; of small ones also the reds of the canvas's first row and column."""
    processor = Flux3ImageProcessor()
    rows = []
    for width, height in SIDES:
        small = width * height < 1000
        drawn = picture(width, height, 1) if small else Image.new("RGB", (width, height))
        made, about = processor.preprocess(drawn, resize_mode="fill")
        left, top, right, bottom = about["reference_crop"]
        row = {"width": width, "height": height, "canvas": [made.shape[3], made.shape[2]], "picture": [left, top, right - left, bottom - top]}
        if small:
            reds = ((made[0, 0] + 1) * 127.5).round().int()
            row.update(reds=np.asarray(drawn)[..., 0].flatten().tolist(), row=reds[0].tolist(), column=reds[:, 0].tolist())
        rows.append(row)
    return rows


def make_flux3_pipelines(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    pipelines = {"tiny-flux3": flux3(True), "tiny-flux3-base": flux3(False)}
    for name, pipeline in pipelines.items():
        save_modular(name, pipeline)
    for name, (checkpoint, about, parameters) in FLUX3.items():
        if not only or name in only:
            write_case(name, checkpoint, "flux3", about, pipelines[checkpoint], parameters, None, results)
    if not only:
        rows = hidden_states("tiny-flux3", pipelines["tiny-flux3"])
        write_rows(GOLDENS / "qwen3_vl_states.json", {"about": "Prompts as tokens, and what FLUX.3's text encoder step makes of them at some of these: the states after layers 4 to 32, with diffusers."}, "cases", rows)
        write_rows(GOLDENS / "flux3_canvases.json", {"about": "Pictures that are shown to FLUX.3 alone: sides, the canvas, left, top, width and height of the picture in it, and, of small ones, their reds and those of the canvas's first row and column; diffusers' Flux3ImageProcessor."}, "cases", canvases())


if __name__ == "__main__":
    make_flux3_pipelines(set(sys.argv[1:]))
