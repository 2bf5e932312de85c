"""Bundles with packages, each made once a test run, and a simulated Mac with a cache of its own."""

from __future__ import annotations

import pytest
from coreml_packages import add_packages

from elit_edge.bundle_files import BundleFiles
from simulated_coreml.installing import simulated_mac


@pytest.fixture(scope="session")
def with_packages(tiny_bundle_path, tmp_path_factory):
    """Copies of the tiny bundle with Core ML packages of these recipes."""

    def make(*recipes, budgets=()):
        return add_packages(
            tiny_bundle_path, tmp_path_factory.mktemp("coreml") / "tiny.elit", *recipes, budgets=budgets
        )

    return make


@pytest.fixture(scope="session")
def few_path(with_packages):
    """Two budgets of the tiny model for the GPU, functions of one package. Read it."""
    from elit_edge.export.to_coreml.recipe import Recipe

    return with_packages(Recipe(layout="gpu", precision="fp32"), budgets=(1, 4))


@pytest.fixture(scope="session")
def separate_path(with_packages):
    """One budget for the Neural Engine in packages of one function each, as before iOS 18. Read it."""
    from elit_edge.export.to_coreml.recipe import Recipe

    return with_packages(Recipe(layout="ane", precision="fp32", ios=17), budgets=(4,))


@pytest.fixture
def few(few_path):
    return BundleFiles.checked_before(few_path)


@pytest.fixture
def separate(separate_path):
    return BundleFiles.checked_before(separate_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the user's; the folder that compiled packages are kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from elit_edge.files import cache_folder

    return cache_folder("coreml")


@pytest.fixture
def mac(cache):
    with simulated_mac() as machine:
        yield machine
