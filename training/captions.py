"""What a scene shows, said in varied English or German.

Names, colours, counts and relations are always said; background, style, size and place if `scene.spoken` has them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vocabulary import COLOURS, Language, Noun, Vocabulary, nouns

if TYPE_CHECKING:  # scenes.py imports this module
    from scenes import Scene, Thing

NUMBERS = {"en": {2: "two", 3: "three", 4: "four"}, "de": {2: "zwei", 3: "drei", 4: "vier"}}
INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
    "next to": "next to",
}
DIGIT, BARE, SYNONYM, FULL_STOP = 0.04, 0.07, 0.06, 0.05  # how often: "2 apples", "red apple", another noun, a dot

# --- English ---

ENGLISH_SIZES = {"small": ("small", "small", "little", "tiny"), "large": ("large", "big", "big", "huge")}
ENGLISH_RELATIONS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "beneath"),
    "on": ("on", "on", "on top of", "standing on"),
    "under": ("under", "under", "underneath", "at the foot of"),
    "next to": ("next to", "beside", "by"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}
ENGLISH_PLACES = {
    "centre": ("in the middle", "in the centre"),
    "left": ("on the left", "on the left side", "at the left edge"),
    "right": ("on the right", "on the right side", "at the right edge"),
    "top": ("at the top", "at the top of the picture", "in the upper half"),
    "bottom": ("at the bottom", "at the bottom of the picture", "in the lower half"),
}
ENGLISH_BACKGROUNDS = {
    "sky": ("in the sky", "in a blue sky", "in a cloudy sky"),
    "night": ("at night", "at night", "on a starry night", "in the night sky"),
    "sea": ("at sea", "by the sea", "on the sea"),
    "meadow": ("in a meadow", "on a meadow", "in a green meadow", "in the grass"),
    "desert": ("in the desert", "in a desert", "in the sand"),
    "snow": ("in the snow", "in the snow", "in a snowy landscape", "in winter"),
    "room": ("in a room", "inside a room", "indoors"),
    "plain": ("on {a colour} background", "on {a colour} background", "with {a colour} background", "on {colour}"),
    "gradient": ("on {a colour} gradient", "on {a colour} gradient background", "with {a colour} gradient"),
}
ENGLISH_STYLES = {
    "flat": ("flat style", "in flat style", "flat"),
    "outlined": ("outlined", "with outlines", "outlined style"),
    "soft": ("soft shading", "soft style", "softly shaded"),
}
ENGLISH_OPENINGS = ("a picture of", "a drawing of", "an image of", "an illustration of")
ENGLISH_STYLE_OPENINGS = {
    "flat": ("a flat drawing of", "a flat picture of"),
    "outlined": ("an outlined drawing of", "an outlined picture of"),
    "soft": ("a softly shaded drawing of", "a soft picture of"),
}
_SOUNDS_LIKE_A_CONSONANT = ("uni", "ufo", "eu")


def with_article(words: str) -> str:
    vowel = words.startswith("hour") or (words[0] in "aeiou" and not words.startswith(_SOUNDS_LIKE_A_CONSONANT))
    return f"{'an' if vowel else 'a'} {words}"


def _number(count: int, rng: random.Random, language: Language) -> str:
    return str(count) if rng.random() < DIGIT else NUMBERS[language][count]


def _english_noun(noun: Noun, many: bool, rng: random.Random) -> str:
    forms = noun.also if noun.also and rng.random() < SYNONYM else (noun.name, noun.plural)
    return forms[many]


def _english_thing(thing: Thing, rng: random.Random) -> str:
    adjectives = [] if thing.size == "medium" else [rng.choice(ENGLISH_SIZES[thing.size])]
    adjectives += [thing.colour] if thing.colour else []
    words = " ".join([*adjectives, _english_noun(nouns("full")[thing.name], thing.count > 1, rng)])
    if thing.count > 1:
        return f"{_number(thing.count, rng, 'en')} {words}"
    return words if rng.random() < BARE else with_article(words)


def _english_background(background: str, rng: random.Random) -> str:
    kind, _, colour = background.partition(" ")
    phrase = rng.choice(ENGLISH_BACKGROUNDS[kind])
    return phrase.replace("{a colour}", with_article(colour)).replace("{colour}", colour) if colour else phrase


def _english(scene: Scene, rng: random.Random) -> str:
    names = [_english_thing(thing, rng) for thing in scene.things]
    relation = scene.relation
    if relation in INVERSE and rng.random() < 0.35:
        relation, names = INVERSE[relation], names[::-1]
    if relation:
        text = f"{names[0]} {rng.choice(ENGLISH_RELATIONS[relation])} {names[1]}"
    else:
        text = _enumeration(names, "and")
    text += _place(scene, ENGLISH_PLACES, rng)
    opening = rng.choice(ENGLISH_OPENINGS) if rng.random() < 0.05 else ""
    ending = ""
    if "style" in scene.spoken:
        if rng.random() < 0.25:
            opening = rng.choice(ENGLISH_STYLE_OPENINGS[scene.style])
        else:
            ending = f", {rng.choice(ENGLISH_STYLES[scene.style])}"
    background = _english_background(scene.background, rng) if "background" in scene.spoken else ""
    return _sentence(opening, text, background, ending, rng)


# --- German ---

GERMAN_COLOURS = {  # those in UNCHANGING take no ending
    "red": ("rot",),
    "orange": ("orangefarben", "orangefarben", "orange"),
    "yellow": ("gelb",),
    "green": ("grün",),
    "blue": ("blau",),
    "purple": ("lila", "lila", "violett"),
    "pink": ("rosa",),
    "brown": ("braun",),
    "black": ("schwarz",),
    "white": ("weiß",),
    "grey": ("grau",),
}
UNCHANGING = {"lila", "rosa", "orange"}
GERMAN_SIZES = {"small": ("klein", "klein", "winzig"), "large": ("groß", "groß", "riesig")}
GERMAN_RELATIONS = {  # all with the dative
    "left of": ("links von", "links neben"),
    "right of": ("rechts von", "rechts neben"),
    "above": ("über", "oberhalb von"),
    "below": ("unterhalb von",),
    "on": ("auf",),
    "under": ("unter",),
    "next to": ("neben",),
    "in front of": ("vor",),
    "behind": ("hinter",),
}
GERMAN_PLACES = {
    "centre": ("in der Mitte",),
    "left": ("links", "links im Bild", "auf der linken Seite"),
    "right": ("rechts", "rechts im Bild", "auf der rechten Seite"),
    "top": ("oben", "oben im Bild"),
    "bottom": ("unten", "unten im Bild"),
}
GERMAN_BACKGROUNDS = {
    "sky": ("am Himmel", "am blauen Himmel", "in den Wolken"),
    "night": ("bei Nacht", "in der Nacht", "am Sternenhimmel"),
    "sea": ("am Meer", "auf dem Meer"),
    "meadow": ("auf einer Wiese", "auf einer grünen Wiese", "im Gras"),
    "desert": ("in der Wüste", "in einer Wüste", "im Sand"),
    "snow": ("im Schnee", "im Winter"),
    "room": ("in einem Zimmer", "im Zimmer", "in einem Raum"),
    "plain": ("auf {colour} Hintergrund", "vor {colour} Hintergrund", "mit {colour} Hintergrund"),
    "gradient": ("auf {colour} Farbverlauf", "mit {colour} Farbverlauf"),
}
GERMAN_STYLES = {
    "flat": ("flach gezeichnet", "im flachen Stil"),
    "outlined": ("mit Umriss", "mit dickem Umriss"),
    "soft": ("weich schattiert", "mit weichen Schatten"),
}
GERMAN_OPENINGS = ("ein Bild von", "eine Zeichnung von")
NOMINATIVE_ENDINGS = {"m": "er", "f": "e", "n": "es"}
ARTICLES = {"nominative": {"m": "ein", "f": "eine", "n": "ein"}, "dative": {"m": "einem", "f": "einer", "n": "einem"}}


def _ending(noun: Noun, many: bool, dative: bool) -> str:
    """Of an adjective after "ein" or after a number."""
    if dative:
        return "en"
    return "e" if many else NOMINATIVE_ENDINGS[noun.gender]


def _declined(stem: str, ending: str) -> str:
    return stem if stem in UNCHANGING else stem + ending


def german_noun(noun: Noun, many: bool, dative: bool) -> str:
    if many:
        return noun.german_plural_dative if dative else noun.german_plural
    return noun.german_dative if dative else noun.german


def _german_thing(thing: Thing, dative: bool, rng: random.Random) -> str:
    noun, many = nouns("full")[thing.name], thing.count > 1
    stems = [] if thing.size == "medium" else [rng.choice(GERMAN_SIZES[thing.size])]
    stems += [rng.choice(GERMAN_COLOURS[thing.colour])] if thing.colour else []
    ending = _ending(noun, many, dative)
    words = " ".join([*(_declined(stem, ending) for stem in stems), german_noun(noun, many, dative)])
    if many:
        return f"{_number(thing.count, rng, 'de')} {words}"
    if not dative and rng.random() < BARE:
        return words
    return f"{ARTICLES['dative' if dative else 'nominative'][noun.gender]} {words}"


def _german_background(background: str, rng: random.Random) -> str:
    kind, _, colour = background.partition(" ")
    phrase = rng.choice(GERMAN_BACKGROUNDS[kind])
    return phrase.replace("{colour}", _declined(rng.choice(GERMAN_COLOURS[colour]), "em")) if colour else phrase


def _german(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(GERMAN_OPENINGS) if rng.random() < 0.05 else ""
    things, relation = scene.things, scene.relation
    if relation in INVERSE and rng.random() < 0.35:
        relation, things = INVERSE[relation], things[::-1]
    after_preposition = [bool(opening) or (relation is not None and i == 1) for i in range(len(things))]
    names = [_german_thing(thing, dative, rng) for thing, dative in zip(things, after_preposition)]
    if relation:
        text = f"{names[0]} {rng.choice(GERMAN_RELATIONS[relation])} {names[1]}"
    else:
        text = _enumeration(names, "und")
    text += _place(scene, GERMAN_PLACES, rng)
    ending = f", {rng.choice(GERMAN_STYLES[scene.style])}" if "style" in scene.spoken else ""
    background = _german_background(scene.background, rng) if "background" in scene.spoken else ""
    return _sentence(opening, text, background, ending, rng)


# --- both ---


def _enumeration(names: Sequence[str], conjunction: str) -> str:
    *most, last = names
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def _place(scene: Scene, phrases: dict[str, tuple[str, ...]], rng: random.Random) -> str:
    """A thing in the middle is seldom said to be there."""
    said = scene.kind == "single" and "place" in scene.spoken and (scene.place != "centre" or rng.random() < 0.08)
    return f" {rng.choice(phrases[scene.place])}" if said else ""


def _sentence(opening: str, text: str, background: str, ending: str, rng: random.Random) -> str:
    text = f"{opening} {text}" if opening else text
    if background:
        order = rng.random()
        if order < 0.1:
            text = f"{background}, {text}"
        else:
            text += f"{',' if order < 0.2 else ''} {background}"
    return text + ending + ("." if rng.random() < FULL_STOP else "")


def describe(scene: Scene, rng: random.Random, language: Language = "en") -> str:
    return _english(scene, rng) if language == "en" else _german(scene, rng)


def _english_vocabulary(vocabulary: Vocabulary) -> Iterator[str]:
    yield from COLOURS
    yield from ("a", "an", "and", *NUMBERS["en"].values(), *ENGLISH_OPENINGS)
    for noun in nouns(vocabulary).values():
        yield from (noun.name, noun.plural, *(noun.also or ()))
    for table in (
        ENGLISH_SIZES,
        ENGLISH_RELATIONS,
        ENGLISH_PLACES,
        ENGLISH_BACKGROUNDS,
        ENGLISH_STYLES,
        ENGLISH_STYLE_OPENINGS,
    ):
        for phrases in table.values():
            yield from phrases


def _german_vocabulary(vocabulary: Vocabulary) -> Iterator[str]:
    yield from ("und", *NUMBERS["de"].values(), *GERMAN_OPENINGS)
    for articles in ARTICLES.values():
        yield from articles.values()
    for noun in nouns(vocabulary).values():
        yield from (german_noun(noun, many, dative) for many in (False, True) for dative in (False, True))
    for stems in (*GERMAN_COLOURS.values(), *GERMAN_SIZES.values()):
        yield from (_declined(stem, ending) for stem in stems for ending in ("e", "er", "es", "en", "em"))
    for table in (GERMAN_RELATIONS, GERMAN_PLACES, GERMAN_BACKGROUNDS, GERMAN_STYLES):
        for phrases in table.values():
            yield from (phrase.replace("{colour}", "") for phrase in phrases)


def words(vocabulary: Vocabulary, languages: Sequence[Language] = ("en", "de")) -> list[str]:
    """Every run of letters that `describe` can write, in lower case, sorted."""
    phrases = {"en": _english_vocabulary, "de": _german_vocabulary}
    found = (phrase.lower() for language in languages for phrase in phrases[language](vocabulary))
    return sorted({word for phrase in found for word in re.findall(r"[^\W\d_]+", phrase)})
