"""Counts how often the checkpoint paints what held-out prompts say:
`python training/evaluate.py public/checkpoints/shapes`.

The judge is plain geometry on colours, no network: every pixel is given the palette's nearest colour.
Its own ceiling is printed too, on the pictures of the renderer.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import scenes
from scenes import Scene

PALETTE = np.array(list(scenes.COLORS.values()))
NAMES = list(scenes.COLORS)
CHECKS = ("background", "colors", "places", "shapes")


def color_map(picture: np.ndarray) -> np.ndarray:
    distances = np.square(picture[:, :, None].astype(int) - PALETTE).sum(-1)
    return distances.argmin(-1)


def inner_part(mask: np.ndarray) -> np.ndarray:
    """Without the outermost pixels, where colours are mixtures."""
    padded = np.pad(mask, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return windows.all((2, 3))


def components(mask: np.ndarray, smallest: float) -> list[np.ndarray]:
    """The connected pieces of the mask with at least so many pixels, from left to right."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # every pixel takes the largest label among its neighbours
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:], labels])
        spread[~mask] = 0
        if (spread == labels).all():
            break
        labels = spread
    names, sizes = np.unique(labels[mask], return_counts=True)
    pieces = [labels == name for name, size in zip(names, sizes) if size >= smallest]
    return sorted(pieces, key=lambda piece: np.argwhere(piece)[:, 1].mean())


def fit_square(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    crop = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    return np.asarray(Image.fromarray(crop.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BOX)) > 127


def _templates() -> dict[str, np.ndarray]:
    found = {}
    for shape in scenes.SHAPES:
        thing = scenes.Thing(shape, "black", "big", 64, 64, 40)
        picture = scenes.render(Scene("single", [thing], "white", True))
        found[shape] = fit_square(picture[:, :, 0] < 128)
    return found


TEMPLATES = _templates()


def nearest_shape(mask: np.ndarray) -> str:
    fitted = fit_square(mask)
    overlap = {s: (fitted & t).sum() / (fitted | t).sum() for s, t in TEMPLATES.items()}
    return max(overlap, key=overlap.get)


def judge(picture: np.ndarray, scene: Scene) -> dict[str, bool]:
    """For scenes whose things differ in colour."""
    found, reference = color_map(picture), color_map(scenes.render(scene))
    frame = np.ones_like(found, bool)
    frame[4:-4, 4:-4] = False
    ground = NAMES.index(scene.background)
    result = dict.fromkeys(CHECKS, False)
    result["background"] = bool((found[frame] == ground).mean() > 0.8)

    wanted = list(dict.fromkeys(NAMES.index(t.color) for t in scene.things))
    areas = [((found == c).sum(), (reference == c).sum()) for c in wanted]
    stray = sum(inner_part(found == c).sum() for c in range(len(NAMES)) if c not in (*wanted, ground))
    result["colors"] = all(0.4 * r < a < 2.5 * r for a, r in areas) and bool(stray < 0.1 * sum(r for _, r in areas))

    pieces = [components(found == c, 0.2 * r / len(scene.things)) for c, (_, r) in zip(wanted, areas)]
    if not all(pieces):
        return result
    masks = [max(p, key=np.sum) for p in pieces]
    centers = [np.argwhere(m).mean(0)[::-1] for m in masks]
    steps = np.diff(centers, axis=0)
    if scene.layout == "row":
        result["places"] = all(dx > 6 and dx > abs(dy) for dx, dy in steps)
    elif scene.layout == "column":
        result["places"] = all(dy > 6 and dy > abs(dx) for dx, dy in steps)
    else:
        truth = np.array([scene.things[0].x, scene.things[0].y])
        result["places"] = bool(np.abs(centers[0] - truth).max() < 20)
    shapes = [nearest_shape(m) for m in masks]
    result["shapes"] = all(found == t.shape for found, t in zip(shapes, scene.things))
    return result


def draw_test(layouts: dict[tuple[str, int], int], held_out: bool) -> list[tuple[Scene, str]]:
    """So many scenes of each (layout, number of things), with captions that say everything."""
    rng = random.Random(f"evaluate {held_out}")
    missing, test = dict(layouts), []
    while any(missing.values()):
        scene = scenes.sample_scene(rng, held_out)
        key = (scene.layout, len(scene.things))
        different = len({t.color for t in scene.things}) == key[1]
        if missing.get(key) and different and scene.say_background:
            missing[key] -= 1
            test.append((scene, scenes.caption(scene, rng)))
    return test


def paint(pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float) -> np.ndarray:
    pictures = []
    for i in range(0, len(prompts), 10):
        generators = [torch.Generator().manual_seed(i + k) for k in range(len(prompts[i : i + 10]))]
        out = pipeline(
            prompts[i : i + 10],
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=scenes.SIZE,
            width=scenes.SIZE,
            generator=generators,
            output_type="np",
        )
        pictures.append((out.images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def contact_sheet(pictures: np.ndarray, columns: int = 8) -> Image.Image:
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures) // columns * columns, columns)]
    return Image.fromarray(np.concatenate(rows, 0))


def load(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of prompts")
    parser.add_argument("--sheet", type=Path, help="write the first pictures of every group here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load(args.folder)
    default = json.loads((args.folder / "manifest.json").read_text())["default"]
    groups = {
        "one shape": {("single", 1): 24},
        "two shapes, left/right/above/below": {("row", 2): 48, ("column", 2): 48},
    }
    sheet = []
    print(f"{default['steps']} steps, guidance {default['guidance_scale']}, held-out prompts")
    for name, layouts in groups.items():
        layouts = {key: max(1, round(n * args.scale)) for key, n in layouts.items()}
        # Scenes of one kind are held out only by the four unseen types.
        test = draw_test(layouts, held_out=True)
        pictures = paint(pipeline, [text for _, text in test], default["steps"], default["guidance_scale"])
        sheet.extend(pictures[np.linspace(0, len(pictures) - 1, 8).astype(int)])
        for who, judged in (("checkpoint", pictures), ("judge's ceiling", [scenes.render(s) for s, _ in test])):
            results = [judge(picture, scene) for picture, (scene, _) in zip(judged, test)]
            parts = {check: np.mean([r[check] for r in results]) for check in CHECKS}
            parts["colors+places"] = np.mean([r["background"] and r["colors"] and r["places"] for r in results])
            parts["everything"] = np.mean([all(r.values()) for r in results])
            line = ", ".join(f"{key} {100 * value:.0f} %" for key, value in parts.items())
            print(f"{name} ({len(test)}), {who}: {line}", flush=True)
    if args.sheet:
        contact_sheet(np.stack(sheet)).save(args.sheet)


if __name__ == "__main__":
    main()
