"""From labels to pictures: conditions ahead of the loop, guided steps, progress, preview and cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from elit_edge.deadline import DeadlineReport, TimedRun
from elit_edge.decoding import FLAT_DEVIATION, LatentDecoder
from elit_edge.errors import Cancelled, PictureError, RequestError
from elit_edge.governor import SustainableShare
from elit_edge.manifest import Manifest
from elit_edge.noise import NoiseStream
from elit_edge.planning import Plan
from elit_edge.runtimes.contract import FloatArray, Session
from elit_edge.sampling import Array, Guidance, GuidanceKind, Move, Solver, Step, solve, times

Images = npt.NDArray[np.uint8]

CONDITION_BYTES = 64 << 20
"""Modulations of so many bytes are computed ahead at a time: all steps of a small model, some of a large one."""


@dataclass(frozen=True)
class Progress:
    """What a watcher of a run is told after each step."""

    step: int
    """Steps done, 1 .. steps."""
    steps: int
    """In all, as planned now; a deadline may change it."""
    latents: int
    elapsed_ms: float
    """Since the call of `generate`."""
    preview: Images | None
    """The finished pictures as this step predicts them, at the chosen interval; None between, or without pixels."""


@dataclass(frozen=True)
class Generation:
    """What a run made, and how."""

    samples: Array
    """[B, C, S, S] float64."""
    images: Images | None
    """[B, S, S, 3] of a model of pixels, [B, f·S, f·S, 3] from a decoder; None for latents without one."""
    labels: tuple[int, ...]
    latents: tuple[int, ...]
    """The budget of each step that was taken."""
    solver: Solver
    guidance: Guidance
    seed: int | None
    """None where nothing was drawn from it: the noise was given, and the solver draws none."""
    step_ms: tuple[float, ...]
    """Wall time of each step, without conditions."""
    condition_ms: float
    """Wall time of the conditions of all steps."""
    decode_ms: float | None = None
    """Wall time of decoding all pictures; None where no decoder was given, as the next two."""
    decoder: str | None = None
    """"full" or "fast"."""
    tiles: bool | None = None
    """Whether it decoded in tiles."""
    deadline: DeadlineReport | None = None
    """None where no deadline was given."""


def generate(
    session: Session,
    labels: Sequence[int | str],
    *,
    steps: int | None = None,
    latents: int | Sequence[int] | None = None,
    solver: Solver | None = None,
    guidance: GuidanceKind | None = None,
    scale: float | None = None,
    weak_latents: int | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    noise: npt.ArrayLike | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    preview_every: int = 0,
    cancelled: Callable[[], bool] | None = None,
    deadline: float | None = None,
    plan: Plan | None = None,
    pressure: SustainableShare | None = None,
    decoder: LatentDecoder | None = None,
    previewer: LatentDecoder | None = None,
) -> Generation:
    """Make one sample for each label. What is not given comes from the bundle's sampler defaults.

    With a deadline, steps, budgets and the weak pass are chosen so that the pictures are the best that the device can
    make in that time, and changed on the way where it turns out slower or faster than measured.

    Args:
        session: from `Bundle.prepare`.
        labels: classes by number or name, one a sample.
        steps: solver steps, at least 1; follows from `latents` where that is a list.
        latents: latents kept a group, 1..P (default P), or one number for each step.
        solver: "euler", "heun" or "euler-maruyama" (stochastic).
        guidance: "none", "cfg", "ccfg" (null class at `weak_latents`) or "autoguidance" (same label at `weak_latents`).
        scale: guidance scale; 1 or less is no guidance.
        weak_latents: budget of the weak pass of ccfg and autoguidance.
        interval: times (low, high) between which guidance acts; 1 is noise, 0 the picture.
        noise: the start [B, C, S, S] instead of one drawn from the seed.
        seed: 0 .. 2^64 - 1; the same seed gives the same picture on every runtime, alone or in a batch.
        progress: called after each step.
        preview_every: steps between previews; 0 for none.
        cancelled: asked before each step whether to stop.
        deadline: seconds from this call until its return. A session that `Bundle.prepare` has not measured measures
            itself first, at the expense of this time.
        plan: from a `Planner`, in place of one made here; without a deadline the time that it has to fit is one.
        pressure: asked once a second what share of the full budget the device should carry, and why; for deadlines:
            `elit_edge.device.pressure.sustainable_share`.
        decoder: makes the pictures of a model of latents, from `Bundle.prepare_decoder`. A deadline covers it.
        previewer: makes the previews in place of `decoder`, which makes them itself where it is a fast one.

    Returns:
        Samples, pictures where the model has pixels or a decoder, and the settings and times of the run.

    Raises:
        RequestError, BudgetError: a value that the model or the samplers do not know.
        DeadlineError: not even the fastest plan would be in time; raised before the first step.
        PictureError: a sample or picture that is not finite, or the same everywhere.
        Cancelled: `cancelled` said so.
    """
    begun = time.perf_counter()
    manifest = session.manifest
    defaults = manifest.sampler
    classes = [manifest.label(label) for label in labels]
    if not classes:
        raise RequestError("no labels; give one for each picture")
    model = manifest.model
    shape = (model.in_channels, model.image_size, model.image_size)
    _check_decoders(manifest, [each for each in (decoder, previewer) if each is not None])
    if previewer is None and decoder is not None and decoder.decoder.kind == "fast":
        previewer = decoder
    timed: TimedRun | None = None
    if deadline is not None or plan is not None:
        chosen_by_plan = {"steps": steps, "latents": latents, "solver": solver, "weak_latents": weak_latents}
        _refuse_beside_deadline(**chosen_by_plan, **({} if plan is None else {"guidance": guidance}))
        unguided = scale is not None and scale <= 1
        timed = TimedRun(
            session,
            classes,
            begun,
            deadline,
            plan,
            "none" if unguided else guidance,
            pressure,
            0.0 if decoder is None else decoder.expected_ms(len(classes)),
        )
        solver, guidance, weak_latents = timed.plan.solver, timed.plan.guidance, timed.plan.weak_latents
        latents = timed.plan.latents
    budgets = _budgets(manifest, steps, latents)
    solver = solver or defaults.solver
    chosen = Guidance(
        guidance or defaults.guidance,
        defaults.scale if scale is None else scale,
        manifest.check_latents(defaults.weak_latents if weak_latents is None else weak_latents),
        *interval,
    )
    stream = NoiseStream(seed, len(classes))
    state = stream.draw(shape) if noise is None else _given_noise(noise, (len(classes), *shape))
    grid = times(solver, len(budgets))
    field = _GuidedField(session, classes, grid, chosen)
    field.look_ahead(0)
    even = (Move(index, budget, chosen.weak_latents) for index, budget in enumerate(budgets, 1))
    moves = even if timed is None else timed.moves(grid)

    def watch(step: Step, done: int) -> None:
        if progress is not None:
            left = len(budgets) - done if timed is None else timed.steps_left
            shown = preview_every > 0 and done % preview_every == 0
            preview = _preview(step.x0, manifest, previewer) if shown else None
            elapsed_ms = (time.perf_counter() - begun) * 1e3
            progress(Progress(done, done + left, step.move.latents, elapsed_ms, preview))

    run = solve(field, state, solver, grid, moves, lambda: stream.draw(shape))
    state, taken, step_ms = _integrate(run, len(budgets), field, watch, cancelled)
    _check_pictures(state, [move.latents for move in taken])
    made = Generation(
        samples=state,
        images=images_of(state, manifest),
        labels=tuple(classes),
        latents=tuple(move.latents for move in taken),
        solver=solver,
        guidance=chosen,
        seed=seed if noise is None or solver == "euler-maruyama" else None,
        step_ms=tuple(step_ms),
        condition_ms=field.condition_ms,
    )
    if decoder is not None:
        made = decoded(made, decoder)
    return made if timed is None else replace(made, deadline=timed.report(grid, taken))


def decoded(made: Generation, decoder: LatentDecoder) -> Generation:
    """The same with the pictures of its samples, which are latents.

    Raises:
        RequestError: the decoder is of another model.
        PictureError: a picture that is not finite, or the same everywhere.
    """
    begun = time.perf_counter()
    images = _images(decoder.decode(made.samples))
    decode_ms = (time.perf_counter() - begun) * 1e3
    return replace(made, images=images, decode_ms=decode_ms, decoder=decoder.decoder.kind, tiles=decoder.tiles)


def _integrate(
    run: Iterator[Step],
    steps: int,
    field: _GuidedField,
    watch: Callable[[Step, int], None],
    cancelled: Callable[[], bool] | None,
) -> tuple[Array, list[Move], list[float]]:
    """The finished samples, the moves that led there, and the time of each without its conditions."""
    taken: list[Move] = []
    step_ms: list[float] = []
    last: Step | None = None
    while last is None or last.move.to < steps:
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled after {len(taken)} of {steps} steps")
        conditioned_ms, begun = field.condition_ms, time.perf_counter()
        step = next(run, None)
        if step is None:  # the governor found no time for another one
            assert last is not None
            return last.x0, taken, step_ms
        step_ms.append((time.perf_counter() - begun) * 1e3 - (field.condition_ms - conditioned_ms))
        taken.append(step.move)
        last = step
        watch(step, len(taken))
    return last.x, taken, step_ms


def _refuse_beside_deadline(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise RequestError(f"{' and '.join(names)} beside a deadline: leave them to the plan, or leave the deadline")


def images_of(samples: Array, manifest: Manifest) -> Images | None:
    """Samples in [-1, 1] as uint8 [B, S, S, 3]; None where they are not pixels."""
    if manifest.sample_space != "pixels":
        return None
    return _images(samples)


def _images(pixels: npt.NDArray[np.floating]) -> Images:
    """Pixels [B, 1 or 3, S, S] in [-1, 1] as uint8 [B, S, S, 3]."""
    values = np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:3], 3)))


def _preview(samples: Array, manifest: Manifest, viewer: LatentDecoder | None) -> Images | None:
    """Pictures of samples that are not finished."""
    return images_of(samples, manifest) if viewer is None else _images(viewer.decode(samples, check=False))


def _check_decoders(manifest: Manifest, decoders: Sequence[LatentDecoder]) -> None:
    if decoders and manifest.sample_space == "pixels":
        raise RequestError(f"{manifest.name} makes pixels, which need no decoder; leave it out")
    for decoder in decoders:
        decoder.check_shape((manifest.model.in_channels, manifest.model.image_size, manifest.model.image_size))


def _budgets(manifest: Manifest, steps: int | None, latents: int | Sequence[int] | None) -> tuple[int, ...]:
    if isinstance(latents, Sequence):
        if steps is not None and steps != len(latents):
            raise RequestError(
                f"{len(latents)} budgets for {steps} steps; give one for each step, or one number for all"
            )
        budgets = tuple(latents)
    else:
        count = manifest.sampler.steps if steps is None else steps
        if count < 1:
            raise RequestError(f"steps = {count}: at least one step is needed")
        budgets = (manifest.latents_per_group if latents is None else latents,) * count
    for budget in budgets:
        manifest.check_latents(budget)
    if not budgets:
        raise RequestError("no budgets: at least one step is needed")
    return budgets


def _given_noise(noise: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    start = np.array(noise, np.float64)
    if start.shape != shape:
        raise RequestError(f"noise has shape {list(start.shape)}; {shape[0]} labels of this model need {list(shape)}")
    if not np.isfinite(start).all():
        raise RequestError("noise holds values that are not finite")
    return start


def _check_pictures(samples: Array, budgets: Sequence[int]) -> None:
    spread = samples.std(axis=(1, 2, 3))
    if (spread < FLAT_DEVIATION).any():
        raise PictureError(
            f"picture {int(spread.argmin())} came out flat (spread {spread.min():.1e}) after {len(budgets)} steps, "
            f"the last at {budgets[-1]} latents a group; verify the bundle: elit-edge verify BUNDLE"
        )


class _GuidedField:
    """The guided velocity of one run: the modulations of its (time, label) pairs are computed ahead, in one call."""

    def __init__(self, session: Session, labels: Sequence[int], grid: Array, guidance: Guidance) -> None:
        self._session, self._grid, self._guidance = session, grid, guidance
        self._labels = np.array(labels, np.int64)
        null = session.manifest.model.null_label
        self._classes = np.unique(np.append(self._labels, null) if guidance.kind in ("cfg", "ccfg") else self._labels)
        self._rows = np.searchsorted(self._classes, self._labels)
        self._null_rows = np.full(len(labels), np.searchsorted(self._classes, null))
        row_bytes = 4 * session.manifest.model.modulation_size * len(self._classes)
        self._ahead = max(1, CONDITION_BYTES // row_bytes)
        self._first, self._modulations = 0, np.empty((0, 0, 0), np.float32)
        self.condition_ms = 0.0

    def __call__(self, x: Array, index: int, move: Move) -> FloatArray:
        guidance, session, latents = self._guidance, self._session, move.latents
        sample = x.astype(np.float32)
        self.look_ahead(index)
        conditions: FloatArray = self._modulations[index - self._first]
        if not guidance.active(float(self._grid[index])):
            return session.velocity_from(sample, conditions[self._rows], latents)
        if guidance.kind == "cfg":
            both = np.concatenate([conditions[self._rows], conditions[self._null_rows]])
            strong, weak = np.split(session.velocity_from(np.concatenate([sample, sample]), both, latents), 2)
        else:
            rows = self._null_rows if guidance.kind == "ccfg" else self._rows
            strong = session.velocity_from(sample, conditions[self._rows], latents)
            weak = session.velocity_from(sample, conditions[rows], move.weak_latents)
        guided: FloatArray = weak + np.float32(guidance.scale) * (strong - weak)
        return guided

    def look_ahead(self, index: int) -> None:
        """Have the modulations of all classes at this time, and of as many times after it as the window holds."""
        if not self._first <= index < self._first + len(self._modulations):
            begun = time.perf_counter()
            # no solver asks for the velocity at the last time
            ahead = self._grid[index : min(index + self._ahead, len(self._grid) - 1)].astype(np.float32)
            t, y = np.repeat(ahead, len(self._classes)), np.tile(self._classes, len(ahead))
            flat = self._session.condition(t, y)
            self._first, self._modulations = index, flat.reshape(len(ahead), len(self._classes), -1)
            self.condition_ms += (time.perf_counter() - begun) * 1e3
