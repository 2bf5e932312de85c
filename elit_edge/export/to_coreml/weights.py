"""The weights of a model under the names of its parts, compressed once and shared by all functions of a package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.compression import Stored, stored, written
from elit_edge.export.to_coreml.recipe import Compression, Ios
from elit_edge.model.transformer import DiffusionTransformer

Array = npt.NDArray[Any]
Float = type[np.float16] | type[np.float32]


class Weights:
    """Arrays by name. What is asked for inside a function becomes a variable there; the bytes are written once."""

    def __init__(self, arrays: Mapping[str, Array], compression: Compression | None, ios: Ios) -> None:
        self._arrays, self._compression, self._ios = arrays, compression, ios
        self._stored: dict[tuple[str, Float], Stored] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def uncompressed(self) -> Weights:
        """The same numbers as they are."""
        return Weights(self._arrays, None, self._ios)

    def array(self, name: str) -> Array:
        """The numbers, float32."""
        return self._arrays[name]

    def matrix(self, name: str, dtype: Float, trailing: int = 0) -> Any:
        """A weight [out, in] of a product, compressed, with `trailing` axes of one at its end."""
        key = (name, dtype)
        if key not in self._stored:
            self._stored[key] = stored(self._arrays[name], self._compression, dtype)
        return _shared(written(self._stored[key], identifier(name), self._ios, trailing), name, dtype)

    def constant(self, name: str, dtype: Float, array: Array | None = None) -> Any:
        """Any other array, as it is, or `array` under that name."""
        value = self._arrays[name] if array is None else array
        mb = coremltools().converters.mil.Builder
        return _shared(mb.const(val=np.ascontiguousarray(value, dtype), name=identifier(name)), name, dtype)


def identifier(name: str) -> str:
    """A name that MIL takes: "blocks.3.mlp.fc1" -> "blocks_3_mlp_fc1"."""
    return name.replace(".", "_")


def _shared(variable: Any, name: str, dtype: Float) -> Any:
    """Constants of one name are one piece of the weights file in all functions of a package."""
    operator = variable.op
    constants = (
        {"": operator}
        if operator.op_type == "const"
        else {key: value.op for key, value in operator.inputs.items() if value is not None and value.op is not None}
    )
    for key, constant in constants.items():
        constant.weight_id = f"{name}/{key}/{np.dtype(dtype).name}"
    return variable


@torch.no_grad()
def arrays_of(model: DiffusionTransformer) -> dict[str, Array]:
    """Everything that the graphs need, float32, arranged as a convolution and a pixel shuffle want it.

    The patch embedding becomes [D, C, p, p], the last layer gives (channel, row, column) of a patch, positions inside
    groups are repeated for each group, the queries of Read come through its projection and norm, norms by the root of
    the mean become norms by the length, and all modulations are one matrix [M, D], the 1 of `1 + scale` in its bias.
    """
    config = model.config
    arrays = {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}
    side, channels, width = config.patch_size, config.in_channels, config.hidden_size
    arrays["patch.kernel"] = arrays.pop("patch.weight").reshape(width, channels, side, side)
    for name in ("final.weight", "final.bias"):
        rows = arrays[name].reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
        arrays[name] = rows.reshape(config.patch_channels, -1) if name.endswith("weight") else rows.reshape(-1)
    parts = [f"blocks.{index}.modulation" for index in range(config.depth)]
    if model.read is not None and model.write is not None:
        parts.insert(config.head_depth, "read.modulation")
        for name in ("read.position", "read.queries", "write.position"):
            arrays[name] = np.tile(arrays[name], (config.groups, 1))
        attention = model.read.attn
        arrays["read.attn.query"] = attention.q_norm(attention.q_proj(model.read.queries)).numpy()
        for name in ("read.attn.k_norm", "write.attn.q_norm", "write.attn.k_norm"):
            arrays[f"{name}.scale"] = arrays[f"{name}.scale"] * np.float32(width**0.5)
    parts.append("final_modulation")
    arrays["modulation.weight"] = np.concatenate([arrays.pop(f"{part}.weight") for part in parts])
    bias = np.concatenate([arrays.pop(f"{part}.bias") for part in parts])
    arrays["modulation.bias"] = bias + model.unit.numpy()
    return arrays
