"""Packages put into a bundle: which, when nothing is put there, and that the rest of the bundle stays as it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from export.to_coreml.tools import contents, micro_config, random_model, reseal, write_bundle

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles, file_entries, write_manifest
from elit_edge.errors import (
    BundleError,
    ExportError,
    FitError,
    PackageError,
    ParityError,
)
from elit_edge.evaluation.attachment import SHIPPED, ShippedTable, attach
from elit_edge.export.mil.reading import MilPackage
from elit_edge.export.to_coreml import package
from elit_edge.export.to_coreml.compiling import compile_packages
from elit_edge.export.to_coreml.layout import Layout
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.verify_coreml import verify_coreml
from elit_edge.fit import coreml_bytes
from elit_edge.manifest import decode, encode

PROJECT = Path(__file__).parents[3]
CLASSES = ("ant", "bee", "größe", "蝶", '"quoted"')
QUICK = Recipe("gpu", "fp32", None, 17)
"""One function a package, and no look at float16's range: compiled in a second."""
WEIGHTS = "coreml/gpu-fp32/latents_04.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def model():
    return random_model(micro_config(class_names=CLASSES))


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("source") / "micro.elit", model, (1, 4))


@pytest.fixture
def bundle(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "micro.elit"))


@pytest.fixture(scope="module")
def compiled_once(source, tmp_path_factory):
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("compiled") / "micro.elit"))
    compile_packages(BundleFiles.open(folder), QUICK, budgets=(4,))
    return folder


@pytest.fixture
def compiled(compiled_once, tmp_path):
    """A copy with one package of a velocity."""
    return Path(shutil.copytree(compiled_once, tmp_path / "compiled.elit"))


def make(folder, recipe=QUICK, **more):
    return compile_packages(BundleFiles.open(folder), recipe, **{"budgets": (4,), **more})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_variant_is_in_the_bundle_and_in_its_manifest(source, bundle):
    told = []
    recipe = Recipe("ane", "fp16")
    manifest = make(
        bundle, recipe, budgets=(), license="CC-BY-4.0", report=lambda stage, share: told.append((stage, share))
    )
    opened = Bundle.open(bundle)  # every digest is checked
    assert opened.manifest == manifest
    before = contents(source)
    after = contents(bundle)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    new = set(after) - set(before)
    assert {Path(name).parts[:3] for name in new} == {
        ("coreml", "ane-fp16", "condition.mlpackage"),
        ("coreml", "ane-fp16", "velocity.mlpackage"),
    }
    (made,) = manifest.coreml
    assert (made.layout, made.precision, made.compression, made.ios) == ("ane", "fp16", None, 18)
    assert made.version == __import__("coremltools").__version__
    assert [(f.latents, f.batch) for f in made.functions] == [(None, 16), (1, 1), (1, 2), (4, 1), (4, 2)]
    assert 0 < made.parity.exact < 1e-3
    assert made.parity.exact < made.parity.stored < 3e-3
    assert made.parity.headroom > 4
    assert sum(len(after[name]) for name in new) < coreml_bytes(manifest, "fp16", 1)  # foreseen
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        "reference",
        "float16 states",
        "float16 range",
        "velocity",
        "condition",
        "core ml parity",
        "seal",
    ]
    assert all(0 <= share <= 1 for _, share in told)
    fields = MilPackage.open(bundle / "coreml/ane-fp16/velocity.mlpackage").metadata
    assert fields["license"] == "CC-BY-4.0"
    assert fields["version"] == manifest.provenance.source_sha256[:16]
    assert json.loads(fields["elit-edge.class_names"]) == list(CLASSES)
    assert json.loads(fields["elit-edge.budgets"]) == [1, 4]
    assert json.loads(fields["elit-edge.model"])["hidden_size"] == 32
    assert (fields["elit-edge.layout"], fields["elit-edge.variant"]) == ("ane", "fp16")
    assert fields["elit-edge.opens_on"] == "iOS 18, macOS 15"


def test_the_manifest_is_read_as_it_was_written_and_fits_the_schema(compiled):
    manifest = BundleFiles.open(compiled).manifest
    assert manifest.coreml
    assert decode(encode(manifest), "again") == manifest
    schema = json.loads((PROJECT / "docs" / "bundle-manifest.schema.json").read_bytes())
    instance = json.loads((compiled / "manifest.json").read_bytes())
    jsonschema.Draft202012Validator(schema).validate(instance)
    instance["coreml"][0]["ios"] = 15
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(instance)


@pytest.mark.parametrize(
    ("field", "value"), [("ios", 15), ("layout", "npu"), ("compression", "lut2"), ("functions", []), ("speed", 1)]
)
def test_a_manifest_that_says_something_else_is_refused(compiled, field, value):
    whole = json.loads((compiled / "manifest.json").read_bytes())
    whole["coreml"][0][field] = value
    (compiled / "manifest.json").write_text(json.dumps(whole))
    with pytest.raises(BundleError, match="is no bundle manifest"):
        Bundle.open(compiled)


def test_a_float32_package_has_no_headroom_and_its_licence_is_not_invented(compiled):
    (made,) = BundleFiles.open(compiled).manifest.coreml
    assert made.parity.headroom is None
    assert made.parity.stored < 1e-6
    fields = MilPackage.open(compiled / "coreml/gpu-fp32/latents_04.mlpackage").metadata
    assert fields["license"] == "not stated"


def test_other_variants_stay_and_the_same_one_is_replaced_whole(compiled):
    """A package a budget before; all of them in one afterwards, and nothing of the former left."""
    int8 = make(compiled, Recipe("gpu", "fp16", "int8", 17), budgets=(1,))
    assert [(each.layout, each.variant) for each in int8.coreml] == [("gpu", "fp32"), ("gpu", "int8")]
    kept = {name: data for name, data in contents(compiled).items() if name.startswith("coreml/gpu-int8/")}
    again = make(compiled, Recipe("gpu", "fp32", None, 18), budgets=(1, 4))
    assert [(each.variant, each.ios) for each in again.coreml] == [("int8", 17), ("fp32", 18)]
    assert Bundle.open(compiled).manifest == again
    assert names(compiled / "coreml/gpu-fp32") == ["condition.mlpackage", "velocity.mlpackage"]
    assert {n: d for n, d in contents(compiled).items() if n.startswith("coreml/gpu-int8/")} == kept


def test_eight_bits_on_both_sides_are_rounded_to_what_was_seen(bundle):
    manifest = make(bundle, Recipe("ane", "fp16", "w8a8"))
    (made,) = manifest.coreml
    assert (made.variant, made.compression, made.precision) == ("w8a8", "w8a8", "fp16")
    assert 30 <= made.parity.psnr_db < 80
    assert made.parity.headroom > 4
    opened = MilPackage.open(bundle / "coreml/ane-w8a8/velocity.mlpackage")
    types = [operation.type for operation in opened.program("latents_04").operations]
    assert types.count("quantize") == types.count("dequantize") > 20


def test_what_float16_cannot_hold_is_mended_on_the_way(model, tmp_path):
    """An MLP whose hidden numbers are beyond float16, while what it gives is as before."""
    loud = random_model(model.config)
    loud.blocks[1].mlp.fc1.weight *= 3e4
    loud.blocks[1].mlp.fc2.weight /= 3e4
    bundle = write_bundle(tmp_path / "micro.elit", loud, (4,))
    (made,) = make(bundle, Recipe("gpu", "fp16")).coreml
    assert made.parity.stored < 3e-3
    assert made.parity.headroom >= 4
    opened = MilPackage.open(bundle / "coreml/gpu-fp16/velocity.mlpackage")
    kinds = {o.name: o.outputs[0].element.name for o in opened.program("latents_04").operations}
    assert (kinds["blocks_1_mlp_fc1"], kinds["blocks_2_mlp_fc1"]) == ("float32", "float16")


def test_a_stream_beyond_float16_is_refused_and_float32_takes_it(model, tmp_path):
    loud = random_model(model.config)
    loud.patch.weight *= 4e4
    bundle = write_bundle(tmp_path / "micro.elit", loud, (4,))
    before = contents(bundle)
    with pytest.raises(ExportError, match=r"float16 ends at 65504; compile with --precision fp32"):
        make(bundle, Recipe("gpu", "fp16"))
    assert_untouched(bundle, before)
    assert make(bundle).coreml[0].parity.stored < 1e-6


def test_what_has_the_bundle_open_keeps_its_files(compiled):
    """The packages that are replaced are names of files, not the files."""
    held = (compiled / WEIGHTS).open("rb")
    before = (compiled / WEIGHTS).read_bytes()
    make(compiled)
    with held:
        assert held.read() == before


def test_permissions_are_the_users(compiled):
    mask = os.umask(0o027)
    try:
        make(compiled)
    finally:
        os.umask(mask)
    for path in (compiled / "coreml/gpu-fp32/latents_04.mlpackage").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def assert_untouched(folder, before):
    assert contents(folder) == before
    assert names(folder.parent) == [folder.name]
    Bundle.open(folder)


def test_packages_that_are_wrong_leave_the_bundle_as_it_was(compiled, monkeypatch):
    before = contents(compiled)

    def exact_gelu(self, x, name):
        return self.linear(self.builder.gelu(x=self.linear(x, f"{name}.fc1"), mode="EXACT"), f"{name}.fc2")

    monkeypatch.setattr(Layout, "mlp", exact_gelu)
    with pytest.raises(ParityError, match="do not compute what this model does"):
        make(compiled)
    assert_untouched(compiled, before)


def test_a_full_disk_leaves_the_bundle_as_it_was(compiled, monkeypatch):
    """Simulated: the second package does not find room."""
    before, right = contents(compiled), package._save

    def save(emission, path, *others):
        if path.name.startswith("condition"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        right(emission, path, *others)

    monkeypatch.setattr(package, "_save", save)
    with pytest.raises(BundleError, match="No space left on device; the bundle is as it was"):
        make(compiled)
    assert_untouched(compiled, before)


@pytest.mark.parametrize("when", ["velocity", "condition", "core ml parity", "seal"])
def test_an_interrupt_leaves_the_bundle_as_it_was(compiled, when):
    before = contents(compiled)

    def stop(stage, _share):
        if stage == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(compiled, report=stop)
    assert_untouched(compiled, before)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_graph_that_coremltools_refuses_is_an_export_error(compiled, precision, monkeypatch):
    """Wherever it is written first: for float16 that is where its range is looked at."""
    before = contents(compiled)

    def refused(*_):
        raise ValueError("Op 'conv' got a kernel of rank 7")

    monkeypatch.setattr(package, "write_velocity", refused)
    with pytest.raises(ExportError, match=r"does not write this model for iOS 1[78]: Op 'conv' got a kernel of rank 7"):
        make(compiled, Recipe("gpu", precision, None, 17))
    assert_untouched(compiled, before)


def test_too_small_a_disk_is_said_before_the_work(bundle, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(FitError, match=r"compiling micro needs about .* 0\.1 MB free"):
        make(bundle, report=lambda *_: pytest.fail("it has begun"))


def test_a_bundle_without_float32_weights_is_refused(bundle):
    manifest = BundleFiles.open(bundle).manifest
    graphs = tuple(msgspec.structs.replace(graph, precision="fp16") for graph in manifest.graphs)
    write_manifest(bundle, msgspec.structs.replace(manifest, graphs=graphs))
    with pytest.raises(BundleError, match=r"no fp32 weights, .* it has: fp16\. Export it again with --dtype fp32"):
        make(bundle)


def test_a_bundle_that_another_process_added_to_is_added_to_as_it_is_now(compiled):
    opened = BundleFiles.open(compiled)
    make(compiled, Recipe("gpu", "fp16", "int8", 17))
    manifest = compile_packages(opened, QUICK, budgets=(1,))
    assert {each.variant for each in manifest.coreml} == {"fp32", "int8"}
    Bundle.open(compiled)


def test_a_quality_table_leaves_the_packages(compiled):
    """As `evaluate` attaches it."""
    data = (PROJECT / "elit_edge" / "data" / SHIPPED).read_bytes()
    before = contents(compiled)
    coreml = Bundle.open(compiled).manifest.coreml
    attach(Bundle.open(compiled), msgspec.json.decode(data, type=ShippedTable).table)
    opened = Bundle.open(compiled).manifest
    assert opened.quality is not None
    assert opened.coreml == coreml
    assert {n: d for n, d in contents(compiled).items() if n != "manifest.json"} == {
        n: d for n, d in before.items() if n != "manifest.json"
    }


@pytest.mark.parametrize("name", ["coreml/notes.txt", "coreml/gpu-fp32/latents_04.mlpackage/.DS_Store"])
def test_a_foreign_file_is_refused(compiled, name):
    (compiled / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{name} not listed"):
        Bundle.open(compiled)


@pytest.mark.parametrize("name", [WEIGHTS, WEIGHTS.replace("weights/weight.bin", "model.mlmodel")])
def test_a_damaged_package_is_named_when_the_bundle_is_opened(compiled, name):
    data = bytearray((compiled / name).read_bytes())
    data[len(data) // 2] ^= 1
    (compiled / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} does not match its digest"):
        Bundle.open(compiled)


def test_a_package_without_its_index_is_refused(compiled):
    (compiled / "coreml/gpu-fp32/condition.mlpackage/Manifest.json").unlink()
    reseal(compiled)
    with pytest.raises(BundleError, match=r"condition\.mlpackage/Manifest\.json' has no digest"):
        Bundle.open(compiled)


def test_what_is_in_the_bundle_verifies(compiled, model):
    (found,) = verify_coreml(BundleFiles.open(compiled), lambda: model)
    assert found.model == Bundle.open(compiled).manifest.coreml[0]
    assert found.found.stored == found.model.parity.stored
    assert found.found.psnr_db > 110


def test_weights_changed_behind_the_digests_back_fail_verify(compiled, model):
    data = np.frombuffer((compiled / WEIGHTS).read_bytes(), np.uint8).copy()
    middle = len(data) // 8 * 4
    data[middle : middle + 512] = 0
    (compiled / WEIGHTS).write_bytes(data.tobytes())
    reseal(compiled)
    with pytest.raises((ParityError, PackageError)):
        verify_coreml(BundleFiles.open(compiled), lambda: model)


def test_one_weight_changed_by_a_thousandth_fails_verify(compiled, model):
    path = compiled / WEIGHTS
    data = path.read_bytes()
    weight = np.ascontiguousarray(model.state_dict()["blocks.1.mlp.fc2.weight"].numpy())
    assert data.count(weight.tobytes()) == 1
    changed = weight.copy()
    changed[0, 0] += 1e-3
    path.write_bytes(data.replace(weight.tobytes(), changed.tobytes()))
    reseal(compiled)
    with pytest.raises(ParityError):
        verify_coreml(BundleFiles.open(compiled), lambda: model)


def test_a_package_cut_short_fails_verify(compiled, model):
    path = compiled / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4096])
    reseal(compiled)
    with pytest.raises(PackageError, match=r"latents_04\.mlpackage: weight .* ends at byte"):
        verify_coreml(BundleFiles.open(compiled), lambda: model)


def test_the_digests_are_those_of_the_files(compiled):
    manifest = BundleFiles.open(compiled).manifest
    assert manifest.files == file_entries(compiled)
    assert list(manifest.files) == sorted(manifest.files)
