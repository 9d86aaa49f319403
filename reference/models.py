"""Loads a tiny or a built-in checkpoint the way a user of diffusers does; half-precision weights are widened to float32."""

import warnings

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from files import BUILTIN, CHECKPOINTS

warnings.filterwarnings("ignore")
diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)

VARIANTS = {"tiny-sd15-f16": "fp16"}


def load(checkpoint: str, pipeline_class=StableDiffusionPipeline, **options):
    builtin = checkpoint.removeprefix("builtin:")
    pipeline = pipeline_class.from_pretrained(
        CHECKPOINTS / checkpoint if builtin == checkpoint else BUILTIN / builtin,
        torch_dtype=torch.float32,
        variant=VARIANTS.get(checkpoint),
        safety_checker=None,
        requires_safety_checker=False,
        **options,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
