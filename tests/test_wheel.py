"""The wheel, alone in a clean environment: what a device installs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from elit_edge.version import __version__

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def run_well(*command, cwd):
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Device:
    """An environment that holds the wheel and what it depends on."""

    folder: Path
    wheel: Path
    python: Path

    @property
    def script(self):
        return self.python.with_name("elit-edge")


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    run_well(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run_well(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "-c", ROOT / "constraints.txt"]
    run_well(*pip, wheel, cwd=folder)
    return Device(folder, wheel, python)


def test_the_wheel_holds_the_package_whole_and_nothing_else(device):
    package = ROOT / "elit_edge"
    wanted = {f"elit_edge/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    with zipfile.ZipFile(device.wheel) as archive:
        names = set(archive.namelist())
        assert archive.getinfo("elit_edge/data/sample.safetensors").file_size > 1_000_000
    assert names >= {*wanted, "elit_edge/py.typed"}
    assert {name.split("/")[0] for name in names} == {"elit_edge", f"elit_edge-{__version__}.dist-info"}
    assert not [name for name in names if "test" in name]


def test_what_only_the_export_needs_is_not_installed(device):
    asked = "import importlib.util as u, json, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
    names = ["torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "onnxruntime"]
    assert json.loads(run_well(device.python, "-c", asked, *names, cwd=device.folder)) == ["onnxruntime"]


def test_the_installed_package_imports(device):
    asked = "import elit_edge; print(elit_edge.__version__, elit_edge.__file__)"
    version, place = run_well(device.python, "-c", asked, cwd=device.folder).split()
    assert version == __version__
    assert Path(place).is_relative_to(device.folder)


def test_a_bundle_is_inspected_and_makes_a_sample_without_the_export_extra(device, tiny_bundle_path, tmp_path):
    shutil.copytree(tiny_bundle_path, tmp_path / "tiny.elit")
    manifest = json.loads(run_well(device.script, "inspect", "tiny.elit", "--json", cwd=tmp_path))
    assert manifest["name"] == "tiny"
    run_well(device.script, "generate", "tiny.elit", "--label", "7", "--steps", "2", "-o", "x.npy", cwd=tmp_path)
    samples = np.load(tmp_path / "x.npy")
    assert samples.shape == (1, 4, 16, 16)
    assert np.isfinite(samples).all()


def test_an_export_says_what_to_install(device, tmp_path):
    refused = run(device.script, "export", ROOT / "tests/fixtures/official_tiny_a.pt", "-o", "x.elit", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install 'elit-edge[export]'" in line
    assert list(tmp_path.iterdir()) == []
