"""Where the reference material lies, and how it is written: the same input always gives the same bytes."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "test" / "checkpoints"
BUILTIN = ROOT / "public" / "checkpoints"
GOLDENS = ROOT / "test" / "goldens"


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`, whatever was there before."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _standard(value):
    """JSON has no infinities (DPMSolverMultistep's lambda_min_clipped is one): they become text."""
    if isinstance(value, dict):
        return {name: _standard(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_standard(entry) for entry in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_standard(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_rows(path: Path, head: dict, key: str, rows: list) -> None:
    """JSON with one row of `key` per line, so that a difference between two versions can be read."""
    lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in rows)
    body = "".join(f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},\n" for name, value in head.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{{\n{body}  {json.dumps(key)}: [\n{lines}\n  ]\n}}\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)


def digits(values) -> list[str]:
    """float32 values as text that reads back as the same float32."""
    return [f"{value:.9g}" for value in np.asarray(values, dtype=np.float64).reshape(-1)]
