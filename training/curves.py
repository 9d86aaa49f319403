"""The losses of all stages as one picture: `python training/curves.py training/.runs/small`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

PANEL = (420, 260)
MARGIN = 46
COLUMNS = 2
INK, FAINT, LINE = (40, 40, 40), (215, 215, 215), (30, 90, 200)


def draw_curves(folder: Path) -> Path | None:
    """Writes curves.png into the folder of a training; None where no stage has run yet."""
    stages = {path.name.removesuffix(".losses.jsonl"): _read(path) for path in sorted(folder.glob("*.losses.jsonl"))}
    stages = {name: points for name, points in stages.items() if points}
    if not stages:
        return None
    width, height = PANEL
    rows = math.ceil(len(stages) / COLUMNS)
    picture = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    for i, (name, points) in enumerate(stages.items()):
        panel = _panel(name, points)
        picture.paste(panel, (i % COLUMNS * width, i // COLUMNS * height))
    path = folder / "curves.png"
    picture.save(path)
    return path


def _read(path: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["loss"] > 0]


def _panel(name: str, points: list[tuple[int, float]]) -> Image.Image:
    """One stage; the loss on a logarithmic scale."""
    width, height = PANEL
    panel = Image.new("RGB", PANEL, "white")
    pen = ImageDraw.Draw(panel)
    last = points[-1][0]
    logs = [math.log10(loss) for _, loss in points]
    low, high = min(logs), max(max(logs), min(logs) + 0.05)

    def place(step: float, value: float) -> tuple[float, float]:
        x = MARGIN + step / last * (width - 2 * MARGIN)
        return x, height - MARGIN - (value - low) / (high - low) * (height - 2 * MARGIN)

    for share in (0, 0.5, 1):
        value = low + share * (high - low)
        pen.line([place(0, value), place(last, value)], fill=FAINT)
        pen.text((4, place(0, value)[1] - 6), f"{10**value:.3g}", fill=INK)
    pen.line([place(step, value) for (step, _), value in zip(points, logs)], fill=LINE, width=2)
    pen.text((MARGIN, 12), f"{name}: loss by step", fill=INK)
    pen.text((width - MARGIN - 40, height - MARGIN + 8), str(last), fill=INK)
    return panel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(draw_curves(parser.parse_args().folder))


if __name__ == "__main__":
    main()
