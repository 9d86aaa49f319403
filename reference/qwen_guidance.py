"""
Qwen-Image with other kinds of guidance than its own: plain, projected as diffusers' guider has it, and ComfyUI's CFGNorm.

    python reference/qwen_guidance.py <a checkout of ComfyUI> [cases]

It is not part of make.py, as ComfyUI is no package; of it only the node's own lines run.
"""

import importlib
import json
import sys
import types

import torch
from diffusers import AdaptiveProjectedGuidance, QwenImagePipeline

from files import write_json
from flow_pipelines import PIPELINES, save, write_case
from qwen_pipelines import GAINS, qwen_image, results

CASES = {
    "qwen-image-plain-guidance": ("guidance without norms", dict(guidance_method="cfg"), dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=3, guidance_scale=4, seed=41, width=64, height=80)),
    "qwen-image-apg": ("projected guidance, shortened; two pictures", dict(guidance_method="apg", apg_eta=0.25, apg_norm_threshold=6.5), dict(prompt="a storm over the sea", negative_prompt="calm", steps=3, guidance_scale=5, seed=42, width=80, height=48, batch_size=2)),
    "qwen-image-comfyui-cfg-norm": ("ComfyUI's CFGNorm; two pictures", dict(guidance_method="comfyui_cfg_norm"), dict(prompt="a storm over the sea", negative_prompt="", steps=4, guidance_scale=4, seed=43, width=64, height=80, batch_size=2)),
}


def cfg_norm(root: str):
    """What the node hangs into ComfyUI's sampling after guidance."""
    latest = types.ModuleType("comfy_api.latest")
    latest.ComfyExtension = object
    latest.io = types.SimpleNamespace(ComfyNode=object, Schema=None, NodeOutput=lambda model: model)
    sys.modules.update({"comfy_api": types.ModuleType("comfy_api"), "comfy_api.latest": latest})
    sys.path.insert(0, root)
    hung = []
    model = types.SimpleNamespace(clone=lambda: model, set_model_sampler_post_cfg_function=hung.append)
    importlib.import_module("comfy_extras.nodes_cfg").CFGNorm.execute(model, 1.0)
    return hung[0]


def guided(pipeline, chosen: dict, given: dict, node) -> None:
    """Of the prediction for the prompt, which comes first, and the one for the negative prompt makes the one that is wanted, so that the pipeline's own guidance finds both to be it."""
    scale, kept = given["guidance_scale"], []
    forward = pipeline.transformer.forward
    unpack = lambda packed: pipeline._unpack_latents(packed, given["height"], given["width"], pipeline.vae_scale_factor)

    def mixed(cond, uncond, x, sigma):
        method = chosen["guidance_method"]
        plain = uncond + scale * (cond - uncond)
        if method == "apg":
            guider = AdaptiveProjectedGuidance(guidance_scale=scale, eta=chosen["apg_eta"], adaptive_projected_guidance_rescale=chosen["apg_norm_threshold"])
            return guider.forward(cond, uncond).pred
        if method == "comfyui_cfg_norm":
            # The node sees latents as pictures.
            normed = node({"cond_denoised": unpack(x - sigma * cond), "denoised": unpack(x - sigma * plain)})
            batch, channels, _, height, width = normed.shape
            return (x - pipeline._pack_latents(normed, batch, channels, height, width)) / sigma
        return plain

    def wrapped(**arguments):
        prediction = forward(**arguments)[0]
        if not kept:
            kept.append(prediction)
        else:
            cond = kept.pop()
            cond.copy_(mixed(cond.clone(), prediction, arguments["hidden_states"], arguments["timestep"].reshape(-1, 1, 1)))
            prediction = cond.clone()
        return (prediction,)

    pipeline.transformer.forward = wrapped
    return forward


def main(root: str, only: set[str]) -> None:
    pipeline: QwenImagePipeline = qwen_image()
    save("tiny-qwen-image", pipeline, GAINS, as_matrices=("gamma",))
    pipeline.set_progress_bar_config(disable=True)
    node = cfg_norm(root)
    for name, (about, chosen, parameters) in CASES.items():
        if only and name not in only:
            continue
        forward = guided(pipeline, chosen, parameters, node)
        write_case(name, "tiny-qwen-image", "qwen_image", about, pipeline, parameters, None, results)
        pipeline.transformer.forward = forward
        path = PIPELINES / name / "operation.json"
        operation = json.loads(path.read_text())
        write_json(path, {**operation, "parameters": {**operation["parameters"], **chosen}})


if __name__ == "__main__":
    main(sys.argv[1], set(sys.argv[2:]))
