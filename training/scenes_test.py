"""Checks of the pictures and their captions: `python training/scenes_test.py`, or with pytest.

`python training/scenes_test.py --sheet sheet.png` writes 60 scenes with their captions instead, to look at.
"""

from __future__ import annotations

import argparse
import random
import re
import textwrap
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import captions
import scenes
from scenes import Scene
from sprites import drawing
from vocabulary import COLOURS, Vocabulary, nouns, things

VOCABULARIES: tuple[Vocabulary, ...] = ("small", "full")


def _sample(n: int, vocabulary: Vocabulary, held_out: bool | None = None) -> list[Scene]:
    return [Scene.sample(seed, vocabulary, held_out) for seed in range(n)]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def test_vocabulary() -> None:
    assert len(things("small")) >= 40 and len(things("full")) >= 300
    assert things("full")[: len(things("small"))] == things("small")
    words = [word for noun in nouns("full").values() for word in {noun.name, *(noun.also or ())}]
    repeated = [word for word, n in Counter(words).items() if n > 1]
    assert not repeated, repeated
    for noun in nouns("full").values():
        assert noun.gender in "mfn" and noun.name.islower() and noun.plural.islower()
        assert all(part[0].isupper() for part in (noun.german, noun.german_plural))
        assert not noun.weak or (noun.gender == "m" and noun.german_plural.endswith("n"))
        assert {*noun.main_part.values()} <= {*COLOURS} and {*noun.main_part} <= {"flat", "shaded"}


def test_sprites() -> None:
    """Every drawing is there, fills its sheet as agreed, and is not cut off."""
    for name in things("full"):
        for sheet in ("flat", "shaded"):
            solid = drawing(name, sheet)[..., 3] > 127
            rows, columns = np.nonzero(solid.any(1))[0], np.nonzero(solid.any(0))[0]
            longer = max(np.ptp(rows), np.ptp(columns)) + 1
            assert 172 <= longer <= 180, (name, sheet, longer)


def test_determinism() -> None:
    for vocabulary in VOCABULARIES:
        for seed in (0, 7, 1234567890123):
            one, other = Scene.sample(seed, vocabulary), Scene.sample(seed, vocabulary)
            assert one == other
            assert (scenes.render(one, 96) == scenes.render(other, 96)).all()
            assert captions.describe(one, random.Random(1)) == captions.describe(other, random.Random(1))
    prompts = scenes.evaluation_prompts("relation", 20, "full")
    assert prompts == scenes.evaluation_prompts("relation", 20, "full")


def test_held_out() -> None:
    """What training sees and what the evaluation asks for share no combination."""
    seen: set[str] = set()
    for scene in _sample(20000, "small", held_out=False):
        assert not scenes.is_held_out(scene)
        seen.update(scenes._claims(scene))
    for kind in ("thing", "colour", "relation", "count"):
        for scene, _ in scenes.evaluation_prompts(kind, 200, "small"):
            assert not seen >= set(scenes._claims(scene)), scene
    share = np.mean([scenes.is_held_out(scene) for scene in _sample(3000, "small")])
    print(f"{100 * share:.1f} % of the scenes are held out; training showed {len(seen)} combinations in 20000 scenes")
    assert 0.03 < share < 0.25


def test_layout() -> None:
    for vocabulary in VOCABULARIES:
        for scene in _sample(2000, vocabulary):
            for name, _, (x0, y0, x1, y1) in scenes.instances(scene):
                assert -1e-6 <= x0 < x1 <= 1 + 1e-6 and -1e-6 <= y0 < y1 <= 1 + 1e-6, (name, scene)
                assert max(x1 - x0, y1 - y0) > 0.1, (name, scene)
            hulls = [scenes._hull(thing.boxes) for thing in scene.things]
            if scene.relation:
                assert scenes.relation_holds(scene.relation, *hulls)
            if scene.kind == "row":
                assert all(a[0] < b[0] for a, b in pairwise(hulls))
            assert all(thing.count == len(thing.boxes) for thing in scene.things)


def test_boxes_and_labels() -> None:
    """Each copy, drawn alone, fills its box; before others, most of it is seen."""
    size, hidden = 128, []
    for scene in _sample(300, "full"):
        whole = scenes.labels(scene, size)
        index = 0
        for thing in scene.things:
            for copy in range(thing.count):
                part = slice(copy, copy + 1)
                alone = replace(
                    thing, count=1, boxes=thing.boxes[part], angles=thing.angles[part], flips=thing.flips[part]
                )
                mask = scenes.labels(replace(scene, things=(alone,), relation=None), size) > 0
                ys, xs = np.nonzero(mask)
                drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                margin = 6 if scene.style == "outlined" else 2  # pixels
                assert np.abs(drawn - size * np.array(alone.boxes[0])).max() <= margin, (scene, drawn)
                index += 1
                hidden.append(1 - (whole == index).sum() / mask.sum())
    assert np.mean(np.array(hidden) > 0.7) < 0.01
    print(f"{100 * np.mean(np.array(hidden) > 0.5):.1f} % of the copies are hidden by more than half")


def test_colours() -> None:
    """A recoloured thing's most frequent part is nearest to the colour that was asked for."""
    right = []
    for seed in range(400):
        scene = Scene.sample(seed, "small", kinds=("single",))
        colour = scene.things[0].colour
        if colour:
            pixels = scenes.render(scene, 128)[scenes.labels(scene, 128) > 0]
            palette = np.array([scenes.COLOUR_RGB[name] for name in COLOURS])
            nearest = np.linalg.norm(pixels[:, None].astype(int) - palette, axis=-1).argmin(1)
            right.append(COLOURS[np.bincount(nearest).argmax()] == colour)
    print(f"{100 * np.mean(right):.0f} % of {len(right)} recoloured things are mostly of the nearest named colour")
    assert np.mean(right) > 0.85


def test_captions() -> None:
    """Every thing, colour and number is named, in a form that fits, by known words alone."""
    for vocabulary in VOCABULARIES:
        known = {language: set(captions.words(vocabulary, (language,))) for language in ("en", "de")}
        for seed, scene in enumerate(_sample(5000, vocabulary)):
            rng = random.Random(seed)
            english, german = (captions.describe(scene, rng, language) for language in ("en", "de"))
            for language, text in (("en", english), ("de", german)):
                strange = set(_words(text)) - known[language]
                assert not strange, (text, strange)
                assert len(text.split()) <= 32 and "{" not in text and "  " not in text, text
            for thing in scene.things:
                noun, many = nouns("full")[thing.name], thing.count > 1
                forms = [(noun.name, noun.plural)[many]] + ([noun.also[many]] if noun.also else [])
                assert any(re.search(rf"\b{re.escape(form)}\b", english) for form in forms), (english, forms)
                german_forms = [captions.german_noun(noun, many, dative) for dative in (False, True)]
                assert any(re.search(rf"\b{form}\b", german) for form in german_forms), (german, german_forms)
                if thing.colour:
                    assert thing.colour in english
                    assert any(stem in german for stem in captions.GERMAN_COLOURS[thing.colour]), german
                if many:
                    assert {captions.NUMBERS["en"][thing.count], str(thing.count)} & set(english.split()), english
                    assert {captions.NUMBERS["de"][thing.count], str(thing.count)} & set(german.split()), german
            assert not re.search(r"\ba [aeio]\w|\ban [^aeiouh]", english), english


def test_german_grammar() -> None:
    noun = nouns("full")
    assert captions.german_noun(noun["apple"], True, True) == "Äpfeln"
    assert captions.german_noun(noun["car"], True, True) == "Autos"
    assert captions.german_noun(noun["elephant"], False, True) == "Elefanten"
    assert captions.german_noun(noun["bear"], False, True) == "Bären"
    assert captions.german_noun(noun["tree"], False, True) == "Baum"
    endings = [captions._ending(noun[name], *form) for name, form in (
        ("apple", (False, False)), ("flower", (False, False)), ("car", (False, False)),
        ("apple", (True, False)), ("flower", (False, True)), ("car", (True, True)),
    )]  # fmt: skip
    assert endings == ["er", "e", "es", "e", "en", "en"]


def test_evaluation_prompts() -> None:
    for vocabulary in VOCABULARIES:
        for kind in ("thing", "colour", "relation", "count"):
            prompts = scenes.evaluation_prompts(kind, 66, vocabulary)
            found = [scene for scene, _ in prompts]
            assert len(prompts) == 66 and all(scenes.is_held_out(scene) for scene in found)
            assert all("background" in scene.spoken for scene in found)
            first = [scene.things[0] for scene in found]
            if kind in ("thing", "colour"):
                assert all((thing.colour is not None) == (kind == "colour") and thing.count == 1 for thing in first)
            if kind == "relation":
                assert Counter(scene.relation for scene in found).most_common()[-1][1] >= 66 // 9
                assert all(thing.count == 1 for scene in found for thing in scene.things)
            if kind == "count":
                assert Counter(thing.count for thing in first) == {1: 22, 2: 22, 3: 22}
            if kind == "colour":
                assert Counter(thing.colour for thing in first) == dict.fromkeys(COLOURS, 6)
            assert len({thing.name for thing in first}) >= 36, len({thing.name for thing in first})


def test_speed() -> None:
    """Printed only: a busy machine is not an error."""
    for vocabulary, size in (("small", 128), ("full", 256)):
        sampled = _sample(400, vocabulary)
        for scene in sampled:  # fills the caches
            scenes.render(scene, size)
        begin = time.process_time()
        for scene in sampled:
            scenes.render(scene, size)
        rendering = (time.process_time() - begin) / len(sampled)
        begin = time.process_time()
        _sample(400, vocabulary)
        sampling = (time.process_time() - begin) / 400
        print(f"{vocabulary}: a {size} px picture takes {1e3 * rendering:.2f} ms, its scene {1e3 * sampling:.2f} ms")


def write_sheet(path: Path, vocabulary: Vocabulary) -> None:
    """Ten scenes a row, every sixth caption in German."""
    columns, rows, size, line = 10, 6, 192, 11
    height = size + 3 * line
    sheet = Image.new("RGB", (columns * size, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, scene in enumerate(_sample(columns * rows, vocabulary)):
        x, y = i % columns * size, i // columns * height
        sheet.paste(Image.fromarray(scenes.render(scene, size)), (x, y))
        caption = captions.describe(scene, random.Random(i), "de" if i % 6 == 5 else "en")
        for k, text in enumerate(textwrap.wrap(caption, 32)[:3]):
            pen.text((x + 2, y + size + k * line), text, fill="black")
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--vocabulary", choices=VOCABULARIES, default="small")
    args = parser.parse_args()
    if args.sheet:
        write_sheet(args.sheet, args.vocabulary)
        return
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            begin = time.time()
            test()
            print(f"{name}: passed in {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
