"""Trains the built-in checkpoint from nothing: `python training/train.py --out public/checkpoints/shapes`.

Stages, each resumable from `training/.runs/`: vae, text, latents, unet; then the export.
"""

from __future__ import annotations

import argparse
import multiprocessing
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
EXPORT_ONLY = False  # then a stage's run is loaded as far as it has come, and trained no further


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Run:
    """One stage: its steps, its learning rate, and the file it resumes from."""

    def __init__(self, name: str, modules: dict[str, torch.nn.Module], steps: int, lr: float, warmup: int = 100):
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

    def average_workers(self) -> None:
        """Local SGD: every process trains on its own batches, and now and then they share the mean."""
        with torch.no_grad():
            flat = torch.nn.utils.parameters_to_vector(self.parameters)
            torch.distributed.all_reduce(flat)
            torch.nn.utils.vector_to_parameters(flat / torch.distributed.get_world_size(), self.parameters)

    def train(self, loss_of, batch_of) -> None:
        """`batch_of(step)` must depend on nothing but the step, so that a resumed run is the same run."""
        losses, began = [], time.time()
        if EXPORT_ONLY:
            return
        if torch.distributed.is_initialized():
            for p in self.parameters:
                torch.distributed.broadcast(p.data, 0)
        while self.step < self.steps:
            progress = self.step / self.steps
            rate = float(self.lr * min((self.step + 1) / self.warmup, 0.5 + 0.5 * np.cos(np.pi * progress) + 0.01))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(self.step)
            batch = batch_of(self.step)
            self.optimizer.zero_grad()
            loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.parameters, max(0.002, 10 / (self.step + 10)))
            if torch.distributed.is_initialized() and self.step % SYNC_EVERY == 0:
                self.average_workers()
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

TEXT_STEPS = 700
BINS = 8  # positions are told apart in this many steps across the picture
# What the hidden states at the last positions (padding, for any ordinary prompt) have to know: three
# positions for the things in reading order, one for the background.
THING_CLASSES = (len(scenes.COLORS) + 1, len(scenes.SHAPES) + 1, len(scenes.SIZES) + 1, BINS + 1, BINS + 1)
BACKGROUND_CLASSES = (3, len(scenes.COLORS), len(scenes.COLORS))


def text_targets(scene: scenes.Scene | None) -> list[int]:
    colors, shapes = list(scenes.COLORS), list(scenes.SHAPES)
    targets = []
    for i in range(3):
        if scene is None or i >= len(scene.things):
            targets += [n - 1 for n in THING_CLASSES]
            continue
        t = scene.things[i]
        place = [min(int(c / scenes.SIZE * BINS), BINS - 1) for c in (t.x, t.y)]
        targets += [colors.index(t.color), shapes.index(t.shape), scenes.SIZES.index(t.size), *place]
    if scene is None:
        return targets + [0, colors.index("white"), colors.index("white")]
    kind = ("plain", "gradient", "split").index(scene.background)
    return targets + [kind, colors.index(scene.colors[0]), colors.index(scene.colors[-1])]


def tokenize(tokenizer, captions: list[str]) -> torch.Tensor:
    kwargs = {"padding": "max_length", "max_length": networks.TEXT_LENGTH, "truncation": True}
    return tokenizer(captions, return_tensors="pt", **kwargs).input_ids


def train_text(tokenizer):
    """Teaches the text encoder to read: what things the sentence names, and where they are."""
    torch.manual_seed(1)
    encoder = networks.make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    thing_head = torch.nn.Linear(networks.TEXT_WIDTH, sum(THING_CLASSES))
    background_head = torch.nn.Linear(networks.TEXT_WIDTH, sum(BACKGROUND_CLASSES))
    modules = {"encoder": encoder, "thing_head": thing_head, "background_head": background_head}
    run = Run("text", modules, TEXT_STEPS, 1.5e-3)

    def batch_of(step: int):
        rng = random.Random(f"text {step}")
        drawn = [scenes.sample_scene(rng) if rng.random() > 0.02 else None for _ in range(32)]
        captions = [scenes.caption(scene, rng) if scene else "" for scene in drawn]
        return tokenize(tokenizer, captions), torch.tensor([text_targets(scene) for scene in drawn])

    def loss_of(batch) -> torch.Tensor:
        tokens, targets = batch
        hidden = encoder(tokens).last_hidden_state
        logits = [*thing_head(hidden[:, -4:-1]).unbind(1), background_head(hidden[:, -1])]
        pieces = [p for row in logits[:3] for p in row.split(THING_CLASSES, -1)]
        pieces += logits[3].split(BACKGROUND_CLASSES, -1)
        return sum(F.cross_entropy(p, targets[:, i]) for i, p in enumerate(pieces)) / len(pieces)

    run.train(loss_of, batch_of)
    run.use_ema()
    return encoder


# --- latents ---

SHARDS, SHARD_SCENES = 6, 1250


def shard_scenes(shard: int) -> list[scenes.Scene]:
    rng = random.Random(f"latents {shard}")
    return [scenes.sample_scene(rng) for _ in range(SHARD_SCENES)]


def encode_shard(shard: int) -> None:
    """Pictures as latents, once, so that the training of the UNet needs no VAE."""
    path = RUNS / f"latents-{shard}.pt"
    if path.exists():
        return
    torch.set_num_threads(1)
    vae = train_vae()
    drawn = shard_scenes(shard)
    with torch.no_grad():
        parts = [
            vae.encode(to_tensor(np.stack([scenes.render(s) for s in drawn[i : i + 20]]))).latent_dist.mean
            for i in range(0, len(drawn), 20)
        ]
    torch.save(torch.cat(parts).half(), path)
    log(f"latents {shard}")


def all_latents() -> torch.Tensor:
    return torch.cat([torch.load(RUNS / f"latents-{i}.pt") for i in range(SHARDS)]).float()


def latent_scale(latents: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The mean of every channel, and the factor that brings the rest to a standard deviation of one."""
    mean = latents.mean((0, 2, 3))
    return mean, round(1 / (latents - mean[:, None, None]).std().item(), 4)


# --- decoder ---

DECODER_STEPS = 1500


def train_decoder():
    """With the encoder at rest, teaches the decoder alone to draw sharp edges from its latents."""
    torch.manual_seed(3)
    vae = train_vae()
    halves = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    for half in halves.values():
        half.requires_grad_(True)
    run = Run("decoder", halves, DECODER_STEPS, 2e-3)
    latents = all_latents()
    drawn = [s for shard in range(SHARDS) for s in shard_scenes(shard)]

    def batch_of(step: int):
        rng = random.Random(f"decoder {step}")
        inputs, targets = [], []
        for _ in range(16):
            i = rng.randrange(len(drawn))
            thing = rng.choice(drawn[i].things)
            x, y = (min(max(round(c / 8 - 4 + rng.uniform(-2.5, 2.5)), 0), 8) for c in (thing.x, thing.y))
            inputs.append(latents[i, :, y : y + 8, x : x + 8])
            targets.append(scenes.render(drawn[i])[8 * y : 8 * y + 64, 8 * x : 8 * x + 64])
        return torch.stack(inputs), to_tensor(np.stack(targets))

    def loss_of(batch) -> torch.Tensor:
        clean, pictures = batch
        error = vae.decode(clean + 0.05 * torch.randn_like(clean)).sample - pictures
        return error.abs().mean() + error.square().mean()

    run.train(loss_of, batch_of)
    run.use_ema()
    return vae


# --- unet ---

UNET_STEPS, UNET_BATCH = 8000, 16
NO_CAPTION = 0.1  # of the samples, for classifier-free guidance
SYNC_EVERY = 10


def train_unet(encoder, tokenizer, rank: int = 0):
    torch.manual_seed(2)
    unet = networks.make_unet()
    run = Run("unet" if rank == 0 else f"unet-{rank}", {"unet": unet}, UNET_STEPS, 2e-3)
    latents = all_latents()
    mean, factor = latent_scale(latents)
    latents = (latents - mean[:, None, None]) * factor
    drawn = [s for shard in range(SHARDS) for s in shard_scenes(shard)]
    alphas = make_scheduler().alphas_cumprod

    def batch_of(step: int):
        rng = random.Random(f"unet {rank} {step}")
        chosen = [rng.randrange(len(drawn)) for _ in range(UNET_BATCH)]
        captions = [scenes.caption(drawn[i], rng) if rng.random() > NO_CAPTION else "" for i in chosen]
        return latents[chosen], tokenize(tokenizer, captions)

    def loss_of(batch) -> torch.Tensor:
        clean, tokens = batch
        with torch.no_grad():
            text = encoder(tokens).last_hidden_state
        t = torch.randint(0, len(alphas), (len(clean),))
        signal, noise_level = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        noise = torch.randn_like(clean)
        velocity = signal * noise - noise_level * clean
        return F.mse_loss(unet(signal * clean + noise_level * noise, t, text).sample, velocity)

    run.train(loss_of, batch_of)
    run.use_ema()
    return unet


def unet_worker(rank: int, workers: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{(RUNS / 'rendezvous').resolve()}", rank=rank, world_size=workers
    )
    tokenizer = load_tokenizer(RUNS / "tokenizer")
    train_unet(train_text(tokenizer), tokenizer, rank)
    torch.distributed.destroy_process_group()


def export_runs(out: Path) -> None:
    """Exports what there is: also in the middle of a run, whose averaged weights are then used."""
    tokenizer = load_tokenizer(RUNS / "tokenizer")
    vae, encoder = train_decoder(), train_text(tokenizer)
    mean, factor = latent_scale(all_latents())
    with torch.no_grad():  # the mean moves into the convolutions on both sides of the latents
        vae.quant_conv.bias[:4] -= mean
        vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.register_to_config(scaling_factor=factor)
    export(out, vae, encoder, train_unet(encoder, tokenizer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=("vae", "text", "latents", "decoder", "unet", "export"), help="only this one")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(exist_ok=True)
    write_tokenizer(RUNS / "tokenizer")
    if args.stage in (None, "vae"):
        train_vae()
    if args.stage in (None, "text"):
        train_text(load_tokenizer(RUNS / "tokenizer"))
    if args.stage in (None, "latents"):
        with multiprocessing.Pool(args.workers) as pool:
            pool.map(encode_shard, range(SHARDS), chunksize=1)
    if args.stage in (None, "decoder"):
        train_decoder()
    if args.stage in (None, "unet"):
        (RUNS / "rendezvous").unlink(missing_ok=True)
        torch.multiprocessing.spawn(unet_worker, (args.workers,), nprocs=args.workers)
    if args.stage in (None, "export"):
        EXPORT_ONLY = True
        export_runs(args.out)
