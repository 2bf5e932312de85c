"""The quality table: what a cell says, what a killed run keeps, and how the table stands in the bundle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from elit_edge.bundle import Bundle
from elit_edge.errors import BudgetError, BundleError, RequestError
from elit_edge.evaluation import evaluating, plans
from elit_edge.evaluation.attachment import attach, shipped_table
from elit_edge.evaluation.evaluating import evaluate, interval, relative_distances
from elit_edge.evaluation.plans import STEPS, Plan, default_latents, reference_plan, table_plans
from elit_edge.generation import generate
from elit_edge.manifest import decode, encode
from elit_edge.quality import QualityTable

DATA = Path(__file__).parents[2] / "elit_edge" / "data"
PATIENCE_S = 60
COUNT = 5
TINY = {"pictures": COUNT, "steps": (1, 2), "latents": (1, 16), "threads": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(plans, "REFERENCE_STEPS", 6)
    return tmp_path / "cache"


@pytest.fixture
def bundle(tiny_bundle_path, tmp_path):
    return Bundle.open(shutil.copytree(tiny_bundle_path, tmp_path / "tiny.elit"))


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """Means of the channels of a tiny sample: four features."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["pooled"]), helper.make_node("Flatten", ["pooled"], ["y"])]
    shape = ["b", "c", "h", "w"]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "f"])],
    )
    path = tmp_path_factory.mktemp("features") / "means.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def made(monkeypatch):
    """Every plan whose pictures are made, and those pictures."""
    found = {}

    class Watched(evaluating._Studio):
        def samples(self, plan):
            found[plan] = super().samples(plan)
            return found[plan]

    monkeypatch.setattr(evaluating, "_Studio", Watched)
    return found


def state_files(cache):
    return sorted(cache.rglob("state.json")), sorted(cache.rglob("reference.npy"))


def test_a_cell_is_the_distance_of_its_pictures_to_the_reference_from_the_same_noise(bundle):
    table = evaluate(bundle, **TINY)
    (cell,) = (c for c in table.cells if (c.steps, c.latents, c.guidance, c.weak_latents) == (2, 1, "ccfg", 1))
    classes = bundle.manifest.model.num_classes
    labels = [picture * classes // COUNT for picture in range(COUNT)]
    with bundle.prepare("onnxruntime", threads=1) as session:
        best = generate(session, labels, steps=6, seed=0).samples
        made = generate(session, labels, steps=2, latents=1, seed=0).samples
    by_hand = [np.sqrt(((x - r) ** 2).sum() / (r**2).sum()) for x, r in zip(made, best, strict=True)]
    assert cell.distance == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert min(by_hand) <= cell.low <= cell.distance <= cell.high <= max(by_hand)
    assert cell.frechet is None
    assert table.reference.distance == 0


def test_the_reference_measured_as_a_cell_is_at_distance_zero(bundle, features):
    table = evaluate(bundle, **{**TINY, "steps": (6,), "latents": (16,)}, features=features)
    (cell,) = (c for c in table.cells if (c.latents, c.guidance, c.weak_latents) == (16, "ccfg", 1))
    assert (cell.distance, cell.low, cell.high) == (0, 0, 0)
    assert cell.frechet == pytest.approx(0, abs=1e-9)
    assert all(c.distance > 0 for c in table.cells if c != cell)


def test_a_band_is_the_small_budget_at_its_times_alone(bundle):
    table = evaluate(bundle, **{**TINY, "steps": (4,)})
    (band,) = (b for b in table.bands if b.latents == 1 and (b.start, b.end) == (0.75, 0.5))
    classes = bundle.manifest.model.num_classes
    labels = [picture * classes // COUNT for picture in range(COUNT)]
    with bundle.prepare("onnxruntime", threads=1) as session:
        best = generate(session, labels, steps=6, seed=0).samples
        made = generate(session, labels, latents=(16, 1, 16, 16), seed=0).samples
    assert band.distance == pytest.approx(relative_distances(made, best).mean(), rel=1e-9)
    assert len(table.bands) == 2 * 4


def test_more_pictures_than_a_batch_are_noises_of_their_own(bundle, made):
    evaluate(bundle, **{**TINY, "pictures": evaluating.BATCH + 3, "steps": (1,), "latents": (1,)})
    samples = made[reference_plan(bundle.manifest)]
    assert len(samples) == evaluating.BATCH + 3
    assert len(np.unique(samples.reshape(len(samples), -1)[:, 0])) == len(samples)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    held = [low <= 5 <= high for low, high in (interval(rng.normal(5, 2, 60)) for _ in range(400))]
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_frechet_distance_needs_more_pictures_than_features(bundle, features):
    with pytest.raises(RequestError, match=r"--pictures 4: .* 4 features .* at least 5"):
        evaluate(bundle, **{**TINY, "pictures": 4}, features=features)
    table = evaluate(bundle, **TINY, features=features)
    assert all(cell.frechet is not None and cell.frechet >= 0 for cell in table.cells)
    assert table.features_sha256 == evaluating.sha256_of(features)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"pictures": 1}, RequestError, "at least two"),
        ({"steps": (0, 2)}, RequestError, "one step"),
        ({"latents": (17,)}, BudgetError, "1 to 16"),
    ],
)
def test_settings_of_no_table_are_refused_before_any_work(bundle, cache, wrong, error, words):
    with pytest.raises(error, match=words):
        evaluate(bundle, **{**TINY, **wrong})
    assert not cache.exists()


def test_the_grid_has_every_plan_it_should(bundle):
    plans = table_plans(bundle.manifest, STEPS, default_latents(bundle.manifest))
    own = {(p.steps, p.latents) for p in plans if (p.guidance, p.weak_latents) == ("ccfg", 1) and not p.is_band}
    assert own == {(steps, latents) for steps in STEPS for latents in (1, 2, 3, 4, 6, 8, 12, 16)}
    assert {(p.guidance, p.weak_latents) for p in plans} == {("ccfg", 1), ("ccfg", 4), ("none", 1)}
    assert not any(p.guidance == "ccfg" and p.weak_latents > p.latents for p in plans)
    assert len(set(plans)) == len(plans)
    work = [plan.work(bundle.manifest) for plan in plans]
    assert work == sorted(work)
    flops = {rung.latents: rung.velocity_flops for rung in bundle.manifest.ladder}
    dear = Plan(steps=48, latents=16, guidance="ccfg", weak_latents=1)
    assert dear.work(bundle.manifest) == 48 * (flops[16] + flops[1])


def test_a_model_without_latents_has_steps_and_guidance_alone(bundle):
    manifest = msgspec.structs.replace(
        bundle.manifest,
        model=msgspec.structs.replace(
            bundle.manifest.model, architecture="sit", head_depth=4, core_depth=0, tail_depth=0, group_size=1
        ),
        ladder=bundle.manifest.ladder[:1],
        sampler=msgspec.structs.replace(bundle.manifest.sampler, guidance="cfg"),
    )
    plans = table_plans(manifest, (1, 2, 4), default_latents(manifest))
    assert {(p.guidance, p.steps, p.latents) for p in plans} == {
        *(("cfg", steps, 1) for steps in (1, 2, 4)),
        *(("none", steps, 1) for steps in (1, 4)),
    }
    flops = manifest.ladder[0].velocity_flops
    assert reference_plan(manifest).work(manifest) == 6 * 2 * flops


def test_a_killed_run_goes_on_where_it_was(bundle, cache, made):
    """SIGKILL after some cells; the second run makes none of them again, and the table is that of an unbroken run."""
    script = (
        "import sys; from elit_edge.evaluation import plans; plans.REFERENCE_STEPS = 6\n"
        "from elit_edge.bundle import Bundle; from elit_edge.evaluation.evaluating import evaluate\n"
        "evaluate(Bundle.open(sys.argv[1]), pictures=5, steps=(1, 2, 40), latents=(1, 16), threads=1)\n"
    )
    settings = {**TINY, "steps": (1, 2, 40)}
    process = subprocess.Popen([sys.executable, "-c", script, str(bundle.files.folder)])
    try:
        done, deadline = 0, time.monotonic() + PATIENCE_S
        while done < 2 and time.monotonic() < deadline and process.poll() is None:
            states, _ = state_files(cache)
            done = states[0].read_text().count('"distance"') if states else 0
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it was to be killed in the middle"
    words = []
    table = evaluate(bundle, **settings, say=words.append)
    plans = table_plans(bundle.manifest, settings["steps"], settings["latents"])
    assert words == []
    assert reference_plan(bundle.manifest) not in made
    assert 0 < len(made) <= len(plans) - done
    assert len(table.cells) + len(table.bands) == len(plans)
    assert_same(table, evaluate(bundle, **settings, force=True))


def assert_same(table, other):
    """Equal but for the last bits, which the runtime does not promise."""
    for cell, twin in zip(table.cells, other.cells, strict=True):
        assert (cell.steps, cell.latents, cell.guidance) == (twin.steps, twin.latents, twin.guidance)
        assert cell.distance == pytest.approx(twin.distance, rel=1e-5)


@pytest.mark.parametrize("damage", ["not json", "another recipe", "no reference", "changed reference"])
def test_a_damaged_state_is_measured_again_and_said(bundle, cache, damage):
    table = evaluate(bundle, **TINY)
    ((state,), (reference,)) = state_files(cache)
    if damage == "not json":
        state.write_bytes(state.read_bytes()[:100])
    elif damage == "another recipe":
        found = msgspec.json.decode(state.read_bytes())
        state.write_bytes(msgspec.json.encode({**found, "recipe_sha256": "0" * 64}))
    elif damage == "no reference":
        reference.unlink()
    else:
        data = bytearray(reference.read_bytes())
        data[-1] ^= 1
        reference.write_bytes(data)
    words = []
    assert_same(evaluate(bundle, **TINY, say=words.append), table)
    (word,) = words
    assert "measured again" in word
    assert str(cache) in word


def test_a_larger_grid_keeps_what_a_smaller_one_measured(bundle):
    small = evaluate(bundle, **TINY)
    large = evaluate(bundle, **{**TINY, "steps": (1, 2, 3)})
    assert set(small.cells) < set(large.cells)


def test_two_runs_at_once_are_one_too_many(bundle, cache):
    evaluate(bundle, **TINY)
    ((state,), _) = state_files(cache)
    with filelock.FileLock(state.with_name("lock")), pytest.raises(RequestError, match="another elit-edge"):
        evaluate(bundle, **TINY)


def test_progress_grows_to_one(bundle):
    shares = []
    evaluate(bundle, **TINY, report=lambda _stage, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert 0 < shares[0] < 0.5


def test_the_table_stands_in_the_bundle_and_nothing_else_changes(bundle):
    table = evaluate(bundle, **TINY)
    folder = bundle.files.folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    attach(bundle, table)
    opened = Bundle.open(folder)
    assert opened.manifest.quality == table
    assert msgspec.structs.replace(opened.manifest, quality=None) == bundle.manifest
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed == {"manifest.json"}
    assert sorted(path.name for path in folder.parent.iterdir() if path.name != "cache") == ["tiny.elit"]
    assert decode(encode(opened.manifest), "test").quality == table
    assert (folder / "manifest.json").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_the_bundle_has_is_not_measured_again(bundle, monkeypatch):
    attach(bundle, evaluate(bundle, **TINY))
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    opened = Bundle.open(bundle.files.folder)
    monkeypatch.setattr(evaluating, "_measure", None)
    assert evaluate(opened, **TINY) == opened.manifest.quality
    with pytest.raises(TypeError):
        evaluate(opened, **{**TINY, "pictures": 6})
    with pytest.raises(TypeError):
        evaluate(opened, **TINY, force=True)


def test_a_bundle_that_changed_meanwhile_is_not_given_a_table_of_another(bundle):
    table = evaluate(bundle, **TINY)
    other = msgspec.structs.replace(bundle.manifest, name="another")
    (bundle.files.folder / "manifest.json").write_bytes(encode(other))
    with pytest.raises(BundleError, match="changed since"):
        attach(bundle, table)


def test_an_export_over_a_bundle_that_is_up_to_date_keeps_its_table(bundle, tiny_checkpoint):
    from elit_edge.export.exporter import export

    table = evaluate(bundle, **TINY)
    attach(bundle, table)
    again = export(tiny_checkpoint, bundle.files.folder)
    assert not again.fresh
    assert again.manifest.quality == table
    assert Bundle.open(bundle.files.folder).manifest.quality == table


def test_the_shipped_table_is_of_the_shipped_weights_and_features():
    table = shipped_table(evaluating.sha256_of(DATA / "sample.safetensors"))
    assert isinstance(table, QualityTable)
    assert table.features_sha256 == evaluating.sha256_of(DATA / "sample-features.onnx")
    assert all(cell.low <= cell.distance <= cell.high for cell in table.cells)
    assert shipped_table("0" * 64) is None
