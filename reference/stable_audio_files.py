"""
Stable Audio Open in the files that its authors and ComfyUI's users have, without the weights (test/weightless), and what diffusers makes with the same
networks (test/goldens/sounds). What the authors' names mean is decided by diffusers' conversion, scripts/convert_stable_audio.py of its repository,
which its package lacks: python stable_audio_files.py SCRIPT
"""

import ast
import json
import re
import sys
from pathlib import Path

import torch
from diffusers import StableAudioDiTModel, StableAudioPipeline
from diffusers.pipelines.stable_audio import StableAudioProjectionModel

import t5
from ace_step_files import filled
from audio_pipelines import GAINS, RATE, SPIECE, TOKENS, write_case
from files import fresh_folder, write_json
from flow_pipelines import ABOUT, CHECKPOINTS
from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler

NAME = "tiny-stable-audio-authors"
RATIOS, MULTIPLES, SAMPLES, WIDTH, HEADS = [2, 4, 4, 4], [1, 2, 2, 3], 72 * 128, 192, 6
WORDS = t5.CONFIG["d_model"]
OOBLECK = {"in_channels": 2, "channels": 16, "c_mults": MULTIPLES, "strides": RATIOS, "use_snake": True}
CONFIG = {
    "model_type": "diffusion_cond", "sample_size": SAMPLES, "sample_rate": RATE, "audio_channels": 2,
    "model": {
        "pretransform": {
            "type": "autoencoder",
            "config": {"encoder": {"type": "oobleck", "config": {**OOBLECK, "latent_dim": 16}}, "decoder": {"type": "oobleck", "config": {**OOBLECK, "channels": 12, "latent_dim": 8}}, "latent_dim": 8, "downsampling_ratio": 128, "io_channels": 2},
        },
        "conditioning": {
            "configs": [
                {"id": "prompt", "type": "t5", "config": {"t5_model_name": "t5-base", "max_length": TOKENS}},
                {"id": "seconds_start", "type": "number", "config": {"min_val": 0, "max_val": 4}},
                {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 4}},
            ],
            "cond_dim": WORDS,
        },
        "diffusion": {"type": "dit", "config": {"io_channels": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "cond_token_dim": WORDS, "global_cond_dim": 2 * WORDS}},
        "io_channels": 8,
    },
}  # fmt: skip

OUTSIDE = [("proj_in", "transformer.project_in"), ("proj_out", "transformer.project_out"), ("timestep_proj", "to_timestep_embed"), ("time_proj", "timestep_features"), ("global_proj", "to_global_embed"), ("cross_attention_proj", "to_cond_embed")]  # fmt: skip
INSIDE = [("norm1.", "pre_norm."), ("norm2.", "cross_attend_norm."), ("norm3.", "ff_norm."), ("attn1.", "self_attn."), ("attn2.", "cross_attn."), ("ff.net", "ff.ff"), ("to_out.0", "to_out")]
UNIT = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}


def dit_shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    """Of the authors' code, in which queries, keys and values are one tensor."""
    shapes: dict[str, list[int]] = {}
    for name, value in model.state_dict().items():
        shape = list(value.shape)
        if name.startswith("transformer_blocks."):
            name = name.replace("transformer_blocks.", "transformer.layers.")
            for own, theirs in INSIDE:
                name = name.replace(own, theirs)
            name = re.sub(r"(norm)\.weight$", r"\1.gamma", re.sub(r"(norm)\.bias$", r"\1.beta", name))
            name = re.sub(r"(self_attn)\.to_[qkv]\.", r"\1.to_qkv.", re.sub(r"(cross_attn)\.to_[kv]\.", r"\1.to_kv.", name))
        else:
            for own, theirs in OUTSIDE:
                name = re.sub(f"^{own}(?=\\.)", theirs, name)
            shape = [*shape, 1] if name == "timestep_features.weight" else shape
        shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes else shape
    return shapes


def oobleck_name(name: str) -> str:
    half, rest = name.split(".", 1)
    last = len(RATIOS)
    if rest.startswith("block."):
        _, at, inner, *end = rest.split(".")
        order = ["res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"] if half == "encoder" else ["snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"]
        deeper = ["layers", str(UNIT[end[0]]), *end[1:]] if inner.startswith("res_unit") else end
        return ".".join([half, "layers", str(int(at) + 1), "layers", str(order.index(inner)), *deeper])
    layer, *end = rest.split(".")
    return ".".join([half, "layers", str({"conv1": 0, "snake1": last + 1, "conv2": last + 2}[layer]), *end])


def conversion(script: str):
    """The function alone: the script reads its arguments where it is imported."""
    tree = ast.parse(Path(script).read_text())
    name = "convert_stable_audio_state_dict_to_diffusers"
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    scope = {"torch": torch}
    exec(compile(tree, script, "exec"), scope)
    return scope[name]


def make(script: str) -> None:
    oobleck = CONFIG["model"]["pretransform"]["config"]
    vae = AutoencoderOobleck(
        encoder_hidden_size=oobleck["encoder"]["config"]["channels"], downsampling_ratios=RATIOS, channel_multiples=MULTIPLES, decoder_channels=oobleck["decoder"]["config"]["channels"],
        decoder_input_channels=oobleck["decoder"]["config"]["latent_dim"], audio_channels=oobleck["io_channels"], sampling_rate=RATE,
    )
    transformer = StableAudioDiTModel(
        sample_size=SAMPLES // 128, in_channels=8, num_layers=2, attention_head_dim=WIDTH // HEADS, num_attention_heads=HEADS, num_key_value_attention_heads=WORDS // (WIDTH // HEADS), out_channels=8,
        cross_attention_dim=WORDS, time_proj_dim=256, global_states_input_dim=2 * WORDS, cross_attention_input_dim=WORDS,
    )
    projection = StableAudioProjectionModel(WORDS, WORDS, 0, 4)
    words = t5.tokenizer(SPIECE, TOKENS)
    reader = t5.t5(len(words))
    flat = lambda name, value: [value.numel()] if "snake" in name else list(value.shape)
    shapes = {
        "stable_audio_open_1.0.safetensors": {
            **{f"model.model.{name}": shape for name, shape in dit_shapes(transformer).items()},
            **{f"pretransform.model.{oobleck_name(name)}": flat(name, value) for name, value in vae.state_dict().items()},
            **{
                "conditioner.conditioners." + name.replace("start_number_conditioner", "seconds_start").replace("end_number_conditioner", "seconds_total").replace("time_positional_embedding", "embedder.embedding"): list(value.shape)
                for name, value in projection.state_dict().items()
            },
        },
        "t5_base.safetensors": {name: list(value.shape) for name, value in reader.state_dict().items() if name != "encoder.embed_tokens.weight"},
    }  # fmt: skip
    last = len(RATIOS) + 2
    gains = {f"decoder.layers.{last}.weight_g": GAINS["vae"]["decoder.conv2.weight_g"], f"encoder.layers.{last}.weight_g": GAINS["vae"]["encoder.conv2.weight_g"], "transformer.project_out": GAINS["transformer"]["proj_out"]}
    files, tensors, number = [], {}, 0
    for path, own in shapes.items():
        rows, tensors[path] = filled(own, gains, number)
        number += len(rows)
        files.append({"path": path, "tensors": rows})
    parts = conversion(script)(dict(tensors["stable_audio_open_1.0.safetensors"]), len(RATIOS))
    for module, states in zip((transformer, projection, vae), parts):
        module.load_state_dict(states)
    states = tensors["t5_base.safetensors"]
    reader.load_state_dict({**states, "encoder.embed_tokens.weight": states["shared.weight"]})

    folder = fresh_folder(CHECKPOINTS / NAME)
    write_json(folder / "model_config.json", CONFIG)
    words.save_pretrained(folder)
    rows = [f'    {{"path": {json.dumps(file["path"])}, "tensors": [\n' + ",\n".join("      " + json.dumps(row) for row in file["tensors"]) + "\n    ]}" for file in files]
    (folder / "weights.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "files": [\n' + ",\n".join(rows) + "\n  ]\n}\n")
    scheduler = CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500, solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential")
    pipeline = StableAudioPipeline(vae=vae.eval(), text_encoder=reader.eval(), projection_model=projection.eval(), tokenizer=words, transformer=transformer.eval(), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    write_case("stable-audio-authors", NAME, "the files that its authors and ComfyUI's users have", pipeline, dict(prompt="rain on a roof", negative_prompt="blurry", seconds=0.35, steps=4, guidance_scale=3, seed=21), None)


if __name__ == "__main__":
    make(sys.argv[1])
