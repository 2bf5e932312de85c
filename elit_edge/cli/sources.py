"""The checkpoint that a command was given, with the config beside it."""

from __future__ import annotations

from pathlib import Path

from elit_edge.model.checkpoint import Checkpoint, read_checkpoint
from elit_edge.model_config import read_fields


def read_source(checkpoint: Path, config: Path | None) -> Checkpoint:
    """Read a checkpoint; `config` is a JSON file with what it does not say."""
    return read_checkpoint(checkpoint, read_fields(config) if config else None, stated_in=f"config {config}")
