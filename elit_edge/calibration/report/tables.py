"""A calibration as words and tables. Pure; nothing is escaped here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from elit_edge.calibration.proof import gates
from elit_edge.calibration.record import Headroom, Record, Wide
from elit_edge.calibration.report.ranking import Movement, magnitude, worst
from elit_edge.export.float16 import FP16_GREATEST
from elit_edge.manifest import Manifest
from elit_edge.pages.tables import NONE, Sheet, figure
from elit_edge.parity import EXACT_DB
from elit_edge.verdict import BudgetVerdict, Calibration, Interval, Speed, Verdict


def headline(verdict: Verdict, full: int) -> str:
    """What it costs and what it gains, in three sentences."""
    least = _worst(verdict)
    near = f"PSNR to float32 is {decibels(least.psnr_db, unit=True)} at its worst budget, {latents(least.latents)}"
    words = [f"{near}; at least {verdict.gate_db:g} dB are asked."]
    found = gain(verdict, full)
    if found is None:
        words.append(f"Nothing is known of its speed at {latents(full)}.")
    else:
        where = f"at {latents(full)}, {found.where}"
        words.append(
            f"It is {found.ratio:.2f} times as fast {where}."
            if found.ratio >= 1
            else f"It is slower: it takes {1 / found.ratio:.2f} times as long {where}."
        )
    return " ".join([*words, f"Its graphs and weights have {verdict.size_ratio:.3f} of float32's bytes."])


@dataclass(frozen=True)
class Gain:
    """The fastest runtime in the precision against the fastest in float32."""

    ratio: float
    """Time of float32 over its own."""
    runtime: str
    float32_runtime: str

    @property
    def where(self) -> str:
        if self.runtime == self.float32_runtime:
            return f"both on {self.runtime}"
        return f"on {self.runtime}; float32 on {self.float32_runtime}"


def gain(verdict: Verdict, sought: int) -> Gain | None:
    """At a budget; None where it was not measured there."""
    there = [each for each in verdict.speeds if each.latents == sought]
    own = [(each.own_ms, each) for each in there if each.own_ms is not None]
    if not own:
        return None
    fastest = min(own, key=lambda each: each[0])[1]
    float32 = min(there, key=lambda each: each.fp32_ms)
    return Gain(gates.speedups(verdict)[sought], _name(fastest), _name(float32))


def glance(verdict: Verdict, record: Record, full: int) -> Sheet:
    """One line a question."""
    least = _worst(verdict)
    asked = f"at least {verdict.gate_db:g} dB"
    found = decibels(least.psnr_db, unit=True)
    rows = [("PSNR of the velocity to float32's, worst budget", found, asked, f"at {latents(least.latents)}")]
    name, change, where = _decisive(verdict)
    allowed = f"not shown to be above {gates.MARGIN:+.0%}"
    rows.append((f"{name}, change at its worst budget", share(change, signed=True), allowed, where))
    faster, smaller = f"more than {gates.FASTER:g}×, or smaller", f"less than {gates.SMALLER:g}, or faster"
    rows.append(("speed, mean over budgets", times(gates.speedup(verdict)), faster, "the fastest runtime for each"))
    for which, sought in (("full", full), ("least", min(each.latents for each in verdict.budgets))):
        best = gain(verdict, sought)
        place = "not measured" if best is None else best.where
        rows.append((f"speed at the {which} budget", NONE if best is None else times(best.ratio), "", place))
    rows.append(("bytes of graphs and weights, of float32's", f"{verdict.size_ratio:.3f}", smaller, ""))
    treatments = Counter(layer.treatment for layer in record.layers)
    rows.append(("matrix products", ", ".join(f"{n} {name}" for name, n in treatments.most_common()), "", ""))
    return Sheet("What was found, and what was asked", ("what", "found", "asked", "where"), tuple(rows), numbers=False)


def budgets(verdict: Verdict) -> Sheet:
    """One line a budget."""
    rows = tuple(
        (
            str(each.latents),
            decibels(each.psnr_db),
            share(each.departure),
            share(each.loss, signed=True, digits=2),
            share(each.frechet, signed=True),
        )
        for each in _ladder(verdict)
    )
    pictures = f"{verdict.pictures} pictures" if verdict.pictures else "no pictures"
    return Sheet(
        f"Against float32 by budget, on {pictures} of {verdict.steps} steps from the same seeds; "
        "in brackets 95% bootstrap intervals. Departure: how far a picture is from float32's; loss: how much farther "
        "from the reference's; both in parts of a picture's norm",
        ("latents", "PSNR, dB", "departure", "loss", "Frechet distance"),
        rows,
    )


def speeds(verdict: Verdict, precision: str) -> Sheet:
    """A line a budget and runtime."""
    rows = tuple(
        (_name(each), str(each.latents), figure(each.fp32_ms), figure(each.own_ms), times(each.ratio))
        for each in sorted(verdict.speeds, key=lambda each: each.latents)
    )
    return Sheet(
        "Median time of one pass for one sample, in turn in one process",
        ("runtime", "latents", "float32, ms", f"{precision}, ms", "times as fast"),
        rows,
    )


def movements(found: list[Movement]) -> Sheet:
    """One line a layer; what moves most stands first."""
    rows = tuple(
        (
            each.layer,
            figure(magnitude(each.widest)),
            f"{latents(each.widest.latents)}, t {each.widest.t:g}, {'class' if each.widest.conditional else 'null'}",
            times(each.by_budget),
            times(each.by_time),
            times(each.by_class),
        )
        for each in found
    )
    return Sheet(
        "Greatest |x| that entered each layer, where, and by how much it moves: largest over least, all else equal",
        ("layer", "greatest |x|", "at", "by budget", "by time", "null or not"),
        rows,
    )


def layers(record: Record) -> Sheet:
    """One line a layer, in the model's order."""
    rows = tuple(
        (
            layer.name,
            f"{layer.inputs} → {layer.outputs}",
            layer.treatment,
            layer.observer or NONE,
            figure(layer.bound),
            figure(layer.alpha),
            NONE if found is None else decibels(found.psnr_db),
            NONE if found is None else str(found.latents),
        )
        for layer in record.layers
        for found in (worst(layer),)
    )
    heads = ("layer", "shape", "treatment", "observer", "bound", "alpha", "PSNR alone, dB", "at latents")
    title = (
        "What was decided for each matrix product. Bound: its input is cut off at ± this, after smoothing. Alpha: "
        "how much of its spread smoothing moved into the weight. PSNR: with it alone quantized, at its worst budget."
    )
    return Sheet(title, heads, rows)


def wide(found: Headroom) -> Sheet:
    """One line for each reason and layer."""
    groups: dict[tuple[str | None, str], list[Wide]] = {}
    for node in found.wide:
        groups.setdefault((node.layer, node.why), []).append(node)
    rows = tuple(
        (layer or NONE, ", ".join(dict.fromkeys(node.op for node in nodes)), why, figure(peak), _room(peak))
        for (layer, why), nodes in groups.items()
        for peak in (max(node.peak for node in nodes),)
    )
    title = (
        "Left in float32: the greatest magnitude in these nodes, on the calibration set. Head-room: "
        f"{FP16_GREATEST:.0f}, the greatest number of fp16, over it. Layer: whose weight went in last"
    )
    return Sheet(title, ("layer", "nodes", "why", "greatest", "head-room"), rows)


def headroom(found: Headroom) -> str:
    """One sentence on the node in fp16 that comes nearest to its greatest number."""
    least = found.least
    where = "before any layer" if least.layer is None else f"of {least.layer}"
    return (
        f"Of the nodes in fp16, {least.op} {where} ({least.name}) has the least head-room: "
        f"its greatest magnitude is {figure(least.peak)}, and {FP16_GREATEST:.0f} is {figure(found.factor)} times that."
    )


def context(manifest: Manifest, calibration: Calibration, record: Record) -> Iterator[tuple[str, str]]:
    """Of what, from what, where."""
    verdict, states = calibration.verdict, record.set
    yield "bundle", manifest.name
    yield "calibrated from", record.source_sha256
    yield "precision", record.precision
    yield "record", calibration.record
    if states is None:
        yield "calibration set", "none: this precision needs none"
    else:
        yield "calibration set", f"{states.states} states, {states.classes} classes, seed {states.seed}"
        yield "its budgets", ", ".join(map(str, states.budgets))
        yield "its times", ", ".join(f"{t:.3g}" for t in states.times)
        yield "its digest", states.sha256
    yield "judged on", f"{verdict.pictures} pictures, {verdict.steps} steps, seed {verdict.seed}"
    yield "features", verdict.features_sha256 or "none, so no Frechet distance"
    yield "device", verdict.device
    measured = dict.fromkeys(map(_name, verdict.speeds))
    yield "versions", ", ".join([f"elit-edge {record.elit_edge}", *measured])


def latents(count: int) -> str:
    return f"{count} latent" if count == 1 else f"{count} latents"


def times(ratio: float | None) -> str:
    """How many times as much."""
    return NONE if ratio is None else "∞" if ratio == float("inf") else f"{ratio:.2f}×"


def share(found: Interval | None, *, signed: bool = False, digits: int = 1) -> str:
    """A part of a whole with its interval, in percent."""
    if found is None:
        return NONE
    value, low, high = (
        f"{100 * part:{'+' if signed else ''}.{digits}f}" for part in (found.value, found.low, found.high)
    )
    return f"{value}% ({low} to {high})"


def decibels(found: float, *, unit: bool = False) -> str:
    if abs(found) >= EXACT_DB:
        return "exact" if found > 0 else "not finite"
    return f"{found:.1f} dB" if unit else f"{found:.1f}"


def _room(peak: float) -> str:
    return "∞" if peak == 0 else f"{figure(FP16_GREATEST / peak)}×"


def _ladder(verdict: Verdict) -> list[BudgetVerdict]:
    return sorted(verdict.budgets, key=lambda each: each.latents)


def _worst(verdict: Verdict) -> BudgetVerdict:
    return min(verdict.budgets, key=lambda each: each.psnr_db)


def _name(speed: Speed) -> str:
    return f"{speed.runtime} {speed.version}"


def _decisive(verdict: Verdict) -> tuple[str, Interval | None, str]:
    """What the pictures are judged by, where it is greatest, and at which budget."""
    name = "Frechet distance"
    known = [(each.frechet, each.latents) for each in verdict.budgets if each.frechet is not None]
    if not known:
        name = "distance to the reference"
        known = [(each.loss, each.latents) for each in verdict.budgets if each.loss is not None]
    change, where = max(known, key=lambda each: each[0].value, default=(None, None))
    return name, change, "not measured" if where is None else f"at {latents(where)}"
