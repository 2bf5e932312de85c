"""Fixtures that many tests share: the authors' tiny checkpoint, what their code computes with it, and its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"
TINY_CHECKPOINT = FIXTURES / "official_tiny_a.pt"
TINY_CONFIG = FIXTURES / "official_tiny_a.json"


@pytest.fixture(scope="session")
def expected() -> Mapping[str, np.ndarray]:
    """Inputs and results of the authors' code; see fixtures/README.md."""
    with np.load(FIXTURES / "official_tiny_a_expected.npz") as data:
        return dict(data)


@pytest.fixture(scope="session")
def tiny_checkpoint():
    """The authors' tiny checkpoint, read."""
    from elit_edge.model.checkpoint import read_checkpoint
    from elit_edge.model_config import read_fields

    return read_checkpoint(TINY_CHECKPOINT, read_fields(TINY_CONFIG))


@pytest.fixture(scope="session")
def tiny_bundle_path(tiny_checkpoint, tmp_path_factory) -> Path:
    """The bundle of the tiny checkpoint, exported and verified once a test run. Read it; copy it to change it."""
    from elit_edge.export.exporter import export

    target = tmp_path_factory.mktemp("bundles") / "tiny.elit"
    export(tiny_checkpoint, target)
    return target


@pytest.fixture(autouse=True, scope="session")
def single_thread():
    """Small products stall when several threads share few cores, and sums keep their order with one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What is measured here is not what the user's own cache is for; each test run has one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
