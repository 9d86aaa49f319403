"""
ACE-Step 1.5 in the folder that its authors publish, without its weights (test/weightless), and what diffusers makes with the same networks
(test/goldens/music). What the authors' names mean is decided by diffusers' conversion, scripts/convert_ace_step_to_diffusers.py of its repository,
which its package lacks: python ace_step_files.py SCRIPT
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AceStepPipeline
from safetensors.torch import save_file

from files import fresh_folder, write_json
from flow_pipelines import ABOUT, CHECKPOINTS, scale_of
from music_pipelines import GAINS, SILENCE, SONG, ace_step, drawing, write_case
from weightless import hashed

NAME, FOLDER, READER = "tiny-ace-step-authors", "acestep-v15-base", "Qwen3-Embedding-0.6B"
PARTS = {"transformer": "decoder.", "condition_encoder": "encoder.", "audio_tokenizer": "tokenizer.", "audio_token_detokenizer": "detokenizer."}
NAMES = {"proj_in_conv.": "proj_in.1.", "proj_out_conv.": "proj_out.1.", ".to_q.": ".q_proj.", ".to_k.": ".k_proj.", ".to_v.": ".v_proj.", ".to_out.0.": ".o_proj.", ".norm_q.": ".q_norm.", ".norm_k.": ".k_norm."}
CONFIG = {
    "architectures": ["AceStepConditionGenerationModel"], "model_type": "acestep", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "in_channels": 24, "audio_acoustic_hidden_dim": 8, "patch_size": 2, "rope_theta": 1000000.0, "attention_bias": False, "attention_dropout": 0.0, "rms_norm_eps": 1e-06, "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "is_turbo": False, "model_version": "base", "text_hidden_dim": 24, "timbre_hidden_dim": 8, "encoder_hidden_size": 32,
    "encoder_intermediate_size": 48, "encoder_num_attention_heads": 4, "encoder_num_key_value_heads": 2, "num_lyric_encoder_hidden_layers": 2, "num_timbre_encoder_hidden_layers": 2, "pool_window_size": 5,
    "fsq_dim": 32, "fsq_input_levels": [8, 5, 5], "num_attention_pooler_hidden_layers": 2,
}  # fmt: skip


def authors_name(prefix: str, name: str) -> str:
    if name == "null_condition_emb":
        return name
    for own, theirs in NAMES.items():
        name = name.replace(own, theirs)
    return prefix + name


def filled(shapes: dict[str, list[int]], gains: dict[str, float], first: int) -> tuple[list[dict], dict[str, torch.Tensor]]:
    rows, tensors = [], {}
    for name, shape in shapes.items():
        gain = next((gain for part, gain in gains.items() if part in name), 1.0)
        scale, add = scale_of(name, shape, gain)
        rows.append({"number": first + len(rows), "name": name, "shape": shape, "scale": scale, "add": add})
        tensors[name] = hashed(rows[-1]["number"], tuple(shape), scale, add).clone()
    return rows, tensors


def make(script: str) -> None:
    wide = {key: CONFIG[key] for key in ("layer_types", "is_turbo", "model_version")}
    pipeline = ace_step(48, 4, 2, 3, 24, True, **wide)
    folder = fresh_folder(CHECKPOINTS / NAME)
    (folder / FOLDER).mkdir()
    write_json(folder / FOLDER / "config.json", CONFIG)
    pipeline.vae.save_config(folder / "vae")
    pipeline.text_encoder.config.architectures = ["Qwen3Model"]
    pipeline.text_encoder.config.save_pretrained(folder / READER)
    pipeline.tokenizer.save_pretrained(folder / READER)
    shapes = {
        f"{FOLDER}/model.safetensors": {
            authors_name(prefix, name): list(value.shape) for part, prefix in PARTS.items() for name, value in getattr(pipeline, part).state_dict().items() if name != "silence_latent"
        },
        "vae/diffusion_pytorch_model.safetensors": {name: list(value.shape) for name, value in pipeline.vae.state_dict().items()},
        f"{READER}/model.safetensors": {name: list(value.shape) for name, value in pipeline.text_encoder.state_dict().items()},
    }
    gains = {f"{PARTS['transformer']}{authors_name('', name)}": gain for name, gain in GAINS.get("transformer", {}).items()} | GAINS.get("vae", {})
    files, number = [], 0
    with tempfile.TemporaryDirectory() as kept:
        root = Path(kept) / "checkpoints"
        for path, own in shapes.items():
            rows, tensors = filled(own, gains, number)
            number += len(rows)
            files.append({"path": path, "tensors": rows})
            (root / path).parent.mkdir(parents=True)
            save_file(tensors, root / path)
        for path in folder.rglob("*"):
            if path.is_file():
                (root / path.relative_to(folder)).write_bytes(path.read_bytes())
        # The class's constant says how long it is; as long as the other tiny checkpoints' afterwards.
        silence = hashed(number, (1, 8, 15000), 1.0, 0.0)
        torch.save(silence.clone(), root / FOLDER / "silence_latent.pt")
        torch.save(silence[:, :, :SILENCE].clone(), folder / FOLDER / "silence_latent.pt")
        spec = importlib.util.spec_from_file_location("convert", script)
        convert = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(convert)
        convert.convert_ace_step_weights(str(root), FOLDER, str(Path(kept) / "made"), "fp32")
        made = AceStepPipeline.from_pretrained(Path(kept) / "made")
    made.condition_encoder.silence_latent = made.condition_encoder.silence_latent[:, :SILENCE]
    rows = [f'    {{"path": {json.dumps(file["path"])}, "tensors": [\n' + ",\n".join("      " + json.dumps(row) for row in file["tensors"]) + "\n    ]}" for file in files]
    (folder / "weights.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "files": [\n' + ",\n".join(rows) + "\n  ]\n}\n")
    drawing(made.vae)
    made.set_progress_bar_config(disable=True)
    parameters = dict(prompt="a red house", lyrics=SONG, seconds=0.6, steps=3, guidance_scale=4, seed=12)
    write_case("ace-step-authors", NAME, "the folder that its authors publish; a transformer wider than what it is told", made, parameters, {})


if __name__ == "__main__":
    make(sys.argv[1])
