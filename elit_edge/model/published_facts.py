"""What a checkpoint says of its model: from the shapes of its weights, and from the training arguments beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from elit_edge.budget import FRACTION_SLACK
from elit_edge.errors import CheckpointError
from elit_edge.model.published_keys import READ
from elit_edge.model_config import ModelConfig

PUBLISHED_HEADS = {"S": 6, "B": 12, "L": 16, "XL": 16}
PUBLISHED_TAIL_DEPTH = {"S": 2, "B": 2, "L": 4, "XL": 4}
PUBLISHED_NAME = re.compile(r"(ELIT-)?SiT-(S|B|L|XL)/\d+")

SUPPORTED_ARGS = {"qk_norm": False, "elit_read_depth": 1, "elit_write_depth": 1, "path_type": "linear"}
"""What this package computes; a checkpoint trained otherwise is refused."""

FAMILIES = {
    "joint_blocks.": "an MM-DiT",
    "double_blocks.": "an MM-DiT",
    "transformer_blocks.0.norm1": "a transformer of diffusers",
    "down_blocks.": "a UNet or VAE of diffusers",
    "input_blocks.": "a UNet",
    "quant_conv.": "a VAE",
}
"""What other models call some of their weights."""

SPLIT = ("head_depth", "core_depth", "tail_depth")
BLOCK_NUMBER = re.compile(r"blocks\.(\d{1,5})\.")

VAE_FACTOR = 8
"""Image pixels a side to latent pixels a side in the published latent-space models."""
LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Facts:
    """Fields of a ModelConfig that a file states, and `resolution` and `least_fraction` where it states them."""

    source: str
    fields: Mapping[str, Any]
    depth: int | None = None
    """Blocks in all, where the weights show them."""
    resolution: int | None = None
    least_fraction: float | None = None

    def merged(self, other: Facts) -> Facts:
        """Both facts.

        Raises:
            CheckpointError: they contradict each other.
        """
        for name in self.fields.keys() & other.fields.keys():
            if self.fields[name] != other.fields[name]:
                raise CheckpointError(
                    f"{self.source} contradicts itself: its weights say {name} = {self.fields[name]!r}, "
                    f"its settings {other.fields[name]!r}"
                )
        fields = completed({**self.fields, **other.fields}, self.depth)
        merged = Facts(self.source, fields, self.depth, other.resolution, other.least_fraction)
        merged._check_resolution()
        return merged

    def _check_resolution(self) -> None:
        side = self.fields["image_size"]
        if self.resolution is None:
            return
        factor = VAE_FACTOR if self.fields["in_channels"] == LATENT_CHANNELS else 1
        if self.resolution != side * factor:
            raise CheckpointError(
                f"{self.source} contradicts itself: its positions say image_size = {side}, "
                f"its settings a resolution of {self.resolution} pixels"
            )

    def trained_latents(self, config: ModelConfig) -> int:
        least = (self.least_fraction or 0.0) * config.latents_per_group
        return max(1, int(least + FRACTION_SLACK))


def completed(fields: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    """Split of the blocks: a plain SiT is all head; of an ELIT's three parts one follows from the other two."""
    if depth is None:
        return dict(fields)
    if fields["architecture"] == "sit":
        return {"head_depth": depth, **fields, "core_depth": 0, "tail_depth": 0, "group_size": 1}
    known = {name: fields[name] for name in SPLIT if name in fields}
    unknown = [name for name in SPLIT if name not in known]
    if len(unknown) == 1 and all(isinstance(value, int) for value in known.values()):
        return {**fields, unknown[0]: depth - sum(known.values())}
    return dict(fields)


def is_elastic(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights are an ELIT's, which has a Read."""
    return any(name.startswith(READ) for name in weights)


def _family(weights: Mapping[str, Tensor]) -> str:
    """What a foreign model seems to be, to begin "..., no SiT" with; empty for one unknown."""
    return next((f"{name}, " for mark, name in FAMILIES.items() if any(mark in weight for weight in weights)), "")


def facts_of_weights(weights: Mapping[str, Tensor], source: str) -> Facts:
    """What the shapes say.

    Raises:
        CheckpointError: the weights are of no SiT.
    """
    try:
        width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
        tokens = weights["pos_embed"].shape[-2]
        mlp_hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
        labels = weights["y_embedder.embedding_table.weight"].shape[0]
        queries = weights.get(READ + "learned_query_embed")
        latents = None if queries is None else queries.shape[-2]
        mlp_ratio = mlp_hidden / width
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        fault = f"it lacks {error}" if isinstance(error, KeyError) else "its weights have other shapes"
        raise CheckpointError(
            f"{source} holds {_family(weights)}no ELIT-SiT or SiT model: {fault}; other architectures are not supported"
        ) from error
    fields: dict[str, Any] = {
        "architecture": "elit-sit" if is_elastic(weights) else "sit",
        "in_channels": channels,
        "patch_size": patch,
        "hidden_size": width,
        "image_size": math.isqrt(tokens) * patch,
        "mlp_ratio": mlp_ratio,
        "num_classes": labels - 1,
    }
    if latents is not None:
        fields["group_size"] = math.isqrt(latents)
    numbers = {int(match[1]) for match in map(BLOCK_NUMBER.match, weights) if match}
    gaps = set(range(max(numbers))) - numbers
    if gaps:
        raise CheckpointError(f"{source} has a block {max(numbers)}, and no block {min(gaps)}: it is not whole")
    return Facts(source, fields, depth=len(numbers))


def facts_of_args(args: Mapping[str, Any], source: str, *, elastic: bool) -> Facts:
    """What the training arguments say; those of a plain SiT hold the defaults of an ELIT's too, which mean nothing.

    Raises:
        CheckpointError: the model was trained in a way that is not supported, or a number is none.
    """
    for name, supported in SUPPORTED_ARGS.items():
        if str(args.get(name, supported)).lower() != str(supported).lower():
            raise CheckpointError(f"{source} was trained with {name} = {args[name]!r}; only {supported!r} is supported")
    names = {"num_classes": "num_classes"}
    if elastic:
        names |= {"encoder_depth": "head_depth", "elit_group_size": "group_size"}
    for name in (*names, "resolution", "elit_max_mask_prob"):
        if not isinstance(args.get(name), int | float | None):
            raise CheckpointError(f"{source}: its settings say {name} = {args[name]!r}, which is no number")
    fields = {field: args[name] for name, field in names.items() if args.get(name) is not None}
    published = PUBLISHED_NAME.fullmatch(str(args.get("model", "")))
    if published:
        fields["num_heads"] = PUBLISHED_HEADS[published[2]]
        if elastic and published[1]:
            fields["tail_depth"] = PUBLISHED_TAIL_DEPTH[published[2]]
    dropped = args.get("elit_max_mask_prob")
    least = None if dropped is None else 1 - float(dropped)
    return Facts(source, fields, resolution=args.get("resolution"), least_fraction=least)
