"""The shared fixtures where torch cannot be: bundles that another machine made. A pytest plugin, not a conftest.

`make test-arm64` uses it; see docs/arm64.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def handover() -> Path:
    """The folder that tools/arm64/handover.py filled on the other machine; read-only."""
    return Path(os.environ["ELIT_EDGE_HANDOVER"])


@pytest.fixture(scope="session")
def expected() -> Mapping[str, np.ndarray]:
    """Inputs and results of the authors' code; see fixtures/README.md."""
    with np.load(FIXTURES / "official_tiny_a_expected.npz") as data:
        return dict(data)


@pytest.fixture(scope="session")
def tiny_bundle_path(handover, tmp_path_factory) -> Path:
    """The bundle of the tiny checkpoint, exported on the other machine."""
    return Path(shutil.copytree(handover / "tiny.elit", tmp_path_factory.mktemp("bundles") / "tiny.elit"))
