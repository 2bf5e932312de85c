from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.export import model_range, verify
from elit_edge.export.exporter import export


def bytes_of(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_the_same_checkpoint_gives_the_same_bytes(micro_checkpoint, tmp_path):
    """Traced afresh, in another folder, under the same name."""
    once, again = tmp_path / "a" / "micro.elit", tmp_path / "b" / "micro.elit"
    export(micro_checkpoint, once)
    export(micro_checkpoint, again)
    assert bytes_of(once) == bytes_of(again)


def test_all_budgets_take_hardly_more_room_than_one(tiny_bundle_path):
    """A tiny model's graphs weigh as much as its weights: what counts is that the weights do not grow."""
    manifest = Bundle.open(tiny_bundle_path).manifest
    assert {graph.weights for graph in manifest.graphs} == {"onnx/weights.safetensors"}
    assert [name for name in manifest.files if not name.endswith(".onnx")] == ["onnx/weights.safetensors"]


def test_the_manifest_names_the_model_its_ladder_and_its_source(tiny_checkpoint, tiny_bundle_path):
    manifest = Bundle.open(tiny_bundle_path).manifest
    assert manifest.model == tiny_checkpoint.config
    assert manifest.name == "tiny"
    assert manifest.budgets == tuple(range(1, 17))
    assert manifest.sample_space == "latents"
    assert manifest.provenance.source_sha256 == hashlib.sha256(tiny_checkpoint.path.read_bytes()).hexdigest()


def test_a_bundle_that_is_up_to_date_is_left_alone(tiny_checkpoint, tiny_bundle_path):
    before = {path: path.stat().st_mtime_ns for path in tiny_bundle_path.rglob("*")}
    again = export(tiny_checkpoint, tiny_bundle_path)
    assert not again.fresh
    assert {path: path.stat().st_mtime_ns for path in tiny_bundle_path.rglob("*")} == before


def test_another_bundle_in_the_place_is_refused_unless_forced(micro_checkpoint, quick_trace, tmp_path):
    target = tmp_path / "model.elit"
    export(micro_checkpoint, target, check=False)
    with pytest.raises(BundleError, match="--force"):
        export(micro_checkpoint, target)
    assert export(micro_checkpoint, target, force=True).fresh
    assert BundleFiles.open(target).manifest.verification is not None


def test_a_bundle_without_the_gate_says_so(micro_checkpoint, quick_trace, tmp_path):
    export(micro_checkpoint, tmp_path / "unchecked.elit", check=False)
    assert Bundle.open(tmp_path / "unchecked.elit").manifest.verification is None


def test_an_export_that_fails_late_leaves_the_bundle_before_it(micro_checkpoint, quick_trace, tmp_path):
    target = tmp_path / "model.elit"
    export(micro_checkpoint, target, check=False)
    before = bytes_of(target)

    def stop(stage, _share):
        if stage == "seal":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(micro_checkpoint, target, force=True, check=False, report=stop)
    assert bytes_of(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.elit"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_checkpoint_is_let_go_before_a_graph_opens(dtype, micro_checkpoint, quick_trace, tmp_path, monkeypatch):
    """Its pages would stand in memory beside those of the graph's weights."""
    name, seen = micro_checkpoint.path.name, []

    def mapped():
        return name in Path("/proc/self/maps").read_text()

    def watch(module, function):
        right = getattr(module, function)

        def watched(*arguments):
            seen.append((function, mapped()))
            return right(*arguments)

        monkeypatch.setattr(module, function, watched)

    weights = micro_checkpoint.weights
    assert mapped()
    del weights
    watch(verify, "open_graph")
    watch(model_range, "_watched")
    export(micro_checkpoint, tmp_path / "model.elit", dtype=dtype)
    assert {function for function, _ in seen} >= ({"open_graph", "_watched"} if dtype == "fp16" else {"open_graph"})
    assert not any(held for _, held in seen)


def test_progress_names_the_stages_and_rises_within_each(micro_checkpoint, quick_trace, tmp_path):
    told = []
    export(micro_checkpoint, tmp_path / "model.elit", report=lambda stage, share: told.append((stage, share)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        "digest",
        "trace",
        "specialise",
        "weights",
        "reference",
        "verify",
        "seal",
    ]
    for stage in ("weights", "reference", "verify"):
        shares = [share for each, share in told if each == stage]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
