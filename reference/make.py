"""Makes all reference material: the tiny checkpoints, the goldens that need them, the ONNX repositories, and the exports for the bench."""

import architectures
import controlnets
import edges
import export_bench
import hires
import image_prompts
import make_background_goldens
import make_checkpoints
import make_format_goldens
import make_goldens
import onnx_repository
import single_files
import tiled
import vaes

make_checkpoints.main()
make_goldens.main()
hires.make_hires()
tiled.make_tiled()
make_format_goldens.main()
make_background_goldens.main()
onnx_repository.main()
single_files.main()
architectures.main()
tiled.make_tiled_architectures(architectures.make_networks())
controlnets.main()
image_prompts.main()
vaes.main()
edges.main()
export_bench.main()
