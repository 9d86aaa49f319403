"""
Makes test/goldens from test/checkpoints: everything in it comes out of diffusers, transformers, PIL and torch.

`schedulers.json` and `torch-randn.json` lie there too but are not made here: they were measured elsewhere, with the
versions that they name.
"""

from components import make_all_components
from files import GOLDENS, fresh_folder
from float8 import make_float8
from flows import make_flows
from loras import make_loras
from inpainting import make_inpainting
from outpainting import make_outpainting
from pipelines import make_pipelines
from resampling import make_resampling
from samplers import make_samplers
from tiling import make_tiling
from tokens import make_tokens


def main() -> None:
    for name in ("components", "pipelines"):
        fresh_folder(GOLDENS / name)
    make_tokens()
    print(f"samplers: {make_samplers()} cases")
    print(f"flows: {make_flows()} cases")
    make_resampling()
    make_float8()
    make_all_components()
    make_loras()
    make_tiling()
    make_pipelines()
    make_outpainting(set())
    make_inpainting(set())


if __name__ == "__main__":
    main()
