"""
Golden prompts of other tools: test/goldens/prompts.

    python reference/prompts.py <the web UI's prompt_parser.py> <its sd_hijack_clip.py> <a checkout of ComfyUI>

Not part of make.py, as neither is a package; wants ComfyUI's and lark's requirements. The web UI's two modules and ComfyUI's comfy/sd1_clip.py run as they are over the
text encoder and the tokenizer of tiny-sd15. `prompts.json` holds what the parsers make of texts, `expected.safetensors` what the encoder is read as: every fifth token.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from files import CHECKPOINTS, GOLDENS, fresh_folder, write_json, write_tensors

TINY = CHECKPOINTS / "tiny-sd15"
STEPS = 10
KEPT = 5

SCHEDULES = [
    "test", "a [b:3]", "a [b: 3]", "a [b: 3 ]", "a [[[b]]:2]", "[(a:2):3]", "a [b : c : 1] d", "a[b:[c:d:2]:1]e", "a [unbalanced", "a [b:.5] c", "a [{b|d{:.5] c", "((a][:b:c [d:3]",
    "[a|(b:1.1)]", "[fe|]male", "[fe|||]male", "[cat:dog:0.25] and [oak::0.6]", "[a:b:99]", "[a:b:0]", "[a:b:1.0]", "[:b:0.3]", "[a|b:c:2]", "[a|[b|c]] d", "(a:b) [c]", "a \\[b:c:2\\]", "[a:b:c:2]", "[a:b:-1] c",
    "a: b (c", "x | y", "[a:b:2e0]", "", "[[a|b]:3]", "(a [b:c:0.5] d:1.2), e", "[a\n:b:5]",
]
COMPOSED = ["a", "a AND b", "a :0.5 AND b: 1.2", "ANDROID AND b:-1", "a AND", "a:b AND c : .3 ", "a AND b AND c:2.", "(a:1.2) AND b"]
WEIGHTS = [
    "normal text", "an (important) word", "(unbalanced", "\\(literal\\]", "(unnecessary)(parens)", "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", "[x] (y: 1.2 )", "a) b] c", "one BREAK two",
    "(one BREAK two:1.2)", "BREAK", "a:b:c", "((a:2) b)", "(a:b:1.5)", "\\\\ (x\\)", "(a:.5)(b:-1)", "", "[[a]:1.5]", "(a :1.2e1)", "()", "(:2)", "a (b:1.1, c) d", "a\n(b)",
]
LONG = "a castle, a dragon, neon lights, rain on the street, a quiet library with tall shelves, a ladder, green lamps, "
PROMPTS = {
    "plain": "a castle and a dragon",
    "weighted": "a (castle:1.4) and [a dragon], ((neon lights))",
    "long": LONG * 3,
    "weighted-long": f"(a lighthouse:1.3), {LONG}" + LONG * 2 + "(the end:0.7)",
    "break": "a castle BREAK a (dragon:1.3)",
    "empty": "",
    "embedding": "a castle, tiny style, (rain:1.2)",
    "embedding-weighted": "a (tiny style:1.5) castle",
}
# ComfyUI wants them marked.
MARKED = {"embedding": "a castle, embedding:tiny_style , (rain:1.2)", "embedding-weighted": "a (dragon, embedding:tiny_style:1.5) castle"}


def module(name: str, path: str):
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


class Encoder:
    """tiny-sd15's text encoder, with vectors in the place of tokens as the web UI puts them there."""

    def __init__(self, vectors: torch.Tensor):
        self.tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
        self.transformer = CLIPTextModel.from_pretrained(TINY / "text_encoder")
        self.vectors, self.fixes = vectors, None
        if not hasattr(self.transformer, "text_model"):
            # What transformers 5 has flattened, the web UI still looks for.
            object.__setattr__(self.transformer, "text_model", self.transformer)
        table = self.transformer.text_model.embeddings.token_embedding
        table.register_forward_hook(self.put)
        self.table = table

    def put(self, _, __, found):
        if not self.fixes:
            return found
        rows = []
        for row, fixes in zip(found, self.fixes):
            for offset, _ in fixes:
                row = torch.cat([row[: offset + 1], self.vectors, row[offset + 1 + len(self.vectors) :]])
            rows.append(row)
        return torch.stack(rows)


def webui(parser, hijack_clip, encoder: Encoder):
    name = encoder.tokenizer("tiny style", add_special_tokens=False)["input_ids"]
    embedding = types.SimpleNamespace(vec=encoder.vectors, name="tiny style", shorthash="")

    def find(tokens, position):
        return (embedding, len(name)) if tokens[position : position + len(name)] == name else (None, None)

    class Hijack:
        embedding_db = types.SimpleNamespace(find_embedding_at_position=find)
        extra_generation_params = {}

        def __setattr__(self, key, value):
            assert key == "fixes"
            encoder.fixes = value

        @property
        def fixes(self):
            return encoder.fixes

    wrapped = torch.nn.Module()
    wrapped.tokenizer, wrapped.transformer = encoder.tokenizer, encoder.transformer
    hijack = Hijack()
    words = hijack_clip.FrozenCLIPEmbedderWithCustomWords(wrapped, hijack)
    # It sets them on itself with a setter of its own.
    return words


def comfy_tokens(sd1, encoder: Encoder):
    class Tokenizer(sd1.SDTokenizer):
        def _try_get_embedding(self, name):
            known = "tiny_style"
            return (encoder.vectors, known, name[len(known) :]) if name.startswith(known) else (None, name, "")

    return Tokenizer(tokenizer_path=str(TINY / "tokenizer"), embedding_directory="x", embedding_size=48)


def comfy_encoder(sd1, encoder: Encoder, skip: int):
    class Weighted(sd1.ClipTokenWeightEncoder):
        special_tokens = {"start": encoder.tokenizer.bos_token_id, "end": encoder.tokenizer.eos_token_id, "pad": encoder.tokenizer.eos_token_id}

        def encode(self, rows):
            out = []
            for row in rows:
                ids = [0 if torch.is_tensor(token) else token for token in row]
                vectors = [(i, token) for i, token in enumerate(row) if torch.is_tensor(token)]

                def put(_, __, found, vectors=vectors):
                    found = found.clone()
                    for i, vector in vectors:
                        found[0, i] = vector
                    return found

                hook = encoder.table.register_forward_hook(put)
                states = encoder.transformer(torch.tensor([ids]), output_hidden_states=True)
                hook.remove()
                out.append(last(encoder, states, skip))
            return torch.cat(out), None

    sd1.model_management.intermediate_device = lambda: torch.device("cpu")
    return Weighted()


def last(encoder: Encoder, states, skip: int) -> torch.Tensor:
    if skip == 1:
        return states.last_hidden_state
    return encoder.transformer.text_model.final_layer_norm(states.hidden_states[-skip])


@torch.no_grad()
def main() -> None:
    modules = types.ModuleType("modules")
    shared, devices = types.ModuleType("modules.shared"), types.ModuleType("modules.devices")
    shared.opts = types.SimpleNamespace(enable_emphasis=True, emphasis="Original", comma_padding_backtrack=20, use_old_emphasis_implementation=False, CLIP_stop_at_last_layers=1, textual_inversion_add_hashes_to_infotext=False)
    devices.device = torch.device("cpu")
    modules.devices, modules.shared, modules.sd_hijack = devices, shared, types.ModuleType("modules.sd_hijack")
    modules.sd_hijack.StableDiffusionModelHijack = object
    sys.modules |= {"modules": modules, "modules.shared": shared, "modules.devices": devices, "modules.sd_hijack": modules.sd_hijack}
    modules.prompt_parser = parser = module("modules.prompt_parser", sys.argv[1])
    hijack_clip = module("modules.sd_hijack_clip", sys.argv[2])
    sys.path.insert(0, sys.argv[3])
    kept, sys.argv = sys.argv, sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd1_clip as sd1

    sys.argv = kept
    folder = fresh_folder(GOLDENS / "prompts")
    vectors = torch.randn(3, 48, generator=torch.Generator().manual_seed(5)) * 0.05
    save_file({"emb_params": vectors}, folder / "tiny_style.safetensors", {"format": "pt"})
    encoder = Encoder(vectors)
    web = webui(parser, hijack_clip, encoder)
    comfy = comfy_tokens(sd1, encoder)
    chunks, expected = [], {}
    for name, prompt in PROMPTS.items():
        rows, count = web.tokenize_line(prompt)
        chunks.append({"tool": "automatic1111", "name": name, "prompt": prompt, "tokens": count, "ids": [[0 if any(fix.offset < i <= fix.offset + 3 for fix in row.fixes) else token for i, token in enumerate(row.tokens)] for row in rows], "weights": [row.multipliers for row in rows]})
        marked = MARKED.get(name, prompt)
        pairs = comfy.tokenize_with_weights(marked)
        chunks.append({"tool": "comfyui", "name": name, "prompt": marked, "tokens": None, "ids": [[0 if torch.is_tensor(token) else token for token, _ in row] for row in pairs], "weights": [[weight for _, weight in row] for row in pairs]})
        for skip in (1, 2):
            shared.opts.CLIP_stop_at_last_layers = skip
            expected[f"automatic1111.{name}.{skip}"] = web([prompt])[0, ::KEPT]
            encoder.fixes = None
            expected[f"comfyui.{name}.{skip}"] = comfy_encoder(sd1, encoder, skip).encode_token_weights(pairs)[0][0, ::KEPT]
    shared.opts.CLIP_stop_at_last_layers = 1
    edited = "a ([castle:dragon:0.5]:1.4) in the rain"
    schedule = parser.get_learned_conditioning_prompt_schedules([edited], STEPS)[0]
    both = web([text for _, text in schedule])
    for i, states in enumerate(both):
        expected[f"automatic1111.edited.{i}"] = states[::KEPT]
    write_tensors(folder / "expected.safetensors", {name: value.contiguous() for name, value in expected.items()})

    def composed(prompt: str):
        indexes, flat, _ = parser.get_multicond_prompt_list([prompt])
        return [[flat[i], weight] for i, weight in indexes[0]]

    write_json(folder / "prompts.json", {
        "about": __doc__.strip(),
        "steps": STEPS,
        "schedules": [{"prompt": prompt, "schedule": parser.get_learned_conditioning_prompt_schedules([prompt], STEPS)[0]} for prompt in SCHEDULES],
        "composed": [{"prompt": prompt, "parts": composed(prompt)} for prompt in COMPOSED],
        "weights": [{"prompt": prompt, "automatic1111": parser.parse_prompt_attention(prompt), "comfyui": [[sd1.unescape_important(text), weight] for text, weight in sd1.token_weights(sd1.escape_important(prompt), 1.0)]} for prompt in WEIGHTS],
        "edited": {"prompt": edited, "schedule": schedule},
    })
    (folder / "chunks.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in chunks) + "\n]\n")


if __name__ == "__main__":
    main()
