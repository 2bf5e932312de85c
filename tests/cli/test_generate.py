"""`elit-edge generate`: the API's pictures, with their settings inside, or one line and no file."""

from __future__ import annotations

import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

from elit_edge.bundle import Bundle
from elit_edge.cli.main import main
from elit_edge.export.exporter import export
from elit_edge.generation import generate
from elit_edge.model.checkpoint import read_checkpoint

SCRIPT = Path(sys.executable).with_name("elit-edge")
PATIENCE_S = 120


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="elit-edge")


def assert_refused(result, *words):
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def made(bundle, output, *options):
    """Run the command on one runtime; what it wrote."""
    named = () if "--runtime" in options else ("--runtime", "onnxruntime")
    result = cli("generate", bundle, *options, *named, "-o", output)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert result.stderr.startswith(f"{output}: ")
    return np.load(output) if output.suffix == ".npy" else picture(output)[0]


def picture(path):
    """Pixels and settings of a PNG."""
    with Image.open(path) as read:
        assert read.format == "PNG"
        return np.asarray(read), json.loads(read.text["elit-edge"])


@pytest.fixture(scope="session")
def sample_checkpoint_path():
    with resources.as_file(resources.files("elit_edge.data") / "sample.safetensors") as path:
        yield path


@pytest.fixture(scope="session")
def pixel_bundle_path(sample_checkpoint_path, tmp_path_factory):
    """The bundle of the sample model that ships: pixels and named classes."""
    target = tmp_path_factory.mktemp("bundles") / "sample.elit"
    export(read_checkpoint(sample_checkpoint_path), target, check=False)
    return target


@pytest.fixture(scope="session")
def class_names(sample_checkpoint_path):
    """As the file itself says them."""
    with safe_open(sample_checkpoint_path, "np") as file:
        return json.loads(file.metadata()["config"])["class_names"]


@pytest.fixture(scope="module")
def latents_session(tiny_bundle_path):
    with Bundle.open(tiny_bundle_path).prepare("onnxruntime") as session:
        yield session


@pytest.fixture(scope="module")
def pixel_session(pixel_bundle_path):
    with Bundle.open(pixel_bundle_path).prepare("onnxruntime") as session:
        yield session


GUIDED = ["--steps", 3, "--scale", 3, "--weak-latents", 2, "--interval", 0.2, 0.9]
GUIDED_SETTINGS = {"steps": 3, "scale": 3.0, "weak_latents": 2, "interval": (0.2, 0.9)}


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--steps", 2, "--seed", 2**64 - 1], {"steps": 2, "seed": 2**64 - 1}),
        (["--steps", 2, "--latents", 5], {"steps": 2, "latents": 5}),
        (["--latents", "16,4,1"], {"latents": (16, 4, 1)}),
        (["--steps", 2, "--solver", "heun"], {"steps": 2, "solver": "heun"}),
        (["--steps", 2, "--solver", "euler-maruyama"], {"steps": 2, "solver": "euler-maruyama"}),
        *(
            ([*GUIDED, "--guidance", kind], {**GUIDED_SETTINGS, "guidance": kind})
            for kind in ("none", "cfg", "ccfg", "autoguidance")
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_the_samples_are_those_of_the_api(options, settings, tiny_bundle_path, latents_session, tmp_path):
    samples = made(tiny_bundle_path, tmp_path / "x.npy", "--label", 7, *options)
    assert samples.dtype == np.float32
    assert samples.shape == (1, 4, 16, 16)
    np.testing.assert_array_equal(samples, generate(latents_session, [7], **settings).samples.astype(np.float32))


def test_every_kind_of_guidance_makes_another_sample(tiny_bundle_path, tmp_path):
    samples = [
        made(tiny_bundle_path, tmp_path / f"{kind}.npy", "--label", 7, *GUIDED, "--guidance", kind)
        for kind in ("none", "cfg", "ccfg", "autoguidance")
    ]
    for one, other in itertools.combinations(samples, 2):
        assert not np.allclose(one, other, atol=1e-3)


def test_a_seed_makes_its_own_picture_again(tiny_bundle_path, tmp_path):
    first, again, other = (
        made(tiny_bundle_path, tmp_path / f"{i}.npy", "--label", 7, "--steps", 2, "--seed", seed)
        for i, seed in enumerate([5, 5, 6])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)


def test_count_makes_as_many_of_each_label(tiny_bundle_path, latents_session, tmp_path):
    options = ["--label", 7, "--label", 2, "--count", 2, "--steps", 2]
    samples = made(tiny_bundle_path, tmp_path / "x.npy", *options)
    np.testing.assert_array_equal(samples, generate(latents_session, [7, 7, 2, 2], steps=2).samples.astype(np.float32))


def test_the_reference_runtime_makes_the_same_sample(tiny_bundle_path, tmp_path):
    one, other = (
        made(tiny_bundle_path, tmp_path / f"{name}.npy", "--label", 7, "--steps", 3, "--runtime", name, "--threads", 1)
        for name in ("onnxruntime", "reference")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_pixels_can_be_had_as_samples_too(pixel_bundle_path, pixel_session, tmp_path):
    samples = made(pixel_bundle_path, tmp_path / "x.npy", "--label", "clock", "--steps", 2)
    assert samples.shape == (1, 3, 32, 32)
    np.testing.assert_array_equal(samples, generate(pixel_session, ["clock"], steps=2).samples.astype(np.float32))


def test_a_png_shows_the_apis_pictures_in_a_grid(pixel_bundle_path, pixel_session, tmp_path):
    options = ["--label", "heart", "--label", "smiley", "--count", 2, "--latents", "16,4", "--seed", 3]
    sheet = made(pixel_bundle_path, tmp_path / "x.png", *options)
    expected = generate(pixel_session, ["heart", "heart", "smiley", "smiley"], latents=(16, 4), seed=3).images
    assert sheet.shape == (2 * 96 + 4, 2 * 96 + 4, 3)
    for i, image in enumerate(expected):
        top, left = 100 * (i // 2), 100 * (i % 2)
        np.testing.assert_array_equal(sheet[top + 1 : top + 96 : 3, left + 1 : left + 96 : 3], image)


@pytest.mark.parametrize("name", ["heart", "clock", "smiley", "flower"])
def test_a_label_by_name_is_the_label_by_number(name, class_names, pixel_bundle_path, tmp_path):
    number = class_names.index(name)
    by_name = made(pixel_bundle_path, tmp_path / "name.png", "--label", name, "--steps", 1)
    by_number = made(pixel_bundle_path, tmp_path / "number.png", "--label", number, "--steps", 1)
    np.testing.assert_array_equal(by_name, by_number)
    assert picture(tmp_path / "name.png")[1]["labels"] == [number]


def test_the_settings_in_a_png_make_the_same_picture_again(class_names, pixel_bundle_path, tmp_path):
    options = ["--label", "flower", "--label", "clock", "--latents", "16,9,2", "--solver", "heun", "--seed", 2**63]
    guidance = ["--guidance", "autoguidance", "--scale", 1.75, "--weak-latents", 3, "--interval", 0.1, 0.8]
    sheet = made(pixel_bundle_path, tmp_path / "x.png", *options, *guidance)
    settings = picture(tmp_path / "x.png")[1]
    wanted = {
        "bundle": "sample",
        "labels": [class_names.index("flower"), class_names.index("clock")],
        "latents": [16, 9, 2],
        "solver": "heun",
        "seed": 2**63,
        "guidance": "autoguidance",
        "scale": 1.75,
        "weak_latents": 3,
        "interval": [0.1, 0.8],
    }
    assert settings.items() >= wanted.items()
    again = [f"--label={label}" for label in settings["labels"]]
    again += [f"--latents={','.join(map(str, settings['latents']))}", "--interval", *settings["interval"]]
    again += [f"--{key.replace('_', '-')}={settings[key]}" for key in ("solver", "seed", "guidance", "scale")]
    again += [f"--weak-latents={settings['weak_latents']}"]
    np.testing.assert_array_equal(made(pixel_bundle_path, tmp_path / "again.png", *again), sheet)


def test_an_existing_output_is_refused_and_force_replaces_it(tiny_bundle_path, tmp_path):
    output = tmp_path / "x.npy"
    output.write_bytes(b"mine")
    command = ["generate", tiny_bundle_path, "--label", 7, "--steps", 1, "-o", output]
    assert_refused(cli(*command), "x.npy exists", "--force")
    assert output.read_bytes() == b"mine"
    assert cli(*command, "--force").exit_code == 0
    assert np.load(output).shape == (1, 4, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label", "zebra"], ["'zebra'", "0 to 9"]),
        (["--label", "10"], ["'10'", "0 to 9"]),
        (["--label", "-1"], ["'-1'", "0 to 9"]),
        (["--latents", "0"], ["latents = 0", "1 to 16"]),
        (["--latents", "17"], ["latents = 17", "1 to 16"]),
        (["--latents", "16,17"], ["latents = 17", "1 to 16"]),
        (["--latents", "16,4", "--steps", "3"], ["2 budgets for 3 steps", "one for each step"]),
        (["--steps", "0"], ["steps = 0", "at least one step"]),
        (["--steps", "-2"], ["at least one step"]),
        (["--weak-latents", "17"], ["17", "1 to 16"]),
        (["--scale", "-1"], ["scale -1", "at least 0"]),
        (["--scale", "nan"], ["scale nan", "at least 0"]),
        (["--interval", "0.9", "0.1"], ["0.9..0.1", "low end first"]),
        (["--seed", "-1"], ["seed -1", "0 .. 2^64 - 1"]),
        (["--seed", str(2**64)], ["seed", "0 .. 2^64 - 1"]),
        (["--runtime", "quantum"], ["'quantum'", "onnxruntime, openvino, reference"]),
        (["--precision", "fp8"], ["fp8", "fp32"]),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_a_value_that_is_not_to_be_had_is_refused_with_those_that_are(options, words, tiny_bundle_path, tmp_path):
    label = [] if "--label" in options else ["--label", "7"]
    assert_refused(cli("generate", tiny_bundle_path, *label, *options, "-o", tmp_path / "x.npy"), *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_answered_with_the_known_ones(class_names, pixel_bundle_path, tmp_path):
    result = cli("generate", pixel_bundle_path, "--label", "zebra", "-o", tmp_path / "x.png")
    assert_refused(result, "'zebra'", ", ".join(class_names), "0 to 11")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fixture", "name", "allowed"),
    [
        ("tiny_bundle_path", "x.png", "writes .npy"),
        ("tiny_bundle_path", "x", "writes .npy"),
        ("pixel_bundle_path", "x.jpg", "writes .png or .npy"),
        ("pixel_bundle_path", "x.PNG.txt", "writes .png or .npy"),
    ],
)
def test_a_suffix_that_the_bundle_does_not_write_is_refused(fixture, name, allowed, request, tmp_path):
    bundle = request.getfixturevalue(fixture)
    assert_refused(cli("generate", bundle, "--label", 7, "-o", tmp_path / name), name, allowed)
    assert list(tmp_path.iterdir()) == []


def flip_a_bit_of_the_weights(bundle):
    path = bundle / "onnx" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_the_manifest(bundle):
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_graph(bundle):
    (bundle / "onnx" / "velocity.onnx").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_bit_of_the_weights, ["weights.safetensors", "digest", "export it again"]),
        (cut_the_manifest, ["manifest.json", "export the bundle again"]),
        (lose_a_graph, ["velocity.onnx missing", "export it again"]),
        (shutil.rmtree, ["no bundle", "elit-edge export"]),
    ],
)
def test_a_damaged_or_missing_bundle_makes_no_picture(damage, words, tiny_bundle_path, tmp_path):
    bundle = shutil.copytree(tiny_bundle_path, tmp_path / "bundle" / "x.elit")
    damage(bundle)
    output = tmp_path / "output"
    output.mkdir()
    assert_refused(cli("generate", bundle, "--label", 7, "--steps", 1, "-o", output / "x.npy"), *words)
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(
    "place",
    [
        "none/x.npy",
        "file/x.npy",
        pytest.param(
            f"{'x' * 300}.npy",
        ),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(place, tiny_bundle_path, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = cli("generate", tiny_bundle_path, "--label", 7, "--steps", 1, "-o", tmp_path / place)
    assert_refused(result, f"cannot write {tmp_path / place}", "choose another place")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def read_until(terminal, word):
    seen = b""
    while word not in seen:
        assert select.select([terminal], [], [], PATIENCE_S)[0], seen
        seen += os.read(terminal, 4096)


def test_ctrl_c_in_the_middle_of_a_run_leaves_no_file_and_exits_with_1(tiny_bundle_path, tmp_path):
    """On a terminal, so that the progress bar tells when the middle is."""
    terminal, stderr = pty.openpty()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [SCRIPT, "generate", tiny_bundle_path, "--label", "7", "--steps", "1000000", "-o", tmp_path / "x.npy"],
            env={**os.environ, "TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(stderr)
    with process:
        try:
            read_until(terminal, b"generate")
            process.send_signal(signal.SIGINT)
            read_until(terminal, b"interrupted")
            assert process.wait(PATIENCE_S) == 1
            assert process.stdout.read() == b""
        finally:
            process.kill()
            os.close(terminal)
    assert list(tmp_path.iterdir()) == []
