"""Compiled packages in the user's cache: once, whole, and never one that is damaged. Core ML is SIMULATED."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from elit_edge.errors import BundleError
from elit_edge.runtimes.coreml_ import library
from elit_edge.runtimes.coreml_.compiled import MODEL, RECORD, compiled, package_digest
from simulated_coreml import core_ml

TESTS = Path(__file__).parents[1]
CHILD = f"""
import shutil, sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from elit_edge.bundle_files import BundleFiles
from elit_edge.runtimes.coreml_ import compiled, library
from simulated_coreml.installing import simulated_mac
with simulated_mac():
    utils = library.coremltools().utils
    compile_model = utils.compile_model
    def slowly(package, target):
        shutil.copytree(package, target)
        print("half", flush=True)
        assert sys.stdin.readline()
        shutil.rmtree(target)
        return compile_model(package, target)
    utils.compile_model = slowly
    compiled.compiled(BundleFiles.checked_before(Path(sys.argv[1])), sys.argv[2])
print("whole", flush=True)
"""


@pytest.fixture
def package(few):
    return next(each.package for each in few.manifest.coreml[0].functions if each.role == "velocity")


@pytest.fixture
def child(few, package):
    """A process that is in the middle of compiling."""
    command = [sys.executable, "-c", CHILD, str(few.folder), package]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"half\n"
            yield process
        finally:
            process.kill()


def test_a_package_is_compiled_once_and_says_so(mac, few, package):
    heard = []
    first = compiled(few, package, heard.append)
    again = compiled(few, package, heard.append)
    assert again == first
    assert mac.compiled == ["velocity.mlpackage"]
    assert heard == [f"compiling {package} for this Mac (once)"]
    assert (first.model / core_ml.MARK).is_file()


def test_other_contents_are_another_model(few, separate, package):
    alone = separate.manifest.coreml[0].functions[0].package
    digests = {package_digest(few.manifest, package), package_digest(separate.manifest, alone)}
    assert len(digests) == 2
    assert package_digest(few.manifest, package) != package_digest(few.manifest, "coreml/none.mlpackage")


def weights_of(found):
    return next(found.model.rglob("weight.bin"))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda found: weights_of(found).write_bytes(b"\x00" * 9), id="truncated"),
        pytest.param(lambda found: flip(weights_of(found)), id="one bit"),
        pytest.param(lambda found: weights_of(found).unlink(), id="a file missing"),
        pytest.param(lambda found: (found.model / "other").write_bytes(b"x"), id="a file too many"),
        pytest.param(lambda found: (found.folder / RECORD).unlink(), id="no record"),
        pytest.param(lambda found: (found.folder / RECORD).write_bytes(b'{"macos": "26.0", "fi'), id="half a record"),
        pytest.param(lambda found: (found.folder / RECORD).write_bytes(b'{"macos": "26.0", "files": {}}'), id="empty"),
    ],
)
def test_a_damaged_one_is_made_anew(mac, few, package, damage):
    found = compiled(few, package)
    found.settled()
    before = weights_of(found).read_bytes()
    damage(found)
    again = compiled(few, package)
    assert mac.compiled == ["velocity.mlpackage"] * 2
    assert weights_of(again).read_bytes() == before
    assert not again.is_settled, "its functions have to be made ready anew"
    compiled(few, package)
    assert len(mac.compiled) == 2


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_another_macos_compiles_anew(mac, few, package):
    compiled(few, package)
    mac.macos = (26, 1)
    compiled(few, package)
    assert len(mac.compiled) == 2


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_what_is_killed_in_the_middle_is_not_taken(mac, few, package, cache, child):
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (left,) = (path for path in cache.iterdir() if path.is_dir())
    assert ".part-" in left.name
    assert (left / MODEL / "Manifest.json").exists(), "it was killed with half a model written"
    found = compiled(few, package)
    assert mac.compiled == ["velocity.mlpackage"]
    assert [path for path in cache.iterdir() if path.is_dir()] == [found.folder]


def test_two_processes_compile_it_once(mac, few, package, child):
    found = []
    ours = threading.Thread(target=lambda: found.append(compiled(few, package)))
    ours.start()
    ours.join(0.3)
    assert ours.is_alive(), "it waits for the other process"
    assert mac.compiled == []
    out, _ = child.communicate(b"\n")
    assert out == b"whole\n"
    ours.join(20)
    assert (found[0].model / core_ml.MARK).is_file()
    assert mac.compiled == [], "the other process has compiled it"


def test_what_core_ml_refuses_leaves_nothing_behind(mac, few, package, cache, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Error compiling: made up by this test")

    monkeypatch.setattr(library.coremltools().utils, "compile_model", refuse)
    with pytest.raises(BundleError, match=r"does not compile velocity.mlpackage: .*made up.* elit-edge verify"):
        compiled(few, package)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_full_disk_is_said(mac, few, package, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.coremltools().utils, "compile_model", full)
    with pytest.raises(BundleError, match=r"cannot keep compiled .* No space left on device; free some space"):
        compiled(few, package)


def test_a_cache_that_is_no_folder_is_said(mac, few, package, cache):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"")
    with pytest.raises(BundleError, match="cannot keep compiled Core ML packages"):
        compiled(few, package)
