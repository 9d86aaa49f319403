"""The few-step variant: a student that does in one step what its teacher does in several, guidance included.

The teacher paints whole pictures in many small DDIM steps with guidance; the student learns the straight way between
every few of them (compare progressive distillation, https://arxiv.org/abs/2202.00512, and piecewise rectified flow,
https://arxiv.org/abs/2405.07510). No adversary, and nothing but DDIM is needed to paint with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch
from diffusers import UNet2DConditionModel

from networks import LATENT_CHANNELS, Size
from runs import Run, Workplace, log, save_whole

STEPS = 4  # of the student


@dataclass(frozen=True)
class Waypoints:
    """Where the teacher's pictures were at the student's timesteps: float16 [n, STEPS + 1, channels, height, width], from
    noise to the finished latents; and what they show, int16 [n, tokens]."""

    latents: torch.Tensor
    tokens: torch.Tensor


def trailing_timesteps(steps: int, trained: int) -> list[int]:
    """As diffusers' DDIM spaces them "trailing": 999, 749, 499, 249 for 4 of 1000."""
    return [round(trained * (steps - i) / steps) - 1 for i in range(steps)]


@dataclass(frozen=True)
class Levels:
    """Shares of picture and noise, √ᾱ and √(1−ᾱ), by timestep; before the first there is no noise."""

    alphas: torch.Tensor  # ᾱ, float [trained]

    def at(self, timestep: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        timestep = torch.as_tensor(timestep, device=self.alphas.device)
        alpha = torch.where(timestep >= 0, self.alphas[timestep.clamp(min=0)], torch.ones((), device=self.alphas.device))
        return alpha.sqrt(), (1 - alpha).sqrt()


def ddim_step(levels: Levels, x: torch.Tensor, v: torch.Tensor, now: int, then: int) -> torch.Tensor:
    (a, s), (b, r) = levels.at(now), levels.at(then)
    return b * (a * x - s * v) + r * (s * x + a * v)


@torch.no_grad()
def paint_waypoints(
    teacher: UNet2DConditionModel,
    place: Workplace,
    levels: Levels,
    tokens: torch.Tensor,
    states_of: Callable[[torch.Tensor], torch.Tensor],
    empty: torch.Tensor,
    guidance: float,
    substeps: int,
    size: Size,
    seed: int,
) -> Waypoints:
    """tokens: int16 [n, tokens]; states_of makes [n, tokens, width] of them; empty: [tokens, width] of the empty prompt;
    substeps: the teacher's, for one of the student's."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(tokens), LATENT_CHANNELS, size.latent, size.latent)
    x = torch.randn(shape, generator=generator).to(place.device)
    states = torch.cat([states_of(tokens), empty.expand(len(tokens), -1, -1)])
    timesteps = [*trailing_timesteps(STEPS * substeps, len(levels.alphas)), -1]
    points = [x]
    for i, (now, then) in enumerate(zip(timesteps, timesteps[1:])):
        with place.mixed_precision():
            told, untold = teacher(torch.cat([x, x]), now, states).sample.float().chunk(2)
        x = ddim_step(levels, x, untold + guidance * (told - untold), now, then)
        if (i + 1) % substeps == 0:
            points.append(x)
    return Waypoints(torch.stack(points, 1).half().cpu(), tokens.cpu())


def collect_waypoints(place: Workplace, parts: int, paint: Callable[[int], Waypoints]) -> Waypoints:
    """Those of all parts, each kept in its own file."""
    folder = place.folder / "waypoints"
    folder.mkdir(exist_ok=True)
    collected = []
    for part in range(parts):
        path = folder / f"{part}.pt"
        if not path.exists():
            place.check_time()
            points = paint(part)
            save_whole(path, {"latents": points.latents, "tokens": points.tokens})
            log(f"waypoints {part + 1}/{parts}")
        collected.append(torch.load(path))
    return Waypoints(*(torch.cat([part[key] for part in collected]) for key in ("latents", "tokens")))


def train_student(
    place: Workplace,
    run: Run,
    batch: int,
    levels: Levels,
    waypoints: Waypoints,
    states_of: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """The student is `run.modules["unet"]`; every batch has the same number of each of its steps."""
    timesteps = torch.tensor([*trailing_timesteps(STEPS, len(levels.alphas)), -1], device=place.device)
    latents, tokens = waypoints.latents.to(place.device), waypoints.tokens.to(place.device)
    student = run.modules["unet"]

    def batch_of(step: int) -> torch.Tensor:
        generator = torch.Generator(place.device).manual_seed(step)
        return torch.randint(len(latents), (batch,), generator=generator, device=place.device)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        step = torch.arange(batch, device=place.device) % STEPS
        now, then = timesteps[step], timesteps[step + 1]
        (a, s), (b, r) = ([level[:, None, None, None] for level in levels.at(t)] for t in (now, then))
        start, end = latents[index, step].float(), latents[index, step + 1].float()
        # The one v whose DDIM step leads from the start to the end.
        wanted = (end - (b * a + r * s) * start) / (r * a - b * s)
        predicted = student(start, now, states_of(tokens[index])).sample.float()
        return (predicted - wanted).square().mean()

    run.train(loss_of, batch_of, by_workers=False)
