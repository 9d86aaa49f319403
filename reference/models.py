"""Loads a tiny checkpoint the way a user of diffusers does; half-precision weights are widened to float32."""

import warnings

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from files import CHECKPOINTS

warnings.filterwarnings("ignore")
diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)

VARIANTS = {"tiny-sd15-f16": "fp16"}


def load(checkpoint: str, pipeline_class=StableDiffusionPipeline, **options):
    pipeline = pipeline_class.from_pretrained(
        CHECKPOINTS / checkpoint,
        torch_dtype=torch.float32,
        variant=VARIANTS.get(checkpoint),
        safety_checker=None,
        requires_safety_checker=False,
        **options,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
