"""Writes a folder in the diffusers layout, as a downloaded Stable Diffusion checkpoint would be."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

import scenes
from tokenizer import load_tokenizer

STEPS, GUIDANCE = 20, 2.0
PROMPTS = [
    "a red circle left of a blue square on a green background",
    "a yellow star above a purple heart on a white background",
    "a green triangle right of an orange circle on a black background",
    "a big red heart on a yellow background",
    "a blue diamond on an orange background",
    "a white circle below a red diamond on a blue background",
    "a black square left of a yellow triangle on a purple background",
    "a big purple circle on a white background",
]
# Stable Diffusion's schedule, but with a larger last beta: the noise it ends on hides even the colour
# of a plain background.
# Written as it stands: what diffusers writes has a -Infinity in it, which is not JSON.
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}


def make_scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler.from_config(SCHEDULER)


def export(out: Path, tokenizer: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    card = (out / "README.md").read_text() if (out / "README.md").exists() else None
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=load_tokenizer(tokenizer),
        unet=unet.half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    shutil.rmtree(out / "tokenizer")  # diffusers writes it in another form; ours is CLIP's
    shutil.copytree(tokenizer, out / "tokenizer")
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)
    if card:
        (out / "README.md").write_text(card)
    write_manifest(out)


def write_manifest(out: Path) -> None:
    files = sorted(p for p in out.rglob("*") if p.is_file() and p != out / "manifest.json")
    manifest = {
        "name": "Darkroom shapes",
        "license": "Apache-2.0",
        "default": {"width": scenes.SIZE, "height": scenes.SIZE, "steps": STEPS, "guidance_scale": GUIDANCE},
        "prompts": PROMPTS,
        "files": [
            {
                "path": p.relative_to(out).as_posix(),
                "size": p.stat().st_size,
                "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            }
            for p in files
        ],
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
