"""The shapes that an engine is compiled for."""

from __future__ import annotations

from typing import Literal

from elit_edge.ladder import static_budgets
from elit_edge.manifest import EngineProfile, Graph, Manifest, Range

Form = Literal["range", "per-budget"]
VELOCITY_BATCH = Range(least=1, typical=1, most=8)
"""Larger batches are computed in parts."""
CONDITION_BATCH = Range(least=1, typical=64, most=64)
"""Rows of (t, y): those of a whole run, in parts."""


def engine_profiles(manifest: Manifest, graph: Graph, form: Form) -> tuple[EngineProfile, ...]:
    """The profiles of a graph's engine.

    Args:
        manifest: of the bundle; its ladder says which budgets there are.
        graph: `condition` or `velocity`, of any batch and budget.
        form: "range": one profile holds all budgets, tuned for the full one. "per-budget": a profile tuned for each,
            some megabytes more for each (docs/tensorrt.md); of more than 16 budgets for each power of two.
    """
    if not any(spec.name == "latents" for spec in graph.inputs):
        return (EngineProfile(batch=CONDITION_BATCH if graph.role == "condition" else VELOCITY_BATCH, latents=None),)
    if form == "range":
        least, most = min(manifest.budgets), max(manifest.budgets)
        return (EngineProfile(batch=VELOCITY_BATCH, latents=Range(least=least, typical=most, most=most)),)
    return tuple(
        EngineProfile(batch=VELOCITY_BATCH, latents=Range(least=latents, typical=latents, most=latents))
        for latents in static_budgets(manifest.budgets)
    )


def shapes(graph: Graph, profile: EngineProfile) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Least, typical and greatest shape of each input, as the builder takes them."""
    free = {"batch": profile.batch, "latents": profile.latents}
    found = {}
    for spec in graph.inputs:
        ranges = [
            free[size] if isinstance(size, str) else Range(least=size, typical=size, most=size) for size in spec.shape
        ]
        kept = [each for each in ranges if each is not None]
        found[spec.name] = tuple(tuple(getattr(each, bound) for each in kept) for bound in ("least", "typical", "most"))
    return found
