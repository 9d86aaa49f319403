"""Golden inputs and outputs of each network on its own: text encoder, UNet, autoencoder."""

import torch

from files import CHECKPOINTS, GOLDENS, write_json, write_tensors
from models import load
from pictures import picture

PROMPTS = ["a lighthouse at dusk, oil painting", "", "Straße in München! 42 🐱"]
# latent height, latent width, batch, timestep of each batch row
UNET_CASES = [(8, 8, 1, [501.0]), (8, 8, 2, [981.0, 21.0]), (8, 16, 1, [0.0]), (8, 16, 2, [999.0, 437.5])]


@torch.no_grad()
def make_components(checkpoint: str, seed: int) -> None:
    pipeline = load(checkpoint)
    unet, vae = pipeline.unet, pipeline.vae
    generator = torch.Generator().manual_seed(seed)
    tensors, names = {}, {}

    def keep(name: str, tensor: torch.Tensor, what: str) -> torch.Tensor:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{checkpoint} {name} is not finite")
        tensors[name] = tensor
        names[name] = what
        return tensor

    embeddings = []
    for index, prompt in enumerate(PROMPTS):
        ids = pipeline.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        keep(f"input_ids.{index}", ids.to(torch.int32), f"token ids of {prompt!r}")
        embeddings.append(
            keep(
                f"prompt_embeds.{index}",
                pipeline.text_encoder(ids).last_hidden_state,
                f"last_hidden_state (after the final LayerNorm) of input_ids.{index}",
            )
        )

    for index, (height, width, batch, timesteps) in enumerate(UNET_CASES):
        sample = torch.randn(batch, 4, height, width, generator=generator)
        states = torch.cat([embeddings[(index + row) % len(embeddings)] for row in range(batch)])
        times = torch.tensor(timesteps)
        keep(f"unet.{index}.sample", sample, "UNet input, batch x 4 x height x width")
        keep(f"unet.{index}.timestep", times, "one timestep per batch row")
        keep(f"unet.{index}.encoder_hidden_states", states, "text embeddings, one per batch row")
        keep(f"unet.{index}.out", unet(sample, times, states).sample, "UNet output")

    image = pipeline.image_processor.preprocess(picture(96, 64, seed))
    keep("vae.image", image, "picture in [-1, 1]")
    encoded = vae.encode(image)
    if hasattr(encoded, "latent_dist"):
        latents = keep("vae.moments", encoded.latent_dist.parameters, "mean and log variance side by side, unscaled")[:, :4]
    else:
        latents = keep("vae.latents", encoded.latents, "encoder output, unscaled")
    noise = torch.randn(latents.shape, generator=generator) * 0.3 / vae.config.scaling_factor
    decode_in = keep("vae.decode_in", latents + noise, "decoder input, already divided by scaling_factor")
    keep("vae.decode_out", vae.decode(decode_in).sample, "decoder output, not clamped")

    folder = GOLDENS / "components"
    write_tensors(folder / f"{checkpoint}.safetensors", tensors)
    about = "Each network alone, diffusers/transformers in float32 on the CPU; half-precision weights widened first."
    shapes = {name: {"shape": list(tensors[name].shape), "what": what} for name, what in names.items()}
    write_json(folder / f"{checkpoint}.json", {"about": about, "checkpoint": checkpoint, "scaling_factor": vae.config.scaling_factor, "tensors": shapes})


def make_all_components() -> None:
    for seed, folder in enumerate(sorted(CHECKPOINTS.iterdir())):
        make_components(folder.name, seed)
