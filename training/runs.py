"""How a stage runs: its steps, its file to resume from, its losses, and the time it may take."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Callable, TypeVar

import numpy as np
import torch

from batches import Feed, make_workers
from muon import Muon, is_matrix

Batch = TypeVar("Batch")
SAVE_SECONDS = 60
LOG_STEPS = 25
MUON_RATE = 2.0


class TimeIsUp(Exception):
    """The minutes given are over; everything is saved."""


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Workplace:
    """Where a training runs and keeps its state, and until when."""

    def __init__(self, folder: Path, workers: int, minutes: float | None = None):
        self.folder = folder
        self.workers, self.ahead = make_workers(workers) if workers else None, 2 * workers
        self.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        if self.workers:
            self.workers.shutdown(wait=False, cancel_futures=True)

    def feed(self, make: Callable[[int], Batch], start: int, stop: int) -> Feed[Batch]:
        """Batches that workers make ahead."""
        return Feed(make, start, stop, self.workers, self.ahead)

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeIsUp

    def mixed_precision(self, wanted: bool = True) -> torch.autocast:
        """bfloat16 where there are units for it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted and self.device.type == "cuda")


class Run:
    """One stage's training. It saves itself every minute and when it ends, and goes on from there: a run that was killed
    repeats the steps since then, exactly."""

    def __init__(
        self,
        place: Workplace,
        name: str,
        modules: dict[str, torch.nn.Module],
        steps: int,
        rate: float,
        muon: bool = False,
    ):
        """@param rate: of AdamW, at most
        @param muon: whether Muon teaches matrices and convolutions, at MUON_RATE times that rate"""
        self.place, self.name, self.modules, self.steps = place, name, modules, steps
        for module in modules.values():
            module.to(place.device, memory_format=torch.channels_last)
        self.parameters = [p for m in modules.values() for p in m.parameters()]
        named = [(key, p) for m in modules.values() for key, p in m.named_parameters()]
        matrices = [p for key, p in named if muon and is_matrix(key, p)]
        others = [p for key, p in named if not muon or not is_matrix(key, p)]
        adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adam, rate)]
        if matrices:
            self.optimizers.append((Muon(matrices, MUON_RATE * rate), MUON_RATE * rate))
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds = 0, 0.0
        self.path, self.losses_path = place.folder / f"{name}.pt", place.folder / f"{name}.losses.jsonl"
        self._resume()

    def _resume(self) -> None:
        if self.path.exists():
            state = torch.load(self.path, map_location=self.place.device)
            for key, module in self.modules.items():
                module.load_state_dict(state["modules"][key])
            for (optimizer, _), saved in zip(self.optimizers, state["optimizers"]):
                optimizer.load_state_dict(saved)
            for mine, saved in zip(self.average, state["average"]):
                mine.copy_(saved)
            self.step, self.seconds = state["step"], state["seconds"]
        lines = self.losses_path.read_text().splitlines() if self.losses_path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        if len(kept) < len(lines):
            self.losses_path.write_text("".join(line + "\n" for line in kept))

    @torch.no_grad()
    def begin_with(self, modules: dict[str, torch.nn.Module], step: int) -> None:
        """Takes weights that somewhere else have learned for so many steps; the optimizer's memory of them is not there."""
        for key, module in self.modules.items():
            module.load_state_dict(modules[key].state_dict())
        for mine, p in zip(self.average, self.parameters):
            mine.copy_(p)
        self.step = step
        self.save()

    @property
    def is_done(self) -> bool:
        return self.step >= self.steps

    def save(self) -> None:
        save_whole(
            self.path,
            {
                "modules": {key: m.state_dict() for key, m in self.modules.items()},
                "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
                "average": self.average,
                "step": self.step,
                "seconds": self.seconds,
            },
        )

    def use_average(self) -> None:
        """Puts the averaged weights into the modules, which are then for use only."""
        with torch.no_grad():
            for p, average in zip(self.parameters, self.average):
                p.copy_(average)
        for module in self.modules.values():
            module.eval().requires_grad_(False)

    def _share_of_rate(self) -> float:
        warmup = min(200, self.steps // 10 + 1)
        falling = 0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * self.step / self.steps))
        return float(min((self.step + 1) / warmup, falling))

    def _learn(self, loss: torch.Tensor) -> None:
        for optimizer, rate in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate * self._share_of_rate()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, _ in self.optimizers:
            optimizer.step()
        self.step += 1
        with torch.no_grad():
            # Over the last twentieth of the steps; over fewer in the beginning.
            torch._foreach_lerp_(self.average, self.parameters, min(1.0, max(20 / self.steps, 10 / (self.step + 10))))

    def train(
        self,
        loss_of: Callable[[Batch], torch.Tensor],
        make: Callable[[int], Batch],
        by_workers: bool = True,
        mixed: bool = True,
    ) -> None:
        """`make(step)` depends on nothing but the step, so that a resumed run is the same run; workers call it, or not,
        where it is a matter of moments or of the device. `mixed` is to be off where
        bfloat16 is too coarse, as it is for colours.
        @raises TimeIsUp when the place's minutes are over before the stage is"""
        if self.is_done:
            return
        losses: list[torch.Tensor] = []
        began = saved = time.monotonic()
        batches = self.place.feed(make, self.step, self.steps) if by_workers else map(make, range(self.step, self.steps))
        for batch in batches:
            torch.manual_seed(self.step)
            with self.place.mixed_precision(mixed):
                loss = loss_of(batch)
            self._learn(loss)
            losses.append(loss.detach())
            if self.step % LOG_STEPS == 0 or self.is_done:
                now = time.monotonic()
                self.seconds, began = self.seconds + now - began, now
                self._log(torch.stack(losses).mean().item())
                losses = []
            if self.is_done or time.monotonic() > min(saved + SAVE_SECONDS, self.place.deadline):
                self.save()
                saved = time.monotonic()
            if not self.is_done:
                self.place.check_time()

    def _log(self, loss: float) -> None:
        with self.losses_path.open("a") as file:
            file.write(json.dumps({"step": self.step, "loss": round(loss, 6), "seconds": round(self.seconds, 1)}) + "\n")
        if self.step % (4 * LOG_STEPS) == 0 or self.is_done:
            log(f"{self.name} {self.step}/{self.steps} loss {loss:.5f} {self.seconds:.0f} s")


def save_whole(path: Path, content: object) -> None:
    """Never leaves half a file, whenever the process is ended."""
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)


def pack(folder: Path, packed: Path) -> None:
    """Writes what a training on another machine needs to go on: the averaged weights of every stage as float16 and its
    losses, without the optimizer, whose memory fills again within a few hundred steps. Few and small files."""
    packed.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.pt")):
        state = torch.load(path, map_location="cpu")
        if "average" not in state:
            continue
        average = [p.half() if p.is_floating_point() else p for p in state["average"]]
        buffers = {
            key: {name: t for name, t in weights.items() if not t.is_floating_point() or "running" in name}
            for key, weights in state["modules"].items()
        }
        losses = folder / f"{path.stem}.losses.jsonl"
        content = {"average": average, "buffers": buffers, "step": state["step"], "seconds": state["seconds"]}
        save_whole(packed / path.name, content | {"losses": losses.read_text() if losses.exists() else ""})


def unpack(packed: Path, run: Run) -> None:
    """Takes a stage from a pack where that is further on than what is here."""
    path = packed / f"{run.name}.pt"
    if not path.exists():
        return
    state = torch.load(path, map_location=run.place.device)
    if state["step"] <= run.step:
        return
    with torch.no_grad():
        for mine, average, saved in zip(run.parameters, run.average, state["average"]):
            mine.copy_(saved)
            average.copy_(saved)
    for key, module in run.modules.items():
        module.load_state_dict(state["buffers"][key], strict=False)
    run.step, run.seconds = state["step"], state["seconds"]
    run.losses_path.write_text(state["losses"])
    run.save()
