"""
A tiny random HeartMuLa with its HeartCodec, and what heartlib makes with them.

heartlib is no package: set HEARTLIB to the folder `src` of a checkout of github.com/HeartMuLa/heartlib, and run this where torchtune 0.4.0,
torchao 0.9.0 and vector-quantize-pytorch 1.27.15 are installed. torchaudio, which it writes files with, and `datasets`, which torchtune asks for
as it is imported, are not used here and stand empty.

heartlib seeds nothing. Here torch's own generator is seeded before the tokens are drawn, and once more before they become a sound, so that a
sound does not depend on how many numbers the tokens took.
"""

import importlib.machinery
import json
import os
import sys
import types
from unittest import mock

for missing, names in {"datasets": ("load_dataset", "Dataset", "IterableDataset"), "torchaudio": ("save",)}.items():
    module = types.ModuleType(missing)
    module.__spec__ = importlib.machinery.ModuleSpec(missing, None)
    for one in names:
        setattr(module, one, None)
    sys.modules.setdefault(missing, module)
sys.path.insert(0, os.environ["HEARTLIB"])

import numpy as np
import torch
from heartlib.heartcodec.configuration_heartcodec import HeartCodecConfig
from heartlib.heartcodec.modeling_heartcodec import HeartCodec
from heartlib.heartmula import modeling_heartmula
from heartlib.heartmula.configuration_heartmula import HeartMuLaConfig
from heartlib.pipelines.music_generation import HeartMuLaGenConfig, HeartMuLaGenPipeline
from tokenizers import processors
from torchtune.models import llama3_2

from files import GOLDENS, fresh_folder, write_json, write_tensors
from flow_pipelines import ABOUT, CHECKPOINTS, tokenizer
from weightless import hashed

NAME = "tiny-heartmula"
SONGS = GOLDENS / "heartmula"
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
# The numbers of a flavour stand in config.json in place of its name.
BACKBONE = dict(num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=64, max_seq_len=512, intermediate_dim=96)
DECODER = dict(num_layers=2, num_heads=2, num_kv_heads=1, embed_dim=32, max_seq_len=64, intermediate_dim=64)
MULA = dict(audio_vocab_size=69, audio_num_codebooks=8, muq_dim=512)
# What comes from latents is 256 wide in `detokenize`, whatever the configuration says. 128 samples a latent, so 3200 a second.
CODEC = dict(
    dim=32, codebook_size=72, codebook_dim=8, num_quantizers=8, attention_head_dim=16, in_channels=2 * 256 + 32, num_attention_heads=2, num_layers=2, num_layers_2=1, out_channels=256,
    num_bands=1, sample_rate=3200, causal=True, num_samples=2, downsample_factors=[4, 4, 4], downsample_kernel_sizes=[8, 8, 8], upsample_factors=[4, 4, 4], upsample_kernel_sizes=[8, 8, 8],
    latent_hidden_dim=128, default_kernel_size=7, delay_kernel_size=5, init_channel=4, res_kernel_size=7,
)
GAINS = {"codebook0_head": 2.0, "audio_head": 2.0, "estimator.proj_out.ffn_2": 0.5, "decoder.5": 0.1, "convs": 0.6}
# Neither is asked when codes become a sound.
UNUSED = ("scalar_model.encoder.", "cluster_size", "embed_avg", "initted")

SONG = "[Verse]\nSoft notes in the morning light\n\n[Chorus]\nMusic fills the air tonight"
CASES = {
    # name: what is special, parameters, the id of what ends a song, every how many samples are kept
    "heartmula-song": ("201 frames with guidance, as the pipeline is used", dict(lyrics=SONG, tags="piano,happy", seconds=16.0, seed=42), 69, 16),
    "heartmula-two-parts": ("longer than what the codec makes at once: two parts that fade into each other", dict(lyrics=SONG, tags="Jazz, slow", seconds=30.4, guidance_scale=2, seed=7), 69, 32),
    "heartmula-unguided": ("no guidance, a lower temperature, fewer tokens to draw from, lyrics in German without sections", dict(lyrics="Über den Dächern von Köln hängt Nebel", tags="<tag>chor</tag>", seconds=2.0, guidance_scale=1, temperature=0.7, top_k=5, seed=18446744073709551615), 69, 1),
    "heartmula-ends": ("a song that the model ends", dict(lyrics="", tags="rain", seconds=8.0, guidance_scale=3, seed=3), 68, 1),
}


def words():
    made = tokenizer(special=(BEGIN, END, "<tag>", "</tag>"))
    inner = made.backend_tokenizer
    begin = inner.token_to_id(BEGIN)
    inner.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, begin)])
    return inner


def scale_of(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    gain = next((factor for part, factor in GAINS.items() if part in name), 1.0)
    if name.endswith("original0"):
        return 0.25 * gain, gain
    # PReLU's slopes, torchtune's and the codec's own norms.
    if "activation" in name:
        return 0.125, 0.25
    if name.endswith((".scale", "norm.weight")):
        return 0.25, 1.0
    if len(shape) == 1:
        return 0.125, 0.0
    if name == "audio_head":
        return float(np.float32(gain * (3 / shape[1]) ** 0.5)), 0.0
    if "embed" in name and "embedder" not in name and not name.endswith("feature_emb.weight") and "project" not in name:
        return 1.0, 0.0
    if "scale_shift_table" in name:
        return 0.5, 0.0
    return float(np.float32(gain * (3 / int(np.prod(shape[1:]))) ** 0.5)), 0.0


def fill(model: torch.nn.Module, first: int) -> list[dict]:
    table = []
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if any(part in name for part in UNUSED):
            continue
        shape = tuple(tensor.shape)
        scale, add = scale_of(name, shape)
        with torch.no_grad():
            tensor.copy_(hashed(first + len(table), shape, scale, add))
        table.append({"number": first + len(table), "name": name, "shape": list(shape), "scale": scale, "add": add})
    return table


def models(text: int) -> tuple[modeling_heartmula.HeartMuLa, HeartCodec, list[dict]]:
    flavours = {"tiny-backbone": BACKBONE, "tiny-decoder": DECODER}
    for name, numbers in flavours.items():
        modeling_heartmula.FLAVORS[name] = lambda numbers=numbers: llama3_2.llama3_2(vocab_size=8, **numbers)
    mula = modeling_heartmula.HeartMuLa(HeartMuLaConfig(backbone_flavor="tiny-backbone", decoder_flavor="tiny-decoder", text_vocab_size=text, **MULA)).eval()
    codec = HeartCodec(HeartCodecConfig(**CODEC)).eval()
    own = fill(mula, 0)
    files = [
        {"path": "HeartMuLa-oss-3B/model.safetensors", "tensors": own},
        {"path": "HeartCodec-oss/model.safetensors", "tensors": fill(codec, len(own))},
    ]
    return mula, codec, files


def pipeline(mula, codec, vocabulary, ends: int) -> HeartMuLaGenPipeline:
    cpu = torch.device("cpu")
    ids = {"text_bos_id": vocabulary.token_to_id(BEGIN), "text_eos_id": vocabulary.token_to_id(END), "audio_eos_id": ends, "empty_id": 0}
    made = HeartMuLaGenPipeline("", "", cpu, cpu, torch.float32, torch.float32, True, None, vocabulary, HeartMuLaGenConfig(**ids))
    made._mula, made._codec, made.lazy_load = mula, codec, False
    return made


def write_checkpoint(vocabulary, files: list[dict]) -> None:
    folder = fresh_folder(CHECKPOINTS / NAME)
    ids = {"text_bos_id": vocabulary.token_to_id(BEGIN), "text_eos_id": vocabulary.token_to_id(END), "audio_eos_id": 69, "empty_id": 0}
    write_json(folder / "gen_config.json", ids)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(vocabulary.to_str()), ensure_ascii=False) + "\n", encoding="utf-8")
    numbers = {"model_type": "heartmula", "architectures": ["HeartMuLa"], "backbone_flavor": BACKBONE, "decoder_flavor": DECODER, "text_vocab_size": vocabulary.get_vocab_size(), **MULA}
    write_json(folder / "HeartMuLa-oss-3B" / "config.json", numbers)
    write_json(folder / "HeartCodec-oss" / "config.json", {"model_type": "heartcodec", "architectures": ["HeartCodec"], **CODEC})
    rows = [f'    {{"path": {json.dumps(file["path"])}, "tensors": [\n' + ",\n".join("      " + json.dumps(row) for row in file["tensors"]) + "\n    ]}" for file in files]
    (folder / "weights.json").write_text(f'{{\n  "about": {json.dumps(ABOUT)},\n  "files": [\n' + ",\n".join(rows) + "\n  ]\n}\n")


def write_case(name: str, about: str, vocabulary, parameters: dict, ends: int, stride: int) -> None:
    folder = fresh_folder(SONGS / name)
    mula, codec, _ = models(vocabulary.get_vocab_size())
    made = pipeline(mula, codec, vocabulary, ends)
    seed, guidance = parameters["seed"], parameters.get("guidance_scale", 1.5)
    latents = []
    infer = codec.flow_matching.inference_codes
    codec.flow_matching.inference_codes = lambda *args, **more: latents.append(infer(*args, **more)) or latents[-1]
    with torch.no_grad(), mock.patch("torchaudio.save") as written:
        inputs = made.preprocess({"lyrics": parameters["lyrics"], "tags": parameters["tags"]}, guidance)
        torch.manual_seed(seed)
        frames = made._forward(inputs, round(parameters["seconds"] * 1000), parameters.get("temperature", 1.0), parameters.get("top_k", 50), guidance)
        torch.manual_seed(seed)
        made.postprocess(frames, "song.wav")
    tokens, sound = frames["frames"], written.call_args.args[1]
    latents = torch.cat(latents)
    print(f"{name}: prompt {inputs['tokens'].shape[1]}, tokens {tuple(tokens.shape)} of {len(torch.unique(tokens))}, latents {tuple(latents.shape)} std {latents.std():.3f}, sound {tuple(sound.shape)} std {sound.std():.3f} most {sound.abs().max():.3f}")
    # Those that the song itself fills, of each part.
    own = latents[:, : 2 * tokens.shape[1]]
    write_json(folder / "operation.json", {"operation": "audio_generation", "config": "heartmula", "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": NAME, "ends": ends, "stride": stride})
    write_tensors(folder / "expected.safetensors", {"tokens": tokens.to(torch.int32), "latents": own[:, ::4, ::8].contiguous(), "waveforms": sound[:, ::stride].float().contiguous()})


def make_heartmula(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    vocabulary = words()
    _, _, files = models(vocabulary.get_vocab_size())
    if not only:
        fresh_folder(SONGS)
        write_checkpoint(vocabulary, files)
    for name, (about, parameters, ends, stride) in CASES.items():
        if not only or name in only:
            write_case(name, about, vocabulary, parameters, ends, stride)


if __name__ == "__main__":
    make_heartmula(set(sys.argv[1:]))
