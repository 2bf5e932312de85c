"""Which nodes of a model float16 cannot compute: seen along the trajectories that the graphs are verified on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import extract

from elit_edge.errors import ExportError
from elit_edge.export.float16 import FP16_GREATEST
from elit_edge.export.half import left_wide
from elit_edge.export.model_graphs import ModelGraph
from elit_edge.export.peaks import Peaks, Watched, floating_nodes
from elit_edge.export.verify import ROWS_A_CALL, Cases, Feeds
from elit_edge.runtimes.contract import FloatArray

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Range:
    """What was seen."""

    peaks: Peaks
    """Of `condition` and `velocity`. Values have the same name in every graph that computes them; nodes have not."""
    headroom: float
    """float16's greatest number over the greatest of any node that computes in it, in any graph."""

    def overflowing(self, graph: ir.Graph) -> frozenset[str]:
        """Names of the nodes of any graph of the model that come too near to that number, or that were not seen."""
        return _overflowing(self.peaks, graph)


def _overflowing(peaks: Peaks, graph: ir.Graph) -> frozenset[str]:
    made = {str(node.name): [str(value.name) for value in node.outputs] for node in floating_nodes(graph)}
    unseen = {name for name, values in made.items() if not peaks.values.keys() >= set(values)}
    return peaks.overflowing(graph) | unseen


def observe_range(
    graphs: Sequence[ModelGraph],
    tensors: Mapping[str, ir.ExternalTensor],
    cases: Sequence[Cases],
    stage: Path,
) -> Range:
    """Run `condition` and `velocity` in float32 on the float16 weights, and look at every number.

    Args:
        graphs: after `write_weights`.
        tensors: what it returned.
        cases: states of trajectories.
        stage: the folder of the bundle; what is written there is removed again.

    Raises:
        ExportError: a number that is not finite even in float32.
    """
    peaks = Peaks()
    modulations: dict[int, FloatArray] = {}
    for graph in graphs:
        if graph.entry.role == "model" or graph.entry.latents is not None:
            continue
        watched = _watched(graph, tensors, stage)
        for each in cases:
            found = []
            for at in range(0, len(each.t), ROWS_A_CALL):
                rows = slice(at, at + ROWS_A_CALL)
                feeds: Feeds = {"x": each.x[rows], "t": each.t[rows], "y": each.y[rows]}
                if graph.entry.role == "velocity":
                    feeds["modulations"] = modulations[each.latents][rows]
                try:
                    found.append(watched.run({**feeds, "latents": np.zeros(each.latents, np.int64)}))
                except FloatingPointError as error:
                    raise ExportError(
                        f"{error} of this model is not finite at {each.latents} latents; look at the checkpoint"
                    ) from error
            modulations[each.latents] = np.concatenate(found)
        peaks.values.update(watched.peaks.values)
        peaks.inner.update(watched.peaks.inner)
        del watched  # or the next one would be opened beside it
    return Range(peaks, FP16_GREATEST / max(_narrow_peaks(peaks, graphs)))


def _narrow_peaks(peaks: Peaks, graphs: Sequence[ModelGraph]) -> Iterator[float]:
    for graph in graphs:
        nodes = graph.model.graph
        wide = left_wide(nodes, _overflowing(peaks, nodes))
        yield from (peaks.of(node) for node in floating_nodes(nodes) if node not in wide)


def _watched(graph: ModelGraph, tensors: Mapping[str, ir.ExternalTensor], stage: Path) -> Watched:
    """The float32 graph, whose float16 weights are widened when it opens."""
    path = stage / graph.entry.path
    try:
        ir.save(_widened(graph.model, tensors), path)
        return Watched(path)
    finally:
        path.unlink(missing_ok=True)


def _widened(model: ir.Model, tensors: Mapping[str, ir.ExternalTensor]) -> ir.Model:
    graph = extract(model.graph, list(model.graph.inputs), list(model.graph.outputs))
    for name, value in list(graph.initializers.items()):
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype == FLOAT:
            value.const_value = value.const_value if tensor is None else tensor
            continue
        kind = ir.TensorType(tensor.dtype)
        stored = ir.Value(name=f"{name}.stored", const_value=tensor, shape=value.shape, type=kind)
        cast = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", int(FLOAT))], outputs=[value])
        del graph.initializers[name]
        graph.initializers.add(stored)
        value.const_value = None
        graph.insert_before(graph[0], cast)
    return ir.Model(graph, ir_version=model.ir_version, producer_name=model.producer_name)
