"""docs/jetson.md can be followed literally, as far as a machine without a Jetson can tell."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import click
import numpy as np
import pytest
import tomllib
from click.testing import CliRunner
from filelock import Timeout
from packaging.requirements import Requirement

from elit_edge import adding, fit
from elit_edge.budget import flops
from elit_edge.bundle import Bundle
from elit_edge.cli import choosing, demo
from elit_edge.cli.main import main
from elit_edge.files import cache_folder
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.runtimes.tensorrt_.sealed import write_sealed

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "jetson.md"
TEXT = PAGE.read_text()
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = FENCE.sub("", TEXT)
SPANS = re.findall(r"`([^`\n]+)`", PROSE)
ROWS = re.findall(r"^\| `([^`]+)` \|", PROSE[PROSE.index("| it says |") :], re.MULTILINE)
FOREIGN_OPTIONS = {"--system-site-packages", "--runtime nvidia", "--gpus all"}
PROGRAMS = {"python3", ".", "pip", "rsync", "scp", "grep", "elit-edge", "apt-get", "nvpmodel", "jetson_clocks"}


def words_of(line: str) -> list[str]:
    """As a shell splits it; comments left out, `>` a word of its own."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


LINES = [
    (fence.split()[1], words)
    for fence, block in FENCE.findall(TEXT)
    for words in map(words_of, block.splitlines())
    if words
]
OURS = [words[1:] for _, words in LINES if words[0] == "elit-edge"]
INLINE = [words_of(span)[1:] for span in SPANS if span.startswith("elit-edge ")]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.fixture
def parse(monkeypatch) -> Callable[[list[str]], tuple[click.Command, dict[str, Any]]]:
    """The real commands with their real options and checks; what they would do is not done."""
    called: list[tuple[click.Command, dict[str, Any]]] = []
    for _, command in leaves(main):

        def note(command=command, **values):
            called.append((command, values))

        monkeypatch.setattr(command, "callback", note)

    def run(arguments):
        called.clear()
        answer = CliRunner().invoke(main, [word for word in arguments if word != ">"][: _end(arguments)])
        assert answer.exit_code == 0, f"elit-edge {shlex.join(arguments)}\n{answer.output}"
        (found,) = called
        return found

    return run


def _end(arguments: list[str]) -> int:
    """Where a redirection begins."""
    return arguments.index(">") if ">" in arguments else len(arguments)


def test_the_page_has_what_is_checked_here():
    assert {"probe", "inspect", "generate", "compile", "bench", "calibrate", "demo"} <= {words[0] for words in OURS}
    assert {machine for machine, _ in LINES} == {"desktop", "board"}
    assert len(ROWS) > 15


@pytest.mark.parametrize("arguments", [*OURS, *INLINE], ids=shlex.join)
def test_every_command_parses(parse, arguments):
    parse(arguments)


def test_every_block_is_a_shell_script_of_known_programs():
    for fence, block in FENCE.findall(TEXT):
        assert fence in ("sh desktop", "sh board")
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for code in (words[2] for _, words in LINES if words[:2] == ["python3", "-c"]):
        compile(code, str(PAGE), "exec")
    assert TEXT.count("```") == 2 * len(FENCE.findall(TEXT))
    assert {words[words[0] == "sudo"] for _, words in LINES} <= PROGRAMS


def test_every_option_in_the_text_exists_and_takes_its_value():
    known: dict[str, list[click.Parameter]] = {"--debug": main.params}
    for _, command in leaves(main):
        for parameter in command.params:
            for name in parameter.opts:
                known.setdefault(name, []).append(parameter)
    for span in (span for span in SPANS if span.startswith("--") and span not in FOREIGN_OPTIONS):
        name, *value = span.split()
        assert name in known, span
        assert not value or any(_takes(parameter, value[0]) for parameter in known[name]), span


def _takes(parameter: click.Parameter, value: str) -> bool:
    try:
        parameter.type.convert(value, parameter, None)
    except click.UsageError:
        return False
    return True


def test_what_one_command_reads_another_wrote_on_that_machine(parse):
    assert 'output / "sample.elit"' in inspect.getsource(demo), "the demo's bundle has another name"
    there: dict[str, set[str]] = {"desktop": set(), "board": set()}
    for machine, words in LINES:
        if words[0] in ("rsync", "scp"):
            *sources, target = [word for word in words[1:] if not word.startswith("-")]
            assert machine == "desktop", "the desktop fetches and sends: the board knows no name of it"
            to = "board" if target.startswith("BOARD:") else "desktop"
            for source in sources:
                name = source.removeprefix("BOARD:")
                assert name in there["board" if source != name else "desktop"], f"{shlex.join(words)}: no {name}"
                there[to].add(name)
        if words[0] != "elit-edge":
            continue
        command, values = parse(words[1:])
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                read = str(values[parameter.name])
                assert read in there[machine], f"{shlex.join(words)}: no {read} on the {machine}"
        written = [str(values[name]) for name in ("output", "page", "html") if values.get(name)]
        written += words[words.index(">") + 1 :] if ">" in words else []
        for name in written:
            assert name not in there[machine], f"{shlex.join(words)}: {name} stands there already"
        there[machine] |= {*written, *(f"{name}/sample.elit" for name in written if words[1] == "demo")}


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A SIMULATION of a board (tests/simulated_gpu): an Orin with TensorRT 10.13, which does not know Attention."""
    from simulated_gpu.installing import simulated_gpu

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    with simulated_gpu(compute_capability="8.7", name="Orin") as machine:
        yield machine


def on_the_board(arguments: list[str]) -> tuple[list[str], str | None]:
    """What is typed here in the place of the page's line, and the file that takes what it prints.

    The tiny bundle has float32 alone, numbered classes, and samples that are no pictures. What measures runtimes does
    so in processes of its own, where the simulation is not: it takes ONNX Runtime.
    """
    swapped = {"heart": "1", "clock": "2", "fp16": "fp32", "int8": "fp32", "10min": "1s"}
    place = _end(arguments)
    words = [re.sub(r"\.png$", ".npy", swapped.get(word, word)) for word in arguments[:place]]
    if words[0] in ("generate", "bench") and words[1] == "board.elit" and "--runtime" not in words:
        words += ["--runtime", "onnxruntime"]
    words += ["--window", "20ms"] if words[0] == "bench" and words[1] != "page" else []
    return words, arguments[place + 1] if place < len(arguments) else None


def test_the_boards_commands_run_in_the_pages_order(board, tiny_bundle_path, monkeypatch):
    monkeypatch.setattr(choosing, "_process_age_s", lambda: 0.1)  # the process of the tests is old
    shutil.copytree(tiny_bundle_path, "board.elit")
    said: dict[str, str] = {}
    for arguments in (words for words in OURS if words[0] not in ("demo", "calibrate")):
        words, into = on_the_board(arguments)
        answer = CliRunner().invoke(main, words)
        assert answer.exit_code == 0, f"elit-edge {shlex.join(words)}\n{answer.output}\n{answer.exception!r}"
        if into is not None:
            Path(into).write_text(answer.stdout)
        said[words[0]] = answer.output
    assert re.search(r"tensorrt +ready", said["probe"])
    for path in re.findall(r"`(engines/[^`]+)`", TEXT):
        assert path.replace("fp16", "fp32") in said["inspect"]
        assert Path("board.elit", path.replace("fp16", "fp32")).is_file()
    made = {path.name for path in Path().iterdir()}
    assert {"cpu.npy", "gpu.npy", "more.npy", "soon.npy", "board.timing", "board.json", "board.html"} <= made
    assert np.allclose(np.load("cpu.npy"), np.load("gpu.npy"), atol=1e-4), "the same seed is the same picture"


def test_extras_are_the_projects_and_their_bounds_meet():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    named = {each for group in re.findall(r"(?:elit-edge|\.whl)\[([a-z,-]+)\]", TEXT) for each in group.split(",")}
    assert {"tensorrt", "export", "report", "device"} <= named <= set(offered)
    tensorrt = {found.name: found for found in map(Requirement, offered["tensorrt"])}
    assert "onnx" in tensorrt
    assert "tensorrt" not in tensorrt, "what pip brings would hide JetPack's"
    (beside,) = set(re.findall(r"'(cuda-bindings[^']*)'", TEXT))
    assert "12.9.0" in Requirement(beside).specifier & tensorrt["cuda-bindings"].specifier
    assert "13.0.0" not in Requirement(beside).specifier


def test_links_lead_to_files_and_headings():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = PAGE.parent / name if name else PAGE
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", target.read_text()), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, link


def test_files_tests_and_figures_that_the_text_names(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for path in re.findall(r"`~/(\.cache/[a-z/-]+)`", TEXT):
        own = [cache_folder(kind) for kind in ("profiles", "engines")]
        assert sys.platform != "linux" or Path.home() / path in {*own, own[0].parent}, path
    for path in (span for span in SPANS if span.startswith("tests/")):
        assert (ROOT / path).is_file(), path
    sample = read_checkpoint(ROOT / "elit_edge" / "data" / "sample.safetensors").config
    asked = {words[at + 1] for words in OURS for at, word in enumerate(words) if word == "--label"}
    assert asked <= set(sample.class_names or ()), "no class of the sample"
    (percent,) = re.findall(r"one latent of 16 is (\d+)%", TEXT)
    assert int(percent) == round(100 * flops(sample, 1).velocity / flops(sample, 16).velocity)
    (megabytes,) = re.findall(r"weights of the precision and (\d+) MB", TEXT)
    assert int(megabytes) == pytest.approx(fit.ENGINE_BASE_BYTES / 1e6, rel=0.05)


COMPILE = ("compile", "board.elit", "--target", "tensorrt", "--precision", "fp32")
GENERATE = ("generate", "board.elit", "--label", "1", "--runtime", "tensorrt", "-o", "out.npy")


def refusal(*arguments: str) -> str:
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 1, f"{shlex.join(arguments)}\n{answer.output}\n{answer.exception!r}"
    return answer.stderr.splitlines()[-1]


@pytest.fixture
def said(board, tiny_bundle_path, monkeypatch) -> dict[str, str]:
    """What the real commands say on the simulated board, each time with one thing wrong."""
    from simulated_gpu import driver, tensorrt

    told: dict[str, str] = {}

    def wrong(name: str, *arguments: str, at: Any = None, **facts: Any) -> None:
        with monkeypatch.context() as patch:
            for fact, value in facts.items():
                patch.setattr(at or board, fact, value)
            told[name] = refusal(*arguments)

    def hidden(package: str) -> Any:
        real = importlib.util.find_spec
        return lambda name, *more: None if name.split(".")[0] == package else real(name, *more)

    shutil.copytree(tiny_bundle_path, "board.elit")
    for package in ("tensorrt", "cuda"):
        wrong(f"no {package}", *COMPILE, at=importlib.util, find_spec=hidden(package))
    wrong("no torch", "verify", "board.elit", at=importlib.util, find_spec=hidden("torch"))
    wrong("no driver", *COMPILE, installed=False)
    wrong("no GPU", *COMPILE, devices=0)
    wrong("old driver", *COMPILE, driver=11040)
    wrong("silent driver", *COMPILE, failing=lambda *_: driver.CUresult.CUDA_ERROR_UNKNOWN)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        told["no onnx"] = refusal(*COMPILE)
    told["no graphs"] = refusal(*COMPILE[:-1], "fp16")
    told["no engines"] = refusal(*GENERATE)
    told["capability"] = refusal(*COMPILE, "--compute-capability", "8.7")
    told["Orin"] = refusal(
        *(word.replace("tensorrt", "tensorrt-rtx") for word in COMPILE), "--compute-capability", "8.7"
    )
    wrong("two at once", *COMPILE, at=adding, FileLock=MagicMock(side_effect=Timeout("lock")))
    wrong("no disk", *COMPILE, at=fit.shutil, disk_usage=lambda _: SimpleNamespace(free=1))
    wrong("refused graph", *COMPILE, at=tensorrt.Builder, build_serialized_network=lambda *_: None)
    Path("board.timing").write_bytes(b"cut off")
    told["damaged cache"] = refusal(*COMPILE, "--timing-cache", "board.timing")
    write_sealed(Path("board.timing"), b"of another board")
    told["another cache"] = refusal(*COMPILE, "--timing-cache", "board.timing")
    made = CliRunner().invoke(main, COMPILE)
    assert made.exit_code == 0, made.output
    wrong("another version", *GENERATE, at=tensorrt, __version__="10.14.1")
    wrong("too small", *GENERATE, total_bytes=1000)
    full = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    wrong("full", *GENERATE, failing=lambda name, _: full if name == "cuMemAlloc" else None)
    weights = Path("board.elit", Bundle.open("board.elit").manifest.graphs[0].weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    told["damaged bundle"] = refusal(*GENERATE)
    return told


def says(quoted: str, real: str) -> bool:
    return re.search(".+".join(map(re.escape, quoted.split("…"))), real) is not None


def test_every_message_quoted_is_one_of_the_code(said):
    for quoted in ROWS:
        assert any(says(quoted, real) for real in said.values()), f"{quoted!r} is none of\n" + "\n".join(said.values())


def test_every_message_that_can_be_caused_here_is_explained(said):
    for name, real in said.items():
        assert any(says(quoted, real) for quoted in ROWS), f"{name}: {real}"
