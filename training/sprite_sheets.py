"""Makes training/sprites/ from the two icon packages: `python training/sprite_sheets.py`.

Needed only when the vocabulary changes: the sheets are committed, so that training needs neither the network nor a
rasteriser. Needs npm and `pip install -r training/requirements.txt`.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import resvg_py
from PIL import Image

from sprites import HULL, SHEETS, SIDE
from vocabulary import nouns

PACKAGES = {"flat": "@iconify-json/fluent-emoji-flat@1.2.6", "shaded": "@iconify-json/noto@1.2.9"}
DOWNLOADS = Path(__file__).parent / ".runs" / "icons"
ViewBox = tuple[float, float, float, float]  # left, top, width, height


def download_icons(package: str) -> dict:
    """The package's icons.json: https://iconify.design/docs/types/iconify-json.html"""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(DOWNLOADS)]
    archive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(DOWNLOADS / archive) as files:
        return json.load(files.extractfile("package/icons.json"))


def rasterise(body: str, view: ViewBox) -> Image.Image:
    """RGBA, SIDE x SIDE pixels."""
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, view))}" width="{SIDE}" height="{SIDE}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def centred_sprite(icons: dict, name: str) -> Image.Image:
    """The icon, moved and scaled so that the longer side of what is drawn is HULL pixels, in the middle."""
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    extent = max(width, height)
    view = (icon.get("left", 0), icon.get("top", 0), extent, extent)
    for _ in range(2):  # the second look, at the larger picture, is exact to a fraction of a pixel
        x0, y0, x1, y1 = rasterise(icon["body"], view).getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()
        unit = view[2] / SIDE
        extent = max(x1 - x0, y1 - y0) * unit * SIDE / HULL
        view = (
            view[0] + (x0 + x1) / 2 * unit - extent / 2,
            view[1] + (y0 + y1) / 2 * unit - extent / 2,
            extent,
            extent,
        )
    return rasterise(icon["body"], view)


def write_sheet(path: Path, icons: dict) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as sheet:
        for noun in nouns("full").values():
            picture = io.BytesIO()
            centred_sprite(icons, noun.icon).save(picture, "webp", lossless=True, method=4, exact=False)
            sheet.writestr(zipfile.ZipInfo(f"{noun.name}.webp"), picture.getvalue())


def main() -> None:
    SHEETS.mkdir(exist_ok=True)
    for name, package in PACKAGES.items():
        write_sheet(SHEETS / f"{name}.zip", download_icons(package))


if __name__ == "__main__":
    main()
