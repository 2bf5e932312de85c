"""Taking a calibration set: guided trajectories, a budget at a time, each kept in the user's cache when it is done."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np

from elit_edge.calibration.guided import guided_velocity
from elit_edge.calibration.states import FLOAT_BYTES, SET_COPIES, CalibrationSet, SetRecipe, columns
from elit_edge.errors import CalibrationError, RequestError
from elit_edge.files import appearing_file, cache_folder
from elit_edge.fit import check_memory
from elit_edge.noise import NoiseStream
from elit_edge.runtimes.contract import FloatArray, Session
from elit_edge.sampling import Guidance, times

BATCH = 8
"""Rows of one velocity call."""

Say = Callable[[str], None]
Report = Callable[[str, float], None]


def collect(session: Session, recipe: SetRecipe, report: Report, say: Say) -> CalibrationSet:
    """Take the states. Every finished budget is kept in the user's cache, and not taken twice.

    Args:
        session: in float32, of the bundle that the recipe was made for.
        recipe: what to take.
        report: told the stage and the share that is done, 0..1.
        say: told when the cache could not be used.

    Raises:
        CalibrationError: a state that is not finite.
        RequestError: another process takes the same set.
        FitError: the set is larger than the memory that is free.
    """
    assert (session.precision, session.manifest.model) == ("fp32", recipe.model), "a session of another model"
    size = FLOAT_BYTES * recipe.states * math.prod(recipe.sample_shape)
    check_memory(SET_COPIES * size, f"a calibration set of {recipe.states} states", "take fewer steps or classes")
    found = []
    with _locked_folder(recipe) as folder:
        for index, latents in enumerate(recipe.budgets):

            def advance(share: float, done: int = index) -> None:
                report("take states", (done + share) / len(recipe.budgets))

            part = _Part(folder, recipe, latents)
            states = part.read(say)
            if states is None:
                states = _trajectories(session, recipe, index, advance)
                part.write(states)
            advance(1.0)
            found.append(states)
    x = np.repeat(np.stack(found)[:, :, None], 2, axis=2).reshape(-1, *recipe.sample_shape)
    return CalibrationSet(recipe, x, *columns(recipe))


def _trajectories(session: Session, recipe: SetRecipe, index: int, advance: Callable[[float], None]) -> FloatArray:
    """The states of one budget, [steps, classes, C, S, S]."""
    labels = recipe.labels()[index]
    last = (index + 1) * recipe.classes
    noise = NoiseStream(recipe.seed, last).draw(recipe.sample_shape)[-recipe.classes :]
    guidance = Guidance(recipe.guidance, recipe.scale, recipe.weak_latents)
    grid, latents = times("euler", recipe.steps), recipe.budgets[index]
    found = np.empty((recipe.steps, *noise.shape), np.float32)
    for first in range(0, len(labels), BATCH):
        rows = slice(first, first + BATCH)
        state = noise[rows]
        for step in range(recipe.steps):
            if step:
                t, dt = float(grid[step - 1]), float(grid[step] - grid[step - 1])
                state = state + dt * guided_velocity(session, guidance, found[step - 1, rows], t, labels[rows], latents)
            with np.errstate(over="ignore"):
                found[step, rows] = state
            if not np.isfinite(found[step, rows]).all():
                raise CalibrationError(
                    f"a state at {latents} latents a group is no longer finite at t = {grid[step]:.3f}; "
                    "verify the bundle: elit-edge verify BUNDLE"
                )
            advance((first + (step + 1) / recipe.steps * len(labels[rows])) / len(labels))
    return found


class _Part:
    """The states of one budget in the cache: 32 bytes of digest, then [steps, classes, C, S, S] float32."""

    def __init__(self, folder: Path, recipe: SetRecipe, latents: int) -> None:
        self._path = folder / f"latents_{latents:02d}.states"
        self._shape = (recipe.steps, recipe.classes, *recipe.sample_shape)
        self._salt = f"{recipe.digest} {latents} ".encode()

    def read(self, say: Say) -> FloatArray | None:
        if not self._path.exists():
            return None
        data = self._path.read_bytes()
        digest, states = data[:32], data[32:]
        if self._seal(states) != digest:
            say(f"{self._path} is damaged: its states are taken again")
            return None
        return np.frombuffer(states, "<f4").reshape(self._shape)

    def write(self, found: FloatArray) -> None:
        states = np.asarray(found, "<f4").tobytes()
        with appearing_file(self._path, replace=True) as file:
            file.write(self._seal(states) + states)

    def _seal(self, states: bytes) -> bytes:
        return hashlib.sha256(self._salt + states).digest()


@contextmanager
def _locked_folder(recipe: SetRecipe) -> Iterator[Path]:
    """Where the parts of a set are kept, ours alone until the block ends."""
    folder = cache_folder("calibration") / recipe.digest[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write to the cache {folder}: {error.strerror}; give it a place there") from error
    try:
        with filelock.FileLock(folder / "lock", timeout=0):
            yield folder
    except filelock.Timeout as error:
        raise RequestError("another elit-edge takes this calibration set now; wait until it ends") from error
