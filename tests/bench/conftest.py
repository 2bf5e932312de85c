"""Synthetic reports: every figure in them is made up, except the facts of this machine."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from elit_edge.bench.figures import sustained_of, times_of
from elit_edge.bench.report import Bin, Candidate, Context, PlanPoint, Report, Row, context_digest
from elit_edge.device import probe

IDENTITY = {
    "device": "synthetic-device",
    "bundle": "b" * 64,
    "threads": "auto",
    "elit-edge": "0.1.0",
    "python": "3.11.0",
    "numpy": "2.0.0",
    "onnxruntime": "1.23.0",
}


def made_row(latents, samples_ms, **changes):
    measured = times_of(samples_ms)
    fields = {
        "latents": latents,
        "times": measured,
        "predicted_ms": measured.median_ms * 1.05,
        "relative_error": 0.05,
        "gflops": 12.5,
        "matmul_share": 0.25,
        "joules": None,
        "plan_ms": 25 * measured.median_ms,
        "distance": 0.4 / latents,
    }
    return Row(**{**fields, **changes})


def noisy(median_ms, seed, count=200, spread=0.03):
    return (median_ms * (1 + spread * np.random.default_rng(seed).normal(size=count))).tolist()


def made_candidate(runtime="onnxruntime", scale=1.0, seed=0, **changes):
    rows = tuple(made_row(latents, noisy(scale * (10 + latents), seed + latents)) for latents in (1, 2, 4))
    point = PlanPoint(
        expected_ms=40.0, distance=0.3, steps=2, least_latents=1, most_latents=4, guidance="ccfg"
    )  # fmt: skip
    fields = {
        "runtime": runtime,
        "precision": "fp32",
        "version": "1.23.0",
        "open_ms": 321.0,
        "first_ms": 54.3,
        "rows": rows,
        "every_budget": True,
        "peak_bytes": 123_000_000,
        "front": (point, msgspec.structs.replace(point, expected_ms=90.0, distance=0.1, steps=5)),
    }
    return Candidate(**{**fields, **changes})


def made_bins(medians_ms, bin_s=2.0, **changes):
    return [
        Bin(**{
            "start_s": bin_s * i, "end_s": bin_s * (i + 1), "n": 20, "median_ms": ms, "p90_ms": 1.1 * ms,
            "joules": None, "pressure": "none", "hottest_c": 60.0, "mean_mhz": None, **changes,
        })
        for i, ms in enumerate(medians_ms)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def device():
    return probe(measure=False)


@pytest.fixture
def made_report(device):
    """A synthetic report; fields can be replaced, parts of its context's identity too."""

    def make(identity=None, busy=False, load_start=0.2, throttled=False, **changes):
        parts = {**IDENTITY, **(identity or {})}
        context = Context(
            identity=parts,
            device=device,
            end_frequencies=(),
            end_thermal=(),
            load_start=load_start,
            load_end=1.5,
            busy=busy,
        )
        medians = [20.0] * 20 + [28.0] * 20
        fields = {
            "made_at": "2026-01-01T00:00:00+00:00",
            "bundle": "synthetic",
            "latents_per_group": 4,
            "steps": 25,
            "guidance": "ccfg",
            "window_s": 3.0,
            "context": context,
            "context_sha256": context_digest(parts),
            "candidates": (made_candidate(),),
            "lost": (),
            "sustained": sustained_of("onnxruntime", "fp32", 4, 80.0, made_bins(medians)) if throttled else None,
            "cut_short": False,
            "notes": (),
        }
        return Report(**{**fields, **changes})

    return make
