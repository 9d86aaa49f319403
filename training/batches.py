"""What the stages learn from, made by worker processes: a batch depends on its stage and its step's number alone.

Workers are forked and never touch torch, so that they cost little and may run beside CUDA.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path
from typing import Callable, Generic, Iterator, Sequence, TypeVar

import numpy as np
from PIL import Image, ImageFilter

import captions
import scenes
from networks import THING_SLOTS, Size
from scenes import Scene
from tokenizer import load_tokenizer, tokenize

Batch = TypeVar("Batch")

# Every stage draws from seeds of its own, and what judges is judged on seeds that nothing was trained on.
SEEDS = {name: 10**9 * (i + 1) for i, name in enumerate(("judge", "vae", "tiny_vae", "text", "latents", "fresh", "close_ups"))}
GERMAN_SHARE = 0.3
CAPTIONS_PER_SCENE = 4
JUDGE_SIZE = 128  # pixels per side of what the judge sees, whatever is painted
MOST_INSTANCES = 4


def make_workers(number: int) -> ProcessPoolExecutor:
    """Processes that make batches, for all stages: each keeps the drawings that it has prepared once. They are forked at
    once, before there is anything of CUDA that must not be."""
    workers = ProcessPoolExecutor(number, get_context("fork"), _end_with_parent, (os.getpid(),))
    workers.submit(os.getpid).result()
    return workers


class Feed(Generic[Batch]):
    """Batches of the steps from `start` to `stop`, in order, made ahead of their use by workers, if there are any."""

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int, workers: ProcessPoolExecutor | None, ahead: int):
        self.make, self.start, self.stop, self.workers, self.ahead = make, start, stop, workers, ahead

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers:
            yield from map(self.make, range(self.start, self.stop))
            return
        under_way: deque[Future[Batch]] = deque()
        try:
            for step in range(self.start, self.stop):
                under_way.append(self.workers.submit(self.make, step))
                if len(under_way) > self.ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def _end_with_parent(parent: int) -> None:
    """A training that is killed takes its workers with it, and they leave the processor to it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    os.nice(5)
    threading.Thread(target=watch, daemon=True).start()


def training_scene(stage: str, number: int, size: Size, kinds: tuple[scenes.Kind, ...] = scenes.KINDS) -> Scene:
    """The scene of this number in a stage; never a held-out one."""
    return Scene.sample(SEEDS[stage] + number, size.name, held_out=False, kinds=kinds)


# --- pictures for the autoencoders ---


@dataclass(frozen=True)
class PictureBatches:
    """uint8 [count, side, side, 3]: pieces around things until `whole_from`, then fewer whole pictures."""

    stage: str
    size: Size
    count: int
    crop: int  # pixels per side of a piece
    whole_from: int

    def __call__(self, step: int) -> np.ndarray:
        rng = random.Random(f"{self.stage} {step}")
        whole = step >= self.whole_from
        # The same number of pixels either way.
        count = max(1, self.count * self.crop**2 // self.size.picture**2) if whole else self.count
        pictures = []
        for i in range(count):
            scene = training_scene(self.stage, step * self.count + i, self.size)
            picture = scenes.render(scene, self.size.picture)
            if not whole:
                picture = self._piece(picture, scene, rng)
            pictures.append(_recoloured(picture, rng) if i % 3 == 0 else picture)
        return np.stack(pictures)

    def _piece(self, picture: np.ndarray, scene: Scene, rng: random.Random) -> np.ndarray:
        x0, y0, x1, y1 = rng.choice(scenes.instances(scene))[2]
        free, half = picture.shape[0] - self.crop, self.crop / 2
        centre = ((x0 + x1) / 2, (y0 + y1) / 2)
        x, y = (round(min(max(c * picture.shape[0] - half + rng.uniform(-half, half), 0), free)) for c in centre)
        return picture[y : y + self.crop, x : x + self.crop]


def _recoloured(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """Other colours than ours: people start from pictures of their own, too."""
    mixed = picture[..., rng.sample(range(3), 3)].astype(np.float32)
    gain = np.array([rng.uniform(0.5, 1.2) for _ in range(3)], np.float32)
    return np.clip(mixed * gain + rng.uniform(-30, 60), 0, 255).astype(np.uint8)


# --- captions for the text encoder ---

ORDERS = 6  # of three things
POSITION_BINS = 8  # across the picture
EXTENT_BINS = 4
UNSAID = -100  # targets that do not count; torch's cross entropy leaves them out


def text_classes(size: Size) -> tuple[list[int], list[int]]:
    """How many answers there are to what the text encoder is asked: about each thing slot, and about the surroundings."""
    thing = [len(scenes.things(size.name)) + 1, len(scenes.COLOURS) + 1, EXTENT_BINS, POSITION_BINS, POSITION_BINS]
    surroundings = [len(scenes.BACKGROUNDS) + 1, len(scenes.STYLES) + 1, 2 * len(scenes.RELATIONS) + 1]
    return thing, surroundings


@cache
def _thing_numbers(vocabulary: scenes.Vocabulary) -> dict[str, int]:
    return {name: i for i, name in enumerate(scenes.things(vocabulary))}


def colour_number(colour: str | None) -> int:
    """0 for a thing's own colours."""
    return 0 if colour is None else 1 + scenes.COLOURS.index(colour)


def text_targets(scene: Scene | None, size: Size) -> list[list[int]]:
    """Answers in the order of `text_classes`, slot by slot, for each order in which the things may fill the slots: captions
    name them in any, and the text encoder may choose. Always ORDERS of them; some are there twice. None is a text that
    says nothing."""
    orders = list(permutations(scene.things)) if scene else [()]
    return [_answers(scene, orders[i % len(orders)], size) for i in range(ORDERS)]


def _answers(scene: Scene | None, things: Sequence[scenes.Thing], size: Size) -> list[int]:
    numbers = _thing_numbers(size.name)
    targets: list[int] = []
    drawn = [(thing, box) for thing in things for box in thing.boxes][:THING_SLOTS]
    for thing, (x0, y0, x1, y1) in drawn:
        extent = int(((x1 - x0) * (y1 - y0)) ** 0.5 * EXTENT_BINS / 0.8)
        bins = [min(max(int((a + b) / 2 * POSITION_BINS), 0), POSITION_BINS - 1) for a, b in ((x0, x1), (y0, y1))]
        targets += [numbers[thing.name], colour_number(thing.colour), min(extent, EXTENT_BINS - 1), *bins]
    targets += [len(numbers), UNSAID, UNSAID, UNSAID, UNSAID] * (THING_SLOTS - len(drawn))
    spoken = scene.spoken if scene else frozenset()
    return targets + [
        1 + scenes.BACKGROUNDS.index(scene.background) if "background" in spoken else 0,
        1 + scenes.STYLES.index(scene.style) if "style" in spoken else 0,
        _relation_number(scene, things) if scene and scene.relation else 0,
    ]


def _relation_number(scene: Scene, things: Sequence[scenes.Thing]) -> int:
    """Of the relation of the first of these things to the second: "a dog right of a cat" is "a cat left of a dog". Relations
    without an inverse have a second number for that."""
    relation = 1 + scenes.RELATIONS.index(scene.relation)
    if things[0] is scene.things[0]:
        return relation
    inverse = captions.INVERSE.get(scene.relation)
    return 1 + scenes.RELATIONS.index(inverse) if inverse else len(scenes.RELATIONS) + relation


@cache
def _tokenizer(folder: Path):
    return load_tokenizer(folder)


def _caption(scene: Scene, rng: random.Random) -> str:
    return captions.describe(scene, rng, "de" if rng.random() < GERMAN_SHARE else "en")


def _nonsense(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))


@dataclass(frozen=True)
class TextBatches:
    """Tokens int16 [count, TEXT_LENGTH] and targets int64 [count, ORDERS, questions]."""

    size: Size
    tokenizer: Path
    count: int

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = random.Random(f"text {step}")
        texts, targets = [], []
        for i in range(self.count):
            if rng.random() < 0.03:  # words that it does not know say nothing
                texts.append(" ".join(_nonsense(rng) for _ in range(rng.randint(0, 4))))
                targets.append(text_targets(None, self.size))
                continue
            scene = training_scene("text", step * self.count + i, self.size)
            words = _caption(scene, rng).split(" ")
            if rng.random() < 0.1:  # and take nothing from the others
                words.insert(rng.randint(0, len(words)), _nonsense(rng))
            texts.append(" ".join(words))
            targets.append(text_targets(scene, self.size))
        return tokenize(_tokenizer(self.tokenizer), texts), np.array(targets, np.int64)


# --- scenes for the denoiser ---


@dataclass(frozen=True)
class ScenePart:
    """A part of a pool, before it is encoded."""

    pictures: np.ndarray  # uint8 [n, side, side, 3]
    tokens: np.ndarray  # int16 [n, CAPTIONS_PER_SCENE, TEXT_LENGTH]
    coverage: np.ndarray  # uint8 [n, latents per side, the same]: how much of a latent's pixels things cover, 0 to 255


@dataclass(frozen=True)
class SceneParts:
    """Whole scenes, or close-ups: the middle of scenes of one thing, as large as it is in whole ones, which takes a fourth of
    the operations."""

    size: Size
    tokenizer: Path
    count: int  # scenes in a part
    close_up: bool = False

    def __call__(self, part: int) -> ScenePart:
        rng = random.Random(f"{'close-ups' if self.close_up else 'latents'} {part}")
        pictures, texts, coverage = [], [], []
        for i in range(self.count):
            number = part * self.count + i
            scene = self._close_up(number) if self.close_up else training_scene("latents", number, self.size)
            picture, covered = scenes.render(scene, self.size.picture), scenes.labels(scene, 4 * self.size.latent) > 0
            if self.close_up:
                x, y = rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)
                picture, covered = (_middle(whole, x, y) for whole in (picture, covered))
            pictures.append(picture)
            texts += [_caption(scene, rng) for _ in range(CAPTIONS_PER_SCENE)]
            side = covered.shape[0] // 4
            coverage.append(covered.reshape(side, 4, side, 4).mean((1, 3)) * 255)
        tokens = tokenize(_tokenizer(self.tokenizer), texts).reshape(self.count, CAPTIONS_PER_SCENE, -1)
        return ScenePart(np.stack(pictures), tokens, np.stack(coverage).astype(np.uint8))

    def _close_up(self, number: int) -> Scene:
        """One thing in the middle, not so large that it would be cut off."""
        for attempt in range(1000):
            scene = training_scene("close_ups", 1000 * number + attempt, self.size, ("single",))
            if scene.place == "centre" and scene.things[0].size != "large":
                return scene
        raise ValueError("no scene is fit for a close-up")


def _middle(whole: np.ndarray, x: float, y: float) -> np.ndarray:
    """Half of each side, shifted by these shares of the side, in steps that all sizes of the same scene share."""
    side = whole.shape[0]
    left, top = (round(32 * (0.25 + shift)) * side // 32 for shift in (x, y))
    return whole[top : top + side // 2, left : left + side // 2]


# --- pictures for the judge ---


@dataclass(frozen=True)
class JudgeBatches:
    """Pictures uint8 [count, JUDGE_SIZE, JUDGE_SIZE, 3] and what is on them, float32 [count, MOST_INSTANCES, 6]: number of
    the thing (-1: none), number of its colour, box."""

    size: Size
    count: int
    stage: str = "judge"

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = random.Random(f"{self.stage} {step}")
        pictures = []
        drawn = np.full((self.count, MOST_INSTANCES, 6), -1, np.float32)
        numbers = _thing_numbers(self.size.name)
        for i in range(self.count):
            scene = training_scene(self.stage, step * self.count + i, self.size)
            pictures.append(_worn(scenes.render(scene, JUDGE_SIZE), rng))
            for k, (name, colour, box) in enumerate(scenes.instances(scene)[:MOST_INSTANCES]):
                drawn[i, k] = numbers[name], colour_number(colour), *box
        return np.stack(pictures), drawn


def _worn(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """Blurred, coarse, noisy or off in colour, as painted pictures are: the judge shall not stumble over that."""
    image = Image.fromarray(picture)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if rng.random() < 0.2:
        side = round(image.width * rng.uniform(0.4, 0.9))
        image = image.resize((side, side), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    values = np.asarray(image).astype(np.float32)
    if rng.random() < 0.5:
        values = values * rng.uniform(0.88, 1.12) + np.array([rng.uniform(-10, 10) for _ in range(3)], np.float32)
    if rng.random() < 0.3:
        noise = np.random.default_rng(rng.randrange(2**32)).standard_normal(values.shape, np.float32)
        values = values + rng.uniform(1, 9) * noise
    return np.clip(values, 0, 255).astype(np.uint8)
