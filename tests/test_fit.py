"""What is foreseen of memory and disk, and the refusal where it does not fit."""

import shutil
from types import SimpleNamespace

import pytest

from elit_edge import fit
from elit_edge.bundle import Bundle
from elit_edge.errors import FitError


def scarce(monkeypatch, usable_bytes):
    monkeypatch.setattr(fit, "read_memory", lambda *_: SimpleNamespace(usable_bytes=usable_bytes))


def test_too_little_memory_is_refused_with_both_figures(monkeypatch):
    scarce(monkeypatch, 1_500_000_000)
    with pytest.raises(FitError, match=r"needs about 2\.00 GB of memory, and 1\.50 GB are free here; do less"):
        fit.check_memory(2_000_000_000, "this work", "do less")
    fit.check_memory(1_500_000_000, "this work", "do less")


def test_a_machine_that_does_not_tell_is_no_hindrance(monkeypatch):
    scarce(monkeypatch, None)
    fit.check_memory(10**15, "this work", "do less")


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(FitError, match=r"needs about 1\.00 GB on disk, and .* has 0\.0 MB free"):
        fit.check_disk(tmp_path / "not" / "yet", 1_000_000_000, "this work")


def test_the_size_of_a_bundle_is_foreseen(tiny_bundle_path):
    manifest = Bundle.open(tiny_bundle_path).manifest
    found = sum(entry.bytes for entry in manifest.files.values())
    assert (
        found
        <= fit.bundle_bytes(manifest.model, "fp32", sum(graph.latents is not None for graph in manifest.graphs))
        <= 1.3 * found + 4e6
    )


def test_a_bundle_is_not_opened_where_it_does_not_fit(tiny_bundle_path, monkeypatch):
    bundle = Bundle.open(tiny_bundle_path)
    scarce(monkeypatch, 0)
    monkeypatch.setattr("elit_edge.bundle.resident_bytes", lambda: 0)
    with pytest.raises(FitError, match=r"running tiny on onnxruntime needs about 1\d\d\.\d MB"):
        bundle.prepare("onnxruntime")


def test_more_pictures_need_more_memory(tiny_bundle_path):
    manifest = Bundle.open(tiny_bundle_path).manifest
    assert fit.run_memory_bytes(manifest, 2) > fit.run_memory_bytes(manifest, 1)


def test_an_export_that_does_not_fit_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch):
    from elit_edge.export.exporter import export

    scarce(monkeypatch, 0)
    monkeypatch.setattr("elit_edge.export.exporter.resident_bytes", lambda: 0)
    with pytest.raises(FitError, match=r"exporting .* needs about"):
        export(tiny_checkpoint, tmp_path / "tiny.elit")
    assert list(tmp_path.iterdir()) == []


def test_auto_passes_over_a_runtime_that_the_memory_cannot_hold(tiny_bundle_path, monkeypatch):
    bundle = Bundle.open(tiny_bundle_path)
    mapped, packed = (fit.run_memory_bytes(bundle.manifest, 1, runtime) for runtime in ("onnxruntime", "openvino"))
    assert mapped < packed
    monkeypatch.setattr("elit_edge.bundle.resident_bytes", lambda: 0)
    monkeypatch.setattr("elit_edge.bundle.free_bytes", lambda: (mapped + packed) // 2)
    with bundle.prepare("auto") as session:
        assert session.runtime == "onnxruntime"
        assert any(words.startswith("openvino: needs about ") for words in session.passed_over)
