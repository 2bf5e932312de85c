"""Samplers of a rectified flow and guidance: x_t = (1 - t) · x0 + t · noise, v = noise - x0, integrated from 1 to 0.

Pure numpy. The state is float64 between steps; a velocity may come in any precision.
Source: arXiv 2401.08740 (SiT: the solvers), arXiv 2603.12245 (ELIT: guidance by budget).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from elit_edge.errors import PictureError, RequestError

Array = npt.NDArray[np.float64]
Solver = Literal["euler", "heun", "euler-maruyama"]
GuidanceKind = Literal["none", "cfg", "ccfg", "autoguidance"]

STOCHASTIC_END = 0.04
"""Time of the last noisy step of Euler-Maruyama; one plain step goes from there to 0."""
INTERVAL_TOLERANCE = 1e-6
"""Times that differ in the last bits still count as the end of a guidance interval."""


@dataclass(frozen=True)
class Guidance:
    """v = v_weak + scale · (v_cond - v_weak) inside low <= t <= high, else v_cond.

    The weak pass is the null class at the same budget (cfg), the null class at `weak_latents` (ccfg, cheap), or the
    same label at `weak_latents` (autoguidance).
    """

    kind: GuidanceKind
    scale: float = 1.0
    weak_latents: int = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(GuidanceKind):
            raise RequestError(f"unknown guidance {self.kind!r}; one of: {', '.join(get_args(GuidanceKind))}")
        if not np.isfinite(self.scale) or self.scale < 0:
            raise RequestError(f"guidance scale {self.scale}: must be a number of at least 0; 1 is no guidance")
        if not 0 <= self.low <= self.high <= 1:
            raise RequestError(f"guidance interval {self.low}..{self.high}: must lie in 0..1, low end first")

    def active(self, t: float) -> bool:
        """Whether a pass at time t needs a weak one beside it."""
        inside = self.low - INTERVAL_TOLERANCE <= t <= self.high + INTERVAL_TOLERANCE
        return self.kind != "none" and self.scale > 1 and inside


@dataclass(frozen=True)
class Move:
    """One step as it is asked for: where to, and at which budgets."""

    to: int
    """Index into the times: the next one, or a later one, which leaves out those between."""
    latents: int
    weak_latents: int
    """Budget of the weak pass, where guidance has one of its own."""


@dataclass(frozen=True)
class Step:
    """The state after one step."""

    move: Move
    t: float
    """Time at its end."""
    x: Array
    """[B, C, S, S]."""
    x0: Array
    """The finished sample as this step predicts it, [B, C, S, S]."""


Field = Callable[[Array, int, Move], npt.NDArray[np.floating]]
"""(x [B, C, S, S], index into the times, the step that asks) -> guided velocity [B, C, S, S]."""


def times(solver: Solver, steps: int) -> Array:
    """The steps + 1 times of a run, from 1 down to 0.

    Raises:
        RequestError: an unknown solver, or no step at all.
    """
    if solver not in get_args(Solver):
        raise RequestError(f"unknown solver {solver!r}; one of: {', '.join(get_args(Solver))}")
    if steps < 1:
        raise RequestError(f"steps = {steps}: at least one step is needed")
    if solver == "euler-maruyama":
        return np.append(np.linspace(1.0, STOCHASTIC_END, steps), 0.0)
    return 1.0 - np.arange(steps + 1) / steps


def solve(
    field: Field, x: Array, solver: Solver, grid: Array, moves: Iterable[Move], draw: Callable[[], Array] | None = None
) -> Iterator[Step]:
    """Integrate, a step at a time. A move is asked for when it is needed, so whoever gives them can watch the clock.

    Args:
        field: the guided velocity.
        x: the start, pure noise, [B, C, S, S] float64.
        solver: see `Solver`.
        grid: the times of the run, from `times`.
        moves: the steps, each to a later index of the grid than the one before. Where they end before the grid
            does, the run ends there: the last step's `x0` is the finished sample.
        draw: fresh normal noise in the shape of x, for the stochastic solver.

    Yields:
        The state after each step.

    Raises:
        PictureError: the state is no longer finite; the message names step and budget.
    """
    at, last = 0, len(grid) - 1
    for move in moves:
        if not at < move.to <= last:
            raise RequestError(f"a step to time {move.to} of {last}, from {at}; it must lead on")
        t, dt = float(grid[at]), float(grid[move.to] - grid[at])
        v = field(x, at, move).astype(np.float64)
        x0 = x - t * v
        if solver == "euler-maruyama":
            x = x + dt * _stochastic_drift(x, v, t)
            if move.to < last and draw is not None:
                x = x + np.sqrt(_diffusion(t) * abs(dt)) * draw()
        elif solver == "heun" and move.to < last:
            x = x + dt / 2 * (v + field(x + dt * v, move.to, move))
        else:
            x = x + dt * v
        if not np.isfinite(x).all():
            raise PictureError(
                f"the sample is no longer finite after step {move.to} of {last} "
                f"(t = {t:.3f}, {move.latents} latents a group); run the same seed with the reference runtime "
                "to see whether the graph or the weights are at fault"
            )
        at = move.to
        yield Step(move, float(grid[at]), x, x0)


def _diffusion(t: float) -> float:
    return 2 * t


def _stochastic_drift(x: Array, v: Array, t: float) -> Array:
    """Drift that keeps the marginals of the flow under diffusion w(t) = 2t; linear in v, so guidance may mix before."""
    score = (-(1 - t) * v - x) / t
    return v - _diffusion(t) / 2 * score
