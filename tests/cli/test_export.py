"""`elit-edge export`: one bundle from a good checkpoint, one line and no debris from anything else."""

from __future__ import annotations

import functools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from elit_edge.bundle import Bundle
from elit_edge.cli.main import main
from elit_edge.export import model_graphs, onnx_graphs
from elit_edge.model.checkpoint import config_json
from elit_edge.model.published_keys import to_published
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHECKPOINT = FIXTURES / "official_tiny_a.pt"
CONFIG = FIXTURES / "official_tiny_a.json"

SCRIPT = Path(sys.executable).with_name("elit-edge")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Two processes with a thread a core each would only wait for each other."""
PATIENCE_S = 120

SMALL = ModelConfig(
    architecture="elit-sit",
    image_size=8,
    in_channels=3,
    patch_size=2,
    hidden_size=64,
    num_heads=2,
    mlp_ratio=2.0,
    head_depth=1,
    core_depth=1,
    tail_depth=1,
    group_size=2,
    num_classes=3,
)


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


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@contextmanager
def export_in_the_middle(target):
    """A real export that has begun its bundle and not ended it. It heeds SIGINT even where this test run ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [SCRIPT, "export", CHECKPOINT, "--config", CONFIG, "-o", target],
            env=ONE_THREAD,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            limit = time.monotonic() + PATIENCE_S
            while not list(target.parent.glob(f".{target.name}.part-*")):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < limit
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Exports:
    """Two runs into one place: the first killed in the middle, the second let be."""

    target: Path
    after_kill: list[str]
    result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "tiny.elit"
    with export_in_the_middle(target) as process:
        process.kill()
        process.wait(PATIENCE_S)
    after_kill = sorted(path.name for path in target.parent.iterdir())
    command = [SCRIPT, "export", CHECKPOINT, "--config", CONFIG, "-o", target]
    result = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    return Exports(target, after_kill, result)


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    """A file that says its own config: three blocks, four latents a group, random weights."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    model = DiffusionTransformer(SMALL)
    draw = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(tensor.shape, generator=draw) for name, tensor in model.state_dict().items()}
    published = {name: tensor.contiguous() for name, tensor in to_published(weights, SMALL)}
    save_file(published, path, config_json(SMALL))
    return path


@pytest.fixture(scope="module")
def traced():
    """`trace`, once a config."""
    return functools.cache(onnx_graphs.trace)


@pytest.fixture
def quick_trace(traced, monkeypatch):
    monkeypatch.setattr(model_graphs, "trace", traced)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(size):
        nonlocal mounted
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", place], check=True)


def test_an_export_speaks_on_stderr_and_leaves_stdout_to_data(exports):
    assert exports.result.returncode == 0, exports.result.stderr
    assert exports.result.stdout == ""
    (line,) = exports.result.stderr.splitlines()
    assert str(exports.target) in line
    assert "16 budgets" in line
    assert "worst parity" in line


def test_the_command_makes_the_bundle_that_the_api_makes(exports, tiny_bundle_path):
    made, expected = Bundle.open(exports.target).manifest, Bundle.open(tiny_bundle_path).manifest
    assert made.files == expected.files
    assert made.model == expected.model
    assert made.verification is not None


def test_a_killed_export_leaves_no_bundle(exports):
    assert exports.target.name not in exports.after_kill
    assert len(exports.after_kill) == 1


def test_the_next_export_clears_what_a_killed_one_left(exports):
    assert list(exports.target.parent.iterdir()) == [exports.target]


def test_a_second_run_says_up_to_date_and_touches_no_file(exports):
    before = times_of(exports.target)
    again = cli("export", CHECKPOINT, "--config", CONFIG, "-o", exports.target)
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr.splitlines() == [f"{exports.target} is up to date"]
    assert times_of(exports.target) == before


def test_another_checkpoint_in_the_same_place_is_refused(exports, small_checkpoint):
    before = times_of(exports.target)
    assert_refused(cli("export", small_checkpoint, "-o", exports.target), str(exports.target), "--force")
    assert times_of(exports.target) == before


def test_force_replaces_the_bundle_of_another_checkpoint(tiny_bundle_path, small_checkpoint, quick_trace, tmp_path):
    target = tmp_path / "x.elit"
    shutil.copytree(tiny_bundle_path, target)
    result = cli("export", small_checkpoint, "-o", target, "--force", "--no-verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "4 budgets" in result.stderr
    assert "not verified" in result.stderr
    made = Bundle.open(target).manifest
    assert made.model == SMALL
    assert made.verification is None
    assert list(tmp_path.iterdir()) == [target]


def test_ctrl_c_leaves_nothing_and_exits_with_1(tmp_path):
    with export_in_the_middle(tmp_path / "tiny.elit") as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []
    assert stdout == ""
    assert stderr.splitlines() == ["interrupted: nothing half-made was kept; run the command again"]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(
            256 << 10,
            id="full amid the weights",
        ),
        pytest.param(1280 << 10, id="full amid the graphs"),
    ],
)
def test_a_disk_that_fills_meanwhile_is_one_line_and_leaves_nothing(
    size, small_checkpoint, quick_trace, small_disk, monkeypatch
):
    monkeypatch.setattr("elit_edge.export.exporter.check_disk", lambda *_: None)  # there was room when it began
    disk = small_disk(size)
    result = cli("export", small_checkpoint, "-o", disk / "x.elit", "--no-verify")
    assert list(disk.iterdir()) == []
    assert_refused(result, str(disk), "no room left", "free some space")


def test_a_disk_too_small_is_refused_before_anything_is_done(small_checkpoint, small_disk):
    disk = small_disk(256 << 10)
    result = cli("export", small_checkpoint, "-o", disk / "x.elit", "--no-verify")
    assert list(disk.iterdir()) == []
    assert_refused(result, "MB on disk", str(disk), "free some space")


class RunsOnLoading:
    """What a malicious pickle does: to unpickle it is to make a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def missing(folder):
    return folder / "none.pt", CONFIG


def truncated(folder):
    (folder / "x.pt").write_bytes(CHECKPOINT.read_bytes()[:100_000])
    return folder / "x.pt", CONFIG


def truncated_safetensors(folder):
    save_file({"x_embedder.proj.weight": torch.zeros(64, 64)}, folder / "x.safetensors")
    (folder / "x.safetensors").write_bytes((folder / "x.safetensors").read_bytes()[:-1])
    return folder / "x.safetensors", CONFIG


def empty(folder):
    (folder / "x.pt").write_bytes(b"")
    return folder / "x.pt", CONFIG


def picture(folder):
    (folder / "x.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    return folder / "x.pt", CONFIG


def zip_of_text(folder):
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr("read.me", "no checkpoint")
    return folder / "x.pt", CONFIG


def other_model(folder):
    save_file({"conv1.weight": torch.zeros(4, 3, 3, 3)}, folder / "x.safetensors")
    return folder / "x.safetensors", CONFIG


def other_content(folder):
    torch.save({"state_dict": {}, "epoch": 3}, folder / "x.pt")
    return folder / "x.pt", CONFIG


def malicious(folder):
    torch.save({"ema": {}, "args": RunsOnLoading(folder / "it ran")}, folder / "x.pt")
    return folder / "x.pt", CONFIG


def malicious_bare_pickle(folder):
    (folder / "x.pt").write_bytes(pickle.dumps(RunsOnLoading(folder / "it ran")))
    return folder / "x.pt", CONFIG


def no_config(folder):
    return CHECKPOINT, None


def missing_config(folder):
    return CHECKPOINT, folder / "none.json"


def config_that_is(content):
    def make(folder):
        (folder / "x.json").write_text(content)
        return CHECKPOINT, folder / "x.json"

    return make


def config_with(**fields):
    return config_that_is(json.dumps({**json.loads(CONFIG.read_text()), **fields}))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(missing, ["none.pt"], id="missing checkpoint"),
        pytest.param(truncated, ["partial download: it has 100000 of", "download it again"], id="truncated .pt"),
        pytest.param(truncated_safetensors, ["1 (0.0%) are missing", "download it again"], id="truncated safetensors"),
        pytest.param(empty, ["is empty", "download it again"], id="empty file"),
        pytest.param(picture, ["neither", "give the authors' .pt"], id="a picture"),
        pytest.param(zip_of_text, ["x.pt", "download it again"], id="a zip file"),
        pytest.param(other_model, ["no ELIT-SiT or SiT", "not supported"], id="another model"),
        pytest.param(other_content, ["'ema'", "epoch, state_dict"], id="another content"),
        pytest.param(malicious, ["can run code", "ask its author for safetensors"], id="malicious"),
        pytest.param(malicious_bare_pickle, ["neither", "convert the weights to safetensors"], id="malicious, bare"),
        pytest.param(no_config, ["num_heads", "core_depth", "tail_depth", "--config FILE.json"], id="no config"),
        pytest.param(missing_config, ["none.json", "No such file"], id="missing config"),
        pytest.param(config_that_is("{"), ["x.json", "no JSON object"], id="config that is no JSON"),
        pytest.param(config_that_is("[1]"), ["x.json", "no JSON object"], id="config that is no object"),
        pytest.param(config_with(colour="red"), ["x.json", "colour"], id="config with an unknown field"),
        pytest.param(config_with(num_heads="three"), ["x.json", "num_heads"], id="config of another type"),
        pytest.param(config_with(num_heads=5), ["x.json", "num_heads 5"], id="config that contradicts itself"),
        *(
            pytest.param(
                make,
                ["x.json"],
                id=f"config is named for its {fault}",
            )
            for fault, make in [
                ("unknown field", config_with(colour="red")),
                ("type", config_with(num_heads="three")),
                ("contradiction", config_with(num_heads=5)),
            ]
        ),
        pytest.param(
            config_with(hidden_size=64), ["hidden_size = 48", "64", "correct the config"], id="config at odds"
        ),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do_and_leaves_nothing(make, words, tmp_path):
    inputs, output = tmp_path / "inputs", tmp_path / "output"
    inputs.mkdir()
    output.mkdir()
    checkpoint, config = make(inputs)
    before = set(inputs.iterdir())
    config_option = [] if config is None else ["--config", config]
    assert_refused(cli("export", checkpoint, *config_option, "-o", output / "x.elit"), *words)
    assert list(output.iterdir()) == []
    assert set(inputs.iterdir()) == before, "the checkpoint was run, not read"


def test_nobody_is_advised_to_load_an_unsafe_file_all_the_same(tmp_path):
    checkpoint, config = malicious(tmp_path)
    refused = cli("export", checkpoint, "--config", config, "-o", tmp_path / "x.elit")
    assert_refused(refused, "ask its author for safetensors")
    assert "weights_only" not in refused.stderr


def test_force_does_not_delete_a_folder_that_is_no_bundle(small_checkpoint, quick_trace, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    refused = cli("export", small_checkpoint, "-o", tmp_path / "home", "--force", "--no-verify")
    assert (tmp_path / "home" / "letter.txt").read_text() == "mine"
    assert_refused(refused, "no bundle")


def test_a_plain_file_in_the_place_is_refused_and_stays(tmp_path):
    target = tmp_path / "x.elit"
    target.write_text("mine")
    assert_refused(cli("export", CHECKPOINT, "--config", CONFIG, "-o", target), "x.elit exists", "choose another name")
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    target = tmp_path / "file" / "below" / "x.elit"
    assert_refused(cli("export", CHECKPOINT, "--config", CONFIG, "-o", target), "cannot write to", str(target.parent))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
