"""GGUF's types in blocks, in a file as the `gguf` package writes it, and the numbers that the package makes of them: test/goldens/gguf.

Types that the package can quantise hold random numbers; of the others the blocks themselves are random, with scales that are finite.

    pip install gguf==0.19.0
    python reference/gguf_files.py
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

from files import GOLDENS, fresh_folder

FOLDER = GOLDENS / "gguf"
ROWS, COLUMNS = 3, 512

QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
# Where the halves lie that scale a block.
RANDOM = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}


def random_blocks(name: str, generator: np.random.Generator) -> np.ndarray:
    elements, length = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    blocks = generator.integers(0, 256, (ROWS, COLUMNS // elements, length), dtype=np.uint8)
    for at in RANDOM[name]:
        scales = generator.normal(0, 0.01, (ROWS, COLUMNS // elements, 1)).astype(np.float16)
        blocks[:, :, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(ROWS, -1)


def main() -> None:
    fresh_folder(FOLDER)
    generator = np.random.default_rng(16)
    writer = GGUFWriter(FOLDER / "types.gguf", "flux")
    writer.add_custom_alignment(64)
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "</s>", "▁light", "house"])
    writer.add_array("tokenizer.ggml.scores", [0.0, 0.0, -2.5, -3.25])
    writer.add_bool("general.is_test", True)
    writer.add_uint64("general.large", 2**40)
    expected = {}
    plain = generator.normal(0, 1, (ROWS, 40)).astype(np.float32)
    for name, kind in (("F32", np.float32), ("F16", np.float16)):
        writer.add_tensor(f"{name}.weight", plain.astype(kind))
        expected[f"{name}.weight"] = plain.astype(kind).astype(np.float32)
    bf16 = quantize(plain, GGMLQuantizationType.BF16)
    writer.add_tensor("BF16.weight", bf16, raw_dtype=GGMLQuantizationType.BF16)
    expected["BF16.weight"] = dequantize(bf16, GGMLQuantizationType.BF16).reshape(plain.shape)
    # As ComfyUI's tools keep a convolution: in another shape, with its own beside it.
    kernel = quantize(generator.normal(0, 1, (8, 32)).astype(np.float32), GGMLQuantizationType.Q8_0)
    writer.add_tensor("kernel.weight", kernel, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_array("comfy.gguf.orig_shape.kernel.weight", [4, 16, 2, 2])
    expected["kernel.weight"] = dequantize(kernel, GGMLQuantizationType.Q8_0).reshape(4, 16, 2, 2)
    for name in [*QUANTISED, *RANDOM]:
        kind = GGMLQuantizationType[name]
        numbers = generator.normal(0, 0.1, (ROWS, COLUMNS)).astype(np.float32)
        data = quantize(numbers, kind) if name in QUANTISED else random_blocks(name, generator)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        expected[f"{name}.weight"] = dequantize(data, kind).reshape(ROWS, COLUMNS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = FOLDER / "expected.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in expected.items()}, path)
    path.chmod(0o644)


if __name__ == "__main__":
    main()
