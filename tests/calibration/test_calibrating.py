"""A bundle gains a precision: what is in it then, what is refused, and what a run that fails leaves behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from elit_edge import parity
from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles, file_entries, write_manifest
from elit_edge.calibration import calibrating
from elit_edge.calibration.calibrating import SCHEMES, calibrate
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.record import decode
from elit_edge.calibration.set_file import save_set
from elit_edge.calibration.states import default_recipe, source_digest
from elit_edge.errors import BundleError, CalibrationError, ParityError, RequestError
from elit_edge.export.verify import reference_cases, verify
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.planning import Planner
from elit_edge.profiling import turns
from elit_edge.profiling.choosing import candidates_of
from elit_edge.runtimes.registry import choose
from elit_edge.verdict import Interval


@pytest.fixture(scope="module", autouse=True)
def one_round():
    """Whether a precision is faster is not asked here: its graphs really run, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def source(tiny_bundle_path):
    return Bundle.open(tiny_bundle_path)


@pytest.fixture(scope="module")
def set_path(source, tmp_path_factory):
    """A small calibration set of the tiny bundle."""
    path = tmp_path_factory.mktemp("sets") / "small.npz"
    recipe = default_recipe(source.files, budgets=(1, 16), steps=2, classes=2)
    with source.prepare("onnxruntime", "fp32", 1) as session:
        save_set(path, collect(session, recipe, lambda *_: None, print), replace=False)
    return path


@pytest.fixture(scope="module")
def make(source, set_path):
    """A calibration without pictures, whose speed is no reason to refuse it."""

    def made(scheme, target, **settings):
        settings = {"pictures": 0, "threads": 1, "states": set_path} | settings
        return calibrate(source, scheme, target, **settings)

    return made


@pytest.fixture(scope="module")
def int8(make, tmp_path_factory):
    return make("int8", tmp_path_factory.mktemp("int8") / "new.elit")


@pytest.fixture(scope="module")
def new(int8, tmp_path_factory):
    """The bundle of `int8`, opened."""
    return Bundle.open(next(tmp_path_factory.getbasetemp().glob("int8*/new.elit")))


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_new_bundle_holds_all_of_the_source_and_the_precision(new, source):
    before, after = digests(source.files.folder), digests(new.files.folder)
    added = {"calibration/int8.json", "onnx/condition-int8.onnx", "onnx/velocity-int8.onnx"}
    assert after.keys() - before.keys() == {*added, "onnx/weights-int8.safetensors"}
    assert all(after[name] == digest for name, digest in before.items() if name != "manifest.json")
    assert new.manifest.precisions == ("fp32", "int8")
    assert new.manifest.verification == source.manifest.verification
    assert source_digest(new.files) == source_digest(source.files)


def test_it_computes_near_float32_at_every_budget_and_batch(new):
    rng = np.random.default_rng(3)
    model = new.manifest.model
    with new.prepare("onnxruntime", "int8", 1) as own, new.prepare("onnxruntime", "fp32", 1) as exact:
        for latents in new.manifest.budgets:
            x = rng.normal(size=(3, model.in_channels, model.image_size, model.image_size))
            t, y = rng.uniform(size=3), rng.integers(model.num_classes + 1, size=3)
            right = exact.velocity(x, t, y, latents)
            assert parity.psnr_db(own.velocity(x, t, y, latents), right) > parity.GATE_DB["int8"]
            alone = own.velocity(x[1:2], t[1:2], y[1:2], latents)
            assert parity.psnr_db(alone, right[1:2]) > parity.GATE_DB["int8"]


def test_the_record_is_of_every_layer_and_of_the_set(new, int8):
    path = new.files.path(new.manifest.calibrations[0].record)
    record = decode(path.read_bytes(), str(path))
    assert record == int8.record
    weights = load_file(new.files.path(new.manifest.graph("velocity", "fp32").weights))
    layers = {name.removesuffix("_t").removesuffix(".weight") for name, values in weights.items() if ".weight" in name}
    layers -= {"label"}
    assert {layer.name for layer in record.layers} == layers
    assert record.set is not None
    assert record.set.budgets == (1, 16)
    integers = [layer for layer in record.layers if layer.treatment == "int8"]
    assert all(len(layer.ranges) == 2 * 2 * 2 and layer.bound for layer in integers)
    assert {layer.name for layer in record.layers} - {layer.name for layer in integers} == set(
        new.manifest.calibrations[0].float_layers
    )


def test_weights_of_integer_products_stay_within_seven_bits(new):
    stored = load_file(new.files.path(new.manifest.graph("velocity", "int8").weights))
    kept = set(new.manifest.calibrations[0].float_layers)
    for name, values in stored.items():
        if values.dtype == np.int8:
            layer = name.removesuffix("_t").removesuffix(".weight")
            assert np.abs(values.astype(int)).max() <= (127 if layer in kept else 63), name


def test_the_same_calibration_writes_the_same_bytes(make, new, tmp_path):
    again = make("int8", tmp_path / "again.elit")
    files = BundleFiles.open(tmp_path / "again.elit")
    for name in ("onnx/weights-int8.safetensors", "onnx/velocity-int8.onnx", "calibration/int8.json"):
        assert files.path(name).read_bytes() == new.files.path(name).read_bytes(), name
    assert again.calibration.set_sha256 == new.manifest.calibrations[0].set_sha256


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "int8"])
def test_every_scheme_holds_its_gate_and_can_be_opened(make, scheme, tmp_path):
    made = make(scheme, tmp_path / "new.elit", accept_anyway=True)
    gate = parity.GATE_DB[scheme]
    assert made.calibration.verdict.worst_psnr_db >= gate
    opened = Bundle.open(tmp_path / "new.elit")
    assert (made.calibration.set_sha256 is None) == (scheme not in ("w4", "fp16"))
    assert (made.record.headroom is None) == (scheme != "fp16")
    assert made.calibration.verdict.size_ratio < 0.7  # graphs and positions weigh much in a model as small as this
    able = {name for name, each, _ in candidates_of(opened.files, "auto", scheme)[0] if each == scheme}
    assert able == ({"openvino"} if scheme == "bf16" else {"onnxruntime", "openvino"})
    for name in able:
        with choose(name).prepare(opened.files, scheme, 1) as session:
            assert np.isfinite(session.velocity(np.zeros((1, *_shape(opened))), [0.5], [0], 3)).all()


def _shape(bundle):
    model = bundle.manifest.model
    return model.in_channels, model.image_size, model.image_size


def test_the_source_is_never_touched(make, source, tmp_path):
    before = digests(source.files.folder)
    make("w8", tmp_path / "a.elit", accept_anyway=True)
    with pytest.raises(CalibrationError, match="is the bundle itself"):
        make("w8", source.files.folder, force=True)
    assert digests(source.files.folder) == before


@pytest.fixture
def strict(monkeypatch):
    """Gates that nothing passes."""
    monkeypatch.setitem(parity.GATE_DB, "int8-dynamic", 200.0)


def test_what_fails_its_gate_is_refused_and_leaves_nothing(make, strict, tmp_path):
    with pytest.raises(
        CalibrationError, match=r"int8-dynamic of tiny is refused: at 1 latents .*gate is 200 dB"
    ) as found:
        make("int8-dynamic", tmp_path / "new.elit")
    assert "--accept-anyway" in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_what_was_accepted_anyway_keeps_its_verdict_and_is_never_chosen_by_itself(make, strict, tmp_path):
    made = make("int8-dynamic", tmp_path / "new.elit", accept_anyway=True)
    assert not made.calibration.verdict.accepted
    files = BundleFiles.open(tmp_path / "new.elit")
    candidates, passed_over = candidates_of(files, "auto", None)
    assert {precision for _, precision, _ in candidates} == {"fp32"}
    assert any("its verdict refuses it" in lost.reason for lost in passed_over)
    named, _ = candidates_of(files, "auto", "int8-dynamic")
    assert {precision for _, precision, _ in named} == {"int8-dynamic"}


def test_verify_holds_a_refused_precision_to_what_its_verdict_says(make, strict, tmp_path):
    make("int8-dynamic", tmp_path / "new.elit", accept_anyway=True)
    files = BundleFiles.open(tmp_path / "new.elit")
    found = verify(files, reference_cases(model_of_bundle(files, "fp32"), files.manifest))
    assert found.worst.psnr_db > 20


def test_verify_finds_a_precision_that_is_not_what_was_calibrated(new, tmp_path):
    folder = shutil.copytree(new.files.folder, tmp_path / "bad.elit")
    files = BundleFiles.open(folder)
    weights = files.path(files.manifest.graph("velocity", "int8").weights)
    data = bytearray(weights.read_bytes())
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + size])["final.weight_t.scale"]
    first, last = (8 + size + offset for offset in entry["data_offsets"])
    data[first:last] = (2 * np.frombuffer(data[first:last], "<f4")).tobytes()
    weights.write_bytes(data)
    write_manifest(folder, msgspec.structs.replace(files.manifest, files=file_entries(folder)))
    files = BundleFiles.open(folder)
    with pytest.raises(ParityError, match="velocity-int8"):
        verify(files, reference_cases(model_of_bundle(files, "fp32"), files.manifest))


def test_verify_passes_a_sound_one(new):
    found = verify(new.files, reference_cases(model_of_bundle(new.files, "fp32"), new.files.manifest))
    assert found.worst.psnr_db >= found.gate_db


def test_a_precision_is_made_once(new, tmp_path):
    with pytest.raises(CalibrationError, match="has int8 already"):
        calibrate(new, "int8", tmp_path / "twice.elit", pictures=0)


def test_an_unknown_scheme_names_the_known(source, tmp_path):
    with pytest.raises(CalibrationError, match="unknown scheme 'int3'; there are: int8"):
        calibrate(source, "int3", tmp_path / "new.elit")


def test_what_stands_there_is_not_replaced_unasked(make, tmp_path):
    (tmp_path / "new.elit").mkdir()
    with pytest.raises(BundleError, match="exists"):
        make("w8", tmp_path / "new.elit")


@pytest.mark.parametrize("stage", ["observe", "search", "sensitivity", "speed"])
def test_a_run_that_is_ended_leaves_nothing(make, stage, tmp_path, source):
    before = digests(source.files.folder)

    def ended(name, _share):
        if name == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("int8", tmp_path / "new.elit", report=ended)
    assert list(tmp_path.iterdir()) == []
    assert digests(source.files.folder) == before


def test_a_set_is_written_where_there_is_none_and_read_where_there_is(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        calibrating, "default_recipe", lambda files: default_recipe(files, budgets=(1, 16), steps=1, classes=1)
    )
    path = tmp_path / "own.npz"
    settings = {"pictures": 0, "threads": 1, "states": path, "accept_anyway": True}
    first = calibrate(source, "w4", tmp_path / "a.elit", **settings)
    monkeypatch.setattr(calibrating, "collect", None)
    second = calibrate(source, "w4", tmp_path / "b.elit", **settings)
    assert first.calibration.set_sha256 == second.calibration.set_sha256


def test_a_set_of_other_weights_is_refused_before_anything_is_written(source, set_path, new, tmp_path):
    folder = shutil.copytree(source.files.folder, tmp_path / "other.elit")
    files = BundleFiles.open(folder)
    weights = files.path(files.manifest.graph("velocity", "fp32").weights)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    write_manifest(folder, msgspec.structs.replace(files.manifest, files=file_entries(folder)))
    with pytest.raises(CalibrationError, match="taken from other weights"):
        calibrate(Bundle.open(folder), "int8", tmp_path / "new.elit", states=set_path, pictures=0)
    assert not (tmp_path / "new.elit").exists()


def test_force_replaces_bundles_alone(make, tmp_path):
    mine = tmp_path / "mine.elit"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle, and --force replaces bundles alone"):
        make("w8", mine, force=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    made = make("w8", tmp_path / "new.elit", accept_anyway=True)
    assert make("w8", tmp_path / "new.elit", accept_anyway=True, force=True).record == made.record


@pytest.mark.parametrize("wrong", [{"pictures": 1}, {"pictures": -3}, {"features": Path("none.onnx")}])
def test_settings_of_the_proof_are_asked_before_the_work(make, tmp_path, wrong):
    stages = []
    with pytest.raises(RequestError):
        make("int8", tmp_path / "new.elit", report=lambda stage, _share: stages.append(stage), **wrong)
    assert stages == []


def test_what_a_precision_departs_by_is_what_it_is_planned_with(new):
    """The table of quality is of float32."""
    found = new.manifest.calibrations[0]
    budget = msgspec.structs.replace(found.verdict.budgets[0], departure=Interval(low=0.2, value=0.3, high=0.4))
    verdict = msgspec.structs.replace(found.verdict, budgets=(budget, *found.verdict.budgets[1:]))
    manifest = msgspec.structs.replace(
        new.manifest, calibrations=(msgspec.structs.replace(found, verdict=verdict),), quality=None
    )
    assert (manifest.departure("fp32"), manifest.departure("int8")) == (0.0, 0.3)
    assert Planner.of(manifest, []).departures == {"fp32": 0.0, "int8": 0.3}
