"""How near the bundle's graphs come to the greatest number that fp16 holds, on a calibration set, and what stays in
float32 for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from elit_edge.calibration.record import Headroom, Node, Wide
from elit_edge.calibration.states import CalibrationSet
from elit_edge.errors import CalibrationError
from elit_edge.export.float16 import FP16_GREATEST
from elit_edge.export.half import left_wide
from elit_edge.export.peaks import Peaks, Watched, floating_nodes
from elit_edge.manifest import Role
from elit_edge.model.bundle_weights import TRANSPOSED

ROWS_A_CALL = 8


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
    first, second = Watched(condition, threads), Watched(velocity, threads)
    strata = list(states.strata())
    for done, (stratum, rows) in enumerate(strata, 1):
        for at in range(0, len(rows), ROWS_A_CALL):
            batch = rows[at : at + ROWS_A_CALL]
            try:
                modulations = first.run({"t": states.t[batch], "y": states.y[batch]})
                latents = np.zeros(stratum.latents, np.int64)
                second.run({"x": states.x[batch], "modulations": modulations, "latents": latents})
            except FloatingPointError as error:
                raise CalibrationError(
                    f"{error} is not finite at {stratum.latents} latents, t = {stratum.t:.2f}; "
                    "elit-edge verify BUNDLE tells whether the float32 graphs are sound"
                ) from error
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
        for node in floating_nodes(model.graph):
            seen = Node(graph=role, name=str(node.name), op=node.op_type, layer=layers[node], peak=found.of(node))
            if node in reasons:
                wide.append(Wide(**msgspec.structs.asdict(seen), why=reasons[node]))
            else:
                narrow.append(seen)
    least = max(narrow, key=lambda each: each.peak)
    return Headroom(wide=tuple(wide), least=least, factor=FP16_GREATEST / least.peak)


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
