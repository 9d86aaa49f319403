"""
Stable Audio 3 in the files that its authors publish, without the weights (test/weightless), and what diffusers makes with the same networks
(test/goldens/stable_audio_3). What the authors' names mean is decided by diffusers' conversion, scripts/convert_stable_audio_3_to_diffusers.py of its
repository, which its package lacks: python stable_audio_3_files.py SCRIPT
"""

import importlib.util
import json
import sys

import torch
from diffusers import AutoencoderSAME, FlowMatchEulerDiscreteScheduler, StableAudio3DiTModel, StableAudio3Pipeline
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

from ace_step_files import filled
from files import fresh_folder, write_json
from flow_pipelines import ABOUT, CHECKPOINTS
from stable_audio_3 import GAINS, t5gemma, tokenizer, write_case

NAME, READER = "tiny-stable-audio-3-authors", "t5gemma-b-b-ul2"
MAIN = "model.safetensors"
CODEC = {"channels": 16, "c_mults": [3], "strides": [8], "transformer_depths": [2], "latent_dim": 8, "dim_heads": 16, "sliding_window": [1, 1]}
CONFIG = {
    "model_type": "diffusion_cond_inpaint", "sample_size": 44100, "sample_rate": 44100, "audio_channels": 2,
    "model": {
        "pretransform": {
            "type": "autoencoder",
            "config": {"encoder": {"type": "taae", "config": CODEC}, "decoder": {"type": "taae", "config": {**CODEC, "sinusoidal_blocks": [2]}}, "latent_dim": 8, "downsampling_ratio": 128, "io_channels": 2},
        },
        "conditioning": {
            "configs": [
                {"id": "prompt", "type": "t5gemma", "config": {"model_name": "google/t5gemma-b-b-ul2", "max_length": 24}},
                {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 384, "fourier_features_type": "expo"}},
            ],
            "cond_dim": 32,
        },
        "diffusion": {"type": "dit", "diffusion_objective": "rf_denoiser", "config": {"io_channels": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "cond_token_dim": 32, "global_cond_dim": 32}},
        "io_channels": 8,
    },
}  # fmt: skip
FEED_FORWARD = [(".ff.proj_in.", ".ff.ff.0.proj."), (".ff.proj_out.", ".ff.ff.2.")]
OUTSIDE = [("proj_in.", "transformer.project_in."), ("proj_out.", "transformer.project_out."), ("memory_tokens", "transformer.memory_tokens"), ("rotary_pos_emb.", "transformer.rotary_pos_emb."), ("global_cond_embedder.", "transformer.global_cond_embedder.")]  # fmt: skip
CODEC_NAMES = [(".attn.", ".self_attn."), (".norm_attn.", ".pre_norm."), (".norm_ff.", ".ff_norm."), *FEED_FORWARD]
HALVES = [("encoder.blocks.0.", "encoder.layers.0."), ("encoder.proj.", "encoder.layers.2."), ("decoder.proj.", "decoder.layers.1."), ("decoder.blocks.0.", "decoder.layers.3."), ("bottleneck.scale", "bottleneck.scaling_factor")]  # fmt: skip


def renamed(name: str, starts: list[tuple[str, str]], parts: list[tuple[str, str]]) -> str:
    for own, theirs in starts:
        if name.startswith(own):
            name = theirs + name[len(own) :]
            break
    for own, theirs in parts:
        name = name.replace(own, theirs)
    return name


def transformer_name(name: str) -> str:
    if name == "prompt_padding_embedding":
        return "conditioner.conditioners.prompt.padding_embedding"
    return "model.model." + renamed(name, [*OUTSIDE, ("transformer_blocks.", "transformer.layers.")], FEED_FORWARD)


def make(script: str) -> None:
    spec = importlib.util.spec_from_file_location("convert", script)
    convert = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    vae = AutoencoderSAME(
        audio_channels=2, patch_size=16, encoder_channels=16, encoder_c_mults=(3,), encoder_strides=(8,), encoder_transformer_depths=(2,), latent_dim=8, dim_heads=16, decoder_sinusoidal_blocks=(2,)
    )
    transformer = StableAudio3DiTModel(io_channels=8, embed_dim=64, depth=2, num_heads=4, cond_token_dim=32, global_cond_dim=32, local_add_cond_dim=9, timestep_features_dim=32, ff_mult=2.0, num_memory_tokens=5)
    duration = StableAudio3DurationEmbedder(output_dim=32, fourier_dim=32)
    words = tokenizer()
    reader = t5gemma(len(words), 50.0, 2)
    shapes = {
        MAIN: {
            **{transformer_name(name): list(value.shape) for name, value in transformer.state_dict().items()},
            **{"pretransform.model." + renamed(name, HALVES, CODEC_NAMES): list(value.shape) for name, value in vae.state_dict().items()},
            **{name.replace("linear.", "conditioner.conditioners.seconds_total.embedder.embedding.1."): list(value.shape) for name, value in duration.state_dict().items() if name != "freqs"},
        },
        # As of the whole T5Gemma, whose encoder has a root more.
        f"{READER}/model.safetensors": {f"model.{name}": list(value.shape) for name, value in reader.state_dict().items()},
    }
    gains = {"decoder.layers.3.mapping.weight_g": GAINS["vae"]["decoder.blocks.0.mapping.weight_g"], "bottleneck.scaling_factor": GAINS["vae"]["bottleneck.scale"], "project_out": 0.5, "padding_embedding": 4.0, "memory_tokens": 2.0}
    files, tensors, number = [], {}, 0
    for path, own in shapes.items():
        rows, tensors[path] = filled(own, gains, number)
        number += len(rows)
        files.append({"path": path, "tensors": rows})
    states = tensors[MAIN]
    vae = AutoencoderSAME(**convert._infer_vae_config(states, CONFIG))
    vae.load_state_dict(convert.convert_vae(states))
    transformer = StableAudio3DiTModel(**convert._infer_dit_config(states))
    transformer.load_state_dict(convert.convert_dit(states))
    duration = StableAudio3DurationEmbedder(**convert._infer_duration_embedder_config(states))
    duration.load_state_dict(convert.convert_duration_embedder(states))
    reader.load_state_dict({name.removeprefix("model."): value for name, value in tensors[f"{READER}/model.safetensors"].items()})

    folder = fresh_folder(CHECKPOINTS / NAME)
    (folder / READER).mkdir()
    write_json(folder / "model_config.json", CONFIG)
    words.save_pretrained(folder / READER)
    config = reader.config.to_dict()
    write_json(folder / READER / "config.json", {key: config[key] for key in ("architectures", "model_type", "encoder", "vocab_size")} | {"architectures": ["T5GemmaForConditionalGeneration"], "is_encoder_decoder": True})
    rows = [f'    {{"path": {json.dumps(file["path"])}, "tensors": [\n' + ",\n".join("      " + json.dumps(row) for row in file["tensors"]) + "\n    ]}" for file in files]
    (folder / "weights.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "files": [\n' + ",\n".join(rows) + "\n  ]\n}\n")
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, stochastic_sampling=True)
    pipeline = StableAudio3Pipeline(vae=vae.eval(), text_encoder=reader.eval(), tokenizer=words, duration_embedder=duration.eval(), transformer=transformer.eval(), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    write_case("stable-audio-3-authors", NAME, "the files that its authors publish", pipeline, dict(prompt="rain on a roof", seconds=0.06, steps=4, seed=21), None)


if __name__ == "__main__":
    make(sys.argv[1])
