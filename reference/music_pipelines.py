"""
Tiny random pipelines of ACE-Step 1.5, and what diffusers makes with them.

As audio_pipelines.py: folders of `test/weightless` without weights, and whole operations, from the words to the waveform, in `test/goldens/music`.
diffusers draws the sample of a given sound's posterior from torch's global generator, which no seed of the pipeline reaches; here it is drawn
from the pipeline's own, before the noise to start from, so that a seed says everything.
"""

import sys

import numpy as np
import torch
from diffusers import AceStepPipeline, AceStepTransformer1DModel, AutoencoderOobleck, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer, AceStepConditionEncoder
from scipy.io import wavfile
from tokenizers import processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from audio_pipelines import given_sound
from files import GOLDENS, fresh_folder, write_json, write_tensors
from flow_pipelines import save, tokenizer

MUSIC = GOLDENS / "music"
# 25 latents per second, as the published checkpoints have.
RATE = 3200
SILENCE = 200
GAINS = {
    "vae": {"decoder.conv2.weight_g": 1 / 128, "encoder.conv2.weight_g": 1 / 32},
    "transformer": {"proj_out_conv": 0.5},
    "condition_encoder": {"silence_latent": 30.0, "null_condition_emb": 3.0},
}


def words() -> PreTrainedTokenizerFast:
    """As Qwen3-Embedding's: it ends every text with a token of its own."""
    made = tokenizer()
    end = "<|endoftext|>"
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, made.convert_tokens_to_ids(end))])
    made.chat_template = None
    return made


def ace_step(wide: int, heads: int, shared: int, window: int, text: int, covers: bool, **transformer) -> AceStepPipeline:
    vocabulary = words()
    hidden = 32
    attention = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=window)
    encoder = AceStepConditionEncoder(
        hidden_size=hidden, intermediate_size=48, text_hidden_dim=text, timbre_hidden_dim=8, num_lyric_encoder_hidden_layers=2, num_timbre_encoder_hidden_layers=2, **attention
    )
    # Its length in the published checkpoints is a constant of the class.
    encoder.silence_latent = torch.zeros(1, SILENCE, 8)
    parts = {}
    if covers:
        tokens = dict(hidden_size=hidden, intermediate_size=48, audio_acoustic_hidden_dim=8, pool_window_size=5, num_attention_pooler_hidden_layers=2, **attention)
        parts = {"audio_tokenizer": AceStepAudioTokenizer(**tokens, fsq_dim=hidden, fsq_input_levels=[8, 5, 5]), "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**tokens)}
    return AceStepPipeline(
        vae=AutoencoderOobleck(encoder_hidden_size=16, downsampling_ratios=[2, 4, 4, 4], channel_multiples=[1, 2, 2, 3], decoder_channels=12, decoder_input_channels=8, audio_channels=2, sampling_rate=RATE),
        text_encoder=Qwen3Model(
            Qwen3Config(vocab_size=len(vocabulary), hidden_size=text, intermediate_size=2 * text, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, rope_theta=1000000.0)
        ),
        tokenizer=vocabulary,
        transformer=AceStepTransformer1DModel(
            hidden_size=wide, intermediate_size=64, num_hidden_layers=3, num_attention_heads=heads, num_key_value_heads=shared, head_dim=16, in_channels=24, audio_acoustic_hidden_dim=8,
            sliding_window=window, encoder_hidden_size=hidden, **transformer,
        ),
        condition_encoder=encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        **parts,
    )


SONG = "[verse]\nSoft notes in the morning light\n\n[chorus]\nMusic fills the air tonight"
TURBO, BASE, XL = "tiny-ace-step-turbo", "tiny-ace-step", "tiny-ace-step-xl"
CASES = {
    # name: checkpoint, what is special, parameters, the given sounds: seconds and channels
    "ace-step-turbo": (TURBO, "lyrics, eight steps of a distilled model, shift 3", dict(prompt="a red house at the edge of the forest, jazz", lyrics=SONG, seconds=2.0, steps=8, guidance_scale=1, seed=42), {}),
    "ace-step-turbo-plain": (TURBO, "no lyrics; an odd number of latents; shift 1; guidance has no effect", dict(prompt="rain", seconds=1.33, steps=2, guidance_scale=7, shift=1, seed=1), {}),
    "ace-step-guided": (BASE, "adaptive projected guidance with its momentum, facts of the music", dict(prompt="oil painting, strings", lyrics=SONG, seconds=1.5, steps=6, guidance_scale=7, bpm=120, keyscale="C major", timesignature="3", seed=3), {}),
    "ace-step-batch": (BASE, "three songs of one generator, in Chinese, little guidance", dict(prompt="山水画，云雾缭绕", lyrics="[verse]\n一只猫坐在窗边，外面下着雪", vocal_language="zh", seconds=0.7, steps=3, guidance_scale=1.5, shift=2, batch_size=3, seed=7), {}),
    "ace-step-cut": (XL, "a wider transformer with as many keys as heads; words and lyrics that are cut", dict(prompt="the quick brown fox jumps over the lazy dog, " * 12, lyrics="[verse]\n" + "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n" * 60, vocal_language="de", seconds=1.0, steps=3, guidance_scale=3, seed=18446744073709551615), {}),
    "ace-step-short": (XL, "shorter than the window, a single step", dict(prompt="x", seconds=0.04, steps=1, guidance_scale=1, seed=11), {}),
    "ace-step-repaint": (BASE, "a part of a sound, which is no whole number of latents long, made anew, guided", dict(prompt="a fox", lyrics=SONG, task="repaint", repaint_start=0.3, repaint_end=0.9, steps=4, guidance_scale=4, seed=5), {"audio": (1.4, 2)}),
    "ace-step-repaint-end": (TURBO, "from a second to the end, two of them, of a mono sound", dict(prompt="snow", task="repaint", repaint_start=0.5, steps=3, guidance_scale=1, batch_size=2, seed=6), {"audio": (1.01, 1)}),
    "ace-step-cover": (BASE, "the codes of a sound, of which the last is filled up with silence; 0.6 of it", dict(prompt="a lantern", lyrics=SONG, task="cover", cover_strength=0.6, steps=4, guidance_scale=3, seed=8), {"audio": (1.1, 2)}),
    "ace-step-voice": (TURBO, "the timbre of another sound", dict(prompt="soft light", lyrics="[verse]\nuser assistant system", seconds=1.0, steps=3, guidance_scale=1, seed=9), {"reference_audio": (1.7, 2)}),
}


def drawing(vae: AutoencoderOobleck):
    """Gives the posterior's sample the generator that is set on it."""
    encode = vae.encode

    def drawn(sound):
        encoded = encode(sound)
        sample = encoded.latent_dist.sample
        encoded.latent_dist.sample = lambda: sample(generator=vae.generator)
        return encoded

    vae.encode = drawn


def write_case(name: str, checkpoint: str, about: str, pipeline: AceStepPipeline, parameters: dict, sounds: dict) -> None:
    folder = fresh_folder(MUSIC / name)
    call = dict(parameters)
    seed, batch = call.pop("seed"), call.pop("batch_size", 1)
    given = {
        "prompt": [call.pop("prompt")] * batch, "lyrics": [call.pop("lyrics", "")] * batch, "num_inference_steps": call.pop("steps"), "guidance_scale": call.pop("guidance_scale"),
        "audio_duration": call.pop("seconds", None), "task_type": call.pop("task", "text2music"), "audio_cover_strength": call.pop("cover_strength", 1.0),
        "repainting_start": call.pop("repaint_start", None), "repainting_end": call.pop("repaint_end", None), "vocal_language": [call.pop("vocal_language", "en")] * batch,
        **{key: call.pop(key) for key in ("shift", "bpm", "keyscale", "timesignature") if key in call},
    }
    if call:
        raise ValueError(f"left over: {call}")
    for key, (seconds, channels) in sounds.items():
        # Of 16 bits, so that the file is small.
        samples = np.round(given_sound(seconds, channels, RATE) * 32767).astype(np.int16)
        wavfile.write(folder / f"{key}.wav", RATE, samples)
        planes = torch.from_numpy(samples.reshape(len(samples), channels).T.astype(np.float32) / 32768)
        given["src_audio" if key == "audio" else key] = planes if channels == 2 else planes.repeat(2, 1)
        parameters = {**parameters, key: f"{key}.wav"}

    def run(output: str) -> torch.Tensor:
        pipeline.vae.generator = torch.Generator("cpu").manual_seed(seed)
        return pipeline(**given, output_type=output, generator=pipeline.vae.generator).audios

    with torch.no_grad():
        latents, waveforms = run("latent").transpose(1, 2), run("pt")
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, waveforms {tuple(waveforms.shape)} std {waveforms.std():.3f}")
    write_json(folder / "operation.json", {"operation": "audio_generation", "config": "ace_step", "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": checkpoint})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "waveforms": waveforms.float().contiguous()})


def make_music_pipelines(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    if not only:
        fresh_folder(MUSIC)
    pipelines = {
        TURBO: ace_step(32, 4, 2, 5, 24, False, is_turbo=True, model_version="turbo"),
        BASE: ace_step(32, 4, 2, 3, 24, True, model_version="base"),
        XL: ace_step(48, 4, 4, 128, 32, False, layer_types=["full_attention", "sliding_attention", "full_attention"]),
    }
    for name, pipeline in pipelines.items():
        save(name, pipeline, GAINS)
        drawing(pipeline.vae)
        pipeline.set_progress_bar_config(disable=True)
    for name, (checkpoint, about, parameters, sounds) in CASES.items():
        if not only or name in only:
            write_case(name, checkpoint, about, pipelines[checkpoint], parameters, sounds)


if __name__ == "__main__":
    make_music_pipelines(set(sys.argv[1:]))
