"""A real bench of the tiny bundle, short; and how its worker orders passes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import jsonschema
import msgspec
import pytest

from elit_edge.bench import asking, measuring, worker
from elit_edge.bench.asking import WorkerFailed, ask
from elit_edge.bench.measuring import bench
from elit_edge.bench.report import context_digest, encode
from elit_edge.bench.rows import Rows
from elit_edge.bench.worker import Passes, Share, Task, Warm, halves, sustained, warm
from elit_edge.bundle import Bundle
from elit_edge.costs import Conditions, Point, Profile
from elit_edge.device.energy import energy_meter
from elit_edge.device.facts import Bandwidth, Rate, Speed
from elit_edge.errors import RequestError, RuntimeUnavailable
from elit_edge.quality import Loss, published_table
from elit_edge.runtimes.registry import all_runtimes
from elit_edge.sampling import times

SCHEMA = Path(__file__).parents[2] / "docs" / "bench-report.schema.json"


@pytest.fixture(scope="module")
def measured(tiny_bundle_path):
    """One real bench for many questions."""
    heard = []
    report = bench(
        Bundle.open(tiny_bundle_path),
        runtime="onnxruntime",
        window_s=0.6,
        sustained_s=2.0,
        progress=lambda name, share: heard.append((name, share)),
    )
    return report, heard


def test_a_bench_measures_every_budget_and_a_sustained_run(measured, tiny_bundle_path):
    report, heard = measured
    manifest = Bundle.open(tiny_bundle_path).manifest
    (candidate,) = report.candidates
    assert (candidate.title, candidate.every_budget) == ("onnxruntime fp32", True)
    assert tuple(row.latents for row in candidate.rows) == manifest.budgets
    assert {row.times.n for row in candidate.rows} == {candidate.rows[0].times.n}, "rounds meet all budgets alike"
    flops = {rung.latents: rung.velocity_flops for rung in manifest.ladder}
    for row in candidate.rows:
        assert row.times.min_ms <= row.times.median_ms <= (row.times.p90_ms or 1e9)
        assert row.gflops == pytest.approx(flops[row.latents] / row.times.median_ms / 1e6)
        assert row.relative_error == pytest.approx(row.predicted_ms / row.times.median_ms - 1)
        assert (row.joules is None) == (energy_meter() is None)
        assert row.distance is None
    assert candidate.front is None
    assert candidate.open_ms > 0
    assert candidate.first_ms > 0
    run = report.sustained
    assert run is not None
    assert (run.runtime, run.latents) == ("onnxruntime", manifest.latents_per_group)
    assert run.bins[-1].end_s == pytest.approx(2.0, abs=0.5)
    assert all(before.end_s <= after.start_s for before, after in pairwise(run.bins))
    assert not report.cut_short
    assert {"probe", "onnxruntime fp32", "sustained"} <= {name for name, _ in heard}


def test_a_real_report_conforms_to_the_schema_and_to_its_digest(measured):
    report, _ = measured
    jsonschema.validate(json.loads(encode(report)), json.loads(SCHEMA.read_text()))
    assert context_digest(report.context.identity) == report.context_sha256
    assert report.context.identity["onnxruntime"] == report.candidates[0].version


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell a process's peak apart from its parent's")
def test_memory_is_the_workers_own(measured):
    """This process holds PyTorch, 200 MB and more; a worker of ONNX Runtime on a model of some kilobytes far less."""
    own = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    assert "torch" in sys.modules
    assert 10e6 < measured[0].candidates[0].peak_bytes < 0.7 * own


def profile(**changes):
    """Made up: 1 ms at 1 latent, 3 ms at 4."""
    points = tuple(
        Point(latents=latents, batch=1, first_ms=9.0, median_ms=ms, p90_ms=ms, n=7)
        for latents, ms in ((1, 1.0), (4, 3.0))
    )
    fields = {
        "runtime": "onnxruntime", "precision": "fp32", "version": "1", "threads": None, "open_ms": 5.0,
        "points": points, "conditions": (), "solver_ms": 0.0, "waking_ms": 0.0, "drift": 0.01, "memory": (),
        "watts": None,
    }  # fmt: skip
    return Profile(**{**fields, **changes})


def test_quality_stands_beside_speed_where_the_bundle_has_a_table(tiny_bundle_path, device):
    manifest = Bundle.open(tiny_bundle_path).manifest
    own = manifest.sampler
    table = msgspec.structs.replace(
        published_table(manifest.latents_per_group, own.guidance, own.weak_latents, own.scale), origin="measured"
    )
    rated = profile(conditions=(Conditions(rows=2, median_ms=0.1),))
    full = manifest.latents_per_group
    found = Warm(open_ms=1.0, first_ms=1.0, passes=[Passes(latents=full, ms=[3.0] * 20, joules=0.5)], peak_bytes=None)
    with_table = Rows(msgspec.structs.replace(manifest, quality=table), device, None).candidate(rated, found)
    variant = (own.guidance, own.weak_latents)
    expected = Loss(table).of(variant, times(own.solver, own.steps), [full] * own.steps)
    assert with_table.rows[0].distance == pytest.approx(expected)
    assert with_table.rows[0].joules == 0.5
    front = with_table.front
    assert front is not None
    assert [point.distance for point in front] == sorted((point.distance for point in front), reverse=True)
    assert [point.expected_ms for point in front] == sorted(point.expected_ms for point in front)
    assert not with_table.every_budget
    published = msgspec.structs.replace(manifest, quality=msgspec.structs.replace(table, origin="published"))
    for without in (manifest, published):
        bare = Rows(without, device, None).candidate(rated, found)
        assert (bare.rows[0].distance, bare.front) == (None, None)


def test_the_share_of_a_product_needs_a_product_with_the_same_threads(tiny_bundle_path, device):
    manifest = Bundle.open(tiny_bundle_path).manifest
    full = manifest.ladder[-1]
    rate = Rate(precision="fp32", gops=100.0, library="made up", side=512, n=9, spread=0.0, reason=None)
    nothing = Bandwidth(copy_gb_s=None, array_bytes=None, threads=None, n=0, spread=None, reason="not asked")
    speed = Speed(matmul=(rate,), memory=nothing, load_average=0.0, took_s=0.0)
    rated = msgspec.structs.replace(device, speed=speed)
    found = Warm(open_ms=1.0, first_ms=1.0, peak_bytes=None,
                 passes=[Passes(latents=full.latents, ms=[full.velocity_flops / 25e6] * 3, joules=None)])  # fmt: skip
    made = profile(conditions=(Conditions(rows=2, median_ms=0.1),))

    def share(where, threads, precision):
        return Rows(manifest, where, threads).candidate(
            msgspec.structs.replace(made, precision=precision), found
        ).rows[0].matmul_share  # fmt: skip

    assert share(rated, None, "fp32") == pytest.approx(0.25)
    assert share(rated, 1, "fp32") is None
    assert share(rated, None, "bf16") is None
    assert share(device, None, "fp32") is None


class Machine:
    """Stands for a session whose passes take the time we say; its clock is the worker's, moved by hand."""

    def __init__(self, monkeypatch, ms):
        self.now, self.ms, self.asked = 0.0, ms, []
        monkeypatch.setattr(worker.time, "perf_counter", lambda: self.now)

    def once(self, latents):
        self.asked.append(latents)
        ms = self.ms(latents)
        self.now += ms / 1e3
        return ms, 0.25 * latents

    def mean_joules(self, joules):
        return sum(joules) / len(joules)


def test_budgets_are_warmed_up_and_then_mixed_in_rounds(monkeypatch):
    machine = Machine(monkeypatch, lambda latents: 1.0 + latents)
    told = []
    found = warm(machine, (1, 2, 3, 4), 0.7, told.append)
    warmed, rounds = machine.asked[1:21], machine.asked[21:]
    assert Counter(warmed) == {1: 5, 2: 5, 3: 5, 4: 5}
    assert all(sorted(rounds[at : at + 4]) == [1, 2, 3, 4] for at in range(0, len(rounds), 4))
    assert len({tuple(rounds[at : at + 4]) for at in range(0, len(rounds), 4)}) > 10, "always the same order"
    assert len(rounds) == pytest.approx(200 * 4, abs=4), "a round takes 14 ms, and the windows 2.8 s"
    assert [(each.latents, each.joules) for each in found] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert set(found[2].ms) == {4.0}
    shares = [word.done for word in told]
    assert shares == sorted(shares)
    assert 5 < len(shares) < 20
    assert all(isinstance(word, Share) for word in told)


def test_a_slow_model_is_measured_at_the_ends_and_halves_alone(monkeypatch):
    machine = Machine(monkeypatch, lambda _: 400.0)
    found = warm(machine, tuple(range(1, 17)), 1.0, lambda _: None)
    assert [each.latents for each in found] == [1, 2, 4, 8, 16]
    assert [len(each.ms) for each in found] == [5] * 5, "five rounds at least, whatever the window"


@pytest.mark.parametrize(
    ("budgets", "few"), [(range(1, 17), (1, 2, 4, 8, 16)), ([1], (1,)), ([3, 5, 12], (3, 5, 12)), (range(1, 4), (1, 3))]
)
def test_the_halves_of_a_ladder(budgets, few):
    assert halves(tuple(budgets)) == few


def test_bins_of_a_sustained_run_tile_its_time(monkeypatch):
    machine = Machine(monkeypatch, lambda _: 125.0)
    bins = list(sustained(machine, 4, 60.0))
    assert [each.n for each in bins] == [16] * 30
    assert bins[0].start_s == 0
    assert all(after.start_s == before.end_s for before, after in pairwise(bins))
    assert bins[-1].end_s == 60.0
    assert {each.median_ms for each in bins} == {125.0}


def test_a_pass_longer_than_a_bin_is_a_bin_of_its_own(monkeypatch):
    machine = Machine(monkeypatch, lambda _: 5000.0)
    assert [each.n for each in sustained(machine, 4, 20.0)] == [1] * 4


ACME = """
    import os, sys
    from elit_edge.runtimes.contract import Ready, Runtime
    from elit_edge.runtimes.onnxruntime_ import RUNTIMES

    (REAL,) = RUNTIMES

    class Acme(Runtime):
        name = "acme"
        def check(self):
            return Ready("1.0")
        def precisions(self, manifest):
            return ("fp32", "fp16", "bf16")
        def prepare(self, files, precision, threads):
            here = sys.modules["__main__"].__spec__.name
            if precision == "bf16":
                raise MemoryError("no room for bf16")
            if precision == "fp16" and here == "elit_edge.bench.worker":
                os.abort()
            print("a library that talks on stdout", flush=True)
            os.write(1, b"and one that does so in C\\n")
            session = REAL.prepare(files, "fp32", threads)
            session.runtime, session.precision = "acme", precision
            return session

    ACME = Acme()
"""


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """A runtime of another distribution, there for child processes too: fp16 aborts in the bench, bf16 always fails."""
    (tmp_path / "acme_bench.py").write_text(dedent(ACME))
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[elit_edge.runtimes]\nacme = acme_bench:ACME")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    all_runtimes.cache_clear()
    yield
    sys.modules.pop("acme_bench", None)
    all_runtimes.cache_clear()


def test_a_runtime_that_crashes_is_one_lost_candidate(acme, tiny_bundle_path):
    said = []
    bundle = Bundle.open(tiny_bundle_path)
    report = bench(bundle, runtime="acme", window_s=0.02, sustained_s=0.2, say=said.append)
    assert [each.title for each in report.candidates] == ["acme fp32"]
    lost = {each.precision: each.reason for each in report.lost}
    assert lost.keys() == {"fp16", "bf16"}
    assert "SIGABRT" in lost["fp16"]
    assert "no room for bf16" in lost["bf16"]
    assert report.sustained is not None
    with pytest.raises(RuntimeUnavailable, match=r"no runtime could be measured: acme fp16: .*SIGABRT"):
        bench(bundle, runtime="acme", precision="fp16", window_s=0.02)


def test_a_worker_that_hangs_is_given_up(monkeypatch, tiny_bundle_path):
    """The limit is ten minutes; here it is short, and the work long and silent."""
    monkeypatch.setattr(asking, "SILENT_S", 0.05)
    task = Task(
        folder=str(tiny_bundle_path), runtime="onnxruntime", precision="fp32", threads=None, seconds=60, sustained=False
    )
    with pytest.raises(WorkerFailed, match="no word from it"):
        list(ask(task))


def test_threads_below_one_are_refused(tiny_bundle_path):
    with pytest.raises(RequestError, match="threads = 0"):
        bench(Bundle.open(tiny_bundle_path), threads=0)


def test_an_interruption_before_anything_was_measured_is_passed_on(monkeypatch, tiny_bundle_path):
    def interrupted(task):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(measuring, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(Bundle.open(tiny_bundle_path), runtime="onnxruntime", window_s=0.02)
