"""`elit-edge calibrate`: a precision made, shown and drawn; refusals in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from elit_edge import parity
from elit_edge.bundle import Bundle
from elit_edge.calibration.calibrating import SCHEMES as MADE
from elit_edge.cli.calibrate import SCHEMES as OFFERED
from elit_edge.cli.main import main
from elit_edge.profiling import turns
from elit_edge.verdict import Calibration

PATIENCE_S = 120


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """Whether a precision is faster is not asked here."""
    monkeypatch.setattr(turns, "ROUNDS", 1)


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="elit-edge")


def calibrate(bundle, output, *more, scheme="w8", pictures=2):
    return cli("calibrate", bundle, "--scheme", scheme, "-o", output, "--pictures", pictures, "--threads", 1, *more)


@pytest.fixture(scope="module")
def small(tiny_bundle_path, tmp_path_factory):
    """The tiny bundle with w8, made by the command; and what it printed."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "ROUNDS", 1)
        result = calibrate(tiny_bundle_path, folder / "small.elit", "--accept-anyway", "--report", folder / "page.html")
    assert result.exit_code == 0, result.output
    return folder, result


def test_it_offers_what_can_be_made():
    assert OFFERED == MADE


def test_a_precision_is_made_told_of_and_drawn(small):
    folder, result = small
    assert "PSNR to float32 is" in result.stdout
    assert "w8, ms" in result.stdout
    assert "w8 accepted" in result.stderr or "REFUSED" in result.stderr
    page = (folder / "page.html").read_text()
    assert "w8 against float32" in page
    assert page.count("<img") == 0  # latents: no pixels to show
    assert Bundle.open(folder / "small.elit").manifest.precisions == ("fp32", "w8")


def test_what_was_proven_can_be_seen_again(small, tmp_path):
    folder, _ = small
    shown = cli("calibrate", folder / "small.elit", "--json", "--report", tmp_path / "again.html")
    assert shown.exit_code == 0, shown.output
    found = msgspec.json.decode(shown.stdout, type=Calibration)
    assert found == Bundle.open(folder / "small.elit").manifest.calibrations[0]
    assert (tmp_path / "again.html").read_text() == (folder / "page.html").read_text()


def test_what_fp16_leaves_in_float32_is_told_at_once_and_again(tiny_bundle_path, tmp_path):
    new = tmp_path / "half.elit"
    made = calibrate(tiny_bundle_path, new, "--accept-anyway", scheme="fp16", pictures=0)
    assert made.exit_code == 0, made.output
    for told in (made.stdout, cli("calibrate", new).stdout):
        (row,) = (line for line in told.splitlines() if line.startswith("write.attn.kv_proj"))
        assert "ReduceL2, Mul, Add, Div sum of squares" in row
        assert "has the least head-room" in " ".join(told.split())


def test_inspect_tells_of_it(small):
    shown = cli("inspect", small[0] / "small.elit").stdout
    assert "dB to fp32 at its worst budget" in shown
    assert "weights-w8.safetensors" in shown


def test_pictures_can_be_made_with_it(small, tmp_path):
    made = cli("generate", small[0] / "small.elit", "--label", "0", "--steps", "1", "--runtime", "onnxruntime",
               "--precision", "w8", "-o", tmp_path / "x.npy")  # fmt: skip
    assert made.exit_code == 0, made.output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--scheme", "int3"), "is not one of"),
        (("--pictures", "1"), "at least two pictures"),
        (("--features", "none.onnx"), "there is no such file"),
        (("--set", "damaged.npz", "--scheme", "int8"), "calibration set"),
        (("--report", "no/such/place.html"), "there is no folder"),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_nothing(tiny_bundle_path, tmp_path, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    Path("damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    result = calibrate(tiny_bundle_path, "new.elit", *more)
    assert result.exit_code != 0
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.npz"]


def test_an_output_needs_a_scheme(tiny_bundle_path, tmp_path):
    result = cli("calibrate", tiny_bundle_path, "-o", tmp_path / "new.elit")
    assert result.exit_code == 1
    assert "--scheme says which precision" in result.stderr


def test_a_bundle_without_calibration_has_none_to_show(tiny_bundle_path):
    result = cli("calibrate", tiny_bundle_path)
    assert result.exit_code == 1
    assert "it has: none; --scheme and -o make one" in result.stderr


def test_a_refusal_says_why_and_how_to_have_it_all_the_same(tiny_bundle_path, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.GATE_DB, "w8", 300.0)
    refused = calibrate(tiny_bundle_path, tmp_path / "new.elit", pictures=0)
    assert refused.exit_code == 1
    assert "is refused: at 1 latents" in refused.stderr
    assert "--accept-anyway" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    taken = calibrate(tiny_bundle_path, tmp_path / "new.elit", "--accept-anyway", pictures=0)
    assert taken.exit_code == 0, taken.output
    assert "w8 REFUSED, written all the same" in taken.stderr
    assert "refused: at 1 latents" in taken.stdout


def test_a_killed_run_leaves_no_bundle_and_the_next_one_clears_up(tiny_bundle_path, tmp_path):
    """Really killed, in the middle of its pictures."""
    target = tmp_path / "new.elit"
    program = Path(sys.executable).with_name("elit-edge")
    command = [program, "calibrate", tiny_bundle_path, "--scheme", "w8"]
    run = subprocess.Popen([*command, "-o", target, "--pictures", "4000"], env=dict(os.environ))
    begun = time.monotonic()
    while not list(tmp_path.glob(".new.elit.part-*/onnx/weights-w8.safetensors")):
        assert time.monotonic() - begun < PATIENCE_S
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not target.exists()
    assert calibrate(tiny_bundle_path, target, "--accept-anyway", pictures=0).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new.elit"]
