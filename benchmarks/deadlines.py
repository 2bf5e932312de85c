"""Deadlines on this machine: kept or not, quality against hindsight, predictions, and what watching costs.

    python benchmarks/deadlines.py [--generations 300]

A second process takes and releases a core at random for the part under load.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from machine import describe, interleaved, load_average

from elit_edge.bundle import Bundle
from elit_edge.costs import Costs
from elit_edge.errors import DeadlineError
from elit_edge.evaluation.attachment import attach, shipped_table
from elit_edge.export.exporter import export
from elit_edge.generation import Generation, generate
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.planning import Planner, Wish
from elit_edge.profiling.choosing import profiles_of
from elit_edge.profiling.measuring import spot_check
from elit_edge.runtimes.contract import Session
from elit_edge.runtimes.registry import choose

LOAD = """
import random, time
generator = random.Random(1)
while True:
    ends = time.perf_counter() + generator.uniform(0.05, 1.0)
    while time.perf_counter() < ends:
        pass
    time.sleep(generator.uniform(0.05, 1.0))
"""
"""The competing process: a whole core for 50 ms to 1 s, then none for as long."""


@dataclass
class Runs:
    """What came of many generations with deadlines."""

    kept: list[bool]
    late_steps: list[float]
    """Lateness in units of the run's own longest step, of the late ones."""
    quality: list[float]
    """Distance that hindsight would have reached over the distance reached: at most 1 but for noise."""
    governor_share: list[float]
    landed: int = 0
    refused: int = 0


@contextmanager
def competing_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", LOAD])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def hindsight(planner: Planner, made: Generation, deadline_ms: float) -> float:
    """The least distance that the speed which this run really had would have allowed, without any margin."""
    assert made.deadline is not None
    costs = planner.candidates[0]
    plan = made.deadline.plan
    predicted = sum(costs.step_ms(latents, 1, plan.guidance, plan.weak_latents) for latents in made.latents)
    ratio = sum(made.step_ms) / predicted
    outside = made.deadline.elapsed_ms - sum(made.step_ms)
    overhead = planner.overhead_ms(costs, plan.steps, 1, 2)
    best = Planner(planner.candidates, planner.loss, planner.flops, confidence=0.5)
    found = best.plan(Wish(1, 2, deadline_ms=max((deadline_ms - outside) / ratio, 1.0) + overhead))
    return found.distance


def generations(session: Session, planner: Planner, count: int, seed: int) -> Runs:
    """Deadlines spread evenly in their logarithm, from the tightest that plans to more than the best plan needs."""
    costs = planner.candidates[0]
    tight = 1.5 * (costs.step_ms(1, 1, "ccfg", 1) + planner.overhead_ms(costs, 1, 1, 2))
    loose = 1.3 * planner.loss.step_counts[1] * costs.step_ms(session.manifest.latents_per_group, 1, "ccfg", 1)
    generator = random.Random(seed)
    runs = Runs([], [], [], [])
    for i in range(count):
        deadline_ms = float(np.exp(generator.uniform(np.log(tight), np.log(loose))))
        begun = time.perf_counter()
        try:
            made = generate(session, [i % session.manifest.model.num_classes], deadline=deadline_ms / 1e3, seed=i)
        except DeadlineError:
            runs.refused += 1
            continue
        took = (time.perf_counter() - begun) * 1e3
        assert made.deadline is not None
        runs.kept.append(took <= deadline_ms)
        if took > deadline_ms:
            runs.late_steps.append((took - deadline_ms) / max(made.step_ms))
        runs.landed += made.deadline.landed
        runs.governor_share.append(made.deadline.governor_ms / sum(made.step_ms))
        try:
            runs.quality.append(min(1.0, hindsight(planner, made, deadline_ms) / made.deadline.distance))
        except DeadlineError:
            runs.quality.append(1.0)
    return runs


def say_runs(title: str, runs: Runs) -> None:
    late = f"latest by {max(runs.late_steps):.2f} of a step" if runs.late_steps else "none late"
    print(
        f"| {title} | {statistics.mean(runs.kept):.1%} of {len(runs.kept)}, {late} | "
        f"{statistics.mean(runs.quality):.1%} (median {statistics.median(runs.quality):.1%}) | "
        f"{statistics.mean(runs.governor_share):.2%} | {runs.landed} | {runs.refused} |"
    )


def predictions(session: Session, costs: Costs) -> None:
    """A pass at every budget, alone and for three at once (a batch that no profile measures)."""
    model = session.manifest.model
    x = np.random.default_rng(0).standard_normal((3, model.in_channels, model.image_size, model.image_size))
    x = x.astype(np.float32)
    modulations = session.condition(np.full(3, 0.5, np.float32), np.zeros(3, np.int64))
    slowdown = spot_check(session, costs, np.inf) or 1.0
    ratios = []
    rounds: dict[tuple[int, int], list[float]] = {}
    for _ in range(15):
        for latents in session.manifest.budgets:
            for batch in (1, 3):
                begun = time.perf_counter()
                session.velocity_from(x[:batch], modulations[:batch], latents)
                rounds.setdefault((latents, batch), []).append((time.perf_counter() - begun) * 1e3)
    print(
        "\n| latents | measured ms, batch 1 | predicted | measured ms, batch 3 | predicted |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for latents in session.manifest.budgets:
        cells = []
        for batch in (1, 3):
            measured, predicted = statistics.median(rounds[latents, batch]), slowdown * costs.pass_ms(latents, batch)
            ratios.append(predicted / measured)
            cells.append(f"{measured:.2f} | {predicted:.2f}")
        print(f"| {latents} | {' | '.join(cells)} |")
    print(f"\nspot check: {slowdown:.2f} times as long as profiled, which the predictions take into account")
    errors = [abs(ratio - 1) for ratio in ratios]
    print(f"error of prediction: median {statistics.median(errors):.1%}, worst {max(errors):.1%}")
    shape = [abs(ratio / statistics.median(ratios) - 1) for ratio in ratios]
    print(f"of its shape, whatever the speed: median {statistics.median(shape):.1%}, worst {max(shape):.1%}")


def auto_against_the_best(bundle: Bundle, chosen: Session) -> None:
    """The ladder on every ready runtime, interleaved."""
    profiles = profiles_of(bundle.files, measure_missing=False).found
    sessions = {
        f"{p.runtime} {p.precision}": choose(p.runtime).prepare(bundle.files, p.precision, None) for p in profiles
    }
    model = bundle.manifest.model
    x = np.zeros((1, model.in_channels, model.image_size, model.image_size), np.float32)
    modulations = chosen.condition(np.array([0.5], np.float32), np.array([0]))

    def ladder(session: Session) -> None:
        for latents in bundle.manifest.budgets:
            session.velocity_from(x, modulations, latents)

    found = interleaved({name: lambda s=session: ladder(s) for name, session in sessions.items()}, repeats=15)  # type: ignore[misc]
    medians = {name: float(np.median(values)) for name, values in found.items()}
    best = min(medians.values())
    mine = medians[f"{chosen.runtime} {chosen.precision}"]
    print("\nall budgets once, ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in medians.items()))
    print(f"auto took {chosen.runtime} {chosen.precision}: {mine / best:.3f} times the best")
    print("passed over: " + "; ".join(chosen.passed_over))


def probe_seconds() -> float:
    begun = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("elit-edge"), "probe", "--json"], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=300)
    count = parser.parse_args().generations
    print(f"{describe()}; load {load_average():.2f}\n")
    print(f"probe, whole command: {probe_seconds():.1f} s")
    with tempfile.TemporaryDirectory() as folder, resources.as_file(resources.files("elit_edge.data")) as data:
        target = Path(folder, "sample.elit")
        export(read_checkpoint(data / "sample.safetensors"), target, check=False)
        bundle = Bundle.open(target)
        table = shipped_table(bundle.manifest.provenance.source_sha256)
        assert table is not None
        attach(bundle, table)
        bundle = Bundle.open(target)
        with bundle.prepare(report=print) as session:
            assert session.profile is not None
            planner = Planner.of(bundle.manifest, [session.profile])
            auto_against_the_best(bundle, session)
            predictions(session, planner.candidates[0])
            print("\n| machine | kept | quality against hindsight | governor's cost | landed early | refused |")
            print("| --- | --- | --- | --- | --- | --- |")
            say_runs("quiet", generations(session, planner, count, 1))
            with competing_process():
                say_runs("a competing process", generations(session, planner, count, 2))


if __name__ == "__main__":
    main()
