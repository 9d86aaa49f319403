"""ONNX graphs without their weights: the weights follow from a hash that JavaScript repeats exactly, so only graphs are committed."""

import numpy as np
import onnx
import torch
from onnx import TensorProto


def hashed(number: int, shape: tuple[int, ...], scale: float, add: float, first: int = 0) -> torch.Tensor:
    """Tensor `number` of the hash that weights.json describes, f32 values in add ± scale, from element `first` on."""
    count = int(np.prod(shape))
    x = (np.arange(first, first + count, dtype=np.uint64) + np.uint64(number * 0x9E3779B9)).astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    unit = (x >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    values = np.float32(scale) * (2 * unit - 1) + np.float32(add)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def point(initializer: TensorProto, location: str, offset: int, length: int) -> None:
    """Makes `initializer` a range of the file `location`, without its numbers."""
    initializer.ClearField("raw_data")
    initializer.ClearField("float_data")
    initializer.data_location = TensorProto.EXTERNAL
    del initializer.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        initializer.external_data.add(key=key, value=str(value))


def strip(model: onnx.ModelProto) -> None:
    """Drops stack traces and paths of this machine."""
    del model.metadata_props[:]
    model.ClearField("doc_string")
    for entry in [model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.functions]:
        entry.ClearField("doc_string")
        if hasattr(entry, "metadata_props"):
            del entry.metadata_props[:]
    del model.graph.value_info[:]
