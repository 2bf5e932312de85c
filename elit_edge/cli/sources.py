"""The checkpoint that a command was given, with the config beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from elit_edge.errors import ConfigError
from elit_edge.model.checkpoint import Checkpoint, read_checkpoint
from elit_edge.model.class_names import read_class_names
from elit_edge.model_config import read_fields


def read_source(checkpoint: Path, config: Path | None, class_names: Path | None = None) -> Checkpoint:
    """Read a checkpoint; `config` is a JSON file with what it does not say, `class_names` a list in place of its own.

    Raises:
        CheckpointError: the checkpoint cannot be read, or contradicts the config.
        ConfigError: the config or the list is none, or there are not as many names as classes.
    """
    names = read_class_names(class_names) if class_names else None
    source = read_checkpoint(checkpoint, read_fields(config) if config else None, stated_in=f"config {config}")
    if names is None:
        return source
    classes = source.config.num_classes
    if len(names) != classes:
        raise ConfigError(f"class names {class_names}: {len(names)} names for the {classes} classes of {checkpoint}")
    return dataclasses.replace(source, config=msgspec.structs.replace(source.config, class_names=names))
