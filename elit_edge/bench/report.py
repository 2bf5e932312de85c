"""The report of `elit-edge bench`, as `--json` prints it. Null means: not measured or not known here, never zero.

docs/bench.md explains the figures; docs/bench-report.schema.json is generated from these classes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from elit_edge.device import Device
from elit_edge.device.facts import Frequency, ThermalZone
from elit_edge.errors import RequestError
from elit_edge.model_config import Digest, Positive
from elit_edge.profiling.choosing import PassedOver
from elit_edge.runtimes.contract import Placement
from elit_edge.sampling import GuidanceKind

SCHEMA_VERSION = 1
LIMIT_BYTES = 64 << 20

Amount = Annotated[float, msgspec.Meta(ge=0)]
Above = Annotated[float, msgspec.Meta(gt=0)]


class ReportError(RequestError):
    """A file that is no report of `elit-edge bench`, or a damaged one."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Times(_Struct, frozen=True, kw_only=True):
    """Wall times of passes, after warm-up."""

    n: Positive
    min_ms: Above
    median_ms: Above
    p90_ms: Above | None
    """Null with fewer than 10 passes."""
    p99_ms: Above | None
    """Null with fewer than 100 passes."""
    samples_ms: Annotated[tuple[Above, ...], msgspec.Meta(min_length=1)]
    """In the order of time, thinned evenly to at most 200."""


class Row(_Struct, frozen=True, kw_only=True):
    """One pass of one sample at one budget: the velocity once its conditions are known."""

    latents: Positive
    times: Times
    predicted_ms: Above
    """By the cost model, from a profile measured apart from these passes."""
    relative_error: float
    """Of the prediction: predicted over measured median, less 1."""
    gflops: Above
    """10^9 operations a second, two a multiply-add, at the median."""
    matmul_share: Above | None
    """Of the rate of a plain matrix product in this precision with the same threads; null where that is not known."""
    joules: Amount | None
    """Mean energy of a pass, of all that the sensor sees; null without a sensor."""
    plan_ms: Above
    """Expected time of one picture with `steps` steps and the bundle's own guidance at this budget."""
    distance: Amount | None
    """Expected distance of that picture to the reference plan's; null without a measured quality table."""


class PlanPoint(_Struct, frozen=True, kw_only=True):
    """The best plan for one deadline."""

    expected_ms: Above
    distance: Amount
    steps: Positive
    least_latents: Positive
    most_latents: Positive
    guidance: GuidanceKind


class Candidate(_Struct, frozen=True, kw_only=True):
    """One runtime at one precision, measured in a process of its own."""

    runtime: str
    precision: str
    version: str
    open_ms: Above
    """Cold: load and compile, until the session can be asked."""
    first_ms: Above
    """Cold: the first velocity at the full budget with its condition."""
    rows: Annotated[tuple[Row, ...], msgspec.Meta(min_length=1)]
    every_budget: bool
    """False: a pass takes so long that the ends of the ladder and its halves alone were measured."""
    peak_bytes: Positive | None
    """The most resident memory that its process held."""
    front: tuple[PlanPoint, ...] | None
    """Best plans from the tightest deadline to the loosest; null without a measured quality table."""
    placement: tuple[Placement, ...] | None = None
    """Which unit of the device its library means to compute what on; null where it does not say."""

    @property
    def title(self) -> str:
        return f"{self.runtime} {self.precision}"


class Bin(_Struct, frozen=True, kw_only=True):
    """Passes back to back within some seconds of a sustained run, and the device's state at their end."""

    start_s: Amount
    end_s: Above
    n: Positive
    median_ms: Above
    p90_ms: Above | None
    joules: Amount | None
    """Mean of a pass."""
    pressure: Literal["none", "warm", "hot"]
    hottest_c: float | None
    mean_mhz: Above | None


class Sustained(_Struct, frozen=True, kw_only=True):
    """Passes back to back for minutes at one budget."""

    runtime: str
    precision: str
    latents: Positive
    wanted_s: Above
    bins: Annotated[tuple[Bin, ...], msgspec.Meta(min_length=1)]
    first_quarter_ms: Above | None
    """Median of the bins' medians in the first quarter of the time; null with fewer than 8 bins."""
    last_quarter_ms: Above | None
    throttled: bool | None
    """Whether the last quarter is more than 10% above the first; null with fewer than 8 bins."""


class Context(_Struct, frozen=True, kw_only=True):
    """Under what conditions the figures arose."""

    identity: dict[str, str]
    """What makes two reports comparable: device, bundle, threads and versions, by name."""
    device: Device
    """As probed just before; `speed.matmul` is what `matmul_share` refers to."""
    end_frequencies: tuple[Frequency, ...]
    """Clocks just after the last pass."""
    end_thermal: tuple[ThermalZone, ...]
    load_start: Amount | None
    """Load average of the minute before."""
    load_end: Amount | None
    """Load average of the last minute, the bench's own work in it."""
    busy: bool | None
    """Whether other programs kept a CPU busy in the minute before: then the times are too long."""


class Report(_Struct, frozen=True, kw_only=True):
    """All that a bench found."""

    schema_version: Literal[1] = 1
    made_at: str
    """UTC, ISO 8601."""
    bundle: str
    """Its name; its digest stands in the context."""
    latents_per_group: Positive
    steps: Positive
    """Of the plans of `plan_ms` and `distance`: the bundle's own, or the nearest that its quality table knows."""
    guidance: GuidanceKind
    window_s: Above
    """Measuring time of each budget."""
    context: Context
    context_sha256: Digest
    """Over `context.identity`."""
    candidates: tuple[Candidate, ...]
    lost: tuple[PassedOver, ...]
    """What was not measured, or whose measuring failed."""
    sustained: Sustained | None
    """Null when it was not asked for."""
    cut_short: bool
    """Interrupted: what was measured until then."""
    notes: tuple[str, ...]


def context_digest(identity: dict[str, str]) -> str:
    """The digest of what makes reports comparable."""
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()


def encode(report: Report) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=1) + b"\n"


def read(path: Path) -> Report:
    """Read a report.

    Raises:
        ReportError: it is no report, of another schema version, or its context is not what its digest says.
    """
    remedy = "give a file that `elit-edge bench BUNDLE --json` wrote"
    if path.stat().st_size > LIMIT_BYTES:
        raise ReportError(f"{path} is larger than any report; {remedy}")
    data = path.read_bytes()
    try:
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("schema_version")
        found = msgspec.json.decode(version) if version is not None else None
        if found != SCHEMA_VERSION:
            raise ReportError(f"{path}: schema version {found!r}, this elit-edge reads {SCHEMA_VERSION}; {remedy}")
        report = msgspec.json.decode(data, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(f"{path} is no bench report: {error}; {remedy}") from error
    if context_digest(report.context.identity) != report.context_sha256:
        raise ReportError(f"{path}: its context is not what its digest says, so it was changed; measure again")
    return report
