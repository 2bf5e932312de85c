"""Sensitivity: a layer quantized in torch is what the graph will compute, and what is left is no more than must be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from elit_edge.calibration import sensitivity
from elit_edge.calibration.record import Sensitivity
from elit_edge.calibration.rewriting import LayerPlan
from elit_edge.calibration.rounding import INT4, INT8, block_scales, channel_scales, nearest
from elit_edge.calibration.schemes import Scheme, _rounded_for
from elit_edge.calibration.search import choose
from elit_edge.calibration.sensitivity import Simulated, joint_db, layers_to_leave, measure, simulated
from elit_edge.calibration.smoothing import factors, folds, scalings
from elit_edge.parity import EXACT_DB, psnr_db
from elit_edge.runtimes.onnxruntime_.session import inference_session

BUDGETS = (1, 5, 16)


@pytest.fixture(scope="module")
def site_of(tiny_sites):
    return {site.name: site for site in tiny_sites}


@pytest.fixture(scope="module")
def quantized(site_of, seen, weight, tiny_files):
    """A layer of the int8 scheme: (what is simulated, what smoothing moves)."""

    def made(name, *, smooth_in_graph=False):
        site, matrix = site_of[name], weight(site_of[name])
        foldable = folds(site, tiny_files.manifest.model) and not smooth_in_graph
        choice = choose(seen[name], matrix, foldable=foldable)
        if smooth_in_graph:
            s = factors(seen[name].channel_max, matrix, 0.5)
            bound = float((seen[name].channel_max / s).max())
            choice = replace(choice, alpha=0.5, smoothing=s, folded=False, bound=bound)
        moved = []
        if choice.folded and choice.smoothing is not None:
            moved = scalings(site, tiny_files.manifest.model, choice.smoothing)
        return Simulated(_rounded_for(seen[name], matrix, choice), choice), moved

    return made


def rough(site_of, weight, name):
    """A layer with weights of four bits and one scale an output: harm that is seen."""
    matrix = weight(site_of[name])
    return Simulated(nearest(matrix, channel_scales(matrix, INT4), INT4), None)


def velocity(model, states, rows, latents):
    x, t, y = (torch.from_numpy(part[rows]) for part in (states.x, states.t, states.y))
    with torch.no_grad():
        return model(x, t, y, latents).numpy()


def test_the_model_is_itself_again(tiny_model, tiny_states, site_of, weight):
    before = velocity(tiny_model, tiny_states, [0, 30], 5)
    layers = {name: rough(site_of, weight, name) for name in ("blocks.0.attn.qkv", "write.mlp.fc1", "time.fc1")}
    with simulated(tiny_model, layers):
        assert np.abs(velocity(tiny_model, tiny_states, [0, 30], 5) - before).max() > 1e-3
    np.testing.assert_array_equal(velocity(tiny_model, tiny_states, [0, 30], 5), before)
    assert not any("forward" in vars(layer) for layer in tiny_model.modules())


def test_the_model_is_itself_again_after_an_error(tiny_model, tiny_states, site_of, weight):
    before = velocity(tiny_model, tiny_states, [0], 5)
    with pytest.raises(KeyError), simulated(tiny_model, {"patch": rough(site_of, weight, "patch")}):
        raise KeyError
    np.testing.assert_array_equal(velocity(tiny_model, tiny_states, [0], 5), before)


def test_a_name_that_is_none_leaves_the_model_as_it_was(tiny_model, tiny_states, site_of, weight):
    before = velocity(tiny_model, tiny_states, [0], 5)
    layer = rough(site_of, weight, "patch")
    with pytest.raises(AttributeError), simulated(tiny_model, {"patch": layer, "blocks.0.attn.nothing": layer}):
        pass
    np.testing.assert_array_equal(velocity(tiny_model, tiny_states, [0], 5), before)


@pytest.mark.parametrize(
    ("name", "treatment", "smooth_in_graph"),
    [
        ("blocks.2.attn.qkv", "int8", False),
        ("blocks.3.attn.proj", "int8", False),
        ("blocks.5.mlp.fc2", "int8", False),
        ("read.attn.kv_proj", "int8", False),
        ("final", "int8", False),
        ("write.attn.kv_proj", "int8", True),
        ("blocks.1.mlp.fc2", "int8", True),
        ("blocks.4.mlp.fc1", "w4", False),
        ("blocks.2.modulation", "w4", False),
        ("write.mlp.fc1", "w8", False),
    ],
)
def test_a_layer_simulated_is_what_the_graph_computes(
    name, treatment, smooth_in_graph, quantized, site_of, weight, build, tiny_model, tiny_states
):
    """Against ONNX Runtime, which computes QDQ in float32 when it is told not to fuse it."""
    site, matrix, moved = site_of[name], weight(site_of[name]), []
    if treatment == "int8":
        layer, moved = quantized(name, smooth_in_graph=smooth_in_graph)
    elif treatment == "w4":
        layer = Simulated(nearest(matrix, block_scales(matrix, INT4), INT4), None)
    else:
        layer = Simulated(nearest(matrix, channel_scales(matrix, INT8), INT8), None)
    plan = LayerPlan(site, treatment, layer.weight, 4 if treatment == "w4" else 8, layer.choice)
    files = build(treatment, Scheme({name: plan}, moved))
    condition, graph = (
        inference_session(files.graph_path(files.manifest.graph(role, treatment)), 1, unpacking=True)
        for role in ("condition", "velocity")
    )
    rows = [0, 20, 41, 60]
    modulations = condition.run(None, {"t": tiny_states.t[rows], "y": tiny_states.y[rows]})[0]
    for latents in BUDGETS:
        exact = velocity(tiny_model, tiny_states, rows, latents)
        with simulated(tiny_model, {name: layer}):
            wanted = velocity(tiny_model, tiny_states, rows, latents)
        feeds = {"x": tiny_states.x[rows], "modulations": modulations, "latents": np.zeros(latents, np.int64)}
        found = graph.run(None, feeds)[0]
        effect = np.linalg.norm(wanted - exact)
        assert effect > 1e-5 * np.linalg.norm(exact)
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
        assert np.linalg.norm(found - wanted) < 0.2 * effect


def test_each_layer_has_the_psnr_of_its_worst_state(tiny_model, tiny_states, site_of, weight):
    """On a set so small that every state of it is looked at."""
    rows = {latents: np.flatnonzero(tiny_states.latents == latents)[::4] for latents in BUDGETS}
    every = np.concatenate(list(rows.values()))
    few = replace(tiny_states, **{name: getattr(tiny_states, name)[every] for name in ("x", "t", "y", "latents")})
    names = ("blocks.0.mlp.fc2", "final", "blocks.3.modulation")
    layers = {name: rough(site_of, weight, name) for name in names}
    shares = []
    found = measure(tiny_model, layers, few, shares.append)
    assert list(found) == list(names)
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    for name, each in found.items():
        assert [entry.latents for entry in each] == list(BUDGETS)
        for entry in each:
            exact = velocity(tiny_model, tiny_states, rows[entry.latents], entry.latents)
            with simulated(tiny_model, {name: layers[name]}):
                changed = velocity(tiny_model, tiny_states, rows[entry.latents], entry.latents)
            found_db = [psnr_db(value, right) for value, right in zip(changed, exact, strict=True)]
            assert entry.psnr_db == pytest.approx(min(found_db), abs=0.01)
            assert max(found_db) > min(found_db) + 0.1


def test_a_large_model_is_looked_at_where_it_is_extreme(tiny_model, tiny_states, site_of, weight, monkeypatch):
    monkeypatch.setattr(sensitivity, "WORK_FLOPS", 1.0)
    found = measure(tiny_model, {"final": rough(site_of, weight, "final")}, tiny_states, lambda _: None)
    assert [entry.latents for entry in found["final"]] == [1, 16]


def test_the_joint_psnr_is_below_that_of_each(tiny_model, tiny_states, site_of, weight):
    layers = {name: rough(site_of, weight, name) for name in ("blocks.0.mlp.fc2", "final", "blocks.3.modulation")}
    found = measure(tiny_model, layers, tiny_states, lambda _: None)
    alone = min(entry.psnr_db for each in found.values() for entry in each)
    assert joint_db(tiny_model, layers, tiny_states) < alone
    final = {"final": layers["final"]}
    assert joint_db(tiny_model, final, tiny_states) == min(entry.psnr_db for entry in found["final"])


def test_a_layer_that_changes_nothing_is_exact(tiny_model, tiny_states, site_of, weight):
    name = "write.mlp.fc2"
    same = tiny_model.get_submodule(name).weight.detach().clone()
    integers = np.clip(np.rint(weight(site_of[name]) * 20), -8, 7)
    scales = np.full((1, site_of[name].outputs), 1 / 16, np.float32)
    try:
        tiny_model.get_submodule(name).weight.data = torch.from_numpy(np.ascontiguousarray(integers.T / 16)).float()
        layer = Simulated(nearest(integers.astype(np.float32) / 16, scales, INT4), None)
        found = measure(tiny_model, {name: layer}, tiny_states, lambda _: None)
    finally:
        tiny_model.get_submodule(name).weight.data = same
    assert {entry.psnr_db for entry in found[name]} == {EXACT_DB}


def test_a_velocity_of_zeros_gives_numbers_that_json_can_hold(tiny_model, tiny_states, site_of, weight):
    """As a fresh model has: its last layer starts at zero, and a signal without range has no PSNR."""
    final = tiny_model.final
    kept = final.weight.data, final.bias.data
    try:
        final.weight.data, final.bias.data = torch.zeros_like(kept[0]), torch.zeros_like(kept[1])
        found = measure(tiny_model, {"patch": rough(site_of, weight, "patch")}, tiny_states, lambda _: None)
    finally:
        final.weight.data, final.bias.data = kept
    assert np.isfinite([entry.psnr_db for entry in found["patch"]]).all()


def table(**psnr_by_layer):
    """PSNR by budget, of budgets 1, 2, ..., from hand."""
    return {
        name: tuple(Sensitivity(latents=place, psnr_db=db) for place, db in enumerate(values, 1))
        for name, values in psnr_by_layer.items()
    }


def left(found, target, **work):
    return layers_to_leave(found, {name: work.get(name, 100) for name in found}, target)


def test_nothing_is_left_where_the_sum_holds_the_target():
    assert left(table(a=[40, 50], b=[40, 50]), 36.98) == ()  # two equal errors: 3.01 dB below one
    assert left(table(a=[40, 50], b=[40, 50]), 37.0) != ()


def test_the_worst_budget_decides():
    found = table(a=[60, 20], b=[25, 60], c=[60, 60])
    assert set(left(found, 30)) == {"a", "b"}
    assert left(found, 30)[0] == "a"
    assert left(found, 22) == ("a",)


def test_of_two_that_harm_the_same_the_one_with_less_work_is_left():
    found = table(a=[31], b=[31])
    assert left(found, 30, a=1000, b=10) == ("b",)
    assert left(found, 30, a=10, b=1000) == ("a",)


def test_ties_are_decided_the_same_way_every_time():
    found = table(a=[31], b=[31], c=[31])
    assert left(found, 30) == left(found, 30)
    assert len(left(found, 30)) == 2


def test_all_can_be_left():
    assert set(left(table(a=[10], b=[12], c=[15]), 40)) == {"a", "b", "c"}
    assert left({}, 40) == ()


def test_exact_layers_are_not_left():
    assert left(table(a=[10], b=[EXACT_DB], c=[EXACT_DB]), 100) == ("a",)


def test_a_layer_that_fails_utterly_is_left():
    assert left(table(a=[-EXACT_DB, 50], b=[50, 50]), 40) == ("a",)
    assert left(table(a=[-np.inf, 50], b=[50, 50]), 40) == ("a",)


def test_a_layer_that_must_go_anyway_spares_the_cheap_ones():
    """Only `a` is over the target alone; without it the rest holds, `b` with its little work included."""
    found = table(a=[20], b=[33.1], **{f"c{i}": [90] for i in range(98)})
    assert left(found, 30, a=1_000_000, b=1000) == ("a",)
