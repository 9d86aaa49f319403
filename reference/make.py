"""Makes all reference material: the tiny checkpoints, the goldens that need them, and the exports for the bench."""

import export_bench
import make_checkpoints
import make_goldens

make_checkpoints.main()
make_goldens.main()
export_bench.main()
