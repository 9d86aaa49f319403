"""The words of the pictures: things, colours, sizes, places, relations, backgrounds and styles, in English and German.

The things stand in `vocabulary.tsv`, one a line; the first SMALL of them are the small vocabulary, so that a thing has
the same number in both.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Vocabulary = Literal["small", "full"]
Language = Literal["en", "de"]

TABLE = Path(__file__).parent / "vocabulary.tsv"
SMALL = 48

# sRGB, 0..255: what a recoloured thing has on the middle of its shading, and what a plain background is.
COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 212, 45),
    "green": (60, 165, 70),
    "blue": (45, 100, 225),
    "purple": (140, 70, 190),
    "pink": (245, 135, 185),
    "brown": (130, 80, 45),
    "black": (45, 45, 50),
    "white": (246, 246, 246),
    "grey": (145, 148, 152),
}
COLOURS = tuple(COLOUR_RGB)
SIZES = ("small", "medium", "large")
PLACES = ("centre", "left", "right", "top", "bottom")
RELATIONS = ("left of", "right of", "above", "below", "on", "under", "next to", "in front of", "behind")
LANDSCAPES = ("sky", "night", "sea", "meadow", "desert", "snow", "room")
PLAIN = tuple(f"plain {colour}" for colour in COLOURS)
GRADIENTS = tuple(f"gradient {colour}" for colour in COLOURS)
BACKGROUNDS = LANDSCAPES + PLAIN + GRADIENTS
STYLES = ("flat", "outlined", "soft")


@dataclass(frozen=True)
class Noun:
    """One thing that can be drawn. `weak`: the German word takes -n or -en in every case but the nominative singular.
    `main_part`: by the name of the sprite sheet, the natural colour of what is to be recoloured, where that is not the
    largest part. `also`: (singular, plural) of another English word for it, or None."""

    name: str
    plural: str
    german: str
    german_plural: str
    gender: Literal["m", "f", "n"]
    weak: bool
    icon: str
    can_be_coloured: bool
    main_part: dict[str, str]
    also: tuple[str, str] | None

    @property
    def german_dative(self) -> str:
        return self.german_plural if self.weak else self.german

    @property
    def german_plural_dative(self) -> str:
        return self.german_plural + ("n" if self.german_plural.endswith(("e", "el", "er")) else "")


def _noun(row: dict[str, str]) -> Noun:
    gender, _, weak = row["gender"].partition(" ")
    also = tuple(row["also"].split("/")) if row["also"] else None
    return Noun(
        name=row["singular"],
        plural=row["plural"],
        german=row["german"],
        german_plural=row["german plural"],
        gender=gender,
        weak=weak == "weak",
        icon=row["icon"],
        can_be_coloured=row["colours"] == "yes",
        main_part=dict(part.split(" ") for part in row["main part"].split(", ") if part),
        also=also,
    )


@cache
def nouns(vocabulary: Vocabulary) -> dict[str, Noun]:
    with TABLE.open(encoding="utf-8", newline="") as table:
        rows = [_noun(row) for row in csv.DictReader(table, delimiter="\t")]
    return {noun.name: noun for noun in (rows[:SMALL] if vocabulary == "small" else rows)}


@cache
def things(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The names in their fixed order: the index is the number of the class."""
    return tuple(nouns(vocabulary))


def can_be_coloured(name: str) -> bool:
    return nouns("full")[name].can_be_coloured
