"""test/goldens/edges: lines that OpenCV finds in drawn pictures, and what AUTOMATIC1111's formula of `lineart_standard` makes of them."""

import cv2
import numpy as np
import torch

from files import GOLDENS, fresh_folder, write_tensors
from pictures import picture

# By name: what is drawn, and Canny's thresholds.
CASES = {"wide": ((96, 64, 0), (100, 200)), "tall": ((45, 70, 1), (50, 120)), "small": ((20, 24, 2), (100, 200))}


def lineart(pixels: np.ndarray) -> np.ndarray:
    values = pixels.astype(np.float32)
    darker = (cv2.GaussianBlur(values, (0, 0), 6.0) - values).min(axis=2).clip(0, 255)
    strong = darker[darker > 8]
    darker /= max(16, np.median(strong) if len(strong) else 0)
    return (darker * 127).clip(0, 255).astype(np.uint8)


def main() -> None:
    folder = fresh_folder(GOLDENS / "edges")
    tensors = {}
    for name, (drawn, (low, high)) in CASES.items():
        image = picture(*drawn)
        image.save(folder / f"{name}.png")
        pixels = np.array(image)
        tensors[f"{name}.canny.{low}.{high}"] = torch.from_numpy(cv2.Canny(pixels, low, high)).int()
        tensors[f"{name}.lineart"] = torch.from_numpy(lineart(pixels)).int()
        print(name, (tensors[f"{name}.canny.{low}.{high}"] > 0).float().mean().item(), tensors[f"{name}.lineart"].float().mean().item())
    write_tensors(folder / "expected.safetensors", tensors)


if __name__ == "__main__":
    main()
