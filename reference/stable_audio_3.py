"""
Tiny random pipelines of Stable Audio 3, and what diffusers makes with them.

As audio_pipelines.py: folders of `test/weightless` without weights, whole operations in `test/goldens/stable_audio_3`, and in
`test/goldens/t5gemma_states.json` what the text encoder makes of prompts. diffusers' pipelines for a given sound have no guidance; where a case
has both, the transformer is run for both prompts and mixed as the pipeline for words alone does it.
"""

import json
import re
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from diffusers import AutoencoderSAME, FlowMatchEulerDiscreteScheduler, StableAudio3AudioToAudioPipeline, StableAudio3DiTModel, StableAudio3InpaintPipeline, StableAudio3Pipeline
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
from scipy.io import wavfile
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import GemmaTokenizer, T5GemmaConfig, T5GemmaEncoderModel

from audio_pipelines import given_sound
from files import GOLDENS, digits, fresh_folder, write_json, write_rows, write_tensors
from flow_pipelines import PROMPTS, TEXT, save

SOUNDS = GOLDENS / "stable_audio_3"
RATE = 8000
TOKENS = 24
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
GAINS = {"vae": {"decoder.blocks.0.mapping.weight_g": 0.1, "bottleneck.scale": 1.5}, "transformer": {"proj_out": 0.5, "prompt_padding": 4.0, "memory_tokens": 2.0}}


def tokenizer(**options) -> GemmaTokenizer:
    """Pieces learnt from a text, then bytes for what they do not spell: as Gemma's, with another vocabulary."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Replace(" ", "▁")
    spelt = re.sub(r"[^\u0000-\u00ff]", "", TEXT)
    inner.train_from_iterator(spelt.strip().split("\n"), trainers.BpeTrainer(vocab_size=560, special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False))
    learnt = json.loads(inner.to_str())["model"]
    return GemmaTokenizer(vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]], model_max_length=TOKENS, **options)


def t5gemma(vocabulary: int, softcap: float, shared: int) -> T5GemmaEncoderModel:
    shape = dict(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=shared, head_dim=16, query_pre_attn_scalar=16,
        attn_logit_softcapping=softcap, max_position_embeddings=512, sliding_window=256,
    )
    return T5GemmaEncoderModel(T5GemmaConfig(encoder=shape, decoder=shape, is_encoder_decoder=False, vocab_size=vocabulary)).eval()


def stable_audio_3(channels: int, differential: bool, memory: int, sinusoidal: int, softcap: float, shared: int, stochastic: bool, **words) -> StableAudio3Pipeline:
    read = tokenizer(**words)
    return StableAudio3Pipeline(
        vae=AutoencoderSAME(
            audio_channels=channels, patch_size=16, encoder_channels=16, encoder_c_mults=(3,), encoder_strides=(8,), encoder_transformer_depths=(3,), latent_dim=8, use_differential_attention=differential,
            dim_heads=16, ff_mult=2, decoder_sinusoidal_blocks=(sinusoidal,), sampling_rate=RATE,
        ),
        text_encoder=t5gemma(len(read), softcap, shared),
        tokenizer=read,
        duration_embedder=StableAudio3DurationEmbedder(output_dim=32, fourier_dim=32, max_val=0.7),
        transformer=StableAudio3DiTModel(
            io_channels=8, embed_dim=64, depth=3, num_heads=4, cond_token_dim=32, global_cond_dim=32, local_add_cond_dim=9, timestep_features_dim=32, ff_mult=2.0, num_memory_tokens=memory,
            use_differential_attention=differential,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, stochastic_sampling=stochastic),
    )


DISTILLED, BASE = "tiny-stable-audio-3", "tiny-stable-audio-3-base"
CASES = {
    # name: checkpoint, what is special, parameters, seconds and channels of the given sound
    "stable-audio-3-text": (DISTILLED, "eight steps of the distilled model, each with noise of its own", dict(prompt="a red house at the edge of the forest", seconds=0.3, steps=8, seed=42), None),
    "stable-audio-3-short": (DISTILLED, "a single latent, a single step, no words", dict(prompt="", seconds=0.01, steps=1, seed=1), None),
    "stable-audio-3-batch": (DISTILLED, "three sounds of one generator; a length that is no multiple of a latent", dict(prompt="一只猫坐在窗边，外面下着雪", seconds=0.111, steps=3, seed=7, batch_size=3), None),
    "stable-audio-3-long": (DISTILLED, "as long as the model goes, a prompt that is cut", dict(prompt="the quick brown fox jumps over the lazy dog, " * 4, seconds=0.7, steps=2, seed=18446744073709551615), None),
    "stable-audio-3-sound": (DISTILLED, "a variation of a sound, whose levels first rise", dict(prompt="an oil painting", seconds=0.25, strength=0.6, steps=4, seed=5), (0.25, 2)),
    "stable-audio-3-sound-short": (DISTILLED, "a mono sound that is shorter than the result, nearly kept; two of them", dict(prompt="a fox 🦊", seconds=0.2, strength=0.2, steps=3, seed=9, batch_size=2), (0.13, 1)),
    "stable-audio-3-sound-long": (DISTILLED, "a sound that is longer than the result, at strength 1", dict(prompt="a lantern", seconds=0.12, strength=1.0, steps=3, seed=3), (0.3, 2)),
    "stable-audio-3-anew": (DISTILLED, "a part in the middle made anew", dict(prompt="Über den Dächern von Köln hängt Nebel", seconds=0.3, repaint_start=0.1, repaint_end=0.21, steps=8, seed=11), (0.3, 2)),
    "stable-audio-3-anew-on": (DISTILLED, "a sound goes on beyond its end", dict(prompt="soft light", seconds=0.3, repaint_start=0.15, repaint_end=0.3, steps=4, seed=12), (0.17, 2)),
    "stable-audio-3-base": (BASE, "Euler's steps, no guidance; one channel, plain attention, no memory tokens", dict(prompt="rain on a roof", seconds=0.2, guidance_scale=1, steps=12, seed=13), None),
    "stable-audio-3-guided": (BASE, "guidance and a negative prompt", dict(prompt="rain on a roof", negative_prompt="blurry", seconds=0.25, guidance_scale=5, steps=6, seed=14), None),
    "stable-audio-3-guided-empty": (BASE, "guidance without a negative prompt, two sounds", dict(prompt="x", seconds=0.15, guidance_scale=3, steps=5, seed=15, batch_size=2), None),
    "stable-audio-3-guided-sound": (BASE, "guidance from a stereo sound, of which the mean is taken", dict(prompt="snow", negative_prompt="rain", seconds=0.2, strength=0.7, guidance_scale=3, steps=5, seed=16), (0.2, 2)),
    "stable-audio-3-guided-anew": (BASE, "guidance where the beginning is made anew", dict(prompt="smoke", seconds=0.2, repaint_start=0.0, repaint_end=0.1, guidance_scale=4, steps=5, seed=17), (0.2, 1)),
}


@contextmanager
def guided(pipeline: StableAudio3Pipeline, negative: str, seconds: float, scale: float):
    """Leads the transformer away from other words, as `StableAudio3Pipeline` does it."""
    transformer, device = pipeline.transformer, torch.device("cpu")
    states, mask = pipeline.prepare_cross_attention(*pipeline.encode_prompt([negative], device, 1), pipeline.encode_duration(seconds, device, 1, 1))
    forward = transformer.forward

    def mixed(*given, **named):
        (led,) = forward(*given, **named)
        batch = len(led)
        (plain,) = forward(*given, **{**named, "encoder_hidden_states": states.expand(batch, -1, -1), "encoder_attention_mask": mask.expand(batch, -1)})
        return (plain + scale * (led - plain),)

    transformer.forward = mixed
    try:
        yield
    finally:
        del transformer.forward


def write_case(name: str, checkpoint: str, about: str, pipeline: StableAudio3Pipeline, parameters: dict, source: tuple | None) -> None:
    folder = fresh_folder(SOUNDS / name)
    call = dict(parameters)
    seed, scale, negative = call.pop("seed"), call.pop("guidance_scale", 1), call.pop("negative_prompt", None)
    given = {"prompt": call.pop("prompt"), "duration": call.pop("seconds"), "num_inference_steps": call.pop("steps"), "num_waveforms_per_prompt": call.pop("batch_size", 1)}
    run = pipeline
    if source is None:
        given.update(guidance_scale=scale, negative_prompt=negative)
    else:
        seconds, channels = source
        # Of 16 bits, so that the file is small.
        samples = np.round(given_sound(seconds, channels) * 32767).astype(np.int16)
        wavfile.write(folder / "audio.wav", RATE, samples)
        planes = torch.from_numpy(samples.reshape(len(samples), channels).T.astype(np.float32) / 32768)
        wanted = pipeline.vae.config.audio_channels
        given["audio"] = (planes if channels == wanted else planes.mean(0, keepdim=True) if wanted == 1 else planes.repeat(wanted, 1))[None]
        parameters = {**parameters, "audio": "audio.wav"}
        parts = dict(pipeline.components)
        if "strength" in call:
            given["init_noise_level"] = call.pop("strength")
            kind = StableAudio3AudioToAudioPipeline
        else:
            given.update(mask_start_seconds=call.pop("repaint_start"), mask_end_seconds=call.pop("repaint_end"))
            kind = StableAudio3InpaintPipeline
        run = kind(**parts)
        run.set_progress_bar_config(disable=True)
    if call:
        raise ValueError(f"left over: {call}")
    sounds = lambda output: run(**given, output_type=output, generator=torch.Generator("cpu").manual_seed(seed)).audios
    leading = guided(pipeline, negative or "", given["duration"], scale) if source is not None and scale > 1 else nullcontext()
    with torch.no_grad(), leading:
        latents, waveforms = sounds("latent"), sounds("pt")
    clipped = (waveforms.abs() >= 1).float().mean()
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, waveforms {tuple(waveforms.shape)} std {waveforms.std():.3f}, {clipped:.1%} clipped")
    write_json(folder / "operation.json", {"operation": "audio_generation", "config": "stable_audio_3", "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": checkpoint})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "waveforms": waveforms.float().contiguous()})


def states(checkpoint: str, pipeline: StableAudio3Pipeline) -> list[dict]:
    rows = []
    for prompt in PROMPTS:
        read = pipeline.tokenizer(prompt, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = pipeline.text_encoder(read.input_ids, attention_mask=read.attention_mask)[0][0]
        kept = read.attention_mask[0].bool()
        ids, hidden = read.input_ids[0][kept], hidden[kept]
        tokens = sorted({0, len(ids) // 2, len(ids) - 1})
        rows.append({"checkpoint": checkpoint, "prompt": prompt, "ids": ids.tolist(), "all": len(pipeline.tokenizer(prompt).input_ids), "tokens": tokens, "states": [[float(digit) for digit in digits(hidden[token])] for token in tokens]})
    return rows


def make_stable_audio_3(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    if not only:
        fresh_folder(SOUNDS)
    pipelines = {
        DISTILLED: stable_audio_3(2, True, 5, 3, 50.0, 2, True, add_bos_token=True),
        BASE: stable_audio_3(1, False, 0, 0, 4.0, 4, False, padding_side="right", add_eos_token=True),
    }
    for name, pipeline in pipelines.items():
        save(name, pipeline, GAINS)
        pipeline.set_progress_bar_config(disable=True)
    for name, (checkpoint, about, parameters, source) in CASES.items():
        if not only or name in only:
            write_case(name, checkpoint, about, pipelines[checkpoint], parameters, source)
    if not only:
        rows = [row for name, pipeline in pipelines.items() for row in states(name, pipeline)]
        write_rows(GOLDENS / "t5gemma_states.json", {"about": "Prompts as tokens, and hidden states of T5Gemma at some of these, with transformers."}, "cases", rows)


if __name__ == "__main__":
    make_stable_audio_3(set(sys.argv[1:]))
