from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import ExportError, ParityError
from elit_edge.export import model_graphs, onnx_graphs
from elit_edge.export.exporter import export
from elit_edge.export.verify import measure, reference_cases, trajectory_cases, verify
from elit_edge.model.layers import Mlp, TimestepEmbedder
from elit_edge.parity import GATE_DB, psnr_db, relative_l2
from elit_edge.runtimes.reference.session import ModelSession


def exported_without_gate(checkpoint, folder):
    return BundleFiles(folder, export(checkpoint, folder, check=False).manifest)


def test_a_right_bundle_holds_the_gate_by_far(micro_checkpoint, quick_trace, tmp_path):
    found = export(micro_checkpoint, tmp_path / "right.elit").manifest.verification
    assert found.worst.psnr_db > 120
    # four budgets x (four times x two labels x condition and velocity of any budget, and two states of the other two)
    assert found.cases == 4 * (4 * 2 * 2 + 2 * 2)


def flipped_tail(checkpoint):
    """The same model with its latents counted from the other end: right at the full budget, wrong below."""
    config = checkpoint.config
    weights = dict(checkpoint.weights)
    weights["read.queries"] = weights["read.queries"].flip(0)
    grouped = weights["read.latent_position"].view(config.groups, config.latents_per_group, -1)
    weights["read.latent_position"] = grouped.flip(1).reshape(config.tokens, -1)
    return replace(checkpoint, mapped=lambda: weights)


def kept_only_write(checkpoint):
    return replace(checkpoint, config=msgspec.structs.replace(checkpoint.config, write_latents="kept"))


@pytest.mark.parametrize("defect", [flipped_tail, kept_only_write])
def test_a_model_that_keeps_or_writes_other_latents_fails(defect, micro_checkpoint, quick_trace, tmp_path):
    files = exported_without_gate(defect(micro_checkpoint), tmp_path / "wrong.elit")
    with pytest.raises(ParityError, match=r"at [123] latents"):
        verify(files, reference_cases(micro_checkpoint.model(), files.manifest))


def test_latents_counted_from_the_other_end_agree_at_the_full_budget(micro_checkpoint):
    """What makes that defect hard to see: a check of the full budget alone would pass it."""
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.9]), torch.tensor([1, 5])
    right, wrong = micro_checkpoint.model(), flipped_tail(micro_checkpoint).model()
    with torch.inference_mode():
        torch.testing.assert_close(right(x, t, y, 4), wrong(x, t, y, 4), atol=1e-5, rtol=0)
        assert (right(x, t, y, 2) - wrong(x, t, y, 2)).abs().max() > 1e-3


def test_a_graph_of_the_next_budget_fails(micro_checkpoint, quick_trace, monkeypatch, tmp_path):
    right = model_graphs.specialise
    monkeypatch.setattr(model_graphs, "specialise", lambda model, latents: right(model, max(1, latents - 1)))
    with pytest.raises(ExportError, match="the exporter changed the model"):  # it does other work, for one
        exported_without_gate(micro_checkpoint, tmp_path / "counted.elit")
    monkeypatch.setattr(model_graphs, "check_work", lambda *_: None)
    files = exported_without_gate(micro_checkpoint, tmp_path / "wrong.elit")
    with pytest.raises(ParityError, match="velocity_latents_"):
        verify(files, reference_cases(micro_checkpoint.model(), files.manifest))


def reversed_time(self, t):
    return TIME_FORWARD(self, 1 - t)


def exact_gelu(self, x):
    return self.fc2(F.gelu(self.fc1(x)))


TIME_FORWARD = TimestepEmbedder.forward


@pytest.mark.parametrize(("layer", "forward"), [(TimestepEmbedder, reversed_time), (Mlp, exact_gelu)])
def test_a_layer_that_was_traced_wrong_fails(layer, forward, micro_checkpoint, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", forward)
        files = exported_without_gate(micro_checkpoint, tmp_path / "wrong.elit")
    with pytest.raises(ParityError):
        verify(files, reference_cases(micro_checkpoint.model(), files.manifest))


def test_a_wrong_condition_is_named_itself(micro_checkpoint, quick_trace, tmp_path):
    weights = dict(micro_checkpoint.weights)
    weights["time.fc1.bias"] = weights["time.fc1.bias"] + 0.1
    files = exported_without_gate(replace(micro_checkpoint, mapped=lambda: weights), tmp_path / "wrong.elit")
    found = measure(files, reference_cases(micro_checkpoint.model(), files.manifest), "fp32")
    assert "onnx/condition.onnx" in {parity.graph for parity in found if parity.psnr_db < GATE_DB["fp32"]}


def test_weights_that_are_not_finite_fail_and_leave_nothing(micro_checkpoint, quick_trace, tmp_path):
    weights = dict(micro_checkpoint.weights)
    weights["final.bias"] = torch.full_like(weights["final.bias"], float("nan"))
    with pytest.raises(ParityError):
        export(replace(micro_checkpoint, mapped=lambda: weights), tmp_path / "nan.elit")
    assert not list(tmp_path.iterdir())


def test_the_kept_write_and_the_plain_sit_export_too(micro_checkpoint, plain_sit, tmp_path):
    for checkpoint in (kept_only_write(micro_checkpoint), plain_sit):
        manifest = export(checkpoint, tmp_path / f"{checkpoint.config.architecture}.elit").manifest
        assert manifest.verification.worst.psnr_db > 120


@pytest.fixture(scope="module")
def plain_sit(micro_checkpoint):
    """A SiT with the spatial blocks of the tiny model."""
    config = msgspec.structs.replace(
        micro_checkpoint.config, architecture="sit", head_depth=3, core_depth=0, tail_depth=0, group_size=1
    )
    names = onnx_graphs.DiffusionTransformer(config).state_dict()
    weights = {name: micro_checkpoint.weights[name] for name in names}
    return replace(micro_checkpoint, config=config, mapped=lambda: weights, trained_latents=1)


def test_cases_are_states_of_a_trajectory(tiny_checkpoint, tiny_bundle_path):
    session = ModelSession(tiny_checkpoint.model(), BundleFiles.open(tiny_bundle_path).manifest)
    cases = trajectory_cases(session, 4)
    x = [cases.x[i : i + 2] for i in range(0, 8, 2)]
    for i, t in enumerate((1.0, 0.75, 0.5, 0.25)):
        assert (cases.t[2 * i : 2 * i + 2] == t).all()
    v = session.velocity(x[0], [1.0, 1.0], cases.y[:2], 4)
    np.testing.assert_allclose(x[1], x[0] - 0.25 * v, atol=1e-6)
    assert set(cases.y.tolist()) == {4, 10}


def test_psnr_is_the_peak_over_the_error():
    reference = np.array([0.0, 2.0])
    assert psnr_db(reference + 0.02, reference) == pytest.approx(40.0)
    assert psnr_db(reference, reference) == np.inf
    assert psnr_db(np.array([np.nan, 2.0]), reference) == -np.inf
    assert relative_l2(reference * 1.5, reference) == pytest.approx(0.5)
