from __future__ import annotations

import json
import subprocess
import sys

import msgspec
from click.testing import CliRunner

from elit_edge import device
from elit_edge.cli.main import main
from elit_edge.device import Device, probe


def test_json_is_the_struct():
    answer = CliRunner().invoke(main, ["probe", "--json"])
    assert answer.exit_code == 0
    found = msgspec.json.decode(answer.output.encode(), type=Device)
    assert found.identity == device.identity()
    assert found.speed is not None
    assert json.loads(answer.output)["schema_version"] == 1


def shown(monkeypatch, found):
    monkeypatch.setattr(device, "probe", lambda: found)
    answer = CliRunner().invoke(main, ["probe"], env={"COLUMNS": "160"})
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_words_say_what_is_known_and_what_is_not(monkeypatch):
    words = shown(monkeypatch, probe(measure=False))
    assert "processor" in words
    assert "onnxruntime" in words
    assert "product" not in words


def test_names_of_devices_are_no_markup(monkeypatch):
    found = msgspec.structs.replace(probe(measure=False), name="Board [red]one[/] [/nothing]", notes=("a [b]: c",))
    words = shown(monkeypatch, found)
    assert "Board [red]one[/] [/nothing]" in words
    assert "a [b]: c" in words


def test_a_machine_of_which_nothing_is_known(monkeypatch, tmp_path):
    words = shown(monkeypatch, probe(tmp_path, measure=False))
    assert "unknown" in words
    assert "None" not in words


def test_the_probe_imports_its_libraries_only_when_it_runs():
    libraries = ["onnxruntime", "psutil", "pynvml", "cpuinfo", "torch"]
    code = f"import sys, elit_edge.cli.probe, elit_edge.device; print(sys.modules.keys() & {libraries})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_a_busy_machine_is_called_busy(monkeypatch):
    found = probe()
    for load, words in ((0.1, False), (7.5, True)):
        speed = msgspec.structs.replace(found.speed, load_average=load)
        assert ("busy machine (load 7.5)" in shown(monkeypatch, msgspec.structs.replace(found, speed=speed))) is words
