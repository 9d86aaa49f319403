"""Trains the built-in checkpoint from nothing: `python training/train.py --size small --out DIR`.

Stages, in this order, each resumable at any minute from training/.runs/SIZE/: judge, vae, tiny_vae, text, latents, unet,
distil, export. A stage that is done is only loaded. `--minutes` ends a call in time, and exports what there is by then.

The text encoder learns first to read: its hidden states at the last of the 77 positions (padding, for any ordinary prompt)
are taught to say what is drawn, where, and on what. Then it is frozen, and the UNet only has to look there.
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

import distil
import networks
from batches import CAPTIONS_PER_SCENE, ORDERS, PictureBatches, SceneParts, TextBatches, text_classes
from curves import draw_curves
from export import export_few_steps, export_main, make_scheduler
from judge import train_judge
from networks import HINTS, LATENT_CHANNELS, SIZES, TEXT_WIDTH, THING_SLOTS, Size
from runs import Run, TimeIsUp, Workplace, log, pack, save_whole, unpack
from tokenizer import load_tokenizer, tokenize, write_tokenizer

RUNS = Path(__file__).parent / ".runs"
STAGES = ("judge", "vae", "tiny_vae", "text", "latents", "unet", "distil", "export")
GUIDANCE = 4.0  # of the checkpoint's default settings, and what the few-step variant has learned


@dataclass(frozen=True)
class Stage:
    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Plan:
    """Steps and batches of one size. README.md says what they take."""

    judge: Stage
    vae: Stage
    vae_crop: int  # pixels per side; the last tenth of the steps sees whole pictures
    tiny_vae: Stage
    text: Stage
    unet: Stage
    distil: Stage
    pool: int  # scenes that the UNet learns from
    pool_part: int
    waypoints: int  # pictures of the teacher that the student learns from
    waypoint_part: int
    substeps: int  # of the teacher for one of the student
    calibration: int  # renders of each kind for the judge

    def paced(self, pace: float) -> "Plan":
        """With so many times the steps, the pool and the teacher's pictures."""
        scaled = {
            name: replace(stage, steps=max(1, round(stage.steps * pace)))
            for name, stage in vars(self).items()
            if isinstance(stage, Stage)
        }
        parts = {
            name: max(part, round(number * pace / part) * part)
            for name, number, part in (
                ("pool", self.pool, self.pool_part),
                ("waypoints", self.waypoints, self.waypoint_part),
            )
        }
        return replace(self, **scaled, **parts)


Network = TypeVar("Network", bound=torch.nn.Module)

PLANS = {
    "small": Plan(
        judge=Stage(5500, 16, 2e-3),
        vae=Stage(1500, 16, 2e-3),
        vae_crop=64,
        tiny_vae=Stage(1200, 16, 2e-3),
        text=Stage(2500, 32, 1.5e-3),
        unet=Stage(24000, 16, 1e-3),
        distil=Stage(4000, 16, 3e-4),
        pool=20_000,
        pool_part=500,
        waypoints=6000,
        waypoint_part=50,
        substeps=4,
        calibration=200,
    ),
    "full": Plan(
        judge=Stage(2500, 64, 2e-3),
        vae=Stage(2500, 48, 2e-3),
        vae_crop=128,
        tiny_vae=Stage(2000, 48, 2e-3),
        text=Stage(5000, 256, 1.5e-3),
        unet=Stage(7000, 512, 1e-3),
        distil=Stage(2500, 512, 3e-4),
        pool=100_000,
        pool_part=250,
        waypoints=40_000,
        waypoint_part=1000,
        substeps=5,
        calibration=500,
    ),
}
# Every line of the code in under a minute; what comes out paints nothing.
SMOKE = Plan(
    judge=Stage(4, 4, 2e-3),
    vae=Stage(4, 4, 1e-3),
    vae_crop=64,
    tiny_vae=Stage(3, 4, 1e-3),
    text=Stage(4, 4, 1e-3),
    unet=Stage(4, 4, 1e-3),
    distil=Stage(3, 4, 3e-4),
    pool=40,
    pool_part=20,
    waypoints=8,
    waypoint_part=4,
    substeps=2,
    calibration=6,
)


class Training:
    """One size's stages, in their order."""

    def __init__(self, place: Workplace, size: Size, plan: Plan, packed: Path | None, given: Path | None, begun: int):
        """@param given: a checkpoint of this recipe, whose networks are used as they are, and whose UNet learns on
        @param begun: the steps that this UNet has behind it"""
        self.place, self.size, self.plan, self.packed, self.given, self.begun = place, size, plan, packed, given, begun
        self.tokenizer_folder = place.folder / "tokenizer"
        if given:
            shutil.copytree(given / "tokenizer", self.tokenizer_folder, dirs_exist_ok=True)
        elif not (self.tokenizer_folder / "merges.txt").exists():  # the last of its files
            write_tokenizer(self.tokenizer_folder, size.name)
        self.tokenizer = load_tokenizer(self.tokenizer_folder)

    def run(self, name: str, modules: dict[str, torch.nn.Module], stage: Stage, muon: bool = False) -> Run:
        run = Run(self.place, name, modules, stage.steps, stage.rate, muon)
        if self.packed:
            unpack(self.packed, run)
        return run

    def as_given(self, kind: type[Network], folder: str) -> Network:
        """A network of the given checkpoint, for use only."""
        network = kind.from_pretrained(self.given / folder, dtype=torch.float32)
        return network.to(self.place.device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def to_pictures(self, batch: np.ndarray) -> torch.Tensor:
        """uint8 [n, side, side, 3] to [n, 3, side, side] in -1..1."""
        return torch.from_numpy(batch).to(self.place.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    # --- autoencoders ---

    def vae(self) -> AutoencoderKL:
        if self.given:
            return self.as_given(AutoencoderKL, "vae")
        torch.manual_seed(0)
        stage = self.plan.vae
        vae = networks.make_vae(self.size)
        run = self.run("vae", {"vae": vae}, stage)

        def loss_of(batch: np.ndarray) -> torch.Tensor:
            pictures = self.to_pictures(batch)
            posterior = vae.encode(pictures).latent_dist
            kl = posterior.kl().mean() / posterior.mean[0].numel()
            return picture_loss(vae.decode(posterior.sample()).sample, pictures) + KL_WEIGHT * kl

        whole_from = stage.steps - stage.steps // 10
        run.train(loss_of, PictureBatches("vae", self.size, stage.batch, self.plan.vae_crop, whole_from), mixed=False)
        run.use_average()
        networks.normalise_latents(vae, *self._latent_statistics(vae))
        return vae

    @torch.no_grad()
    def _latent_statistics(self, vae: AutoencoderKL) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batches = PictureBatches("vae", self.size, 4, self.size.picture, 0)
        encoded = [vae.encode(self.to_pictures(batches(step))).latent_dist for step in range(16)]
        means = torch.cat([one.mean for one in encoded])
        return means.mean((0, 2, 3)), means.std((0, 2, 3)), torch.cat([one.std for one in encoded]).mean((0, 2, 3))

    def tiny_vae(self, vae: AutoencoderKL) -> torch.nn.Module:
        """Learns to decode the other one's latents, and to encode to them."""
        if self.given:
            return self.as_given(AutoencoderTiny, "tiny_vae")
        torch.manual_seed(4)
        stage = self.plan.tiny_vae
        tiny = networks.make_tiny_vae(self.size)
        run = self.run("tiny_vae", {"tiny_vae": tiny}, stage)

        def loss_of(batch: np.ndarray) -> torch.Tensor:
            pictures = self.to_pictures(batch)
            with torch.no_grad():
                posterior = vae.encode(pictures).latent_dist
            decoded = tiny.decode(posterior.sample()).sample
            return picture_loss(decoded, pictures) + (tiny.encode(pictures).latents - posterior.mean).square().mean()

        whole_from = stage.steps - stage.steps // 10
        run.train(loss_of, PictureBatches("tiny_vae", self.size, stage.batch, self.plan.vae_crop, whole_from), mixed=False)
        run.use_average()
        return tiny

    # --- text ---

    def text_encoder(self) -> torch.nn.Module:
        """Teaches the text encoder to read: what the sentence names, and where it is."""
        if self.given:
            self.encoder = self.as_given(CLIPTextModel, "text_encoder")
            return self.encoder
        torch.manual_seed(1)
        stage = self.plan.text
        thing_classes, other_classes = text_classes(self.size)
        encoder = networks.make_text_encoder(
            self.size, len(self.tokenizer), self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        )
        thing_head = torch.nn.Linear(TEXT_WIDTH, sum(thing_classes))
        other_head = torch.nn.Linear(TEXT_WIDTH, sum(other_classes))
        modules = {"encoder": encoder, "thing_head": thing_head, "other_head": other_head}
        run = self.run("text", modules, stage)

        def loss_of(batch: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
            tokens, targets = (torch.from_numpy(part).to(self.place.device).long() for part in batch)
            hints = encoder(tokens).last_hidden_state[:, -HINTS:]
            answers = [answer for slot in thing_head(hints[:, :THING_SLOTS]).unbind(1) for answer in slot.split(thing_classes, -1)]
            answers += other_head(hints[:, THING_SLOTS]).split(other_classes, -1)
            losses = [
                F.cross_entropy(answer.float()[..., None].expand(-1, -1, ORDERS), targets[..., i], reduction="none")
                for i, answer in enumerate(answers)
            ]
            return torch.stack(losses).mean(0).amin(1).mean()  # of the order that it follows best

        run.train(loss_of, TextBatches(self.size, self.tokenizer_folder, stage.batch))
        run.use_average()
        self.encoder = encoder
        return encoder

    @torch.no_grad()
    def states_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """int [n, TEXT_LENGTH] to hidden states [n, TEXT_LENGTH, TEXT_WIDTH]."""
        return self.encoder(tokens.to(self.place.device).long()).last_hidden_state

    @property
    def empty_tokens(self) -> torch.Tensor:
        return torch.from_numpy(tokenize(self.tokenizer, [""]))

    # --- latents ---

    def pools(self, vae: AutoencoderKL) -> dict[str, dict[str, torch.Tensor]]:
        """Fixed pools of training scenes, encoded once, whole ones and close-ups: latents float16 [n, channels, height, width],
        tokens int16 [n, CAPTIONS_PER_SCENE, TEXT_LENGTH], coverage uint8 [n, height, width]. One file to a part."""
        return {name: self._pool(vae, name) for name in ("latents", "close_ups")}

    def _pool(self, vae: AutoencoderKL, name: str) -> dict[str, torch.Tensor]:
        folder = self.place.folder / name
        folder.mkdir(exist_ok=True)
        number = self.plan.pool // self.plan.pool_part
        missing = [part for part in range(number) if not (folder / f"{part}.pt").exists()]
        make = SceneParts(self.size, self.tokenizer_folder, self.plan.pool_part, close_up=name == "close_ups")
        self.place.check_time()
        if missing:
            # Parts are finished in their order, so those that are missing are the last ones.
            for part, drawn in zip(missing, self.place.feed(make, missing[0], number)):
                content = {
                    "latents": self._encoded(vae, drawn.pictures),
                    "tokens": torch.from_numpy(drawn.tokens),
                    "coverage": torch.from_numpy(drawn.coverage),
                }
                save_whole(folder / f"{part}.pt", content)
                if (part + 1) % 10 == 0 or part + 1 == number:
                    log(f"{name} {part + 1}/{number}")
                self.place.check_time()
        parts = [torch.load(folder / f"{part}.pt") for part in range(number)]
        return {key: torch.cat([part[key] for part in parts]).to(self.place.device) for key in ("latents", "tokens", "coverage")}

    @torch.no_grad()
    def _encoded(self, vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
        few = [self.to_pictures(pictures[i : i + 25]) for i in range(0, len(pictures), 25)]
        return torch.cat([vae.encode(p).latent_dist.mean.half().cpu() for p in few])

    # --- unet ---

    def unet_run(self) -> Run:
        torch.manual_seed(2)
        run = self.run("unet", {"unet": networks.make_unet(self.size)}, self.plan.unet, muon=True)
        if self.given and run.step < self.begun:
            run.begin_with({"unet": self.as_given(UNet2DConditionModel, "unet")}, self.begun)
        return run

    def train_unet(self, run: Run, pools: dict[str, dict[str, torch.Tensor]]) -> None:
        """It learns to denoise (v-prediction), from whole scenes and, until the last third, from close-ups in turn with them:
        what things look like is learned from many of these, what goes where from those.
        @raises TimeIsUp"""
        stage, device, unet = self.plan.unet, self.place.device, run.modules["unet"]
        alphas = make_scheduler().alphas_cumprod.to(device)
        empty = self.states_of(self.empty_tokens)[0]

        def batch_of(step: int) -> dict[str, torch.Tensor]:
            kwargs = {"generator": torch.Generator(device).manual_seed(step), "device": device}
            close_up = step % 2 == 1 and step < CLOSE_UP_SHARE * stage.steps
            pool = pools["close_ups" if close_up else "latents"]
            n = stage.batch * (CLOSE_UPS_FOR_ONE if close_up else 1)
            index = torch.randint(len(pool["latents"]), (n,), **kwargs)
            caption = torch.randint(CAPTIONS_PER_SCENE, (n,), **kwargs)
            clean = pool["latents"][index].float()
            return {
                "clean": clean,
                "tokens": pool["tokens"][index, caption],
                "coverage": pool["coverage"][index, None].float() / 255,
                # One noise level from each n-th of the schedule: batches differ less.
                "times": (1000 * (torch.arange(n, device=device) + torch.rand(n, **kwargs)) / n).long().clamp(max=999),
                "noise": torch.randn(clean.shape, **kwargs),
                "untold": torch.rand(n, **kwargs) < UNTOLD_SHARE,
            }

        def loss_of(drawn: dict[str, torch.Tensor]) -> torch.Tensor:
            clean, times, noise = drawn["clean"], drawn["times"], drawn["noise"]
            states = torch.where(drawn["untold"][:, None, None], empty, self.states_of(drawn["tokens"]))
            a, s = (level[:, None, None, None] for level in (alphas[times].sqrt(), (1 - alphas[times]).sqrt()))
            predicted = unet(a * clean + s * noise, times, states).sample.float()
            weight = 1 + THING_WEIGHT * drawn["coverage"]
            error = (predicted - (a * noise - s * clean)).square()
            return (weight * error).mean() / weight.mean()

        run.train(loss_of, batch_of, by_workers=False)

    # --- few steps ---

    def student(self, teacher: UNet2DConditionModel, pool: dict[str, torch.Tensor]) -> UNet2DConditionModel:
        student = networks.make_unet(self.size)
        student.load_state_dict(teacher.state_dict())
        student.requires_grad_(True)
        run = self.run("distil", {"unet": student}, self.plan.distil, muon=True)
        if not run.is_done:
            self._train_student(run, teacher, pool)
        run.use_average()
        return student

    def _train_student(self, run: Run, teacher: UNet2DConditionModel, pool: dict[str, torch.Tensor]) -> None:
        plan, place = self.plan, self.place
        levels = distil.Levels(make_scheduler().alphas_cumprod.to(place.device))
        empty = self.states_of(self.empty_tokens)[0]

        def paint(part: int) -> distil.Waypoints:
            first = part * plan.waypoint_part
            index = torch.arange(first, first + plan.waypoint_part) % len(pool["tokens"])
            tokens = pool["tokens"][index, part % CAPTIONS_PER_SCENE]
            return distil.paint_waypoints(
                teacher, place, levels, tokens, self.states_of, empty, GUIDANCE, plan.substeps, self.size, part
            )

        waypoints = distil.collect_waypoints(place, plan.waypoints // plan.waypoint_part, paint)
        distil.train_student(place, run, plan.distil.batch, levels, waypoints, self.states_of)


KL_WEIGHT = 4e-4
EDGE_WEIGHT = 2.0
UNTOLD_SHARE = 0.1  # of captions that are dropped, for classifier-free guidance
THING_WEIGHT = 4.0  # things are smaller than their background, and matter more
CLOSE_UP_SHARE = 0.67  # of the steps, every second one of which is of close-ups
CLOSE_UPS_FOR_ONE = 3  # of them in a batch for one whole scene: about the same number of operations


def picture_loss(painted: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Colours, and differences of neighbouring pixels: the latter keep edges sharp. Both in -1..1."""
    error = painted.float() - pictures
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + EDGE_WEIGHT * edges


def train(training: Training, out: Path, until: str) -> None:
    """All stages up to `until`. Where the time is up once there is a UNet, what it has learned so far is exported."""
    place, plan = training.place, training.plan
    last = STAGES.index(until)
    judge = train_judge(place, training.size, plan.judge.steps, plan.judge.batch, training.packed)
    if not judge.path.exists():
        log(f"judge on fresh renders: {judge.calibrate(plan.calibration)}")
    vae = training.vae() if last >= 1 else None
    tiny = training.tiny_vae(vae) if last >= 2 else None
    encoder = training.text_encoder() if last >= 3 else None
    pools = training.pools(vae) if last >= 4 else None
    if last < 5:
        return
    run = training.unet_run()
    try:
        training.train_unet(run, pools)
    except TimeIsUp:
        log("the time is up before the UNet is done")
    unfinished = not run.is_done
    run.use_average()
    unet = run.modules["unet"]
    export_main(out, training.size, training.tokenizer_folder, vae, tiny, encoder, unet, GUIDANCE)
    log(f"exported to {out}")
    if last < 6 or unfinished:
        return
    student = training.student(unet, pools["latents"])
    few = out.with_name(f"{out.name}-{distil.STEPS}-steps")
    export_few_steps(few, training.size, training.tokenizer_folder, tiny, encoder, student)
    log(f"exported to {few}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--out", type=Path, required=True, help="the few-step variant goes beside it")
    parser.add_argument("--minutes", type=float, help="end after so many, and export what there is")
    parser.add_argument("--until", choices=STAGES, default="export", help="end after this stage")
    parser.add_argument("--pace", type=float, default=1.0, help="times the steps of the plan")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that render")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more pay only on a processor that nothing shares")
    parser.add_argument("--pack", type=Path, help="carry a training from machine to machine in this small folder")
    parser.add_argument("--from", dest="given", type=Path, help="go on from this checkpoint of the recipe: only judge, UNet and student learn")
    parser.add_argument("--begun", type=int, default=0, help="how many steps its UNet has behind it")
    parser.add_argument("--smoke", action="store_true", help="a few steps of every stage, to see that all of it runs")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are forked
    torch.set_num_threads(args.threads)

    plan = SMOKE if args.smoke else PLANS[args.size].paced(args.pace)
    place = Workplace(RUNS / (f"smoke-{args.size}" if args.smoke else args.size), args.workers, args.minutes)
    training = Training(place, SIZES[args.size], plan, args.pack, args.given, args.begun)
    try:
        train(training, args.out, args.until)
    except TimeIsUp:
        log("the time is up; the same command goes on from here")
    finally:
        place.close()
        draw_curves(place.folder)
        if args.pack:
            pack(place.folder, args.pack)


if __name__ == "__main__":
    main()
