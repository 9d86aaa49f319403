"""
Qwen-Image, FLUX.2 klein and Wan in the layout that ComfyUI has them in, without the weights (test/original_layouts), and what diffusers makes
with the same networks (test/goldens/split_files). Called by split_files.py.

Weights follow from the formula under the files' own names; what these mean is decided by diffusers' conversions
(loaders/single_file_utils.py). Of FLUX.2's autoencoder that conversion is the one of the others, around which its own script
(scripts/convert_flux2_to_diffusers.py) moves two convolutions and takes over two means.

Where a name ends in `scaled`, the matrices of the blocks are in 8 bits, each with a number to multiply it by: the greatest magnitude of it is
torch's greatest float8_e4m3fn.
"""

import re
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.loaders import single_file_utils
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import flow_pipelines
import qwen_layered_pipelines
import qwen_pipelines
import t5
from files import GOLDENS, ROOT, fresh_folder, write_json, write_tensors
from flow_pipelines import mistral, mistral_tokenizer, qwen3, scale_of, tokenizer
from mmdit_files import FLUX1, flux1_pipeline, flux1_tensors, load, prefixed, shapes_of, without, write_case, write_table
from mmdit_pipelines import SPIECE, unpacked_results
from pictures import picture
from single_files import vae_name
from wan import EYES, PARTS, UNIPC, autoencoder
from weightless import hashed

RESULTS = GOLDENS / "split_files"
FILES = ROOT / "test" / "split_files"
TRANSFORMER = "model.diffusion_model."


def filled(shapes: dict[str, list[int]], table: list[dict], gains: dict[str, float] = {}) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, shape in sorted(shapes.items()):
        gain = next((gain for part, gain in gains.items() if part in name), 1.0)
        scale, add = scale_of(name, shape, gain)
        table.append({"number": len(table), "name": name, "shape": shape, "scale": scale, "add": add})
        tensors[name] = hashed(table[-1]["number"], tuple(shape), scale, add)
    return tensors


SCALED = re.compile(r"\.(?:transformer_blocks|blocks|double_blocks|single_blocks|block|layers)\.\d+\..*\.weight$")


def dequantised(tensors: dict[str, torch.Tensor], parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What 8 bits with a scale keep of the blocks' matrices in these parts."""
    kept = dict(tensors)
    for name, value in tensors.items():
        if value.ndim == 2 and name.startswith(parts) and SCALED.search(name) and "relative_attention_bias" not in name:
            scale = value.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            kept[name] = (value / scale).to(torch.float8_e4m3fn).to(torch.float32) * scale
    return kept


RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6", "conv_shortcut": "shortcut"}
ENDS = {"quant_conv": "conv1", "post_quant_conv": "conv2"} | {f"{side}.{own}": f"{side}.{theirs}" for side in ("encoder", "decoder") for own, theirs in (("conv_in", "conv1"), ("norm_out", "head.0"), ("conv_out", "head.2"))}


def causal_name(name: str, residuals: int) -> str:
    """As the autoencoder's own code calls a tensor of diffusers' module."""
    path, ending = name.rsplit(".", 1)
    inner = lambda rest: RESIDUAL.get(rest, rest)
    if path in ENDS:
        return f"{ENDS[path]}.{ending}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)", path):
        side, kind, number, rest = found.groups()
        return f"{side}.middle.{1 if kind == 'attentions' else 2 * int(number)}.{inner(rest)}.{ending}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", path):
        return f"encoder.downsamples.{found[1]}.{inner(found[2])}.{ending}"
    block, kind, number, rest = re.fullmatch(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)", path).groups()
    return f"decoder.upsamples.{int(block) * (residuals + 2) + (int(number) if kind == 'resnets' else residuals + 1)}.{inner(rest)}.{ending}"


def causal_shapes(vae: torch.nn.Module) -> dict[str, list[int]]:
    return {causal_name(name, vae.config.num_res_blocks): shape for name, shape in shapes_of(vae).items()}


# The conversion knows the published numbers of blocks alone.
CAUSAL = dict(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])


def eyes_and_words(vocabulary: int) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=dict(
                vocab_size=vocabulary, hidden_size=256, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096, rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}, bos_token_id=None, eos_token_id=0,
            ),
            # As many heads as published, and every fourth part of its layers ends with one that sees everything.
            vision_config=dict(depth=8, hidden_size=64, intermediate_size=44, num_heads=16, out_hidden_size=256, patch_size=14, window_size=112, fullatt_block_indexes=[1, 3, 5, 7]),
            tie_word_embeddings=True,
        )
    )


def published_name(name: str) -> str:
    """As transformers saved it before version 5."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def qwen_networks():
    vocabulary = qwen_pipelines.words()
    transformer = QwenImageTransformer2DModel(num_layers=2, attention_head_dim=32, num_attention_heads=1, joint_attention_dim=256, axes_dims_rope=(4, 14, 14))
    return vocabulary, transformer, eyes_and_words(len(vocabulary)), AutoencoderKLQwenImage(**CAUSAL)


def qwen_tensors() -> tuple[dict[str, torch.Tensor], list[dict]]:
    _, transformer, reader, vae = qwen_networks()
    shapes = {
        **prefixed(TRANSFORMER, shapes_of(transformer)),
        **prefixed("text_encoders.qwen25_7b.transformer.", {published_name(name): shape for name, shape in shapes_of(reader).items() if name != "lm_head.weight"}),
        **prefixed("vae.", causal_shapes(vae)),
    }
    table: list[dict] = []
    return filled(shapes, table, {"decoder.head.2": 0.5}), table


def qwen_pipeline(tensors: dict[str, torch.Tensor]) -> QwenImagePipeline:
    vocabulary, transformer, reader, vae = qwen_networks()
    load(transformer, without(tensors, TRANSFORMER))
    states = without(tensors, "text_encoders.qwen25_7b.transformer.")
    load(reader, {name: states["model.embed_tokens.weight" if name == "lm_head.weight" else published_name(name)] for name in reader.state_dict()})
    load(vae, single_file_utils.convert_wan_vae_to_diffusers(without(tensors, "vae.")))
    return QwenImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(**qwen_pipelines.SCHEDULER), vae=vae, text_encoder=reader, tokenizer=vocabulary, transformer=transformer)


QWEN = dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=3, guidance_scale=3, seed=42, width=80, height=64)


def qwen_image() -> None:
    tensors, table = qwen_tensors()
    write_table("qwen_image", table)
    write_case(RESULTS / "qwen-image", "qwen_image", qwen_pipeline(tensors), qwen_pipelines.results, QWEN, "qwen_image")
    scaled = dequantised(tensors, (TRANSFORMER, "text_encoders."))
    write_case(RESULTS / "qwen-image-scaled", "qwen_image", qwen_pipeline(scaled), qwen_pipelines.results, QWEN, "qwen_image")
    read = through_gguf(FILES / "qwen_image.gguf", "qwen_image", without(tensors, TRANSFORMER), [(r"\.bias$|norm", "F32"), (r"^(img_in|txt_in|proj_out|time_text_embed)\.", "BF16"), (r"_mod\.1\.", "Q5_1"), (r"_mlp\.", "Q8_0"), (r"", "Q4_0")])
    write_case(RESULTS / "qwen-image-gguf", "qwen_image", qwen_pipeline({**tensors, **{TRANSFORMER + name: value for name, value in read.items()}}), qwen_pipelines.results, QWEN, "qwen_image")


def qwen_edit() -> None:
    """With two pictures, as Qwen-Image-Edit-2511 takes them; its autoencoder, which makes few latents of them, in diffusers' names."""
    vocabulary = qwen_pipelines.words()
    transformer = QwenImageTransformer2DModel(num_layers=2, attention_head_dim=32, num_attention_heads=1, joint_attention_dim=256, axes_dims_rope=(4, 14, 14), zero_cond_t=True)
    reader, vae = eyes_and_words(len(vocabulary)), AutoencoderKLQwenImage(base_dim=4, num_res_blocks=1, dim_mult=[1, 1, 1, 2, 2, 4], temperal_downsample=[False, False, False, True, True])
    image = vocabulary.convert_tokens_to_ids("<|image_pad|>")
    reader.config.image_token_id = image
    shapes = {
        **prefixed(TRANSFORMER, shapes_of(transformer)),
        **prefixed("text_encoders.qwen25_7b.transformer.", {published_name(name): shape for name, shape in shapes_of(reader).items() if name != "lm_head.weight"}),
        **prefixed("vae.", shapes_of(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table, {"decoder.conv_out": 0.5})
    write_table("qwen_image_edit", table)
    load(transformer, without(tensors, TRANSFORMER))
    states = without(tensors, "text_encoders.qwen25_7b.transformer.")
    load(reader, {name: states["model.embed_tokens.weight" if name == "lm_head.weight" else published_name(name)] for name in reader.state_dict()})
    load(vae, without(tensors, "vae."))
    # The published limits of pixels.
    eyes = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384})
    pipeline = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**qwen_pipelines.SCHEDULER), vae=vae, text_encoder=reader, tokenizer=vocabulary, processor=qwen_pipelines.Processor(eyes, vocabulary), transformer=transformer
    )
    pipeline.set_progress_bar_config(disable=True)
    qwen_pipelines.positioned(reader, image)
    parameters = dict(prompt="put the first beside the second", negative_prompt=" ", steps=2, guidance_scale=3, seed=10, width=128, height=64, images=[(64, 64, 0), (80, 48, 1)])
    # Where operations with pictures are written to.
    flow_pipelines.PIPELINES = RESULTS
    flow_pipelines.write_case("qwen-edit", "qwen_image_edit", "qwen_image_edit", "two pictures in split files, with guidance", pipeline, parameters, None, qwen_pipelines.results)


def qwen_layered() -> None:
    vocabulary = qwen_pipelines.words()
    transformer = QwenImageTransformer2DModel(num_layers=2, attention_head_dim=32, num_attention_heads=1, joint_attention_dim=256, axes_dims_rope=(4, 14, 14), use_additional_t_cond=True, use_layer3d_rope=True)
    reader, vae = eyes_and_words(len(vocabulary)), AutoencoderKLQwenImage(**CAUSAL, input_channels=4)
    shapes = {
        **prefixed(TRANSFORMER, shapes_of(transformer)),
        **prefixed("text_encoders.qwen25_7b.transformer.", {published_name(name): shape for name, shape in shapes_of(reader).items() if name != "lm_head.weight"}),
        **prefixed("vae.", causal_shapes(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table, {"decoder.head.2": 0.5})
    write_table("qwen_image_layered", table)
    load(transformer, without(tensors, TRANSFORMER))
    states = without(tensors, "text_encoders.qwen25_7b.transformer.")
    load(reader, {name: states["model.embed_tokens.weight" if name == "lm_head.weight" else published_name(name)] for name in reader.state_dict()})
    load(vae, single_file_utils.convert_wan_vae_to_diffusers(without(tensors, "vae.")))
    eyes = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384})
    pipeline = QwenImageLayeredPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**qwen_pipelines.SCHEDULER), vae=vae, text_encoder=reader, tokenizer=vocabulary, processor=qwen_pipelines.Processor(eyes, vocabulary), transformer=transformer
    )
    pipeline.set_progress_bar_config(disable=True)
    parameters = dict(prompt="a vase with flowers", negative_prompt=" ", layers=2, steps=2, guidance_scale=3, seed=54, width=48, height=64)
    qwen_layered_pipelines.write_layers(RESULTS, "qwen-layered", "qwen_image_layered", "two layers of a transparent picture in split files, with guidance", pipeline, parameters, qwen_layered_pipelines.see_through(60, 80, 1))


def through_gguf(path: Path, architecture: str, tensors: dict[str, torch.Tensor], types: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Writes them as the first type whose pattern a name matches; returns what the package reads."""
    writer = GGUFWriter(path, architecture)
    for name, value in tensors.items():
        kind = GGMLQuantizationType[next(kind for pattern, kind in types if re.search(pattern, name))]
        writer.add_tensor(name, quantize(np.ascontiguousarray(value.numpy()), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {tensor.name: torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)).reshape(list(tensors[tensor.name].shape)) for tensor in GGUFReader(path).tensors}


FLUX2 = [
    (r"^x_embedder\.", "img_in."),
    (r"^context_embedder\.", "txt_in."),
    (r"^time_guidance_embed\.guidance_embedder\.linear_([12])\.", lambda m: f"guidance_in.{'in' if m[1] == '1' else 'out'}_layer."),
    (r"^time_guidance_embed\.timestep_embedder\.linear_([12])\.", lambda m: f"time_in.{'in' if m[1] == '1' else 'out'}_layer."),
    (r"_modulation(_img|_txt)?\.linear\.", r"_modulation\1.lin."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_(added_)?([qk])\.weight", lambda m: f"double_blocks.{m[1]}.{'txt' if m[2] else 'img'}_attn.norm.{'query' if m[3] == 'q' else 'key'}_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_[qkv]\.", r"double_blocks.\1.img_attn.qkv."),
    (r"^transformer_blocks\.(\d+)\.attn\.add_[qkv]_proj\.", r"double_blocks.\1.txt_attn.qkv."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_(out\.0|add_out)\.", lambda m: f"double_blocks.{m[1]}.{'txt' if m[2] == 'add_out' else 'img'}_attn.proj."),
    (r"^transformer_blocks\.(\d+)\.ff(_context)?\.linear_(in|out)\.", lambda m: f"double_blocks.{m[1]}.{'txt' if m[2] else 'img'}_mlp.{0 if m[3] == 'in' else 2}."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_([qk])\.weight", lambda m: f"single_blocks.{m[1]}.norm.{'query' if m[2] == 'q' else 'key'}_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.", r"single_blocks.\1.linear1."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.", r"single_blocks.\1.linear2."),
]


def renamed(model: torch.nn.Module, rules: list) -> dict[str, list[int]]:
    """The file's tensors with their shapes: what has one name there lies together, row by row."""
    shapes = {}
    for name, value in model.state_dict().items():
        shape = list(value.shape)
        for pattern, replacement in rules:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes else shape
    return shapes


def flux2_vae_shapes(vae: torch.nn.Module) -> dict[str, list[int]]:
    linear = lambda name, shape: [*shape, 1, 1] if ".attentions." in name and len(shape) == 2 else shape
    moved = lambda name: re.sub(r"^(post_)?quant_conv\.", lambda m: f"{'decoder' if m[1] else 'encoder'}.{m[0]}", name)
    return {name if name.startswith("bn.") else moved(vae_name(name, 4).removeprefix("first_stage_model.")): linear(name, shape) for name, shape in shapes_of(vae).items()}


def flux2() -> None:
    words = tokenizer()
    transformer = Flux2Transformer2DModel(in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=96, axes_dims_rope=(8, 8, 8, 8), guidance_embeds=False)
    # Groups of 32, as in every published checkpoint, since no shape tells them.
    reader, vae = qwen3(len(words), 32, 28), AutoencoderKLFlux2(block_out_channels=[32] * 4, layers_per_block=1, latent_channels=8, norm_num_groups=32)
    shapes = {
        **prefixed(TRANSFORMER, renamed(transformer, FLUX2)),
        **prefixed("text_encoders.qwen3_4b.transformer.", {name: shape for name, shape in shapes_of(reader).items() if name != "lm_head.weight"}),
        **prefixed("vae.", flux2_vae_shapes(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table)
    write_table("flux2", table)
    load(transformer, single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers(without(tensors, TRANSFORMER)))
    states = without(tensors, "text_encoders.qwen3_4b.transformer.")
    load(reader, {**states, "lm_head.weight": states["model.embed_tokens.weight"]})
    own = {re.sub(r"^(encoder|decoder)\.((?:post_)?quant_conv\.)", r"\2", name): value for name, value in without(tensors, "vae.").items()}
    statistics = {name: own.get(name, value) for name, value in vae.state_dict().items() if name.startswith("bn.")}
    load(vae, {**single_file_utils.convert_ldm_vae_checkpoint({f"first_stage_model.{name}": value for name, value in own.items()}, vae.config), **statistics})
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)
    parts = dict(scheduler=scheduler, vae=vae, text_encoder=reader, tokenizer=words, transformer=transformer)
    parameters = dict(prompt="a red house at the edge of the forest", steps=3, guidance_scale=1, seed=42, width=80, height=64)
    write_case(RESULTS / "flux2-klein", "flux2", Flux2KleinPipeline(**parts, is_distilled=True), flow_pipelines.results, parameters, "flux2")
    write_case(RESULTS / "flux2-klein-base", "flux2", Flux2KleinPipeline(**parts, is_distilled=False), flow_pipelines.results, {**parameters, "guidance_scale": 3, "seed": 5}, "flux2")


def flux2_dev() -> None:
    """Mistral as ComfyUI's file for FLUX.2 has it: with the layers that are read, and no norm after them."""
    words = mistral_tokenizer()
    transformer = Flux2Transformer2DModel(in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=96, axes_dims_rope=(8, 8, 8, 8))
    # Heads of 128, as in every published checkpoint, since no shape tells them. transformers puts a norm after the last layer, so there is one more.
    reader = mistral(len(words), 32, 31, dict(num_attention_heads=2, num_key_value_heads=1, head_dim=128))
    vae = AutoencoderKLFlux2(block_out_channels=[32] * 4, layers_per_block=1, latent_channels=8, norm_num_groups=32)
    published = lambda name: name.removeprefix("model.").replace("language_model.", "model.", 1)
    is_there = lambda name: name.startswith("model.language_model.") and ".layers.30." not in name and not name.endswith("language_model.norm.weight")
    shapes = {
        **prefixed(TRANSFORMER, renamed(transformer, FLUX2)),
        **prefixed("text_encoders.mistral3_24b.transformer.", {published(name): shape for name, shape in shapes_of(reader).items() if is_there(name)}),
        **prefixed("vae.", flux2_vae_shapes(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table)
    write_table("flux2_dev", table)
    load(transformer, single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers(without(tensors, TRANSFORMER)))
    states = without(tensors, "text_encoders.mistral3_24b.transformer.")
    load(reader, {name: states[published(name)] if is_there(name) else value for name, value in reader.state_dict().items()})
    own = {re.sub(r"^(encoder|decoder)\.((?:post_)?quant_conv\.)", r"\2", name): value for name, value in without(tensors, "vae.").items()}
    statistics = {name: own.get(name, value) for name, value in vae.state_dict().items() if name.startswith("bn.")}
    load(vae, {**single_file_utils.convert_ldm_vae_checkpoint({f"first_stage_model.{name}": value for name, value in own.items()}, vae.config), **statistics})
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)
    pipeline = Flux2Pipeline(scheduler=scheduler, vae=vae, text_encoder=reader, tokenizer=words, transformer=transformer)
    parameters = dict(prompt="a red house at the edge of the forest", steps=3, guidance_scale=4, seed=42, width=80, height=64)
    write_case(RESULTS / "flux2-dev", "flux2_dev", pipeline, flow_pipelines.results, parameters, "flux2")


WAN = [
    (r"^condition_embedder\.time_embedder\.linear_([12])\.", lambda m: f"time_embedding.{2 * int(m[1]) - 2}."),
    (r"^condition_embedder\.text_embedder\.linear_([12])\.", lambda m: f"text_embedding.{2 * int(m[1]) - 2}."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^condition_embedder\.image_embedder\.pos_embed$", "img_emb.emb_pos"),
    (r"^condition_embedder\.image_embedder\.norm([12])\.", lambda m: f"img_emb.proj.{4 * int(m[1]) - 4}."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.(0\.proj|2)\.", lambda m: f"img_emb.proj.{1 + int(m[1][0])}."),
    (r"^(blocks\.\d+)\.attn2\.(?:add_([kv])_proj|norm_added_(k))\.", lambda m: f"{m[1]}.cross_attn.{m[2] or 'norm_k'}_img."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"^(blocks\.\d+)\.attn([12])\.(?:to_)?(norm_[qk]|[qkv]|out\.0)\.", lambda m: f"{m[1]}.{'self' if m[2] == '1' else 'cross'}_attn.{'o' if m[3] == 'out.0' else m[3]}."),
    (r"^(blocks\.\d+)\.ffn\.net\.(0\.proj|2)\.", lambda m: f"{m[1]}.ffn.{m[2][0]}."),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),
]


def wan_networks():
    words = t5.tokenizer(SPIECE, 512)
    # Heads of 128, as in every published checkpoint, since no shape tells them.
    transformer = WanTransformer3DModel(num_attention_heads=1, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=96, freq_dim=32, ffn_dim=64, num_layers=2)
    return words, transformer, t5.umt5(len(words)), AutoencoderKLWan(**CAUSAL)


SECOND = "low_noise."


def wan_pipeline(tensors: dict[str, torch.Tensor]) -> WanPipeline:
    """With two experts, where there are two."""
    words, transformer, reader, vae = wan_networks()
    second = None
    if own := without(tensors, SECOND):
        _, second, _, _ = wan_networks()
        load(second, single_file_utils.convert_wan_transformer_to_diffusers(own))
    load(transformer, single_file_utils.convert_wan_transformer_to_diffusers(without(tensors, TRANSFORMER)))
    states = without(tensors, "text_encoders.umt5xxl.transformer.")
    load(reader, {**states, "encoder.embed_tokens.weight": states["shared.weight"]})
    load(vae, single_file_utils.convert_wan_vae_to_diffusers(without(tensors, "vae.")))
    return WanPipeline(tokenizer=words, text_encoder=reader, vae=vae, scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), transformer=transformer, transformer_2=second, boundary_ratio=0.875 if second else None)


def write_video(name: str, pipeline: WanPipeline | WanImageToVideoPipeline, **pictures: tuple[int, int, int]) -> None:
    parameters = dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=3, guidance_scale=3, width=48, height=64, frames=5)
    if pictures:
        parameters |= dict(width=32, height=32)
    pipeline.set_progress_bar_config(disable=True)
    given = {{"steps": "num_inference_steps", "frames": "num_frames"}.get(key, key): value for key, value in parameters.items()}
    shown = {key: picture(*size) for key, size in pictures.items()}
    run = lambda output: pipeline(**given, **shown, generator=torch.Generator("cpu").manual_seed(42), output_type=output).frames
    with torch.no_grad():
        latents, pixels = run("latent"), (run("np")[0] * 255).round().astype("uint8")
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, pixels {pixels.shape} from {pixels.min()} to {pixels.max()}")
    folder = fresh_folder(RESULTS / name)
    for key, image in shown.items():
        image.save(folder / f"{key}.png")
        parameters[key] = f"{key}.png"
    write_json(folder / "operation.json", {"operation": "video_generation", "config": "wan", "parameters": {**parameters, "seed": "42"}, "record": ["latents"]})
    write_json(folder / "case.json", {"checkpoint": name})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "pixels": torch.from_numpy(pixels)})


def wan_tensors(name: str, experts: bool) -> dict[str, torch.Tensor]:
    _, transformer, reader, vae = wan_networks()
    shapes = {
        **prefixed(TRANSFORMER, renamed(transformer, WAN)),
        **(prefixed(SECOND, renamed(transformer, WAN)) if experts else {}),
        **prefixed("text_encoders.umt5xxl.transformer.", {name: shape for name, shape in shapes_of(reader).items() if name != "encoder.embed_tokens.weight"}),
        **prefixed("vae.", causal_shapes(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table, {"modulation": 2.0, "head.head": 0.7})
    write_table(name, table)
    return tensors


CLIP = "clip_vision."


def wan_ends() -> None:
    """2.1 FLF2V, which sees both pictures by ComfyUI's clip_vision_h; its autoencoder, of fewer layers, in diffusers' names."""
    words = t5.tokenizer(SPIECE, 512)
    reader, vae = t5.umt5(len(words)), autoencoder()
    # As many heads as published.
    eyes = CLIPVisionModel(CLIPVisionConfig(**{**EYES, "num_attention_heads": 16}))
    transformer = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=128, in_channels=36, out_channels=16, text_dim=96, freq_dim=32, ffn_dim=64, num_layers=1, image_dim=32, added_kv_proj_dim=128, pos_embed_seq_len=2 * PARTS
    )
    shapes = {
        **prefixed(TRANSFORMER, renamed(transformer, WAN)),
        **prefixed("text_encoders.umt5xxl.transformer.", {name: shape for name, shape in shapes_of(reader).items() if name != "encoder.embed_tokens.weight"}),
        **prefixed(f"{CLIP}vision_model.", shapes_of(eyes)),
        **prefixed("vae.", shapes_of(vae)),
    }
    table: list[dict] = []
    tensors = filled(shapes, table, {"modulation": 2.0, "head.head": 0.7, "emb_pos": 5.0})
    write_table("wan_flf2v", table)
    own = single_file_utils.convert_wan_transformer_to_diffusers(without(tensors, TRANSFORMER))
    # scripts/convert_wan_to_diffusers.py knows this one, too.
    own["condition_embedder.image_embedder.pos_embed"] = own.pop("img_emb.emb_pos")
    load(transformer, own)
    states = without(tensors, "text_encoders.umt5xxl.transformer.")
    load(reader, {**states, "encoder.embed_tokens.weight": states["shared.weight"]})
    load(eyes, without(tensors, f"{CLIP}vision_model."))
    load(vae, without(tensors, "vae."))
    side = EYES["image_size"]
    pipeline = WanImageToVideoPipeline(
        tokenizer=words, text_encoder=reader, vae=vae, scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=16.0), transformer=transformer, image_encoder=eyes,
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
    )
    write_video("wan-flf2v", pipeline, image=(32, 48, 0), last_image=(32, 32, 1))


# Of the autoencoder of Wan 2.2 5B; scripts/convert_wan_to_diffusers.py (vae22_diffusers_config).
MEAN_22 = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
]
DEVIATION_22 = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
]


def residual_name(name: str) -> str:
    """As the code of Wan 2.2's autoencoder calls a tensor of diffusers' module: scripts/convert_wan_to_diffusers.py (convert_vae_22), backwards."""
    path, ending = name.rsplit(".", 1)
    if not re.match(r"(en|de)coder\.(down|up)_blocks", path):
        return causal_name(name, 1)
    side, block, rest = re.fullmatch(r"(?:en|de)coder\.(down|up)_blocks\.(\d+)\.(.+)", path).groups()
    outer = f"{'encoder' if side == 'down' else 'decoder'}.{side}samples.{block}.{side}samples"
    if found := re.fullmatch(r"resnets\.(\d+)\.(.+)", rest):
        return f"{outer}.{found[1]}.{RESIDUAL[found[2]]}.{ending}"
    # What halves or doubles comes after the block's residual layers, of which the decoder has one more.
    return f"{outer}.{1 if side == 'down' else 2}.{rest.split('.', 1)[1]}.{ending}"


def wan_ti2v() -> None:
    words = t5.tokenizer(SPIECE, 512)
    reader = t5.umt5(len(words))
    vae = AutoencoderKLWan(
        base_dim=8, decoder_base_dim=12, z_dim=48, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True], is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        scale_factor_spatial=16, latents_mean=MEAN_22, latents_std=DEVIATION_22,
    )
    transformer = WanTransformer3DModel(num_attention_heads=1, attention_head_dim=128, in_channels=48, out_channels=48, text_dim=96, freq_dim=32, ffn_dim=64, num_layers=1)
    names = {residual_name(name): name for name in vae.state_dict()}
    shapes = {
        **prefixed(TRANSFORMER, renamed(transformer, WAN)),
        **prefixed("text_encoders.umt5xxl.transformer.", {name: shape for name, shape in shapes_of(reader).items() if name != "encoder.embed_tokens.weight"}),
        **prefixed("vae.", {residual_name(name): shape for name, shape in shapes_of(vae).items()}),
    }
    table: list[dict] = []
    tensors = filled(shapes, table, {"modulation": 2.0, "head.head": 0.7})
    write_table("wan_ti2v", table)
    load(transformer, single_file_utils.convert_wan_transformer_to_diffusers(without(tensors, TRANSFORMER)))
    states = without(tensors, "text_encoders.umt5xxl.transformer.")
    load(reader, {**states, "encoder.embed_tokens.weight": states["shared.weight"]})
    load(vae, {names[name]: value for name, value in without(tensors, "vae.").items()})
    parts = dict(tokenizer=words, text_encoder=reader, vae=vae, scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=5.0), transformer=transformer, expand_timesteps=True)
    write_video("wan-ti2v", WanImageToVideoPipeline(**parts, image_encoder=None, image_processor=None), image=(32, 32, 1))


def wan() -> None:
    tensors = wan_tensors("wan", False)
    write_video("wan", wan_pipeline(tensors))
    write_video("wan-experts", wan_pipeline(wan_tensors("wan_experts", True)))
    write_video("wan-scaled", wan_pipeline(dequantised(tensors, (TRANSFORMER, "text_encoders."))))


def flux1_scaled() -> None:
    tensors, _ = flux1_tensors()
    scaled = dequantised(tensors, (TRANSFORMER, "text_encoders.t5xxl."))
    write_case(RESULTS / "flux1-scaled", "flux1", flux1_pipeline(scaled), unpacked_results, FLUX1, "flux1")


def make_split_flows() -> None:
    qwen_image()
    qwen_edit()
    qwen_layered()
    flux2()
    flux2_dev()
    wan()
    wan_ends()
    wan_ti2v()
    flux1_scaled()
    # It takes what it shares from here.
    from flux3_files import make_flux3_files
    from ltx_files import make_ltx_files

    make_flux3_files()
    make_ltx_files()


if __name__ == "__main__":
    make_split_flows()
