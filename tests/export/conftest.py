"""A model that exports in seconds. The trace follows from the config alone: one serves every test of a config."""

from __future__ import annotations

import functools

import pytest
import torch
from safetensors.torch import save_file

from elit_edge.export import model_graphs, onnx_graphs
from elit_edge.model.checkpoint import config_json, read_checkpoint
from elit_edge.model.published_keys import to_published
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

MICRO = ModelConfig(
    architecture="elit-sit",
    image_size=8,
    in_channels=3,
    patch_size=2,
    hidden_size=32,
    num_heads=2,
    mlp_ratio=4.0,
    head_depth=1,
    core_depth=1,
    tail_depth=1,
    group_size=2,
    num_classes=5,
)


@pytest.fixture(scope="session")
def traced():
    """`trace`, once a config."""
    return functools.cache(onnx_graphs.trace)


@pytest.fixture
def quick_trace(traced, monkeypatch):
    """Let the exporter use traces that were made before: the real ones, of the same config."""
    monkeypatch.setattr(model_graphs, "trace", traced)


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory):
    """Random weights of trained size: 4 groups of 4 latents, 5 classes, read from a real file."""
    generator = torch.Generator().manual_seed(0)
    model = DiffusionTransformer(MICRO)
    state = {
        name: torch.randn(value.shape, generator=generator) * (value.shape[-1] ** -0.5 if value.ndim > 1 else 0.3)
        for name, value in model.state_dict().items()
    }
    path = tmp_path_factory.mktemp("micro") / "micro.safetensors"
    save_file({name: value.contiguous() for name, value in to_published(state, MICRO)}, path, config_json(MICRO))
    return read_checkpoint(path)
