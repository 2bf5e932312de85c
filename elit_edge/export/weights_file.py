"""The one copy of the weights: a safetensors file that every graph of a precision points into.

Graphs address it by offset, as ONNX external data; anything that reads safetensors reads it by name. Its header is
padded so that the data starts on a page; wide numbers and large matrices come first, which keeps all aligned.
Source of the format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from elit_edge.model.bundle_weights import TRANSPOSED

PAGE_BYTES = 4096
LENGTH_BYTES = 8
DTYPES = {
    ir.DataType.FLOAT: ("F32", 32),
    ir.DataType.FLOAT16: ("F16", 16),
    ir.DataType.BFLOAT16: ("BF16", 16),
    ir.DataType.INT8: ("I8", 8),
    ir.DataType.INT4: ("U8", 4),
}
"""The name that safetensors gives to a type, and its bits. It has no type of 4 bits: two of them are a U8."""


@dataclass(frozen=True)
class Stored:
    """A tensor to be written; its numbers are made when their turn comes."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    data: Callable[[], npt.NDArray[Any]]
    """Of the type's own width; INT4 as bytes, two numbers each, the first in the low half."""

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype][1] // 8


def stored_tensor(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """A weight under the name that a graph gives it: as it is, or transposed. A view."""
    if name in weights:
        return weights[name]
    return weights[name.removesuffix(TRANSPOSED)].t()


def write_weights(
    path: Path, names: set[str], weights: Mapping[str, Tensor], advance: Callable[[int], None]
) -> dict[str, ir.ExternalTensor]:
    """Write the named weights as float32, one at a time.

    Args:
        path: the file to write, inside the folder that will hold the graphs.
        names: the weights that any graph uses.
        weights: all weights and constants of the model.
        advance: called with the bytes written since the last call.

    Returns:
        For each name, the external tensor to bind in a graph beside the file.
    """

    def stored(name: str) -> Stored:
        tensor = stored_tensor(name, weights)
        return Stored(
            ir.DataType.FLOAT, tuple(tensor.shape), lambda: tensor.to(torch.float32).contiguous().numpy().astype("<f4")
        )

    return write_tensors(path, {name: stored(name) for name in names}, advance)


def write_tensors(
    path: Path, tensors: Mapping[str, Stored], advance: Callable[[int], None]
) -> dict[str, ir.ExternalTensor]:
    """Write tensors of any of `DTYPES`, one at a time; arguments and result as of `write_weights`."""
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype][1], -tensors[name].size_bytes, name))
    header: dict[str, dict[str, object]] = {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        word, bits = DTYPES[tensor.dtype]
        shape = list(tensor.shape) if bits >= 8 else [tensor.size_bytes]
        header[name] = {"dtype": word, "shape": shape, "data_offsets": [offset, offset + tensor.size_bytes]}
        offset += tensor.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % PAGE_BYTES)
    begin = LENGTH_BYTES + len(text)
    bound = {}
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for name in order:
            tensor = tensors[name]
            data = np.ascontiguousarray(tensor.data())
            assert data.nbytes == tensor.size_bytes, f"{name}: {data.nbytes} bytes for {tensor.size_bytes}"
            file.write(data.reshape(-1).view(np.uint8).data)
            advance(data.nbytes)
            bound[name] = ir.ExternalTensor(
                path.name,
                begin,
                data.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape),
                name=name,
                base_dir=path.parent,
            )
            begin += data.nbytes
    return bound
