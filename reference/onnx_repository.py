"""Makes test/onnx_repositories: tiny-sd15-f16 as ready-made ONNX, the way such repositories are laid out.

`optimum`: the layout of optimum's exporter. Dynamic axes, int64 ids, timestep of rank 0, float32 in and out, the UNet's weights in
`model.onnx_data`. Weights are stored as float16, in which the checkpoint has them, and widened by Cast nodes: half the size, same numbers.

`stable_diffusion_v1_5_webnn`: file names and contract of microsoft/stable-diffusion-v1.5-webnn. Static shapes, a batch of two only, int32 ids, int64 timestep [2],
float16 in, out and between; no configs, no encoder, the tokenizer's two files beside the networks.

The other exports that `src/models/exports` knows, each with the contract of its repository and networks of a few thousand weights. What
their tokenizer and scheduler are is read from there, so a wrong entry shows as a wrong picture.

All are run by ONNX Runtime against torch before they are kept, and test/goldens/exports has a picture that diffusers makes with the
weights of each.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from export_bench import strip
from files import CHECKPOINTS, GOLDENS, ROOT, fresh_folder, write_json
from make_checkpoints import SD2_UNET, kl_config, text_config, tiny_config, unet_config
from models import load
from pipelines import make_case
from single_files import LEVELS
from vocabulary import write_vocabulary
from weights import fit_autoencoder_kl, fit_autoencoder_tiny, fit_unet, randomise

EXPORTS = ROOT / "src" / "models" / "exports"
REPOSITORIES = ROOT / "test" / "onnx_repositories"
CHECKPOINT = "tiny-sd15-f16"
OPSET = 17
TOKENS = 77
LATENT = 8
INLINE_LIMIT = 64

OPTIMUM_CLASSES = {
    "text_encoder": "ORTTextEncoder",
    "unet": "ORTUnet",
    "vae_decoder": "ORTVaeDecoder",
    "vae_encoder": "ORTVaeEncoder",
}
WEBNN = "stable_diffusion_v1_5_webnn"
WEBNN_FILES = {
    "text_encoder": "text-encoder.onnx",
    "unet": "sd-unet-v1.5-model-b2c4h64w64s77-float16-compute-and-inputs-layernorm.onnx",
    "vae_decoder": "Stable-Diffusion-v1.5-vae-decoder-float16-fp32-instancenorm.onnx",
}

SMALL = {**LEVELS, "layers_per_block": 1}


@dataclass
class Contract:
    """How the networks of a published export are fed, and tiny ones of the same kind."""

    text: dict
    unet: dict
    vae: dict
    ids: torch.dtype
    timestep: torch.Tensor
    # Roles that compute in float16, and those of them that take and give float32 all the same.
    half: tuple[str, ...] = ()
    float_ports: tuple[str, ...] = ()
    # Names of dimensions, where they are free.
    axes: dict | None = None


CONTRACTS = {
    "sd_turbo_ort_web": Contract(
        text=text_config(16, 2, 1, "gelu", 16),
        unet=unet_config([8, 16], 4, 16, [1, 2], **SD2_UNET),
        vae=kl_config([8, 8, 8, 8], 4),
        ids=torch.int32,
        timestep=torch.tensor([481], dtype=torch.int64),
        half=("text_encoder", "unet", "vae_decoder"),
        float_ports=("text_encoder", "unet", "vae_decoder"),
        axes={
            "input_ids": {0: "batch_size", 1: "sequence_length"},
            "sample": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"},
            "encoder_hidden_states": {0: "batch_size", 1: "sequence_length"},
            "latent_sample": {0: "batch_size", 1: "num_channels_latent", 2: "height_latent", 3: "width_latent"},
        },
    ),
    "sd_turbo_webnn": Contract(
        text=text_config(16, 2, 1, "gelu", 16),
        unet=unet_config([8, 16], 4, 16, [1, 2], **SD2_UNET),
        vae=kl_config([8, 8, 8, 8], 4),
        ids=torch.int32,
        timestep=torch.tensor([481.0]),
        half=("text_encoder", "unet"),
    ),
    "sdxs_512_dreamshaper": Contract(
        text=text_config(16, 2, 1, "quick_gelu", 16),
        unet=unet_config([8, 16], 4, 16, 2),
        vae=tiny_config(8),
        ids=torch.int64,
        timestep=torch.tensor([481.0]),
    ),
}


class TextEncoder(torch.nn.Module):
    def __init__(self, pipeline):
        super().__init__()
        self.network = pipeline.text_encoder

    def forward(self, input_ids):
        output = self.network(input_ids)
        return output.last_hidden_state, output.pooler_output


class Unet(torch.nn.Module):
    def __init__(self, pipeline):
        super().__init__()
        self.network = pipeline.unet

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.network(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class VaeEncoder(torch.nn.Module):
    def __init__(self, pipeline):
        super().__init__()
        self.network = pipeline.vae

    def forward(self, sample):
        return self.network.quant_conv(self.network.encoder(sample))


class VaeDecoder(torch.nn.Module):
    def __init__(self, pipeline):
        super().__init__()
        self.network = pipeline.vae

    def forward(self, latent_sample):
        return self.network.decode(latent_sample, return_dict=False)[0]


def networks(pipeline, batch: int, ids: torch.dtype, timestep: torch.Tensor) -> dict:
    """Module, inputs, outputs and dynamic axes of every role."""
    generator = torch.Generator("cpu").manual_seed(5)
    noise = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    width = pipeline.text_encoder.config.hidden_size
    latents = {0: "batch_size", 2: "latent_height", 3: "latent_width"}
    pixels = {0: "batch_size", 2: "sample_height", 3: "sample_width"}
    tokens = {0: "batch_size", 1: "sequence_length"}
    picture = {0: "batch_size", 2: "height", 3: "width"}
    return {
        "text_encoder": (
            TextEncoder(pipeline),
            {"input_ids": torch.randint(0, 1000, (batch, TOKENS), generator=generator).to(ids)},
            ["last_hidden_state", "pooler_output"],
            {"input_ids": tokens, "last_hidden_state": tokens, "pooler_output": {0: "batch_size"}},
        ),
        "unet": (
            Unet(pipeline),
            {"sample": noise(batch, 4, LATENT, LATENT), "timestep": timestep, "encoder_hidden_states": noise(batch, TOKENS, width)},
            ["out_sample"],
            {"sample": picture, "encoder_hidden_states": tokens, "out_sample": picture},
        ),
        "vae_encoder": (
            VaeEncoder(pipeline),
            {"sample": noise(1, 3, 8 * LATENT, 8 * LATENT)},
            ["latent_parameters"],
            {"sample": pixels, "latent_parameters": latents},
        ),
        "vae_decoder": (VaeDecoder(pipeline), {"latent_sample": noise(1, 4, LATENT, LATENT)}, ["sample"], {"latent_sample": latents, "sample": pixels}),
    }


def halve_weights(model: onnx.ModelProto) -> None:
    """Keeps every float32 initializer that float16 holds exactly as float16, widened by a Cast node."""
    casts = []
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size <= INLINE_LIMIT or not np.array_equal(values.astype(np.float16), values):
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.f16"))
        casts.append(helper.make_node("Cast", [f"{name}.f16"], [name], name=f"{name}/Cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_doubles(model: onnx.ModelProto) -> None:
    """The converter adds the Cast to float16 once for every reader of a value that stays float32."""
    nodes = {tuple(node.output): node for node in model.graph.node}
    del model.graph.node[:]
    model.graph.node.extend(nodes.values())


def shorten_names(model: onnx.ModelProto) -> None:
    """Module paths make a third of a tiny graph; only what goes in and out keeps its name."""
    kept = {entry.name for entry in [*model.graph.input, *model.graph.output]} | {""}
    short: dict[str, str] = {}
    rename = lambda name: name if name in kept else short.setdefault(name, f"v{len(short)}")  # noqa: E731
    for initializer in model.graph.initializer:
        initializer.name = rename(initializer.name)
    for node in model.graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [rename(name) for name in names]


def export(path: Path, role: tuple, half: bool, external: str | None = None, float_ports: bool = False, free: bool | None = None) -> None:
    module, inputs, outputs, axes = role
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=outputs,
        dynamic_axes=axes if (not half if free is None else free) else None,
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=True,
    )
    model = onnx.load(path)
    strip(model)
    if half:
        # As in torch, where the sinusoid of the timestep is float32 in half precision too: at 801 float16 counts in halves.
        sinusoid = [node.name for node in model.graph.node if "/time_proj/" in node.name]
        model = convert_float_to_float16(model, keep_io_types=float_ports, disable_shape_infer=False, node_block_list=sinusoid)
        drop_doubles(model)
        del model.graph.value_info[:]
    else:
        halve_weights(model)
    shorten_names(model)
    path.unlink()
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=INLINE_LIMIT)
    check(path, module, inputs, half)


def check(path: Path, module: torch.nn.Module, inputs: dict[str, torch.Tensor], half: bool) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {entry.name: np.float16 if "float16" in entry.type else None for entry in session.get_inputs()}
    feeds = {name: value.numpy().astype(types[name] or value.numpy().dtype) for name, value in inputs.items()}
    got = session.run(None, feeds)[0]
    expected = module(*(torch.from_numpy(value.astype(np.float32)) if value.dtype == np.float16 else torch.from_numpy(value) for value in feeds.values()))
    expected = (expected[0] if isinstance(expected, tuple) else expected).numpy()
    difference = float(np.abs(got.astype(np.float32) - expected).max() / np.abs(expected).max())
    if difference > (2e-2 if half else 1e-4):
        raise ValueError(f"{path} differs from torch by {difference}")
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.onnx*"))
    print(f"{path.relative_to(REPOSITORIES)}: {size / 1e3:.0f} kB, differs from torch by {difference:.1e} of the largest value", flush=True)


def make_optimum(folder: Path) -> None:
    pipeline = load(CHECKPOINT)
    roles = networks(pipeline, 2, torch.int64, torch.tensor(481, dtype=torch.int64))
    for name, role in roles.items():
        export(folder / name / "model.onnx", role, half=False, external="model.onnx_data" if name == "unet" else None)
        source = CHECKPOINTS / CHECKPOINT / ("vae" if name.startswith("vae") else name) / "config.json"
        shutil.copyfile(source, folder / name / "config.json")
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(CHECKPOINTS / CHECKPOINT / part, folder / part)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "ORTStableDiffusionPipeline",
            "_diffusers_version": "0.35.0",
            "scheduler": ["diffusers", "PNDMScheduler"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            **{name: ["optimum.onnxruntime.modeling_diffusion", class_name] for name, class_name in OPTIMUM_CLASSES.items()},
        },
    )


def make_webnn(folder: Path) -> None:
    roles = networks(load(CHECKPOINT), 2, torch.int32, torch.tensor([481, 481], dtype=torch.int64))
    for name, file in WEBNN_FILES.items():
        export(folder / file, roles[name], half=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(CHECKPOINTS / CHECKPOINT / "tokenizer" / name, folder / name)


def tiny_pipeline(contract: Contract, known: dict, folder: Path, seed: int) -> StableDiffusionPipeline:
    """The pipeline of diffusers that an export of this kind was made from, its weights those that float16 holds."""
    text = CLIPTextModel(CLIPTextConfig(**contract.text)).eval()
    unet = UNet2DConditionModel.from_config({**contract.unet, **SMALL}).eval()
    kl = contract.vae["_class_name"] == "AutoencoderKL"
    vae = (AutoencoderKL if kl else AutoencoderTiny).from_config(contract.vae).eval()
    for number, network in enumerate((text, unet, vae)):
        randomise(network, seed + 100 * number)
    fit_unet(unet, text, seed, echo=1.05, own=0.12)
    (fit_autoencoder_kl if kl else fit_autoencoder_tiny)(vae, seed)
    for network in (text, unet, vae):
        network.half().float()
    made = known["tokenizer"]["config"]
    write_vocabulary(folder)
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        pad_token=made["pad_token"],
        model_max_length=made["model_max_length"],
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(diffusers, known["scheduler"]["_class_name"]).from_config(known["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_published(name: str, contract: Contract) -> None:
    folder = fresh_folder(REPOSITORIES / name)
    known = json.loads((EXPORTS / f"{name}.json").read_text())
    pipeline = tiny_pipeline(contract, known, folder / known["tokenizer"]["folder"], seed=40)
    for role, (module, inputs, outputs, _) in networks(pipeline, 1, contract.ids, contract.timestep).items():
        path = known["networks"][role]
        if path is not None:
            axes = {key: value for key, value in (contract.axes or {}).items() if key in inputs}
            export(folder / path, (module, inputs, outputs, axes), role in contract.half, float_ports=role in contract.float_ports, free=bool(axes))
    habits = {"width": 64, "height": 64, **known["habits"]}
    print(make_case(GOLDENS / "exports" / name, name, "a published export", dict(prompt="a cat sleeping on a green sofa", seed=42, **habits), lambda *_: pipeline))


def make_webnn_golden() -> None:
    """Guidance fills the batch of two. Few steps that begin late: rounding to halves grows with each, and with the noise."""
    chosen = dict(prompt="an old map of an unknown island", negative_prompt="blurry", steps=3, guidance_scale=2, sampler="euler", schedule="leading", seed=7)
    print(make_case(GOLDENS / "exports" / WEBNN, CHECKPOINT, "a published export", chosen))


@torch.no_grad()
def main() -> None:
    for name, make in (("optimum", make_optimum), (WEBNN, make_webnn)):
        make(fresh_folder(REPOSITORIES / name))
    fresh_folder(GOLDENS / "exports")
    for name, contract in CONTRACTS.items():
        make_published(name, contract)
    make_webnn_golden()


if __name__ == "__main__":
    main()
