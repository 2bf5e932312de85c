"""`--dtype fp16`: a bundle of float16 graphs alone, in which what would overflow stays in float32.

The judge is ONNX's own evaluator, which rounds every value to the type that the graph declares; ONNX Runtime on a CPU
need not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from safetensors.numpy import load_file

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import ExportError, ParityError
from elit_edge.export import model_graphs, model_range
from elit_edge.export.exporter import export
from elit_edge.export.verify import reference_cases, verify
from elit_edge.parity import GATE_DB, psnr_db

GREATEST = float(np.finfo(np.float16).max)
FACTOR = 4
"""The head-room that is asked for: docs/calibration.md."""
UP, DOWN = 2.0**16, 2.0**-10
"""What the layers of an MLP are multiplied by: their weights hold in float16, what is between them does not."""


class LayerNormalization(OpRun):
    """As its stash_type asks: sums in float32. The evaluator's own sums in the type of the input."""

    def _run(self, x, scale, bias=None, axis=None, epsilon=None, stash_type=None):
        assert (axis, stash_type) == (-1, 1)
        wide = x.astype(np.float32)
        apart = wide - wide.mean(-1, keepdims=True)
        normal = (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + epsilon)).astype(x.dtype)
        return (normal * scale + (bias if bias is not None else scale.dtype.type(0)),)


@dataclass(frozen=True)
class Made:
    """A float16 bundle, and what PyTorch makes of the checkpoint."""

    files: BundleFiles
    cases: dict

    @property
    def graphs(self) -> dict[str, Path]:
        return {Path(graph.path).stem: self.files.graph_path(graph) for graph in self.files.manifest.graphs}

    def evaluated(self, name, latents):
        """Every value of a graph at one state of a budget, by ONNX's evaluator; and what the result should be."""
        case = self.cases[latents]
        feeds = {"x": case.x, "t": case.t, "y": case.y, "modulations": case.modulations}
        feeds = {key: value[:1] for key, value in feeds.items()} | {"latents": np.zeros(latents, np.int64)}
        model = onnx.load(self.graphs[name])
        wanted = {value.name for value in model.graph.input}
        ours = ReferenceEvaluator(model, new_ops=[LayerNormalization])
        with np.errstate(all="ignore"):
            found = ours.run(None, {k: v for k, v in feeds.items() if k in wanted}, intermediate=True)
        found = {value: found[value] for node in model.graph.node for value in node.output}
        return found, (case.modulations if name == "condition" else case.velocity)[:1]


@pytest.fixture(scope="module")
def made(traced, tmp_path_factory):
    def make(checkpoint, **options):
        target = tmp_path_factory.mktemp("half") / "half.elit"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_graphs, "trace", traced)
            manifest = export(checkpoint, target, dtype="fp16", **options).manifest
        cases = reference_cases(checkpoint.model(), manifest)
        return Made(BundleFiles.open(target), {each.latents: each for each in cases})

    return make


@pytest.fixture(scope="module")
def half(made, micro_checkpoint):
    return made(micro_checkpoint)


def scaled(checkpoint, factors):
    weights = {name: value * factors.get(name, 1.0) for name, value in checkpoint.weights.items()}
    return replace(checkpoint, mapped=lambda: weights)


@pytest.fixture(scope="module")
def large_mlp(micro_checkpoint):
    """The MLP of the core goes beyond float16 inside."""
    return scaled(micro_checkpoint, {"blocks.1.mlp.fc1.weight": UP, "blocks.1.mlp.fc2.weight": DOWN})


@pytest.fixture(scope="module")
def large_stream(micro_checkpoint):
    """The stream of latents goes beyond float16, from the core to Write, which reshapes it."""
    return scaled(micro_checkpoint, {"blocks.1.mlp.fc2.weight": UP})


@pytest.fixture(scope="module")
def large(made, large_mlp, large_stream):
    return {"mlp": made(large_mlp), "stream": made(large_stream)}


GRAPHS = [("condition", 2), ("velocity", 3), ("model", 2), ("velocity_latents_01", 1), ("velocity_latents_04", 4)]


def test_weights_are_half_as_large_and_stored_once(half, micro_checkpoint, tmp_path, quick_trace):
    export(micro_checkpoint, tmp_path / "wide.elit", check=False)
    name = "onnx/weights.safetensors"
    stored = load_file(half.files.path(name))
    assert {key for key, value in stored.items() if value.dtype != np.float16} == {"time.frequencies"}
    assert stored.keys() == load_file(tmp_path / "wide.elit" / name).keys()
    ratio = half.files.path(name).stat().st_size / (tmp_path / "wide.elit" / name).stat().st_size
    assert 0.49 < ratio < 0.53


def test_graphs_are_sound_and_hold_no_weights_themselves(half):
    for path in half.graphs.values():
        onnx.checker.check_model(str(path), full_check=True)
        graph = onnx.load(path, load_external_data=False).graph
        inside = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
        assert sum(tensor.ByteSize() for tensor in inside) < 2000, path.name
        kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        assert kinds <= {TensorProto.FLOAT, TensorProto.INT64}


@pytest.mark.parametrize(("name", "latents"), GRAPHS)
def test_rounded_at_every_step_it_is_near_pytorch(name, latents, half):
    found, right = half.evaluated(name, latents)
    output = onnx.load(half.graphs[name], load_external_data=False).graph.output[0].name
    assert sum(getattr(value, "dtype", None) == np.float16 for value in found.values()) > 10
    assert GATE_DB["fp16"] < psnr_db(found[output], right) < 100


def test_the_manifest_says_precision_parity_and_headroom(half):
    manifest = half.files.manifest
    assert manifest.precisions == ("fp16",)
    assert manifest.verification.gate_db == GATE_DB["fp16"]
    assert 100 < manifest.verification.headroom < GREATEST


@pytest.mark.parametrize("what", ["mlp", "stream"])
@pytest.mark.parametrize(("name", "latents"), GRAPHS[1:])
def test_what_overflows_stays_in_float32_in_every_graph(what, name, latents, large):
    found, right = large[what].evaluated(name, latents)
    assert psnr_db(found["v"], right) > GATE_DB["fp16"]
    floats = {key: value for key, value in found.items() if getattr(value, "dtype", None) in (np.float16, np.float32)}
    peaks = {key: float(np.abs(value).max(initial=0)) for key, value in floats.items()}
    beyond = {key for key, peak in peaks.items() if peak > GREATEST / FACTOR}
    assert len(beyond) > 1
    assert {floats[key].dtype for key in beyond} == {np.dtype(np.float32)}
    within = max(peak for key, peak in peaks.items() if floats[key].dtype == np.float16)
    assert FACTOR <= large[what].files.manifest.verification.headroom <= 1.01 * GREATEST / within


def test_the_graphs_agree_on_the_type_of_each_value(large):
    """The optimiser gives some nodes of a graph of fixed shapes new names; their values keep theirs."""
    for each in large.values():
        types = {}
        for name in each.graphs:
            graph = onnx.load(each.graphs[name], load_external_data=False).graph
            for value in graph.value_info:
                types.setdefault(value.name, {})[name] = value.type.tensor_type.elem_type
        shared = {name: set(kinds.values()) for name, kinds in types.items() if "velocity" in kinds}
        assert {name for name, kinds in shared.items() if len(kinds) > 1} == set()


def test_a_node_that_was_not_seen_is_not_narrowed(half, micro_checkpoint, quick_trace, tmp_path, monkeypatch):
    """Should an optimiser name a value anew."""
    right = model_range.Watched.run

    def forgetful(self, feeds):
        result = right(self, feeds)
        self.peaks.values.pop("layer_norm_4", None)
        return result

    monkeypatch.setattr(model_range.Watched, "run", forgetful)
    export(micro_checkpoint, tmp_path / "unseen.elit", dtype="fp16")
    for place, kind in ((half.files.folder, np.float16), (tmp_path / "unseen.elit", np.float32)):
        graph = onnx.load(place / "onnx" / "velocity_latents_04.onnx", load_external_data=False).graph
        (value,) = (value for value in graph.value_info if value.name == "layer_norm_4")
        assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == kind


def test_without_the_gate_nothing_is_seen_and_verify_finds_it(made, large_mlp, half, micro_checkpoint):
    unseen = made(micro_checkpoint, check=False)
    assert unseen.files.manifest.verification is None
    cases = list(unseen.cases.values())
    assert verify(unseen.files, cases).worst.psnr_db == half.files.manifest.verification.worst.psnr_db
    wrong = made(large_mlp, check=False)
    found, _ = wrong.evaluated("velocity", 3)
    assert not np.isfinite(found["v"]).all()


def test_a_weight_that_float16_cannot_hold_is_named_and_leaves_nothing(micro_checkpoint, quick_trace, tmp_path):
    weights = dict(micro_checkpoint.weights)
    weights["blocks.1.mlp.fc2.bias"] = weights["blocks.1.mlp.fc2.bias"] + 1e5
    with pytest.raises(ExportError, match=r"blocks\.1\.mlp\.fc2\.bias holds 1e\+05, more than float16 can hold"):
        export(replace(micro_checkpoint, mapped=lambda: weights), tmp_path / "x.elit", dtype="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_finite_is_no_picture_of_range(micro_checkpoint, quick_trace, tmp_path):
    checkpoint = scaled(micro_checkpoint, {"final.bias": float("nan")})
    with pytest.raises((ExportError, ParityError)):
        export(checkpoint, tmp_path / "nan.elit", dtype="fp16")
    assert list(tmp_path.iterdir()) == []
