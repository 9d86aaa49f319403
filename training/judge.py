"""The judge: a small network, trained only on the renderer, that finds things in a picture and says their colours.

It is measured on fresh renders of held-out scenes: a painted picture's score means nothing beyond what it gets right there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import scenes
from batches import JUDGE_SIZE, JudgeBatches
from networks import Size
from runs import Run, Workplace, unpack
from scenes import Box, Scene

GRID = 16  # cells per side: the judge says what each is the centre of
FEATURES = 96
MOST_FOUND = 12  # in one picture
COLOUR_CLASSES = len(scenes.COLOURS) + 1
KINDS = ("thing", "colour", "relation", "count")


class Block(nn.Module):
    """Two convolutions around a shortcut. `reach` widens what the second one sees."""

    def __init__(self, inner: int, outer: int, stride: int = 1, reach: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, reach, reach, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Conv2d(inner, outer, 1, stride) if (inner, stride) != (outer, 1) else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class JudgeNetwork(nn.Module):
    """Pictures [n, 3, 128, 128] in -1..1 become, for every cell of a 16×16 grid: logits of the things whose centre it is
    [n, things, 16, 16], of their colour [n, 12, 16, 16], and a box [n, 4, 16, 16] (centre within the cell, width, height,
    all 0..1); and the features under them [n, 96, 16, 16]."""

    def __init__(self, things: int):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            Block(16, 24),
            Block(24, 48, stride=2),
            Block(48, FEATURES, stride=2),
            Block(FEATURES, FEATURES, reach=2),
            Block(FEATURES, FEATURES, reach=4),
        )
        self.things = nn.Conv2d(FEATURES, things, 1)
        self.colours = nn.Conv2d(FEATURES, COLOUR_CLASSES, 1)
        self.boxes = nn.Conv2d(FEATURES, 4, 1)
        nn.init.constant_(self.things.bias, -4.0)  # most cells are the centre of nothing

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.trunk(pictures)
        return self.things(features), self.colours(features), self.boxes(features).sigmoid(), features


def to_network(pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 [n, side, side, 3] to [n, 3, 128, 128] in -1..1; larger pictures are averaged down."""
    tensor = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(tensor, tensor.shape[-1] // JUDGE_SIZE) if tensor.shape[-1] > JUDGE_SIZE else tensor


# --- training ---


def judge_loss(network: JudgeNetwork, batch: tuple[np.ndarray, np.ndarray], device: torch.device) -> torch.Tensor:
    """Penalty-reduced focal loss on centres (https://arxiv.org/abs/1904.07850), colours and boxes where centres are."""
    pictures, drawn = to_network(batch[0], device), torch.from_numpy(batch[1]).to(device)
    things, colours, boxes, _ = (output.float() for output in network(pictures))
    row, slot = torch.nonzero(drawn[..., 0] >= 0, as_tuple=True)
    one = drawn[row, slot]
    thing, colour, (x0, y0, x1, y1) = one[:, 0].long(), one[:, 1].long(), one[:, 2:].unbind(1)
    centre = torch.stack([x0 + x1, y0 + y1], 1) * GRID / 2
    cell = centre.floor().clamp(0, GRID - 1).long()

    # Cells near a centre are only a little wrong: a bump around each, as wide as the thing.
    axis = torch.arange(GRID, device=device)
    width = (torch.stack([x1 - x0, y1 - y0], 1) * GRID / 8).clamp(min=0.4)
    bump = [torch.exp(-((axis - cell[:, i, None]) ** 2) / (2 * width[:, i, None] ** 2)) for i in (0, 1)]
    wanted = torch.zeros_like(things)
    for i, (picture, name) in enumerate(zip(row.tolist(), thing.tolist())):
        spot = wanted[picture, name]
        torch.maximum(spot, bump[1][i, :, None] * bump[0][i, None, :], out=spot)

    is_centre = wanted == 1
    share = things.sigmoid()
    focal = torch.where(
        is_centre,
        (1 - share) ** 2 * F.softplus(-things),
        (1 - wanted) ** 4 * share**2 * F.softplus(things),
    )
    box = torch.cat([centre - cell, torch.stack([x1 - x0, y1 - y0], 1)], 1)
    at = (row, slice(None), cell[:, 1], cell[:, 0])
    return (
        focal.sum() / len(row)
        + F.cross_entropy(colours[at], colour)
        + 2 * (boxes[at] - box.clamp(0, 1)).abs().mean()
    )


def train_judge(place: Workplace, size: Size, steps: int, batch: int, packed: Path | None = None) -> "Judge":
    torch.manual_seed(3)
    network = JudgeNetwork(len(scenes.things(size.name)))
    run = Run(place, "judge", {"judge": network}, steps, 2e-3)
    if packed:
        unpack(packed, run)
    run.train(lambda drawn: judge_loss(network, drawn, place.device), JudgeBatches(size, batch))
    run.use_average()
    return Judge(network, size, place)


# --- judging ---


@dataclass(frozen=True)
class Found:
    name: str
    colour: str | None  # None: its own colours
    score: float  # 0..1
    box: Box


class Judge:
    """Judges pictures of any of the recipe's sizes. Its threshold is the one at which it counts best on fresh renders."""

    def __init__(self, network: JudgeNetwork, size: Size, place: Workplace):
        self.network, self.size, self.device = network, size, place.device
        self.names = scenes.things(size.name)
        self.path = place.folder / "judge.json"
        self.threshold = json.loads(self.path.read_text())["threshold"] if self.path.exists() else 0.3

    @torch.no_grad()
    def look(self, pictures: np.ndarray) -> tuple[list[list[Found]], np.ndarray]:
        """What is on each of the pictures, uint8 [n, side, side, 3], down to a score of 0.1, best first; and features
        [n, FEATURES] that pictures can be compared by."""
        found: list[list[Found]] = []
        features = []
        for start in range(0, len(pictures), 50):
            outputs = self.network(to_network(pictures[start : start + 50], self.device))
            things, colours, boxes, under = (output.float().cpu() for output in outputs)
            features.append(under.mean((2, 3)).numpy())
            share = things.sigmoid()
            # A centre is a cell that is surer than its neighbours, and of nothing more than of this thing.
            peaks = (share == F.max_pool2d(share, 3, 1, 1)) & (share == share.amax(1, keepdim=True)) & (share > 0.1)
            for i, surest in enumerate((share * peaks).flatten(1).topk(MOST_FOUND).indices):
                spots = torch.stack(torch.unravel_index(surest, share.shape[1:]), 1).tolist()
                found.append([self._found(share[i], colours[i], boxes[i], *spot) for spot in spots if peaks[i][*spot]])
        return found, np.concatenate(features)

    def _found(self, share: torch.Tensor, colours: torch.Tensor, boxes: torch.Tensor, k: int, y: int, x: int) -> Found:
        dx, dy, width, height = boxes[:, y, x].tolist()
        cx, cy = (x + dx) / GRID, (y + dy) / GRID
        colour = int(colours[:, y, x].argmax())
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        return Found(self.names[k], scenes.COLOURS[colour - 1] if colour else None, share[k, y, x].item(), box)

    def best(self, found: list[Found], name: str, colour: str | None = None) -> Found | None:
        """The surest one of that name; of that colour rather than of others, if there is one."""
        named = [one for one in found if one.name == name and one.score >= self.threshold]
        return max(named, key=lambda one: (colour is not None and one.colour == colour, one.score), default=None)

    def passes(self, kind: str, scene: Scene, found: list[Found]) -> bool:
        """Whether what was found is what the scene says, in that respect."""
        first = scene.things[0]
        spot = self.best(found, first.name, first.colour)
        if kind == "thing":
            return spot is not None
        if kind == "colour":
            return spot is not None and spot.colour == first.colour
        if kind == "count":
            named = [one for one in found if one.name == first.name and one.score >= self.threshold]
            return len(named) == first.count
        second = scene.things[1]
        others = [one for one in found if one is not spot]
        other = self.best(others, second.name, second.colour)
        return bool(spot and other and scenes.relation_holds(scene.relation, spot.box, other.box))

    def calibrate(self, number: int) -> dict[str, float]:
        """Chooses the threshold, and measures the judge on other fresh renders of held-out scenes, `number` of each kind.
        @return the share that passes, by kind, and the threshold; also written beside its weights"""
        prompts = {kind: scenes.evaluation_prompts(kind, 2 * number, self.size.name) for kind in KINDS}
        seen = {kind: self._look_at_renders([scene for scene, _ in ones]) for kind, ones in prompts.items()}

        def shares(threshold: float, part: slice) -> dict[str, float]:
            self.threshold = threshold
            return {
                kind: float(np.mean([self.passes(kind, scene, found) for (scene, _), found in zip(ones[part], seen[kind][part])]))
                for kind, ones in prompts.items()
            }

        # The first and the second of every neighbouring two, as the prompts go through things and counts in turn.
        chosen = max(np.arange(0.15, 0.7, 0.05).round(2).tolist(), key=lambda t: sum(shares(t, slice(0, None, 2)).values()))
        measured = {"threshold": chosen, "renders": number, **shares(chosen, slice(1, None, 2))}
        self.path.write_text(json.dumps(measured, indent=2) + "\n")
        return measured

    def _look_at_renders(self, wanted: list[Scene]) -> list[list[Found]]:
        return self.look(np.stack([scenes.render(scene, JUDGE_SIZE) for scene in wanted]))[0]
