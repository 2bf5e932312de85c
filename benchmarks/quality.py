"""At equal work, is it better to take fewer latents or fewer steps? Read from a bundle's quality table.

The paper's finding is that latents should go before steps. For each level of work this compares plans of the bundle's
own guidance: the full budget with as many steps as the work pays for (fewer steps), and each smaller budget with as
many as that pays for (fewer latents). Between measured step counts the table is read by a power law, as the planner
reads it; no plan beyond the most measured steps is taken.

Usage: python benchmarks/quality.py BUNDLE
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from elit_edge.bundle import Bundle
from elit_edge.evaluation.plans import Plan
from elit_edge.manifest import Manifest
from elit_edge.quality import Cell, QualityTable

LEVELS = (2, 3, 4, 6, 8, 12, 16, 24)
"""Work, in guided steps at the full budget."""
METRICS: dict[str, Callable[[Cell], float | None]] = {
    "distance": lambda cell: cell.distance,
    "Frechet distance": lambda cell: cell.frechet,
}


def own_cells(table: QualityTable) -> list[Cell]:
    best = table.reference
    return [c for c in table.cells if (c.guidance, c.weak_latents) == (best.guidance, best.weak_latents)]


def step_work(manifest: Manifest, cell: Cell) -> float:
    """FLOPs of one guided step of a plan."""
    plan = Plan(steps=1, latents=cell.latents, guidance=cell.guidance, weak_latents=cell.weak_latents)
    return float(plan.work(manifest))


def compare(manifest: Manifest, metric: Callable[[Cell], float | None]) -> list[tuple[bool, str]]:
    """A row a level of work, and whether fewer latents win: the loss at the full budget, and at the best smaller."""
    table = manifest.quality
    assert table is not None
    full = manifest.latents_per_group
    curves: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}
    for latents in sorted({cell.latents for cell in own_cells(table)}):
        cells = sorted((c for c in own_cells(table) if c.latents == latents), key=lambda cell: cell.steps)
        losses = np.array([metric(cell) for cell in cells], np.float64)
        curves[latents] = (np.array([c.steps for c in cells], np.float64), losses, step_work(manifest, cells[0]))
    rows = []
    for level in LEVELS:
        work = level * curves[full][2]
        found = {}
        for latents, (steps, losses, per_step) in curves.items():
            count = int(work / per_step + 1e-9)
            if steps[0] <= count <= steps[-1]:
                found[latents] = (count, float(np.exp(np.interp(np.log(count), np.log(steps), np.log(losses)))))
        small = {latents: pair for latents, pair in found.items() if latents != full}
        if full not in found or not small:
            continue
        least = min(small, key=lambda latents: small[latents][1])
        count, loss = small[least]
        base = found[full][1]
        words = (
            f"| {level} | {work / 1e9:.1f} | {base:.4f} | {count} x {least} | {loss:.4f} | {loss / base - 1:+.1%} | "
            + ", ".join(f"{n} x {j}: {value:.4f}" for j, (n, value) in small.items())
            + " |"
        )
        rows.append((loss < base, words))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    manifest = Bundle.open(parser.parse_args().bundle).manifest
    if manifest.quality is None:
        parser.exit(1, "the bundle has no table: elit-edge evaluate BUNDLE\n")
    for name, metric in METRICS.items():
        if any(metric(cell) is None for cell in own_cells(manifest.quality)):
            continue
        rows = compare(manifest, metric)
        better = sum(wins for wins, _ in rows)
        print(f"\n### {name}: fewer latents win at {better} of {len(rows)} levels of work\n")
        print("| full-budget steps | GFLOPs | fewer steps | best with fewer latents | its loss | against | all |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        print("\n".join(words for _, words in rows))


if __name__ == "__main__":
    main()
