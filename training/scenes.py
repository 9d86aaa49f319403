"""Endless labelled pictures: a few flat shapes on a background, and the sentence that says them.

A scene is drawn from a `random.Random`, rendered by PIL with anti-aliased edges, and described by
one of many phrasings. Some combinations are kept out of training (see `is_held_out`).
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128

COLORS = {
    "red": (226, 38, 38),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 30),
    "green": (30, 160, 60),
    "blue": (35, 75, 220),
    "purple": (130, 50, 170),
    "black": (15, 15, 18),
    "white": (248, 248, 248),
}


def _regular(points: int, radii: tuple[float, ...] = (1.0,)) -> list[tuple[float, float]]:
    step = 2 * math.pi / points
    return [
        (radii[i % len(radii)] * math.sin(i * step), -radii[i % len(radii)] * math.cos(i * step))
        for i in range(points)
    ]


def _heart() -> list[tuple[float, float]]:
    outline = []
    for i in range(64):
        t = 2 * math.pi * i / 64
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        outline.append((x / 16, (-y - 2.5) / 16))
    return outline


# Outlines in a unit circle, y down. A second outline is a hole.
SHAPES = {
    "circle": [_regular(64)],
    "square": [[(-0.87, -0.87), (0.87, -0.87), (0.87, 0.87), (-0.87, 0.87)]],
    "triangle": [[(0, -0.95), (1.02, 0.85), (-1.02, 0.85)]],
    "star": [[(x * 1.1, y * 1.1 + 0.08) for x, y in _regular(10, (1.0, 0.43))]],
    "heart": [_heart()],
    "diamond": [[(0, -1.08), (0.8, 0), (0, 1.08), (-0.8, 0)]],
}
# Radius in pixels by the number of shapes in the picture; only a single one may be big.
RADII = {1: 30, 2: 24}
BIG = 42

# Never shown in training, in any scene.
HELD_OUT_TYPES = {("orange", "star"), ("purple", "diamond")}


@dataclass
class Thing:
    shape: str
    color: str
    size: str
    x: float = 0.0
    y: float = 0.0
    r: float = 0.0

    @property
    def kind(self) -> tuple[str, str]:
        return (self.color, self.shape)


@dataclass
class Scene:
    """`layout` is single, row or column; things are listed in reading order (left to
    right, top to bottom)."""

    layout: str
    things: list[Thing]
    background: str  # name of its colour
    say_background: bool


def is_held_out(scene: Scene) -> bool:
    """True for scenes that training never sees: four colour-shape types, and every tenth unordered
    combination of two different coloured shapes."""
    kinds = sorted({t.kind for t in scene.things})
    if any(k in HELD_OUT_TYPES for k in kinds):
        return True
    pairs = [(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :]]
    return any(zlib.crc32(repr(p).encode()) % 10 == 0 for p in pairs)


def _spread(rng: random.Random, radii: list[float]) -> list[float]:
    """Centres along one axis: without overlap, roughly centred."""
    slack = SIZE - 2 * sum(radii) - 4 * (len(radii) + 1)
    gaps = [1 + rng.uniform(-0.15, 0.15) for _ in range(len(radii) + 1)]
    scale = slack / sum(gaps)
    at, centres = 0.0, []
    for gap, r in zip(gaps, radii):
        at += 4 + gap * scale + r
        centres.append(at)
        at += r
    return centres


def _draw_scene(rng: random.Random) -> Scene:
    layout, n = rng.choices([("single", 1), ("row", 2), ("column", 2)], weights=[24, 38, 38])[0]
    say_background = rng.random() < 0.85
    background = rng.choice(list(COLORS)) if say_background else "white"
    free = [c for c in COLORS if c != background]

    def thing() -> Thing:
        size = rng.choices(["medium", "big"], weights=[3, 1])[0] if n == 1 else "medium"
        return Thing(rng.choice(list(SHAPES)), rng.choice(free), size)

    things = [thing() for _ in range(n)]
    while len({t.kind for t in things}) < n:
        things = [thing() for _ in range(n)]

    def wobble(k: float) -> float:
        return rng.uniform(-k, k)

    for t in things:
        t.r = (BIG if t.size == "big" else RADII[n]) * (1 + wobble(0.06))
    if layout == "single":
        things[0].x, things[0].y = 64 + wobble(3), 64 + wobble(3)
    else:
        line = 64 + wobble(3)
        for t, at in zip(things, _spread(rng, [t.r for t in things])):
            across = line + wobble(2)
            t.x, t.y = (across, at) if layout == "column" else (at, across)
    return Scene(layout, things, background, say_background)


def sample_scene(rng: random.Random, held_out: bool = False) -> Scene:
    while True:
        scene = _draw_scene(rng)
        if is_held_out(scene) == held_out:
            return scene


def render(scene: Scene, palette: dict[str, tuple[int, int, int]] = COLORS) -> np.ndarray:
    """The picture, uint8 [SIZE, SIZE, 3]."""
    image = Image.new("RGB", (SIZE, SIZE), palette[scene.background])
    for t in reversed(scene.things):
        x0, y0 = math.floor(t.x - 1.2 * t.r), math.floor(t.y - 1.2 * t.r)
        side = math.ceil(2.4 * t.r) + 1
        mask = Image.new("L", (4 * side, 4 * side))
        pen = ImageDraw.Draw(mask)
        for outline, ink in zip(SHAPES[t.shape], (255, 0)):
            pen.polygon([(4 * (t.x + t.r * px - x0), 4 * (t.y + t.r * py - y0)) for px, py in outline], fill=ink)
        image.paste(palette[t.color], (x0, y0), mask.reduce(4))
    return np.asarray(image)


# --- captions ---

SYNONYMS = {
    "circle": ["disc", "ball", "dot"],
    "square": ["box"],
    "diamond": ["rhombus"],
    "purple": ["violet"],
    "big": ["large", "huge"],
}
RELATIONS = {  # layout -> phrases for (first, second) and for (second, first)
    "row": (
        ["left of", "to the left of", "on the left of", "and"],
        ["right of", "to the right of", "on the right of"],
    ),
    "column": (["above", "on top of", "over"], ["below", "under", "beneath"]),
}
OPENINGS = ["a picture of", "a drawing of", "an image of", "a photo of", "draw", "there is", "picture:", "{}", "{} {}"]


def _word(rng: random.Random, word: str) -> str:
    return rng.choice(SYNONYMS[word]) if word in SYNONYMS and rng.random() < 0.04 else word


def _nonsense(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))


def _adjectives(rng: random.Random, t: Thing) -> str:
    color = _word(rng, t.color)
    if t.size == "medium":
        return color
    size = _word(rng, t.size)
    return f"{size} {color}" if rng.random() < 0.9 else f"{color} {size}"


def _phrase(rng: random.Random, t: Thing, article: bool) -> str:
    words = f"{_adjectives(rng, t)} {_word(rng, t.shape)}"
    if not article:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def _background_phrase(rng: random.Random, scene: Scene) -> str:
    color = _word(rng, scene.background)
    an = "an" if color[0] in "aeiou" else "a"
    return rng.choice(
        [f" on {an} {color} background"] * 4
        + [f", {color} background"] * 2
        + [f" on {color}", f" with {an} {color} background", f", on {an} {color} background"]
    )


def caption(scene: Scene, rng: random.Random) -> str:
    article = rng.random() < 0.8
    names = [_phrase(rng, t, article) for t in scene.things]
    if scene.layout == "single":
        text = names[0]
    else:
        forward, backward = RELATIONS[scene.layout]
        if rng.random() < len(forward) / (len(forward) + len(backward)):
            text = f"{names[0]} {rng.choice(forward)} {names[1]}"
        else:
            text = f"{names[1]} {rng.choice(backward)} {names[0]}"
    if scene.say_background:
        text += _background_phrase(rng, scene)
    if rng.random() < 0.02:
        opening = rng.choice(OPENINGS)
        while "{}" in opening:
            opening = opening.replace("{}", _nonsense(rng), 1)
        text = f"{opening} {text}"
    return text + ("." if rng.random() < 0.05 else "")
