"""The backgrounds, painted: landscapes, plain colours and gradients.

What no caption mentions (stars, clouds, hills, waves) is drawn from the random generator that is passed in.
"""

from __future__ import annotations

import math
import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from vocabulary import COLOUR_RGB

Rgb = tuple[int, int, int]
FINER = 2  # drawn so many times larger, then reduced: soft edges

SKY = ((96, 170, 238), (190, 226, 250))  # top, bottom
NIGHT = ((14, 16, 52), (52, 58, 122))
SUNNY = ((250, 205, 150), (253, 234, 205))
WINTRY = ((170, 192, 214), (222, 232, 242))
WATER = ((38, 120, 180), (22, 82, 140))
GRASS, FAR_GRASS = (140, 196, 84), (110, 172, 90)
SAND, FAR_SAND = (232, 192, 120), (216, 170, 98)
FRESH_SNOW, FAR_SNOW = (238, 243, 248), (205, 219, 233)
WALL, BOARDS, SKIRTING = (236, 221, 196), (176, 124, 78), (250, 245, 235)


@cache
def _fade(top: Rgb, bottom: Rgb, side: int) -> Image.Image:
    """A vertical gradient, RGB, one pixel wide."""
    share = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    return Image.fromarray(np.rint(np.float32(top) * (1 - share) + np.float32(bottom) * share).astype(np.uint8))


def _canvas(fade: tuple[Rgb, Rgb], side: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = _fade(*fade, side).resize((side, side), Image.Resampling.NEAREST)
    return image, ImageDraw.Draw(image)


def _hills(pen: ImageDraw.ImageDraw, rng: random.Random, side: int, height: float, swing: float, colour: Rgb) -> None:
    """Everything below a wavy line; height and swing as shares of the picture."""
    phase, length = rng.uniform(0, 2 * math.pi), rng.uniform(4, 7)
    line = [(side * i / 24, side * (height + swing * math.sin(phase + length * i / 24))) for i in range(25)]
    pen.polygon([*line, (side, side), (0, side)], fill=colour)


def _cloud(pen: ImageDraw.ImageDraw, x: float, y: float, width: float, colour: Rgb) -> None:
    for dx, dy, radius in ((-0.3, 0.02, 0.16), (-0.08, -0.08, 0.22), (0.16, -0.03, 0.18), (0.34, 0.04, 0.12)):
        cx, cy, r = x + dx * width, y + dy * width, radius * width
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)


def _clouds(pen: ImageDraw.ImageDraw, rng: random.Random, side: int, lowest: float, count: int) -> None:
    for i in range(count):
        x, y = (i + rng.uniform(0.2, 0.8)) / count, rng.uniform(0.07, lowest)
        _cloud(pen, x * side, y * side, rng.uniform(0.18, 0.3) * side, (242, 248, 254))


def _dots(pen: ImageDraw.ImageDraw, rng: random.Random, side: int, count: int, radius: float, colour: Rgb) -> None:
    for _ in range(count):
        x, y, r = rng.random() * side, rng.random() * side, rng.uniform(0.5, 1) * radius * side
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _sky(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas(SKY, side)
    _clouds(pen, rng, side, 0.93, 4)
    return image


def _night(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas(NIGHT, side)
    _dots(pen, rng, side, 40, 0.009, (250, 246, 214))
    return image


def _sea(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas(SKY, side)
    _clouds(pen, rng, side, 0.3, 2)
    horizon = round(side * rng.uniform(0.48, 0.56))
    image.paste(_fade(*WATER, side - horizon).resize((side, side - horizon), Image.Resampling.NEAREST), (0, horizon))
    for _ in range(14):
        near = rng.random()
        x, y = rng.random() * side, horizon + (0.06 + 0.9 * near) * (side - horizon)
        length, thickness = (0.05 + 0.1 * near) * side, max(1, round(0.012 * side * (0.4 + near)))
        pen.line((x - length, y, x + length, y), fill=(104, 176, 218), width=thickness)
    return image


def _meadow(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas(SKY, side)
    _clouds(pen, rng, side, 0.28, 2)
    _hills(pen, rng, side, 0.5, 0.035, FAR_GRASS)
    _hills(pen, rng, side, 0.6, 0.03, GRASS)
    for _ in range(24):
        x, y, tall = rng.random() * side, rng.uniform(0.68, 1) * side, 0.03 * side
        pen.line((x, y, x + rng.uniform(-0.4, 0.4) * tall, y - tall), fill=FAR_GRASS, width=max(1, side // 100))
    return image


def _desert(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas(SUNNY, side)
    _hills(pen, rng, side, 0.52, 0.05, FAR_SAND)
    _hills(pen, rng, side, 0.66, 0.05, SAND)
    return image


def _snow(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas(WINTRY, side)
    _hills(pen, rng, side, 0.54, 0.04, FAR_SNOW)
    _hills(pen, rng, side, 0.64, 0.03, FRESH_SNOW)
    _dots(pen, rng, side, 40, 0.012, (255, 255, 255))
    return image


def _room(rng: random.Random, side: int) -> Image.Image:
    image, pen = _canvas((WALL, WALL), side)
    floor = round(side * rng.uniform(0.62, 0.7))
    pen.rectangle((0, floor, side, side), fill=BOARDS)
    vanishing = side * rng.uniform(0.4, 0.6)
    for i in range(-4, 5):
        foot = vanishing + i * 0.22 * side
        pen.line((vanishing + i * 0.12 * side, floor, foot, side), fill=(150, 102, 62), width=max(1, side // 110))
    pen.rectangle((0, floor - side // 24, side, floor), fill=SKIRTING)
    return image


LANDSCAPE_PAINTERS = {
    "sky": _sky,
    "night": _night,
    "sea": _sea,
    "meadow": _meadow,
    "desert": _desert,
    "snow": _snow,
    "room": _room,
}


def gradient_ends(colour: str) -> tuple[Rgb, Rgb]:
    """Top and bottom: the colour mixed with white, and the colour itself, a little darker."""
    rgb = COLOUR_RGB[colour]
    return tuple(round(c + 0.65 * (255 - c)) for c in rgb), tuple(round(0.85 * c) for c in rgb)


def paint_backdrop(background: str, rng: random.Random, size: int) -> np.ndarray:
    """uint8 [size, size, 3], writable; `background` is one of vocabulary.BACKGROUNDS."""
    if background in LANDSCAPE_PAINTERS:
        return np.array(LANDSCAPE_PAINTERS[background](rng, FINER * size).reduce(FINER))
    kind, colour = background.split(" ")
    if kind == "plain":
        return np.full((size, size, 3), COLOUR_RGB[colour], np.uint8)
    return np.array(_fade(*gradient_ends(colour), size).resize((size, size), Image.Resampling.NEAREST))
