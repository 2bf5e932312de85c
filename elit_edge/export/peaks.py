"""How near the numbers inside a float32 graph come to the greatest one that fp16 holds.

What every node takes and gives is looked at, and what two operators form on the way: the sum of squares below the root
of ReduceL2, and the scores of Attention. What LayerNormalization and GroupNormalization sum is not: their `stash_type`
asks for float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from elit_edge.export.float16 import FP16_GREATEST
from elit_edge.runtimes.onnxruntime_.session import QUIET

FACTOR = 4.0
"""Head-room that is asked for: other inputs than those that were seen may go further."""


@dataclass
class Peaks:
    """The greatest magnitudes in one graph, over all runs."""

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
        return frozenset(str(node.name) for node in floating_nodes(graph) if self.of(node) * FACTOR > FP16_GREATEST)


class Watched:
    """A graph that gives the greatest magnitude of each value too: one number, taken as soon as the value is there."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Open it.

        Args:
            path: of a float32 graph, in a folder that can be written.
            threads: CPU threads; None leaves it to ONNX Runtime.
        """
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

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The graph's own output. What it has no input for is left out.

        Raises:
            FloatingPointError: a number is not finite; the message is the name of its value.
        """
        wanted = {value.name for value in self._session.get_inputs()}
        feeds = {name: value for name, value in feeds.items() if name in wanted}
        result, *found = self._session.run([self._result, *self._kept_in], feeds)
        for (peaks, name), peak in zip(self._kept_in.values(), found, strict=True):
            if peak != -np.inf:  # the greatest of no numbers: the full budget drops no latents
                _check_finite(peak, name)
            peaks[name] = max(peaks.get(name, 0.0), float(peak))
        _check_finite(result, self._result)
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


def floating_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that give floating-point numbers."""
    return [node for node in graph if any(value.dtype == ir.DataType.FLOAT for value in node.outputs)]


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


def _check_finite(values: npt.NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(name)
