"""The paired test on a real bundle with second precisions made from the first: the same, noisy, broken, blind."""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from elit_edge.bundle_files import BundleFiles
from elit_edge.calibration.proof import proving
from elit_edge.calibration.proof.held_out import guided_states, least_psnr_db
from elit_edge.calibration.proof.paired import frechet_change, mean
from elit_edge.calibration.proof.proving import prove
from elit_edge.errors import BudgetError, BundleError, RequestError, RuntimeUnavailable
from elit_edge.evaluation.frechet import frechet_distance
from elit_edge.generation import generate
from elit_edge.manifest import decode
from elit_edge.profiling.turns import Turns, few_budgets, turns_of
from elit_edge.runtimes.contract import Ready
from elit_edge.runtimes.registry import all_runtimes, choose
from elit_edge.verdict import Verdict

BUDGETS = (1, 4, 16)
SMALL = {"budgets": BUDGETS, "pictures": 6, "steps": 2, "seed": 5, "features": None, "threads": 1}


def second(source, folder, *, weights=lambda data: data, velocity=lambda _: None, both=lambda data: data):
    """A copy of the bundle that is still being made: w8 graphs over changed weights, no digests, no manifest on disk.

    `weights` changes the weights of w8, `both` those of float32 too; `velocity` changes w8's velocity graph.
    """
    shutil.copytree(source, folder)
    manifest = decode((folder / "manifest.json").read_bytes(), str(folder))
    (folder / "manifest.json").unlink()
    added = []
    for graph in (graph for graph in manifest.graphs if graph.latents is None):
        model = onnx.load(folder / graph.path, load_external_data=False)
        place = Path(graph.path).parent
        for initializer in model.graph.initializer:
            for entry in initializer.external_data:
                if entry.key == "location":
                    entry.value = "second.safetensors"
        if graph.role == "velocity":
            velocity(model)
        onnx.save(model, folder / place / f"second_{graph.role}.onnx")
        kept = {"path": f"{place}/second_{graph.role}.onnx", "weights": f"{place}/second.safetensors"}
        added.append(msgspec.structs.replace(graph, precision="w8", **kept))
    original = folder / manifest.graphs[0].weights
    original.write_bytes(both(original.read_bytes()))
    (original.parent / "second.safetensors").write_bytes(weights(original.read_bytes()))
    graphs = (*manifest.graphs, *added)
    return BundleFiles(folder, msgspec.structs.replace(manifest, graphs=graphs, files={}))


def noisy(share):
    """Weights with that much more of their own size, drawn at random."""

    def change(data):
        head = 8 + int.from_bytes(data[:8], "little")
        values = np.frombuffer(data[head:], np.float32)
        noise = np.random.default_rng(1).standard_normal(values.size, np.float32)
        return data[:head] + (values * (1 + np.float32(share) * noise)).tobytes()

    return change


def attentive(data):
    """What Write brings back from the latents, eight times over: of the tiny random model it is next to nothing."""
    length = int.from_bytes(data[:8], "little")
    first, last = (
        8 + length + at for at in json.loads(data[8 : 8 + length])["write.attn.proj.weight_t"]["data_offsets"]
    )
    return data[:first] + (8 * np.frombuffer(data[first:last], np.float32)).tobytes() + data[last:]


def broken(data):
    head = 8 + int.from_bytes(data[:8], "little")
    return data[:head] + np.full((len(data) - head) // 4, np.nan, np.float32).tobytes()


def blind(model):
    """Let the velocity keep every latent, however many are asked for."""
    full = helper.make_tensor("all_latents", TensorProto.INT64, [16], [0] * 16)
    model.graph.initializer.append(full)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "latents":
                node.input[place] = "all_latents"


def tried(files, precision="w8", **settings):
    return prove(files, precision, **{**SMALL, "report": lambda _stage, _share: None, **settings})


@pytest.fixture
def no_clock(monkeypatch):
    """Leave out the speeds: a process of its own and seconds each. Where they matter they are measured."""
    monkeypatch.setattr(proving, "turns_of", lambda *_: Turns((), {}, {}))


@pytest.fixture(scope="module")
def slightly(tiny_bundle_path, tmp_path_factory):
    return second(tiny_bundle_path, tmp_path_factory.mktemp("slightly") / "tiny.elit", weights=noisy(0.002))


def test_a_precision_that_is_the_same_departs_in_nothing(tiny_bundle_path, tmp_path):
    """The whole of it, with real clocks: as good, and of no use, unless a busy machine makes one look faster."""
    stages = []
    verdict = tried(second(tiny_bundle_path, tmp_path / "tiny.elit"), report=lambda *told: stages.append(told))
    assert [budget.latents for budget in verdict.budgets] == list(BUDGETS)
    for budget in verdict.budgets:
        assert budget.psnr_db == 999.0
        for change in (budget.departure, budget.loss):
            assert (change.low, change.value, change.high) == (0, 0, 0)
    assert {speed.latents for speed in verdict.speeds} == {1, 9, 16}
    assert {speed.runtime for speed in verdict.speeds} >= {"onnxruntime"}
    assert "reference" not in {speed.runtime for speed in verdict.speeds}
    assert all(0.2 < speed.ratio < 5 for speed in verdict.speeds)
    assert verdict.size_ratio == pytest.approx(1, abs=0.01)
    assert (verdict.failed, verdict.gate_db) == ((), 35.0)
    assert f"onnxruntime {ort.__version__}" in verdict.device
    assert list(dict.fromkeys(stage for stage, _ in stages)) == ["velocities", "pictures", "speed"]
    shares = [share for stage, share in stages if stage == "pictures"]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    again = msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict)
    assert again == verdict
    assert [fault.split(":")[0] for fault in verdict.faults] in ([], ["neither faster nor smaller"])


def test_the_psnr_is_that_of_two_sessions_side_by_side(slightly):
    """Held to the graphs themselves, run by ONNX Runtime alone, over the same states."""
    manifest = slightly.manifest
    with choose("onnxruntime").prepare(slightly, "fp32", 1) as fp32:
        states = list(guided_states(fp32, 4, 5))
        with choose("onnxruntime").prepare(slightly, "w8", 1) as own:
            found = least_psnr_db(fp32, own, 4, 5)
    models = {
        name: ort.InferenceSession(
            slightly.folder / manifest.graph("model", name).path, providers=["CPUExecutionProvider"]
        )
        for name in ("fp32", "w8")
    }
    by_hand = []
    for x, t, y in states:
        for labels in (y, np.full_like(y, manifest.model.null_label)):
            feeds = {"x": x, "t": t, "y": labels, "latents": np.zeros(4, np.int64)}
            right, ours = (models[name].run(None, feeds)[0].astype(float) for name in ("fp32", "w8"))
            for one, wanted in zip(ours, right, strict=True):
                by_hand.append(20 * math.log10(np.ptp(wanted) / np.sqrt(np.mean((one - wanted) ** 2))))
    assert len(by_hand) == 6 * 4 * 2
    assert found == pytest.approx(min(by_hand), abs=0.05)
    assert max(by_hand) > min(by_hand) + 1


def test_the_states_are_those_that_guided_trajectories_pass_through(slightly):
    manifest = slightly.manifest
    with choose("onnxruntime").prepare(slightly, "fp32", 1) as session:
        states = list(guided_states(session, 4, 5))
        assert [float(t[0]) for _, t, _ in states] == pytest.approx([1 - index / 6 for index in range(6)])
        noise = states[0][0]
        made = generate(session, [int(y) for y in states[0][2]], steps=6, latents=4, solver="euler", noise=noise)
        x, t, y = states[-1]
        # the last step leads from there to the picture
        strong = session.velocity(x, t, y, 4)
        weak = session.velocity(x, t, np.full_like(y, manifest.model.null_label), manifest.sampler.weak_latents)
        last = x - (weak + manifest.sampler.scale * (strong - weak)) / 6
    np.testing.assert_allclose(last, made.samples, atol=1e-4)
    assert len(set(states[0][2].tolist())) == 4


def test_other_seeds_are_other_states(slightly):
    with choose("onnxruntime").prepare(slightly, "fp32", 1) as session:
        first, other = (next(iter(guided_states(session, 1, seed)))[0] for seed in (5, 6))
        assert np.abs(first - other).max() > 0.1


def test_more_noise_is_farther_in_every_figure(tiny_bundle_path, tmp_path, no_clock):
    found = [
        tried(second(tiny_bundle_path, tmp_path / str(share), weights=noisy(share))) for share in (0.0005, 0.005, 0.1)
    ]
    for less, more in itertools.pairwise(found):
        for one, other in zip(less.budgets, more.budgets, strict=True):
            # ten times the noise is 20 dB
            assert one.psnr_db > other.psnr_db + 10
            assert one.departure.value < other.departure.value
    assert found[0].budgets[0].psnr_db > 35
    assert found[2].worst_psnr_db < 35
    assert any("the gate is 35 dB" in fault for fault in found[2].faults)


def test_departure_and_loss_are_those_of_pictures_of_the_same_seeds(slightly, no_clock):
    verdict = tried(slightly)
    classes = slightly.manifest.model.num_classes
    labels = [picture * classes // 6 for picture in range(6)]
    with (
        choose("onnxruntime").prepare(slightly, "fp32", 1) as fp32,
        choose("onnxruntime").prepare(slightly, "w8", 1) as w8,
    ):
        best = generate(fp32, labels, steps=4, seed=5).samples
        theirs, ours = (generate(session, labels, steps=2, latents=4, seed=5).samples for session in (fp32, w8))
    norms = np.sqrt((best**2).sum((1, 2, 3)))
    far = [np.sqrt(((made - best) ** 2).sum((1, 2, 3))) / norms for made in (ours, theirs)]
    departure = np.sqrt(((ours - theirs) ** 2).sum((1, 2, 3)) / (theirs**2).sum((1, 2, 3)))
    budget = verdict.budgets[1]
    assert budget.departure.value == pytest.approx(departure.mean(), rel=1e-6)
    assert budget.loss.value == pytest.approx((far[0] - far[1]).mean(), rel=1e-6)
    assert budget.departure.low < budget.departure.value < budget.departure.high
    assert budget.frechet is None


def test_weights_that_are_no_numbers_are_faults_of_every_budget_and_no_crash(tiny_bundle_path, tmp_path, no_clock):
    verdict = tried(second(tiny_bundle_path, tmp_path / "tiny.elit", weights=broken))
    assert [budget.psnr_db for budget in verdict.budgets] == [-999.0] * 3
    assert [budget.departure for budget in verdict.budgets] == [None] * 3
    for latents in BUDGETS:
        pictures = [fault for fault in verdict.faults if fault.startswith(f"at {latents} latents w8 makes no pictures")]
        assert len(pictures) == 1
        assert "no longer finite" in pictures[0]
        assert any(fault.startswith(f"at {latents} latents its velocity is not finite") for fault in verdict.faults)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


def test_a_graph_that_is_blind_to_the_budget_is_caught_below_the_full_one(tiny_bundle_path, tmp_path, no_clock):
    """At the full budget alone it is perfect."""
    verdict = tried(second(tiny_bundle_path, tmp_path / "tiny.elit", velocity=blind, both=attentive), pictures=0)
    least, _, full = verdict.budgets
    assert full.psnr_db == 999.0
    assert least.psnr_db < 35
    assert any(re.match("at 1 latents its velocity is .* dB from fp32's", fault) for fault in verdict.faults)
    assert not any(fault.startswith("at 16 latents") for fault in verdict.faults)


def test_without_pictures_only_velocities_decide(slightly, no_clock):
    verdict = tried(slightly, pictures=0)
    assert {budget.departure for budget in verdict.budgets} == {budget.loss for budget in verdict.budgets} == {None}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Means of the channels: a few features."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["pooled"]), helper.make_node("Flatten", ["pooled"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "c", "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "f"])],
    )
    path = tmp_path_factory.mktemp("features") / "means.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_with_features_the_frechet_distance_changes_by_what_two_distances_say(slightly, features, no_clock):
    verdict = tried(slightly, features=features, budgets=(4,), pictures=20)
    (budget,) = verdict.budgets
    classes, space = slightly.manifest.model.num_classes, slightly.manifest.sample_space
    labels = [picture * classes // 20 for picture in range(20)]

    def means(session, seed, **plan):
        batches = [(labels[:16], seed), (labels[16:], seed + 1)]
        made = np.concatenate([generate(session, batch, seed=own, **plan).samples for batch, own in batches])
        return (made.clip(-1, 1) if space == "pixels" else made).mean((2, 3))

    with (
        choose("onnxruntime").prepare(slightly, "fp32", 1) as fp32,
        choose("onnxruntime").prepare(slightly, "w8", 1) as w8,
    ):
        best = means(fp32, 5 + 2**33, steps=4)
        theirs, ours = (frechet_distance(means(each, 5, steps=2, latents=4), best) for each in (fp32, w8))
    assert budget.frechet.value == pytest.approx(ours / theirs - 1, abs=1e-4)
    assert budget.frechet.low < budget.frechet.value < budget.frechet.high
    assert verdict.features_sha256 is not None
    with pytest.raises(RequestError, match="needs more pictures"):
        tried(slightly, features=features, pictures=4)


def test_the_interval_of_a_mean_is_that_of_normal_numbers():
    """1.96 standard errors to each side."""
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean(values)
    error = values.std(ddof=1) / 20
    assert found.value == values.mean()
    assert (found.low, found.high) == (
        pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error),
        pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error),
    )


def normals(rng, size, features, shift):
    rows = rng.standard_normal((size, features))
    rows[:, 0] += shift
    return rows


def test_the_change_of_a_frechet_distance_is_that_of_its_closed_form():
    """Shifts of 2 and 2.2 of a normal set: 4.84 / 4 - 1, and that is 21%."""
    rng = np.random.default_rng(2)
    theirs, reference = normals(rng, 1000, 2, 2.0), normals(rng, 1000, 2, 0.0)
    ours = theirs + np.array([0.2, 0])
    found = frechet_change(ours, theirs, reference)
    assert found.low < 0.21 < found.high
    # d FD / FD of a shift s is 2 ds / s on both sides, so the ratio's error is 2 x 0.2 / (2.2 x 2) of the shift's own,
    # which is sqrt(2 / 1000)
    error = 1.21 * 2 * (1 / 2 - 1 / 2.2) * math.sqrt(2 / 1000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_the_interval_holds_the_expected_change_as_often_as_it_says(monkeypatch):
    """Where pictures are few and features many, which is where plain quantiles fail: they held it one time in five."""
    from elit_edge.calibration.proof import paired

    monkeypatch.setattr(paired, "RESAMPLES", 100)
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        theirs, reference = normals(rng, 64, 16, 1.5), normals(rng, 64, 16, 0.0)
        ours = theirs + 0.2 * rng.standard_normal(theirs.shape)
        ours[:, 0] += 0.2
        found.append(frechet_change(ours, theirs, reference))
    expected = np.mean([each.value for each in found])
    assert np.mean([each.low <= expected <= each.high for each in found]) >= 0.85


def test_the_same_pictures_change_nothing_and_features_that_see_nothing_are_refused():
    rows, reference = np.random.default_rng(0).standard_normal((2, 40, 3))
    same = frechet_change(rows, rows, reference)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    with pytest.raises(RequestError, match="the same features of all pictures"):
        frechet_change(np.ones((9, 2)), np.ones((9, 2)), np.ones((9, 2)))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"budgets": ()}, BudgetError),
        ({"budgets": (1, 17)}, BudgetError),
        ({"pictures": 1}, RequestError),
        ({"pictures": -1}, RequestError),
        ({"steps": 0}, RequestError),
    ],
)
def test_settings_that_nothing_can_be_judged_by_are_refused(slightly, wrong, error):
    with pytest.raises(error, match="at least"):
        tried(slightly, **wrong)


def test_where_no_runtime_has_both_the_reasons_are_given(slightly):
    with pytest.raises(RuntimeUnavailable, match=r"both fp32 and int8.*onnxruntime int8: it computes in fp32, w8"):
        tried(slightly, precision="int8")


class Stranger:
    """ONNX Runtime under another name that crashes, refuses or lacks the second precision."""

    name = "stranger"

    def check(self):
        return Ready("7")

    def precisions(self, _manifest):
        return ("fp32", "w8")

    def prepare(self, files, precision, threads):
        if precision == "w8":
            raise BundleError(f"{files.folder}/second.onnx: this library does not take it")
        return choose("onnxruntime").prepare(files, precision, threads)


def test_the_next_runtime_judges_where_the_first_refuses(slightly, monkeypatch, no_clock):
    runtimes = {"stranger": Stranger(), "onnxruntime": choose("onnxruntime")}
    monkeypatch.setattr(proving, "choose", runtimes.__getitem__)
    monkeypatch.setattr(proving, "_runtimes", lambda *_: {name: ("7", {"fp32", "w8"}) for name in runtimes})
    assert "on onnxruntime" in tried(slightly, pictures=0, budgets=(1,)).device


STRANGER = """
import os
from elit_edge.runtimes.contract import Ready, Runtime
from elit_edge.runtimes.registry import choose
class Stranger(Runtime):
    name = "stranger"
    def check(self): return Ready("7")
    def precisions(self, manifest): return ("fp32", "w8")
    def prepare(self, files, precision, threads):
        if precision == "w8": os.abort()
        return choose("onnxruntime").prepare(files, precision, threads)
RUNTIME = Stranger()
"""


def test_a_runtime_that_crashes_loses_its_speed_alone(slightly, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(STRANGER)
    info = tmp_path / "stranger-7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 7\n")
    (info / "entry_points.txt").write_text("[elit_edge.runtimes]\nstranger = stranger:RUNTIME")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    all_runtimes.cache_clear()
    try:
        contestants = [("onnxruntime", "w8"), ("stranger", "fp32"), ("stranger", "w8")]
        found = turns_of(slightly, contestants, 1)
    finally:
        all_runtimes.cache_clear()
    assert found.failed == {("stranger", "w8"): "ended by signal SIGABRT"}
    assert set(found.pass_ms) == set(contestants) - {("stranger", "w8")}
    assert all(len(row) == 3 and min(row) > 0 for row in found.pass_ms.values())
    assert found.latents == few_budgets(slightly.manifest.budgets)
