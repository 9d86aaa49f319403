"""Measures a checkpoint on prompts that training never saw: `python training/evaluate.py --size small DIR --out FIGURES`.

A judge that was trained on the renderer alone (judge.py) says whether the pictures show what the prompts say. Its own
errors on renders of the same scenes are measured beside it. Pictures are painted by diffusers' own pipelines.
Writes figures.json, a contact sheet of 100 pictures and a table for the model card into the folder FIGURES.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

import captions
import distil
import scenes
from batches import SEEDS
from export import update_manifest
from judge import KINDS, Judge, JudgeNetwork
from networks import SIZES, Size, few_step_flops
from runs import Run, Workplace, log, unpack
from scenes import Scene
from train import RUNS

Prompts = list[tuple[Scene, str]]
SHEET = 100  # pictures
RENDERS = 5  # for every picture of one kind, that painted ones are compared with
STRENGTH = 0.5  # of image-to-image
APART = ("left of", "right of", "above", "below", "next to")  # relations in which a mask does not cut into the other thing
LAYOUT_TOLERANCE = 0.12  # of the picture's side, by which a thing's centre may move in image-to-image


@dataclass(frozen=True)
class Painter:
    """A checkpoint with the settings it is used with."""

    pipeline: DiffusionPipeline
    size: Size
    steps: int
    guidance: float

    def paint(self, texts: list[str], **inputs: list[Image.Image] | float) -> np.ndarray:
        """uint8 [n, side, side, 3], the k-th from seed k, whatever they are painted beside. `inputs` are those of the
        pipeline's class: lists with one entry to a text, or plain numbers."""
        pictures = []
        for start in range(0, len(texts), 10):
            part = slice(start, start + 10)
            few = texts[part]
            # A picture to start from settles the size.
            sized = {} if "image" in inputs else {"height": self.size.picture, "width": self.size.picture}
            out = self.pipeline(
                few,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator().manual_seed(start + k) for k in range(len(few))],
                output_type="np",
                **sized,
                **{key: value[part] if isinstance(value, list) else value for key, value in inputs.items()},
            )
            pictures.append((out.images * 255).round().astype(np.uint8))
        return np.concatenate(pictures)

    def using(self, kind: type[DiffusionPipeline]) -> "Painter":
        pipeline = kind(**self.pipeline.components, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        return replace(self, pipeline=pipeline)


def load(folder: Path, size: Size, device: torch.device) -> Painter:
    pipeline = DiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    default = json.loads((folder / "manifest.json").read_text())["default"]
    return Painter(pipeline, size, default["steps"], default["guidance_scale"])


def load_judge(place: Workplace, size: Size, packed: Path | None) -> Judge:
    network = JudgeNetwork(len(scenes.things(size.name)))
    run = Run(place, "judge", {"judge": network}, 1, 0.0)
    if packed:
        unpack(packed, run)
    assert run.step, "the judge is not trained yet: run train.py first"
    run.use_average()
    return Judge(network, size, place)


# --- prompts ---


@dataclass(frozen=True)
class Score:
    """The share of pictures that pass: painted ones, and renders of the same scenes (the judge's own errors)."""

    number: int
    painted: float
    rendered: float


def prompt_scores(
    painter: Painter, judge: Judge, prompts: dict[str, Prompts]
) -> tuple[dict[str, Score], dict[str, np.ndarray], list[str]]:
    """@return scores by kind, the pictures, and texts whose picture passed"""
    scores, painted, passed = {}, {}, []
    for kind, ones in prompts.items():
        painted[kind] = painter.paint([text for _, text in ones])
        good, fair = (
            [judge.passes(kind, scene, found) for (scene, _), found in zip(ones, judge.look(pictures)[0])]
            for pictures in (painted[kind], rendered([scene for scene, _ in ones], judge.size))
        )
        scores[kind] = Score(len(ones), float(np.mean(good)), float(np.mean(fair)))
        passed += [text for (_, text), is_good in zip(ones, good) if is_good][:2]
        log(f"{painter.steps} steps, {kind}: {scores[kind]}")
    return scores, painted, passed


def rendered(ones: list[Scene], size: Size) -> np.ndarray:
    return np.stack([scenes.render(scene, size.picture) for scene in ones])


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions of features [n, width] and [m, width], as in the Fréchet inception distance, but on
    the judge's features: comparable only among figures of the same judge."""
    difference = a.mean(0) - b.mean(0)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)
    return float(difference @ difference + sum(c.trace() for c in covariances) - 2 * np.sqrt(crossed).sum())


def distances(painted: np.ndarray, judge: Judge) -> dict[str, float]:
    """Of painted pictures to renders, and of other renders to these."""
    number = RENDERS * len(painted) // len(KINDS)
    fresh = [Scene.sample(SEEDS["fresh"] + i, judge.size.name, held_out=None) for i in range(number + len(painted))]
    renders = judge.look(rendered(fresh, judge.size))[1]
    reference, others = renders[:number], renders[number:]
    return {
        "painted": frechet_distance(judge.look(painted)[1], reference),
        "renders": frechet_distance(others, reference),
    }


# --- from a picture ---


def image_to_image(painter: Painter, judge: Judge, prompts: Prompts) -> dict[str, float]:
    """Another colour for the thing in a render: does it stay where it was, and is it what the prompt says now?"""
    painter = painter.using(StableDiffusionImg2ImgPipeline)
    changed = [recoloured(scene, i) for i, (scene, _) in enumerate(prompts)]
    starts = rendered([scene for scene, _ in prompts], judge.size)
    texts = [described(scene, i) for i, scene in enumerate(changed)]
    painted = painter.paint(texts, image=[Image.fromarray(start) for start in starts], strength=STRENGTH)
    kept, right = [], []
    for scene, found in zip(changed, judge.look(painted)[0]):
        spot = judge.best(found, scene.things[0].name)
        kept.append(spot is not None and distance(spot.box, scene.things[0].boxes[0]) < LAYOUT_TOLERANCE)
        right.append(judge.passes("colour", scene, found))
    return {"layout kept": float(np.mean(kept)), "changed as asked": float(np.mean(right))}


def recoloured(scene: Scene, number: int) -> Scene:
    thing = scene.things[0]
    others = [colour for colour in scenes.COLOURS if colour != thing.colour and colour not in scene.background]
    return replace(scene, things=(replace(thing, colour=others[number % len(others)]),))


def described(scene: Scene, number: int) -> str:
    return captions.describe(scene, random.Random(f"evaluate {number}"))


def distance(a: scenes.Box, b: scenes.Box) -> float:
    """Between the centres, as a share of the picture's side."""
    return float(np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2)


def inpainting(painter: Painter, judge: Judge, prompts: Prompts) -> dict[str, float]:
    """Another thing in place of the second of two: is it there, and is the rest as it was?"""
    painter = painter.using(StableDiffusionInpaintPipeline)
    prompts = [(scene, text) for scene, text in prompts if scene.relation in APART]
    names = scenes.things(judge.size.name)
    asked, masks = [], []
    for i, (scene, _) in enumerate(prompts):
        first, second = scene.things
        others = [name for name in names if name not in (first.name, second.name)]
        asked.append(replace(scene, things=(first, replace(second, name=others[(7 * i) % len(others)], colour=None))))
        masks.append(box_mask(second.boxes[0], judge.size.picture))
    starts = rendered([scene for scene, _ in prompts], judge.size)
    images, mask_images = [Image.fromarray(start) for start in starts], [Image.fromarray(mask) for mask in masks]
    texts = [described(scene, i) for i, scene in enumerate(asked)]
    painted = painter.paint(texts, image=images, mask_image=mask_images, strength=1.0)
    outside = np.stack(masks) == 0
    difference = np.abs(painted.astype(int) - starts).max(-1)
    # What the pipeline decodes differs from its start by what the autoencoder loses; where the picture outside must stay, it
    # is laid over again, as diffusers' documentation advises for inpainting.
    laid_over = np.where(outside[..., None], starts, painted)
    filled = []
    for scene, found in zip(asked, judge.look(laid_over)[0]):
        spot = judge.best(found, scene.things[1].name)
        filled.append(spot is not None and is_within(spot.box, scene.things[1].boxes[0]))
    return {
        "filled as asked": float(np.mean(filled)),
        "mean difference outside, of 255, as decoded": float(difference[outside].mean()),
        "largest difference outside, of 255, laid over": float(np.abs(laid_over.astype(int) - starts).max(-1)[outside].max()),
    }


def box_mask(box: scenes.Box, side: int) -> np.ndarray:
    """uint8 [side, side], 255 inside the box and a margin around it."""
    x0, y0, x1, y1 = box
    mask = np.zeros((side, side), np.uint8)
    mask[max(0, int((y0 - 0.04) * side)) : int((y1 + 0.04) * side), max(0, int((x0 - 0.04) * side)) : int((x1 + 0.04) * side)] = 255
    return mask


def is_within(inner: scenes.Box, outer: scenes.Box) -> bool:
    """Whether the centre of the one is in the other."""
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


# --- all of it ---


def contact_sheet(pictures: np.ndarray, columns: int = 10) -> Image.Image:
    """Row by row; white where the last row ends early."""
    n, side = pictures.shape[:2]
    rows = -(-n // columns)
    whole = np.full((rows * columns, side, side, 3), 255, np.uint8)
    whole[:n] = pictures
    return Image.fromarray(whole.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3))


def evaluate(folder: Path, size: Size, judge: Judge, number: int, out: Path, place: Workplace) -> dict[str, object]:
    prompts: dict[str, Prompts] = {kind: scenes.evaluation_prompts(kind, number, size.name) for kind in KINDS}
    figures: dict[str, object] = {"size": size.name, "judge": json.loads(judge.path.read_text())}
    figures["flops of a picture at 4 steps"] = few_step_flops(size, distil.STEPS)
    few_steps = folder.with_name(f"{folder.name}-{distil.STEPS}-steps")
    for label, path in (("20 steps", folder), ("4 steps", few_steps)):
        if not path.exists():
            continue
        painter = load(path, size, place.device)
        scores, painted, passed = prompt_scores(painter, judge, prompts)
        # Of every kind the same share, so that 100 pictures show all of it.
        mixed = np.concatenate([painted[kind][: -(-SHEET // len(KINDS))] for kind in KINDS])
        contact_sheet(mixed).save(out / f"sheet-{painter.steps}-steps.png")
        report = {
            "settings": {"steps": painter.steps, "guidance": painter.guidance, "size": size.picture},
            "bytes": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
            "scores": {kind: vars(score) for kind, score in scores.items()},
            "distance": distances(np.concatenate(list(painted.values())), judge),
        }
        report["image to image"] = image_to_image(painter, judge, prompts["colour"])
        report["inpainting"] = inpainting(painter, judge, prompts["relation"])
        if passed:
            update_manifest(path, passed)
        figures[label] = report
        log(f"{label}: {json.dumps(report)}")
    (out / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=list(SIZES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for figures.json and the contact sheets")
    parser.add_argument("--number", type=int, default=200, help="of prompts of each kind")
    parser.add_argument("--run", type=Path, help="a training's folder, if not training/.runs/SIZE; its judge is used")
    parser.add_argument("--pack", type=Path, help="take the judge from here")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    size = SIZES[args.size]
    place = Workplace(args.run or RUNS / size.name, workers=0)
    judge = load_judge(place, size, args.pack)
    if not judge.path.exists():
        judge.calibrate(200)
    evaluate(args.folder, size, judge, args.number, args.out, place)


if __name__ == "__main__":
    main()
