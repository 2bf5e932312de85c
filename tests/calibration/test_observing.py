"""Observing: what ONNX Runtime shows is what torch computes, stratum by stratum; nothing stays behind."""

from __future__ import annotations

import shutil
from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch

from elit_edge.bundle import Bundle
from elit_edge.calibration import observing
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.observing import ROWS, observe
from elit_edge.calibration.sites import ROLES, find_sites
from elit_edge.calibration.states import default_recipe
from elit_edge.errors import CalibrationError
from elit_edge.export.exporter import export


@pytest.fixture(scope="module")
def hooked(tiny_model, tiny_states, tiny_sites):
    """What enters each layer in torch, [rows, inputs], by stratum."""
    found, values = {}, {}
    hooks = [
        tiny_model.get_submodule(site.name).register_forward_pre_hook(
            lambda _, inputs, name=site.name, width=site.inputs: values.update(
                {name: inputs[0].detach().reshape(-1, width).numpy().copy()}
            )
        )
        for site in tiny_sites
    ]
    with torch.no_grad():
        for stratum, rows in tiny_states.strata():
            x, t, y = (torch.from_numpy(part[rows]) for part in (tiny_states.x, tiny_states.t, tiny_states.y))
            tiny_model(x, t, y, stratum.latents)
            found[stratum.latents, stratum.t, stratum.conditional] = dict(values)
    for hook in hooks:
        hook.remove()
    return found


def test_ranges_by_stratum_are_those_that_torch_sees(seen, hooked, tiny_sites):
    checked = 0
    for site in tiny_sites:
        if site.role != "velocity":
            continue
        ranges = seen[site.name].ranges
        assert [(each.latents, each.t, each.conditional) for each in ranges] == list(hooked)
        for each in ranges:
            values = hooked[each.latents, each.t, each.conditional][site.name]
            tolerance = 2e-5 * float(np.abs(values).max())
            assert each.low == pytest.approx(values.min(), abs=tolerance)
            assert each.high == pytest.approx(values.max(), abs=tolerance)
            checked += each.low != each.high
    assert checked > 300


def test_the_greatest_of_each_channel_is_over_all_strata(seen, hooked, tiny_sites):
    for site in tiny_sites:
        if site.role == "velocity":
            wanted = np.max([np.abs(found[site.name]).max(0) for found in hooked.values()], axis=0)
            np.testing.assert_allclose(seen[site.name].channel_max, wanted, rtol=1e-3, atol=2e-5 * wanted.max())


def test_kept_rows_are_real_and_as_many_from_every_stratum_that_has_so_many(seen, hooked, tiny_sites):
    share = -(-ROWS // len(hooked))
    for site in tiny_sites:
        if site.role != "velocity":
            continue
        observed = seen[site.name]
        assert observed.latents == [latents for latents, _, _ in hooked]
        for kept, found in zip(observed.rows, hooked.values(), strict=True):
            values = found[site.name]
            assert len(kept) == min(share, len(values))
            distance = np.abs(kept[::10, None] - values[None]).max(-1).min(-1)
            assert distance.max() < 2e-5 * np.abs(values).max()


def test_rows_of_one_budget_are_put_together(seen, tiny_states):
    observed = seen["blocks.2.mlp.fc1"]
    groups = observed.by_budget()
    assert list(groups) == list(tiny_states.recipe.budgets)
    assert sum(map(len, groups.values())) == sum(map(len, observed.rows))
    first = observed.rows[observed.latents.index(5)]
    np.testing.assert_array_equal(groups[5][: len(first)], first)


def test_conditions_have_no_stratum(seen, tiny_sites, tiny_model):
    for site in tiny_sites:
        if site.role == "condition":
            assert not seen[site.name].ranges
            assert set(seen[site.name].latents) == {0}
    waves = np.concatenate(seen["time.fc1"].rows)
    np.testing.assert_allclose(np.square(waves).sum(1), tiny_model.time.frequencies.numel(), rtol=1e-4)


def test_long_strata_are_run_in_parts_and_count_once(monkeypatch, workplace, tiny_files, tiny_sites, tiny_states, seen):
    monkeypatch.setattr(observing, "ROWS_A_CALL", 2)
    again = run(workplace, tiny_files, tiny_sites, tiny_states)
    for name, observed in seen.items():
        wanted = [(each.latents, each.t, each.conditional) for each in observed.ranges]
        assert [(each.latents, each.t, each.conditional) for each in again[name].ranges] == wanted
        for left, right in zip(again[name].ranges, observed.ranges, strict=True):
            assert (left.low, left.high) == pytest.approx((right.low, right.high), rel=1e-4, abs=1e-4)


def run(folder, files, sites, states, report=lambda _: None):
    condition, velocity = (folder / files.manifest.graph(role, "fp32").path for role in ROLES)
    return observe(condition, velocity, sites, states, 1, report)


def files_in(folder):
    return sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*"))


def test_nothing_is_left_beside_the_graphs(seen, workplace, tiny_bundle_path):
    assert files_in(workplace) == files_in(tiny_bundle_path)


def poison(files, folder, name):
    """The bundle's copy with a NaN in a tensor."""
    shutil.copytree(files.folder, folder)
    for role in ROLES:
        graph = files.manifest.graph(role, "fp32")
        for own, value in ir.load(files.graph_path(graph)).graph.initializers.items():
            if own.removesuffix("_t") == name:
                with (folder / graph.weights).open("r+b") as file:
                    file.seek(value.const_value.offset)
                    file.write(np.float32(np.nan).tobytes())
                return folder
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("blocks.3.mlp.fc1.weight", r"enters blocks\.3\.mlp\.fc2 .* at 1 latents, t = 1\.00"),
        ("final_modulation.bias", r"enters final .* at 1 latents, t = 1\.00"),
        ("time.fc1.weight", r"enters time\.fc2 .* at its conditions"),
        ("final.weight", r"velocity .* at 1 latents, t = 1\.00"),
    ],
)
def test_nan_in_a_weight_is_named_with_its_stratum(tensor, words, tiny_files, tiny_sites, tiny_states, tmp_path):
    folder = poison(tiny_files, tmp_path / "nan.elit", tensor)
    before = files_in(folder)
    with pytest.raises(CalibrationError, match=words):
        run(folder, tiny_files, tiny_sites, tiny_states)
    assert files_in(folder) == before


def test_a_graph_that_is_refused_leaves_nothing(tiny_files, tiny_sites, tiny_states, tmp_path):
    folder = shutil.copytree(tiny_files.folder, tmp_path / "cut.elit")
    weights = folder / tiny_files.manifest.graph("velocity", "fp32").weights
    weights.write_bytes(weights.read_bytes()[:8192])
    before = files_in(folder)
    with pytest.raises(RuntimeError):
        run(folder, tiny_files, tiny_sites, tiny_states)
    assert files_in(folder) == before


def test_progress_ends_at_one(workplace, tiny_files, tiny_sites, tiny_states):
    shares = []
    few = np.flatnonzero(tiny_states.t == 1)
    states = replace(tiny_states, **{name: getattr(tiny_states, name)[few] for name in ("x", "t", "y", "latents")})
    run(workplace, tiny_files, tiny_sites, states, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_plain_sit_is_observed_too(tiny_checkpoint, tmp_path):
    config = msgspec.structs.replace(
        tiny_checkpoint.config, architecture="sit", head_depth=1, core_depth=0, tail_depth=0, group_size=1
    )
    names = type(tiny_checkpoint.model())(config).state_dict()
    weights = {name: tiny_checkpoint.weights[name] for name in names}
    plain = replace(tiny_checkpoint, config=config, mapped=lambda: weights, trained_latents=1)
    export(plain, tmp_path / "plain.elit", check=False)
    bundle = Bundle.open(tmp_path / "plain.elit")
    files = bundle.files
    sites = [
        site
        for role in ROLES
        for site in find_sites(ir.load(files.graph_path(files.manifest.graph(role, "fp32"))), role)
    ]
    with bundle.prepare("onnxruntime", "fp32", threads=1) as session:
        states = collect(session, default_recipe(files, steps=2, classes=2), lambda *_: None, print)
    found = run(files.folder, files, sites, states)
    assert {site.name for site in sites} == {
        "time.fc1", "time.fc2", "blocks.0.modulation", "final_modulation", "patch",
        "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "final",
    }  # fmt: skip
    assert {each.latents for each in found["final"].ranges} == {1}
    assert len(found["final"].ranges) == 4
    assert sorted(path.name for path in (tmp_path / "plain.elit" / "onnx").iterdir()) == sorted(
        path.removeprefix("onnx/") for path in files.manifest.files
    )
