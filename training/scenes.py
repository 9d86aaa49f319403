"""Endless labelled pictures: everyday things before a painted background, and what a judge must know of them.

A scene is a function of its seed. Some combinations never come in training (see `is_held_out`).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from backdrops import gradient_ends, paint_backdrop
from captions import describe
from sprites import COLOUR_LAB, HULL, LEVELS, SIDE, extent, middle_colour, ready_sprite, to_oklab
from vocabulary import (
    BACKGROUNDS,
    COLOUR_RGB,
    COLOURS,
    GRADIENTS,
    LANDSCAPES,
    PLACES,
    PLAIN,
    RELATIONS,
    SIZES,
    STYLES,
    Language,
    Vocabulary,
    can_be_coloured,
    things,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "COLOUR_RGB",
    "KINDS",
    "PLACES",
    "RELATIONS",
    "SIZES",
    "STYLES",
    "Box",
    "Kind",
    "Scene",
    "Thing",
    "Vocabulary",
    "can_be_coloured",
    "evaluation_prompts",
    "instances",
    "is_held_out",
    "labels",
    "relation_holds",
    "render",
    "things",
]

Kind = Literal["single", "count", "pair", "row"]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of the picture, y down
KINDS: tuple[Kind, ...] = ("single", "count", "pair", "row")
KIND_SHARES = {"single": 0.24, "count": 0.14, "pair": 0.55, "row": 0.07}
COLOURED_SHARE = 0.7  # of the things that can be, in what is learned from: a thing in another colour is the harder one

HELD_OUT_SHARE = 0.06  # of the claims; a scene of two things makes three of them
LARGEST = 0.94  # share of the picture's side that things may take
SIDES = {"small": 0.28, "medium": 0.48, "large": 0.74}  # longer side of a lone thing
COUNT_SIDES = {2: 0.4, 3: 0.38, 4: 0.36}
PAIR_SIDES = {"small": 0.25, "medium": 0.37, "large": 0.48}
# The sides of the two in relations where the one is beside the other's top, foot or face.
TOUCHING_SIDES = {"on": (0.34, 0.46), "under": (0.28, 0.6), "in front of": (0.36, 0.6), "behind": (0.6, 0.36)}
ROW_SIDES = {2: 0.38, 3: 0.29}
MOST_TURNED = 18.0  # degrees
TURNED_SHARE, FLIPPED_SHARE = 0.15, 0.1  # of the copies: every pose more has to be learned
SIMILAR = 0.13  # distance in OKLab under which a thing would be lost before a plain background


@dataclass(frozen=True)
class Thing:
    """`count` copies of one drawing in one colour. `colour` None: its natural colours. `boxes`: what is drawn, from
    left to right. `angles`: degrees counter-clockwise. `flips`: mirrored left to right, before turning."""

    name: str
    colour: str | None
    count: int
    size: str
    boxes: tuple[Box, ...]
    angles: tuple[float, ...]
    flips: tuple[bool, ...]


@dataclass(frozen=True)
class Scene:
    """single, count: one thing; pair: two, things[0] <relation> things[1]; row: two or three from left to right.
    `spoken`: which of background, style, size and place captions mention. `seed`: of what nothing mentions."""

    kind: Kind
    things: tuple[Thing, ...]
    relation: str | None
    place: str
    background: str
    style: str
    spoken: frozenset[str]
    seed: int

    @staticmethod
    def sample(seed: int, vocabulary: Vocabulary, held_out: bool | None = None, kinds: Sequence[Kind] = KINDS) -> Scene:
        rng = random.Random(f"{vocabulary} {seed}")
        shares = [KIND_SHARES[kind] for kind in kinds]
        while True:
            scene = _draw_scene(rng, vocabulary, rng.choices(kinds, shares)[0], LEARNED)
            if held_out is None or is_held_out(scene) == held_out:
                return scene

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the things, the rearmost first."""
        backwards = range(len(self.things) - 1, -1, -1)
        return (0, 1) if self.relation == "behind" else tuple(backwards)


# --- boxes ---


def _hull(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes)
    return min(x0), min(y0), max(x1), max(y1)


def _moved(boxes: Sequence[Box], dx: float, dy: float) -> list[Box]:
    return [(x0 + dx, y0 + dy, x1 + dx, y1 + dy) for x0, y0, x1, y1 in boxes]


def _scaled(boxes: Sequence[Box], factor: float) -> list[Box]:
    return [tuple(factor * edge for edge in box) for box in boxes]


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _overlap(a: Box, b: Box) -> tuple[float, float]:
    """Width and height of what they share; negative: of the gap between them."""
    return min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])


def relation_holds(relation: str, a: Box, b: Box) -> bool:
    """Whether a stands in this relation to b, for boxes of things or of groups."""
    if relation == "right of":
        return relation_holds("left of", b, a)
    if relation == "below":
        return relation_holds("above", b, a)
    if relation == "behind":
        return relation_holds("in front of", b, a)
    (ax, ay), (bx, by) = _middle(a), _middle(b)
    dx, dy = bx - ax, by - ay
    shared_width, shared_height = _overlap(a, b)
    over_each_other = shared_width >= 0.5 * min(a[2] - a[0], b[2] - b[0])
    match relation:
        case "left of":
            return dx >= 0.15 and abs(dy) <= dx
        case "next to":
            return abs(dx) >= 0.15 and abs(dy) <= abs(dx)
        case "above":
            return dy >= 0.15 and abs(dx) <= dy
        case "on":
            return over_each_other and dy >= 0.1 and shared_height >= -0.05
        case "under":
            return over_each_other and -dy >= 0.1
        case "in front of":
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            return shared_width > 0 and shared_height > 0 and shared_width * shared_height >= 0.1 * smaller and dy <= 0
    raise ValueError(f"no such relation: {relation}")


# --- layout; lengths as shares of the picture's side ---


def _group(rng: random.Random, extents: Sequence[np.ndarray], most_columns: int) -> list[Box]:
    """Copies beside and above each other, standing on lines, with small irregular gaps; around (0, 0)."""
    columns = min(most_columns, len(extents))
    boxes, y = [], 0.0
    # The shorter line is the upper one.
    first = len(extents) % columns or columns
    lines = [extents[:first], *(extents[i : i + columns] for i in range(first, len(extents), columns))]
    for line in lines:
        gaps = [rng.uniform(0.04, 0.14) for _ in line]
        x = -(sum(width for width, _ in line) + sum(gaps[1:])) / 2
        y += max(height for _, height in line)
        for (width, height), gap in zip(line, gaps):
            sunk = rng.uniform(-0.05, 0.05)
            boxes.append((x, y - height + sunk, x + width, y + sunk))
            x += width + gap
        y += rng.uniform(0.08, 0.14)
    return _centred(boxes)


def _centred(boxes: Sequence[Box]) -> list[Box]:
    x, y = _middle(_hull(boxes))
    return _moved(boxes, -x, -y)


def _into_picture(rng: random.Random, boxes: Sequence[Box], centre: tuple[float, float]) -> list[Box]:
    """Around the centre, but shrunk and moved so far that nothing is cut off."""
    x0, y0, x1, y1 = _hull(boxes)
    boxes = _centred(_scaled(boxes, min(1.0, LARGEST / (x1 - x0), LARGEST / (y1 - y0))))
    x0, y0, x1, y1 = _hull(boxes)
    margin = (1 - LARGEST) / 2
    wanted = [c + rng.uniform(-0.04, 0.04) for c in centre]
    dx = min(max(wanted[0], margin - x0), 1 - margin - x1)
    dy = min(max(wanted[1], margin - y0), 1 - margin - y1)
    return _moved(boxes, dx, dy)


def _pair(rng: random.Random, relation: str, a: list[Box], b: list[Box]) -> tuple[list[Box], list[Box]]:
    """Moves a so that it stands in the relation to b; both groups around (0, 0)."""
    if relation in ("right of", "below", "behind"):
        opposite = {"right of": "left of", "below": "above", "behind": "in front of"}[relation]
        b, a = _pair(rng, opposite, b, a)
        return a, b
    (_, _, a_right, a_foot), (_, _, b_right, b_foot) = _hull(a), _hull(b)  # half the widths and heights
    side = rng.choice((-1, 1))
    match relation:
        case "left of" | "next to":
            dx = a_right + b_right + (rng.uniform(0.02, 0.06) if relation == "next to" else rng.uniform(0.05, 0.14))
            step = side * dx if relation == "next to" else -dx
            return _moved(a, step, b_foot - a_foot + rng.uniform(-0.03, 0.03)), b
        case "above":
            return _moved(a, rng.uniform(-0.06, 0.06), -(a_foot + b_foot + rng.uniform(0.05, 0.12))), b
        case "on":
            sunk = rng.uniform(0.08, 0.16) * b_foot
            return _moved(a, rng.uniform(-0.2, 0.2) * b_right, sunk - a_foot - b_foot), b
        case "under":
            return _moved(a, rng.uniform(-0.25, 0.25) * b_right, b_foot + rng.uniform(0.3, 0.5) * a_foot), b
        case "in front of":
            dy = b_foot - a_foot + rng.uniform(0.2, 0.4) * a_foot
            return _moved(a, side * rng.uniform(0.5, 0.75) * b_right, max(dy, 0.05)), b
    raise ValueError(f"no such relation: {relation}")


# --- drawing lots ---


@dataclass(frozen=True)
class _Draft:
    """A thing before it has its place; extents: width and height of each copy, the drawing's longer side being 1."""

    name: str
    colour: str | None
    size: str
    angles: tuple[float, ...]
    flips: tuple[bool, ...]
    extents: tuple[np.ndarray, ...]

    def placed(self, boxes: Sequence[Box]) -> Thing:
        copies = sorted(zip(boxes, self.angles, self.flips), key=lambda copy: copy[0][0] + copy[0][2])
        boxes, angles, flips = zip(*copies)
        return Thing(self.name, self.colour, len(boxes), self.size, boxes, angles, flips)


def _draft(rng: random.Random, name: str, colour: str | None, count: int, size: str, style: str) -> _Draft:
    angles = tuple(rng.uniform(-MOST_TURNED, MOST_TURNED) if rng.random() < TURNED_SHARE else 0.0 for _ in range(count))
    flips = tuple(rng.random() < FLIPPED_SHARE for _ in range(count))
    sizes = tuple(extent(name, style, *turned)[0] * rng.uniform(0.95, 1.05) for turned in zip(angles, flips))
    return _Draft(name, colour, size, angles, flips, sizes)


@dataclass(frozen=True)
class _Wishes:
    """What an evaluation asks of a scene; None: whatever comes."""

    names: tuple[str, ...] | None = None
    colours: tuple[str | None, ...] | None = None
    relation: str | None = None
    count: int | None = None
    all_spoken: bool = False
    coloured: float = 0.5  # the share of things that get a colour where none is wished for


LEARNED = _Wishes(coloured=COLOURED_SHARE)


def _draw_scene(rng: random.Random, vocabulary: Vocabulary, kind: Kind, wishes: _Wishes) -> Scene:
    style = rng.choices(STYLES, (0.6, 0.2, 0.2))[0]
    number = {"pair": 2, "row": rng.choice((2, 3))}.get(kind, 1)
    names = wishes.names or tuple(rng.sample(things(vocabulary), number))
    colours = wishes.colours or tuple(_draw_colour(rng, name, wishes.coloured) for name in names)
    place, relation = "centre", None
    match kind:
        case "single":
            place = rng.choice(PLACES[1:]) if rng.random() < 0.35 else "centre"
            placed = [_lone_thing(rng, names[0], colours[0], place, style)]
        case "count":
            placed = [_several(rng, names[0], colours[0], wishes.count or rng.choice((2, 3, 4)), style)]
        case "pair":
            relation = wishes.relation or rng.choice(RELATIONS)
            placed = _related_things(rng, names, colours, relation, style, wishes.count)
        case "row":
            placed = _things_in_a_row(rng, names, colours, style)
    spoken = _draw_spoken(rng, style, wishes.all_spoken)
    background = _draw_background(rng, placed, style, "background" in spoken)
    return Scene(kind, tuple(placed), relation, place, background, style, spoken, rng.getrandbits(32))


def _draw_colour(rng: random.Random, name: str, share: float) -> str | None:
    return rng.choice(COLOURS) if can_be_coloured(name) and rng.random() < share else None


def _draw_spoken(rng: random.Random, style: str, everything: bool) -> frozenset[str]:
    spoken = {"size", "place"}
    if everything or rng.random() < 0.85:
        spoken.add("background")
    if style != "flat" or (not everything and rng.random() < 0.15):
        spoken.add("style")
    return frozenset(spoken)


def _draw_background(rng: random.Random, placed: Sequence[Thing], style: str, spoken: bool) -> str:
    """One before which every thing is seen. What no caption mentions is mostly white: it need not be guessed then."""
    while True:
        kind = rng.choices((LANDSCAPES, PLAIN, GRADIENTS), (0.5, 0.3, 0.2))[0]
        background = rng.choice(kind)
        if not spoken and rng.random() < 0.6:
            background = "plain white"
        if not any(_is_lost(thing, background, style) for thing in placed):
            return background


def _is_lost(thing: Thing, background: str, style: str) -> bool:
    if background in LANDSCAPES:
        return (background, thing.colour) in {("night", "black"), ("snow", "white")}
    own = COLOUR_LAB[thing.colour] if thing.colour else middle_colour(thing.name, style)
    kind, colour = background.split(" ")
    grounds = [COLOUR_RGB[colour]] if kind == "plain" else gradient_ends(colour)
    return any(np.linalg.norm(own - to_oklab(np.array(ground))) < SIMILAR for ground in grounds)


def _lone_thing(rng: random.Random, name: str, colour: str | None, place: str, style: str) -> Thing:
    size = rng.choices(SIZES, (0.2, 0.6, 0.2) if place == "centre" else (0.35, 0.65, 0))[0]
    draft = _draft(rng, name, colour, 1, size, style)
    side = SIDES[size] * (1 if place == "centre" else 0.85)
    centre = {"left": (0.22, 0.5), "right": (0.78, 0.5), "top": (0.5, 0.22), "bottom": (0.5, 0.78)}
    boxes = _scaled(_group(rng, draft.extents, 1), side)
    return draft.placed(_into_picture(rng, boxes, centre.get(place, (0.5, 0.5))))


def _several(rng: random.Random, name: str, colour: str | None, count: int, style: str) -> Thing:
    draft = _draft(rng, name, colour, count, "medium", style)
    boxes = _scaled(_group(rng, draft.extents, rng.choice((2, 2, 4))), COUNT_SIDES[count])
    return draft.placed(_into_picture(rng, boxes, (0.5, 0.5)))


def _related_things(
    rng: random.Random,
    names: Sequence[str],
    colours: Sequence[str | None],
    relation: str,
    style: str,
    count: int | None,
) -> list[Thing]:
    touching = TOUCHING_SIDES.get(relation)
    counts = (count or rng.choices((1, 2, 3), (0.8, 0.14, 0.06))[0], 1)
    while True:
        sizes = ["medium" if touching else rng.choices(SIZES, (0.12, 0.76, 0.12))[0] for _ in names]
        drafts = [_draft(rng, *of, style) for of in zip(names, colours, counts, sizes)]
        sides = touching or tuple(PAIR_SIDES[size] for size in sizes)
        groups = [
            _scaled(_group(rng, draft.extents, 3), side * (1, 0.75, 0.6)[count - 1])
            for draft, side, count in zip(drafts, sides, counts)
        ]
        groups = _pair(rng, relation, *groups)
        boxes = _into_picture(rng, [box for group in groups for box in group], (0.5, 0.5))
        parts = boxes[: counts[0]], boxes[counts[0] :]
        if relation_holds(relation, _hull(parts[0]), _hull(parts[1])):
            return [draft.placed(part) for draft, part in zip(drafts, parts)]


def _things_in_a_row(
    rng: random.Random, names: Sequence[str], colours: Sequence[str | None], style: str
) -> list[Thing]:
    drafts = [_draft(rng, name, colour, 1, "medium", style) for name, colour in zip(names, colours)]
    boxes = _scaled(_group(rng, [draft.extents[0] for draft in drafts], 3), ROW_SIDES[len(names)])
    boxes = _into_picture(rng, boxes, (0.5, 0.5))
    return [draft.placed([box]) for draft, box in zip(drafts, boxes)]


# --- what training never sees ---


def _claims(scene: Scene) -> Iterator[str]:
    """The combinations in a scene: thing x colour x place x background x count, and thing x relation x thing."""
    names = [thing.name for thing in scene.things]
    if scene.kind == "row":
        yield from (f"{left} left of {right}" for left, right in itertools.pairwise(names))
    roles = [scene.place] if len(names) == 1 else ["row"] * len(names)
    if scene.relation:
        mirror = {"right of": "left of", "below": "above", "behind": "in front of"}.get(scene.relation)
        relation = mirror or scene.relation
        roles = [f"{relation} it", f"it is {relation}"]
        if mirror:
            names, roles = names[::-1], roles[::-1]
        elif relation == "next to":
            names, roles = sorted(names), ["next to it"] * 2
        yield f"{names[0]} {relation} {names[1]}"
    for thing, role in zip(scene.things, roles):
        yield f"{thing.name}, {thing.colour}, {role}, {scene.background}, {thing.count}"


def is_held_out(scene: Scene) -> bool:
    """By a hash, so that it depends on nothing but the combinations themselves."""
    return any(_hash(claim) < HELD_OUT_SHARE for claim in _claims(scene))


def _hash(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


# --- pictures ---


def instances(scene: Scene) -> list[tuple[str, str | None, Box]]:
    """(name, colour, box) of every copy: things in their order, copies from left to right."""
    return [(thing.name, thing.colour, box) for thing in scene.things for box in thing.boxes]


def _turned_sprite(thing: Thing, copy: int, style: str, size: int) -> tuple[np.ndarray, int, int]:
    """The copy as it comes into the picture: premultiplied uint8 [height, width, 4], and where its top left corner is,
    in pixels. It is as large as fits into its box."""
    (x0, y0, x1, y1), angle, flip = thing.boxes[copy], thing.angles[copy], thing.flips[copy]
    (width, height), middle = extent(thing.name, style, angle, flip)
    side = size * min((x1 - x0) / width, (y1 - y0) / height)  # of what is drawn, in pixels
    canvas = side * SIDE / HULL
    cx, cy = size * (x0 + x1) / 2 - middle[0] * side, size * (y0 + y1) / 2 - middle[1] * side
    level = min((level for level in LEVELS if level >= canvas), default=SIDE)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    reach = canvas / 2 * (abs(cos) + abs(sin))
    left, top = max(0, int(cx - reach)), max(0, int(cy - reach))
    right, bottom = min(size, int(cx + reach) + 1), min(size, int(cy + reach) + 1)
    # From pixels of the picture to pixels of the sprite: back to its middle, turned back, flipped back.
    scale, sign = level / canvas, -1 if flip else 1
    a, b, d, e = sign * scale * cos, -sign * scale * sin, scale * sin, scale * cos
    dx, dy = left - cx, top - cy
    transform = (a, b, a * dx + b * dy + level / 2, d, e, d * dx + e * dy + level / 2)
    ready = ready_sprite(thing.name, style, thing.colour, level)
    patch = ready.transform((right - left, bottom - top), Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR)
    return np.frombuffer(patch.tobytes(), np.uint8).reshape(bottom - top, right - left, 4), left, top


def _sprites_rearmost_first(scene: Scene, size: int) -> Iterator[tuple[int, np.ndarray, slice, slice]]:
    """(index among the instances, sprite, rows, columns), the rearmost first."""
    first = np.cumsum([0, *(thing.count for thing in scene.things)])
    for index in scene.order:
        thing = scene.things[index]
        for copy in range(thing.count):
            patch, left, top = _turned_sprite(thing, copy, scene.style, size)
            rows, columns = slice(top, top + patch.shape[0]), slice(left, left + patch.shape[1])
            yield int(first[index]) + copy, patch, rows, columns


def render(scene: Scene, size: int) -> np.ndarray:
    """The picture, uint8 [size, size, 3]."""
    picture = paint_backdrop(scene.background, random.Random(scene.seed), size)
    for _, patch, rows, columns in _sprites_rearmost_first(scene, size):
        behind = picture[rows, columns]
        seen = behind * (255 - patch[..., 3:]).astype(np.uint16)
        np.minimum(patch[..., :3] + (seen + 127) // 255, 255, out=behind, casting="unsafe")
    return picture


def labels(scene: Scene, size: int) -> np.ndarray:
    """uint8 [size, size]: 0 where the background is seen, 1 + i where the i-th of `instances` is."""
    result = np.zeros((size, size), np.uint8)
    for index, patch, rows, columns in _sprites_rearmost_first(scene, size):
        result[rows, columns][patch[..., 3] > 127] = 1 + index
    return result


# --- evaluation ---


def evaluation_prompts(
    kind: Literal["thing", "colour", "relation", "count"], n: int, vocabulary: Vocabulary, language: Language = "en"
) -> list[tuple[Scene, str]]:
    """Held-out scenes with captions that say all that is judged, spread evenly over things, colours, relations and the
    counts 1 to 3."""
    prompts = []
    for i in range(n):
        rng = random.Random(f"evaluation {kind} {i}")
        scene = _held_out_scene(rng, vocabulary, kind, i)
        prompts.append((scene, describe(scene, rng, language)))
    return prompts


def _held_out_scene(rng: random.Random, vocabulary: Vocabulary, kind: str, i: int) -> Scene:
    names = [name for name in things(vocabulary) if kind != "colour" or can_be_coloured(name)]
    for attempt in itertools.count():
        # 29 is coprime to the numbers of names: the same names do not always come with the same colours. A name may
        # have no held-out combination of this kind: then it is the next one's turn.
        name = names[(29 * i + attempt // 200) % len(names)]
        wishes, scene_kind = _Wishes((name,), (None,), all_spoken=True), "single"
        match kind:
            case "colour":
                wishes = _Wishes((name,), (COLOURS[i % len(COLOURS)],), all_spoken=True)
            case "relation":
                other = rng.choice([one for one in names if one != name])
                wishes = _Wishes((name, other), None, RELATIONS[i % len(RELATIONS)], 1, all_spoken=True)
                scene_kind = "pair"
            case "count" if i % 3:
                wishes, scene_kind = _Wishes((name,), None, None, 1 + i % 3, all_spoken=True), "count"
        scene = _draw_scene(rng, vocabulary, scene_kind, wishes)
        if is_held_out(scene):
            return scene
