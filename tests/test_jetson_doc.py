"""docs/jetson.md can be followed literally, as far as a machine without a Jetson can tell."""

from __future__ import annotations

import enum
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import click
import pytest
from click.testing import CliRunner
from filelock import Timeout
from packaging.requirements import Requirement

from elit_edge import fit
from elit_edge.bundle import Bundle
from elit_edge.cli import choosing, demo, extras
from elit_edge.cli.main import main
from elit_edge.errors import ElitEdgeError
from elit_edge.files import cache_folder
from elit_edge.manifest import Engine
from elit_edge.runtimes.contract import Ready
from elit_edge.runtimes.tensorrt_ import TensorRt, building, compiling, cuda, engines
from elit_edge.runtimes.tensorrt_.attention import without_attention
from elit_edge.runtimes.tensorrt_.fitting import here
from elit_edge.runtimes.tensorrt_.library import TENSORRT, TENSORRT_RTX, Messages
from elit_edge.runtimes.tensorrt_.opening import check_room
from elit_edge.runtimes.tensorrt_.profiles import engine_profiles
from elit_edge.runtimes.tensorrt_.sealed import read_sealed

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


def test_commands_that_need_no_gpu_run(tiny_bundle_path, tmp_path, monkeypatch):
    """In the page's order, with the tiny bundle, the CPU and short times in the places of the page's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choosing, "_process_age_s", lambda: 0.1)  # the process of the tests is old
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(tiny_bundle_path, "board.elit")
    swapped = {"heart": "1", "clock": "2", "tensorrt": "onnxruntime", "fp16": "fp32", "10min": "1s"}
    ran = set()
    for arguments in OURS:
        name, place = arguments[0], _end(arguments)
        if name not in ("probe", "inspect", "generate", "bench"):
            continue
        words = [re.sub(r"\.png$", ".npy", swapped.get(word, word)) for word in arguments[:place]]
        if name in ("generate", "bench") and words[1] == "board.elit" and "--runtime" not in words:
            words += ["--runtime", "onnxruntime"]
        words += ["--window", "20ms"] if name == "bench" and words[1] != "page" else []
        answer = CliRunner().invoke(main, words)
        assert answer.exit_code == 0, f"elit-edge {shlex.join(words)}\n{answer.output}\n{answer.exception!r}"
        if place < len(arguments):
            Path(arguments[place + 1]).write_text(answer.stdout)
        ran.add(name)
    assert ran == {"probe", "inspect", "generate", "bench"}
    assert {"cpu.npy", "gpu.npy", "soon.npy", "board.json", "board.html"} <= {path.name for path in tmp_path.iterdir()}


def test_extras_are_the_projects_and_their_bounds_meet():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    named = {each for group in re.findall(r"(?:elit-edge|\.whl)\[([a-z,-]+)\]", TEXT) for each in group.split(",")}
    assert {"tensorrt", "export", "report", "device"} <= named <= set(offered)
    tensorrt = {found.name: found for found in map(Requirement, offered["tensorrt"])}
    assert "onnx" in tensorrt
    assert "tensorrt" not in tensorrt, "what pip brings would hide JetPack's"
    (beside,) = {found for found in re.findall(r"'(cuda-bindings[^']*)'", TEXT)}
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
    (megabytes,) = re.findall(r"weights of the precision and (\d+) MB", TEXT)
    assert int(megabytes) == pytest.approx(fit.ENGINE_BASE_BYTES / 1e6, rel=0.05)


def message(call, *arguments) -> str:
    with pytest.raises(ElitEdgeError) as error:
        call(*arguments)
    return str(error.value)


@pytest.fixture
def said(tiny_bundle_path, tmp_path, monkeypatch) -> dict[str, str]:
    """Real messages of the code. What only a GPU, its driver or TensorRT could cause is put in their place (mocks)."""
    files = Bundle.open(tiny_bundle_path).files
    orin = cuda.Gpu("Orin", "8.7", "12.6")
    told: dict[str, str] = {}

    def hidden(package: str) -> Any:
        real = importlib.util.find_spec
        return lambda name, *more: None if name.split(".")[0] == package else real(name, *more)

    def driver(**answers: Any) -> Any:
        def call(name: str, *_: Any) -> Any:
            found = answers.get(name, 1)
            if isinstance(found, Exception):
                raise found
            return found

        return call

    for name, package, call in (
        ("no library", "tensorrt", lambda: compiling.compile_bundle(files, TENSORRT, "fp32")),
        ("no binding", "cuda", cuda.need_gpu),
        ("no torch", "torch", extras.require_export),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", hidden(package))
            told[name] = message(call)
    for name, answers in {
        "no driver": {"cuInit": RuntimeError("Failed to dlopen libcuda.so.1")},
        "silent driver": {"cuInit": cuda.CudaError("cuInit", 999)},
        "no GPU": {"cuDeviceGetCount": 0},
        "old driver": {"cuDriverGetVersion": 11040},
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(cuda, "_call", driver(**answers))
            told[name] = message(cuda.need_gpu)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        told["no onnx"] = message(without_attention, files.graph_path(files.manifest.graphs[0]))
    told["no graphs"] = message(compiling.chosen_precision, files.manifest, "fp16")
    with monkeypatch.context() as patch:
        patch.setattr(TensorRt, "check", lambda _: Ready("10.3.0"))
        told["no engines"] = message(Bundle.open(tiny_bundle_path).prepare, "tensorrt")
    told["another version"] = message(engines.fitting, with_engines(files), "fp32", here(Newer, orin))
    told["too small"] = message(check_room, SimpleNamespace(free_bytes=lambda: 1), 10**9, "opening it")
    told["full"] = message(fill_memory)
    told["no disk"] = message(fit.check_disk, tmp_path, 10**18, "compiling it")
    junk = tmp_path / "board.timing"
    junk.write_bytes(b"junk")
    told["damaged cache"] = message(read_sealed, junk)
    refusing = SimpleNamespace(create_timing_cache=lambda _: None)
    told["another cache"] = message(building._open_cache, refusing, tmp_path / "none")
    told["refused graph"] = message(build_in_vain, files, monkeypatch)
    damaged = shutil.copytree(tiny_bundle_path, tmp_path / "damaged.elit")
    weights = damaged / files.manifest.graphs[0].weights
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    told["damaged bundle"] = message(Bundle.open, damaged)
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "FileLock", MagicMock(side_effect=Timeout("lock")))
        told["two at once"] = message(compiling._alone(tmp_path).__enter__)
    told["capability"] = message(compiling._aims, TENSORRT, ("8.7",))
    capabilities = enum.Enum("ComputeCapability", ["SM80", "SM86"])
    rtx = SimpleNamespace(
        ahead_of_time=True, title=TENSORRT_RTX.title, version="1", load=lambda: SimpleNamespace(ComputeCapability=capabilities)
    )
    told["Orin"] = message(compiling._aims, rtx, ("8.7",))
    return told


Newer: Any = SimpleNamespace(name="tensorrt", version="10.13.3")


def with_engines(files: Any) -> Any:
    """The bundle, saying that it has engines of TensorRT 10.3 for Orin."""
    made = [
        Engine(
            role=role, precision="fp32", library="tensorrt", version="10.3.0", platform="linux aarch64",
            compute_capabilities=("8.7",), compiled_on="Orin", driver="12.6", path=f"engines/{role}",
            profiles=engine_profiles(files.manifest, files.manifest.graph(role, "fp32"), "range"),
        )
        for role in engines.ROLES
    ]  # fmt: skip
    entries = dict(files.manifest.files) | {engine.path: next(iter(files.manifest.files.values())) for engine in made}
    manifest = SimpleNamespace(name="tiny", engines=made, files=entries, graph=files.manifest.graph)
    return SimpleNamespace(folder=files.folder, manifest=manifest)


def fill_memory() -> None:
    with cuda.failures("running it"):
        raise cuda.CudaError("cuMemAlloc", SimpleNamespace(name="CUDA_ERROR_OUT_OF_MEMORY"))


def build_in_vain(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder returns nothing."""
    module = MagicMock(IProgressMonitor=object)
    builder = module.Builder.return_value
    builder.build_serialized_network.return_value = None
    builder.create_builder_config.return_value.add_optimization_profile.return_value = 0
    library = SimpleNamespace(title="TensorRT", version="10.3.0", load=lambda: module, messages=Messages())
    with monkeypatch.context() as patch:
        patch.setattr(building, "read_network", MagicMock())
        patch.setattr(building, "check_network", MagicMock())
        building.build_engine(library, files, files.manifest.graph("velocity", "fp32"), ())


def says(quoted: str, real: str) -> bool:
    return re.search(".+".join(map(re.escape, quoted.split("…"))), real) is not None


def test_every_message_quoted_is_one_of_the_code(said):
    for quoted in ROWS:
        assert any(says(quoted, real) for real in said.values()), f"{quoted!r} is none of\n" + "\n".join(said.values())


def test_every_message_that_can_be_caused_here_is_explained(said):
    for name, real in said.items():
        assert any(says(quoted, real) for quoted in ROWS), f"{name}: {real}"
