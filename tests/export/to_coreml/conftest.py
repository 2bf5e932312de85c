"""Packages of small models, written once."""

from __future__ import annotations

import functools
import gc

import pytest
from export.to_coreml.tools import micro_config, random_model, write

from elit_edge.export.to_coreml.recipe import Recipe


def pytest_configure(config):
    # coremltools leaves the removal of its temporary folders to the garbage collector, whenever that comes
    config.addinivalue_line("filterwarnings", "ignore:Implicitly cleaning up:ResourceWarning")


@pytest.fixture(autouse=True, scope="module")
def short_collections():
    """coremltools collects garbage at the end of each conversion: among what was there before there is none."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def micro():
    """The model of these tests. Leave it as it is."""
    return random_model(micro_config())


@pytest.fixture(scope="session")
def packages(micro, tmp_path_factory):
    """packages(layout, precision, compression, ios) -> those of `micro` at 3 and 4 latents, written once."""

    @functools.cache
    def made(layout, precision="fp32", compression=None, ios=18):
        recipe = Recipe(layout, precision, compression, ios)
        batches = (1, 2) if recipe.multifunction else (1,)
        return write(micro, recipe, tmp_path_factory.mktemp(f"{layout}-{recipe.variant}"), (3, 4), batches)

    return made
