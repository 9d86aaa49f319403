"""Writes the model cards from measured figures alone:
`python training/model_card.py DIR --size small --figures FIGURES [--clean N]`.

The cards of DIR and of its few-step variant beside it, as far as evaluate.py has measured them. `--clean` is what a person
counted on the contact sheet of 100: pictures without a fault that one would mind.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from safetensors import safe_open

import scenes
from batches import GERMAN_SHARE
from distil import STEPS
from export import update_manifest
from networks import SIZES, Size
from runs import LOG_STEPS
from train import RUNS

NETWORKS = {"text_encoder": "text encoder", "unet": "UNet", "vae": "autoencoder", "tiny_vae": "tiny autoencoder"}
QUESTIONS = {
    "thing": "the thing is there",
    "colour": "it has the colour asked for",
    "relation": "two things stand as asked",
    "count": "there are as many as asked (1 to 3)",
}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def score_table(report: dict) -> str:
    lines = ["| on held-out prompts | pictures | the judge on renders |", "| --- | --- | --- |"]
    for kind, score in report["scores"].items():
        lines.append(f"| {QUESTIONS[kind]} ({score['number']}) | **{percent(score['painted'])}** | {percent(score['rendered'])} |")
    return "\n".join(lines)


def parameters(folder: Path) -> str:
    """Counted in the files themselves."""
    counted = []
    for name, words in NETWORKS.items():
        total = 0
        for path in (folder / name).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for key in file.keys():
                    total += math.prod(file.get_slice(key).get_shape())
        if total:
            counted.append(f"{words} {total / 1e6:.2f} M")
    return ", ".join(counted)


def training_of(run: Path, known: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Steps and minutes of each stage, from the logs of this training; of stages that were before it, what is known of them."""
    told = dict(known)
    for stage in ("vae", "tiny_vae", "text", "unet", "distil"):
        path = run / f"{stage}.losses.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        went_on = bool(lines) and lines[0]["step"] > LOG_STEPS
        if not lines or (went_on and known[stage]["steps"] == lines[-1]["step"]):
            continue
        if went_on and stage not in known:
            raise SystemExit(f"The log of {stage} begins in the middle; write its steps and minutes so far into training.json beside figures.json.")
        minutes = round(lines[-1]["seconds"] / 60) + (known[stage]["minutes"] if went_on else 0)
        told[stage] = {"steps": lines[-1]["step"], "minutes": minutes}
    return told


def card(folder: Path, size: Size, training: dict[str, dict[str, int]], figures: dict, label: str, clean: int | None) -> str:
    report = figures[label]
    settings = report["settings"]
    names = scenes.things(size.name)
    few_steps = settings["steps"] == STEPS
    backgrounds = [name for name in scenes.BACKGROUNDS if not name.startswith(("plain", "gradient"))]
    purpose = (
        f"The {STEPS}-step variant of the checkpoint beside it: guidance is built in, so negative prompts do nothing."
        if few_steps
        else "A small latent diffusion model in the layout of Stable Diffusion, made for Darkroom so that the first picture needs no "
        "download."
    )
    stages = [
        f"{stage} {one['steps']} steps ({one['minutes']} min)" for stage, one in training.items() if few_steps or stage != "distil"
    ]
    shown = ", ".join(names[:48]) + (", …" if len(names) > 48 else "")
    facts = [
        f"- **Knows** {len(names)} things ({shown}); the colours {', '.join(scenes.COLOURS)}; one to four of a thing; "
        f"{', '.join(scenes.RELATIONS)}; before {', '.join(backgrounds)}, plain colours and gradients; the styles "
        f"{', '.join(scenes.STYLES)}; in English and in German ({percent(GERMAN_SHARE)} of the training's captions).",
        f"- **Networks**: {parameters(folder)} parameters; {report['bytes'] / 1e6:.1f} MB as float16.",
        "- **Data**: rendered by `training/scenes.py` from Noto Emoji (Apache-2.0, Google Inc. and others) and Fluent Emoji (MIT, "
        "Microsoft Corporation); no other data, no other model's weights.",
        f"- **Training**: {', '.join(stages)}.",
        f"- **Settings**: {settings['steps']} steps, guidance {settings['guidance']}.",
    ]
    parts = [
        f"# {json.loads((folder / 'manifest.json').read_text())['name']}",
        purpose,
        f"It paints everyday things, {size.picture}×{size.picture} pixels, from prompts such as the ones in `manifest.json`.",
        "\n".join(facts),
        "## Measured",
        "By `training/evaluate.py`, on combinations of thing, colour, place, background and count that training never showed. A "
        "judge that was trained on the renderer alone looks at the pictures; what it says of renders of the same scenes stands "
        "beside it.",
        score_table(report),
        f"Fréchet distance to renders, on the judge's features: {report['distance']['painted']:.3f} (other renders: "
        f"{report['distance']['renders']:.3f}).",
    ]
    if "image to image" in report:
        changed, filled = report["image to image"], report["inpainting"]
        parts.append(
            f"Image-to-image at strength 0.5, asked for another colour: the thing stays where it was in "
            f"{percent(changed['layout kept'])}, has the colour in {percent(changed['changed as asked'])}. Inpainting of another "
            f"thing: it is there in {percent(filled['filled as asked'])}; outside the mask the decoded picture differs by "
            f"{filled['mean difference outside, of 255, as decoded']:.1f} of 255 on average, and by at most "
            f"{filled['largest difference outside, of 255, laid over']:.0f} once the original is laid over it."
        )
    if few_steps:
        total = figures["flops of a picture at 4 steps"]
        parts.append(f"A picture takes {total / 1e9:.1f} GFLOP, decoder included.")
    if clean is not None:
        parts.append(f"Of the contact sheet's 100 pictures, a person would call {clean} clean.")
    parts += [
        "**Cannot do** what is not in the list above: people, scenery of its own, letters, things it has no word for. "
        "Words that it does not know are passed over.",
        "Licence: Apache-2.0.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=list(SIZES), required=True)
    parser.add_argument("--figures", type=Path, required=True, help="the folder that evaluate.py wrote")
    parser.add_argument("--run", type=Path, help="the training's folder, if not training/.runs/SIZE")
    parser.add_argument("--clean", type=int)
    args = parser.parse_args()
    figures = json.loads((args.figures / "figures.json").read_text())
    folders = {"20 steps": args.folder, f"{STEPS} steps": args.folder.with_name(f"{args.folder.name}-{STEPS}-steps")}
    path = args.figures / "training.json"
    training = training_of(args.run or RUNS / args.size, json.loads(path.read_text()) if path.exists() else {})
    path.write_text(json.dumps(training, indent=2) + "\n")
    for label, folder in folders.items():
        if label in figures:
            clean = args.clean if folder == args.folder else None
            text = card(folder, SIZES[args.size], training, figures, label, clean)
            (folder / "README.md").write_text(text)
            update_manifest(folder)


if __name__ == "__main__":
    main()
