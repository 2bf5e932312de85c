"""How near the numbers inside the float32 graphs come to the greatest one that fp16 holds, on a calibration set.

What every node takes and gives is looked at, and what two operators form on the way: the sum of squares below the root
of ReduceL2, and the scores of Attention. What LayerNormalization sums is not: its `stash_type` asks for float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from elit_edge.calibration.half import left_wide
from elit_edge.calibration.record import FP16_GREATEST, Headroom, Node, Wide
from elit_edge.calibration.states import CalibrationSet, Stratum
from elit_edge.errors import CalibrationError
from elit_edge.manifest import Role
from elit_edge.model.bundle_weights import TRANSPOSED
from elit_edge.runtimes.onnxruntime_.session import QUIET

FACTOR = 4.0
"""Head-room that is asked for: other states than those of the set may go further."""
ROWS_A_CALL = 8

Feeds = dict[str, npt.NDArray[Any]]


@dataclass
class Peaks:
    """The greatest magnitudes in one graph, over all states."""

    values: dict[str, float] = field(default_factory=dict)
    """Of each floating-point input and node output, by its name."""
    inner: dict[str, float] = field(default_factory=dict)
    """Of what a node forms on the way, by the node's name."""

    def of(self, node: ir.Node) -> float:
        """The greatest magnitude that a node takes, forms or gives; its weights do not count."""
        touched = [value.name for value in [*node.inputs, *node.outputs] if value is not None]
        known = [self.values[str(name)] for name in touched if name in self.values]
        return max([*known, self.inner.get(str(node.name), 0.0)])

    def overflowing(self, graph: ir.Graph) -> frozenset[str]:
        """Names of the nodes that have less than the head-room which is asked for."""
        return frozenset(str(node.name) for node in _floating(graph) if self.of(node) * FACTOR > FP16_GREATEST)


def measure(
    condition: Path, velocity: Path, states: CalibrationSet, threads: int | None, report: Callable[[float], None]
) -> dict[Role, Peaks]:
    """Run the set through the graphs, stratum by stratum.

    Args:
        condition, velocity: float32 graphs, in a folder that can be written.
        states: the set.
        threads: CPU threads.
        report: told the share done, 0..1.

    Raises:
        CalibrationError: a number in a graph is not finite; the message names the value and the stratum.
    """
    first, second = _Watched(condition, threads), _Watched(velocity, threads)
    strata = list(states.strata())
    for done, (stratum, rows) in enumerate(strata, 1):
        for at in range(0, len(rows), ROWS_A_CALL):
            batch = rows[at : at + ROWS_A_CALL]
            modulations = first.run({"t": states.t[batch], "y": states.y[batch]}, stratum)
            latents = np.zeros(stratum.latents, np.int64)
            second.run({"x": states.x[batch], "modulations": modulations, "latents": latents}, stratum)
        report(done / len(strata))
    return {"condition": first.peaks, "velocity": second.peaks}


def describe(models: Mapping[Role, ir.Model], peaks: Mapping[Role, Peaks]) -> Headroom:
    """What fp16 leaves in float32, why, and which of its other nodes comes nearest to fp16's greatest number.

    Args:
        models: the float32 graphs.
        peaks: of `measure`.
    """
    wide: list[Wide] = []
    narrow: list[Node] = []
    for role, model in models.items():
        found = peaks[role]
        reasons = left_wide(model.graph, found.overflowing(model.graph))
        layers = _layers(model.graph)
        for node in _floating(model.graph):
            seen = Node(graph=role, name=str(node.name), op=node.op_type, layer=layers[node], peak=found.of(node))
            if node in reasons:
                wide.append(Wide(**msgspec.structs.asdict(seen), why=reasons[node]))
            else:
                narrow.append(seen)
    least = max(narrow, key=lambda each: each.peak)
    return Headroom(wide=tuple(wide), least=least, factor=FP16_GREATEST / least.peak)


class _Watched:
    """A graph that gives the greatest magnitude of each value too: one number, taken as soon as the value is there."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.peaks = Peaks()
        self._kept_in: dict[str, tuple[dict[str, float], str]] = {}
        model = ir.load(path)
        self._graph = model.graph
        self._result = str(self._graph.outputs[0].name)
        nodes = list(self._graph)
        self._last = nodes[0]
        for value in self._graph.inputs:
            self._watch(value)
        for node in nodes:
            self._last = node
            for value in node.outputs:
                self._watch(value)
            if node.op_type == "ReduceL2":
                self._watch_inner(node, self._then("Mul", node.outputs[0], node.outputs[0]))
            if node.op_type == "Attention":
                self._watch_inner(node, self._scores(node))
        watched = path.with_name(f"watched-{path.name}")
        try:
            ir.save(model, watched)
            self._session = _session(watched, threads)
        finally:
            watched.unlink(missing_ok=True)

    def run(self, feeds: Feeds, stratum: Stratum) -> npt.NDArray[np.float32]:
        """The graph's own output."""
        wanted = {value.name for value in self._session.get_inputs()}
        feeds = {name: value for name, value in feeds.items() if name in wanted}
        result, *found = self._session.run([self._result, *self._kept_in], feeds)
        for (peaks, name), peak in zip(self._kept_in.values(), found, strict=True):
            if peak != -np.inf:  # the greatest of no numbers: the full budget drops no latents
                _check_finite(peak, name, stratum)
            peaks[name] = max(peaks.get(name, 0.0), float(peak))
        _check_finite(result, self._result, stratum)
        own: npt.NDArray[np.float32] = result
        return own

    def _watch(self, value: ir.Value) -> None:
        if value.dtype == ir.DataType.FLOAT:
            self._keep(value, self.peaks.values, str(value.name))

    def _watch_inner(self, node: ir.Node, value: ir.Value) -> None:
        self._keep(value, self.peaks.inner, str(node.name))

    def _keep(self, value: ir.Value, peaks: dict[str, float], name: str) -> None:
        peak = self._then("ReduceMax", self._then("Abs", value), keepdims=0)
        peak.name, peak.shape = f"peak.{len(self._kept_in)}", ir.Shape([])
        self._graph.outputs.append(peak)
        self._kept_in[peak.name] = peaks, name

    def _scores(self, attention: ir.Node) -> ir.Value:
        """The scaled products of queries and keys, [B, heads, queries, keys]."""
        queries, keys = attention.inputs[:2]
        assert queries is not None
        assert keys is not None
        assert queries.shape is not None
        size = queries.shape.dims[-1]
        assert isinstance(size, int)
        scale = attention.attributes.get_float("scale", size**-0.5)
        (factor,) = self._insert(ir.Node("", "Constant", [], [ir.AttrFloat32("value_float", scale)])).outputs
        transposed = self._then("Transpose", keys, perm=[0, 1, 3, 2])
        return self._then("Mul", self._then("MatMul", queries, transposed), factor)

    def _then(self, op: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        """What one more node gives, in float32."""
        (made,) = self._insert(ir.node(op, inputs, attributes)).outputs
        made.type = ir.TensorType(ir.DataType.FLOAT)
        return made

    def _insert(self, node: ir.Node) -> ir.Node:
        self._graph.insert_after(self._last, node)
        self._last = node
        return node


def _session(path: Path, threads: int | None) -> ort.InferenceSession:
    """One that keeps the order of the file: ONNX Runtime's own would hold all values of a pass until its end.

    Its threads do not spin: the many small nodes would fight for the cores of a machine that does other work too.
    """
    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _check_finite(values: npt.NDArray[Any], name: str, stratum: Stratum) -> None:
    if not np.isfinite(values).all():
        raise CalibrationError(
            f"{name} is not finite at {stratum.latents} latents, t = {stratum.t:.2f}; "
            "elit-edge verify BUNDLE tells whether the float32 graphs are sound"
        )


def _floating(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that give floating-point numbers."""
    return [node for node in graph if any(value.dtype == ir.DataType.FLOAT for value in node.outputs)]


def _layers(graph: ir.Graph) -> dict[ir.Node, str | None]:
    """The layer of the last weight that went into each node; None where there is none before it."""
    found: dict[ir.Node, tuple[int, str] | None] = {}
    for place, node in enumerate(graph):
        above: list[tuple[int, str]] = []
        for value in node.inputs:
            if value is None:
                continue
            if isinstance(value.const_value, ir.ExternalTensor):
                above.append((place, _layer(str(value.name))))
            elif (producer := value.producer()) is not None and (last := found[producer]) is not None:
                above.append(last)
        found[node] = max(above, default=None)
    return {node: None if last is None else last[1] for node, last in found.items()}


def _layer(weight: str) -> str:
    """ "blocks.3.mlp.fc2" of its weight or bias; "position" of what has no layer."""
    return weight.removesuffix(TRANSPOSED).rpartition(".")[0] or weight
