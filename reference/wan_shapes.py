"""Names and shapes of the tensors of Wan 2.1 1.3B and 2.2 TI2V-5B as published, on the meta device; of blocks only the first is written down."""

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from files import GOLDENS, write_json

COMMON = dict(attention_head_dim=128, freq_dim=256, text_dim=4096)
VAE_22 = dict(base_dim=160, decoder_base_dim=256, z_dim=48, dim_mult=[1, 2, 4, 4], is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48)
MODELS = {
    "wan21_1_3b": (dict(**COMMON, num_attention_heads=12, ffn_dim=8960, num_layers=30, in_channels=16, out_channels=16), {}),
    "wan22_ti2v_5b": (dict(**COMMON, num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48), VAE_22),
}


def tensors(module: torch.nn.Module, blocks: str = "blocks.") -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items() if not name.startswith(blocks) or name.startswith(f"{blocks}0.")}


def make_shapes() -> None:
    models = {}
    with torch.device("meta"):
        for name, (transformer, vae) in MODELS.items():
            made = WanTransformer3DModel(**transformer)
            models[name] = {
                "transformer": {"config": transformer, "parameters": sum(p.numel() for p in made.parameters()), "tensors": tensors(made)},
                "vae": {"config": vae, "tensors": tensors(AutoencoderKLWan(**vae))},
            }
    write_json(GOLDENS / "wan_shapes.json", models)


if __name__ == "__main__":
    make_shapes()
