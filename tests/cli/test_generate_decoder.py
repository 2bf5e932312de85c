"""`elit-edge generate` of a bundle of latents with decoders: pictures on disk, deadlines, memory, refusals."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from decoder_graphs import SCALE, SEEDS, SHIFT, entry, pixels_of, with_decoders
from PIL import Image

from elit_edge import decoding, fit
from elit_edge.cli import choosing
from elit_edge.cli.main import main


@pytest.fixture(scope="module")
def bundle(tiny_bundle_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "tiny.elit"
    return with_decoders(tiny_bundle_path, path, entry(), entry("fast"))


@pytest.fixture(autouse=True, scope="module")
def young_process():
    """The process of the tests is old; a command's is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_process_age_s", lambda: 0.1)
        yield


def run(bundle, output, *options):
    words = ["generate", bundle, "--label", 7, "--runtime", "onnxruntime", "-o", output, *options]
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="elit-edge")


def made(bundle, output, *options):
    result = run(bundle, output, *options)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    return result.stderr


def refused(bundle, output, *options):
    result = run(bundle, output, *options)
    assert result.exit_code in (1, 2)
    assert not output.exists()
    return result.stderr.splitlines()[-1]


def picture(path):
    with Image.open(path) as read:
        return np.asarray(read).astype(float), json.loads(read.text["elit-edge"])


def expected(samples, kind):
    pixels = np.moveaxis(pixels_of(samples / SCALE + SHIFT, SEEDS[kind]), 1, -1)[0]
    return np.clip((pixels + 1) / 2 * 255, 0, 255)


STEPS = ("--steps", 2)


@pytest.mark.parametrize("kind", [None, "full", "fast"])
def test_a_png_is_the_decoded_sample(bundle, tmp_path, kind):
    """A grid shows a picture of 32 pixels three times as large."""
    options = () if kind is None else ("--decoder", kind)
    said = made(bundle, tmp_path / "x.png", *STEPS, "--decoder-runtime", "onnxruntime", *options)
    assert re.search(r"x\.png: 1 pictures, .* ms on onnxruntime; decoded whole, \d+ ms on onnxruntime$", said)
    made(bundle, tmp_path / "x.npy", *STEPS)
    found, settings = picture(tmp_path / "x.png")
    assert found.shape == (96, 96, 3)
    assert np.abs(found[1::3, 1::3] - expected(np.load(tmp_path / "x.npy"), kind or "full")).max() < 0.52
    assert (settings["decoder"], settings["tiles"]) == (kind or "full", False)


def test_tiles_are_asked_for_or_taken_where_memory_is_short(bundle, tmp_path, monkeypatch):
    named = (*STEPS, "--decoder-runtime", "openvino")
    assert "decoded in tiles" in made(bundle, tmp_path / "a.png", *named, "--tiles")
    monkeypatch.setattr(decoding, "free_bytes", lambda: 0)
    assert "decoded in tiles" in made(bundle, tmp_path / "b.png", *named)
    assert "decoded whole" in made(bundle, tmp_path / "c.png", *named, "--no-tiles")
    (tiled, settings), (by_memory, _), (whole, _) = (picture(tmp_path / f"{name}.png") for name in "abc")
    assert settings["tiles"] is True
    np.testing.assert_array_equal(tiled, by_memory)
    assert 0 < np.abs(tiled - whole).mean() < 30


def test_samples_alone_are_written_without_decoding(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("elit_edge.cli.generate.Decoding", None)
    said = made(bundle, tmp_path / "x.npy", *STEPS)
    assert "decoded" not in said
    assert np.load(tmp_path / "x.npy").shape == (1, 4, 16, 16)


def test_a_deadline_holds_back_the_time_of_decoding(bundle, tmp_path):
    options = ("--decoder-runtime", "onnxruntime", "--deadline", "20s", "--count", 2)
    said = made(bundle, tmp_path / "first.png", *options)
    assert "measuring the full decoder with onnxruntime on this device (once)" in said
    said = made(bundle, tmp_path / "x.png", *options)
    assert "measuring" not in said
    assert re.search(r"deadline 20000 ms kept: \d+ ms from start to file", said)
    assert picture(tmp_path / "x.png")[0].shape == (96, 196, 3)


def test_a_deadline_that_decoding_alone_would_miss_is_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding.DecoderCost, "expected_ms", lambda *_, **__: 30_000.0)
    options = ("--decoder-runtime", "onnxruntime", "--deadline", "20s")
    assert re.search(r"30\.\d\d s are held back for what follows", refused(bundle, tmp_path / "x.png", *options))


def test_a_bound_of_memory_counts_decoding(bundle, tmp_path):
    options = ("--decoder-runtime", "onnxruntime", "--memory", "1MB")
    assert re.search(r"decoding needs about .* of memory", refused(bundle, tmp_path / "x.png", *options))
    assert "decoded whole" in made(bundle, tmp_path / "y.png", *options[:-1], "20GB")


def test_a_picture_that_does_not_fit_is_refused_before_the_first_step(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("elit_edge.cli.generate.generate", None)
    monkeypatch.setattr("elit_edge.cli.generate.check_memory", lambda *_: None)
    monkeypatch.setattr(fit, "free_bytes", lambda: 10)
    assert "decoding 32 x 32 pixels needs about" in refused(bundle, tmp_path / "x.png", *STEPS)


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("x.npy", ["--decoder", "fast"], "x.npy holds latents, which are not decoded"),
        ("x.jpg", [], "this bundle writes .png or .npy"),
        ("x.png", ["--decoder", "small"], "'small' is not one of 'full', 'fast'"),
        ("x.png", ["--decoder-runtime", "reference"], "it does not compute the full decoder"),
        ("x.png", ["--decoder-runtime", "abacus"], "unknown runtime 'abacus'"),
    ],
)
def test_what_cannot_be_decoded_is_refused(bundle, tmp_path, output, options, words):
    assert words in refused(bundle, tmp_path / output, *STEPS, *options)


def test_a_bundle_without_a_decoder_says_how_to_get_one(tiny_bundle_path, tmp_path):
    words = refused(tiny_bundle_path, tmp_path / "x.png", *STEPS)
    assert "this bundle writes .npy: its samples are latents, and the bundle has no decoder" in words
    assert words.endswith("export it again with --vae DIR")


def test_a_kind_that_the_bundle_lacks_is_refused(tiny_bundle_path, tmp_path):
    fast = with_decoders(tiny_bundle_path, tmp_path / "tiny.elit", entry("fast"))
    assert "has no full decoder; it has: fast" in refused(fast, tmp_path / "x.png", *STEPS, "--decoder", "full")
    assert "decoded whole" in made(fast, tmp_path / "x.png", *STEPS, "--decoder-runtime", "onnxruntime")
