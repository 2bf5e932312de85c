"""Golden vectors of planner and governor for clients/swift: what the Python package decides, for Swift to repeat.

Machines are synthetic. A run records how long each of its steps took, so that it can be replayed without the machine.

Usage: python tools/golden_planning.py clients/swift/Tests/ElitEdgeTests/Golden
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from elit_edge.costs import Conditions, Costs, Memory, Point, Profile
from elit_edge.errors import DeadlineError, PlanError
from elit_edge.governor import Governor
from elit_edge.planning import Plan, Planner, Wish
from elit_edge.quality import Band, Cell, Loss, QualityTable, published_table
from elit_edge.sampling import GuidanceKind, Move, Solver, times

NOTE = "Written by tools/golden_planning.py with the Python package. Profiles are synthetic: no device was measured."
FULL = 16
LADDERS = {"every": range(1, FULL + 1), "powers": (1, 2, 4, 8, 16)}
MEASURED = (1, 4, 16)
DEADLINES_MS = (2.0, 5.0, 9.0, 14.0, 21.0, 33.0, 52.0, 80.0, 130.0, 210.0, 340.0, 800.0, 2500.0, 60000.0)

Json = dict[str, Any]


def ladder(name: str) -> dict[int, int]:
    """FLOPs by budget: a part that does not shrink, and one that does."""
    return {latents: 100_000 * (4 * latents + 15) + 700 * latents * latents for latents in LADDERS[name]}


def synthetic_table(solver: Solver) -> QualityTable:
    """Four guidances, holes between its cells, and bands that say that the early steps need their latents."""
    variants: tuple[tuple[GuidanceKind, int, float], ...] = (
        ("none", 1, 1.0),
        ("cfg", 1, 0.55),
        ("ccfg", 1, 0.62),
        ("ccfg", 4, 0.58),
        ("autoguidance", 2, 0.75),
    )

    def cell(steps: int, latents: int, guidance: GuidanceKind, weak: int, distance: float) -> Cell:
        return Cell(
            steps=steps,
            latents=latents,
            guidance=guidance,
            weak_latents=weak,
            distance=distance,
            low=0.95 * distance,
            high=1.05 * distance,
            frechet=None,
        )

    cells = tuple(
        cell(steps, latents, guidance, weak, scale * (0.9 / steps + 0.21 / latents**0.7 + 0.013 * (latents % 3)))
        for guidance, weak, scale in variants
        for steps in (1, 3, 8, 20)
        for latents in (1, 2, 6, 16)
        if latents >= weak and (steps, latents) not in ((3, 6), (20, 2))
    )
    bands = tuple(
        Band(steps=8, latents=1, start=1 - i / 3 if i else 1.0, end=(2 - i) / 3, distance=distance)
        for i, distance in enumerate((0.36, 0.24, 0.19))
    )
    reference = cell(50, 16, "none", 1, 0.0)
    return QualityTable(
        reference=reference,
        solver=solver,
        scale=2.0,
        pictures=8,
        seed=0,
        features_sha256=None,
        cells=cells,
        bands=bands,
    )


def tables() -> dict[str, QualityTable]:
    """The sample's own, the published one, and synthetic ones of each solver."""
    own = Path(__file__).parent.parent / "elit_edge" / "data" / "sample-quality.json"
    sample = msgspec.convert(json.loads(own.read_bytes())["table"], QualityTable)
    return {
        "sample": sample,
        "published": published_table(FULL, "ccfg", 1, 2.5),
        "synthetic": synthetic_table("euler"),
        "heun": synthetic_table("heun"),
        "stochastic": synthetic_table("euler-maruyama"),
    }


def profile(
    name: str,
    base_ms: float,
    latent_ms: float,
    *,
    precision: str = "fp16",
    batches: tuple[int, ...] = (1,),
    memory_bytes: int | None = None,
    watts: float | None = None,
    drift: float = 0.02,
) -> Profile:
    """A machine whose passes take `base_ms` and `latent_ms` a latent; larger batches take less than in proportion."""
    points = tuple(
        Point(latents=latents, batch=batch, first_ms=3 * ms, median_ms=ms, p90_ms=1.1 * ms, n=7)
        for batch in batches
        for latents in (MEASURED if batch < 4 else MEASURED[1:])
        for ms in [round((base_ms + latent_ms * latents) * batch**0.9, 3)]
    )
    memory = () if memory_bytes is None else ((1, memory_bytes), (max(batches), memory_bytes + 9_000_000))
    return Profile(
        runtime=name,
        precision=precision,
        version="0",
        threads=None,
        open_ms=0.0,
        points=points,
        conditions=(Conditions(rows=2, median_ms=0.3), Conditions(rows=64, median_ms=1.7)),
        solver_ms=0.04,
        waking_ms=0.6,
        drift=drift,
        memory=tuple(Memory(batch=batch, peak_bytes=size) for batch, size in memory),
        watts=watts,
    )


def profiles() -> dict[str, Profile]:
    """Synthetic, all of them."""
    return {
        "phone": profile("phone", 2.5, 0.45, batches=(1, 2)),
        "quantized": profile("phone", 1.6, 0.3, precision="int8", batches=(1, 2)),
        "shaky": profile("shaky", 2.2, 0.5, drift=0.2),
        "board": profile("board", 5.1, 1.3, batches=(1, 2, 4), memory_bytes=310_000_000, watts=6.5),
        "small": profile("small", 7.7, 1.9, batches=(1, 4), memory_bytes=120_000_000),
        "slow": profile("slow", 31.0, 7.0),
    }


@dataclass(frozen=True)
class Setup:
    """A planner, by the names of its parts."""

    table: str
    profiles: tuple[str, ...]
    ladder: str = "every"
    slowdown: float = 1.0
    departures: dict[str, float] = field(default_factory=dict)

    def planner(self) -> Planner:
        flops = ladder(self.ladder)
        return Planner(
            [Costs(profiles()[name], flops) for name in self.profiles],
            Loss(tables()[self.table]),
            flops,
            slowdown=self.slowdown,
            departures=self.departures,
        )


def wishes(*, every_kind: bool) -> Iterator[Wish]:
    """From what nothing can keep to what everything can."""
    yield from (Wish(1, 2, deadline_ms=deadline) for deadline in DEADLINES_MS)
    yield from (Wish(1, 2, deadline_ms=deadline, cap=cap) for deadline in (60.0, 700.0) for cap in (0.7, 0.4, 0.05))
    kinds: tuple[GuidanceKind, ...] = ("none", "cfg", "ccfg", "autoguidance")
    yield from (Wish(1, 2, deadline_ms=deadline, guidance=kind) for deadline in (25.0, 250.0) for kind in kinds)
    if every_kind:
        yield from (Wish(batch, 3, deadline_ms=500.0) for batch in (2, 5))
        memory = (50_000_000, 120_000_000, 200_000_000, 310_000_000, 999_000_000)
        yield from (Wish(batch, 2, memory_bytes=size) for size in memory for batch in (1, 2))
        yield from (Wish(1, 2, joules=joules) for joules in (0.01, 0.2, 1.0, 30.0))
        yield Wish(1, 2, joules=1.0, deadline_ms=90.0)
        yield Wish(1, 2, joules=1.0, memory_bytes=200_000_000)
        yield Wish(1, 2, deadline_ms=90.0, memory_bytes=200_000_000)


PHONE = Setup("sample", ("phone",))
SETUPS = (
    PHONE,
    Setup("sample", ("board", "small"), "powers", slowdown=1.3),
    Setup("published", ("phone", "shaky")),
    Setup("synthetic", ("phone", "quantized"), departures={"int8": 0.05}),
    Setup("synthetic", ("board", "small", "shaky")),
    Setup("heun", ("phone",), "powers"),
    Setup("stochastic", ("shaky",)),
)


def outcome(planner: Planner, wish: Wish) -> Json:
    """The plan, or the kind of refusal and the plan that comes closest."""
    try:
        return {"plan": asdict(planner.plan(wish))}
    except PlanError as error:
        kind = "deadline" if isinstance(error, DeadlineError) else "plan"
        nearest = asdict(error.nearest) if isinstance(error.nearest, Plan) else None
        return {"refused": kind, "nearest": nearest}


def of_plan(plan: Plan) -> str:
    """What a row of a planner's table is of."""
    return f"{plan.runtime} {plan.precision}, {plan.steps} steps, {plan.guidance} {plan.weak_latents}"


def plans() -> Json:
    """What planners of several machines and tables choose for many wishes."""
    groups = []
    for setup in SETUPS:
        planner = setup.planner()
        cases = [
            {"wish": asdict(wish), **outcome(planner, wish)}
            for wish in wishes(every_kind="board" in setup.profiles or setup == PHONE)
        ]
        wish = Wish(1, 2, deadline_ms=90.0)
        rows = [f"{of_plan(row.plan)}: {row.verdict}" for row in planner.table(wish)]
        groups.append({"setup": asdict(setup), "cases": cases, "table_deadline_ms": wish.deadline_ms, "rows": rows})
    return {"note": NOTE, "groups": groups}


def parts() -> Json:
    """What setups name."""
    return {
        "note": NOTE,
        "tables": {name: msgspec.to_builtins(table) for name, table in tables().items()},
        "profiles": {name: msgspec.to_builtins(one) for name, one in profiles().items()},
        "ladders": {name: {str(latents): work for latents, work in ladder(name).items()} for name in LADDERS},
    }


@dataclass(frozen=True)
class Script:
    """A run on a machine that is slower from some steps on (first step, factor), and stalls in some (step, ms)."""

    name: str
    setup: Setup
    deadline_ms: float
    slowness: tuple[tuple[int, float], ...] = ()
    stalls: tuple[tuple[int, float], ...] = ()
    pressure: tuple[tuple[float, float, str], ...] = ()
    """From so many seconds on: the share that the device should carry, and why."""
    labels: tuple[int, ...] = (3,)
    guidance: GuidanceKind | None = None

    def pressed(self, now: float) -> tuple[float, str]:
        found = (1.0, "")
        for start, share, why in self.pressure:
            if start <= now:
                found = (share, why)
        return found

    def elapsed_ms(self, step: int, calm_ms: float) -> float:
        factor = 1.0
        for first, value in self.slowness:
            if first <= step:
                factor = value
        return round(calm_ms * factor * (1 + 0.02 * math.sin(7 * step)) + dict(self.stalls).get(step, 0.0), 4)


GUIDED = Setup("synthetic", ("phone",))
SLOW = Setup("published", ("slow",))
SCRIPTS = (
    Script("steady", PHONE, 200.0),
    Script("all the time there is", PHONE, 5000.0),
    Script("slower than measured", PHONE, 200.0, slowness=((0, 1.4),)),
    Script("much slower in the middle", PHONE, 260.0, slowness=((6, 3.0),)),
    Script("slow, then recovered", PHONE, 300.0, slowness=((0, 3.0), (7, 1.0))),
    Script("faster than measured", PHONE, 160.0, slowness=((0, 0.5),)),
    Script("a stall", PHONE, 260.0, stalls=((5, 70.0),)),
    Script("a stall near the end", PHONE, 260.0, stalls=((13, 60.0),)),
    Script("stopped dead", PHONE, 260.0, slowness=((4, 60.0),)),
    Script("an hour ahead", PHONE, 260.0, stalls=((3, 3.6e6),)),
    Script("an hour back", PHONE, 260.0, stalls=((3, -3.6e6),)),
    Script("one step", PHONE, 15.0, guidance="ccfg"),
    Script("three steps", PHONE, 36.0, slowness=((1, 1.3),)),
    Script("doubled batches", GUIDED, 260.0, slowness=((2, 1.3),)),
    Script("weak pass of four", GUIDED, 270.0, guidance="ccfg"),
    Script("weak pass, slower", GUIDED, 270.0, slowness=((1, 1.7),), guidance="ccfg"),
    Script("weak pass, slow for a while", GUIDED, 300.0, slowness=((1, 2.5), (7, 1.0)), guidance="ccfg"),
    Script("weak pass, stopped dead", GUIDED, 300.0, slowness=((9, 40.0),), guidance="ccfg"),
    Script("two evaluations a step", Setup("heun", ("phone",)), 300.0, slowness=((2, 1.8),)),
    Script("two evaluations, faster", Setup("heun", ("phone",), "powers"), 240.0, slowness=((1, 0.6),)),
    Script("stochastic", Setup("stochastic", ("phone",)), 200.0, slowness=((4, 2.0),)),
    Script("published figures", Setup("published", ("phone",)), 400.0, slowness=((8, 1.5), (20, 0.9))),
    Script("a ladder of five", Setup("published", ("phone",), "powers"), 300.0, slowness=((5, 1.6),)),
    Script("learned to be slow", Setup("sample", ("phone",), slowdown=1.5), 300.0, slowness=((0, 1.5),)),
    Script("three pictures", PHONE, 500.0, slowness=((3, 1.5),), labels=(1, 5, 1)),
    Script("hot for a while", SLOW, 7600.0, pressure=((1.2, 0.4, "hot"), (2.3, 1.0, ""))),
    Script("warm from the start", SLOW, 6000.0, pressure=((0.0, 0.7, "warm"),)),
    Script(
        "warm, then hot and slow",
        SLOW,
        6000.0,
        slowness=((8, 1.3),),
        pressure=((0.0, 0.7, "warm"), (3.1, 0.4, "hot")),
    ),
    Script("departs", Setup("synthetic", ("quantized",), departures={"int8": 0.05}), 150.0, slowness=((2, 1.4),)),
)


def drive(script: Script) -> Json:
    """One run: what it was given, how long its steps took, what it decided and what the planner learned."""
    planner = script.setup.planner()
    now = [0.0]
    cap, _ = script.pressed(0.0)
    batch = len(script.labels)
    begun_ms = 2.5
    now[0] += begun_ms / 1e3
    left_ms = (script.deadline_ms / 1e3 - now[0]) * 1e3
    plan = planner.plan(
        Wish(batch, len(set(script.labels)) + 1, deadline_ms=left_ms, guidance=script.guidance, cap=cap)
    )
    grid = times(plan.solver, plan.steps)
    costs = next(each for each in planner.candidates if each.profile.runtime == plan.runtime)
    governor = Governor(
        planner,
        plan,
        grid,
        batch,
        (script.deadline_ms - planner.finish_ms(plan, batch)) / 1e3,
        pressure=(lambda: script.pressed(now[0])) if script.pressure else None,
        cap=cap,
        clock=lambda: now[0],
    )
    taken: list[Move] = []
    elapsed_ms: list[float] = []
    for move in governor.moves():
        evaluations = 2 if plan.solver == "heun" and move.to < plan.steps else 1
        calm_ms = evaluations * costs.step_ms(move.latents, batch, plan.guidance, move.weak_latents)
        elapsed_ms.append(script.elapsed_ms(len(taken), calm_ms))
        taken.append(move)
        now[0] += elapsed_ms[-1] / 1e3
    planner.learn(governor.ratio, governor.deviation, len(taken))
    visited = [0, *(move.to for move in taken)]
    visited[-1] = plan.steps
    steps = [((plan.guidance, move.weak_latents), move.latents) for move in taken]
    departure = planner.departures.get(plan.precision, 0.0)
    return {
        "name": script.name,
        "setup": asdict(script.setup),
        "labels": script.labels,
        "deadline_ms": script.deadline_ms,
        "guidance": script.guidance,
        "begun_ms": begun_ms,
        "pressure": [{"from_s": start, "share": share, "why": why} for start, share, why in script.pressure],
        "elapsed_ms": elapsed_ms,
        "plan": asdict(plan),
        "moves": [[move.to, move.latents, move.weak_latents] for move in taken],
        "changes": [asdict(change) for change in governor.changes],
        "landed": governor.landed,
        "slowdown": planner.slowdown,
        "planner_deviation": planner.deviation,
        "distance": math.hypot(planner.loss.of_steps(grid[visited], steps), departure),
    }


def runs() -> Json:
    """What governors do on machines that change."""
    return {"note": NOTE, "runs": [drive(script) for script in SCRIPTS]}


def files() -> dict[str, Json]:
    """The content of each file."""
    return {"planning-parts.json": parts(), "planning-plans.json": plans(), "planning-runs.json": runs()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    for name, content in files().items():
        (folder / name).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
