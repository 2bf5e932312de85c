"""Head-room under fp16's greatest number: what is measured, what stays in float32 for it, and that it has to.

The independent judge is ONNX's own evaluator, which computes in the types that a graph declares: in fp16 it rounds
every intermediate to fp16, as the CPU runtimes here need not.
"""

from __future__ import annotations

import shutil
from collections import Counter

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles, file_entries, write_manifest
from elit_edge.calibration.calibrating import calibrate
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.headroom import describe, measure
from elit_edge.calibration.record import decode
from elit_edge.calibration.set_file import save_set
from elit_edge.calibration.sites import ROLES
from elit_edge.calibration.states import default_recipe
from elit_edge.errors import BundleError, CalibrationError, ExportError
from elit_edge.export.half import narrow, stored_halves
from elit_edge.export.weights_file import write_tensors
from elit_edge.parity import GATE_DB, psnr_db
from elit_edge.profiling import turns

GREATEST = float(np.finfo(np.float16).max)
TAIL = "blocks.5"
"""The last block of the tiny model: after its MLP come its gate, the sum with its input, and the final norm."""


class LayerNormalization(OpRun):
    """As its stash_type asks: sums in float32. The evaluator's own sums in the type of the input."""

    def _run(self, x, scale, bias=None, axis=None, epsilon=None, stash_type=None):
        assert (axis, stash_type) == (-1, 1)
        wide = x.astype(np.float32)
        apart = wide - wide.mean(-1, keepdims=True)
        normal = (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + epsilon)).astype(x.dtype)
        return (normal * scale + (bias if bias is not None else scale.dtype.type(0)),)


class Reference:
    """A bundle's graphs in ONNX's own evaluator, with all that they compute on the way."""

    def __init__(self, folder, suffix=""):
        self.models = {role: onnx.load(folder / f"{role}{suffix}.onnx") for role in ROLES}
        self._ours = {
            role: ReferenceEvaluator(model, new_ops=[LayerNormalization]) for role, model in self.models.items()
        }

    def run(self, states, stratum, rows):
        """Every value by graph and name."""
        feeds = {"t": states.t[rows], "y": states.y[rows]}
        with np.errstate(all="ignore"):
            condition = self._ours["condition"].run(None, feeds, intermediate=True)
            feeds = {"x": states.x[rows], "modulations": condition["modulations"]}
            feeds["latents"] = np.zeros(stratum.latents, np.int64)
            velocity = self._ours["velocity"].run(None, feeds, intermediate=True)
        return {"condition": condition, "velocity": velocity}

    def velocities(self, states):
        """[N, C, S, S], in the order of the strata."""
        name = self.models["velocity"].graph.output[0].name
        return np.concatenate([self.run(states, stratum, rows)["velocity"][name] for stratum, rows in states.strata()])

    def peaks(self, states):
        """The greatest magnitude of each floating-point value; scores of Attention under the name of its output."""
        found = {role: {} for role in ROLES}
        attentions = [node for node in self.models["velocity"].graph.node if node.op_type == "Attention"]
        for stratum, rows in states.strata():
            for role, values in self.run(states, stratum, rows).items():
                for name, value in values.items():
                    if getattr(value, "dtype", None) == np.float32:
                        found[role][name] = max(found[role].get(name, 0.0), float(np.abs(value).max(initial=0)))
            for node in attentions:
                queries, keys = (values[name] for name in node.input[:2])
                scores = np.einsum("bhqe,bhke->bhqk", queries, keys) / np.sqrt(queries.shape[-1])
                key = f"{node.output[0]}, scores"
                found["velocity"][key] = max(found["velocity"].get(key, 0.0), float(np.abs(scores).max()))
        return found


def measured(files, states):
    paths = [files.graph_path(files.manifest.graph(role, "fp32")) for role in ROLES]
    return measure(*paths, states, 1, lambda _share: None)


def graphs(files):
    return {role: ir.load(files.graph_path(files.manifest.graph(role, "fp32"))) for role in ROLES}


def narrowed(files, folder, overflowing):
    """The fp16 graphs, written beside a copy of the bundle's."""
    shutil.copytree(files.folder, folder)
    models = graphs(BundleFiles(folder, files.manifest))
    tensors = write_tensors(
        folder / "onnx" / "half.safetensors", stored_halves(models.values(), "fp16"), lambda _: None
    )
    for role, model in models.items():
        narrow(model, "fp16", tensors, overflowing.get(role, ()))
        ir.save(model, folder / "onnx" / f"{role}-half.onnx")
    return Reference(folder / "onnx", "-half")


def states_of(files):
    recipe = default_recipe(files, budgets=(1, 16), steps=2, classes=2)
    with Bundle(files).prepare("onnxruntime", "fp32", 1) as session:
        return collect(session, recipe, lambda *_: None, print)


def multiply(files, name, factor, columns=slice(None)):
    """Change a stored weight in place."""
    (tensor,) = (
        model.graph.initializers[name].const_value
        for model in graphs(files).values()
        if name in model.graph.initializers
    )
    values = np.array(tensor.numpy())
    values[..., columns] *= np.float32(factor)
    with files.graph_path(files.manifest.graph("velocity", "fp32")).with_name(tensor.location).open("r+b") as file:
        file.seek(tensor.offset)
        file.write(values.tobytes())


@pytest.fixture(scope="module")
def enlarged(tiny_files, tmp_path_factory):
    """The tiny model with some weights multiplied, and a few of its states."""

    def made(*changes):
        folder = shutil.copytree(tiny_files.folder, tmp_path_factory.mktemp("enlarged") / "enlarged.elit")
        for change in changes:
            multiply(BundleFiles(folder, tiny_files.manifest), *change)
        write_manifest(folder, msgspec.structs.replace(tiny_files.manifest, files=file_entries(folder)))
        files = BundleFiles.open(folder)
        return files, states_of(files)

    return made


@pytest.fixture(scope="module")
def tiny(enlarged):
    """The tiny model as it is."""
    return enlarged()


@pytest.fixture(scope="module")
def right(tiny):
    """The tiny model's peaks, as ONNX's evaluator finds them."""
    return Reference(tiny[0].folder / "onnx").peaks(tiny[1])


@pytest.fixture(scope="module")
def large(enlarged):
    """What the tail's MLP gives is far beyond fp16; its weights, and what enters it, are not."""
    return enlarged((f"{TAIL}.mlp.fc2.weight_t", 2.0**17), (f"{TAIL}.mlp.fc2.bias", 2.0**17))


@pytest.fixture(scope="module")
def sharp(enlarged):
    """Queries and keys of one block hold in fp16, their products do not."""
    queries_and_keys = slice(2 * 48)
    return enlarged(*((f"blocks.2.attn.qkv.{part}", 2.0**9, queries_and_keys) for part in ("weight_t", "bias")))


def test_peaks_are_those_of_an_independent_evaluator(tiny, right):
    found = measured(*tiny)
    checked = 0
    for role, model in graphs(tiny[0]).items():
        peaks = found[role]
        made = {str(value.name) for node in model.graph for value in node.outputs}
        floats = made & right[role].keys()
        assert floats == made & peaks.values.keys()
        for name in floats:
            assert peaks.values[name] == pytest.approx(right[role][name], rel=1e-4, abs=1e-6), name
            checked += 1
        for node in model.graph:
            if node.op_type == "Attention":
                scores = right[role][f"{node.outputs[0].name}, scores"]
                assert peaks.inner[str(node.name)] == pytest.approx(scores, rel=1e-4)
                assert peaks.of(node) >= peaks.inner[str(node.name)]
    assert checked > 250
    assert len(found["velocity"].inner) == 8 + 4


def test_inputs_count(tiny):
    """What a graph is given is cast to fp16 too."""
    found = measured(*tiny)
    assert found["velocity"].values["x"] == np.abs(tiny[1].x).max()
    assert found["condition"].values["t"] == 1
    assert found["velocity"].values["modulations"] == found["condition"].values["modulations"]


def seen_by_torch(model, states):
    """The greatest sums of squares that enter the norms, and magnitudes that leave the linear layers."""
    squares, products, hooks = {}, {}, []

    def keep(kept, name, values):
        kept[name] = max(kept.get(name, 0.0), float(values.abs().max()))

    for name, module in model.named_modules():
        if name.endswith(("q_norm", "k_norm")):
            hook = module.register_forward_pre_hook(lambda _, x, name=name: keep(squares, name, (x[0] ** 2).sum(-1)))
            hooks.append(hook)
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_hook(lambda _, __, y, name=name: keep(products, name, y)))
    with torch.no_grad():
        for stratum, rows in states.strata():
            x, t, y = (torch.from_numpy(part[rows]) for part in (states.x, states.t, states.y))
            model(x, t, y, stratum.latents)
    for hook in hooks:
        hook.remove()
    return squares, products


def test_sums_of_squares_and_products_are_what_torch_sees(tiny, tiny_model):
    files, states = tiny
    squares, products = seen_by_torch(tiny_model, states)
    found = measured(files, states)
    models = graphs(files)
    described = describe(models, found)
    sums = {(node.layer, node.peak) for node in described.wide if node.op == "ReduceL2"}
    assert len(squares) == 4
    for name, right in squares.items():
        room = name.split(".")[0]
        layer = f"{room}.attn.{'q_proj' if name.endswith('q_norm') else 'kv_proj'}"
        (peak,) = (peak for each, peak in sums if each == layer)
        assert peak == pytest.approx(right, rel=1e-4)
    checked = 0
    for role, model in models.items():
        for node in model.graph:
            weights = [value.name for value in node.inputs if value is not None and str(value.name).endswith(".bias")]
            if weights and node.op_type in ("Add", "Gemm"):
                right = products[weights[0].removesuffix(".bias")]
                assert found[role].values[node.outputs[0].name] == pytest.approx(right, rel=1e-4), weights
                checked += 1
    assert checked > 30


def test_a_model_with_room_keeps_what_its_structure_asks_for_alone(tiny, right):
    files, states = tiny
    models = graphs(files)
    found = describe(models, measured(files, states))
    assert Counter(node.why for node in found.wide) == {"angles": 4, "sum of squares": 16}
    kept = {node.name for node in found.wide}
    given = {
        str(value.name)
        for model in models.values()
        for node in model.graph
        if node.name not in kept
        for value in [*node.inputs, *node.outputs]
        if value is not None and value.const_value is None
    }
    scores = [peak for name, peak in right["velocity"].items() if name.endswith("scores")]
    greatest = max(*scores, *(peaks[name] for peaks in right.values() for name in given & peaks.keys()))
    assert found.least.peak == pytest.approx(greatest, rel=1e-4)
    assert found.factor == pytest.approx(GREATEST / greatest, rel=1e-4)


def test_exactly_the_nodes_that_touch_what_is_too_large_stay_in_float32(large):
    files, states = large
    models = graphs(files)
    found = describe(models, measured(files, states))
    overflowing = [node for node in found.wide if node.why == "overflow"]
    assert [(node.op, node.layer) for node in overflowing] == [
        (op, f"{TAIL}.mlp.fc2") for op in ("MatMul", "Add", "Mul", "Add", "LayerNormalization")
    ]
    assert Counter(node.why for node in found.wide) == {"angles": 4, "sum of squares": 16, "overflow": 5}
    right = Reference(files.folder / "onnx").peaks(states)["velocity"]
    for node in models["velocity"].graph:
        touched = [right.get(str(value.name), 0.0) for value in [*node.inputs, *node.outputs] if value is not None]
        each = next((each for each in overflowing if each.name == node.name), None)
        assert (each is not None) == (max(touched) > GREATEST / 4)
        if each is not None:
            assert each.peak == pytest.approx(max(touched), rel=1e-4)
            assert each.peak > GREATEST
    assert found.least.peak < GREATEST / 4


def test_in_true_fp16_such_a_model_overflows_without_and_is_near_float32_with_it(large, tmp_path):
    files, states = large
    exact = Reference(files.folder / "onnx").velocities(states)
    assert np.isfinite(exact).all()
    blind = narrowed(files, tmp_path / "blind.elit", {}).velocities(states)
    assert not np.isfinite(blind).all()
    models, peaks = graphs(files), measured(files, states)
    named = {role: peaks[role].overflowing(model.graph) for role, model in models.items()}
    sighted = narrowed(files, tmp_path / "sighted.elit", named).velocities(states)
    assert np.isfinite(sighted).all()
    assert min(map(psnr_db, sighted, exact)) > GATE_DB["fp16"]


def test_in_true_fp16_a_model_with_room_is_near_float32_too(tiny, tmp_path):
    files, states = tiny
    exact = Reference(files.folder / "onnx").velocities(states)
    found = narrowed(files, tmp_path / "half.elit", {}).velocities(states)
    assert min(map(psnr_db, found, exact)) > GATE_DB["fp16"]


def test_attention_stays_in_float32_for_its_scores(sharp, tmp_path):
    """Which key wins is decided by the rounding of queries and keys then, so that it is finite is all that is asked."""
    files, states = sharp
    models, peaks = graphs(files), measured(files, states)
    found = describe(models, peaks)
    (kept,) = (node for node in found.wide if node.why == "overflow")
    assert (kept.op, kept.layer) == ("Attention", "blocks.2.attn.qkv")
    assert kept.peak > GREATEST
    assert not np.isfinite(narrowed(files, tmp_path / "blind.elit", {}).velocities(states)).all()
    named = {role: peaks[role].overflowing(model.graph) for role, model in models.items()}
    assert np.isfinite(narrowed(files, tmp_path / "sighted.elit", named).velocities(states)).all()


def test_weights_of_what_overflows_are_stored_in_sixteen_bits(large, tmp_path):
    files, states = large
    peaks = measured(files, states)
    named = {role: peaks[role].overflowing(model.graph) for role, model in graphs(files).items()}
    model = narrowed(files, tmp_path / "half.elit", named).models["velocity"]
    types = {each.name: each.data_type for each in model.graph.initializer}
    assert types[f"{TAIL}.mlp.fc2.weight_t"] == onnx.TensorProto.FLOAT16
    onnx.checker.check_model(str(tmp_path / "half.elit" / "onnx" / "velocity-half.onnx"), full_check=True)


def test_a_weight_that_fp16_cannot_hold_is_refused_even_there(enlarged, tmp_path):
    files, states = enlarged((f"{TAIL}.mlp.fc2.weight_t", 2.0**22))
    peaks = measured(files, states)
    named = {role: peaks[role].overflowing(model.graph) for role, model in graphs(files).items()}
    with pytest.raises(ExportError, match=rf"{TAIL}\.mlp\.fc2\.weight_t holds .* choose another precision"):
        narrowed(files, tmp_path / "half.elit", named)


def test_the_command_writes_the_evidence(large, tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "ROUNDS", 1)
    files, states = large
    save_set(tmp_path / "set.npz", states, replace=False)
    settings = {"states": tmp_path / "set.npz", "pictures": 0, "threads": 1, "accept_anyway": True}
    made = calibrate(Bundle(files), "fp16", tmp_path / "new.elit", **settings)
    assert made.calibration.verdict.worst_psnr_db > GATE_DB["fp16"]
    assert made.calibration.set_sha256 == states.digest
    opened = BundleFiles.open(tmp_path / "new.elit")
    data = opened.path(made.calibration.record).read_bytes()
    record = decode(data, "record")
    assert record.headroom == describe(graphs(files), measured(files, states))
    assert {layer.name for layer in record.layers if layer.treatment == "fp32"} == {f"{TAIL}.mlp.fc2"}
    assert np.isfinite(Reference(tmp_path / "new.elit" / "onnx", "-fp16").velocities(states)).all()
    old = {name: value for name, value in msgspec.json.decode(data).items() if name != "headroom"}
    with pytest.raises(BundleError, match="headroom"):
        decode(msgspec.json.encode(old), "an older record")


def test_what_is_not_finite_is_named_and_nothing_stays_behind(tiny, tmp_path):
    files, states = tiny
    folder = shutil.copytree(files.folder, tmp_path / "broken.elit")
    multiply(BundleFiles(folder, files.manifest), "blocks.3.mlp.fc1.weight_t", np.inf)
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(CalibrationError, match=r"is not finite at 1 latents, t = 1\.00"):
        measured(BundleFiles(folder, files.manifest), states)
    assert sorted(path.name for path in folder.rglob("*")) == before
