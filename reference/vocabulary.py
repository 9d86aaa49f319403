"""A small CLIP vocabulary: byte-level BPE in the format of CLIP's own vocab.json and merges.txt.

Ids 0..255 are the bytes in CLIP's order ("!" is 0), 256..511 the same with the end-of-word suffix, then one id per merge,
then the two special tokens. The merges are learnt from the text below with CLIP's own word pattern.
"""

import json
from collections import Counter
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

MERGES = 510
START = "<|startoftext|>"
END = "<|endoftext|>"

TEXT = """
A photo of an astronaut riding a horse on the moon, highly detailed, sharp focus, cinematic lighting, 4k, trending on artstation.
An oil painting of a lighthouse at dusk, waves breaking on the rocks, dramatic clouds, warm light in the window, by a famous painter.
A watercolor of a small red house in the mountains, snow on the roof, smoke from the chimney, pine trees, morning mist.
Portrait of an old woman with a kind smile, soft light, shallow depth of field, film grain, black and white photograph.
A cat sleeping on a green sofa, a dog running in the garden, a bird in the tree, a fish in the water, a fox in the forest.
The city at night seen from above, neon lights, rain on the street, reflections, people with umbrellas walking past the shops.
A bowl of fruit on a wooden table: apples, oranges, grapes and a lemon. Still life, studio lighting, high resolution.
Digital art, concept art, matte painting, fantasy landscape with a castle, a dragon and a wizard, epic scale, volumetric fog.
A minimal poster with geometric shapes, blue and yellow, bauhaus style, flat colors, clean lines, white background.
Low quality, blurry, bad anatomy, deformed hands, extra fingers, watermark, text, signature, cropped, worst quality, jpeg artifacts.
An old map of an unknown island, parchment, ink, compass rose, sea monsters, hand drawn letters.
It's a sunny day and we're at the beach; they've built a sandcastle, I'm reading a book, you'll see the ships, she'd said so, don't worry.
A robot made of copper and brass, standing in a workshop, tools on the wall, light through a dusty window, realistic, intricate.
Eine Straße in München im Frühling, blühende Bäume, Fahrräder vor dem Café, Menschen in der Sonne, schöne alte Häuser.
Une rivière à travers la forêt, lumière d'été, des fleurs près de l'eau, peinture à l'huile, très détaillé.
Un gato negro en la ventana, mañana de otoño, colores cálidos, fotografía en primer plano.
A spaceship landing on a distant planet, two suns, purple sky, alien plants, science fiction book cover from the seventies.
Close-up of a flower with drops of water, macro photography, bokeh, vivid colors, 35mm, f/1.8.
A child's drawing of a family with a house, the sun, a tree and a big dog, crayon on paper, bright colors.
A quiet library with tall shelves, a ladder, green lamps, leather chairs, dust in the light, autumn outside the windows.
"""


def _words() -> Counter:
    """How often each word of the text occurs, a word being a tuple of byte symbols whose last one carries `</w>`."""
    normal = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(word for word, _ in split.pre_tokenize_str(normal.normalize_str(TEXT)))
    return Counter({tuple(word[:-1]) + (word[-1] + "</w>",): count for word, count in counts.items()})


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined, at = [], 0
    while at < len(word):
        if word[at : at + 2] == pair:
            joined.append(word[at] + word[at + 1])
            at += 2
        else:
            joined.append(word[at])
            at += 1
    return tuple(joined)


def _merges() -> list[tuple[str, str]]:
    """The most frequent pair, again and again; ties go to the pair that sorts first."""
    words, merges = _words(), []
    while len(merges) < MERGES:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_join(word, best): count for word, count in words.items()})
    return merges


def write_vocabulary(folder: Path) -> int:
    """Writes vocab.json and merges.txt into `folder` and returns the number of entries."""
    symbols = list(bytes_to_unicode().values())
    merges = _merges()
    entries = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges] + [START, END]
    if len(set(entries)) != len(entries):
        raise ValueError("two merges give the same entry")
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(entries)
