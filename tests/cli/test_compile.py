"""`elit-edge compile`, as it is typed: real engines, interrupted and killed builds, wrong arguments."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from elit_edge import Bundle
from elit_edge.cli.main import main
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.tensorrt_.library import TENSORRT, TENSORRT_RTX

STATE = TENSORRT_RTX.state()
needs_rtx = pytest.mark.skipif(isinstance(STATE, Missing), reason=f"TensorRT for RTX: {STATE}")


@pytest.fixture
def bundle(tiny_bundle_path, tmp_path):
    """A copy that the test may change."""
    return shutil.copytree(tiny_bundle_path, tmp_path / "tiny.elit")


def run(*arguments):
    return CliRunner().invoke(main, ["compile", *map(str, arguments)])


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_rtx
def test_it_says_what_it_made_and_inspect_shows_it(bundle):
    made = run(
        bundle, "--target", "tensorrt-rtx", "--compute-capability", "8.6", "--compute-capability", "8.9", "--json"
    )
    assert made.exit_code == 0, made.output
    engines = json.loads(made.stdout)
    assert [engine["role"] for engine in engines] == ["condition", "velocity"]
    assert all(engine["compute_capabilities"] == ["8.6", "8.9"] for engine in engines)
    size = (bundle / "engines/velocity-fp32.tensorrt-rtx").stat().st_size
    assert f"engines/velocity-fp32.tensorrt-rtx: {size / 1e6:.1f} MB, 1 profile" in made.stderr
    assert "compiled without a GPU" in made.stderr
    shown = CliRunner().invoke(main, ["inspect", str(bundle)], env={"COLUMNS": "200"})
    assert "engines/velocity-fp32.tensorrt-rtx" in shown.output
    assert "8.6, 8.9; 1 profile, compiled without a GPU" in shown.output


@needs_rtx
def test_a_profile_a_budget(bundle):
    made = run(bundle, "--target", "tensorrt-rtx", "--profiles", "per-budget", "--compute-capability", "8.6")
    assert "16 profiles" in made.stderr
    velocity = Bundle.open(bundle).manifest.engines[1]
    assert [profile.latents.typical for profile in velocity.profiles] == list(range(1, 17))


no_classic = pytest.mark.skipif(not isinstance(TENSORRT.state(), Missing), reason="TensorRT is installed")
RTX = ("--target", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([*RTX, "--precision", "fp16"], "tiny has no fp16 graphs; it has: fp32", id="precision"),
        pytest.param([*RTX, "--compute-capability", "8.7"], "capability 8.7", id="orin", marks=needs_rtx),
        pytest.param([*RTX, "--timing-cache", "x"], "has no use for x", id="cache", marks=needs_rtx),
        pytest.param(["--target", "tensorrt"], "TensorRT is not installed", id="classic", marks=no_classic),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_the_bundle(bundle, arguments, words):
    before = contents(bundle)
    refused = run(bundle, *arguments)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    (line,) = refused.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert contents(bundle) == before


@pytest.mark.parametrize("arguments", [[], ["--target", "coreai"], ["--target", "tensorrt", "--profiles", "all"]])
def test_what_click_refuses(bundle, arguments):
    assert run(bundle, *arguments).exit_code == 2


def test_too_little_disk_is_said_before_the_work(bundle, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    refused = run(bundle, "--target", "tensorrt-rtx")
    assert refused.exit_code == 1
    assert "1.0 MB free" in refused.stderr


def begun(bundle):
    """A build of 16 profiles in a process of its own, some way into it."""
    command = [str(Path(sys.executable).with_name("elit-edge")), "compile", str(bundle), "--target", "tensorrt-rtx"]
    process = subprocess.Popen([*command, "--profiles", "per-budget"], stderr=subprocess.PIPE, text=True)
    parts = f".{bundle.name}.part-{process.pid}-*/engines"
    while not list(bundle.parent.glob(parts)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)
    return process


@needs_rtx
def test_an_interrupted_build_leaves_the_bundle_as_it_was(bundle):
    before = contents(bundle)
    process = begun(bundle)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert words.strip() == "interrupted: nothing half-made was kept; run the command again"
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


@needs_rtx
def test_after_a_killed_build_the_bundle_is_whole_and_the_next_one_clears_up(bundle):
    before = contents(bundle)
    process = begun(bundle)
    process.kill()
    process.communicate()
    assert contents(bundle) == before
    Bundle.open(bundle)
    assert run(bundle, "--target", "tensorrt-rtx", "--compute-capability", "8.6").exit_code == 0
    assert list(bundle.parent.iterdir()) == [bundle]
    assert len(Bundle.open(bundle).manifest.engines) == 2


@needs_rtx
def test_a_damaged_engine_is_named_when_the_bundle_is_opened(bundle):
    run(bundle, "--target", "tensorrt-rtx", "--compute-capability", "8.6")
    engine = bundle / "engines/velocity-fp32.tensorrt-rtx"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    shown = CliRunner().invoke(main, ["inspect", str(bundle)])
    assert shown.exit_code == 1
    assert "engines/velocity-fp32.tensorrt-rtx does not match its digest" in shown.output


@needs_rtx
def test_without_a_gpu_the_engine_is_not_run_and_auto_says_why(bundle):
    run(bundle, "--target", "tensorrt-rtx", "--compute-capability", "8.6")
    from elit_edge.runtimes.registry import all_runtimes

    if not isinstance(all_runtimes()["tensorrt-rtx"].check(), Missing):
        pytest.skip("there is a GPU")
    asked = CliRunner().invoke(
        main, ["generate", str(bundle), "--label", "0", "--runtime", "tensorrt-rtx", "-o", "x.npy"]
    )
    assert asked.exit_code == 1
    assert "runtime tensorrt-rtx is not ready here: no NVIDIA driver" in asked.output
    with Bundle.open(bundle).prepare() as session:
        assert any(words.startswith("tensorrt-rtx: no NVIDIA driver") for words in session.passed_over)
