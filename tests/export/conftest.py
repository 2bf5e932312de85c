"""Exports in seconds: the trace follows from the config alone, so that one trace serves every test of a config."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from elit_edge.export import exporter, onnx_graphs


@pytest.fixture(scope="session")
def traced():
    """`trace`, once a config."""
    return functools.cache(onnx_graphs.trace)


@pytest.fixture
def quick_trace(traced, monkeypatch):
    """Let the exporter use traces that were made before: the real ones, of the same config."""
    monkeypatch.setattr(exporter, "trace", traced)


@pytest.fixture(scope="session")
def short_checkpoint(tiny_checkpoint):
    """The tiny checkpoint with a ladder of two budgets, to keep exports short."""
    return replace(tiny_checkpoint, trained_latents=15)
