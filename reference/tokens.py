"""Golden token ids: the prompts below through transformers' CLIPTokenizer, in both tokenizer layouts."""

from files import GOLDENS, write_rows
from models import load

PROMPTS = [
    "",
    "a",
    "a photo of a cat",
    "A PHOTO OF A CAT",
    "An astronaut riding a horse, highly detailed, 4k!",
    "hello world!!! ok ! wow?!",
    "it's we're they've I'm you'll she'd don't rock'n'roll",
    "IT'S WE'RE",
    "12345 3.14 2026-11-21 1/2 4k",
    "Straße in München, schöne Häuser, ÄÖÜ ß",
    "cafe\u0301 and café are one word after normalisation",
    "Une forêt d'été à l'aube",
    "日本の山と湖、夕焼け",
    "中文 提示词",
    "서울의 밤",
    "Москва зимой",
    "صورة قطة",
    "नमस्ते दुनिया",
    "🐱 cat 👩‍🚀 astronaut 🏳️‍🌈",
    "  leading and   repeated    spaces  ",
    "tabs\tand\nnew\r\nlines\n\nand\u00a0no-break\u3000spaces",
    "<b>bold</b> &amp; <a href=\"x\">link</a> &lt;tag&gt;",
    "a (red:1.3) [blue|green] {x} \\(escaped\\) AND BREAK",
    "snake_case camelCase kebab-case dots...dots --dashes-- ***",
    "<|startoftext|> in the middle <|endoftext|> of a prompt",
    "email@example.com https://example.com/a?b=c#d",
    "½ ² ① Ⅳ ﬁne ﬂower ™ © €5 £6",
    "Ⓐ İstanbul ǅ ẞ ΑΣ",
    "zero\u200bwidth \u200djoiner \ufeffbom",
    "'s 't 'quoted' \"double\" “curly” ‘single’",
    "a lighthouse at dusk, " * 12,
    "a " * 75,
    "a " * 76,
    "supercalifragilisticexpialidocious" * 4,
    ".,;:!?-_=+*/\\|~`^%$#@&()[]{}<>\"'",
]


def make_tokens() -> None:
    clip, openclip = load("tiny-sd15").tokenizer, load("tiny-sd21").tokenizer
    rows = []
    for prompt in PROMPTS:
        row = {"prompt": prompt}
        for layout, tokenizer in (("clip", clip), ("openclip", openclip)):
            ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
            row[layout] = {"tokens": len(tokenizer(prompt).input_ids), "ids": ids}
        rows.append(row)
    about = (
        "transformers CLIPTokenizer, padded and truncated to 77. clip: vocab.json + merges.txt, pad = end token "
        "(tiny-sd15). openclip: tokenizer.json, pad = \"!\" = id 0, a special token and so cut out of the text before "
        "BPE (tiny-sd21). tokens: length before truncation, with start and end."
    )
    write_rows(GOLDENS / "tokens.json", {"about": about}, "cases", rows)
