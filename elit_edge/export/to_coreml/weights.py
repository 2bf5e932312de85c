"""The weights of a model under the names of its parts, compressed once and shared by all functions of a package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from elit_edge.errors import ExportError
from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.compression import Stored, stored, written
from elit_edge.export.to_coreml.recipe import Compression, Ios
from elit_edge.model.transformer import DiffusionTransformer, assembled, unit_scales
from elit_edge.model_config import ModelConfig

Array = npt.NDArray[Any]
Float = type[np.float16] | type[np.float32]

REPEATED = ("read.position", "read.queries", "write.position")
"""Arrays of one group, which stand in the graphs for all groups."""
NORMS = ("read.attn.k_norm", "write.attn.q_norm", "write.attn.k_norm")
FOLDED = ("read.attn.q_proj.weight", "read.attn.q_proj.bias", "read.attn.q_norm.scale")
"""What the queries of Read go through, the same for every state: done once, in `arrays_of`."""
FINAL_MODULATION = "final_modulation"


class Weights:
    """Arrays by name. What is asked for inside a function becomes a variable there; the bytes are written once."""

    def __init__(self, arrays: Mapping[str, Array], compression: Compression | None, ios: Ios) -> None:
        self._arrays, self._compression, self._ios = arrays, compression, ios
        self._stored: dict[tuple[str, Float], Stored] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def uncompressed(self, ios: Ios) -> Weights:
        """The same numbers as they are, for that iOS."""
        return Weights(self._arrays, None, ios)

    def array(self, name: str) -> Array:
        """The numbers, float32."""
        return self._arrays[name]

    def matrix(self, name: str, dtype: Float, trailing: int = 0) -> Any:
        """A weight [out, in] of a product, compressed, with `trailing` axes of one at its end."""
        key = (name, dtype)
        if key not in self._stored:
            self._stored[key] = stored(_fitting(self._arrays[name], name, dtype), self._compression, dtype)
        return _shared(written(self._stored[key], identifier(name), self._ios, trailing), name, dtype)

    def constant(self, name: str, dtype: Float, array: Array | None = None) -> Any:
        """Any other array, as it is, or `array` under that name."""
        value = _fitting(self._arrays[name] if array is None else array, name, dtype)
        mb = coremltools().converters.mil.Builder
        return _shared(mb.const(val=np.ascontiguousarray(value, dtype), name=identifier(name)), name, dtype)


def _fitting(array: Array, name: str, dtype: Float) -> Array:
    """Raises:
    ExportError: a number that the type cannot hold.
    """
    greatest = float(np.maximum(array.max(initial=0.0), -array.min(initial=0.0)))
    if not np.isfinite(greatest):
        raise ExportError(f"{name} of this model holds what is no number; look at the checkpoint")
    end = float(np.finfo(dtype).max)
    if greatest > end:
        raise ExportError(
            f"{name} of this model holds {greatest:.3g}, and {np.dtype(dtype).name} ends at {end:.0f}; "
            "compile with --precision fp32"
        )
    return array


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


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The arrays of `arrays_of` by name, from the config alone."""
    with torch.device("meta"):
        state = DiffusionTransformer(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if "modulation." not in name}
    del shapes["patch.weight"]
    shapes["patch.kernel"] = (config.hidden_size, config.in_channels, config.patch_size, config.patch_size)
    if config.is_elastic:
        shapes |= dict.fromkeys(REPEATED, (config.tokens, config.hidden_size))
        shapes["read.attn.query"] = (config.latents_per_group, config.hidden_size)
        for name in FOLDED:
            del shapes[name]
    shapes["modulation.weight"] = (config.modulation_size, config.hidden_size)
    shapes["modulation.bias"] = (config.modulation_size,)
    return shapes


class _Fixed(nn.Module):
    """Gives the same numbers, whatever it is asked."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, _: Tensor) -> Tensor:
        value = self.value
        assert isinstance(value, Tensor)
        return value


def model_of(config: ModelConfig, arrays: Mapping[str, Array]) -> DiffusionTransformer:
    """The torch model over just these numbers, copied where their order differs: the inverse of `arrays_of`."""
    width, side, channels = config.hidden_size, config.patch_size, config.in_channels
    state = {name: array for name, array in arrays.items() if not name.startswith(("modulation.", "patch.kernel"))}
    state["patch.weight"] = arrays["patch.kernel"].reshape(width, -1)
    for name in ("final.weight", "final.bias"):
        rows = arrays[name].reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
        state[name] = rows.reshape(config.patch_channels, -1) if name.endswith("weight") else rows.reshape(-1)
    unit, begin = unit_scales(config).numpy(), 0
    for part in _modulation_parts(config):
        end = begin + width * (2 if part == FINAL_MODULATION else 6)
        state[f"{part}.weight"] = arrays["modulation.weight"][begin:end]
        state[f"{part}.bias"] = arrays["modulation.bias"][begin:end] - unit[begin:end]
        begin = end
    for name in REPEATED if config.is_elastic else ():
        state[name] = arrays[name][: config.latents_per_group]
    for name in NORMS if config.is_elastic else ():
        state[f"{name}.scale"] = arrays[f"{name}.scale"] / np.float32(width**0.5)
    query = state.pop("read.attn.query", None)
    tensors = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in state.items()}
    if query is not None:  # what it was made of is in none of the arrays
        tensors |= {name: torch.zeros(()).expand((width,) * (2 if name.endswith("weight") else 1)) for name in FOLDED}
    model = assembled(config, tensors)
    if query is not None and model.read is not None:
        model.read.attn.q_proj = _Fixed(torch.from_numpy(np.asarray(query, np.float32))[None])  # type: ignore[assignment]
        model.read.attn.q_norm = nn.Identity()  # type: ignore[assignment]
    return model


def _modulation_parts(config: ModelConfig) -> list[str]:
    """The layers of `condition` in the order of use."""
    parts = [f"blocks.{index}.modulation" for index in range(config.depth)]
    if config.is_elastic:
        parts.insert(config.head_depth, "read.modulation")
    return [*parts, FINAL_MODULATION]


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
    parts = _modulation_parts(config)
    if model.read is not None:
        for name in REPEATED:
            arrays[name] = np.tile(arrays[name], (config.groups, 1))
        attention = model.read.attn
        arrays["read.attn.query"] = attention.q_norm(attention.q_proj(model.read.queries)).numpy()
        for name in FOLDED:
            del arrays[name]
        for name in NORMS:
            arrays[f"{name}.scale"] = arrays[f"{name}.scale"] * np.float32(width**0.5)
    arrays["modulation.weight"] = np.concatenate([arrays.pop(f"{part}.weight") for part in parts])
    bias = np.concatenate([arrays.pop(f"{part}.bias") for part in parts])
    arrays["modulation.bias"] = bias + model.unit.numpy()
    return arrays
