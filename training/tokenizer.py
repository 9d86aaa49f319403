"""A small CLIP tokenizer: byte-level BPE whose merges are learned from the captions.

Every word of the captions becomes one token; any other text falls back to shorter pieces, down to
single bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

import scenes
from networks import TEXT_LENGTH

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def _byte_characters() -> list[str]:
    """The 256 characters that stand for bytes, in the order of GPT-2 and CLIP."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def _caption_words() -> list[str]:
    rng = random.Random("tokenizer")
    counts: Counter[str] = Counter()
    for _ in range(20000):
        text = scenes.caption(scenes.sample_scene(rng), rng)
        counts.update(re.findall(r"[a-z]+", text.lower()))
    return [word for word, n in counts.most_common() if n > 10]


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter((a, b) for parts in pieces.values() for a, b in zip(parts, parts[1:]))
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            pieces[word] = joined


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    characters = _byte_characters()
    merges = _learn_merges(_caption_words())
    tokens = characters + [c + "</w>" for c in characters] + [a + b for a, b in merges] + [BOS, EOS]
    tokens = list(dict.fromkeys(tokens))
    files = {
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "special_tokens_map.json": {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": TEXT_LENGTH,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "unk_token": EOS,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)
