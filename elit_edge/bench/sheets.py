"""A report as words and tables: what the terminal and the page show alike. Pure; nothing is escaped here."""

from __future__ import annotations

from collections.abc import Iterator

from elit_edge.bench.report import Candidate, Report, Sustained
from elit_edge.pages.tables import NONE, Sheet, figure
from elit_edge.profiling.choosing import PassedOver
from elit_edge.runtimes.contract import Placement, UnitShare

SHOWN_BINS = 12


def percent(share: float | None, *, signed: bool = False) -> str:
    return NONE if share is None else f"{100 * share:+.0f}%" if signed else f"{100 * share:.0f}%"


def megabytes(size: int | None) -> str:
    return NONE if size is None else f"{size / 1e6:.0f}"


def glance(report: Report) -> Sheet:
    """One line a candidate."""
    heads = ("runtime", "version", "open", "first", "full budget", "least budget", "peak MB", "mJ")
    return Sheet(
        "Cold (open, first) and warm (medians): one pass of one sample, times in ms",
        heads,
        tuple(_glance(each) for each in report.candidates),
    )


def _glance(candidate: Candidate) -> tuple[str, ...]:
    least, full = candidate.rows[0], candidate.rows[-1]
    return (
        candidate.title,
        candidate.version,
        figure(candidate.open_ms),
        figure(candidate.first_ms),
        figure(full.times.median_ms),
        figure(least.times.median_ms),
        megabytes(candidate.peak_bytes),
        figure(None if full.joules is None else full.joules * 1e3),
    )


def budgets(candidate: Candidate, report: Report) -> Sheet:
    """One line a budget."""
    heads = (
        "latents",
        "median",
        "p90",
        "p99",
        "min",
        "n",
        "predicted",
        "error",
        "GFLOP/s",
        "of product",
        "mJ",
        "picture",
        "distance",
    )
    rows = tuple(
        (
            str(row.latents),
            figure(row.times.median_ms),
            figure(row.times.p90_ms),
            figure(row.times.p99_ms),
            figure(row.times.min_ms),
            str(row.times.n),
            figure(row.predicted_ms),
            percent(row.relative_error, signed=True),
            figure(row.gflops),
            percent(row.matmul_share),
            figure(None if row.joules is None else row.joules * 1e3),
            figure(row.plan_ms),
            figure(row.distance),
        )
        for row in candidate.rows
    )
    few = "" if candidate.every_budget else "; too slow for every budget: the ladder's ends and halves"
    picture = f"picture: {report.steps} steps, guidance {report.guidance}"
    return Sheet(f"{candidate.title}: one pass of one sample, times in ms ({picture}){few}", heads, rows)


def front(candidate: Candidate) -> Sheet:
    """The best plans of a candidate."""
    rows = tuple(
        (
            figure(point.expected_ms),
            figure(point.distance),
            str(point.steps),
            str(point.most_latents)
            if point.least_latents == point.most_latents
            else f"{point.least_latents} to {point.most_latents}",
            point.guidance,
        )
        for point in candidate.front or ()
    )
    return Sheet(
        f"{candidate.title}: best plans for one picture", ("ms", "distance", "steps", "latents", "guidance"), rows
    )


def placement(candidate: Candidate) -> Sheet:
    """Operators, and share of the cost that the library expects, by unit; one line a part."""
    parts = candidate.placement or ()
    units = list(dict.fromkeys(share.unit for part in parts for share in part.units))
    rows = []
    for part in parts:
        shares = {share.unit: share for share in part.units}
        cells = [_share(shares[unit]) if unit in shares else "0" for unit in units]
        rows.append((_part(part), *cells, str(part.undecided)))
    return Sheet(
        f"{candidate.title}: operators by the unit that its library prefers, and share of the cost it expects",
        ("part", *units, "no unit named"),
        tuple(rows),
    )


def _part(part: Placement) -> str:
    latents = "" if part.latents is None else f", latents {part.latents}"
    return f"{part.role}{latents}{'' if part.batch is None else f', batch {part.batch}'}"


def _share(share: UnitShare) -> str:
    return str(share.operators) if share.cost is None else f"{share.operators} ({percent(share.cost)})"


def bins(run: Sustained) -> Sheet:
    """At most a dozen bins, evenly chosen."""
    every = -(-len(run.bins) // SHOWN_BINS)
    rows = tuple(
        (
            f"{each.start_s:.1f}",
            figure(each.median_ms),
            figure(each.p90_ms),
            str(each.n),
            figure(each.hottest_c),
            figure(each.mean_mhz, 4),
            each.pressure,
        )
        for each in run.bins[::every]
    )
    which = "every bin" if every == 1 else f"one bin of {every}"
    return Sheet(
        f"{which}, {len(run.bins)} in all; times in ms",
        ("from, s", "median", "p90", "n", "°C", "MHz", "pressure"),
        rows,
    )


def lost(missed: tuple[PassedOver, ...]) -> Sheet:
    rows = tuple((f"{each.runtime} {each.precision or ''}".strip(), each.reason) for each in missed)
    return Sheet("Runtimes without figures", ("runtime", "why, and what to do"), rows, numbers=False)


def headline(report: Report) -> str:
    """Where and when."""
    device = report.context.device
    return f"{device.name or 'unknown device'}, {device.os or 'unknown system'}; measured {report.made_at}"


def warnings(report: Report) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if report.cut_short:
        found.append("Cut short: the run was interrupted, and this is what was measured until then.")
    if report.context.busy:
        found.append(
            f"Measured on a busy machine (load {report.context.load_start:g} before the start): times are too long."
        )
    if report.sustained is not None and report.sustained.throttled:
        found.append(f"Throttled, or slowed by other programs: {verdict(report.sustained)}.")
    return [*found, *report.notes]


def verdict(run: Sustained) -> str:
    """Of a sustained run."""
    if run.first_quarter_ms is None or run.last_quarter_ms is None:
        return "too short to tell"
    change = run.last_quarter_ms / run.first_quarter_ms - 1
    quarters = f"{figure(run.first_quarter_ms)} ms in the first quarter, {figure(run.last_quarter_ms)} ms in the last"
    return f"{quarters} ({percent(change, signed=True)})"


def sustained_facts(run: Sustained) -> Iterator[tuple[str, str]]:
    yield "what", f"{run.runtime} {run.precision} at {run.latents} latents"
    yield "time", f"{run.bins[-1].end_s:.0f} of {run.wanted_s:.0f} s"
    yield "passes", str(sum(each.n for each in run.bins))
    yield "quarters", verdict(run)
    words = {True: "yes", False: "no", None: "too short to tell"}
    yield "throttled", words[run.throttled]
    known = [each for each in run.bins if each.joules is not None]
    joules = sum(each.n * (each.joules or 0) for each in known) / sum(each.n for each in known) if known else None
    yield "energy of a pass", "no sensor" if joules is None else f"{figure(joules * 1e3)} mJ"


def context(report: Report) -> Iterator[tuple[str, str]]:
    """Under what conditions."""
    found, device = report.context, report.context.device
    cpus = "unknown" if device.cpu.usable_cpus is None else f"{device.cpu.usable_cpus:g}"
    yield "bundle", f"{report.bundle} ({found.identity.get('bundle', 'unknown')[:16]})"
    yield "processor", f"{device.cpu.model or 'unknown'}, {cpus} CPUs usable"
    yield "GPUs", ", ".join(gpu.name for gpu in device.gpus) or "none found"
    yield "kernel", f"{device.kernel or 'unknown'} {device.machine or ''}".strip()
    mode = (device.jetson and device.jetson.power_mode) or device.power.profile
    yield "power", f"{device.power.source or 'source unknown'}, mode {mode or 'unknown'}"
    clocks = [
        f"{clock.current_mhz:.0f}" + ("" if clock.max_mhz is None else f" of {clock.max_mhz:.0f}")
        for clock in found.end_frequencies
        if clock.current_mhz is not None
    ]
    yield "clocks at the end", f"{', '.join(dict.fromkeys(clocks))} MHz" if clocks else "not to be read"
    heat = [f"{zone.name} {zone.temperature_c:.0f} °C" for zone in found.end_thermal if zone.temperature_c is not None]
    yield "heat at the end", ", ".join(heat) or "not to be read"
    loads = [NONE if load is None else f"{load:g}" for load in (found.load_start, found.load_end)]
    yield "load average", f"{loads[0]} before, {loads[1]} at the end (this bench included)"
    for rate in device.speed.matmul if device.speed else ():
        yield (
            f"product {rate.precision}",
            f"not measured: {rate.reason}" if rate.gops is None else f"{figure(rate.gops, 4)} Gop/s",
        )
    yield "threads", found.identity.get("threads", "unknown")
    versions = [
        f"{part} {value}" for part, value in found.identity.items() if part not in ("device", "bundle", "threads")
    ]
    yield "versions", ", ".join(versions)
    yield "window", f"{report.window_s:g} s a budget"
    yield "context", report.context_sha256
