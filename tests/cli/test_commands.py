"""What all commands share: help, usage errors, tracebacks on request, and what happens without the export extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from elit_edge.cli.main import main
from elit_edge.version import __version__

SCRIPT = Path(sys.executable).with_name("elit-edge")
COMMANDS = ("export", "inspect", "verify", "generate", "probe", "evaluate", "bench", "calibrate", "compile", "demo")
EXPORT_EXTRA = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")

HIDING_FINDER = """
import importlib.machinery, sys

class HidingFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path = [HidingFinder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
"""A sitecustomize.py after which packages are not there: neither to import, nor to `find_spec`."""


def run(*command, **environment):
    return subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def hiding(folder, *packages):
    """The environment of a process that does not have these packages."""
    (folder / "sitecustomize.py").write_text(HIDING_FINDER.format(hidden=set(packages)))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


@pytest.fixture(scope="module")
def without_extra(tmp_path_factory):
    return hiding(tmp_path_factory.mktemp("hiding"), *EXPORT_EXTRA)


def assert_refused(result, *words):
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_the_help_lists_every_command():
    shown = CliRunner().invoke(main, ["-h"], prog_name="elit-edge")
    assert shown.exit_code == 0
    listed = shown.stdout.partition("Commands:")[2]
    assert tuple(line.split()[0] for line in listed.strip().splitlines()) == COMMANDS


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_help(command, flag):
    shown = CliRunner().invoke(main, [command, flag], prog_name="elit-edge")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"Usage: elit-edge {command} ")
    assert shown.stderr == ""


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS)], ids=lambda command: " ".join(("elit-edge", *command))
)
def test_help_needs_nothing_of_the_export_extra(command, without_extra):
    shown = run(SCRIPT, *command, "-h", **without_extra)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(" ".join(("Usage: elit-edge", *command)))


def test_the_version_is_the_packages():
    assert CliRunner().invoke(main, ["--version"], prog_name="elit-edge").stdout.split()[-1] == __version__


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["paint"], "paint"),
        (["compile", "x.elit"], "coreml"),
        (["--fast"], "--fast"),
        (["export"], "CHECKPOINT"),
        (["export", "x.pt"], "--output"),
        (["inspect", "x.elit", "y.elit"], "y.elit"),
        (["verify", "x.elit", "--fast"], "--fast"),
        (["generate", "x.elit", "-o", "x.npy"], "--label"),
        *(
            (["generate", "x.elit", "--label", "1", "-o", "x.npy", option, value], option)
            for option, value in [
                ("--solver", "rk4"),
                ("--guidance", "strong"),
                ("--latents", "4,many"),
                ("--latents", ""),
                ("--count", "0"),
                ("--threads", "0"),
                ("--steps", "2.5"),
                ("--seed", "lucky"),
            ]
        ),
    ],
    ids=" ".join,
)
def test_a_usage_error_names_the_culprit_and_exits_with_2(arguments, named):
    result = CliRunner().invoke(main, arguments, prog_name="elit-edge")
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: elit-edge")
    assert named in result.stderr.splitlines()[-1]


def test_an_error_is_one_line_without_a_traceback(tmp_path):
    assert_refused(run(SCRIPT, "inspect", tmp_path / "none.elit"), "none.elit", "elit-edge export")


def test_debug_shows_the_traceback(tmp_path):
    result = run(SCRIPT, "--debug", "inspect", tmp_path / "none.elit")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.splitlines()[-1].startswith("elit_edge.errors.BundleError: ")


@pytest.mark.parametrize("command", [("export", "x.pt", "-o"), ("verify", "x.elit", "--checkpoint"), ("demo", "-o")])
def test_without_the_export_extra_a_command_says_how_to_install_it(command, without_extra, tmp_path):
    result = run(SCRIPT, *command, tmp_path / "output", **without_extra)
    assert_refused(result, "pip install 'elit-edge[export]'", ", ".join(EXPORT_EXTRA))
    assert not (tmp_path / "output").exists()


def test_only_the_packages_that_are_missing_are_named(tmp_path):
    result = run(SCRIPT, "demo", "-o", tmp_path / "output", **hiding(tmp_path, "onnxscript"))
    assert_refused(result, "needs onnxscript;", "pip install 'elit-edge[export]'")


def test_the_reference_runtime_without_torch_says_how_to_install_it(tiny_bundle_path, without_extra, tmp_path):
    output = tmp_path / "x.npy"
    result = run(
        SCRIPT, "generate", tiny_bundle_path, "--label", 1, "--runtime", "reference", "-o", output, **without_extra
    )
    assert_refused(result, "runtime reference", "is not installed", "pip install 'elit-edge[export]'")
    assert not output.exists()


@pytest.mark.parametrize("module", ["elit_edge", "elit_edge.cli.main"])
def test_an_import_brings_in_nothing_heavy(module):
    asked = run(sys.executable, "-c", f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")
    imported = set(json.loads(asked.stdout))
    assert module in imported
    assert not imported & {*EXPORT_EXTRA, "onnxruntime", "PIL", "rich"}
