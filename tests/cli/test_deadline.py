"""`elit-edge generate` within bounds: what it chose, whether it kept them, and refusals before any work."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from elit_edge.cli import choosing
from elit_edge.cli.main import main


def generate(bundle, output, *options):
    named = () if "--runtime" in options else ("--runtime", "onnxruntime")
    words = ["generate", bundle, "--label", "1", *named, *options, "-o", output]
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="elit-edge")


def refused(result, output):
    """The message of a refusal that left nothing."""
    assert result.exit_code in (1, 2), result.stderr
    assert not Path(output).exists()
    return result.stderr.splitlines()[-1]


AGE = choosing._process_age_s


@pytest.fixture(autouse=True, scope="module")
def young_process():
    """The process of the tests is old; a command's is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_process_age_s", lambda: 0.1)
        yield


@pytest.fixture(scope="module")
def measured(tiny_bundle_path, tmp_path_factory):
    """The bundle, its runtime measured in the cache of the test run."""
    result = generate(tiny_bundle_path, tmp_path_factory.mktemp("first") / "out.npy", "--deadline", "5s")
    assert result.exit_code == 0, result.stderr
    return tiny_bundle_path


def test_a_deadline_is_kept_and_what_was_done_is_said(measured, tmp_path):
    output = tmp_path / "out.npy"
    begun = time.perf_counter()
    result = generate(measured, output, "--deadline", "20s")
    assert result.exit_code == 0, result.stderr
    assert time.perf_counter() - begun < 20
    assert np.isfinite(np.load(output)).all()
    assert result.stdout == ""
    assert "plan: onnxruntime fp32, " in result.stderr
    assert "planned with the paper's figures" in result.stderr, "the tiny bundle has no table of its own"
    assert re.search(r"deadline 20000 ms kept: \d+ ms from start to file", result.stderr)


def test_the_first_time_the_device_is_measured_outside_the_deadline(tiny_bundle_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = generate(tiny_bundle_path, tmp_path / "out.npy", "--deadline", "3s")
    assert result.exit_code == 0, result.stderr
    assert "measuring onnxruntime fp32 on this device (once)\n" in result.stderr
    assert "deadline 3000 ms" in result.stderr


def test_explain_shows_what_was_chosen_from(measured, tmp_path):
    result = generate(measured, tmp_path / "out.npy", "--deadline", "20s", "--explain")
    assert "Plans" in result.stderr
    assert "chosen" in result.stderr
    assert "worse" in result.stderr


@pytest.mark.parametrize("words", ["0s", "-1s", "2", "two seconds", "nan", ""])
def test_a_deadline_that_is_no_time_is_a_usage_error(measured, tmp_path, words):
    result = generate(measured, tmp_path / "out.npy", "--deadline", words)
    assert result.exit_code == 2
    assert "--deadline" in refused(result, tmp_path / "out.npy")


def test_a_deadline_that_has_passed_already_is_refused(measured, tmp_path):
    words = refused(generate(measured, tmp_path / "out.npy", "--deadline", "100ms"), tmp_path / "out.npy")
    assert words.startswith("error: of 0.1 s no time is left to generate: ")


def test_a_deadline_below_the_fastest_plan_is_refused_with_that_plan(measured, tmp_path, monkeypatch):
    clock = choosing.Clock
    monkeypatch.setattr(clock, "elapsed_s", lambda _: 0.0)
    words = refused(generate(measured, tmp_path / "out.npy", "--deadline", "21ms"), tmp_path / "out.npy")
    assert re.match(r"error: no plan keeps \d ms here; the fastest needs \d+ ms: onnxruntime fp32, ", words)


@pytest.mark.parametrize(
    "option", [("--steps", "3"), ("--latents", "4"), ("--solver", "heun"), ("--weak-latents", "2")]
)
def test_what_the_plan_chooses_is_refused_beside_a_deadline(measured, tmp_path, option):
    words = refused(generate(measured, tmp_path / "out.npy", "--deadline", "5s", *option), tmp_path / "out.npy")
    assert "beside a deadline: leave" in words


def test_memory_bounds_the_choice_and_a_bound_too_small_is_refused_with_the_nearest(measured, tmp_path):
    result = generate(measured, tmp_path / "out.npy", "--memory", "4GB")
    assert result.exit_code == 0, result.stderr
    words = refused(generate(measured, tmp_path / "less.npy", "--memory", "1MB"), tmp_path / "less.npy")
    assert re.match(r"error: no plan holds within 1 MB for 1 pictures at once; the nearest needs \d+ MB: ", words)


def test_energy_without_a_sensor_is_refused(measured, tmp_path):
    words = refused(generate(measured, tmp_path / "out.npy", "--energy", "5"), tmp_path / "out.npy")
    assert "an energy bound needs a sensor" in words


def test_the_age_of_a_process_is_known_where_proc_is():
    """This process runs longer than the test, and not longer than the machine."""
    begun = time.perf_counter()
    assert time.perf_counter() - begun < AGE() < time.clock_gettime(time.CLOCK_BOOTTIME)
