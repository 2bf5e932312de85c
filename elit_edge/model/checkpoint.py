"""Reading checkpoints: the authors' .pt and safetensors, safely, and a config that everything agrees on.

A .pt is a pickle: it is unpickled with `weights_only` and an allow-list that holds argparse.Namespace, memory-mapped,
and of its copies of the weights only `ema` is touched. What neither file nor config says is asked for, never guessed.
"""

from __future__ import annotations

import argparse
import pickle
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elit_edge.errors import CheckpointError
from elit_edge.model.class_names import IMAGENET_CLASSES, imagenet_class_names
from elit_edge.model.incomplete import START_BYTES, shortfall, stand_in
from elit_edge.model.published_facts import SPLIT, Facts, completed, facts_of_args, facts_of_weights, is_elastic
from elit_edge.model.published_keys import IGNORED_PREFIXES, LATENT_TABLE, to_published, translate
from elit_edge.model.released_sit import RELEASE, in_own_convention
from elit_edge.model.transformer import DiffusionTransformer, assembled
from elit_edge.model_config import ModelConfig, decode_fields

CONFIG_KEY = "config"
"""Where a safetensors file may carry its config, as JSON, in its metadata."""

GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""What the unpickler met, in its message."""

ASK = {
    "num_heads": "attention heads",
    "tail_depth": "spatial blocks after Write",
    "head_depth": "spatial blocks before Read",
    "num_classes": "classes without the null class",
    "group_size": "side of a group",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checked model file: its config, and its weights under the names of DiffusionTransformer.

    The weights are views of the mapped file, and mapped anew each time: what is dropped gives its memory back.
    """

    path: Path
    config: ModelConfig
    trained_latents: int
    """The smallest budget that the training kept, in latents a group."""
    mapped: Callable[[], Mapping[str, Tensor]]
    """Maps the weights."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.mapped()

    def model(self) -> DiffusionTransformer:
        """The torch model, in float32 and ready to be evaluated."""
        return assembled(self.config, {name: tensor.float() for name, tensor in self.weights.items()})


def read_checkpoint(path: Path, stated: Mapping[str, Any] | None = None, stated_in: str = "the config") -> Checkpoint:
    """Read `path`, a .pt of the authors or a .safetensors; `stated` holds config fields that it does not
    say, and `stated_in` names where they stand. Of 1,000 classes that neither names, the names are ImageNet's.
    `release` among the fields says how the file is read (see released_sit.py).

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or of another architecture; it contradicts the config;
            or neither says something that the model needs.
    """
    fields = dict(stated or {})
    release = fields.pop(RELEASE, None)
    weights, facts = _read(path)
    facts = facts_of_weights(weights, str(path)).merged(facts)
    weights = in_own_convention(weights, release, str(path))
    found = _agreed_config(facts, fields, path, stated_in)
    _check_weights(weights, found, path)

    def mapped() -> Mapping[str, Tensor]:
        return translate(in_own_convention(_read(path)[0], release, str(path)), found, str(path))

    mapped()
    return Checkpoint(path, found, facts.trained_latents(found), mapped)


def _read(path: Path) -> tuple[Mapping[str, Tensor], Facts]:
    """The mapped weights under their published names, and what the settings beside them say."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start[:2] == b"PK":
        return _read_pickle(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if found := stand_in(start):
        raise CheckpointError(f"{path} {found}")
    raise CheckpointError(
        f"{path} is neither a torch.save archive nor safetensors (it starts with {start[:4]!r}); "
        "give the authors' .pt, or convert the weights to safetensors"
    )


def _read_pickle(path: Path) -> tuple[Mapping[str, Tensor], Facts]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = GLOBAL.search(str(error))
        raise CheckpointError(
            f"{path} holds more than tensors and settings{f': {found[1]}' if found else ''}, and was not opened, "
            "since a pickle can run code; ask its author for safetensors"
        ) from error
    except Exception as error:  # a damaged pickle makes the unpickler raise whatever it meets
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not the dict of a checkpoint")
    nothing_else = all(isinstance(value, Tensor) for value in content.values())
    weights = content.get("ema", content if nothing_else else None)
    if not isinstance(weights, Mapping) or not weights:
        keys = ", ".join(sorted(map(str, content))[:8])
        raise CheckpointError(f"{path} has no 'ema' weights; its keys are: {keys}")
    strangers = [name for name, value in weights.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(f"{path}: 'ema' holds {strangers[0]!r}, which is no named tensor")
    args = content.get("args")
    named = vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, dict) else {}
    return weights, facts_of_args(named, str(path), elastic=is_elastic(weights))


def _read_safetensors(path: Path) -> tuple[Mapping[str, Tensor], Facts]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if CONFIG_KEY not in metadata:
        return weights, Facts(str(path), {})
    fields = decode_fields(metadata[CONFIG_KEY].encode(), f"config inside {path}")
    return weights, Facts(str(path), fields)


def _agreed_config(facts: Facts, stated: Mapping[str, Any], path: Path, stated_in: str) -> ModelConfig:
    """The file's facts and the config's, which must not contradict each other."""
    fields = {name: value for name, value in facts.fields.items() if value is not None}
    for name, value in stated.items():
        known = fields.setdefault(name, value)
        if known != (list(value) if isinstance(known, list) and isinstance(value, tuple) else value):
            found, said = reprlib.repr(known), reprlib.repr(value)
            raise CheckpointError(f"{path} says {name} = {found}, {stated_in} says {said}; correct the config")
    fields = completed(fields, facts.depth)
    if facts.depth is not None:
        _check_split(fields, facts.depth, path)
    missing = [name for name in ModelConfig.required_fields() if name not in fields]
    if missing:
        wanted = ", ".join(f"{name} ({ASK[name]})" if name in ASK else name for name in missing)
        raise CheckpointError(f"{path} does not say {wanted}; give them in a JSON file: --config FILE.json")
    if fields["num_classes"] == IMAGENET_CLASSES:
        fields.setdefault("class_names", imagenet_class_names())
    return ModelConfig.from_fields(fields, f"{path} with {stated_in}" if stated else str(path))


def _check_split(fields: Mapping[str, Any], depth: int, path: Path) -> None:
    """That the parts of a stated split make up the blocks of the file."""
    parts = [fields.get(name) for name in SPLIT]
    known = [part for part in parts if isinstance(part, int)]
    if len(known) == len(parts) and sum(known) != depth:
        split = ", ".join(f"{name} = {part}" for name, part in zip(SPLIT, parts, strict=True))
        raise CheckpointError(f"{path} has {depth} blocks, which are not {split}; correct the config")


def _check_weights(weights: Mapping[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Names and shapes, as the file has them."""
    given = {name: list(tensor.shape) for name, tensor in weights.items() if not name.startswith(IGNORED_PREFIXES)}
    try:
        with torch.device("meta"):
            model = DiffusionTransformer(config)
            wanted = {name: list(tensor.shape) for name, tensor in to_published(model.state_dict(), config)}
    except RuntimeError as error:
        raise CheckpointError(f"{path} describes weights beyond any size: {_first_line(error)}") from error
    missing, foreign = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or foreign:
        faults = [
            f"{what} {names[0]} and {len(names) - 1} more"
            for names, what in ((missing, "lacks"), (foreign, "has a foreign"))
            if names
        ]
        raise CheckpointError(f"{path} is no {config.architecture} of this config: it {' and '.join(faults)}")
    for name, shape in given.items():
        used = [min(shape[0], wanted[name][0]), *shape[1:]] if name == LATENT_TABLE and shape else shape
        if used != wanted[name]:
            raise CheckpointError(f"{path}: {name} has shape {shape}, the config needs {wanted[name]}")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    fault = shortfall(path) or f"is damaged or incomplete ({_first_line(error)}); download it again"
    return CheckpointError(f"{path} {fault}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def config_json(config: ModelConfig) -> dict[str, Any]:
    """Metadata for a safetensors file that says its own config."""
    return {CONFIG_KEY: config.encoded().decode()}
