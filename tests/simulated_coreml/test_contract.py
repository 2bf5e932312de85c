"""The contract of runtimes (tests/contract), held against both Core ML runtimes over a SIMULATION of Core ML.

It shows that rows are split over the functions and put together rightly, that each budget gets its own function, and
that Core ML is given what the packages declare. It says nothing of what a Mac computes: there, tests/contract runs both
for real, with the bundle that is made here.
"""

import importlib.util
from pathlib import Path

import pytest

from simulated_coreml.installing import simulated_mac

_spec = importlib.util.spec_from_file_location(
    "contract_of_runtimes_on_a_mac", Path(__file__).parents[1] / "contract" / "test_runtimes.py"
)
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)
globals().update({name: each for name, each in vars(contract).items() if name.startswith("test_")})
bundle, runtime, precision, near = contract.bundle, contract.runtime, contract.precision, contract.near
prepare, session, alone, batch = contract.prepare, contract.session, contract.alone, contract.batch
RUNTIMES = ("coreml-ane", "coreml-gpu")


@pytest.fixture(scope="module", autouse=True)
def mac():
    with simulated_mac(macos=(15, 1)) as machine:
        yield machine


@pytest.fixture(scope="module", params=RUNTIMES)
def pair(request):
    return request.param, "fp32"


def test_on_a_mac_the_contract_finds_both_by_itself():
    found = {parameter.id: parameter for parameter in contract.runtimes_and_precisions()}
    for name in RUNTIMES:
        assert found[f"{name}-fp32"].values == ((name, "fp32"),)
        assert found[f"{name}-fp32"].marks == ()


def test_velocities_go_to_the_units_of_their_layout_and_conditions_to_the_cpu(session, runtime, batch, mac):
    session.velocity(**batch, latents=3)
    meant = {"coreml-ane": "CPU_AND_NE", "coreml-gpu": "CPU_AND_GPU"}[runtime]
    assert ("condition", "CPU_ONLY") in mac.opened
    assert ("latents_03_batch_2", meant) in mac.opened
