"""Measuring the ready runtimes of a bundle: each in its own process, once, cached, locked; and what `auto` takes."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest
from filelock import FileLock

from elit_edge.bundle import Bundle
from elit_edge.costs import Conditions, Point, Profile
from elit_edge.errors import BundleError, RuntimeUnavailable
from elit_edge.profiling import cache as cache_module
from elit_edge.profiling import choosing as profiles
from elit_edge.profiling.cache import Known
from elit_edge.profiling.choosing import PassedOver, Profiles, profiles_of
from elit_edge.profiling.worker import Measured
from elit_edge.runtimes.contract import Ready
from elit_edge.runtimes.registry import all_runtimes, choose


@pytest.fixture
def files(tiny_bundle_path):
    return Bundle.open(tiny_bundle_path).files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own; its store, once there is one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: next((tmp_path / "elit-edge" / "profiles").glob("*.json"))


def told(files, **options):
    """What is found, and what was said on the way."""
    said = []
    found = profiles_of(files, runtime=options.pop("runtime", "onnxruntime"), report=said.append, **options)
    return found, said


def profile(runtime, ms, precision="fp32"):
    """A made-up profile whose pass takes `ms` at every budget."""
    return Profile(
        runtime=runtime,
        precision=precision,
        version="1",
        threads=None,
        open_ms=1.0,
        points=tuple(
            Point(latents=j, batch=b, first_ms=ms, median_ms=ms * b, p90_ms=ms, n=3) for j in (1, 16) for b in (1, 2)
        ),
        conditions=(Conditions(rows=2, median_ms=0.1),),
        solver_ms=0.01,
        waking_ms=0.0,
        drift=0.01,
        memory=(),
        watts=None,
    )


def test_a_runtime_is_measured_in_a_process_of_its_own_and_once(files, cache):
    found, said = told(files)
    assert said == ["measuring onnxruntime fp32 on this device (once)"]
    (first,) = found.found
    assert (first.runtime, first.precision, first.threads) == ("onnxruntime", "fp32", None)
    assert {1, 16} <= {point.latents for point in first.points}
    assert {1, 2} <= {point.batch for point in first.points}
    assert all(0 < point.median_ms <= point.p90_ms * 1.0001 for point in first.points)
    assert all(memory.peak_bytes > 20e6 for memory in first.memory)
    assert first.open_ms > 0
    again, said = told(files)
    assert (again, said) == (found, [])
    assert json.loads(cache().read_text())["measured"]


def test_other_threads_are_another_profile(files, cache):
    told(files)
    found, said = told(files, threads=1)
    assert len(said) == 1
    assert found.found[0].threads == 1


def test_without_measuring_only_the_cache_answers(files, cache):
    found, said = told(files, measure_missing=False)
    assert (found.found, said) == ((), [])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"elit_edge": 3}', b"[" * 100_000, b"null"])
def test_a_damaged_cache_is_said_measured_again_and_replaced(files, cache, content):
    measured, _ = told(files)
    cache().write_bytes(content)
    found, said = told(files)
    assert re.match(r"cannot read the cache .*measuring again", said[0])
    assert said[1:] == ["measuring onnxruntime fp32 on this device (once)"]
    assert [point.latents for point in found.found[0].points][:2] == [16, 1]
    assert told(files) == (found, [])
    del measured


def test_a_cache_of_another_version_is_measured_again(files, cache, monkeypatch):
    told(files)
    monkeypatch.setattr(cache_module, "__version__", "99")
    _, said = told(files)
    assert said == ["measuring onnxruntime fp32 on this device (once)"]


def test_a_cache_that_cannot_be_written_is_said_and_no_hindrance(files, tmp_path, monkeypatch):
    (tmp_path / "elit-edge").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found, said = told(files)
    assert len(found.found) == 1
    assert "no cache at" in said[0]


def test_two_processes_at_once_measure_once(files, cache, tmp_path):
    code = dedent("""
        import sys
        from pathlib import Path
        from elit_edge.bundle_files import BundleFiles
        from elit_edge.profiling.choosing import profiles_of
        said = []
        found = profiles_of(BundleFiles.open(Path(sys.argv[1])), runtime="onnxruntime", report=said.append)
        print(len(found.found), len(said))
    """)
    command = [sys.executable, "-c", code, str(files.folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) for _ in range(2)]
    answers = sorted(process.communicate(timeout=120)[0].split() for process in both)
    assert answers == [["1", "0"], ["1", "1"]]


def test_a_lock_that_is_never_released_is_waited_for_and_then_left(files, cache, monkeypatch):
    told(files)
    monkeypatch.setattr(cache_module, "LOCK_S", 0.2)
    with FileLock(cache().with_suffix(".lock")):
        started = time.perf_counter()
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(told(files)))
        thread.start()
        thread.join(60)
    assert time.perf_counter() - started < 60
    ((known, said),) = found
    assert len(known.found) == 1
    assert "another process has been measuring" in said[0]


def test_a_runtime_that_crashes_is_passed_over(files, cache, tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text(
        dedent("""
        import os
        from elit_edge.runtimes.contract import Ready, Runtime
        class Crashing(Runtime):
            name = "crashing"
            def check(self): return Ready("1")
            def precisions(self, manifest): return ("fp32",)
            def prepare(self, files, precision, threads): os.abort()
        RUNTIME = Crashing()
        """)
    )
    info = tmp_path / "crashing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crashing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[elit_edge.runtimes]\ncrashing = crashing:RUNTIME")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    all_runtimes.cache_clear()
    try:
        found, _ = told(files, runtime="crashing")
    finally:
        all_runtimes.cache_clear()
    assert found.found == ()
    (lost,) = found.passed_over
    assert lost.runtime == "crashing"
    assert "failed when measured" in lost.reason


def test_a_precision_that_a_runtime_does_not_have_is_passed_over(files, cache):
    found, _ = told(files, precision="int3")
    assert found.found == ()
    assert found.passed_over == (PassedOver("onnxruntime", "int3", "it computes in fp32 alone"),)


def test_a_runtime_whose_numbers_are_others_is_passed_over(files, cache):
    right = Measured(profile=profile("onnxruntime", 2), velocity=(0.0, 1.0, 2.0, 3.0))
    wrong = Measured(profile=profile("strange", 1), velocity=(0.0, 1.0, 2.0, 3.1))
    keys = [("onnxruntime", "fp32", "1"), ("strange", "fp32", "1")]
    measured = {profiles._key(key, None): value for key, value in zip(keys, (right, wrong), strict=True)}
    judged = profiles._judged(keys, Known(elit_edge="1", measured=measured), [], None)
    assert judged.found == (right.profile,)
    (lost,) = judged.passed_over
    # by hand: mean squared error 0.01 / 4, peak 3: 10 log10(9 / 0.0025) = 35.6
    assert lost.reason == "36 dB from onnxruntime fp32, and the gate is 110 dB"


def test_the_fastest_over_the_ladder_is_taken_and_the_others_told_why():
    slow, fast = profile("slow", 3), profile("fast", 2)
    missing = PassedOver("third", None, "not installed")
    best, lost = Profiles((slow, fast), (missing,)).fastest({j: 1000 * j for j in range(1, 17)})
    assert best is fast
    assert [each.words() for each in lost] == ["slow fp32: 1.50 times the time (3 ms a pass)", "third: not installed"]


def test_side_by_side_decides_between_two_that_are_close():
    one, other, third = profile("one", 2.0), profile("other", 2.2), profile("third", 9)
    key = profiles.duel_key(one, other)
    best, lost = Profiles((one, other, third), (), {key: 1.25}).fastest({j: 1000 * j for j in range(1, 17)})
    assert best is other
    assert [each.words() for each in lost] == [
        "one fp32: 1.25 times the time, side by side",
        "third fp32: 4.09 times the time (9 ms a pass)",
    ]
    best, lost = Profiles((one, other), (), {key: 0.8}).fastest({j: 1000 * j for j in range(1, 17)})
    assert best is one
    assert lost[0].words() == "other fp32: 1.25 times the time, side by side"


def test_two_runtimes_that_are_close_really_run_side_by_side_once(tiny_bundle_path, cache, monkeypatch):
    monkeypatch.setattr(profiles, "CLOSE", 1e9)
    files = Bundle.open(tiny_bundle_path).files
    first, said = told(files, runtime="auto", precision="fp32")
    assert len([words for words in said if "side by side (once)" in words]) == 1
    (one, one_ms), (other, _), *_ = first.ranked({rung.latents: rung.velocity_flops for rung in files.manifest.ladder})
    ratio = first.duels[profiles.duel_key(one, other)]
    assert first.duels[profiles.duel_key(other, one)] == pytest.approx(1 / ratio)
    assert 0.01 < ratio < 100
    assert one_ms > 0
    assert told(files, runtime="auto", precision="fp32") == (first, [])


def test_where_none_is_ready_each_reason_is_given():
    with pytest.raises(RuntimeUnavailable, match="no runtime is ready here: third: not installed; fourth: broken"):
        Profiles((), (PassedOver("third", None, "not installed"), PassedOver("fourth", None, "broken"))).fastest({1: 1})


def test_auto_takes_one_that_was_measured_and_says_why_not_the_others(tiny_bundle_path):
    said = []
    with Bundle.open(tiny_bundle_path).prepare(report=said.append) as session:
        assert session.profile is not None
        assert (session.profile.runtime, session.profile.precision) == (session.runtime, session.precision)
        others = set(all_runtimes()) - {session.runtime}
        assert {words.split()[0].rstrip(":") for words in session.passed_over} == others


def test_a_single_runtime_needs_no_measuring(tiny_bundle_path, cache, monkeypatch):
    monkeypatch.setattr(profiles, "all_runtimes", lambda: {"onnxruntime": choose("onnxruntime")})
    said = []
    with Bundle.open(tiny_bundle_path).prepare(report=said.append) as session:
        assert session.runtime == "onnxruntime"
    assert said == []


def test_a_named_runtime_has_its_profile_where_it_was_measured(tiny_bundle_path, files, cache):
    bundle = Bundle.open(tiny_bundle_path)
    with bundle.prepare("onnxruntime") as session:
        assert session.profile is None
    told(files)
    with bundle.prepare("onnxruntime") as session:
        assert session.profile is not None
        assert session.profile.runtime == "onnxruntime"


def test_a_precision_that_a_named_runtime_cannot_compute_is_refused(tiny_bundle_path):
    with pytest.raises(BundleError, match=r"cannot be computed in fp16 by onnxruntime; it can in: fp32"):
        Bundle.open(tiny_bundle_path).prepare("onnxruntime", "fp16")


def test_a_profile_survives_its_file():
    measured = Measured(profile=profile("onnxruntime", 2), velocity=(1.0,))
    assert msgspec.json.decode(msgspec.json.encode(measured), type=Measured) == measured


def test_the_worker_writes_to_its_answer_alone(tiny_bundle_path, tmp_path):
    answer = tmp_path / "answer.json"
    worker = [sys.executable, "-m", "elit_edge.profiling.worker", str(tiny_bundle_path), "onnxruntime", "fp32", "1"]
    subprocess.run([*worker, str(answer)], check=True, stdout=subprocess.PIPE)
    assert msgspec.json.decode(Path(answer).read_bytes(), type=Measured).profile.threads == 1


def test_a_strangers_runtime_that_breaks_its_promises_harms_no_other(tiny_bundle_path, cache, monkeypatch):
    class Raising:
        def check(self):
            raise OSError("no driver")

    class Old:
        def check(self):
            return Ready("1")

    runtimes = {"raising": Raising(), "old": Old(), "onnxruntime": choose("onnxruntime")}
    monkeypatch.setattr(profiles, "all_runtimes", lambda: runtimes)
    with Bundle.open(tiny_bundle_path).prepare() as session:
        assert session.runtime == "onnxruntime"
        raising, old = session.passed_over
    assert raising == "raising: its check failed: no driver; update or uninstall it"
    assert re.match("old: it cannot say its precisions: .*update or uninstall it", old)
