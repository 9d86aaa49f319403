"""
A small T5: a Unigram vocabulary in SentencePiece's own file and as tokenizer.json, and the encoders of T5 1.1 and UMT5.

The vocabulary is learnt here. Its rules for the text before it is cut are those of T5's own file (`nmt_nfkc`), but only for the characters
that the tests use: the whole map has 237 kB.
"""

import io
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import T5Config, T5EncoderModel, T5Tokenizer, UMT5Config, UMT5EncoderModel

MARK = "▁"
PIECES = 360


def rules(characters: str, sequences: list[str]) -> str:
    """The part of `nmt_nfkc` that is about these characters and sequences of them, in SentencePiece's notation."""
    whole = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc", add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False)
    points = lambda text: " ".join(f"{ord(character):X}" for character in text)
    rows = []
    for source in sorted({*characters, *sequences}):
        target = whole.Normalize(source)
        if target != source:
            rows.append(f"{points(source)}\t{points(target)}")
    return "\n".join(rows) + "\n"


def train(texts: list[str], prompts: list[str]) -> bytes:
    """SentencePiece's file, with T5's marks: <pad> 0, </s> 1, <unk> 2."""
    characters = "".join(sorted(set("".join([*texts, *prompts]))))
    combining = [prompt[i : i + 2] for prompt in prompts for i in range(len(prompt) - 1) if "\u0300" <= prompt[i + 1] <= "\u036f"]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        table.write_text(rules(characters + "\t\n\u00a0\u200b\u3000", combining), encoding="utf-8")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=PIECES, normalization_rule_tsv=str(table), pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            character_coverage=0.9995, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        )
    return model.getvalue()


def tokenizer(model: bytes, length: int) -> T5Tokenizer:
    """As transformers 5 opens a folder that has only SentencePiece's file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spiece.model").write_bytes(model)
        return T5Tokenizer.from_pretrained(folder, model_max_length=length, extra_ids=100)


def older(made: T5Tokenizer) -> Tokenizer:
    """The same vocabulary with the steps that transformers 4 wrote into tokenizer.json, as published checkpoints have it."""
    inner = Tokenizer.from_str(made.backend_tokenizer.to_str())
    inner.normalizer = normalizers.Sequence([inner.normalizer, normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), MARK)])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always", split=True)
    inner.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always", split=True)
    return inner


CONFIG = dict(d_model=96, d_kv=16, num_heads=4, d_ff=128, num_layers=3, feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=False)


def t5(vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=vocabulary, **CONFIG)).eval()


def umt5(vocabulary: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **CONFIG)).eval()
