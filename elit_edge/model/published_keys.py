"""The authors' names and layouts of the weights, and ours: a translation in both directions.

Layouts that differ: the patch embedding is a convolution there and a linear layer here; positions stand in raster order
there and in group order here; Read's modulation has a seventh vector there that nothing uses.
Source: the published ELIT-SiT checkpoints and https://github.com/willisma/SiT (names of the SiT part).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from elit_edge.errors import CheckpointError
from elit_edge.model.grouping import from_groups, to_groups
from elit_edge.model_config import ModelConfig

READ = "input_token_editor.adapters.0."
WRITE = "output_token_editor.adapters.0."
LATENT_TABLE = READ + "latent_pos_embed"
"""Made for the largest grid; a model takes as many rows as it has tokens."""
IGNORED_PREFIXES = ("projectors.",)
"""REPA's training heads: no part of the velocity."""

_PREFIXES = {
    READ + "fit_layer.latents_attend_to_patches.0.": "read.attn.",
    READ + "fit_layer.read_ff.0.": "read.mlp.",
    READ + "fit_layer.adaLN_modulation.1.": "read.modulation.",
    READ + "learned_query_embed": "read.queries",
    LATENT_TABLE: "read.latent_position",
    READ + "pos_embed": "read.position",
    WRITE + "patches_attend_to_latents.0.": "write.attn.",
    WRITE + "write_ff.0.": "write.mlp.",
    WRITE + "pos_embed": "write.position",
    "pos_embed": "position",
    "x_embedder.proj.": "patch.",
    "t_embedder.mlp.0.": "time.fc1.",
    "t_embedder.mlp.2.": "time.fc2.",
    "y_embedder.embedding_table.": "label.",
    "final_layer.linear.": "final.",
    "final_layer.adaLN_modulation.1.": "final_modulation.",
    "blocks.": "blocks.",
}


def own_name(published: str) -> str | None:
    """The name here of a published weight; None for one that is no part of the model."""
    for prefix, own in _PREFIXES.items():
        if published.startswith(prefix):
            return own + published.removeprefix(prefix).replace("adaLN_modulation.1.", "modulation.")
    return None


def published_name(own: str) -> str:
    """The published name of a weight of ours."""
    for prefix, start in _PREFIXES.items():
        if own.startswith(start):
            rest = own.removeprefix(start)
            return prefix + (rest.replace("modulation.", "adaLN_modulation.1.") if start == "blocks." else rest)
    raise KeyError(own)


def from_published(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """One weight in the layout of this package; `name` is ours. A view of the input wherever the layout allows."""
    if name == "patch.weight":
        return tensor.reshape(config.hidden_size, config.patch_channels)
    if name == "position":
        return to_groups(tensor.reshape(1, config.tokens, -1), config.group_size)[0]
    if name == "read.latent_position":
        return to_groups(tensor[None, : config.tokens], config.group_size)[0]
    if name.startswith("read.modulation."):
        return tensor[: 6 * config.hidden_size]
    return tensor


def to_published(own: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """All weights under the published names and in the published layouts."""
    for name, tensor in own.items():
        yield published_name(name), _published_layout(name, tensor, config)


def _published_layout(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    if name == "patch.weight":
        return tensor.reshape(config.hidden_size, config.in_channels, config.patch_size, config.patch_size)
    if name == "position":
        return from_groups(tensor[None], config.group_size)
    if name == "read.latent_position":
        return from_groups(tensor[None], config.group_size)[0]
    if name.startswith("read.modulation."):
        return torch.cat([tensor, torch.zeros_like(tensor[: config.hidden_size])])
    return tensor


def translate(published: Mapping[str, Tensor], config: ModelConfig, source: str) -> dict[str, Tensor]:
    """Published weights -> ours.

    Raises:
        CheckpointError: a weight that the model does not know.
    """
    own: dict[str, Tensor] = {}
    for key, tensor in published.items():
        if key.startswith(IGNORED_PREFIXES):
            continue
        name = own_name(key)
        if name is None:
            raise CheckpointError(f"{source}: weight {key!r} is no part of an ELIT-SiT or SiT model")
        own[name] = from_published(name, tensor, config)
    return own
