"""Makes all reference material: the tiny checkpoints, the goldens that need them, the ONNX repositories, and the exports for the bench."""

import architectures
import export_bench
import make_background_goldens
import make_checkpoints
import make_format_goldens
import make_goldens
import onnx_repository
import single_files

make_checkpoints.main()
make_goldens.main()
make_format_goldens.main()
make_background_goldens.main()
onnx_repository.main()
single_files.main()
architectures.main()
export_bench.main()
