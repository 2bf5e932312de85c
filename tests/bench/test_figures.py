"""Statistics against data made by hand."""

from __future__ import annotations

import pytest

from elit_edge.bench.figures import sustained_of, thinned, times_of
from elit_edge.bench.report import Bin


def of(medians_ms, bin_s=2.0, wanted_s=1000.0):
    bins = [
        Bin(
            start_s=bin_s * i,
            end_s=bin_s * (i + 1),
            n=10,
            median_ms=ms,
            p90_ms=None,
            joules=None,
            pressure="none",
            hottest_c=None,
            mean_mhz=None,
        )
        for i, ms in enumerate(medians_ms)
    ]
    return sustained_of("onnxruntime", "fp32", 16, wanted_s, bins)


def test_the_summary_of_one_to_thousand():
    found = times_of([float(value) for value in range(1000, 0, -1)])
    assert (found.n, found.min_ms, found.median_ms) == (1000, 1.0, 500.5)
    assert found.p90_ms == pytest.approx(900.1)
    assert found.p99_ms == pytest.approx(990.01)
    assert len(found.samples_ms) == 200
    assert found.samples_ms[0] == 1000.0
    assert found.samples_ms[-1] == 1.0
    assert list(found.samples_ms) == sorted(found.samples_ms, reverse=True), "the order of time was lost"


@pytest.mark.parametrize(
    ("count", "p90", "p99"),
    [(1, False, False), (9, False, False), (10, True, False), (99, True, False), (100, True, True)],
)
def test_quantiles_that_few_passes_cannot_tell_are_null(count, p90, p99):
    found = times_of([5.0] * count)
    assert (found.p90_ms is not None, found.p99_ms is not None) == (p90, p99)
    assert len(found.samples_ms) == count


def test_a_thinned_time_is_never_nothing():
    assert thinned([1e-6, 0.0004, 0.12349]) == [0.001, 0.001, 0.123]


@pytest.mark.parametrize(
    ("medians", "throttled"),
    [
        ([20.0] * 40, False),
        ([20.0] * 30 + [21.9] * 10, False),
        ([20.0] * 30 + [22.1] * 10, True),
        ([22.1] * 10 + [20.0] * 30, False),
        ([20.0] * 15 + [90.0] * 10 + [20.0] * 15, False),
        ([20.0] * 39 + [900.0], False),
        ([20.0] * 2 + [30.0] * 6, True),
        ([20.0] * 7, None),
    ],
)
def test_throttled_is_a_last_quarter_a_tenth_above_the_first(medians, throttled):
    assert of(medians).throttled is throttled


def test_the_verdict_has_its_figures():
    found = of([20.0] * 20 + [28.0] * 20)
    assert (found.first_quarter_ms, found.last_quarter_ms) == (20.0, 28.0)
    assert of([20.0] * 7).first_quarter_ms is None


def test_quarters_are_of_the_time_that_a_run_took_not_of_what_was_wanted():
    assert of([20.0] * 4 + [25.0] * 4, wanted_s=600.0).throttled is True
