"""
test/architectures: tiny checkpoints of the architectures beside Stable Diffusion 1 and 2, and pictures that diffusers makes with them, in
test/goldens/architectures.

No weights are kept: each tensor is the hash of weightless.py, which test/architecture_checkpoints.ts repeats bit for bit. A network is one
JSON file, its config.json and the name, shape, scale and addend of each tensor, which is numbered by its place. Scales are multiples of
2^-12, so that both languages round alike. The last layer of each network is scaled so that it gives numbers of a sane size.
"""

import json
import re
import sys
import zlib

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    LatentConsistencyModelPipeline,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import models  # noqa: F401, for its settings of the libraries
from files import CHECKPOINTS, GOLDENS, ROOT, fresh_folder, write_tensors
from make_checkpoints import BETAS, DDIM_V, PNDM, SD2_UNET, kl_config, text_config, unet_config
from outpainting import make_case as make_outpainted
from pipelines import make_case
from single_files import open_clip, tokenizer, unet_name, vae_name
from vocabulary import END
from weightless import hashed

FOLDER = ROOT / "test" / "architectures"
GRAIN = 4096

EULER_LEADING = {
    "_class_name": "EulerDiscreteScheduler",
    **BETAS,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
LCM = {"_class_name": "LCMScheduler", **BETAS, "num_train_timesteps": 1000, "original_inference_steps": 50, "prediction_type": "epsilon", "set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading"}
SCHEDULERS = {"EulerDiscreteScheduler": EulerDiscreteScheduler, "PNDMScheduler": PNDMScheduler, "DDIMScheduler": DDIMScheduler, "LCMScheduler": LCMScheduler}

KL = {
    **kl_config([16, 16, 32], 8),
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "sample_size": 32,
}
LEVELS = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 1,
    "projection_class_embeddings_input_dim": 40 + 6 * 8,
    "transformer_layers_per_block": [1, 2],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}

# By name: class, config.
NETWORKS = {
    "clip": (CLIPTextModel, text_config(32, 2, 3, "quick_gelu", 32)),
    "openclip": (CLIPTextModel, text_config(48, 3, 2, "gelu", 32)),
    "openclip-projected": (CLIPTextModelWithProjection, {**text_config(48, 3, 3, "gelu", 40), "architectures": ["CLIPTextModelWithProjection"]}),
    "kl": (AutoencoderKL, KL),
    "kl-xl": (AutoencoderKL, {**KL, "scaling_factor": 0.13025, "force_upcast": True}),
    "unet-xl": (UNet2DConditionModel, unet_config([32, 64], 8, 80, [2, 4], **XL)),
    "unet-xl-inpaint": (UNet2DConditionModel, {**unet_config([32, 64], 8, 80, [2, 4], **XL), "in_channels": 9}),
    "unet-bk-sdm": (UNet2DConditionModel, {**unet_config([32, 64], 8, 32, 4, **LEVELS), "mid_block_type": None}),
    "unet-lcm": (UNet2DConditionModel, {**unet_config([32, 64], 8, 32, 4, **LEVELS), "time_cond_proj_dim": 16}),
    "unet-ssd-1b": (
        UNet2DConditionModel,
        {**unet_config([32, 64], 8, 80, [2, 4], **XL), "layers_per_block": 2, "transformer_layers_per_block": [0, 2], "reverse_transformer_layers_per_block": [[2, 1, 3], 1], "mid_block_type": "UNetMidBlock2D"},
    ),
    "unet-sd1": (UNet2DConditionModel, unet_config([32, 64], 8, 32, 4, **LEVELS)),
    "unet-sd2": (UNet2DConditionModel, unet_config([32, 64], 8, 48, [2, 4], **SD2_UNET, **LEVELS)),
    "unet-sd1-inpaint": (UNet2DConditionModel, {**unet_config([32, 64], 8, 32, 4, **LEVELS), "in_channels": 9}),
    "unet-sd2-inpaint": (UNet2DConditionModel, {**unet_config([32, 64], 8, 48, [2, 4], **SD2_UNET, **LEVELS), "in_channels": 9}),
}

SD = {"image_generation": StableDiffusionPipeline, "image_transform": StableDiffusionImg2ImgPipeline, "image_inpaint": StableDiffusionInpaintPipeline}
SDXL = {"image_generation": StableDiffusionXLPipeline, "image_transform": StableDiffusionXLImg2ImgPipeline, "image_inpaint": StableDiffusionXLInpaintPipeline}

XL_TEXTS = {"text_encoder": "clip", "text_encoder_2": "openclip-projected"}
XL_TOKENIZERS = {"tokenizer": "tiny-sd15", "tokenizer_2": "tiny-sd21"}

# LoRAs in kohya's names: modules with the shapes [rank, in] and [out, rank]; alpha is half the rank.
RANK = 4
LORAS = {
    "sdxl-kohya": {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q": (64, 64),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v": (64, 80),
        "lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_ff_net_2": (64, 256),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
        "lora_te1_text_model_encoder_layers_1_self_attn_out_proj": (32, 32),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": (192, 48),
        "lora_te2_text_model_encoder_layers_2_self_attn_out_proj": (48, 48),
    },
}

# By name: pipelines, model_index.json beside its components, networks, tokenizers (of test/checkpoints), scheduler.
MODELS = {
    "sdxl": (SDXL, {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}, {**XL_TEXTS, "unet": "unet-xl", "vae": "kl-xl"}, XL_TOKENIZERS, EULER_LEADING),
    "sdxl-inpaint": (SDXL, {"_class_name": "StableDiffusionXLInpaintPipeline", "force_zeros_for_empty_prompt": True}, {**XL_TEXTS, "unet": "unet-xl-inpaint", "vae": "kl-xl"}, XL_TOKENIZERS, EULER_LEADING),
    "bk-sdm": (SD, {"_class_name": "StableDiffusionPipeline"}, {"text_encoder": "clip", "unet": "unet-bk-sdm", "vae": "kl"}, {"tokenizer": "tiny-sd15"}, PNDM),
    "lcm": (SD, {"_class_name": "LatentConsistencyModelPipeline"}, {"text_encoder": "clip", "unet": "unet-lcm", "vae": "kl"}, {"tokenizer": "tiny-sd15"}, LCM),
    "ssd-1b": (SDXL, {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}, {**XL_TEXTS, "unet": "unet-ssd-1b", "vae": "kl-xl"}, XL_TOKENIZERS, EULER_LEADING),
    "sd1": (SD, {"_class_name": "StableDiffusionPipeline"}, {"text_encoder": "clip", "unet": "unet-sd1", "vae": "kl"}, {"tokenizer": "tiny-sd15"}, PNDM),
    "sd2": (SD, {"_class_name": "StableDiffusionPipeline"}, {"text_encoder": "openclip", "unet": "unet-sd2", "vae": "kl"}, {"tokenizer": "tiny-sd21"}, DDIM_V),
    "sd1-inpaint": (SD, {"_class_name": "StableDiffusionInpaintPipeline"}, {"text_encoder": "clip", "unet": "unet-sd1-inpaint", "vae": "kl"}, {"tokenizer": "tiny-sd15"}, PNDM),
    "sd2-inpaint": (SD, {"_class_name": "StableDiffusionInpaintPipeline"}, {"text_encoder": "openclip", "unet": "unet-sd2-inpaint", "vae": "kl"}, {"tokenizer": "tiny-sd21"}, {**DDIM_V, "prediction_type": "epsilon"}),
}

SIZE = dict(width=32, height=32)
PAINTED = dict(prompt="a vase with flowers", negative_prompt="blurry", seed=21, image=(40, 32, 2), mask=(40, 32), width=40, height=32)

CASES = {
    "sdxl-text": ("sdxl", "two encoders, both prompts, its own scheduler", dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry, low quality", steps=4, guidance_scale=2, seed=42, **SIZE)),
    "sdxl-text-no-negative": ("sdxl", "without a negative prompt guidance goes away from zeros; not square", dict(prompt="a lighthouse at dusk, oil painting", steps=3, guidance_scale=2, seed=42, width=48, height=32)),
    "sdxl-text-sizes": ("sdxl", "original size, crop and target are told; two pictures without guidance, as Turbo and Lightning are run", dict(prompt="a fox in the forest", steps=2, guidance_scale=0, sampler="euler", schedule="trailing", seed=7, batch_size=2, original_height=300, original_width=200, crop_top=16, crop_left=40, target_height=64, target_width=48, **SIZE)),
    "sdxl-text-dpmpp-2m-karras": ("sdxl", "another sampler and schedule", dict(prompt="neon lights, rain", negative_prompt="people", steps=4, guidance_scale=2, sampler="dpmpp_2m", schedule="karras", seed=3, **SIZE)),
    "sdxl-velocity-zero-snr": ("sdxl", "velocity and zero terminal SNR, as finetunes are marked", dict(prompt="a lantern in the fog", negative_prompt="day", steps=2, guidance_scale=1.5, sampler="ddim", schedule="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True, seed=12, **SIZE)),
    "sdxl-transform": ("sdxl", "strength 0.5", dict(prompt="a watercolor", negative_prompt="photo", steps=6, guidance_scale=2, seed=1, image=(48, 32, 1), width=48, height=32, strength=0.5)),
    "sdxl-inpaint-of-base": ("sdxl", "a base checkpoint paints in a mask, strength 0.7", dict(PAINTED, steps=5, guidance_scale=2, strength=0.7)),
    "sdxl-inpaint-10": ("sdxl-inpaint", "9 channels, from noise alone", dict(PAINTED, steps=4, guidance_scale=2, strength=1.0, overlay_inpaint=False)),
    "sdxl-inpaint-07": ("sdxl-inpaint", "9 channels, strength 0.7, laid over", dict(PAINTED, steps=5, guidance_scale=2, strength=0.7)),
    "sd1-inpaint-10": ("sd1-inpaint", "9 channels, from noise alone, two pictures", dict(PAINTED, steps=4, guidance_scale=7.5, strength=1.0, batch_size=2, overlay_inpaint=False)),
    "sd1-inpaint-06": ("sd1-inpaint", "9 channels, strength 0.6, laid over", dict(PAINTED, steps=5, guidance_scale=7.5, strength=0.6)),
    "sd2-inpaint-10": ("sd2-inpaint", "9 channels, OpenCLIP; the mask is scaled", dict(PAINTED, mask=(60, 48), steps=4, guidance_scale=1, strength=1.0)),
    "sdxl-lora": ("sdxl", "a LoRA in kohya's names, of weight 0.75, in the UNet and both text encoders", dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry", steps=3, guidance_scale=2, seed=42, **SIZE)),
    "sdxl-file": ("sdxl.safetensors", "one file in the original layout, with CLIP's own vocabulary", dict(prompt="a castle in the clouds, matte painting", negative_prompt="blurry!", steps=3, guidance_scale=2, seed=42, **SIZE)),
    "bk-sdm-text": ("bk-sdm", "one layer per block and no middle", dict(prompt="an old map of an island", negative_prompt="blurry", steps=3, guidance_scale=7.5, seed=7, **SIZE)),
    "bk-sdm-transform": ("bk-sdm", "one layer per block and no middle", dict(prompt="an old map of an island", steps=4, guidance_scale=7.5, seed=7, image=(32, 32, 0), strength=0.75, **SIZE)),
    "lcm-text": ("lcm", "the guidance scale is an input of the network; noise in every step but the last; two pictures", dict(prompt="a fox in the forest", steps=4, guidance_scale=8.5, seed=9, batch_size=2, **SIZE)),
    "lcm-transform": ("lcm", "strength 0.75", dict(prompt="a fox in the forest", steps=4, guidance_scale=4, seed=10, image=(32, 32, 1), strength=0.75, **SIZE)),
    "bk-sdm-inpaint": ("bk-sdm", "one layer per block and no middle", dict(PAINTED, steps=4, guidance_scale=7.5, strength=0.8)),
    "ssd-1b-transform": ("ssd-1b", "strength 0.5", dict(prompt="a robot made of copper", steps=4, guidance_scale=1.5, seed=9, image=(32, 32, 1), strength=0.5, **SIZE)),
    "ssd-1b-inpaint": ("ssd-1b", "a base checkpoint paints in a mask", dict(PAINTED, steps=4, guidance_scale=2, strength=0.7)),
    "ssd-1b-text": ("ssd-1b", "other depths on the way up than down, one residual block as the middle", dict(prompt="a robot made of copper", negative_prompt="rust", steps=3, guidance_scale=2, seed=8, **SIZE)),
}


# The same as in `outpainting.py`: what is special, picture, sides, the rest.
OUTPAINTED = {
    "sd1-outpaint-9": ("sd1-inpaint", "9 channels, from noise alone, a soft seam", (32, 24, 1), dict(right=16, top=8, feather=5), dict(prompt="a harbour at night", negative_prompt="fog", steps=4, guidance_scale=7.5, seed=31)),
    "sd1-outpaint-9-06": ("sd1-inpaint", "9 channels, strength 0.6, two pictures", (32, 32, 2), dict(left=16), dict(prompt="a harbour at night", steps=5, guidance_scale=4, seed=32, strength=0.6, batch_size=2)),
    "sdxl-outpaint-9": ("sdxl-inpaint", "9 channels, strength 0.8, a soft seam", (32, 24, 0), dict(bottom=16, feather=4), dict(prompt="a vase with flowers", negative_prompt="blurry", steps=5, guidance_scale=2, seed=33, strength=0.8)),
    "sdxl-outpaint": ("sdxl", "a base checkpoint, one colour around", (24, 32, 1), dict(left=16, content="original", background=(32, 64, 96)), dict(prompt="a vase with flowers", negative_prompt="blurry", steps=5, guidance_scale=2, seed=34, strength=0.7)),
    "sd2-outpaint": ("sd2", "velocity, OpenCLIP, all sides", (16, 24, 1), dict(left=8, right=8, top=8, bottom=8, feather=3), dict(prompt="a meadow", steps=4, guidance_scale=5, seed=35, strength=0.8)),
    "sd2-outpaint-9": ("sd2-inpaint", "9 channels, OpenCLIP", (24, 24, 2), dict(top=8, feather=4), dict(prompt="a meadow", steps=4, guidance_scale=5, seed=37)),
    "ssd-1b-outpaint": ("ssd-1b", "latents of noise around it", (24, 24, 0), dict(right=8, content="latent_noise"), dict(prompt="a robot made of copper", steps=4, guidance_scale=2, seed=38, strength=0.7)),
    "bk-sdm-outpaint": ("bk-sdm", "one layer per block and no middle", (32, 24, 0), dict(right=16), dict(prompt="an old map of an island", steps=4, guidance_scale=7.5, seed=36, strength=0.7)),
}

# By case.
LORAS_OF = {"sdxl-lora": "sdxl-kohya"}


def measures(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Half the range of a tensor's numbers, and what is added to them."""
    if len(shape) == 1:
        return (0.3, 1.0) if name.endswith("weight") else (0.15, 0.0)
    if "embedding" in name and not re.search("linear|patch", name):
        return (0.5 if "position" in name else 1.5), 0.0
    fan_in = shape[0] if name == "text_projection" else int(torch.tensor(shape[1:]).prod())
    gain = 2.0 if re.search(r"to_[qk]\.|[qk]_proj\.|in_proj", name) else 1.5 if re.search(r"attn2\.to_v|emb_proj|add_embedding|label_emb", name) else 1.0
    return gain * (3 / fan_in) ** 0.5, 0.0


def grained(value: float) -> float:
    return max(1, round(value * GRAIN)) / GRAIN


class Network:
    """The tensors of one network, or of one file, by the formula."""

    def __init__(self, first: int, shapes: dict[str, tuple[int, ...]]):
        self.first = first
        self.rows = {name: [list(shape), *map(grained, measures(name, shape)[:1]), measures(name, shape)[1]] for name, shape in shapes.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: hashed(self.first + index, tuple(shape), scale, add) for index, (name, (shape, scale, add)) in enumerate(self.rows.items())}

    def rescale(self, name: str, factor: float) -> None:
        self.rows[name][1] = grained(self.rows[name][1] * factor)

    def text(self, head: dict) -> str:
        rows = ",\n".join(f"    {json.dumps([name, *row], separators=(',', ':'))}" for name, row in self.rows.items())
        fields = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
        return f'{{\n{fields}  "first": {self.first},\n  "tensors": [\n{rows}\n  ]\n}}\n'


def make_loras() -> dict[str, dict[str, torch.Tensor]]:
    made = {}
    for number, (name, modules) in enumerate(LORAS.items()):
        shapes = {f"{module}.{part}.weight": shape for module, (rows, columns) in modules.items() for part, shape in (("lora_down", (RANK, columns)), ("lora_up", (rows, RANK)))}
        file = Network(900_000 + 1000 * number, shapes)
        file.rows |= {f"{module}.alpha": [[], 0.0, RANK / 2] for module in modules}
        path = FOLDER / "files" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(file.text({"config": {}}), encoding="utf-8")
        made[name] = file.tensors()
    return made


def built(network_class, config: dict):
    if hasattr(network_class, "from_config"):
        return network_class.from_config(config).eval()
    return network_class(CLIPTextConfig(**config)).eval()


def stored_name(network, name: str) -> str:
    """transformers 5 has dropped a prefix that every published file has."""
    return f"text_model.{name}" if isinstance(network, CLIPTextModel) and not name.startswith("text_model.") else name


def fill(network, tensors: dict[str, torch.Tensor]) -> None:
    network.load_state_dict({name: tensors[stored_name(network, name)] for name in network.state_dict()}, strict=True)


@torch.no_grad()
def calibrate(network, file: Network, names: dict[str, str], seed: int) -> None:
    """Scales the last layers so that latents, predictions and pictures have numbers of a sane size. `names` of them in the file."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda *shape: torch.randn(*shape, generator=generator)
    if isinstance(network, UNet2DConditionModel):
        config = network.config
        added = {}
        if config.addition_embed_type:
            sizes = 6 * config.addition_time_embed_dim
            added["added_cond_kwargs"] = {"text_embeds": noise(2, config.projection_class_embeddings_input_dim - sizes), "time_ids": torch.full((2, 6), 32.0)}
        output = network(noise(2, config.in_channels, 8, 8), torch.tensor(500.0), noise(2, 77, config.cross_attention_dim), **added).sample
        # Weak enough that guidance over several steps does not enlarge what single precision rounds to more than is compared.
        file.rescale(names["conv_out"], 0.3 / float(output.std()))
    elif isinstance(network, AutoencoderKL):
        pictures = torch.rand(2, 3, 32, 32, generator=generator).round() * 2 - 1
        file.rescale(names["quant_conv"], 1.5 / float(network.encode(pictures).latent_dist.parameters.std()))
        file.rescale(names["decoder.conv_out"], 0.5 / float(network.decode(noise(2, 4, 8, 8) * 30).sample.std()))


def make_networks() -> dict[str, object]:
    networks = {}
    for name, (network_class, config) in NETWORKS.items():
        network = built(network_class, config)
        # From its name, so that another network changes none of the others.
        number = zlib.crc32(name.encode()) % 10_000
        file = Network(10_000 * number, {stored_name(network, key): tuple(value.shape) for key, value in network.state_dict().items()})
        fill(network, file.tensors())
        last = {layer: f"{layer}.weight" for layer in ("conv_out", "quant_conv", "decoder.conv_out")}
        calibrate(network, file, last, number)
        fill(network, file.tensors())
        path = FOLDER / "networks" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(file.text({"class": network_class.__name__, "config": config}), encoding="utf-8")
        networks[name] = network
    return networks


# One file: groups of 32 and heads of 64 numbers are as in every published checkpoint, since no shape tells them.
FILE = {
    "unet": unet_config([64, 128], 32, 128, [1, 2], **{**XL, "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 40 + 6 * 256}),
    "vae": {**KL, "block_out_channels": [32, 32, 32], "norm_num_groups": 32, "scaling_factor": 0.13025},
    "text_encoder": {**text_config(64, 1, 2, "quick_gelu", 64), "vocab_size": 49408},
    "text_encoder_2": {**text_config(64, 1, 3, "gelu", 40), "vocab_size": 49408},
}


@torch.no_grad()
def make_file() -> StableDiffusionXLPipeline:
    """Its names are ours; what they mean is diffusers' own conversion (loaders/single_file_utils.py), by which its networks are filled."""
    unet, vae = built(UNet2DConditionModel, FILE["unet"]), built(AutoencoderKL, FILE["vae"])
    clip, openclip = built(CLIPTextModel, FILE["text_encoder"]), built(CLIPTextModelWithProjection, FILE["text_encoder_2"])
    attends = lambda block: FILE["unet"]["up_block_types"][block] == "CrossAttnUpBlock2D"
    shapes = {f"model.diffusion_model.{unet_name(name, 1, attends)}": tuple(value.shape) for name, value in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        linear = ".attentions." in name and name.endswith("weight") and "group_norm" not in name
        shapes[f"first_stage_model.{vae_name(name, 3)}"] = (*value.shape, 1, 1) if linear else tuple(value.shape)
    shapes |= {f"conditioner.embedders.0.transformer.{stored_name(clip, name)}": tuple(value.shape) for name, value in clip.state_dict().items()}
    text = {name: value for name, value in openclip.state_dict().items() if name != "text_projection.weight"}
    shapes |= {f"conditioner.embedders.1.model.{name}": tuple(value.shape) for name, value in open_clip(text).items() if name not in ("text_projection", "logit_scale")}
    shapes["conditioner.embedders.1.model.text_projection"] = tuple(reversed(openclip.text_projection.weight.shape))
    file = Network(500_000, shapes)

    def fill_all() -> None:
        tensors = file.tensors()
        unet.load_state_dict(single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), FILE["unet"]))
        vae.load_state_dict(single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), FILE["vae"]))
        first = single_file_utils.convert_ldm_clip_checkpoint(dict(tensors))
        clip.load_state_dict({name: first[stored_name(clip, name) if stored_name(clip, name) in first else name] for name in clip.state_dict()})
        openclip.load_state_dict(single_file_utils.convert_open_clip_checkpoint(openclip, dict(tensors), prefix="conditioner.embedders.1.model."))

    fill_all()
    calibrate(unet, file, {"conv_out": "model.diffusion_model.out.2.weight"}, 1)
    calibrate(vae, file, {"quant_conv": "first_stage_model.quant_conv.weight", "decoder.conv_out": "first_stage_model.decoder.conv_out.weight"}, 2)
    fill_all()
    path = FOLDER / "files" / "sdxl.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(file.text({"config": {}}), encoding="utf-8")
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=clip,
        text_encoder_2=openclip,
        tokenizer=tokenizer(FOLDER, END),
        tokenizer_2=tokenizer(FOLDER, "!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config(EULER_LEADING),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def make_guided(unet) -> None:
    """What LCM's network gives for two guidance scales, which it takes as an input."""
    generator = torch.Generator().manual_seed(3)
    sample, states = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 32, generator=generator)
    tensors = {"sample": sample, "states": states}
    for scale in (1.5, 8.5):
        embedded = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), embedding_dim=16)
        tensors[f"out.{scale}"] = unet(sample, torch.tensor(499), states, timestep_cond=embedded).sample
    write_tensors(GOLDENS / "lcm_unet.safetensors", tensors)


def index(classes, about: dict, networks: dict, tokenizers: dict, scheduler: dict) -> dict:
    libraries = {name: ["transformers" if name.startswith("text") else "diffusers", NETWORKS[network][0].__name__] for name, network in networks.items()}
    words = {name: ["transformers", "CLIPTokenizer"] for name in tokenizers}
    return {**about, **libraries, **words, "scheduler": ["diffusers", scheduler["_class_name"]]}


def put_together(networks: dict[str, object], checkpoint: str, classes: dict, operation: str, **more):
    """The pipeline of one of MODELS, as `classes` has it for the operation."""
    known, about, parts, tokenizers, scheduler = MODELS[checkpoint]
    words = {name: CLIPTokenizer.from_pretrained(CHECKPOINTS / folder / "tokenizer") for name, folder in tokenizers.items()}
    more |= {key: value for key, value in about.items() if not key.startswith("_")}
    if known is SD:
        more |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if "text_encoder_2" in parts:
        more["add_watermarker"] = False
    pipeline = classes[operation](
        **{name: networks[network] for name, network in parts.items()},
        **words,
        scheduler=SCHEDULERS[scheduler["_class_name"]].from_config(scheduler),
        **more,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    torch.set_num_threads(1)
    only = sys.argv[1:]
    if not only:
        fresh_folder(FOLDER)
        fresh_folder(GOLDENS / "architectures")
    networks = make_networks()
    for name, model in MODELS.items():
        _, _, parts, tokenizers, scheduler = model
        files = {"model_index.json": index(*model), "scheduler/scheduler_config.json": scheduler}
        text = json.dumps({"files": files, "networks": parts, "tokenizers": tokenizers}, indent=2)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    make_guided(networks["unet-lcm"])
    file = make_file()
    loras = make_loras()

    def load(checkpoint: str, operation: str, lora: str | None):
        if checkpoint == "sdxl.safetensors":
            return file
        pipeline = put_together(networks, checkpoint, MODELS[checkpoint][0], operation)
        if lora:
            pipeline.load_lora_weights(dict(loras[lora]), adapter_name="lora")
            pipeline.set_adapters(["lora"], [0.75])
        return pipeline

    for name, (checkpoint, note, chosen) in CASES.items():
        if only and not any(name.startswith(start) for start in only):
            continue
        operation = "image_inpaint" if "mask" in chosen else "image_transform" if "image" in chosen else "image_generation"
        lora = LORAS_OF.get(name)
        pipeline = load(checkpoint, operation, lora)
        print(make_case(GOLDENS / "architectures" / name, checkpoint, note, chosen, lambda *_: pipeline), flush=True)
        if lora:
            pipeline.unload_lora_weights()
    for name, (checkpoint, *case) in OUTPAINTED.items():
        if not only or any(name.startswith(start) for start in only):
            make_outpainted(GOLDENS / "architectures" / name, checkpoint, put_together(networks, checkpoint, MODELS[checkpoint][0], "image_inpaint"), *case)


if __name__ == "__main__":
    main()
