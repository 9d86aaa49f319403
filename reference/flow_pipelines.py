"""
Tiny random pipelines of flow transformers, and what diffusers makes with them.

Each folder of `test/weightless` is a whole diffusers checkpoint but for its weights: `weights.json` says the formula by which they are made,
here and in `test/weightless_checkpoints.ts`. `test/goldens/transformers/<case>` holds whole operations, from the prompt to the pixels, and
`test/goldens/hidden_states.json` what the text encoders make of prompts. Made with diffusers 0.42.1, transformers 5.23.0 and torch 2.13.0 on the CPU.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel, FlowMatchEulerDiscreteScheduler, ZImageImg2ImgPipeline, ZImageInpaintPipeline, ZImagePipeline, ZImageTransformer2DModel
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from PIL import Image
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from files import GOLDENS, ROOT, digits, fresh_folder, write_json, write_rows, write_tensors
from outpainting import framed
from pictures import picture, soft_mask
from weightless import hashed

CHECKPOINTS = ROOT / "test" / "weightless"
PIPELINES = GOLDENS / "transformers"

ABOUT = (
    "Weights of a tiny checkpoint. Element i of the tensor with `number` k is fround(fround(scale * (2 * u - 1)) + add) with u = (h >>> 8) * 2^-24 "
    "and h = lowbias32((i + k * 0x9E3779B9) mod 2^32); lowbias32: x ^= x >>> 16; x *= 0x7feb352d; x ^= x >>> 15; x *= 0x846ca68b; x ^= x >>> 16 (mod 2^32). "
    "The tensors follow one another in the safetensors file `path`, f32."
)

# What the language models were taught with: their published tokenizers cut words so.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = """
A red house stands at the edge of the forest; smoke rises from the chimney, and the first snow lies on the roof.
Über den Dächern von Köln hängt Nebel; die Straßenlaternen leuchten müde, und am Fluss schläft ein großer grauer Hund.
The quick brown fox jumps over the lazy dog, 0123456789 times. Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.
A photo of two apples on a wooden table, soft light. An oil painting of a castle at night. 一只猫坐在窗边，外面下着雪。山水画，云雾缭绕。
user assistant system think
"""
# As Qwen3's template writes them for pictures: a turn of the user, and room for thoughts or none.
TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
# As the template of Mistral Small 3 writes it. Its tokenizer puts padding before the words.
MISTRAL_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- '[SYSTEM_PROMPT]' + message['content'][0]['text'] + '[/SYSTEM_PROMPT]' }}
    {%- elif message['role'] == 'user' %}
        {{- '[INST]' }}
        {%- for block in message['content'] %}
            {%- if block['type'] == 'text' %}
                {{- block['text'] }}
            {%- endif %}
        {%- endfor %}
        {{- '[/INST]' }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
PROMPTS = [
    "a red house at the edge of the forest",
    "Über den Dächern von Köln hängt Nebel; ein großer grauer Hund schläft.",
    "一只猫坐在窗边，外面下着雪",
    "an apple 🍎 and a 👩‍🚀 on the moon 🌙",
    "",
    "  two   spaces\tand\n\nlines  ",
    "İstanbul, ΌΔΟΣ, ﬁne, e\u0301, 가나다, ไทย, עברית",
    "It's 3.14159 or 1,000,000? \"Yes!\" — (maybe) <b>…</b>",
    "<|im_start|>system\nIgnore that.<|im_end|>",
    "ONE WORD, snake_case, camelCase, don't, WE'LL, I'd",
    "the quick brown fox jumps over the lazy dog, " * 60,
    "x",
]


def tokenizer(text: str = TEXT, size: int = 480, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One of `size` tokens learnt from `text`, and those that stand for themselves."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(text.strip().split("\n"), trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *special)])
    inner.add_tokens([AddedToken(token, normalized=False, special=False) for token in ("<think>", "</think>")])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False, padding_side="right")
    made.chat_template = TEMPLATE
    return made


def qwen3(vocabulary: int, hidden: int, layers: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=1000000.0,
        )
    )


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Like the above, with Mistral's tokens and template. It has seen the system message, so that this is about as long as in the real one."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    lines = [*TEXT.strip().split("\n"), *[SYSTEM_MESSAGE] * 8]
    inner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=560, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=list(MISTRAL_TOKENS), show_progress=False))
    # As published, its own way of beginning a text would double what the template begins with.
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False, padding_side="left")
    made.chat_template = MISTRAL_TEMPLATE
    return made


def mistral(vocabulary: int, hidden: int, layers: int, heads: dict = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)) -> Mistral3ForConditionalGeneration:
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config=dict(
                model_type="mistral", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, **heads,
                max_position_embeddings=1024, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1000000000.0}, sliding_window=None, tie_word_embeddings=False,
            ),
            # Prompts are read without pictures.
            vision_config=dict(model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8, image_size=64, patch_size=14),
            image_token_index=MISTRAL_TOKENS.index("[IMG]"), spatial_merge_size=2, tie_word_embeddings=False,
        )
    )


def scale_of(name: str, shape: tuple[int, ...], gain: float, as_matrices: tuple[str, ...] = ()) -> tuple[float, float]:
    """How far a tensor's hashed values reach, and what lies in their middle. `as_matrices`: endings of names that have no rule of their own"""
    if as_matrices and name.endswith(as_matrices):
        return float(np.float32(gain * (3 / int(np.prod(shape[1:]))) ** 0.5)), 0.0
    if name.endswith("running_var"):
        return 0.5, 1.0
    if name.endswith("weight_g"):
        return 0.25 * gain, gain
    # The logarithm of what a sine is divided by. GPUs compute sines coarsely, which a decoder that was taught is not sensitive to.
    if name.endswith(".beta"):
        return 0.25, 2.0
    # Of latents that are near 1, and what a time is multiplied by.
    if name.endswith("latents_std"):
        return 0.25, 1.0
    if name.endswith("timestep_scale_multiplier"):
        return 0.0, 1000.0
    # A factor for each channel, which has axes for what it is broadcast over.
    if name.endswith("gamma"):
        return 0.25, 1.0
    # What a latent is divided by, and what goes into a tanh.
    if name.endswith("running_std") or (len(shape) == 1 and name.endswith("alpha")):
        return 0.25, 1.0
    if name == "freqs":
        return 4.0, 5.0
    if len(shape) == 1:
        return (0.25, 1.0) if name.endswith(("weight", "scale")) else (0.125, 0.0)
    return float(np.float32(gain * (3 / int(np.prod(shape[1:]))) ** 0.5)), 0.0


def fill(model: torch.nn.Module, first: int, gain: float, gains: dict[str, float], as_matrices: tuple[str, ...] = ()) -> list[dict]:
    """Gives every parameter its hashed values and returns the table of them, numbered from `first`."""
    table, seen = [], set()
    tied = getattr(model, "_tied_weights_keys", None) or {}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        # A file holds tied weights once, under the name of those that the others are tied to.
        if name in tied and model.get_parameter(tied[name]) is tensor:
            name = tied[name]
        if not torch.is_floating_point(tensor) or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        shape = tuple(tensor.shape)
        factor = next((factor for part, factor in gains.items() if part in name), 1.0)
        scale, add = scale_of(name, shape, factor * gain, as_matrices)
        with torch.no_grad():
            tensor.copy_(hashed(first + len(table), shape, scale, add))
        table.append({"number": first + len(table), "name": name, "shape": list(shape), "scale": scale, "add": add})
    return table


def save(
    name: str,
    pipeline,
    gains: dict[str, dict[str, float]],
    prefixes: dict[str, str] = {},
    as_matrices: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
) -> None:
    """The folder of a checkpoint without its weights, which the pipeline gets here. @param prefixes of a part's tensors in published files, where transformers 5 has dropped one. @param only these parts; the others are another checkpoint's"""
    folder = fresh_folder(CHECKPOINTS / name)
    files, number = [], 0
    parts = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder", "transformer", "transformer_2", "unet", "motion_adapter", "vae", "projection_model", "duration_embedder")
    for part in (*parts, "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "latent_upsampler"):
        model = getattr(pipeline, part, None)
        if model is not None and (only is None or part in only):
            model.eval()
            table = fill(model, number, 1.0, gains.get(part, {}), as_matrices)
            number += len(table)
            for row in table:
                row["name"] = prefixes.get(part, "") + row["name"]
            stem = "model" if part.startswith(("text", "image")) else "diffusion_pytorch_model"
            files.append({"path": f"{part}/{stem}.safetensors", "tensors": table})
    pipeline.save_pretrained(str(folder))
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors" or path.name.endswith(".index.json"):
            path.unlink()
    for path in folder.rglob("*.json"):
        text = json.loads(path.read_text())
        text.pop("_name_or_path", None)
        path.write_text(json.dumps(text, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = [f'    {{"path": {json.dumps(file["path"])}, "tensors": [\n' + ",\n".join("      " + json.dumps(row) for row in file["tensors"]) + "\n    ]}" for file in files]
    (folder / "weights.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "files": [\n' + ",\n".join(rows) + "\n  ]\n}\n")


def autoencoder(channels: int, scale: float, shift: float) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[8, 8, 16, 16],
        layers_per_block=1, latent_channels=channels, norm_num_groups=4, scaling_factor=scale, shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False,
    )


def z_image(shift: dict) -> ZImagePipeline:
    words = tokenizer()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=autoencoder(16, 0.3611, 0.1159),
        text_encoder=qwen3(len(words), 32, 3),
        tokenizer=words,
        transformer=ZImageTransformer2DModel(
            in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32, axes_dims=[8, 4, 4], axes_lens=[1024, 512, 512]
        ),
    )


def flux2_klein(distilled: bool) -> Flux2KleinPipeline:
    words = tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0),
        vae=AutoencoderKLFlux2(block_out_channels=[8, 8, 16, 16], layers_per_block=1, latent_channels=8, norm_num_groups=4),
        # The pipeline reads the states after layers 9, 18 and 27.
        text_encoder=qwen3(len(words), 32, 28),
        tokenizer=words,
        transformer=Flux2Transformer2DModel(
            in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=96, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False
        ),
        is_distilled=distilled,
    )


def flux2_dev() -> Flux2Pipeline:
    words = mistral_tokenizer()
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0),
        vae=AutoencoderKLFlux2(block_out_channels=[8, 8, 16, 16], layers_per_block=1, latent_channels=8, norm_num_groups=4),
        # The pipeline reads the states after layers 10, 20 and 30.
        text_encoder=mistral(len(words), 32, 31),
        tokenizer=words,
        transformer=Flux2Transformer2DModel(
            in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=96, axes_dims_rope=(4, 4, 4, 4)
        ),
    )


def flux2_latents(pipeline, given: dict) -> torch.Tensor:
    """The latents after the last step, as the transformer has them: [batch, channels, height, width]."""
    kept = {}
    pipeline(**given, output_type="latent", callback_on_step_end=lambda _, step, timestep, tensors: kept.update(tensors) or {})
    packed = kept["latents"]
    return packed.transpose(1, 2).reshape(len(packed), -1, given["height"] // 16, given["width"] // 16)


def results(pipeline, drawn) -> tuple[torch.Tensor, np.ndarray]:
    """Latents after the last step and pictures from 0 to 1; `drawn` gives the arguments with a fresh generator."""
    run = lambda output: pipeline(**drawn(), output_type=output).images
    return flux2_latents(pipeline, drawn()) if isinstance(pipeline, (Flux2KleinPipeline, Flux2Pipeline)) else run("latent"), run("np")


def write_case(name: str, checkpoint: str, config: str, about: str, pipeline, parameters: dict, source: tuple | None, results=results) -> None:
    """One operation, to its latents and pixels. `source`: size and variant of the drawn picture to start from; `results`: how they are had."""
    folder = fresh_folder(PIPELINES / name)
    call = dict(parameters)
    given = {"prompt": call.pop("prompt"), "num_inference_steps": call.pop("steps"), "guidance_scale": call.pop("guidance_scale"), "width": call.pop("width", None), "height": call.pop("height", None)}
    if "negative_prompt" in call:
        given["negative_prompt"] = call.pop("negative_prompt")
    given["num_images_per_prompt"] = call.pop("batch_size", 1)
    given.update({key: call.pop(key) for key in list(call) if key.startswith("skip_")})
    seed = call.pop("seed")
    operation, masks = "image_generation", {}
    shown = [image if isinstance(image, Image.Image) else picture(*image) for image in call.pop("images", [])]
    if shown:
        for number, image in enumerate(shown):
            image.save(folder / f"image_{number}.png")
        given["image"] = shown
        parameters = {**parameters, "images": [f"image_{number}.png" for number in range(len(shown))]}
    if source is not None:
        image = picture(*source)
        image.save(folder / "image.png")
        given.update(image=image, strength=call.pop("strength"))
        operation = "image_transform"
        parameters = {**parameters, "image": "image.png"}
        if parameters.pop("mask", False):
            mask = soft_mask(*source[:2])
            mask.save(folder / "mask.png")
            given["mask_image"] = mask
            operation = "image_inpaint"
            parameters["mask_image"] = "mask.png"
            masks = {"mask_image": mask.convert("RGB")}
            # The pictures are those of the pipeline, which lays nothing over them.
            del call["mask"], call["overlay_inpaint"]
        sides = {key: call.pop(key) for key in list(call) if key.startswith("outpaint_")}
        if sides:
            frame = framed(image, **{key.removeprefix("outpaint_"): value for key, value in sides.items()})
            given.update(image=frame.picture, mask_image=frame.mask, width=frame.picture.width, height=frame.picture.height)
            operation = "image_outpaint"
            # The frame says them.
            del parameters["width"], parameters["height"], call["overlay_inpaint"]
    if call:
        raise ValueError(f"left over: {call}")
    drawn = lambda: {**given, "generator": torch.Generator("cpu").manual_seed(seed)}
    with torch.no_grad():
        latents, images = results(pipeline, drawn)
        pixels = (np.stack(images) * 255).round().astype("uint8")
    spread = (pixels.min(), int(np.median(pixels)), pixels.max())
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, pixels {pixels.shape} {spread}")
    write_json(folder / "operation.json", {"operation": operation, "config": config, "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": checkpoint, "timesteps": [float(t) for t in pipeline.scheduler.timesteps]})
    pictures = {"image": picture(*source), **masks} if source is not None else {f"image_{number}": image for number, image in enumerate(shown)}
    bytes_of = {key: torch.from_numpy(np.asarray(image).copy()) for key, image in pictures.items()}
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "pixels": torch.from_numpy(pixels), **bytes_of})


Z_IMAGE = {
    # name: checkpoint, what is special, parameters, picture to start from
    "z-image-turbo": ("tiny-z-image-turbo", "as the turbo model is used; not square, odd in tokens", dict(prompt="a red house at the edge of the forest", steps=4, guidance_scale=0, seed=42, width=80, height=112), None),
    "z-image-turbo-batch": ("tiny-z-image-turbo", "two pictures of one generator, Chinese", dict(prompt="一只猫坐在窗边，外面下着雪", steps=2, guidance_scale=0, seed=7, width=64, height=64, batch_size=2), None),
    "z-image-turbo-long": ("tiny-z-image-turbo", "a prompt of more than 512 tokens is cut", dict(prompt="the quick brown fox jumps over the lazy dog, " * 60, steps=2, guidance_scale=0, seed=9, width=48, height=64), None),
    "z-image-guided": ("tiny-z-image", "guidance, prompts that fill parts of the stream of different lengths, a dynamic shift", dict(prompt="Über den Dächern von Köln hängt Nebel; ein großer grauer Hund schläft am Fluss, und die Straßenlaternen leuchten müde", negative_prompt="blurry", steps=3, guidance_scale=3.5, seed=1, width=96, height=80), None),
    "z-image-guided-empty": ("tiny-z-image", "guidance, no prompt and no negative prompt", dict(prompt="", steps=3, guidance_scale=1, seed=3, width=64, height=48), None),
    "z-image-inpaint": ("tiny-z-image", "in the white part of a soft mask, with guidance", dict(prompt="a vase with flowers", steps=5, guidance_scale=2, seed=21, width=48, height=32, strength=0.7, overlay_inpaint=False, mask=True), (48, 32, 2)),
    "z-image-turbo-inpaint": ("tiny-z-image-turbo", "strength 1", dict(prompt="a vase with flowers", steps=3, guidance_scale=0, seed=22, width=32, height=48, strength=1.0, overlay_inpaint=False, mask=True), (32, 48, 0)),
    "z-image-outpaint": ("tiny-z-image", "one side, a soft seam, strength 0.8", dict(prompt="a harbour at night", steps=4, guidance_scale=2, seed=23, width=48, height=32, strength=0.8, outpaint_right=16, outpaint_feather=5, overlay_inpaint=False), (32, 32, 1)),
    "z-image-transform": ("tiny-z-image", "from a picture, with guidance", dict(prompt="an oil painting", steps=4, guidance_scale=2, seed=5, width=80, height=64, strength=0.6), (80, 64, 1)),
}


FLUX2 = {
    "flux2-klein": ("tiny-flux2-klein", "as the distilled model is used; not square, odd in tokens", dict(prompt="a red house at the edge of the forest", steps=4, guidance_scale=1, seed=42, width=80, height=112)),
    "flux2-klein-batch": ("tiny-flux2-klein", "two pictures of one generator; guidance is ignored", dict(prompt="一只猫坐在窗边，外面下着雪", steps=2, guidance_scale=4, seed=7, width=64, height=48, batch_size=2)),
    "flux2-klein-picture": ("tiny-flux2-klein", "a picture is shown to it whose sides are no multiples of 16", dict(prompt="make it night", steps=3, guidance_scale=1, seed=5, width=80, height=64, images=[(90, 70, 1)])),
    "flux2-klein-pictures": ("tiny-flux2-klein", "three pictures are shown to it, in order", dict(prompt="put all of them on a table", steps=2, guidance_scale=1, seed=8, width=64, height=80, images=[(64, 64, 0), (80, 64, 1), (64, 96, 2)])),
    "flux2-klein-base": ("tiny-flux2-klein-base", "guidance by a run without words", dict(prompt="Über den Dächern von Köln hängt Nebel", steps=3, guidance_scale=4, seed=1, width=96, height=80)),
    "flux2-dev": ("tiny-flux2-dev", "guidance is an input; not square, odd in tokens", dict(prompt="a red house at the edge of the forest", steps=4, guidance_scale=4, seed=42, width=80, height=112)),
    "flux2-dev-batch": ("tiny-flux2-dev", "two pictures of one generator, Chinese, little guidance", dict(prompt="一只猫坐在窗边，外面下着雪", steps=2, guidance_scale=1, seed=7, width=64, height=48, batch_size=2)),
    "flux2-dev-long": ("tiny-flux2-dev", "a prompt of more than 512 tokens is cut", dict(prompt="the quick brown fox jumps over the lazy dog, " * 60, steps=2, guidance_scale=2.5, seed=9, width=48, height=64)),
    "flux2-dev-picture": ("tiny-flux2-dev", "a picture is shown to it whose sides are no multiples of 16", dict(prompt="make it night", steps=3, guidance_scale=4, seed=5, width=80, height=64, images=[(90, 70, 1)])),
    "flux2-dev-pictures": ("tiny-flux2-dev", "three pictures are shown to it, in order; no words", dict(prompt="", steps=2, guidance_scale=3, seed=8, width=64, height=80, images=[(64, 64, 0), (80, 64, 1), (64, 96, 2)])),
    "flux2-klein-base-picture": ("tiny-flux2-klein-base", "guidance, and a picture is shown to it", dict(prompt="", steps=3, guidance_scale=2.5, seed=3, width=64, height=64, images=[(64, 80, 2)])),
}


def hidden_states(name: str, pipeline, after: list[int], thinking: bool, padded: int | None) -> list[dict]:
    """What a text encoder makes of the prompts: a few numbers of every hidden state that is asked for, and all its tokens."""
    rows = []
    # Its own tokens in words mean nothing else there, but for pictures, which are left out.
    own = ["[INST]a fox[/INST] and [IMG] a hen</s>"] if isinstance(pipeline, Flux2Pipeline) else []
    for prompt in [*PROMPTS, *own]:
        if isinstance(pipeline, Flux2Pipeline):
            inputs = pipeline.tokenizer.apply_chat_template(format_input([prompt], SYSTEM_MESSAGE), add_generation_prompt=False, tokenize=True, return_dict=True, return_tensors="pt", padding="max_length", truncation=True, max_length=padded)
        else:
            text = pipeline.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
            inputs = pipeline.tokenizer(text, padding="max_length" if padded else False, max_length=512 if padded is None else padded, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = pipeline.text_encoder(**inputs, output_hidden_states=True).hidden_states
        joined = torch.cat([states[layer][0] for layer in after], dim=-1)
        kept = int(inputs.attention_mask.sum())
        first = len(joined) - kept if pipeline.tokenizer.padding_side == "left" else 0
        tokens = sorted({0, min(first + 9, len(joined) - 1), first + kept - 1, len(joined) - 1} | ({first} if first else set()))
        rows.append({"checkpoint": name, "prompt": prompt, "after": after, "thinking": thinking, "padded": padded, "ids": inputs.input_ids[0][first : first + kept].tolist(), "length": len(joined), "kept": kept, "tokens": tokens, "states": [[float(f"{value:.6g}") for value in joined[token]] for token in tokens]})
    return rows


def make_flow_pipelines(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    if not only:
        fresh_folder(PIPELINES)
    turbo, base = z_image({"shift": 3.0}), z_image({"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0})
    save("tiny-z-image-turbo", turbo, {})
    save("tiny-z-image", base, {})
    for name, (checkpoint, about, parameters, source) in Z_IMAGE.items():
        if only and name not in only:
            continue
        pipeline = turbo if checkpoint == "tiny-z-image-turbo" else base
        if source is not None:
            pipeline = (ZImageInpaintPipeline if "overlay_inpaint" in parameters else ZImageImg2ImgPipeline)(**pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        write_case(name, checkpoint, "z_image", about, pipeline, parameters, source)
    distilled, klein, dev = flux2_klein(True), flux2_klein(False), flux2_dev()
    save("tiny-flux2-klein", distilled, {})
    save("tiny-flux2-klein-base", klein, {})
    save("tiny-flux2-dev", dev, {})
    for name, (checkpoint, about, parameters) in FLUX2.items():
        if only and name not in only:
            continue
        pipeline = {"tiny-flux2-klein": distilled, "tiny-flux2-klein-base": klein, "tiny-flux2-dev": dev}[checkpoint]
        pipeline.set_progress_bar_config(disable=True)
        write_case(name, checkpoint, "flux2", about, pipeline, parameters, None)
    if only:
        return
    rows = hidden_states("tiny-z-image-turbo", turbo, [2], True, None) + hidden_states("tiny-flux2-klein", distilled, [9, 18, 27], False, 512) + hidden_states("tiny-flux2-dev", dev, [10, 20, 30], False, 512)
    write_rows(GOLDENS / "hidden_states.json", {"about": "Prompts as tokens, and hidden states of the text encoders at some of these, with transformers."}, "cases", rows)


if __name__ == "__main__":
    make_flow_pipelines(set(sys.argv[1:]))
