"""The drawings of the things: loaded from the sheets, recoloured, outlined, and scaled for the compositing.

A sheet (training/sprites/*.zip) holds one lossless WebP a thing, SIDE x SIDE pixels, RGBA; the longer side of what is
drawn is HULL pixels, in the middle. `flat.zip` is drawn in plain areas, `shaded.zip` with light and shade.
"""

from __future__ import annotations

import io
import zipfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from vocabulary import COLOUR_RGB, COLOURS, nouns

SHEETS = Path(__file__).parent / "sprites"
SIDE, HULL = 208, 176  # the margin holds the outline and the shadow
LEVELS = (208, 152, 112, 80, 56, 40)  # sides at which sprites are kept ready: at most 1.4 times what is needed
DIRECTIONS = 72
OUTLINE_RGB = (52, 40, 48)

Sheet = Literal["flat", "shaded"]
SHEET_OF_STYLE: dict[str, Sheet] = {"flat": "flat", "outlined": "flat", "soft": "shaded"}

# --- colours, in OKLab, which keeps lightness and hue apart: https://bottosson.github.io/posts/oklab/ ---

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_FROM_CONES, _FROM_LAB = np.linalg.inv(_TO_CONES), np.linalg.inv(_TO_LAB)


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 [..., 3] to float32 [..., 3]: lightness 0..1, a and b about -0.4..0.4."""
    value = np.asarray(rgb, np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """The inverse of `to_oklab`, cut to what sRGB can show; float32 0..255."""
    linear = np.clip((lab @ _FROM_LAB.T) ** 3 @ _FROM_CONES.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


COLOUR_LAB = {name: to_oklab(np.array(rgb)) for name, rgb in COLOUR_RGB.items()}
_TINTED = 0.045  # the chroma from which on a pixel has a hue that one sees


def _peak(values: np.ndarray, weights: np.ndarray, bins: int, span: tuple[float, float], around: bool) -> float:
    """Where the smoothed histogram is highest; `around`: its ends are neighbours."""
    counts, edges = np.histogram(values, bins, span, weights=weights)
    padded = np.pad(counts, 4, mode="wrap" if around else "constant")
    smooth = np.convolve(padded, (1, 2, 3, 4, 5, 4, 3, 2, 1), "valid")
    best = int(smooth.argmax())
    return float(edges[best] + edges[best + 1]) / 2


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def main_part(lab: np.ndarray, area: np.ndarray, hint: str | None) -> np.ndarray:
    """How far each shade belongs to the part that gives the thing its colour, 0..1: the shades of the most frequent
    hue, or of the most frequent lightness if most of the thing has no hue. lab [n, 3], area [n] in pixels. `hint`: the
    natural colour of that part, where it is not the largest."""
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    tinted = area * (chroma > _TINTED)
    wanted = COLOUR_LAB[hint] if hint else None
    has_hue = tinted.sum() >= 0.3 * area.sum() if wanted is None else np.hypot(*wanted[1:]) > _TINTED
    if has_hue:
        hue = np.arctan2(lab[:, 2], lab[:, 1])
        if wanted is None:
            centre = _peak(hue, tinted, 72, (-np.pi, np.pi), around=True)
        else:
            centre = np.arctan2(wanted[2], wanted[1])
        distance = np.abs((hue - centre + np.pi) % (2 * np.pi) - np.pi)
        return np.clip((0.9 - distance) / 0.25, 0, 1) * np.clip((chroma - 0.02) / 0.03, 0, 1)
    plain = area * (chroma <= _TINTED)
    centre = _peak(lightness, plain, 20, (0, 1), around=False) if wanted is None else wanted[0]
    near = np.clip((0.3 - np.abs(lightness - centre)) / 0.1, 0, 1)
    return near * np.clip((0.09 - chroma) / 0.04, 0, 1)


def recolour(pixels: np.ndarray, colour: str, hint: str | None) -> np.ndarray:
    """uint8 RGBA [side, side, 4] with the main part in the colour; its light and shade stay, around the colour's own
    lightness."""
    # A drawing has far fewer colours than pixels.
    packed = np.ascontiguousarray(pixels).view(np.uint32).reshape(-1)
    packed, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    shades = packed.view(np.uint8).reshape(-1, 4)
    lab, area = to_oklab(shades[:, :3]), shades[:, 3] / np.float32(255) * counts
    part = main_part(lab, area, hint)
    target = COLOUR_LAB[colour]
    middle = _weighted_median(lab[:, 0], part * area + 1e-6)
    contrast = 0.6 if colour in ("white", "black") else 0.8
    painted = np.empty_like(lab)
    painted[:, 0] = np.clip(target[0] + contrast * (lab[:, 0] - middle), 0.04, 0.99)
    painted[:, 1:] = target[1:]
    mixed = shades.copy()
    mixed[:, :3] = np.rint(from_oklab(lab + part[:, None] * (painted - lab)))
    return mixed[places].reshape(pixels.shape)


# --- sheets ---


@cache
def _sheet(sheet: Sheet) -> dict[str, bytes]:
    with zipfile.ZipFile(SHEETS / f"{sheet}.zip") as files:
        return {name.removesuffix(".webp"): files.read(name) for name in files.namelist()}


@lru_cache(maxsize=1024)
def drawing(name: str, sheet: Sheet) -> np.ndarray:
    """As the sheet has it: uint8 RGBA [SIDE, SIDE, 4], not premultiplied."""
    return np.asarray(Image.open(io.BytesIO(_sheet(sheet)[name])).convert("RGBA"))


@cache
def outline_points(name: str, sheet: Sheet) -> np.ndarray:
    """The drawing's outermost points in DIRECTIONS directions, float32 [DIRECTIONS, 2] (x, y), where 1 is the longer
    side of what is drawn and 0 the middle."""
    solid = drawing(name, sheet)[..., 3] > 127
    rows = np.nonzero(solid.any(1))[0]
    left, right = solid[rows].argmax(1), SIDE - solid[rows, ::-1].argmax(1)
    corners = [np.stack([x, y], 1) for x in (left, right) for y in (rows, rows + 1)]
    points = (np.concatenate(corners).astype(np.float32) - SIDE / 2) / HULL
    turns = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    directions = np.stack([np.cos(turns), np.sin(turns)])
    return points[(points @ directions).argmax(0)]


def extent(name: str, style: str, angle: float, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Size (width, height) and middle (x, y) of what is drawn once it is flipped and then turned by `angle` degrees
    counter-clockwise; the unit is the drawing's longer side."""
    points = outline_points(name, SHEET_OF_STYLE[style]) * (-1 if flip else 1, 1)
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned = points @ rotation.T
    low, high = turned.min(0), turned.max(0)
    return high - low, (low + high) / 2


@cache
def middle_colour(name: str, style: str) -> np.ndarray:
    """Of the main part in its natural colours, in OKLab: what must differ from a plain background."""
    sheet = SHEET_OF_STYLE[style]
    pixels = drawing(name, sheet)[::4, ::4].reshape(-1, 4)
    lab, area = to_oklab(pixels[:, :3]), pixels[:, 3] / np.float32(255)
    part = main_part(lab, area, nouns("full")[name].main_part.get(sheet))
    return np.average(lab, 0, part * area + 1e-6)


# --- styles ---


def _over(top: Image.Image, rgb: tuple[int, int, int], mask: Image.Image) -> Image.Image:
    """RGBA over a plain colour that the mask lets through."""
    under = Image.new("RGBA", top.size, rgb)
    under.putalpha(mask)
    return Image.alpha_composite(under, top)


def _styled(top: Image.Image, style: str) -> Image.Image:
    silhouette = top.getchannel("A")
    if style == "outlined":
        # Blurred by a box of 9 and then made steep: wider by nearly 4 pixels.
        return _over(top, OUTLINE_RGB, silhouette.filter(ImageFilter.BoxBlur(4)).point(lambda alpha: 7 * alpha))
    if style == "soft":
        shadow = ImageChops.offset(silhouette.filter(ImageFilter.GaussianBlur(5)), 4, 5)
        return _over(top, (0, 0, 0), shadow.point(lambda alpha: 0.4 * alpha))
    return top


@lru_cache(maxsize=512)
def _painted(name: str, style: str, colour: str | None) -> Image.Image:
    """Premultiplied, SIDE x SIDE pixels."""
    pixels = drawing(name, SHEET_OF_STYLE[style])
    if colour:
        pixels = recolour(pixels, colour, nouns("full")[name].main_part.get(SHEET_OF_STYLE[style]))
    return _styled(Image.fromarray(pixels), style).convert("RGBa")


@lru_cache(maxsize=4096)
def ready_sprite(name: str, style: str, colour: str | None, level: int) -> Image.Image:
    """Premultiplied ("RGBa"), level x level pixels; `level` is one of LEVELS."""
    painted = _painted(name, style, colour)
    return painted if level == SIDE else painted.resize((level, level), Image.Resampling.BOX)


def sprite(name: str, style: str, colour: str | None, side: int) -> np.ndarray:
    """uint8 [side, side, 4], premultiplied, upright; with the sheet's margin."""
    assert colour is None or colour in COLOURS
    scaled = _painted(name, style, colour).resize((side, side), Image.Resampling.LANCZOS)
    return np.frombuffer(scaled.tobytes(), np.uint8).reshape(side, side, 4)
