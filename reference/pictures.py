"""Drawn pictures and masks with smooth parts, sharp edges and fine structure. Integer arithmetic only: no font, no random."""

import numpy as np
from PIL import Image


def _grid(width: int, height: int):
    return np.meshgrid(np.arange(width), np.arange(height))


def picture(width: int, height: int, variant: int) -> Image.Image:
    """A gradient, a disc with a hard edge, a chequered corner and a fine diagonal grating; `variant` moves them about."""
    x, y = _grid(width, height)
    red = 255 * x // max(width - 1, 1)
    green = 255 * y // max(height - 1, 1)
    blue = 255 - (red + green) // 2
    channels = [red, green, blue]
    channels = np.stack(channels[variant % 3 :] + channels[: variant % 3], axis=-1)
    centre_x, centre_y = width * (2 + variant % 3) // 6, height * (3 - variant % 2) // 5
    disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < (min(width, height) // 4) ** 2
    channels[disc] = [(230, 40, 60), (20, 30, 120), (250, 230, 90)][variant % 3]
    corner = (x >= width * 2 // 3) & (y >= height * 2 // 3)
    channels[corner & ((x // 4 + y // 4) % 2 == 0)] = 255
    channels[corner & ((x // 4 + y // 4) % 2 == 1)] = 0
    grating = (x < width // 4) & (y >= height * 3 // 4) & ((x + y) % 3 == 0)
    channels[grating] = (0, 200, 0)
    return Image.fromarray(channels.astype(np.uint8))


def soft_mask(width: int, height: int) -> Image.Image:
    """White where to paint: a disc whose edge runs out over several pixels, and a sharp bar."""
    x, y = _grid(width, height)
    distance = np.hypot(x - width * 0.4, y - height * 0.5)
    radius, edge = min(width, height) * 0.33, 9
    disc = np.clip((radius - distance) / edge + 0.5, 0, 1) * 255
    disc[(x >= width * 4 // 5) & (y < height // 2)] = 255
    return Image.fromarray(disc.round().astype(np.uint8))
