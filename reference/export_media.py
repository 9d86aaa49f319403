"""
Makes bench/graphs/media: torch's own ONNX exports of narrow transformers and decoders of sounds and videos, to race our graphs against, and
bench/graphs/media.json, what they are made of and what torch computes. As export_bench.py does it, without weights: tensors and inputs are those of
large_media.json's formula, each at `made/<name>`, and at `T/<name>` where an export has folded its transpose. Names make only these again.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from diffusers import AceStepTransformer1DModel, AutoencoderKLLTXVideo, AutoencoderKLWan, AutoencoderOobleck, LTXVideoTransformer3DModel, StableAudioDiTModel, WanTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from onnx import numpy_helper
from torch.nn.utils import remove_weight_norm

import models  # noqa: F401  (one thread, quiet libraries)
from export_bench import GRAPHS, INLINE_LIMIT, export
from files import fresh_folder
from flow_pipelines import scale_of
from large_flows import INPUT, SAMPLES, TIMESTEP
from weightless import hashed, point

# Which exporter knows a module is tried, and told where it does not. Opset 23 has RMSNorm and attention as operators, which decoders have none of.
EXPORTERS = {"torchscript": {"dynamo": False, "opset_version": 17}, "dynamo": {"dynamo": True, "opset_version": 20}, "opset23": {"dynamo": True, "opset_version": 23}}
OF_DECODERS = ("torchscript", "dynamo")
ABOUT = (
    "As `blocks` in test/goldens/large_flows.json, whose `about` says how tensors and inputs are made. `graphs` says of each export which tensors it reads transposed, and `refused` which exporters know no such module. "
    "The timestep is an input of the exports, of one number."
)
WORDS, SIZE, SOUND = 16, (2, 4, 8), 64


class Tables(torch.nn.Module):
    """In place of the module that computes positions: they depend on the size alone, so no exported graph should have to compute them."""

    def __init__(self, tables):
        super().__init__()
        self.tables = tables

    def forward(self, *_, **__):
        return self.tables


class Ltx(torch.nn.Module):
    CONFIG = {"num_attention_heads": 4, "attention_head_dim": 64, "cross_attention_dim": 256, "caption_channels": 256, "num_layers": 2}
    INPUTS = {"sample": (1, 128, *SIZE), "prompt_embeds": (1, WORDS, 256)}
    TIME = TIMESTEP
    FILLED = 12

    def __init__(self):
        super().__init__()
        self.network = LTXVideoTransformer3DModel(**self.CONFIG)
        frames, height, width = SIZE
        given = torch.zeros(1, 1)
        # 25 frames per second, eight for each latent.
        self.network.rope = Tables(self.network.rope(given, frames, height, width, (8 / 25, 32, 32)))
        # The last ones fill the prompt up.
        self.mask = torch.tensor([[1.0] * self.FILLED + [0.0] * (WORDS - self.FILLED)])

    def forward(self, sample, prompt_embeds, timestep):
        frames, height, width = SIZE
        tokens = sample.reshape(1, sample.shape[1], -1).permute(0, 2, 1)
        out = self.network(
            hidden_states=tokens, encoder_hidden_states=prompt_embeds, timestep=timestep, encoder_attention_mask=self.mask, num_frames=frames, height=height, width=width, return_dict=False
        )[0]
        return out.permute(0, 2, 1).reshape(sample.shape)


class Wan(torch.nn.Module):
    CONFIG = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 256, "freq_dim": 256, "ffn_dim": 1024, "num_layers": 2}
    INPUTS = {"sample": (1, 16, SIZE[0], 2 * SIZE[1], 2 * SIZE[2]), "prompt_embeds": (1, WORDS, 256)}
    TIME = TIMESTEP

    def __init__(self):
        super().__init__()
        self.network = WanTransformer3DModel(**self.CONFIG)
        self.network.rope = Tables(self.network.rope(torch.zeros(self.INPUTS["sample"])))

    def forward(self, sample, prompt_embeds, timestep):
        return self.network(hidden_states=sample, timestep=timestep, encoder_hidden_states=prompt_embeds, return_dict=False)[0]


class StableAudio(torch.nn.Module):
    CONFIG = {"num_layers": 2, "num_attention_heads": 4, "num_key_value_attention_heads": 2, "cross_attention_dim": 256, "cross_attention_input_dim": 256, "global_states_input_dim": 512, "sample_size": SOUND}
    INPUTS = {"sample": (1, 64, SOUND), "encoder_hidden_states": (WORDS, 256), "global_hidden_states": (1, 512)}
    TIME = TIMESTEP / 1000

    def __init__(self):
        super().__init__()
        self.network = StableAudioDiTModel(**self.CONFIG)
        self.turns = get_1d_rotary_pos_embed(self.network.config.attention_head_dim // 2, SOUND + 1, use_real=True, repeat_interleave_real=False)

    def forward(self, sample, encoder_hidden_states, global_hidden_states, timestep):
        return self.network(sample, timestep, encoder_hidden_states=encoder_hidden_states[None], global_hidden_states=global_hidden_states[None], rotary_embedding=self.turns, return_dict=False)[0]


class AceStep(torch.nn.Module):
    # A layer that sees all and one that sees a window, which is shorter than published, so that a short sound has several.
    CONFIG = {"num_hidden_layers": 2, "sliding_window": 8, "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    INPUTS = {"sample": (1, 64, 2 * SOUND), "context_latents": (1, 128, 2 * SOUND), "encoder_hidden_states": (WORDS, 256)}
    TIME = TIMESTEP / 1000

    def __init__(self):
        super().__init__()
        self.network = AceStepTransformer1DModel(**self.CONFIG)

    def forward(self, sample, context_latents, encoder_hidden_states, timestep):
        out = self.network(hidden_states=sample.permute(0, 2, 1), timestep=timestep, timestep_r=timestep, encoder_hidden_states=encoder_hidden_states[None], context_latents=context_latents.permute(0, 2, 1), return_dict=False)[0]
        return out.permute(0, 2, 1)


class Oobleck(torch.nn.Module):
    """The factors that weight_norm takes apart are one tensor, as every exporter would fold them, as they do the exponents of its waves."""

    FOLDS = True
    CONFIG = {"decoder_channels": 16}
    INPUTS = {"latent_sample": (1, 64, 4)}
    TIME = None

    def __init__(self):
        super().__init__()
        self.network = AutoencoderOobleck(**self.CONFIG)
        del self.network.encoder
        for module in self.network.modules():
            if hasattr(module, "weight_g"):
                remove_weight_norm(module)

    def forward(self, latent_sample):
        return self.network.decoder(latent_sample)


class LtxVae(torch.nn.Module):
    CONFIG = {"latent_channels": 16, "decoder_block_out_channels": (16, 32, 32, 32), "decoder_layers_per_block": (2, 2, 2, 2, 2)}
    INPUTS = {"latent_sample": (1, 16, 2, 1, 2)}
    TIME = None

    def __init__(self):
        super().__init__()
        self.network = AutoencoderKLLTXVideo(**self.CONFIG)
        del self.network.encoder

    def forward(self, latent_sample):
        column = [value.view(1, -1, 1, 1, 1) for value in (self.network.latents_std, self.network.latents_mean)]
        return self.network.decode(latent_sample * column[0] / self.network.config.scaling_factor + column[1], return_dict=False)[0]


class WanVae(torch.nn.Module):
    """The step that each latent but a video's first takes: four frames of it, and what its layers have seen, which is renewed."""

    CONFIG = {"base_dim": 16, "num_res_blocks": 1}
    LATENT = (1, 16, 1, 2, 2)
    TIME = None

    def __init__(self):
        super().__init__()
        self.network = AutoencoderKLWan(**self.CONFIG)
        del self.network.encoder, self.network.quant_conv
        self.network.clear_cache()
        seen = self.network._feat_map
        for begins in (True, False, False):
            self.network.decoder(torch.zeros(self.LATENT), feat_cache=seen, feat_idx=[0], first_chunk=begins)
        kept = [value for value in seen if isinstance(value, torch.Tensor)]
        self.INPUTS = {"latent_sample": self.LATENT, **{f"seen.{n}": tuple(value.shape) for n, value in enumerate(kept)}}
        config = self.network.config
        self.mean, self.deviation = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))

    def forward(self, latent_sample, *seen):
        kept = list(seen)
        x = self.network.post_quant_conv(latent_sample * self.deviation + self.mean)
        return self.network.decoder(x, feat_cache=kept, feat_idx=[0], first_chunk=False), *kept


NETWORKS = {"ltx": Ltx, "wan": Wan, "stable-audio": StableAudio, "ace-step": AceStep, "oobleck": Oobleck, "ltx-vae": LtxVae, "wan-vae": WanVae}


def fill(module: torch.nn.Module, first: int) -> list[dict]:
    table = []
    for number, (name, value) in enumerate(sorted((name, value) for name, value in module.state_dict().items() if torch.is_floating_point(value))):
        shape = tuple(value.shape)
        scale, add = scale_of(name, shape, 1.0)
        value.copy_(hashed(first + number, shape, scale, add))
        table.append({"name": name, "shape": list(shape), "scale": scale, "add": add})
    return table


def once(model: onnx.ModelProto) -> None:
    """Leaves one of constants that are equal: TorchScript's has the tables of positions at every use."""
    first, names = {}, {}
    for initializer in list(model.graph.initializer):
        key = (initializer.data_type, tuple(initializer.dims), numpy_helper.to_array(initializer).tobytes())
        if key in first:
            names[initializer.name] = first[key]
            model.graph.initializer.remove(initializer)
        else:
            first[key] = initializer.name
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = names.get(name, name)


def take_weights_out(model: onnx.ModelProto, network: torch.nn.Module) -> list[str]:
    """Points every initializer that is a weight at its file; returns which are read transposed."""
    straight, turned = {}, {}
    for name, value in network.state_dict().items():
        straight[value.numpy().tobytes()] = name
        if value.dim() == 2:
            turned[value.t().contiguous().numpy().tobytes()] = name
    inline, transposed = 0, set()
    for initializer in model.graph.initializer:
        content = numpy_helper.to_array(initializer).tobytes()
        if len(content) > 8 and content in straight:
            point(initializer, f"made/{straight[content]}", 0, len(content))
        elif content in turned:
            point(initializer, f"T/{turned[content]}", 0, len(content))
            transposed.add(turned[content])
        else:
            inline += len(content)
    if inline > INLINE_LIMIT:
        raise ValueError(f"{inline} bytes of constants")
    return sorted(transposed)


def write_weights(folder: Path, network: torch.nn.Module) -> None:
    """The files that the graphs point at: what the bench makes in the browser."""
    for name, value in network.state_dict().items():
        for kind, content in (("made", value), *([("T", value.t().contiguous())] if value.dim() == 2 else [])):
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / name).write_bytes(content.numpy().tobytes())


def run(folder: Path, graph: Path, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    model = folder / graph.name
    model.write_bytes(graph.read_bytes())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def check(name: str, what: str, folder: Path, graph: Path, inputs: dict[str, torch.Tensor], expected: np.ndarray) -> None:
    difference = float(np.abs(run(folder, graph, inputs) - expected).max() / expected.std())
    if difference > 1e-4:
        raise ValueError(f"{name}, {what}: differs from torch by {difference} of the spread")
    print(f"{name}, {what}: {graph.stat().st_size / 1e3:.0f} kB, {difference:.1e} of the spread from torch", flush=True)


@torch.no_grad()
def make(name: str) -> dict:
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    tensors = fill(module.network, 0)
    inputs = {key: hashed(INPUT + k, shape, 1.0, 0.0) for k, (key, shape) in enumerate(module.INPUTS.items())}
    shapes = {key: list(value.shape) for key, value in inputs.items()}
    if module.TIME is not None:
        inputs["timestep"] = torch.tensor([module.TIME])
    out = lambda: (lambda value: value[0] if isinstance(value, tuple) else value)(module(*inputs.values())).contiguous().numpy()  # noqa: E731
    expected = out()
    if not np.isfinite(expected).all():
        raise ValueError(f"{name}: not finite")
    folder = fresh_folder(GRAPHS / "media" / name)
    graphs, refused = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_weights(scratch, module.network)
        for exporter, options in EXPORTERS.items():
            if module.TIME is None and exporter not in OF_DECODERS:
                continue
            path = folder / f"{exporter}.onnx"
            try:
                model = export(module, inputs, "out", options, scratch)
                once(model)
                facts = {"transposed": take_weights_out(model, module.network)}
                path.write_bytes(model.SerializeToString(deterministic=True))
                check(name, exporter, scratch, path, inputs, expected)
                graphs[exporter] = facts
            except Exception as error:  # noqa: BLE001  (each exporter has errors of its own, and one gives what no runtime takes)
                refused[exporter] = " ".join(str(error).split())[:300] or type(error).__name__
                path.unlink(missing_ok=True)
                print(f"{name} {exporter}: {refused[exporter]}", flush=True)
        if not graphs:
            raise ValueError(f"{name} cannot be exported")
        # Other weights show that nothing left inline depends on the first.
        if not getattr(module, "FOLDS", False):
            fill(module.network, 3000)
            write_weights(scratch, module.network)
            for exporter in graphs:
                check(name, f"{exporter}, other weights", scratch, folder / f"{exporter}.onnx", inputs, out())
            fill(module.network, 0)
    flat = expected.reshape(-1)
    exact = flat.astype(np.float64)
    print(f"{name}: {sum(value.numel() for value in module.network.state_dict().values()) / 1e6:.1f} M, output {expected.shape}, mean {exact.mean():.3f}, square {(exact**2).mean():.3f}", flush=True)
    return {
        "config": module.CONFIG,
        **({} if module.TIME is None else {"timestep": module.TIME}),
        "inputs": shapes,
        "output": list(expected.shape),
        "graphs": graphs,
        "refused": refused,
        "tensors": tensors,
        "length": int(flat.size),
        "square": float((exact**2).mean()),
        "values": [float(f"{flat[(n * 2654435761 + 12345) % flat.size]:.9g}") for n in range(SAMPLES)],
    }


def main(names: list[str]) -> None:
    path = GRAPHS / "media.json"
    known = json.loads(path.read_text())["networks"] if path.exists() else {}
    content = {"about": ABOUT, "networks": {name: make(name) if name in names else known[name] for name in NETWORKS if name in names or name in known}}
    rows = json.dumps(content, ensure_ascii=False, separators=(", ", ": "))
    # One tensor per line, so that a difference between two versions can be read.
    path.write_text(re.sub(r"(?<=[\]}]), (?=[\[{\"])", ",\n", rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
