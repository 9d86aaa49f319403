"""Trains the built-in checkpoint from nothing: `python training/train.py --out public/checkpoints/shapes`.

Stages, each resumable at any minute from `training/.runs/`: vae, text, latents, unet; then the export. `--stage` runs one.

The text encoder learns first to read: its hidden states at the last 4 of the 77 positions (padding, for any ordinary
prompt) are taught to say what things the sentence names, where they stand, and on what. Then it is frozen, and the UNet only
has to look there.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import networks
import scenes
from export import export, make_scheduler
from tokenizer import load_tokenizer, write_tokenizer

RUNS = Path(__file__).parent / ".runs"
DROP_CAPTION = 0.1  # for classifier-free guidance


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Run:
    """One stage: its steps, its learning rate, and the file it resumes from."""

    def __init__(self, name: str, modules: dict[str, torch.nn.Module], steps: int, lr: float, warmup: int = 50):
        self.path = RUNS / f"{name}.pt"
        self.name, self.modules, self.steps, self.lr, self.warmup = name, modules, steps, lr, warmup
        self.parameters = [p for m in modules.values() for p in m.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.ema = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            state = torch.load(self.path)
            for key, module in modules.items():
                module.load_state_dict(state[key])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]

    def save(self) -> None:
        state = {key: m.state_dict() for key, m in self.modules.items()}
        state |= {"optimizer": self.optimizer.state_dict(), "ema": self.ema}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").rename(self.path)

    def use_ema(self) -> None:
        """Puts the averaged weights into the modules, which are then for use only."""
        with torch.no_grad():
            for p, average in zip(self.parameters, self.ema):
                p.copy_(average)
        for module in self.modules.values():
            module.eval().requires_grad_(False)

    def train(self, loss_of, batch_of, stop: float | None = None) -> None:
        """`batch_of(step)` depends on nothing but the step, so that a resumed run is the same run."""
        losses, began = [], time.time()
        while self.step < self.steps and not (stop and time.time() > stop):
            rate = float(self.lr * min((self.step + 1) / self.warmup, 0.5 + 0.5 * np.cos(np.pi * self.step / self.steps) + 0.02))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(self.step)
            self.optimizer.zero_grad()
            loss = loss_of(batch_of(self.step))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.parameters, max(0.005, 10 / (self.step + 10)))
            losses.append(loss.item())
            if self.step % 50 == 0 or self.step == self.steps:
                self.seconds += time.time() - began
                began = time.time()
                log(f"{self.name} {self.step}/{self.steps} loss {np.mean(losses):.5f} {self.seconds:.0f} s")
                losses = []
            if self.step % 200 == 0 or self.step == self.steps:
                self.save()


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- vae ---

VAE_STEPS, VAE_WHOLE_STEPS = 900, 60  # on 64x64 crops, then on whole pictures
KL_WEIGHT = 4e-4


def vae_batch(step: int) -> torch.Tensor:
    rng = random.Random(f"vae {step}")
    whole = step >= VAE_STEPS
    pictures = []
    for i in range(8 if whole else 16):
        scene = scenes.sample_scene(rng)
        palette = scenes.COLORS
        if i % 2:  # any colours, for pictures that are not ours
            palette = {name: tuple(rng.randrange(256) for _ in range(3)) for name in palette}
        picture = scenes.render(scene, palette)
        if not whole:
            thing = rng.choice(scene.things)
            x, y = (round(min(max(c - 32 + rng.uniform(-24, 24), 0), 64)) for c in (thing.x, thing.y))
            picture = picture[y : y + 64, x : x + 64]
        pictures.append(picture)
    return to_tensor(np.stack(pictures))


def train_vae():
    torch.manual_seed(0)
    vae = networks.make_vae()
    run = Run("vae", {"vae": vae}, VAE_STEPS + VAE_WHOLE_STEPS, 2e-3)

    def loss_of(pictures: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return error.abs().mean() + error.square().mean() + KL_WEIGHT * kl

    run.train(loss_of, vae_batch)
    run.use_ema()
    return vae


# --- text ---

TEXT_STEPS, TEXT_BATCH = 1500, 32
BINS = 8  # positions are told apart in this many steps across the picture
# What the hidden states at the last positions (padding, for any ordinary prompt) have to know: three positions for the
# things in reading order, one for the background.
THING_CLASSES = (len(scenes.COLORS) + 1, len(scenes.SHAPES) + 1, 3, BINS + 1, BINS + 1)


def text_targets(scene: scenes.Scene) -> list[int]:
    colors, shapes = list(scenes.COLORS), list(scenes.SHAPES)
    targets = []
    for i in range(3):
        if i >= len(scene.things):
            targets += [n - 1 for n in THING_CLASSES]
            continue
        t = scene.things[i]
        place = [min(int(c / scenes.SIZE * BINS), BINS - 1) for c in (t.x, t.y)]
        targets += [colors.index(t.color), shapes.index(t.shape), int(t.size == "big"), *place]
    return targets + [colors.index(scene.background)]


def tokenize(tokenizer, captions: list[str]) -> torch.Tensor:
    kwargs = {"padding": "max_length", "max_length": networks.TEXT_LENGTH, "truncation": True}
    return tokenizer(captions, return_tensors="pt", **kwargs).input_ids


def train_text(tokenizer):
    """Teaches the text encoder to read: what things the sentence names, and where they are."""
    torch.manual_seed(1)
    encoder = networks.make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    thing_head = torch.nn.Linear(networks.TEXT_WIDTH, sum(THING_CLASSES))
    background_head = torch.nn.Linear(networks.TEXT_WIDTH, len(scenes.COLORS))
    modules = {"encoder": encoder, "thing_head": thing_head, "background_head": background_head}
    run = Run("text", modules, TEXT_STEPS, 1.5e-3)

    def batch_of(step: int):
        rng = random.Random(f"text {step}")
        drawn = [scenes.sample_scene(rng) for _ in range(TEXT_BATCH)]
        captions = [scenes.caption(scene, rng) for scene in drawn]
        return tokenize(tokenizer, captions), torch.tensor([text_targets(scene) for scene in drawn])

    def loss_of(batch) -> torch.Tensor:
        tokens, targets = batch
        hidden = encoder(tokens).last_hidden_state
        logits = [*thing_head(hidden[:, -4:-1]).unbind(1), background_head(hidden[:, -1])]
        pieces = [p for row in logits[:3] for p in row.split(THING_CLASSES, -1)] + [logits[3]]
        return sum(F.cross_entropy(p, targets[:, i]) for i, p in enumerate(pieces)) / len(pieces)

    run.train(loss_of, batch_of)
    run.use_ema()
    return encoder


# --- latents ---

POOL, POOL_PART = 5000, 500


def make_latents(vae) -> tuple[torch.Tensor, list[str]]:
    """Latent means of a fixed pool of scenes, two captions to each."""
    parts, captions = [], []
    for part in range(POOL // POOL_PART):
        rng = random.Random(f"latents {part}")
        drawn = [scenes.sample_scene(rng) for _ in range(POOL_PART)]
        captions += [scenes.caption(scene, rng) for scene in drawn for _ in range(2)]
        path = RUNS / f"pool-{part}.pt"
        if not path.exists():
            with torch.no_grad():
                pictures = [to_tensor(np.stack([scenes.render(s) for s in drawn[i : i + 25]])) for i in range(0, POOL_PART, 25)]
                torch.save(torch.cat([vae.encode(p).latent_dist.mean for p in pictures]), path)
            log(f"latents {part + 1}/{POOL // POOL_PART}")
        parts.append(torch.load(path))
    return torch.cat(parts), captions


@torch.no_grad()
def encode_captions(encoder, tokenizer, captions: list[str]) -> torch.Tensor:
    batches = [tokenize(tokenizer, captions[i : i + 250]) for i in range(0, len(captions), 250)]
    return torch.cat([encoder(batch).last_hidden_state.half() for batch in batches])


# --- unet ---

UNET_STEPS, UNET_BATCH = 3400, 16
LAYOUT_STEPS = 1000  # first where things are, then how they look
SHAPE_WEIGHT = 3


def train_unet(latents: torch.Tensor, states: torch.Tensor, empty: torch.Tensor, scale: float, stop: float | None = None):
    torch.manual_seed(2)
    unet = networks.make_unet()
    run = Run("unet", {"unet": unet}, UNET_STEPS, 1.5e-3, 100)
    alphas = make_scheduler().alphas_cumprod
    latents = latents * scale

    def batch_of(step: int):
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(len(latents), (UNET_BATCH,), generator=generator)
        which = index * 2 + torch.randint(2, (UNET_BATCH,), generator=generator)
        text = states[which].float()
        text[torch.rand(UNET_BATCH, generator=generator) < DROP_CAPTION] = empty
        # The text decides at high noise, the looks are made at low noise.
        uniform = torch.rand(UNET_BATCH, generator=generator)
        elsewhere = torch.rand(UNET_BATCH, generator=generator) < 0.3
        if step < LAYOUT_STEPS:
            share = torch.where(elsewhere, uniform, 0.4 + 0.6 * uniform)
        else:
            share = torch.where(elsewhere, 0.4 + 0.6 * uniform, 0.6 * uniform)
        times = (1000 * share).long()
        noise = torch.randn(latents[:UNET_BATCH].shape, generator=generator)
        return latents[index], noise, times, text

    def loss_of(batch) -> torch.Tensor:
        clean, noise, times, text = batch
        a, s = alphas[times].sqrt()[:, None, None, None], (1 - alphas[times]).sqrt()[:, None, None, None]
        # Shapes are small beside their background, so what differs from it (from the corner) counts more.
        weight = 1 + SHAPE_WEIGHT * ((clean - clean[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.5)
        error = unet(a * clean + s * noise, times, text).sample - (a * noise - s * clean)
        return (weight * error.square()).sum() / (weight.sum() * clean.shape[1])

    run.train(loss_of, batch_of, stop)
    run.save()
    run.use_ema()
    return unet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=["vae", "text", "latents", "unet"], help="stop after this one")
    parser.add_argument("--minutes", type=float, help="stop the unet stage after so many and export what there is")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stop = time.time() + 60 * args.minutes if args.minutes else None
    RUNS.mkdir(exist_ok=True)
    if not (RUNS / "tokenizer").exists():
        write_tokenizer(RUNS / "tokenizer")
    tokenizer = load_tokenizer(RUNS / "tokenizer")

    if args.stage == "text":
        train_text(tokenizer)
        return
    vae = train_vae()
    if args.stage == "vae":
        return
    latents, captions = make_latents(vae)
    if args.stage == "latents":
        return
    encoder = train_text(tokenizer)
    states, empty = encode_captions(encoder, tokenizer, captions), encode_captions(encoder, tokenizer, [""])[0].float()
    scale = 1 / latents.std().item()
    vae.register_to_config(scaling_factor=scale)
    unet = train_unet(latents, states, empty, scale, stop)
    export(args.out, RUNS / "tokenizer", vae, encoder, unet)
    log(f"exported to {args.out}")


if __name__ == "__main__":
    main()
