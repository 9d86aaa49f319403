"""A small CLIP tokenizer: byte-level BPE whose merges are learned from the words of the captions, English and German.

Every word that a caption can hold becomes one token; any other text falls back to shorter pieces, down to single bytes.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

import captions
import scenes
from networks import TEXT_LENGTH

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]


def _byte_characters() -> list[str]:
    """The characters that stand for the 256 bytes, by byte, as GPT-2 and CLIP have it: printable ones for themselves."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def _pieces(word: str) -> list[str]:
    characters = _byte_characters()
    letters = [characters[b] for b in word.encode()]
    return [*letters[:-1], letters[-1] + "</w>"]


def _learn_merges(words: list[str]) -> list[Pair]:
    """Merges until every word is one token: the commonest pair of neighbours first, each word counted once."""
    spelled = [_pieces(word) for word in words]
    counts: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[int]] = defaultdict(set)

    def count(index: int, sign: int) -> None:
        for pair in zip(spelled[index], spelled[index][1:]):
            counts[pair] += sign
            holders[pair].add(index)

    for index in range(len(words)):
        count(index, 1)
    merges: list[Pair] = []
    while True:
        best = max(counts, key=lambda pair: (counts[pair], pair), default=None)
        if best is None or counts[best] <= 0:
            return merges
        merges.append(best)
        for index in sorted(holders.pop(best)):
            count(index, -1)
            spelled[index] = _merge(spelled[index], best)
            count(index, 1)
        del counts[best]


def _merge(pieces: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    at = 0
    while at < len(pieces):
        if tuple(pieces[at : at + 2]) == pair:
            joined.append(pieces[at] + pieces[at + 1])
            at += 2
        else:
            joined.append(pieces[at])
            at += 1
    return joined


def write_tokenizer(folder: Path, vocabulary: scenes.Vocabulary) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # CLIP splits at everything that is not a letter before it merges.
    words = sorted({part for word in captions.words(vocabulary) for part in re.findall(r"[^\W\d_]+", word.lower())})
    merges = _learn_merges(words)
    characters = _byte_characters()
    tokens = characters + [c + "</w>" for c in characters] + [a + b for a, b in merges] + [BOS, EOS]
    tokens = list(dict.fromkeys(tokens))
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    files = {
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": TEXT_LENGTH,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            **special,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token numbers, int16 [texts, TEXT_LENGTH], padded as the pipelines do it."""
    kwargs = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True}
    return np.array(tokenizer(texts, **kwargs).input_ids, np.int16)
