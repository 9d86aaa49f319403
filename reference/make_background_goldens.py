"""Writes test/goldens/backgrounds: pictures with transparent parts in every form that people have, and what Pillow's
`Image.alpha_composite` makes of them over a colour, as AUTOMATIC1111 and ComfyUI's users see them.

`NAME.EXT` is a picture; `NAME.white.png` and `NAME.blue.png` are what it is over these colours. `pixels.json` has single pixels. Needs Pillow and
numpy only.
"""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

OUT = Path(__file__).resolve().parent.parent / "test" / "goldens" / "backgrounds"
COLOURS = {"white": (255, 255, 255), "blue": (32, 64, 96)}
WIDTH, HEIGHT = 32, 24


def rgba(hidden: tuple[int, int, int], edge: float) -> np.ndarray:
    """A disc of many colours whose edge runs out over `edge` pixels; what is fully transparent has the colour `hidden`."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    alpha = np.clip((9 - np.hypot(x - 14, y - 11)) / edge + 0.5, 0, 1) * 255
    channels = np.stack([x * 8, y * 10, 255 - x * 4 - y * 4, alpha], axis=-1).astype(np.uint8)
    channels[channels[..., 3] == 0, :3] = hidden
    return channels


def ramp() -> np.ndarray:
    """Every alpha and many values together."""
    value, alpha = np.meshgrid(np.arange(64), np.arange(256))
    return np.stack([value * 4, 255 - value * 4, value * 2, alpha], axis=-1).astype(np.uint8)


def png16(path: Path, samples: np.ndarray, colour_type: int) -> None:
    """A PNG of 16 bits per sample, which Pillow does not write."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def write_pictures() -> None:
    soft, hard = rgba((255, 0, 255), 6), rgba((0, 0, 0), 0.01)
    picture = Image.fromarray(soft)
    turned = Image.Exif()
    turned[0x0112] = 6

    picture.save(OUT / "soft_over_magenta.png")
    Image.fromarray(rgba((128, 128, 128), 0.01)).save(OUT / "hard_over_grey.png")
    Image.fromarray(rgba((255, 255, 255), 3)).save(OUT / "soft_over_white.png")
    Image.fromarray(ramp()).save(OUT / "ramp.png")
    picture.convert("RGB").save(OUT / "opaque.png")
    picture.save(OUT / "turned.png", exif=turned)
    picture.convert("RGB").save(OUT / "turned.jpg", exif=turned, quality=95, subsampling=0)
    picture.save(OUT / "lossless.webp", lossless=True, exact=True)
    picture.save(OUT / "lossy.webp", quality=90)

    palette = Image.fromarray(hard[..., :3]).quantize(15)
    palette.putpixel((0, 0), 3)
    palette.save(OUT / "palette_one.png", transparency=3)
    palette.save(OUT / "palette_many.png", transparency=bytes(range(0, 255, 17)))
    palette.save(OUT / "palette.gif", transparency=3)

    grey = picture.convert("LA")
    grey.save(OUT / "grey_alpha.png")
    level = grey.convert("L")
    level.save(OUT / "grey_key.png", transparency=level.getpixel((14, 11)))
    flat = Image.fromarray(hard[..., :3] // 64 * 64)
    flat.save(OUT / "colour_key.png", transparency=flat.getpixel((14, 11)))

    # The lower byte counts for nothing when it is cut off; 257 · value has both bytes alike, so that rounding gives the same.
    png16(OUT / "rgba16.png", soft.astype(np.uint16) * 257, 6)
    png16(OUT / "grey_alpha16.png", np.array(grey).astype(np.uint16) * 257, 4)


def over(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (*colour, 255)), picture).convert("RGB")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    write_pictures()
    for path in sorted(OUT.iterdir()):
        for name, colour in COLOURS.items():
            over(Image.open(path), colour).save(OUT / f"{path.name}.{name}.png", optimize=True)

    pixels = np.array([[[r, g, b, a]] for a in (0, 1, 2, 64, 127, 128, 200, 254, 255) for r, g, b in ((0, 0, 0), (255, 255, 255), (255, 0, 255), (12, 130, 249))], np.uint8)
    rows = [pixels[:, 0].tolist()] + [np.array(over(Image.fromarray(pixels), colour))[:, 0].tolist() for colour in COLOURS.values()]
    hexes = ["#%02x%02x%02x" % colour for colour in COLOURS.values()]
    lines = ",\n".join(f"    {json.dumps(list(row))}" for row in zip(*rows))
    (OUT / "pixels.json").write_text(f'{{\n  "colours": {json.dumps(hexes)},\n  "pixels": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
