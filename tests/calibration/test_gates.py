"""The rules by themselves, on verdicts made by hand."""

from typing import get_args

import msgspec
import pytest

from elit_edge.calibration.proof.gates import caveats, faults, speedup, speedups
from elit_edge.manifest import CoreMlModel, Precision
from elit_edge.parity import GATE_DB
from elit_edge.verdict import BudgetVerdict, Interval, Speed, Verdict


def around(low, high):
    return Interval(low=low, value=(low + high) / 2, high=high)


GOOD = BudgetVerdict(latents=1, psnr_db=40.0, departure=around(0.01, 0.02), loss=around(0.0, 0.001), frechet=None)
FAST = Speed(runtime="onnxruntime", version="1", latents=1, fp32_ms=20.0, own_ms=10.0)
VERDICT = Verdict(
    gate_db=30.0,
    pictures=64,
    steps=8,
    seed=0,
    features_sha256=None,
    budgets=(GOOD, msgspec.structs.replace(GOOD, latents=16)),
    speeds=(FAST,),
    size_ratio=0.27,
    device="made up",
    faults=(),
)


def at_full(**fields):
    """The verdict with the full budget's fields changed: a fault at any budget counts."""
    return but(budgets=(GOOD, msgspec.structs.replace(GOOD, latents=16, **fields)))


def but(**fields):
    return msgspec.structs.replace(VERDICT, **fields)


def timed(*rows):
    return but(
        speeds=tuple(
            Speed(runtime=name, version="1", latents=latents, fp32_ms=fp32, own_ms=own)
            for name, latents, fp32, own in rows
        )
    )


def test_what_is_good_everywhere_has_no_fault_and_needs_no_word():
    assert faults(VERDICT) == ()
    assert caveats(VERDICT) == ()


def test_every_precision_has_a_gate():
    (compressions,) = (field.type for field in msgspec.structs.fields(CoreMlModel) if field.name == "compression")
    named = {name for part in get_args(compressions) for name in get_args(part)}
    assert {"w8a8", "lut4"} < named
    assert set(GATE_DB) == set(get_args(Precision)) | named


@pytest.mark.parametrize(("psnr_db", "passes"), [(30.0, True), (29.99, False), (999.0, True), (-3.0, False)])
def test_the_gate_is_held_at_every_budget(psnr_db, passes):
    found = faults(at_full(psnr_db=psnr_db))
    assert found == (
        () if passes else (f"at 16 latents its velocity is {psnr_db:.2f} dB from fp32's, and the gate is 30 dB",)
    )


def test_each_budget_below_the_gate_is_a_fault_of_its_own():
    low = [msgspec.structs.replace(GOOD, latents=latents, psnr_db=20.0) for latents in (1, 2, 16)]
    assert [fault.split(" its")[0] for fault in faults(but(budgets=tuple(low)))] == [
        *("at 1 latents", "at 2 latents", "at 16 latents")
    ]


def test_a_velocity_that_is_not_finite_has_words_of_its_own():
    (fault,) = faults(at_full(psnr_db=-999.0))
    assert "at 16 latents its velocity is not finite" in fault


@pytest.mark.parametrize("metric", ["loss", "frechet"])
@pytest.mark.parametrize(
    ("low", "high", "refused", "said"),
    [
        (-0.10, 0.049, False, False),
        (-0.02, 0.05, False, False),
        (-0.02, 0.09, False, True),
        (0.05, 0.09, False, True),
        (0.051, 0.09, True, False),
        (-0.5, -0.2, False, False),
    ],
)
def test_pictures_must_not_be_shown_to_be_worse_by_more_than_the_margin(metric, low, high, refused, said):
    verdict = at_full(**{metric: around(low, high)})
    assert (len(faults(verdict)), len(caveats(verdict))) == (refused, said)
    for words in (*faults(verdict), *caveats(verdict)):
        assert "at 16 latents" in words
        assert f"{low:+.1%} to {high:+.1%} (64 pictures)" in words


def test_with_features_the_frechet_distance_decides_and_not_the_other():
    assert faults(at_full(loss=around(0.2, 0.3), frechet=around(-0.01, 0.01))) == ()
    assert "the Frechet distance" in faults(at_full(loss=around(0, 0), frechet=around(0.2, 0.3)))[0]


@pytest.mark.parametrize(
    ("own_ms", "size_ratio", "refused"),
    [
        (10.0, 1.0, False),
        (20.0, 0.27, False),
        (40.0, 0.27, False),
        (20.0, 1.0, True),
        (20.0 / 1.02, 0.98, True),
        (20.0 / 1.03, 0.98, False),
        (20.0, 0.979, False),
    ],
)
def test_faster_or_smaller_is_enough(own_ms, size_ratio, refused):
    verdict = but(speeds=(msgspec.structs.replace(FAST, own_ms=own_ms),), size_ratio=size_ratio)
    assert [fault.split(":")[0] for fault in faults(verdict)] == ["neither faster nor smaller"] * refused


def test_speed_that_is_not_known_is_not_faster():
    nowhere = but(speeds=(msgspec.structs.replace(FAST, own_ms=None),), size_ratio=1.0)
    for verdict in (nowhere, but(speeds=(), size_ratio=1.0)):
        assert (speedups(verdict), speedup(verdict)) == ({}, None)
        assert "its speed could not be measured" in faults(verdict)[0]


def test_each_precision_runs_where_it_is_fastest():
    """ONNX Runtime gains 2 on its own slow float32; OpenVINO's float32 is as fast as that already."""
    verdict = timed(("onnxruntime", 1, 20.0, 10.0), ("openvino", 1, 10.0, 12.0))
    assert speedups(verdict) == {1: 1.0}
    assert [speed.ratio for speed in verdict.speeds] == [2.0, pytest.approx(10 / 12)]
    assert len(faults(msgspec.structs.replace(verdict, size_ratio=1.0))) == 1


def test_a_runtime_that_has_float32_alone_still_competes():
    verdict = timed(("onnxruntime", 1, 20.0, 10.0), ("openvino", 1, 5.0, None))
    assert speedup(verdict) == 0.5
    assert verdict.speeds[1].ratio is None


def test_the_budgets_count_alike_and_a_slower_one_is_said():
    verdict = timed(("onnxruntime", 1, 10.0, 12.5), ("onnxruntime", 8, 10.0, 5.0), ("onnxruntime", 16, 10.0, 2.0))
    # 0.8, 2 and 5: their geometric mean is 2
    assert speedup(verdict) == pytest.approx(2)
    assert caveats(verdict) == ("slower than fp32 at 1 latents: 0.80 times as fast",)


def test_what_was_not_measured_is_said():
    bare = msgspec.structs.replace(GOOD, departure=None, loss=None)
    verdict = but(budgets=(bare,), pictures=0, failed=("openvino w4: ended by signal SIGSEGV",))
    assert faults(verdict) == ()
    assert caveats(verdict) == (
        "no pictures were compared: their quality is not shown",
        "speed not measured: openvino w4: ended by signal SIGSEGV",
    )
