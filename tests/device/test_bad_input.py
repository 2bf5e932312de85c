"""A probe of nonsense gives nulls and notes; it never raises, and never waits."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from elit_edge.device import Device, identity, probe
from elit_edge.device.energy import energy_meter
from elit_edge.device.pressure import pressure
from elit_edge.device.tree import Tree, cpu_list

from .conftest import ROOTS

NAMES = sorted(path.stem for path in ROOTS.glob("*.tree"))
NONSENSE = {
    "empty": b"",
    "garbage": bytes(random.Random(0).randrange(256) for _ in range(3000)),
    "huge": b"9" * 5000,
    "large": b"99999999999999999999 99999999999999999999",
    "negative": b"-273000",
    "zero": b"0",
    "words": "processor\t: ²\n\nprocessor : 1\nCPU part: 0x\nflags : \n\x00\n\n:::\n0::/../../\x00x\n".encode(),
    "control": b"4:memory:/a\x00b\n0::" + b"/x" * 5000,
}


def survives(root):
    device = probe(root, measure=False)
    assert msgspec.json.decode(msgspec.json.encode(device), type=Device) == device
    assert identity(root) == identity(root)
    assert pressure(root).level in ("none", "warm", "hot")
    meter = energy_meter(root)
    if meter is not None:
        assert meter.joules() >= 0
        meter.close()
    return device


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE.keys())
@pytest.mark.parametrize("name", NAMES)
def test_every_file_holds_nonsense(planted, name, content):
    root = planted(name)
    for file in root.rglob("*"):
        if file.is_file():
            file.write_bytes(content)
    survives(root)


@pytest.mark.parametrize("name", NAMES)
def test_one_file_after_another_is_unreadable(planted, name):
    root = planted(name)
    for file in [path for path in root.rglob("*") if path.is_file()]:
        file.unlink()
        file.mkdir()
    device = survives(root)
    assert device.memory.total_bytes is None
    assert any("proc/meminfo: Is a directory" in note or "proc/meminfo: is no file" in note for note in device.notes)


def test_an_empty_root_knows_nothing_and_claims_nothing(tmp_path):
    device = survives(tmp_path)
    assert device.memory.total_bytes is None
    assert device.cpu.isa is None
    assert device.cpu.usable_cpus is None
    assert pressure(tmp_path).level == "none"
    assert energy_meter(tmp_path) is None


def test_a_root_that_is_not_there(tmp_path):
    survives(tmp_path / "nowhere")


def test_a_pipe_in_place_of_a_file_holds_nobody_up(write):
    root = write({"proc/cpuinfo": "processor : 0\n"})
    os.mkfifo(root / "proc/meminfo")
    device = survives(root)
    assert any("proc/meminfo: is no file" in note for note in device.notes)


def test_permission_denied_is_a_note(write, monkeypatch):
    # Where tests run as root, permissions stop nobody: the refusal is played.
    root = write({"sys/class/thermal/thermal_zone0/temp": "50000", "sys/class/thermal/thermal_zone0/type": "cpu"})
    real = os.open

    def refuse(path, *rest, **named):
        if str(path).endswith("/temp"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    device = probe(root, measure=False)
    assert device.thermal[0].temperature_c is None
    assert "sys/class/thermal/thermal_zone0/temp: Permission denied" in device.notes


def test_lists_of_cpus():
    assert cpu_list("0-3,6\n") == (0, 1, 2, 3, 6)
    assert cpu_list("0 1 2") == (0, 1, 2)
    for nonsense in ("", "a", "3-1", "0-", "0-999999999", "²"):
        assert cpu_list(nonsense) is None, nonsense


def test_alike_notes_become_one(tmp_path):
    tree = Tree(tmp_path)
    for index in range(40):
        tree.note(f"zone{index}/temp", "Permission denied")
    assert tree.notes == ("zone0/temp and 39 like it: Permission denied",)
