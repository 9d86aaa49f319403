"""
test/single_files: whole checkpoints in one `.safetensors` file, in the layout of Stable Diffusion's original code, as AUTOMATIC1111 and
Civitai have them; and pictures that diffusers makes with them, in test/goldens/single_files.

Their vocabulary is OpenAI CLIP's, which such files do not bring along: `src/text/clip_merges.txt`, of which the tokenizer is made here by
transformers. The rows of the token embedding repeat after 61, so that 49,408 of them pack well. The names are ours; what they mean is
checked by diffusers' own conversion (loaders/single_file_utils.py), which has to give back every tensor as it was.
"""

import json
import re

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

import models  # noqa: F401, for its settings of the libraries
from files import GOLDENS, ROOT, fresh_folder, write_json
from make_checkpoints import DDIM_V, PNDM, SD2_UNET, kl_config, text_config, text_tensors, unet_config
from pipelines import make_case
from vocabulary import END, START
from weights import fit_autoencoder_kl, fit_unet, randomise

FOLDER = ROOT / "test" / "single_files"
MERGES = ROOT / "src" / "text" / "clip_merges.txt"
ROWS = 61

# Two levels, so that the files stay small. Groups of 32 and heads are as in every published checkpoint, since no shape tells them.
LEVELS = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}

RECIPES = {
    "sd1": {
        "seed": 31,
        "text_encoder": text_config(32, 1, 3, "quick_gelu", 32),
        "unet": {**unet_config([32, 64], 32, 32, 8), **LEVELS},
        "scheduler": (PNDMScheduler, PNDM),
        "pad": END,
        "metadata": {"modelspec.resolution": "64x64"},
        "case": ("OpenAI's text encoder; PNDM", dict(prompt="a lighthouse at dusk, oil painting", negative_prompt="blurry!", steps=4, guidance_scale=7.5, seed=42)),
        "fit": {"echo": 1.05, "own": 0.12},
    },
    "sd2": {
        "seed": 32,
        "text_encoder": text_config(32, 1, 2, "gelu", 32),
        "unet": {**unet_config([32, 64], 32, 32, [1, 1], **SD2_UNET), **LEVELS},
        "scheduler": (DDIMScheduler, DDIM_V),
        "pad": "!",
        "metadata": {"modelspec.resolution": "64x64", "modelspec.prediction_type": "v"},
        "case": ("OpenCLIP's text encoder with its attention in one tensor; velocity", dict(prompt="a fox in the forest, morning mist", negative_prompt="watermark", steps=4, guidance_scale=7.5, seed=7)),
        "fit": {"echo": 0.3, "own": 0.8},
    },
}

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
UNET = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
OPENCLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}


def unet_name(name: str, layers: int, attends=lambda block: block > 0) -> str:
    """`attends` says which of the up blocks have attention."""
    path, ending = name.rsplit(".", 1)
    if path in UNET:
        return f"{UNET[path]}.{ending}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", path):
        kind, index, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{RESNET.get(rest, rest)}.{ending}"
    side, block, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", path).groups()
    block, index = int(block), int(index)
    if side == "down":
        place = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else index)
        inner = {"resnets": f"0.{RESNET.get(rest)}", "attentions": f"1.{rest}", "downsamplers": "0.op"}[kind]
        return f"input_blocks.{place}.{inner}.{ending}"
    place = block * (layers + 1) + (layers if kind == "upsamplers" else index)
    inner = {"resnets": f"0.{RESNET.get(rest)}", "attentions": f"1.{rest}", "upsamplers": f"{2 if attends(block) else 1}.conv"}[kind]
    return f"output_blocks.{place}.{inner}.{ending}"


def vae_name(name: str, blocks: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
    for ours, theirs in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        name = name.replace(f".attn_1.{ours}.", f".attn_1.{theirs}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda match: f"up.{blocks - 1 - int(match[1])}.block.{match[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{blocks - 1 - int(match[1])}.upsample", name)


def open_clip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With what a published file has besides: the projection of pooled text, and the temperature of training."""
    made = {"text_projection": torch.eye(tensors["text_model.final_layer_norm.weight"].numel()), "logit_scale": torch.tensor(4.6)}
    for name, value in tensors.items():
        name = name.removeprefix("text_model.")
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, rest, ending = match.groups()
            if rest in OPENCLIP:
                made[f"transformer.resblocks.{layer}.{OPENCLIP[rest]}.{ending}"] = value
            elif rest == "self_attn.q_proj":
                parts = [tensors[f"text_model.encoder.layers.{layer}.self_attn.{part}_proj.{ending}"] for part in "qkv"]
                made[f"transformer.resblocks.{layer}.attn.in_proj_{ending}"] = torch.cat(parts)
        elif name != "embeddings.position_ids":
            made[{"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding"}.get(name, name.replace("final_layer_norm", "ln_final"))] = value
    return made


def original(pipeline: StableDiffusionPipeline, second: bool) -> dict[str, torch.Tensor]:
    tensors = {f"model.diffusion_model.{unet_name(name, 2)}": value for name, value in pipeline.unet.state_dict().items()}
    for name, value in pipeline.vae.state_dict().items():
        linear = ".attentions." in name and name.endswith("weight") and "group_norm" not in name
        tensors[f"first_stage_model.{vae_name(name, 4)}"] = value[:, :, None, None] if linear else value
    text = text_tensors(pipeline.text_encoder, with_positions=True)
    if second:
        tensors |= {f"cond_stage_model.model.{name}": value for name, value in open_clip(text).items()}
    else:
        tensors |= {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}
    # Bookkeeping of training, as in the published files.
    alphas = torch.linspace(0.99, 0.01, 1000)
    return tensors | {"alphas_cumprod": alphas, "sqrt_alphas_cumprod": alphas.sqrt(), "model_ema.decay": torch.tensor(0.9999)}


def check(tensors: dict[str, torch.Tensor], pipeline: StableDiffusionPipeline, recipe: dict, second: bool) -> None:
    """diffusers, converting the file, finds every tensor of every network."""
    if second:
        text = single_file_utils.convert_open_clip_checkpoint(pipeline.text_encoder, dict(tensors))
    else:
        text = single_file_utils.convert_ldm_clip_checkpoint(dict(tensors))
    for network, found in (
        (pipeline.unet, single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), recipe["unet"])),
        (pipeline.vae, single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), pipeline.vae.config)),
        (pipeline.text_encoder, {name.removeprefix("text_model."): value for name, value in text.items()}),
    ):
        for name, value in network.state_dict().items():
            if not torch.equal(found[name.removeprefix("text_model.")], value):
                raise ValueError(f"diffusers finds another {name}")


def tokenizer(folder, pad: str) -> CLIPTokenizer:
    """transformers' own, from the vocabulary that follows from the merges."""
    lines = MERGES.read_text(encoding="utf-8").split("\n")[1:-1]
    symbols = list(bytes_to_unicode().values())
    entries = symbols + [f"{symbol}</w>" for symbol in symbols] + [line.replace(" ", "") for line in lines] + [START, END]
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps({entry: index for index, entry in enumerate(entries)}), encoding="utf-8")
    made = CLIPTokenizer(vocab=str(vocab), merges=str(MERGES), pad_token=pad, model_max_length=77)
    vocab.unlink()
    return made


@torch.no_grad()
def make(name: str, recipe: dict) -> None:
    seed, second = recipe["seed"], recipe["pad"] == "!"
    text = CLIPTextModel(CLIPTextConfig(**{**recipe["text_encoder"], "vocab_size": 49408})).eval()
    randomise(text, seed)
    embedding = text.get_input_embeddings().weight
    embedding.copy_(embedding[:ROWS].repeat(len(embedding) // ROWS + 1, 1)[: len(embedding)])
    unet = UNet2DConditionModel.from_config(recipe["unet"]).eval()
    randomise(unet, seed + 100)
    fit_unet(unet, text, seed + 100, **recipe["fit"])
    vae = AutoencoderKL.from_config(kl_config([32, 32, 32, 32], 32)).eval()
    randomise(vae, seed + 200)
    fit_autoencoder_kl(vae, seed + 200)
    for network in (text, unet, vae):
        network.half().float()
    scheduler_class, config = recipe["scheduler"]
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer(FOLDER, recipe["pad"]),
        unet=unet,
        scheduler=scheduler_class.from_config(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    tensors = original(pipeline, second)
    check(tensors, pipeline, recipe, second)
    stored = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    path = FOLDER / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in stored.items()}, path, {"format": "pt", **recipe["metadata"]})
    path.chmod(0o644)
    note, chosen = recipe["case"]
    golden = GOLDENS / "single_files" / name
    print(make_case(golden, f"{name}.safetensors", note, chosen, lambda *_: pipeline))
    ids = pipeline.tokenizer([chosen["prompt"], "Ça va? naïve 3D!! don't 🙂 __proto__"], padding="max_length", max_length=77, truncation=True).input_ids
    write_json(golden / "tokens.json", ids)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    torch.set_num_threads(1)
    fresh_folder(FOLDER)
    fresh_folder(GOLDENS / "single_files")
    for name, recipe in RECIPES.items():
        make(name, recipe)


if __name__ == "__main__":
    main()
