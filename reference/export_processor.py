"""Makes what `npm run bench -- --processor` races: a checkpoint and torch's ONNX exports of it, with what a plain loop over them has to know.

    python reference/export_processor.py [FOLDER]     (bench/.processor where none is named; about 60 MB, committed nowhere)

The networks have SD-Turbo's blocks, heads of 64, numbers of tokens and proportion (the decoder takes between three and four times the UNet's operations), and are
narrow, so that twenty guided steps take seconds on two cores. Their weights follow from the hash of weightless.py; text encoder, tokenizer and scheduler are those of test/checkpoints/tiny-turbo.
"""

import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import models  # noqa: F401  (quiet libraries)
from export_bench import fill
from files import CHECKPOINTS, ROOT, fresh_folder, write_json
from narrow_turbo import UNET, VAE

FOLDER = ROOT / "bench" / ".processor"
TINY = CHECKPOINTS / "tiny-turbo"
PROMPT, SEED = "a red circle", 42
WIDER_UNET = {**UNET, "attention_head_dim": [1, 1, 2, 2], "block_out_channels": [64, 64, 128, 128]}
WIDER_VAE = {**VAE, "block_out_channels": [32, 64, 64, 128]}
# name: side in pixels, steps, guidance
RUNS = {"one step": (512, 1, 0.0), "guided": (256, 20, 7.5)}


class TextEncoder(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids):
        return self.encoder(input_ids, return_dict=False)[0]


class Denoiser(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.network(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class Decoder(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, latent_sample):
        return self.network.decode(latent_sample, return_dict=False)[0]


def export(module: torch.nn.Module, inputs: dict[str, torch.Tensor], output: str, free: dict, path: Path) -> None:
    names = {"input_names": list(inputs), "output_names": [output], "dynamic_axes": free}
    torch.onnx.export(module.eval(), tuple(inputs.values()), str(path), dynamo=False, opset_version=17, do_constant_folding=True, **names)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


@torch.no_grad()
def main(folder: Path) -> None:
    checkpoint = fresh_folder(folder) / "checkpoint"
    shutil.copytree(TINY, checkpoint, ignore=shutil.ignore_patterns("unet", "vae"))
    index = (checkpoint / "model_index.json").read_text()
    (checkpoint / "model_index.json").write_text(index.replace("AutoencoderTiny", "AutoencoderKL"))
    unet, vae = UNet2DConditionModel(**WIDER_UNET), AutoencoderKL(**WIDER_VAE)
    for network, name, first in ((unet, "unet", 0), (vae, "vae", 5000)):
        fill(network, first)
        network.save_pretrained(checkpoint / name)
    text_encoder = CLIPTextModel.from_pretrained(TINY / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")

    def ids(text: str) -> list[int]:
        return tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids

    states = text_encoder(torch.tensor([ids(PROMPT)])).last_hidden_state
    export(TextEncoder(text_encoder), {"input_ids": torch.tensor([ids(PROMPT)])}, "states", {"input_ids": {0: "batch"}}, folder / "text_encoder.onnx")
    places = {0: "batch", 2: "height", 3: "width"}
    inputs = {"sample": torch.zeros(1, 4, 64, 64), "timestep": torch.tensor([999.0]), "encoder_hidden_states": states}
    export(Denoiser(unet), inputs, "out_sample", {"sample": places, "encoder_hidden_states": {0: "batch"}}, folder / "unet.onnx")
    export(Decoder(vae), {"latent_sample": torch.zeros(1, 4, 64, 64)}, "picture", {"latent_sample": places}, folder / "vae_decoder.onnx")

    runs = []
    for name, (side, steps, guidance) in RUNS.items():
        scheduler = EulerDiscreteScheduler.from_pretrained(TINY / "scheduler")
        scheduler.set_timesteps(steps)
        noise = torch.randn((1, 4, side // 8, side // 8), generator=torch.Generator().manual_seed(SEED))
        file = f"noise_{side}.bin"
        (folder / file).write_bytes(noise.numpy().tobytes())
        times = {"timesteps": scheduler.timesteps.tolist(), "sigmas": scheduler.sigmas.tolist(), "first_scale": float(scheduler.init_noise_sigma)}
        runs.append({"name": name, "side": side, "steps": steps, "guidance": guidance, "noise": file, **times})
    about = {"prompt": PROMPT, "seed": str(SEED), "ids": ids(PROMPT), "empty": ids(""), "scaling_factor": vae.config.scaling_factor, "runs": runs}
    write_json(folder / "about.json", about)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
