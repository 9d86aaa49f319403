"""Makes bench/graphs: torch's own ONNX exports of bench-sized networks, to race our graphs against.

The graphs carry no weights. Each initializer that is a tensor of the state dict (in any shape) points into
`weights.safetensors`, each that is the transpose of one points at `T/<tensor name>`; the bench fills both from an integer
hash that JavaScript repeats exactly (see `about` in weights.json). What stays inline does not depend on the weights.
Names of networks make only these again. The upscalers are made only where they are named, as their classes are spandrel's (see upscalers.py).
"""

import json
import struct
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock, patch

import numpy as np
import onnx
import onnxruntime
import torch
from diffusers import AutoencoderKL, ControlNetModel, Flux2Transformer2DModel, UNet2DConditionModel
from onnx import numpy_helper

import models  # noqa: F401  (one thread, quiet libraries)
from files import ROOT, fresh_folder, write_json, write_tensors
from weightless import hashed, point, strip

GRAPHS = ROOT / "bench" / "graphs"
INLINE_LIMIT = 200_000
NAMES = {"torchscript": {"dynamo": False, "opset_version": 17}, "dynamo": {"dynamo": True, "opset_version": 20}}
# The TorchScript exporter knows no RMSNorm. Opset 23 has it, and attention, as single operators.
KLEIN_NAMES = {"dynamo": NAMES["dynamo"], "opset23": {"dynamo": True, "opset_version": 23}}

ABOUT = (
    "Weights of the bench networks. Tensor number k is the k-th of `tensors` (sorted by name); its element i is "
    "fround(fround(scale * (2 * u - 1)) + add) with u = (h >>> 8) * 2^-24 and h = lowbias32((i + k * 0x9E3779B9) mod 2^32); "
    "lowbias32: x ^= x >>> 16; x *= 0x7feb352d; x ^= x >>> 15; x *= 0x846ca68b; x ^= x >>> 16 (mod 2^32). "
    "`offset` counts from the beginning of weights.safetensors, `data_start` is where its tensors begin (8 + header, the "
    "header padded with spaces), `bytes` its whole size. An initializer at `T/<name>`, offset 0, is the named tensor "
    "transposed (2-D, row-major). `inputs` are hashed likewise (k = 1000 + position, scale and add given). Of each of `outputs` "
    "expected.safetensors has `values` numbers: number n is element floor(n * size / values)."
)
# Of all outputs together, that are kept.
VALUES = 512


class Denoiser(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(64, 128, 256, 256),
            cross_attention_dim=128,
            attention_head_dim=8,
            layers_per_block=2,
            norm_num_groups=32,
        )

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.network(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = AutoencoderKL(
            block_out_channels=(64, 128, 128, 128),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=32,
        )
        del self.network.encoder, self.network.quant_conv

    def forward(self, latent_sample):
        return self.network.decode(latent_sample, return_dict=False)[0]


class ByLength(torch.nn.Module):
    """In place of the module that computes positions: they depend on the size alone, so no exported graph should have to compute them."""

    def __init__(self, tables: dict[int, tuple[torch.Tensor, ...]]):
        super().__init__()
        self.tables = tables

    def forward(self, ids):
        return self.tables[len(ids)]


class Klein(torch.nn.Module):
    """Two kinds of blocks as klein 4B has them, narrower."""

    SIDE, TEXT = 8, 16

    def __init__(self):
        super().__init__()
        self.network = Flux2Transformer2DModel(
            in_channels=128,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=256,
            axes_dims_rope=(32, 32, 32, 32),
            guidance_embeds=False,
        )
        self.image = torch.tensor([[0, row, column, 0] for row in range(self.SIDE) for column in range(self.SIDE)])
        self.text = torch.tensor([[0, 0, 0, token] for token in range(self.TEXT)])
        positions = self.network.pos_embed
        self.network.pos_embed = ByLength({len(ids): positions(ids) for ids in (self.image, self.text)})

    def forward(self, sample, timestep, prompt_embeds):
        tokens = sample.reshape(1, sample.shape[1], -1).permute(0, 2, 1)
        out = self.network(hidden_states=tokens, encoder_hidden_states=prompt_embeds, timestep=timestep, img_ids=self.image, txt_ids=self.text, return_dict=False)[0]
        return out.permute(0, 2, 1).reshape(1, 128, self.SIDE, self.SIDE)


class DenoiserXL(torch.nn.Module):
    """Stable Diffusion XL's blocks and heads of 64, narrower, with four layers in the deepest transformers where the published one has ten."""

    def __init__(self):
        super().__init__()
        self.network = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(64, 128, 256),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 4),
            attention_head_dim=(1, 2, 4),
            cross_attention_dim=256,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=64,
            projection_class_embeddings_input_dim=128 + 6 * 64,
        )

    def forward(self, sample, timestep, encoder_hidden_states, text_embeds, time_ids):
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.network(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)[0]


class Control(torch.nn.Module):
    """A ControlNet of the UNet above, which diffusers gives the control picture at every step."""

    def __init__(self):
        super().__init__()
        self.network = ControlNetModel(block_out_channels=(64, 128, 256, 256), cross_attention_dim=128, attention_head_dim=8)

    def forward(self, sample, timestep, encoder_hidden_states, controlnet_cond):
        downs, mid = self.network(sample, timestep, encoder_hidden_states, controlnet_cond, return_dict=False)
        return *downs, mid


class Upscaler(torch.nn.Module):
    """One of spandrel's, which chaiNNer and ComfyUI run."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image)


def spandrel(architecture: str, module: str, name: str, **settings) -> Upscaler:
    # It imports all of its architectures; a few, which are not run here, ask torchvision for functions.
    parts = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    with patch.dict(sys.modules, {part: MagicMock() for part in parts}):
        found = __import__(f"spandrel.architectures.{architecture}.__arch.{module}", fromlist=[name])
    return Upscaler(getattr(found, name)(**settings))


STATES = ("encoder_hidden_states", (2, 77, 128), 1.75, 0.0)
LATENTS = [("sample", (2, 4, 16, 16), 1.75, 0.0), ("timestep", (1,), 0.0, 481.0)]
RESIDUALS = [*(f"down_block_additional_residuals.{index}" for index in range(12)), "mid_block_additional_residual"]

# network: class, inputs (name, shape, scale, add), outputs
NETWORKS = {
    "unet": (Denoiser, [*LATENTS, STATES], ["out_sample"]),
    "vae_decoder": (Decoder, [("latent_sample", (1, 4, 16, 16), 5.0, 0.0)], ["sample"]),
    "klein": (Klein, [("sample", (1, 128, 8, 8), 1.75, 0.0), ("timestep", (1,), 0.0, 0.5), ("prompt_embeds", (1, 16, 256), 1.75, 0.0)], ["out_sample"]),
    "unet_xl": (
        DenoiserXL,
        [*LATENTS, ("encoder_hidden_states", (2, 77, 256), 1.75, 0.0), ("text_embeds", (2, 128), 1.75, 0.0), ("time_ids", (2, 6), 0.0, 512.0)],
        ["out_sample"],
    ),
    "controlnet": (Control, [*LATENTS, STATES, ("controlnet_cond", (1, 3, 128, 128), 0.5, 0.5)], RESIDUALS),
    "rrdbnet": (lambda: spandrel("ESRGAN", "RRDB", "RRDBNet", num_filters=64, num_blocks=2, scale=4), [("image", (1, 3, 16, 16), 0.5, 0.5)], ["enlarged"]),
    "srvgg": (lambda: spandrel("Compact", "SRVGG", "SRVGGNetCompact", num_feat=64, num_conv=16, upscale=4), [("image", (1, 3, 32, 32), 0.5, 0.5)], ["enlarged"]),
}
BY_SPANDREL = ("rrdbnet", "srvgg")


def _scale_and_add(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Variance-preserving weights, small biases, norm weights around 1; the scale is a float32."""
    if len(shape) > 1:
        return float(np.float32((3 / np.prod(shape[1:])) ** 0.5)), 0.0
    return (0.25, 1.0) if name.endswith("weight") else (0.125, 0.0)


def fill(network: torch.nn.Module, first: int = 0) -> list[dict]:
    """Gives `network` its hashed weights and returns the table that weights.json holds, without offsets."""
    tensors, state = [], network.state_dict()
    for number, name in enumerate(sorted(state)):
        shape = tuple(state[name].shape)
        scale, add = _scale_and_add(name, shape)
        state[name].copy_(hashed(first + number, shape, scale, add))
        tensors.append({"name": name, "shape": list(shape), "scale": scale, "add": add})
    return tensors


def lay_out(tensors: list[dict]) -> bytes:
    """Adds `offset` to each tensor and returns the beginning of the safetensors file: length and padded header."""
    header, at = {}, 0
    for tensor in tensors:
        length = 4 * int(np.prod(tensor["shape"]))
        header[tensor["name"]] = {"dtype": "F32", "shape": tensor["shape"], "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    for tensor in tensors:
        tensor["offset"] = 8 + len(text) + header[tensor["name"]]["data_offsets"][0]
    return struct.pack("<Q", len(text)) + text


def take_weights_out(model: onnx.ModelProto, network: torch.nn.Module, tensors: list[dict]) -> dict:
    """Points every initializer that is a weight at its file and returns what stayed inline and what is read transposed."""
    straight, turned = {}, {}
    offsets = {tensor["name"]: tensor["offset"] for tensor in tensors}
    for name, value in network.state_dict().items():
        straight[value.numpy().tobytes()] = name
        if value.dim() == 2:
            turned[value.t().contiguous().numpy().tobytes()] = name
    inline, transposed, used = 0, set(), set()
    for initializer in model.graph.initializer:
        content = numpy_helper.to_array(initializer).tobytes()
        if content in straight:
            point(initializer, "weights.safetensors", offsets[straight[content]], len(content))
            used.add(straight[content])
        elif content in turned:
            point(initializer, f"T/{turned[content]}", 0, len(content))
            transposed.add(turned[content])
        else:
            inline += len(content)
    missing = set(offsets) - used - transposed
    if missing:
        raise ValueError(f"weights that no initializer is: {sorted(missing)[:5]} and {len(missing)} in all")
    if inline > INLINE_LIMIT:
        raise ValueError(f"{inline} bytes of constants")
    return {"inline_bytes": inline, "transposed": sorted(transposed)}


def export(module: torch.nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], options: dict, scratch: Path) -> onnx.ModelProto:
    path = scratch / "export.onnx"
    more = {"external_data": False} if options["dynamo"] else {"do_constant_folding": True}
    torch.onnx.export(module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=outputs, **options, **more)
    model = onnx.load(path)
    strip(model)
    return model


def write_weights(folder: Path, head: bytes, network: torch.nn.Module, transposed: set[str]) -> None:
    """The files the graphs point at: what the bench makes in the browser."""
    state = network.state_dict()
    with open(folder / "weights.safetensors", "wb") as file:
        file.write(head)
        for name in sorted(state):
            file.write(state[name].numpy().tobytes())
    (folder / "T").mkdir(exist_ok=True)
    for name in transposed:
        (folder / "T" / name).write_bytes(state[name].t().contiguous().numpy().tobytes())


def run(folder: Path, graph: Path, inputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
    model = folder / graph.name
    model.write_bytes(graph.read_bytes())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def computed(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    outputs = module(*inputs.values())
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def kept(output: torch.Tensor, of: int) -> torch.Tensor:
    size = output.numel()
    values = min(VALUES // of, size)
    return output.flatten()[torch.arange(values) * size // values]


@torch.no_grad()
def make(name: str) -> dict:
    make_module, wanted, outputs = NETWORKS[name]
    module = make_module().eval()
    tensors = fill(module.network)
    head = lay_out(tensors)
    inputs = {key: hashed(1000 + index, shape, scale, add) for index, (key, shape, scale, add) in enumerate(wanted)}
    expected = dict(zip(outputs, computed(module, inputs), strict=True))
    if not all(value.isfinite().all() for value in expected.values()):
        raise ValueError(f"{name}: not finite")
    folder = fresh_folder(GRAPHS / name)
    write_tensors(folder / "expected.safetensors", {output: kept(value, len(outputs)) for output, value in expected.items()})

    entry = {
        "parameters": sum(int(np.prod(tensor["shape"])) for tensor in tensors),
        "data_start": len(head),
        "bytes": len(head) + sum(4 * int(np.prod(tensor["shape"])) for tensor in tensors),
        "inputs": [{"name": key, "shape": list(shape), "scale": scale, "add": add} for key, shape, scale, add in wanted],
        "outputs": [
            {"name": output, "shape": list(value.shape), "largest": float(value.abs().max()), "values": len(kept(value, len(outputs)))} for output, value in expected.items()
        ],
        "graphs": {},
        "tensors": tensors,
    }
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for graph, options in (KLEIN_NAMES if name == "klein" else NAMES).items():
            model = export(module, inputs, outputs, options, scratch)
            entry["graphs"][graph] = take_weights_out(model, module.network, tensors)
            (folder / f"{graph}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        transposed = {tensor for graph in entry["graphs"].values() for tensor in graph["transposed"]}
        # The second set of weights shows that nothing left inline depends on the first.
        for first in (0, 5000):
            fill(module.network, first)
            write_weights(scratch, head, module.network, transposed)
            expected = computed(module, inputs)
            for graph, facts in entry["graphs"].items():
                path = folder / f"{graph}.onnx"
                difference = max(
                    float(np.abs(ran - value.numpy()).max() / value.abs().max()) for ran, value in zip(run(scratch, path, inputs), expected, strict=True)
                )
                if difference > 1e-4:
                    raise ValueError(f"{name} {graph}, weights from {first}: differs from torch by {difference}")
                print(
                    f"{name} {graph}, weights from {first}: {path.stat().st_size / 1e3:.0f} kB, {facts['inline_bytes']} bytes inline, "
                    f"{len(facts['transposed'])} transposed, differs from torch by {difference:.1e} of the largest value",
                    flush=True,
                )
    return entry


def main(names: list[str] | None = None) -> None:
    names = names or [name for name in NETWORKS if name not in BY_SPANDREL]
    path = GRAPHS / "weights.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {"about": ABOUT, **{name: make(name) if name in names else known[name] for name in NETWORKS}})


if __name__ == "__main__":
    main(sys.argv[1:])
