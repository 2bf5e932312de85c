"""Engines that open here and engines that do not; those that are compiled anew into the cache. On a SIMULATION."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from elit_edge import Bundle
from elit_edge.bundle_files import write_manifest
from elit_edge.errors import BundleError, ElitEdgeError
from elit_edge.files import cache_folder
from elit_edge.runtimes.contract import Missing, Ready
from elit_edge.runtimes.registry import all_runtimes
from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
from elit_edge.runtimes.tensorrt_.cuda import need_gpu
from elit_edge.runtimes.tensorrt_.engines import fitting, rebuilt, rebuilt_folder
from elit_edge.runtimes.tensorrt_.fitting import here
from elit_edge.runtimes.tensorrt_.library import LIBRARIES

pytest.importorskip("onnx")
TESTS = Path(__file__).parents[1]


@pytest.fixture
def reports():
    return []


@pytest.fixture
def settle(bundle, library, reports):
    """What "auto" asks for before it opens a session."""
    return lambda: all_runtimes()[library].settle(bundle.files, "fp32", reports.append)


@pytest.fixture
def at(library):
    return lambda: here(LIBRARIES[library], need_gpu())


def changed(bundle, **facts):
    """The bundle with other facts in its manifest, as if compiled elsewhere."""
    engines = tuple(msgspec.structs.replace(engine, **facts) for engine in bundle.manifest.engines)
    write_manifest(bundle.files.folder, msgspec.structs.replace(bundle.manifest, engines=engines))
    return Bundle.open(bundle.files.folder)


def close_to_the_authors(session, expected):
    v = session.velocity(expected["x"], expected["t"], expected["y"], latents=7)
    assert abs(v - expected["v_07"]).max() < 1e-5


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        pytest.param({"version": "10.3.0"}, ["compiled by {library} 10.3.0", "here is {version}"], id="version"),
        pytest.param(
            {"platform": "linux riscv64"}, ["compiled for linux riscv64", "here is {platform}"], id="platform"
        ),
        pytest.param(
            {"compute_capabilities": ("8.7", "9.0")},
            ["compute capability 8.7, 9.0", "Simulated GPU has 8.6"],
            id="compute capability",
        ),
        pytest.param({"driver": "13.0"}, ["compiled under CUDA 13.0", "driver here knows 12.6"], id="driver"),
    ],
)
def test_an_engine_from_elsewhere_is_refused_with_both_sides_and_what_to_type(gpu, bundle, library, at, facts, words):
    from simulated_gpu import tensorrt

    bundle = changed(bundle, **facts)
    with pytest.raises(BundleError) as caught:
        bundle.prepare(library)
    message = str(caught.value)
    known = {"library": library, "version": LIBRARIES[library].version, "platform": at().platform}
    for each in words:
        assert each.format(**known) in message
    assert message.count("compiled ") == 1, "each fact once"
    assert f"elit-edge compile {bundle.files.folder} --target {library} --precision fp32" in message
    assert tensorrt.process.deserialized == 0
    assert gpu.held == {}


@pytest.mark.parametrize("driver", ["12.0", "12.6", "12.9", "11.8"])
def test_a_driver_of_the_same_generation_or_a_newer_one_opens_an_engine(gpu, bundle, library, expected, driver):
    with changed(bundle, driver=driver).prepare(library) as session:
        close_to_the_authors(session, expected)


def test_every_fact_that_differs_is_named_at_once(gpu, bundle, library):
    with pytest.raises(BundleError, match=r"compiled by .*; compiled for .*; compiled under CUDA 13\.0"):
        changed(bundle, version="1", platform="other", driver="13.0").prepare(library)


def test_a_bundle_without_engines_says_what_to_type(gpu, tiny_bundle_path, library):
    with pytest.raises(BundleError, match=rf"tiny; elit-edge compile BUNDLE --target {library} makes engines"):
        Bundle.open(tiny_bundle_path).prepare(library)


def test_engines_of_the_other_library_are_none_of_ours(gpu, compiled):
    manifest = Bundle.open(compiled["tensorrt"]).manifest
    assert all_runtimes()["tensorrt"].precisions(manifest) == ("fp32",)
    assert all_runtimes()["tensorrt-rtx"].precisions(manifest) == ()


def test_one_engine_of_two_is_none(gpu, bundle, library):
    kept = tuple(engine for engine in bundle.manifest.engines if engine.role == "velocity")
    write_manifest(bundle.files.folder, msgspec.structs.replace(bundle.manifest, engines=kept))
    with pytest.raises(BundleError, match="has no fp32 engine"):
        Bundle.open(bundle.files.folder).prepare(library)


def test_what_opens_here_is_not_compiled_again(gpu, library, settle, reports):
    from simulated_gpu import tensorrt

    settle()
    assert tensorrt.process.built == 0
    assert reports == []


def test_what_does_not_open_here_is_compiled_once_into_the_cache(gpu, bundle, library, settle, reports, expected):
    from simulated_gpu import tensorrt

    gpu.compute_capability = "8.9" if library == "tensorrt" else "12.0"
    if library == "tensorrt-rtx":
        bundle = changed(bundle, compute_capabilities=("8.6",))
        all_runtimes()[library].settle(bundle.files, "fp32", reports.append)
    else:
        settle()
    assert tensorrt.process.built == 2
    (words,) = reports
    assert words.startswith("compiling tiny for this GPU (once): compiled for compute capability 8.6")
    before = sorted(path.name for path in bundle.files.folder.rglob("*"))
    all_runtimes()[library].settle(bundle.files, "fp32", reports.append)
    with bundle.prepare(library) as session:
        close_to_the_authors(session, expected)
    assert tensorrt.process.built == 2
    assert len(reports) == 1
    assert sorted(path.name for path in bundle.files.folder.rglob("*")) == before


@pytest.fixture
def elsewhere(bundle, library):
    """A bundle whose engines are of another version, so that they are compiled anew here."""
    return changed(bundle, version="0.1")


def settled(bundle, library):
    all_runtimes()[library].settle(bundle.files, "fp32", lambda _: None)


@pytest.mark.parametrize("form", ["range", "per-budget"])
def test_what_is_compiled_anew_has_the_profiles_it_had(gpu, bundle, library, at, form):
    compile_bundle(bundle.files, LIBRARIES[library], "fp32", form=form)
    bundle = changed(Bundle.open(bundle.files.folder), version="0.1")
    settled(bundle, library)
    made = {role: stored.engine.profiles for role, stored in rebuilt(bundle.files, "fp32", at()).items()}
    assert made == {engine.role: engine.profiles for engine in bundle.manifest.engines}


@pytest.mark.parametrize("name", ["condition-fp32", "velocity-fp32"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), id="changed"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_a_damaged_engine_of_the_cache_is_compiled_again(gpu, elsewhere, library, at, expected, name, damage):
    from simulated_gpu import tensorrt

    settled(elsewhere, library)
    damage(rebuilt_folder(elsewhere.files, "fp32", at()) / f"{name}.{library}")
    with pytest.raises(BundleError, match="elit-edge compile"):
        elsewhere.prepare(library)
    assert tensorrt.process.deserialized == 0
    settled(elsewhere, library)
    with elsewhere.prepare(library) as session:
        close_to_the_authors(session, expected)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"engines":[],"files":{}}', b"\xff", b"[" * 100_000])
def test_a_damaged_record_of_the_cache_is_compiled_again(gpu, elsewhere, library, at, expected, record):
    settled(elsewhere, library)
    (rebuilt_folder(elsewhere.files, "fp32", at()) / "engines.json").write_bytes(record)
    settled(elsewhere, library)
    with elsewhere.prepare(library) as session:
        close_to_the_authors(session, expected)


def test_a_record_that_leads_out_of_the_cache_is_not_followed(gpu, elsewhere, library, at, tmp_path):
    settled(elsewhere, library)
    record = rebuilt_folder(elsewhere.files, "fp32", at()) / "engines.json"
    foreign = tmp_path / "foreign"
    shutil.copy(record.with_name(f"condition-fp32.{library}"), foreign)
    record.write_bytes(record.read_bytes().replace(f"condition-fp32.{library}".encode(), str(foreign).encode()))
    assert rebuilt(elsewhere.files, "fp32", at()) == {}


def test_the_cache_tells_graphs_versions_and_gpus_apart(gpu, elsewhere, library, at, monkeypatch):
    here_now = at()
    folders = {rebuilt_folder(elsewhere.files, "fp32", here_now)}
    for change in (
        {"version": "9"},
        {"platform": "other"},
        {"gpu": dataclasses.replace(here_now.gpu, name="Other GPU")},
    ):
        folders.add(rebuilt_folder(elsewhere.files, "fp32", dataclasses.replace(here_now, **change)))
    name = elsewhere.manifest.graph("velocity", "fp32").path
    entry = msgspec.structs.replace(elsewhere.manifest.files[name], sha256="0" * 64)
    elsewhere.files.manifest = msgspec.structs.replace(
        elsewhere.manifest, files={**elsewhere.manifest.files, name: entry}
    )
    folders.add(rebuilt_folder(elsewhere.files, "fp32", here_now))
    assert len(folders) == 5


def test_a_newer_driver_opens_what_was_compiled_under_an_older_one(gpu, elsewhere, library, expected):
    from simulated_gpu import tensorrt

    settled(elsewhere, library)
    gpu.driver = 12090
    settled(elsewhere, library)
    with elsewhere.prepare(library) as session:
        close_to_the_authors(session, expected)
    assert tensorrt.process.built == 2
    gpu.driver = 12000
    settled(elsewhere, library)
    assert tensorrt.process.built == 2
    gpu.driver = 13000
    settled(elsewhere, library)
    assert tensorrt.process.built == 2


@pytest.mark.parametrize("compute_capability", ["8.7", "9.0", "7.5"])
def test_a_gpu_that_cannot_be_compiled_for_is_an_error_that_says_so(gpu, compiled, compute_capability):
    """Orin, H100, Turing, with TensorRT for RTX: "auto" passes over what raises an ElitEdgeError, and no other."""
    gpu.compute_capability = compute_capability
    with pytest.raises(ElitEdgeError, match=rf"compute capability {compute_capability}"):
        settled(Bundle.open(compiled["tensorrt-rtx"]), "tensorrt-rtx")


def test_a_cache_that_cannot_be_written_is_said(gpu, elsewhere, library, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file in the place of the folder")
    with pytest.raises(ElitEdgeError, match=r"cache"):
        settled(elsewhere, library)


def test_a_disk_that_fills_while_engines_are_kept_leaves_no_half_of_them(gpu, elsewhere, library, at, monkeypatch):
    write = Path.write_bytes

    def full(path, data):
        if path.name.startswith("velocity"):
            raise OSError(28, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(BundleError, match=r"cannot keep engines in .*: No space left on device"):
            settled(elsewhere, library)
    assert rebuilt(elsewhere.files, "fp32", at()) == {}


def test_two_processes_compile_once_and_both_run(gpu, elsewhere, library, tmp_path):
    """Two real processes at the same time: the second waits for the first, and takes what it made."""
    code = f"""
        import sys, time
        sys.path.insert(0, {str(TESTS)!r})
        from simulated_gpu.installing import simulated_gpu
        from simulated_gpu import tensorrt
        from elit_edge import Bundle
        from elit_edge.runtimes.registry import all_runtimes
        bundle = Bundle.open({str(elsewhere.files.folder)!r})
        words = []
        with simulated_gpu(compute_capability="8.6"):
            build = tensorrt.Builder.build_serialized_network
            def slow(self, network, config):
                time.sleep(1)
                return build(self, network, config)
            tensorrt.Builder.build_serialized_network = slow
            print("ready", flush=True)
            sys.stdin.readline()
            all_runtimes()[{library!r}].settle(bundle.files, "fp32", words.append)
            with bundle.prepare({library!r}) as session:
                session.velocity([[[[0.0] * 16] * 16] * 4], [0.5], [1], 3)
        print(tensorrt.process.built, len(words))
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", dedent(code)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert sorted(answer[0].strip() for answer in answers) == ["0 0", "2 1"]


def test_auto_settles_what_is_the_only_one(gpu, elsewhere, library, monkeypatch, expected):
    """All other runtimes are hidden: nothing is measured, which a simulation could not be."""
    only = {library: all_runtimes()[library]}
    monkeypatch.setattr("elit_edge.profiling.choosing.all_runtimes", lambda: only)
    words = []
    with elsewhere.prepare("auto", report=words.append) as session:
        assert session.runtime == library
        close_to_the_authors(session, expected)
    assert any(word.startswith("compiling tiny for this GPU (once)") for word in words)


def test_a_build_that_fails_while_settling_leaves_nothing_and_says_why(gpu, elsewhere, library, at, monkeypatch):
    def refuse(_builder, _network, _config):
        from simulated_gpu import tensorrt

        tensorrt._error("no kernel for it")

    monkeypatch.setattr("simulated_gpu.tensorrt.Builder.build_serialized_network", refuse)
    with pytest.raises(BundleError, match="no kernel for it"):
        settled(elsewhere, library)
    assert rebuilt(elsewhere.files, "fp32", at()) == {}
    assert not list((cache_folder("engines")).glob(".*"))


def test_fitting_prefers_the_bundle_to_the_cache(gpu, bundle, library, at):
    settled(changed(bundle, version="0.1"), library)
    own = Bundle.open(bundle.files.folder)
    good = changed(own, version=LIBRARIES[library].version)
    pair = fitting(good.files, "fp32", at())
    assert {stored.path.parent for stored in pair.values()} == {bundle.files.folder / "engines"}


def test_both_runtimes_are_ready_where_there_is_a_gpu_and_missing_where_there_is_none(gpu, library):
    assert isinstance(all_runtimes()[library].check(), Ready)
    gpu.installed = False
    state = all_runtimes()[library].check()
    assert isinstance(state, Missing)
    assert "no NVIDIA driver" in state.reason
