"""
LTX-Video 0.9.0 and 0.9.5 in the one file that their authors publish, without the weights (test/original_layouts), and what diffusers makes with the
same networks (test/goldens/split_files). Called by split_files.py.

As split_flows.py: weights follow from the formula under the file's own names, and what these mean is decided by diffusers' conversion
(loaders/single_file_utils.py). That tells the versions by the published widths, so it is given the names with a tensor of such a width.
"""

import torch
from diffusers import LTXConditionPipeline, LTXPipeline, LTXVideoTransformer3DModel
from diffusers.loaders import single_file_utils

import ltx
import t5
from files import fresh_folder, write_json, write_tensors
from mmdit_files import load, prefixed, shapes_of, without, write_table
from split_flows import RESULTS, TRANSFORMER
from flow_pipelines import scale_of
from weightless import hashed

VAE = "vae."
READER = "text_encoders.t5xxl.transformer."

# Of the autoencoder, by version: what comes first decides.
OLDER = {
    "decoder.mid_block": "decoder.up_blocks.0", "decoder.up_blocks.0": "decoder.up_blocks.1",
    **{f"decoder.up_blocks.{n}.{own}": f"decoder.up_blocks.{3 * n - 1 + at}" for n in (2, 3) for own, at in (("conv_in", -1), ("upsamplers.0", 0))},
    "decoder.up_blocks.1.upsamplers.0": "decoder.up_blocks.2", "decoder.up_blocks.1": "decoder.up_blocks.3", "decoder.up_blocks.2": "decoder.up_blocks.6", "decoder.up_blocks.3": "decoder.up_blocks.9",
    "encoder.down_blocks.0.downsamplers.0": "encoder.down_blocks.1", "encoder.down_blocks.0.conv_out": "encoder.down_blocks.2", "encoder.down_blocks.0": "encoder.down_blocks.0",
    "encoder.down_blocks.1.downsamplers.0": "encoder.down_blocks.4", "encoder.down_blocks.1.conv_out": "encoder.down_blocks.5", "encoder.down_blocks.1": "encoder.down_blocks.3",
    "encoder.down_blocks.2.downsamplers.0": "encoder.down_blocks.7", "encoder.down_blocks.2": "encoder.down_blocks.6", "encoder.down_blocks.3": "encoder.down_blocks.8", "encoder.mid_block": "encoder.down_blocks.9",
}
NEWER = {
    "decoder.mid_block": "decoder.up_blocks.0",
    **{f"decoder.up_blocks.{n}.upsamplers.0": f"decoder.up_blocks.{2 * n + 1}" for n in range(3)}, **{f"decoder.up_blocks.{n}": f"decoder.up_blocks.{2 * n + 2}" for n in range(3)},
    **{f"encoder.down_blocks.{n}.downsamplers.0": f"encoder.down_blocks.{2 * n + 1}" for n in range(4)}, **{f"encoder.down_blocks.{n}": f"encoder.down_blocks.{2 * n}" for n in range(4)}, "encoder.mid_block": "encoder.down_blocks.8",
    "decoder.time_embedder": "decoder.last_time_embedder", "decoder.scale_shift_table": "decoder.last_scale_shift_table",
}
STATISTICS = {"latents_mean": "per_channel_statistics.mean-of-means", "latents_std": "per_channel_statistics.std-of-means"}


def vae_name(name: str, rules: dict[str, str]) -> str:
    if name in STATISTICS:
        return STATISTICS[name]
    for own, theirs in rules.items():
        if name.startswith(own + ".") or name == own:
            name = theirs + name[len(own):]
            break
    return name.replace(".resnets.", ".res_blocks.").replace("conv_shortcut.conv.", "conv_shortcut.").replace("norm3.", "norm3.norm.")


def transformer_name(name: str) -> str:
    return name.replace("proj_in.", "patchify_proj.").replace("time_embed.", "adaln_single.").replace("norm_q.", "q_norm.").replace("norm_k.", "k_norm.")


def converted(tensors: dict[str, torch.Tensor], is_newer: bool) -> dict[str, torch.Tensor]:
    """What diffusers makes of the autoencoder's names."""
    own = {name: value for name, value in tensors.items() if name.startswith(VAE)}
    told = {name: torch.empty(1, 2048 if is_newer else 512) if name == f"{VAE}encoder.conv_out.conv.weight" else value for name, value in own.items()}
    names = {id(value): name for name, value in told.items()}
    return {name: own[names[id(value)]] for name, value in single_file_utils.convert_ltx_vae_checkpoint_to_diffusers(told).items()}


GAINS = {"scale_shift_table": 2.0, f"{TRANSFORMER}proj_out": 0.7, "decoder.conv_out": 0.4}
OWN = {theirs: own for own, theirs in STATISTICS.items()}


def filled(shapes: dict[str, list[int]], table: list[dict]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, shape in sorted(shapes.items()):
        gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
        scale, add = scale_of(OWN.get(name.removeprefix(VAE), name), shape, gain)
        table.append({"number": len(table), "name": name, "shape": shape, "scale": scale, "add": add})
        tensors[name] = hashed(table[-1]["number"], tuple(shape), scale, add)
    return tensors


def make(name: str, is_newer: bool, parameters: dict) -> None:
    words = t5.tokenizer(ltx.SPIECE, 256 if is_newer else 128)
    # As many heads as published, since no shape tells them.
    transformer = LTXVideoTransformer3DModel(in_channels=ltx.CHANNELS, out_channels=ltx.CHANNELS, num_attention_heads=32, attention_head_dim=4, cross_attention_dim=128, num_layers=2, caption_channels=96)
    vae, reader = (ltx.newer_autoencoder if is_newer else ltx.autoencoder)(), t5.t5(len(words))
    rules = NEWER if is_newer else OLDER
    shapes = {
        **prefixed(TRANSFORMER, {transformer_name(own): shape for own, shape in shapes_of(transformer).items()}),
        **prefixed(READER, {own: shape for own, shape in shapes_of(reader).items() if own != "encoder.embed_tokens.weight"}),
        **prefixed(VAE, {vae_name(own, rules): shape for own, shape in shapes_of(vae).items()}),
    }
    table: list[dict] = []
    tensors = filled(shapes, table)
    write_table(name.replace("-", "_"), table)
    load(transformer, single_file_utils.convert_ltx_transformer_checkpoint_to_diffusers({own: value for own, value in tensors.items() if own.startswith(TRANSFORMER)}))
    states = without(tensors, READER)
    load(reader, {**states, "encoder.embed_tokens.weight": states["shared.weight"]})
    load(vae, converted(tensors, is_newer))
    scheduler = ltx.newer().scheduler if is_newer else ltx.older().scheduler
    pipeline = (LTXConditionPipeline if is_newer else LTXPipeline)(scheduler=scheduler, vae=vae, text_encoder=reader, tokenizer=words, transformer=transformer)
    pipeline.set_progress_bar_config(disable=True)
    given = {{"steps": "num_inference_steps", "frames": "num_frames", "rate": "frame_rate"}.get(key, key): value for key, value in parameters.items()}
    order = ltx.unpacked(pipeline, parameters)
    run = lambda output: pipeline(**given, generator=torch.Generator("cpu").manual_seed(42), output_type=output).frames
    with torch.no_grad():
        latents, pixels = run("latent"), (run("np")[0] * 255).round().astype("uint8")
    latents = order(latents)
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, pixels {pixels.shape} from {pixels.min()} to {pixels.max()}")
    folder = fresh_folder(RESULTS / name)
    write_json(folder / "operation.json", {"operation": "video_generation", "config": "ltx", "parameters": {**parameters, "seed": "42"}, "record": ["latents"]})
    write_json(folder / "case.json", {"checkpoint": name})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "pixels": torch.from_numpy(pixels)})


SIZE = dict(prompt="a red house at the edge of the forest", negative_prompt="blurry", steps=3, guidance_scale=3, width=64, height=32, frames=9, rate=25)


def make_ltx_files() -> None:
    make("ltx-file", False, SIZE)
    make("ltx-file-095", True, {**SIZE, **ltx.NOISE})


if __name__ == "__main__":
    make_ltx_files()
