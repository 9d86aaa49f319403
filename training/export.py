"""Writes folders in the diffusers layout, as a downloaded Stable Diffusion checkpoint would be."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

import scenes
from networks import FEW_STEP_FOLDER_LIMIT, FOLDER_LIMIT, Size
from tokenizer import load_tokenizer

Network = TypeVar("Network", bound=torch.nn.Module)

STEPS, FEW_STEPS = 20, 4
# Stable Diffusion's schedule, but with a larger last beta: the noise it ends on hides even the colour of a plain background.
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
# Written as they stand: what diffusers writes has a -Infinity in it, which is not JSON.
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    **NOISE,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}
FEW_STEP_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    **NOISE,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
}


def make_scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler.from_config(SCHEDULER)


def export_main(
    out: Path,
    size: Size,
    tokenizer: Path,
    vae: AutoencoderKL,
    tiny_vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    guidance: float,
) -> None:
    _export(out, tokenizer, vae, text_encoder, unet, make_scheduler(), SCHEDULER)
    # Beside the pipeline's own, for whoever wants to decode faster: the few-step variant has it as its `vae`.
    _stored(tiny_vae).save_pretrained(out / "tiny_vae")
    write_manifest(out, "Darkroom scenes", size, STEPS, guidance, FOLDER_LIMIT)


def export_few_steps(
    out: Path,
    size: Size,
    tokenizer: Path,
    tiny_vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
) -> None:
    _export(out, tokenizer, tiny_vae, text_encoder, unet, DDIMScheduler.from_config(FEW_STEP_SCHEDULER), FEW_STEP_SCHEDULER)
    write_manifest(out, f"Darkroom scenes, {FEW_STEPS} steps", size, FEW_STEPS, 1.0, FEW_STEP_FOLDER_LIMIT)


def _stored(network: Network) -> Network:
    return copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format).half()


def _export(
    out: Path,
    tokenizer: Path,
    vae: AutoencoderKL | AutoencoderTiny,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    scheduler_config: dict[str, object],
) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pipeline = StableDiffusionPipeline(
        vae=_stored(vae),
        text_encoder=_stored(text_encoder),
        tokenizer=load_tokenizer(tokenizer),
        unet=_stored(unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    shutil.rmtree(out / "tokenizer")  # diffusers writes it in another form; ours is CLIP's
    shutil.copytree(tokenizer, out / "tokenizer")
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_config, indent=2) + "\n")
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)


def example_prompts(size: Size) -> list[str]:
    """Of held-out scenes; evaluate.py replaces them by ones that came out well."""
    return [text for kind in ("thing", "colour", "relation", "count") for _, text in scenes.evaluation_prompts(kind, 2, size.name)]


def write_manifest(out: Path, name: str, size: Size, steps: int, guidance: float, limit: int) -> None:
    """@param limit: most bytes that the folder may have"""
    for path in out.glob("*/config.json"):
        # Where diffusers read a network that it writes again is nobody's business.
        path.write_text(re.sub(r'^ *"_name_or_path".*\n', "", path.read_text(), flags=re.MULTILINE))
    manifest = {
        "name": name,
        "license": "Apache-2.0",
        "default": {"width": size.picture, "height": size.picture, "steps": steps, "guidance_scale": guidance, "upscale": 4},
        "prompts": example_prompts(size),
    }
    (out / "manifest.json").write_text(json.dumps(manifest | {"files": list_files(out)}, indent=2, ensure_ascii=False) + "\n")
    total = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert total <= limit, f"{out} has {total} bytes; {limit} are allowed"


def update_manifest(out: Path, prompts: list[str] | None = None) -> None:
    """After a file of the folder has changed."""
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["prompts"] = prompts or manifest["prompts"]
    manifest["files"] = list_files(out)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def list_files(out: Path) -> list[dict[str, object]]:
    files = sorted(p for p in out.rglob("*") if p.is_file() and p != out / "manifest.json")
    return [
        {
            "path": p.relative_to(out).as_posix(),
            "size": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in files
    ]
