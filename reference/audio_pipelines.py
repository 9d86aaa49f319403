"""
Tiny random pipelines of Stable Audio, what diffusers makes with them, and sounds at other rates.

As flow_pipelines.py: folders of `test/weightless` without weights, and whole operations, from the prompt to the waveform, in
`test/goldens/sounds`. `test/goldens/sound_rates.json` holds sounds that scipy 1.17.1 resampled.
"""

import json
import sys

import numpy as np
import torch
from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler, StableAudioDiTModel, StableAudioPipeline
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from scipy.io import wavfile
from scipy.signal import resample_poly

import t5
from files import GOLDENS, digits, fresh_folder, write_json, write_rows, write_tensors
from flow_pipelines import PROMPTS, TEXT, save

SOUNDS = GOLDENS / "sounds"
SPIECE = t5.train(TEXT.strip().split("\n"), PROMPTS)
RATE = 8000
# So that latents and waveforms of networks that were taught nothing are about as large as those of taught ones.
GAINS = {"vae": {"decoder.conv2.weight_g": 1 / 128, "encoder.conv2.weight_g": 1 / 32}, "transformer": {"proj_out": 0.25}}
TOKENS = 24


class Partial(CosineDPMSolverMultistepScheduler):
    """
    Runs the last share of the steps, as diffusers' image-to-image pipelines do; its pipeline of sounds always runs all. A sound to start from
    lies under as much noise as the first step that is left is for (`add_noise`), which at strength 1 is what the pipeline adds.
    """

    strength = 1.0

    def set_timesteps(self, num_inference_steps=None, device=None):
        super().set_timesteps(num_inference_steps, device)
        begin = num_inference_steps - min(int(num_inference_steps * self.strength), num_inference_steps)
        self.timesteps, self.sigmas = self.timesteps[begin:], self.sigmas[begin:]

    @property
    def init_noise_sigma(self):
        return super().init_noise_sigma if self.strength == 1 else float(self.sigmas[0])


def stable_audio(channels: int, projected: int | None, kv_heads: int, ratios: list[int], **scheduler) -> StableAudioPipeline:
    words = t5.tokenizer(SPIECE, TOKENS)
    width = projected or t5.CONFIG["d_model"]
    return StableAudioPipeline(
        vae=AutoencoderOobleck(encoder_hidden_size=16, downsampling_ratios=ratios, channel_multiples=[1, 2, 2, 3][: len(ratios)], decoder_channels=12, decoder_input_channels=8, audio_channels=channels, sampling_rate=RATE),
        text_encoder=t5.t5(len(words)),
        projection_model=StableAudioProjectionModel(t5.CONFIG["d_model"], width, 0, 4),
        tokenizer=words,
        transformer=StableAudioDiTModel(
            sample_size=72, in_channels=8, num_layers=2, attention_head_dim=16, num_attention_heads=4, num_key_value_attention_heads=kv_heads, out_channels=8,
            cross_attention_dim=40, time_proj_dim=32, global_states_input_dim=2 * width, cross_attention_input_dim=width,
        ),
        scheduler=Partial(**scheduler),
    )


def given_sound(seconds: float, channels: int, rate: int = RATE) -> np.ndarray:
    """A tone that rises, another one in the second channel: [samples, channels]."""
    time = np.arange(int(seconds * rate)) / rate
    planes = [0.5 * np.sin(2 * np.pi * (220 * (1 + channel) * time + 300 * time**2)) * np.exp(-time) for channel in range(channels)]
    return np.stack(planes, axis=1).astype(np.float32)


CHINESE = "一只猫坐在窗边，外面下着雪"
CASES = {
    # name: checkpoint, what is special, parameters, seconds and channels of the sound to start from
    "stable-audio-text": ("tiny-stable-audio", "guidance without a negative prompt", dict(prompt="a red house at the edge of the forest", seconds=0.5, steps=4, guidance_scale=4, seed=42), None),
    "stable-audio-negative": ("tiny-stable-audio", "a negative prompt; a length that is no multiple of a latent", dict(prompt="rain on a roof", negative_prompt="blurry", seconds=0.3333, steps=7, guidance_scale=7, seed=1), None),
    "stable-audio-batch": ("tiny-stable-audio", "three sounds of one generator, no guidance", dict(prompt=CHINESE, seconds=0.21, steps=3, guidance_scale=1, seed=7, batch_size=3), None),
    "stable-audio-whole": ("tiny-stable-audio", "as long as the model goes, a prompt that is cut", dict(prompt="the quick brown fox jumps over the lazy dog, " * 4, seconds=1.152, steps=16, guidance_scale=2, seed=3), None),
    "stable-audio-late": ("tiny-stable-audio", "from a later second on, no words", dict(prompt="", seconds_start=0.25, seconds=0.4, steps=5, guidance_scale=3, seed=18446744073709551615), None),
    "stable-audio-sound": ("tiny-stable-audio", "from a stereo sound that is shorter than the model", dict(prompt="an oil painting", seconds=0.3, steps=5, guidance_scale=3, seed=5), (0.2, 2)),
    "stable-audio-sound-part": ("tiny-stable-audio", "half of the steps on a mono sound that is longer than the model, two sounds", dict(prompt="a fox", negative_prompt="noise", seconds=0.25, steps=6, guidance_scale=2, seed=9, strength=0.5, batch_size=2), (1.3, 1)),
    "stable-audio-mono": ("tiny-stable-audio-mono", "one channel, projected words, Karras' levels, solver heun", dict(prompt="Über den Dächern von Köln hängt Nebel", negative_prompt="x", seconds=0.41, steps=6, guidance_scale=3, seed=11), None),
    "stable-audio-mono-first-order": ("tiny-stable-audio-mono-1", "first order, predicts noise; two steps", dict(prompt="x", seconds=0.2, steps=2, guidance_scale=1.5, seed=12), None),
    "stable-audio-mono-sound": ("tiny-stable-audio-mono", "from a stereo sound, of which the mean is taken; strength 0.9", dict(prompt="a lantern", seconds=0.3, steps=5, guidance_scale=2, seed=13, strength=0.9), (0.5, 2)),
}


def write_case(name: str, checkpoint: str, about: str, pipeline: StableAudioPipeline, parameters: dict, source: tuple | None) -> None:
    folder = fresh_folder(SOUNDS / name)
    call = dict(parameters)
    start, seed = call.pop("seconds_start", 0.0), call.pop("seed")
    pipeline.scheduler.strength = call.pop("strength", 1.0)
    given = {
        "prompt": call.pop("prompt"), "negative_prompt": call.pop("negative_prompt", None), "audio_start_in_s": start, "audio_end_in_s": start + call.pop("seconds"),
        "num_inference_steps": call.pop("steps"), "guidance_scale": call.pop("guidance_scale"), "num_waveforms_per_prompt": call.pop("batch_size", 1),
    }
    if call:
        raise ValueError(f"left over: {call}")
    if source is not None:
        seconds, channels = source
        # Of 16 bits, so that the file is small.
        samples = np.round(given_sound(seconds, channels) * 32767).astype(np.int16)
        wavfile.write(folder / "audio.wav", RATE, samples)
        given.update(initial_audio_waveforms=torch.from_numpy(samples.T.astype(np.float32) / 32768)[None], initial_audio_sampling_rate=RATE)
        parameters = {**parameters, "audio": "audio.wav"}
    run = lambda output: pipeline(**given, output_type=output, generator=torch.Generator("cpu").manual_seed(seed)).audios
    with torch.no_grad():
        latents, waveforms = run("latent"), run("pt")
    print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.3f}, waveforms {tuple(waveforms.shape)} std {waveforms.std():.3f}, greatest {waveforms.abs().max():.3f}")
    write_json(folder / "operation.json", {"operation": "audio_generation", "config": "stable_audio", "parameters": {**parameters, "seed": str(seed)}, "record": ["latents"]})
    write_json(folder / "case.json", {"about": about, "checkpoint": checkpoint})
    write_tensors(folder / "expected.safetensors", {"latents": latents.float().contiguous(), "waveforms": waveforms.float().contiguous()})


def rates() -> list[dict]:
    rows = []
    for of, to in ((48000, 44100), (44100, 48000), (22050, 44100), (44100, 8000), (8000, 44100), (16000, 16000), (3, 2)):
        divisor = int(np.gcd(of, to))
        sound = given_sound(0.004, 1, 16000)[:, 0]
        rows.append({"of": of, "to": to, "sound": digits(sound), "expected": digits(resample_poly(sound.astype(np.float64), to // divisor, of // divisor))})
    return rows


def make_audio_pipelines(only: set[str]) -> None:
    """Everything, or only the cases of these names."""
    if not only:
        fresh_folder(SOUNDS)
    pipelines = {
        "tiny-stable-audio": stable_audio(2, None, 2, [2, 4, 4, 4]),
        "tiny-stable-audio-mono": stable_audio(1, 48, 4, [4, 2, 8], sigma_schedule="karras", solver_type="heun", sigma_max=80),
        "tiny-stable-audio-mono-1": stable_audio(1, 48, 1, [4, 2, 8], solver_order=1, prediction_type="epsilon", sigma_max=20),
    }
    for name, pipeline in pipelines.items():
        save(name, pipeline, GAINS)
        folder = SOUNDS.parent.parent / "weightless" / name
        for path in (folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"):
            path.write_text(path.read_text().replace("Partial", "CosineDPMSolverMultistepScheduler").replace('"audio_pipelines"', '"diffusers"').replace('"__main__"', '"diffusers"'))
        pipeline.set_progress_bar_config(disable=True)
    for name, (checkpoint, about, parameters, source) in CASES.items():
        if not only or name in only:
            write_case(name, checkpoint, about, pipelines[checkpoint], parameters, source)
    if not only:
        write_rows(GOLDENS / "sound_rates.json", {"about": "scipy.signal.resample_poly in float64, with its own window."}, "cases", rates())


if __name__ == "__main__":
    make_audio_pipelines(set(sys.argv[1:]))
