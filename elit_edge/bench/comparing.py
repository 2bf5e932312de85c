"""Two reports side by side: ratios with an interval, and what is noise. Unlike contexts are refused unless told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal

import msgspec
import numpy as np

from elit_edge.bench.context import KINDS, kind_of
from elit_edge.bench.report import Report, Row
from elit_edge.errors import RequestError
from elit_edge.frontier import FloatVector
from elit_edge.planning import LEAST_DRIFT

RESAMPLED = 1000
BLOCKS = 10
"""Samples are drawn again in so many runs of neighbours, as neighbours share the machine's mood."""
INTERVAL = (0.025, 0.975)
SEED = 20260312

Verdict = Literal["faster", "slower", "within noise"]


class UnlikeContexts(RequestError):
    """Two reports that differ in more than the user said to compare."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Difference(_Struct, frozen=True, kw_only=True):
    """A part of the context that differs; null where a report has no such part."""

    part: str
    a: str | None
    b: str | None

    def words(self) -> str:
        return f"{self.part} ({_short(self.a)} and {_short(self.b)})"


class Ratio(_Struct, frozen=True, kw_only=True):
    """One pass of B against one of A."""

    runtime: str
    precision: str
    latents: int
    a_ms: float
    b_ms: float
    """Medians."""
    ratio: float
    """B's over A's: under 1, B is faster."""
    low: float
    high: float
    """95% bootstrap interval."""
    verdict: Verdict
    """Of B."""


class Comparison(_Struct, frozen=True, kw_only=True):
    """What two reports say of the same passes."""

    differences: tuple[Difference, ...]
    ratios: tuple[Ratio, ...]
    alone: tuple[str, ...]
    """What only one of them measured."""
    warnings: tuple[str, ...]


def compare(a: Report, b: Report, across: Collection[str] = ()) -> Comparison:
    """Compare what both measured.

    Args:
        a: the report that ratios refer to.
        b: the other one.
        across: kinds of difference that are meant: "device", "bundle", "threads", "versions".

    Raises:
        UnlikeContexts: they differ in something else.
        RequestError: they have nothing in common, or `across` names no kind.
    """
    strange = sorted(set(across) - set(KINDS))
    if strange:
        raise RequestError(f"across {', '.join(strange)}: there is only {', '.join(KINDS)}")
    differences = differences_of(a, b)
    unlike = [each for each in differences if kind_of(each.part) not in across]
    if unlike:
        kinds = ",".join(kind for kind in KINDS if kind in across or kind in {kind_of(each.part) for each in unlike})
        words = "; ".join(each.words() for each in unlike)
        raise UnlikeContexts(f"the reports differ in {words}; to compare across that: --across {kinds}")
    rows_a, rows_b = _rows(a), _rows(b)
    both = [key for key in rows_a if key in rows_b]
    alone = [*_alone(rows_a, rows_b, "A"), *_alone(rows_b, rows_a, "B")]
    if not both:
        raise RequestError(
            f"the reports have nothing in common: {'; '.join(alone) or 'both are empty'}; bench one runtime on both"
        )
    return Comparison(
        differences=differences,
        ratios=tuple(_ratio(key, rows_a[key], rows_b[key]) for key in both),
        alone=tuple(alone),
        warnings=tuple(_warnings(a, "A") + _warnings(b, "B")),
    )


def differences_of(a: Report, b: Report) -> tuple[Difference, ...]:
    """The parts of the contexts that differ. A runtime's version counts where both measured that runtime."""
    ours, theirs = a.context.identity, b.context.identity
    apart = {each.runtime for each in a.candidates} ^ {each.runtime for each in b.candidates}
    return tuple(
        Difference(part=part, a=ours.get(part), b=theirs.get(part))
        for part in dict.fromkeys([*ours, *theirs])
        if ours.get(part) != theirs.get(part) and part not in apart
    )


def interval_of_ratio(a_ms: Sequence[float], b_ms: Sequence[float]) -> tuple[float, float]:
    """95% interval of the median of B over that of A, by a bootstrap of runs of neighbouring samples."""
    draw = np.random.default_rng(SEED)
    ratios = _medians(np.array(b_ms), draw) / _medians(np.array(a_ms), draw)
    low, high = np.quantile(ratios, INTERVAL)
    return float(low), float(high)


def _medians(samples: FloatVector, draw: np.random.Generator) -> FloatVector:
    count = len(samples)
    length = -(-count // BLOCKS)
    starts = draw.integers(0, count, (RESAMPLED, -(-count // length), 1))
    drawn = ((starts + np.arange(length)) % count).reshape(RESAMPLED, -1)[:, :count]
    medians: FloatVector = np.median(samples[drawn], axis=1)
    return medians


Key = tuple[str, str, int]


def _rows(report: Report) -> dict[Key, Row]:
    return {(each.runtime, each.precision, row.latents): row for each in report.candidates for row in each.rows}


def _alone(mine: Iterable[Key], others: Collection[Key], name: str) -> Iterator[str]:
    for title, keys in groupby((key for key in mine if key not in others), key=lambda key: key[:2]):
        yield f"{' '.join(title)} at {', '.join(str(key[2]) for key in keys)} latents: only in {name}"


def _ratio(key: Key, a: Row, b: Row) -> Ratio:
    ratio = b.times.median_ms / a.times.median_ms
    low, high = interval_of_ratio(a.times.samples_ms, b.times.samples_ms)
    noise = low <= 1 <= high or abs(ratio - 1) < LEAST_DRIFT
    return Ratio(
        runtime=key[0],
        precision=key[1],
        latents=key[2],
        a_ms=a.times.median_ms,
        b_ms=b.times.median_ms,
        ratio=ratio,
        low=low,
        high=high,
        verdict="within noise" if noise else "faster" if ratio < 1 else "slower",
    )


def _warnings(report: Report, name: str) -> list[str]:
    found = []
    if report.context.busy:
        found.append(f"{name} was measured on a busy machine (load {report.context.load_start:g})")
    if report.cut_short:
        found.append(f"{name} was cut short")
    return found


def _short(value: str | None) -> str:
    return "none" if value is None else value[:16]
