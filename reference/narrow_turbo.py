"""Makes test/weightless/narrow-sd-turbo and test/goldens/narrow_turbo.json: a whole picture of SD-Turbo's shape at 512x512 pixels.

The networks have SD-Turbo's blocks, heads of 64 and numbers of tokens, and are narrow: one head, and few channels. Their weights follow from the hash of
weightless.py; text encoder and tokenizer are those of test/checkpoints/tiny-turbo.
"""

import json
import shutil

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import models  # noqa: F401  (quiet libraries)
from export_bench import fill
from files import CHECKPOINTS, GOLDENS, write_json

NAME = "narrow-sd-turbo"
SAMPLES = 64
PROMPT, SEED = "a red circle", 42
FOLDER = CHECKPOINTS.parent / "weightless" / NAME

UNET = {
    "attention_head_dim": [1, 1, 1, 1],
    "block_out_channels": [64, 64, 64, 64],
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "norm_num_groups": 8,
    "sample_size": 64,
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": [16, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "sample_size": 512,
}


def samples(values: np.ndarray) -> dict:
    flat = values.astype(np.float64).ravel()
    places = [(n * 2654435761 + 12345) % flat.size for n in range(SAMPLES)]
    return {"mean": flat.mean(), "square": (flat**2).mean(), "values": [float(flat[place]) for place in places]}


def table(files: list[dict]) -> str:
    """A line for each tensor."""
    parts = []
    for file in files:
        rows = ",\n".join("        " + json.dumps({key: tensor[key] for key in ("number", "name", "shape", "scale", "add")}) for tensor in file["tensors"])
        parts.append(f'    {{\n      "path": {json.dumps(file["path"])},\n      "tensors": [\n{rows}\n      ]\n    }}')
    return '{\n  "files": [\n' + ",\n".join(parts) + "\n  ]\n}\n"


@torch.no_grad()
def main() -> None:
    tiny = CHECKPOINTS / "tiny-turbo"
    unet, vae = UNet2DConditionModel(**UNET).eval(), AutoencoderKL(**VAE).eval()
    files = []
    for network, folder, first in ((unet, "unet", 0), (vae, "vae", 5000)):
        tensors = fill(network, first)
        for number, tensor in enumerate(tensors):
            tensor["number"] = first + number
        files.append({"path": f"{folder}/diffusion_pytorch_model.safetensors", "tensors": tensors})
        network.save_config(FOLDER / folder)
    for name in ("model_index.json", "scheduler"):
        source, target = tiny / name, FOLDER / name
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
    index = (FOLDER / "model_index.json").read_text()
    (FOLDER / "model_index.json").write_text(index.replace("AutoencoderTiny", "AutoencoderKL"))
    (FOLDER / "weights.json").write_text(table(files), encoding="utf-8")

    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=CLIPTextModel.from_pretrained(tiny / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(tiny / "tokenizer"),
        scheduler=EulerDiscreteScheduler.from_pretrained(tiny / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        PROMPT, height=512, width=512, num_inference_steps=1, guidance_scale=0.0, generator=torch.Generator().manual_seed(SEED), output_type="latent"
    ).images
    picture = vae.decode(latents / vae.config.scaling_factor).sample
    pixels = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    write_json(
        GOLDENS / "narrow_turbo.json",
        {
            "about": "The picture of test/weightless/narrow-sd-turbo, computed by diffusers. Value n is element (n * 2654435761 + 12345) mod the length.",
            "parameters": {"prompt": PROMPT, "seed": str(SEED), "width": 512, "height": 512, "steps": 1, "guidance_scale": 0},
            "latents": samples(latents.numpy()),
            "pixels": samples(pixels),
        },
    )


if __name__ == "__main__":
    main()
