"""Passes in turn: what they took is told apart from what the machine did meanwhile."""

import math

import numpy as np
import pytest

from elit_edge.bundle_files import BundleFiles
from elit_edge.profiling import duel
from elit_edge.profiling.turns import few_budgets, passes_in_turn, turns_of, typical_ms

TRUE_MS = np.array([[10.0, 20.0, 40.0], [5.0, 15.0, 44.0]])


def test_rounds_that_are_slower_as_a_whole_change_no_ratio():
    """A machine that grows three times slower, and one pass that was disturbed."""
    pace = np.array([1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0])[:, None, None]
    times = TRUE_MS * pace
    times[0, 0, 2] *= 9
    found = typical_ms(times)
    np.testing.assert_allclose(found[0] / found[1], TRUE_MS[0] / TRUE_MS[1])
    np.testing.assert_allclose(found, 2 * TRUE_MS)


def test_a_quiet_machine_gives_the_times_themselves():
    np.testing.assert_allclose(typical_ms(np.stack([TRUE_MS] * 3)), TRUE_MS)


@pytest.mark.parametrize(
    ("budgets", "few"), [((1, 2, 3, 4), (1, 3, 4)), ((1, 16), (1, 16)), ((7,), (7,)), (tuple(range(1, 17)), (1, 9, 16))]
)
def test_few_budgets_are_the_ends_and_one_between(budgets, few):
    assert few_budgets(budgets) == few


def test_a_round_has_a_time_for_each_and_none_is_asked_for_none(tiny_bundle_path):
    files = BundleFiles.open(tiny_bundle_path)
    both = [("onnxruntime", "fp32")] * 2
    times = passes_in_turn(files, both, 1, rounds=2)
    assert times.shape == (2, 2, 3)
    assert (times > 0).all()
    assert passes_in_turn(files, both, 1, rounds=0).shape == (0, 2, 3)


def test_where_all_fail_each_has_its_reason(tiny_bundle_path):
    contestants = [("nobody", "fp32"), ("onnxruntime", "int3")]
    found = turns_of(BundleFiles.open(tiny_bundle_path), contestants, 1)
    assert found.pass_ms == {}
    assert "unknown runtime 'nobody'" in found.failed["nobody", "fp32"]
    assert "no int3 condition graph" in found.failed["onnxruntime", "int3"]


def test_a_duel_is_the_ratio_over_the_three_budgets(monkeypatch):
    monkeypatch.setattr(duel, "passes_in_turn", lambda *_: np.stack([TRUE_MS, 2 * TRUE_MS, TRUE_MS]))
    # 2, 4/3 and 10/11
    assert duel.ladder_ratio(None, ("a", "fp32"), ("b", "fp32"), None) == pytest.approx(math.cbrt(80 / 33))
