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
    "cyan": (40, 205, 220),
    "blue": (35, 75, 220),
    "purple": (130, 50, 170),
    "pink": (255, 130, 190),
    "black": (15, 15, 18),
    "gray": (128, 128, 132),
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


_A = 0.34  # half the width of the arm of the cross
# Outlines in a unit circle, y down. A second outline is a hole.
SHAPES = {
    "circle": [_regular(64)],
    "square": [[(-0.87, -0.87), (0.87, -0.87), (0.87, 0.87), (-0.87, 0.87)]],
    "triangle": [[(0, -0.95), (1.02, 0.85), (-1.02, 0.85)]],
    "star": [[(x * 1.1, y * 1.1 + 0.08) for x, y in _regular(10, (1.0, 0.43))]],
    "heart": [_heart()],
    "diamond": [[(0, -1.08), (0.8, 0), (0, 1.08), (-0.8, 0)]],
    "cross": [
        [(-_A, -1), (_A, -1), (_A, -_A), (1, -_A), (1, _A), (_A, _A)]
        + [(_A, 1), (-_A, 1), (-_A, _A), (-1, _A), (-1, -_A), (-_A, -_A)]
    ],
    "ring": [_regular(64), _regular(64, (0.52,))],
}
# Shapes that are solid and wide enough to hold another one.
OUTER_SHAPES = ("circle", "square", "diamond", "heart")

SIZES = ("small", "medium", "big")
# Radius in pixels of small, medium and big, by the number of shapes in the picture.
RADII = {1: (15, 28, 40), 2: (12.5, 20, 27), 3: (10.5, 15, 19.5)}

SPOTS = {
    "center": (0.5, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top left": (0.0, 0.0),
    "top right": (1.0, 0.0),
    "bottom left": (0.0, 1.0),
    "bottom right": (1.0, 1.0),
}

# Never shown in training, in any scene.
HELD_OUT_TYPES = {("orange", "cross"), ("cyan", "diamond"), ("pink", "ring"), ("gray", "star")}


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
    """`layout` is single, row, column, inside or count; things are listed in reading order
    (left to right, top to bottom, inner before outer)."""

    layout: str
    things: list[Thing]
    spot: str | None  # where a single thing stands, None when the caption does not say it
    background: str  # plain, gradient or split
    colors: tuple[str, ...]  # of the background: one, or top and bottom
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
    gaps = [1 + rng.uniform(-0.35, 0.35) for _ in range(len(radii) + 1)]
    scale = slack / sum(gaps)
    at, centres = 0.0, []
    for gap, r in zip(gaps, radii):
        at += 4 + gap * scale + r
        centres.append(at)
        at += r
    return centres


def _draw_scene(rng: random.Random) -> Scene:
    layout, n = rng.choices(
        [("single", 1), ("row", 2), ("column", 2), ("inside", 2), ("count", 2), ("count", 3)]
        + [("row", 3), ("column", 3)],
        weights=[24, 20, 20, 8, 6, 8, 9, 5],
    )[0]

    background = rng.choices(["plain", "gradient", "split"], weights=[76, 14, 10])[0]
    say_background = background != "plain" or rng.random() < 0.75
    colors = tuple(rng.sample(list(COLORS), 1 if background == "plain" else 2))
    if not say_background:
        colors = ("white",)
    free = [c for c in COLORS if c not in colors]

    def thing() -> Thing:
        size = rng.choices(SIZES, weights=[25, 50, 25])[0]
        return Thing(rng.choice(list(SHAPES)), rng.choice(free), size)

    if layout == "count":
        one = thing()
        things = [Thing(one.shape, one.color, one.size) for _ in range(n)]
    else:
        things = [thing() for _ in range(n)]
    while n > 1 and layout != "count" and len({t.kind for t in things}) < n:
        things = [thing() for _ in range(n)]
    if layout == "inside":
        things[0].size, things[1].size = "small", "big"
        things[1].shape = rng.choice(OUTER_SHAPES)
        things[1].color = rng.choice([c for c in free if c != things[0].color])

    def wobble(k: float) -> float:
        return rng.uniform(-k, k)

    same = 1 + wobble(0.06)
    for t in things:
        t.r = RADII[n][SIZES.index(t.size)] * (same if layout == "count" else 1 + wobble(0.06))
    spot = None
    if layout == "single":
        t = things[0]
        if rng.random() < 0.4:
            spot = rng.choice(list(SPOTS))
        fx, fy = SPOTS[spot or "center"]
        reach = SIZE / 2 - t.r - 6
        jitter = 3 if spot else 6
        t.x = 64 + (2 * fx - 1) * max(reach, 10) + wobble(jitter)
        t.y = 64 + (2 * fy - 1) * max(reach, 10) + wobble(jitter)
    elif layout == "inside":
        inner, outer = things
        outer.r, inner.r = 42 * (1 + wobble(0.05)), 15 * (1 + wobble(0.08))
        outer.x, outer.y = 64 + wobble(4), 64 + wobble(4)
        inner.x, inner.y = outer.x + wobble(2), outer.y + wobble(2)
    else:
        line = 64 + wobble(8)
        for t, at in zip(things, _spread(rng, [t.r for t in things])):
            across = line + wobble(4)
            t.x, t.y = (across, at) if layout == "column" else (at, across)
    return Scene(layout, things, spot, background, colors, say_background)


def sample_scene(rng: random.Random, held_out: bool = False) -> Scene:
    while True:
        scene = _draw_scene(rng)
        if is_held_out(scene) == held_out:
            return scene


def render(scene: Scene, palette: dict[str, tuple[int, int, int]] = COLORS) -> np.ndarray:
    """The picture, uint8 [SIZE, SIZE, 3]."""
    top, bottom = palette[scene.colors[0]], palette[scene.colors[-1]]
    if scene.background == "gradient":
        ramp = np.linspace(0, 1, SIZE)[:, None, None]
        rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    else:
        rows = np.where(np.arange(SIZE)[:, None, None] < SIZE // 2, np.array(top), np.array(bottom))
    pixels = np.broadcast_to(rows, (SIZE, SIZE, 3)).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for t in reversed(scene.things):  # the outer one lies below the inner one
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
    "ring": ["donut"],
    "cross": ["plus"],
    "diamond": ["rhombus"],
    "purple": ["violet"],
    "cyan": ["turquoise"],
    "gray": ["grey"],
    "small": ["little", "tiny"],
    "big": ["large", "huge"],
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses", "rhombus": "rhombuses"}
NUMBERS = {2: ["two", "two", "2"], 3: ["three", "three", "3"]}
RELATIONS = {  # layout -> phrases for (first, second) and for (second, first)
    "row": (
        ["left of", "to the left of", "on the left of", "and"],
        ["right of", "to the right of", "on the right of"],
    ),
    "column": (["above", "on top of", "over"], ["below", "under", "beneath"]),
    "inside": (["inside", "in", "within", "inside of"], ["around", "with"]),
}
OPENINGS = ["a picture of", "a drawing of", "an image of", "a photo of", "draw", "there is", "picture:", "{}", "{} {}"]


def _word(rng: random.Random, word: str) -> str:
    return rng.choice(SYNONYMS[word]) if word in SYNONYMS and rng.random() < 0.12 else word


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
    names = [_word(rng, c) for c in scene.colors]
    first = names[0]
    an = "an" if first[0] in "aeiou" else "a"
    if scene.background == "plain":
        return rng.choice(
            [f" on {an} {first} background"] * 4
            + [f", {first} background"] * 2
            + [f" on {first}", f" with {an} {first} background", f", on {an} {first} background"]
        )
    second = names[1]
    if scene.background == "gradient":
        return rng.choice(
            [
                f" on a background fading from {first} to {second}",
                f" on {an} {first} to {second} gradient",
                f", {first} to {second} gradient background",
            ]
        )
    return rng.choice(
        [
            f" on a background half {first} and half {second}",
            f" on {an} {first} and {second} background",
            f", {first} and {second} background",
        ]
    )


def caption(scene: Scene, rng: random.Random) -> str:
    article = rng.random() < 0.8
    names = [_phrase(rng, t, article) for t in scene.things]
    first = scene.things[0]
    if scene.layout == "count":
        n = len(scene.things)
        shape = _word(rng, first.shape)
        plural = PLURALS.get(shape, shape + "s")
        text = f"{rng.choice(NUMBERS[n])} {_adjectives(rng, first)} {plural}"
    elif scene.layout == "single":
        text = names[0]
        if scene.spot:
            corner = " corner" if " " in scene.spot and rng.random() < 0.5 else ""
            on = "on" if scene.spot in ("left", "right") else "in" if corner or scene.spot == "center" else "at"
            text += f" {on} the {scene.spot}{corner}"
    elif len(scene.things) == 2:
        forward, backward = RELATIONS[scene.layout]
        if rng.random() < len(forward) / (len(forward) + len(backward)):
            text = f"{names[0]} {rng.choice(forward)} {names[1]}"
        else:
            relation = rng.choice(backward)
            # "a blue circle with a red star in it"
            text = f"{names[1]} {relation} {names[0]}" + (" in it" if relation == "with" else "")
    elif scene.layout == "row":
        text = f"{names[0]}, {names[1]} and {names[2]}"
    else:
        text = rng.choice(
            [
                f"{names[0]} above {names[1]} above {names[2]}",
                f"{names[0]} at the top, {names[1]} in the middle and {names[2]} at the bottom",
                f"{names[2]} below {names[1]} below {names[0]}",
            ]
        )
    if scene.say_background:
        text += _background_phrase(rng, scene)
    if rng.random() < 0.06:
        opening = rng.choice(OPENINGS)
        while "{}" in opening:
            opening = opening.replace("{}", _nonsense(rng), 1)
        text = f"{opening} {text}"
    return text + ("." if rng.random() < 0.05 else "")
