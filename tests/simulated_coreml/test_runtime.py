"""The two runtimes: where they are ready, what they refuse, and what they make ready. Core ML is SIMULATED."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from elit_edge import Bundle
from elit_edge.errors import BundleError, RuntimeUnavailable
from elit_edge.profiling.choosing import profiles_of
from elit_edge.runtimes.contract import Missing, Ready
from elit_edge.runtimes.coreml_ import library, system
from elit_edge.runtimes.registry import all_runtimes, choose
from simulated_coreml.installing import simulated_mac

ANE, GPU = (all_runtimes()[name] for name in ("coreml-ane", "coreml-gpu"))


def quiet(_):
    """For a report that is not looked at."""


def ask(runtime, files, latents=4, rows=1):
    precision = runtime.precisions(files.manifest)[0]
    with runtime.prepare(files, precision, None) as session:
        return session.velocity(np.ones((rows, 4, 16, 16)), np.full(rows, 0.5), np.arange(rows), latents)


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
def test_elsewhere_than_on_a_mac_it_is_missing_and_why():
    assert ANE.check() == GPU.check()
    with pytest.raises(RuntimeUnavailable, match=r"coreml-ane is not ready here: .*Apple's systems.*run on a Mac"):
        choose("coreml-ane")


def test_on_a_mac_it_is_ready_in_the_version_of_coremltools(mac):
    assert ANE.check() == Ready(library.coremltools().__version__)


def test_without_coremltools_the_remedy_is_named(mac, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "coremltools" else find(name))
    state = GPU.check()
    assert isinstance(state, Missing)
    assert "elit-edge[coreml]" in state.remedy


def test_a_coremltools_without_its_native_part_is_missing(mac, monkeypatch):
    monkeypatch.setattr(library, "CORE_ML_PART", "no such file*")
    state = GPU.check()
    assert isinstance(state, Missing)
    assert "built from source" in state.reason


def test_asking_whether_it_is_ready_imports_nothing():
    code = """
import sys
from elit_edge.runtimes.registry import all_runtimes
for name in ("coreml-ane", "coreml-gpu"):
    all_runtimes()[name].check()
assert not {"coremltools", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def told(monkeypatch):
    """What macOS tells of itself: made up here, as sw_vers prints it; and what it was asked with."""
    asked = []

    def say(answer):
        def run(command, **options):
            asked.append((command, options["env"]["SYSTEM_VERSION_COMPAT"]))
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(stdout=answer)

        monkeypatch.setattr(system, "platform", SimpleNamespace(system=lambda: "Darwin"))
        monkeypatch.setattr(system.subprocess, "run", run)
        return system.macos.__wrapped__()

    say.asked = asked
    return say


def test_the_version_of_macos_is_asked_of_a_program_that_is_told_the_truth(told):
    assert told(b"15.1\n") == (15, 1)
    assert told(b"26.0.1\n") == (26, 0, 1)
    assert told.asked[0] == (["/usr/bin/sw_vers", "-productVersion"], "0")


@pytest.mark.parametrize("answer", [b"", b"macOS", FileNotFoundError(), subprocess.TimeoutExpired("sw_vers", 5)])
def test_a_version_that_is_not_told_refuses_nothing(told, few, monkeypatch, answer):
    found = told(answer)
    assert found == ()
    monkeypatch.setattr(system, "macos", lambda: found)
    system.check_opens("tiny", few.manifest.coreml[0])


def test_a_macos_that_is_too_old_is_said_with_what_it_opens(mac, few):
    mac.macos = (14, 7, 1)
    wanted = (
        r"gpu fp32 Core ML packages of bundle tiny need macOS 15, .*iOS 18; this is macOS 14.7.1.*--layout gpu --ios 17"
    )
    with pytest.raises(BundleError, match=wanted):
        GPU.prepare(few, "fp32", None)
    with pytest.raises(BundleError, match=wanted):
        GPU.settle(few, "fp32", quiet)
    mac.macos = (12, 6)
    with pytest.raises(BundleError, match="macOS 13 is the first"):
        GPU.prepare(few, "fp32", None)
    assert mac.compiled == []


def test_each_layout_has_its_own_packages_the_nearest_first(few, separate):
    (model,) = few.manifest.coreml
    near = msgspec.structs.replace(model.parity, psnr_db=75.3)
    nearer = msgspec.structs.replace(model.parity, psnr_db=80.0)
    others = (
        msgspec.structs.replace(model, compression="int8", precision="fp16", parity=near),
        msgspec.structs.replace(model, precision="fp16", parity=nearer),
        model,
    )
    manifest = msgspec.structs.replace(few.manifest, coreml=others)
    assert GPU.precisions(manifest) == ("fp32", "fp16", "int8")
    assert (GPU.precisions(separate.manifest), ANE.precisions(separate.manifest)) == ((), ("fp32",))


def test_a_variant_that_there_is_not_is_refused_with_those_there_are(mac, few):
    with pytest.raises(BundleError, match=r"no gpu Core ML packages in int8; it has: fp32.*--layout gpu"):
        GPU.prepare(few, "int8", None)
    with pytest.raises(BundleError, match=r"no ane Core ML packages in fp32; it has: none"):
        ANE.prepare(few, "fp32", None)


def test_functions_of_their_own_packages_give_the_numbers_of_shared_ones(mac, few, separate):
    together, apart = ask(GPU, few, rows=2), ask(ANE, separate, rows=2)
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert mac.opened == [
        ("condition", "CPU_ONLY"),
        ("latents_04_batch_2", "CPU_AND_GPU"),
        ("main", "CPU_ONLY"),
        ("main", "CPU_AND_NE"),
    ]
    assert mac.predicted[-3:] == ["main", "main", "main"], "one condition, and one sample after another"


def test_a_budget_without_a_function_is_refused_with_those_there_are(mac, few):
    with pytest.raises(BundleError, match=r"no function for 5 latents; they have: 1, 4\. elit-edge compile --budgets"):
        ask(GPU, few, latents=5)


def test_preparing_compiles_the_packages_and_opens_no_function(mac, few):
    GPU.prepare(few, "fp32", None).close()
    assert sorted(mac.compiled) == ["condition.mlpackage", "velocity.mlpackage"]
    assert mac.opened == []


def test_what_core_ml_does_not_open_is_said_with_its_function(mac, few):
    session = GPU.prepare(few, "fp32", None)
    mac.macos = (14, 7)
    with pytest.raises(
        BundleError, match=r"does not open coreml/.*condition.mlpackage, function condition: .*macOS 15"
    ):
        session.velocity(np.zeros((1, 4, 16, 16)), [0.5], [0], 4)


def test_what_core_ml_does_not_compute_is_said_with_its_function(mac, few, monkeypatch):
    session = GPU.prepare(few, "fp32", None)

    def fail(*_):
        raise RuntimeError("E5RT: made up by this test")

    monkeypatch.setattr("simulated_coreml.core_ml._MLModelProxy.predict", fail)
    with pytest.raises(BundleError, match=r"does not compute .*function condition: E5RT"):
        session.condition(np.zeros(1, np.float32), np.zeros(1, np.int64))


@pytest.fixture
def whole(few):
    """The same with a ladder of those two budgets."""
    rungs = tuple(rung for rung in few.manifest.ladder if rung.latents in (1, 4))
    few.manifest = msgspec.structs.replace(few.manifest, ladder=rungs)
    return few


def test_settling_computes_each_function_once_and_remembers(mac, whole):
    heard = []
    GPU.settle(whole, "fp32", heard.append)
    names = {function.name for function in whole.manifest.coreml[0].functions}
    assert len(names) == 5
    assert sorted(mac.predicted) == sorted(names)
    assert [line.partition(" ")[0] for line in heard] == ["compiling"] * 2 + ["preparing"] * 2
    GPU.settle(whole, "fp32", heard.append)
    assert len(mac.predicted) == len(names)
    assert len(heard) == 4


def test_packages_without_all_budgets_are_for_those_who_name_them(mac, few):
    with pytest.raises(
        BundleError, match=r"no function for 2, 3, 5, .* latents, which its ladder has.*--budgets 1,2,3,"
    ):
        GPU.settle(few, "fp32", quiet)
    assert mac.compiled == []
    found = profiles_of(few, runtime="coreml-gpu")
    assert found.found == ()
    assert "which its ladder has" in found.passed_over[0].reason
    with Bundle(few).prepare("coreml-gpu") as session:
        assert session.runtime == "coreml-gpu"


def test_two_macs_in_turn_leave_nothing_of_the_simulation(cache):
    before = library.coremltools().models.compute_plan._MLModelProxy
    with simulated_mac(macos=(15, 0)) as machine:
        assert system.macos() == (15, 0)
        assert machine.compiled == []
    assert library.coremltools().models.compute_plan._MLModelProxy is before
    assert "coremltools.libcoremlpython" not in sys.modules or sys.platform == "darwin"


def test_a_coremltools_that_breaks_when_it_is_imported_is_no_fault_of_the_bundle(mac, few, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(RuntimeUnavailable, match=r"cannot be imported here .*elit-edge\[coreml\]"):
        GPU.prepare(few, "fp32", None)
