"""What an ELIT or SiT model is, in numbers: the one description that checkpoints, bundles and budgets share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from elit_edge.errors import ConfigError

FREQUENCY_CHANNELS = 256
"""Cosines and sines of the timestep that every SiT embeds."""

LARGEST_SIZE = 2**31 - 1
MIN_GROUP = 2

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""SHA-256, in hexadecimal digits."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The architecture of one model.

    `elit-sit` runs `head_depth` spatial blocks, Read, `core_depth` blocks on latents, Write and `tail_depth` spatial
    blocks. A plain `sit` has all its blocks in the head and no latents: it counts as one latent a group, one budget.
    Source: arXiv 2603.12245 (ELIT), arXiv 2401.08740 (SiT).
    """

    architecture: Literal["elit-sit", "sit"]
    image_size: Positive
    """S: side of the sample in its own pixels (latent pixels for a latent-space model)."""
    in_channels: Positive
    patch_size: Positive
    hidden_size: Positive
    num_heads: Positive
    mlp_ratio: Annotated[float, msgspec.Meta(gt=0)]
    head_depth: Count
    core_depth: Count
    tail_depth: Count
    group_size: Positive
    """g: a group is a g x g square of tokens, and holds g² latents."""
    num_classes: Positive
    """Classes without the null class, whose label is `num_classes`."""
    write_latents: Literal["all", "kept"] = "all"
    """Whether Write attends to all latents of a group, the dropped ones as Read left them, or to the kept alone."""
    class_names: tuple[str, ...] | None = None
    """A string a class; synonyms stand inside it, ", " between them: "tench, Tinca tinca"."""

    def __post_init__(self) -> None:
        for name, value in self.fields().items():
            if isinstance(value, int) and value > LARGEST_SIZE:
                raise ConfigError(f"model config: {name} is above {LARGEST_SIZE}")
        problems = [text for wrong, text in self._contradictions() if wrong]
        if problems:
            raise ConfigError("model config: " + "; ".join(problems))

    def _contradictions(self) -> list[tuple[bool, str]]:
        side, patch, group = self.image_size, self.patch_size, self.group_size
        names = self.class_names
        elit = self.architecture == "elit-sit"
        return [
            (side % patch != 0, f"image_size {side} is not a multiple of patch_size {patch}"),
            ((side // patch) % group != 0, f"{side // patch} tokens a side do not divide into groups of {group}"),
            (self.hidden_size % self.num_heads != 0, f"hidden_size {self.hidden_size} / num_heads {self.num_heads}"),
            (self.hidden_size % 4 != 0, f"hidden_size {self.hidden_size} is not a multiple of 4, as positions need"),
            (
                not 1 <= self.hidden_size * self.mlp_ratio <= LARGEST_SIZE,
                f"mlp_ratio {self.mlp_ratio} makes no MLP of hidden_size {self.hidden_size}",
            ),
            (elit and self.core_depth < 1, "an elit-sit needs core_depth >= 1"),
            (
                elit and group < MIN_GROUP,
                f"an elit-sit needs group_size >= {MIN_GROUP}: one latent a group is no choice",
            ),
            (self.depth < 1, "a model needs at least one block"),
            (
                not elit and (self.core_depth + self.tail_depth > 0 or group != 1),
                "a sit has no core, no tail and no groups: head_depth is its depth, group_size is 1",
            ),
            (
                names is not None and len(names) != self.num_classes,
                f"{len(names or ())} class_names for num_classes {self.num_classes}",
            ),
        ]

    @property
    def unnamed(self) -> ModelConfig:
        """The same without names of classes, on which no number depends."""
        return msgspec.structs.replace(self, class_names=None)

    @property
    def is_elastic(self) -> bool:
        return self.architecture == "elit-sit"

    @property
    def depth(self) -> int:
        """L: blocks in all."""
        return self.head_depth + self.core_depth + self.tail_depth

    @property
    def tokens_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """N: spatial tokens."""
        return self.tokens_per_side**2

    @property
    def latents_per_group(self) -> int:
        """P: the full budget."""
        return self.group_size**2

    @property
    def groups(self) -> int:
        """G: groups of tokens."""
        return self.tokens // self.latents_per_group

    @property
    def patch_channels(self) -> int:
        """Numbers in one patch: patch_size² · in_channels."""
        return self.patch_size**2 * self.in_channels

    @property
    def mlp_hidden_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def modulation_size(self) -> int:
        """Numbers that depend on (t, y) alone, for one sample: six vectors a block, six for Read, two at the end."""
        return self.hidden_size * (6 * self.depth + (6 if self.is_elastic else 0) + 2)

    @property
    def null_label(self) -> int:
        """The label of the unconditional class."""
        return self.num_classes

    @classmethod
    def from_fields(cls, fields: dict[str, Any], source: str) -> ModelConfig:
        """Build from plain JSON values.

        Raises:
            ConfigError: an unknown, missing or ill-typed field, or a contradiction; `source` names where it stood.
        """
        try:
            return msgspec.convert(fields, cls)
        except (msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def required_fields(cls) -> tuple[str, ...]:
        return tuple(field.name for field in msgspec.structs.fields(cls) if field.required)

    def fields(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)

    def encoded(self) -> bytes:
        """The config as JSON."""
        return msgspec.json.encode(self)


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON config file, not yet checked: it may leave out what a checkpoint says itself.

    Raises:
        ConfigError: the file is missing or holds no JSON object.
    """
    try:
        return decode_fields(path.read_bytes(), f"config {path}")
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror}") from error


def decode_fields(data: bytes, source: str) -> dict[str, Any]:
    """The fields of a JSON object, not yet checked.

    Raises:
        ConfigError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source} is no JSON object: {error}") from error
