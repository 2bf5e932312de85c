"""The one copy of the weights: a safetensors file that every graph of a bundle points into.

Graphs address it by offset, as ONNX external data; anything that reads safetensors reads it by name. Its header is
padded so that the data starts on a page; the largest matrices come first, which keeps them aligned.
Source of the format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from elit_edge.model.bundle_weights import TRANSPOSED

PAGE_BYTES = 4096
LENGTH_BYTES = 8


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
    order = sorted(names, key=lambda name: (-stored_tensor(name, weights).numel(), name))
    header: dict[str, dict[str, object]] = {}
    offsets: dict[str, int] = {}
    offset = 0
    for name in order:
        tensor = stored_tensor(name, weights)
        size = tensor.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offsets[name] = offset
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % PAGE_BYTES)
    start = LENGTH_BYTES + len(text)
    tensors = {}
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for name in order:
            data = stored_tensor(name, weights).to(torch.float32).contiguous().numpy()
            file.write(np.ascontiguousarray(data, "<f4").data)
            advance(data.nbytes)
            begin = start + offsets[name]
            tensors[name] = ir.ExternalTensor(
                path.name,
                begin,
                data.nbytes,
                ir.DataType.FLOAT,
                shape=ir.Shape(data.shape),
                name=name,
                base_dir=path.parent,
            )
    return tensors
