"""How near a precision's velocity is to float32's, on states of trajectories that calibration has not seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from elit_edge.calibration.guided import guided_velocity
from elit_edge.noise import SEED_LIMIT, NoiseStream
from elit_edge.parity import EXACT_DB, psnr_db
from elit_edge.runtimes.contract import FloatArray, IntArray, Session
from elit_edge.sampling import Array, Guidance, Move, solve, times

TRAJECTORIES = 4
"""Of one budget, their labels spread over the classes."""
STEPS = 6
"""Another number than calibration takes, so that most times are new as well."""
SEEDS = 1 << 32
"""So far from the seeds of pictures."""

State = tuple[FloatArray, FloatArray, IntArray]
"""x [N, C, S, S], t [N] and y [N] of one time."""


def least_psnr_db(reference: Session, session: Session, latents: int, seed: int) -> float:
    """The PSNR of the state where the session's velocity is farthest from the reference's, in -999 .. 999 dB.

    Each session computes its own conditions. Every state is asked for its label and for the null class.
    """
    null = reference.manifest.model.null_label
    found = []
    for x, t, y in guided_states(reference, latents, seed):
        for labels in (y, np.full_like(y, null)):
            right, ours = (each.velocity(x, t, labels, latents) for each in (reference, session))
            found += [psnr_db(one, wanted) for one, wanted in zip(ours, right, strict=True)]
    return min(max(min(found), -EXACT_DB), EXACT_DB)


def guided_states(session: Session, latents: int, seed: int) -> Iterator[State]:
    """The states that trajectories pass through, guided as the bundle is by default, from noise on; one a time.

    Raises:
        PictureError: a trajectory that is not finite.
    """
    manifest = session.manifest
    model, sampler = manifest.model, manifest.sampler
    guidance = Guidance(sampler.guidance, sampler.scale, sampler.weak_latents)
    labels = np.arange(TRAJECTORIES) * model.num_classes // TRAJECTORIES
    grid = times("euler", STEPS)
    passed: list[State] = []

    def field(x: Array, index: int, _move: Move) -> FloatArray:
        sample, t = x.astype(np.float32), np.full(len(labels), grid[index], np.float32)
        passed.append((sample, t, labels))
        return guided_velocity(session, guidance, sample, float(grid[index]), labels, latents)

    shape = (model.in_channels, model.image_size, model.image_size)
    noise = NoiseStream((seed + SEEDS) % SEED_LIMIT, len(labels)).draw(shape)
    moves = (Move(index, latents, guidance.weak_latents) for index in range(1, STEPS + 1))
    for _ in solve(field, noise, "euler", grid, moves):
        yield passed.pop()
