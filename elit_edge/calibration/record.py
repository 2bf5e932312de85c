"""The record of a calibration, `calibration/PRECISION.json` in the bundle: what was seen and decided, layer by layer.

docs/calibration.md explains the fields; `elit-edge calibrate BUNDLE --report` draws them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from elit_edge.errors import BundleError
from elit_edge.export.float16 import Reason
from elit_edge.manifest import Role
from elit_edge.model_config import Count, Digest, Positive

Treatment = Literal["int8", "int8-dynamic", "w8", "w4", "fp16", "bf16", "fp32"]
"""What a matrix product is computed in; w8 and w4 are stored in so many bits, and computed in float32."""
Observer = Literal["min-max", "percentile", "entropy", "mse"]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Range(_Struct, frozen=True, kw_only=True):
    """What entered a matrix product in one stratum of the calibration set."""

    latents: Positive
    t: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """1 is noise, 0 the picture."""
    conditional: bool
    """False: the null class."""
    low: float
    high: float


class Sensitivity(_Struct, frozen=True, kw_only=True):
    """PSNR of the velocity with this layer alone quantized, worst state of a budget."""

    latents: Positive
    psnr_db: float


class Layer(_Struct, frozen=True, kw_only=True):
    """One matrix product with a weight."""

    name: str
    """Of its weight, without the `.weight`: "blocks.3.mlp.fc2"."""
    inputs: Positive
    outputs: Positive
    treatment: Treatment
    observer: Observer | None
    """Which way of taking the range lost least; None where the input is not quantized ahead."""
    bound: float | None
    """The input is cut off at ± this value, after smoothing; None as above."""
    alpha: float | None
    """How much of the input's spread over channels was moved into the weight (SmoothQuant), 0..1; None: none."""
    sensitivity: tuple[Sensitivity, ...] = ()
    ranges: tuple[Range, ...] = ()


class Node(_Struct, frozen=True, kw_only=True):
    """A node of a graph, as the calibration set showed it."""

    graph: Role
    name: str
    op: str
    layer: str | None
    """Of the last weight that went into it; None where no weight stands before it."""
    peak: Annotated[float, msgspec.Meta(ge=0)]
    """The greatest magnitude, in float32, of what it takes, sums up on the way, or gives."""


class Wide(Node, frozen=True, kw_only=True):
    """One that fp16 leaves in float32."""

    why: Reason


class Headroom(_Struct, frozen=True, kw_only=True):
    """How near an fp16 graph comes to the greatest number of its type."""

    wide: tuple[Wide, ...]
    """In the graphs' order, `condition` first."""
    least: Node
    """Of the nodes in fp16, the one that comes nearest."""
    factor: float
    """Its head-room: the greatest number of fp16 over its peak."""


class SetSummary(_Struct, frozen=True, kw_only=True):
    """The calibration set, in figures."""

    sha256: Digest
    states: Positive
    budgets: tuple[int, ...]
    times: tuple[float, ...]
    classes: Positive
    seed: Count


class Record(_Struct, frozen=True, kw_only=True):
    """All that was decided for one precision."""

    precision: str
    source_sha256: Digest
    """`BundleFiles.digest` of the bundle that was calibrated."""
    elit_edge: str
    set: SetSummary | None
    layers: tuple[Layer, ...]
    headroom: Headroom | None
    """None for every other precision than fp16."""


def encode(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1) + b"\n"


def decode(data: bytes, source: str) -> Record:
    """Read a record.

    Raises:
        BundleError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{source} is no calibration record: {error}; calibrate the bundle again") from error
