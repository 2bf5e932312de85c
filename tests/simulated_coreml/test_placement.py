"""What a compute plan says, put into words that bench shows. The plans are SYNTHETIC: made up here, not a Mac's."""

import pytest

from elit_edge.errors import BundleError
from elit_edge.runtimes.contract import UnitShare
from elit_edge.runtimes.coreml_.placement import share_out
from elit_edge.runtimes.registry import all_runtimes

GPU, ANE = all_runtimes()["coreml-gpu"], all_runtimes()["coreml-ane"]


def placement_of(runtime, files):
    with runtime.prepare(files, "fp32", None) as session:
        return session.placement()


def operators(files, function):
    from elit_edge.export.mil.reading import MilPackage

    package = MilPackage.open(files.path(function.package))
    return [each.type for each in package.program(function.name or package.default_function).operations]


def test_each_function_says_which_units_its_operators_prefer(mac, few):
    def plan(kind, _place, units):
        if units == "CPU_ONLY":
            return "MLCPUComputeDevice", None
        if kind in ("linear", "scaled_dot_product_attention"):
            return "MLGPUComputeDevice", 0.03
        return ("MLCPUComputeDevice", 0.01) if kind == "layer_norm" else (None, None)

    mac.plan = plan
    found = placement_of(GPU, few)
    functions = few.manifest.coreml[0].functions
    assert [(each.role, each.latents, each.batch) for each in found] == [
        (each.role, each.latents, each.batch) for each in functions
    ]
    for placement, function in zip(found, functions, strict=True):
        types = operators(few, function)
        if function.role == "condition":
            assert placement.units == (UnitShare(unit="CPU", operators=len(types), cost=None),)
            assert placement.undecided == 0
            continue
        gpu = types.count("linear") + types.count("scaled_dot_product_attention")
        cpu = types.count("layer_norm")
        assert gpu > cpu > 0
        assert [(share.unit, share.operators) for share in placement.units] == [("GPU", gpu), ("CPU", cpu)]
        cost = 0.03 * gpu + 0.01 * cpu
        assert [share.cost for share in placement.units] == pytest.approx([0.03 * gpu / cost, 0.01 * cpu / cost])
        assert placement.undecided == len(types) - gpu - cpu


def test_a_package_of_one_function_has_its_plan_too(mac, separate):
    mac.plan = lambda kind, _place, _units: ("MLNeuralEngineComputeDevice" if kind == "conv" else None, None)
    (velocity,) = placement_of(ANE, separate)
    assert (velocity.role, velocity.latents, velocity.batch) == ("velocity", 4, 1)
    (share,) = velocity.units
    count = operators(separate, separate.manifest.coreml[0].functions[-1]).count("conv")
    assert (share.unit, share.operators, share.cost) == ("Neural Engine", count, None)


def test_a_function_of_which_nothing_is_told_is_left_out(mac, few):
    """The condition, say: Core ML is asked for the plan of a package, and may know its default function alone."""
    mac.plan = lambda _kind, _place, units: (None, None) if units == "CPU_ONLY" else ("MLGPUComputeDevice", None)
    assert {each.role for each in placement_of(GPU, few)} == {"velocity"}
    mac.plan = lambda *_: (None, None)
    assert placement_of(GPU, few) == ()


def test_before_macos_14_4_there_are_no_plans(mac, separate):
    mac.macos = (14, 3)
    assert placement_of(ANE, separate) == ()
    mac.macos = (14, 4)
    assert len(placement_of(ANE, separate)) == 2


def test_a_plan_that_fails_is_an_error_and_no_empty_answer(mac, few, monkeypatch):
    def fail(*_):
        raise RuntimeError("made up by this test")

    monkeypatch.setattr("simulated_coreml.core_ml._MLModelProxy.get_compute_plan", fail)
    with pytest.raises(BundleError, match=r"no compute plan of \S+/(condition|velocity)\.mlpackage: made up"):
        placement_of(GPU, few)


def test_shares_are_of_what_is_known():
    told = [("GPU", 0.2), ("CPU", 0.1), ("CPU", None), (None, 0.7), ("CPU", 0.1)]
    assert share_out(told) == (
        (UnitShare(unit="CPU", operators=3, cost=0.5), UnitShare(unit="GPU", operators=1, cost=0.5)),
        1,
    )
    assert share_out([]) == ((), 0)
    assert share_out([("GPU", None)]) == ((UnitShare(unit="GPU", operators=1, cost=None),), 0)
    assert share_out([("GPU", 0.0)]) == ((UnitShare(unit="GPU", operators=1, cost=None),), 0)
