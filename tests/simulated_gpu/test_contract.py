"""The contract of runtimes (tests/contract), held against TensorRT's two libraries as a SIMULATION has them.

It shows that batches are split and put together rightly, that each budget gets the numbers of its own graph, and that
passes are replayed as they were captured. It says nothing of what a GPU computes.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest

from elit_edge import Bundle
from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
from elit_edge.runtimes.tensorrt_.library import LIBRARIES
from simulated_gpu.installing import assert_nothing_is_held, simulated_gpu

_spec = importlib.util.spec_from_file_location(
    "contract_of_runtimes", Path(__file__).parents[1] / "contract" / "test_runtimes.py"
)
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)
FROM_METADATA = "test_a_ready_runtime_says_its_version"
"""A simulation is no installed package."""
globals().update(
    {name: each for name, each in vars(contract).items() if name.startswith("test_") and name != FROM_METADATA}
)
runtime, precision, near, prepare = contract.runtime, contract.precision, contract.near, contract.prepare
session, alone, batch = contract.session, contract.alone, contract.batch


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def pair(request):
    with simulated_gpu(compute_capability="8.6"):
        yield request.param, "fp32"
        assert_nothing_is_held()


@pytest.fixture(scope="module")
def bundle(pair, tiny_bundle_path, tmp_path_factory):
    copy = tmp_path_factory.mktemp(pair[0]) / "tiny.elit"
    shutil.copytree(tiny_bundle_path, copy)
    compile_bundle(Bundle.open(copy).files, LIBRARIES[pair[0]], "fp32")
    return Bundle.open(copy)
