"""The guided velocity of one batch at one time: what trajectories follow, whatever sampler made them."""

from __future__ import annotations

import numpy as np

from elit_edge.runtimes.contract import FloatArray, IntArray, Session
from elit_edge.sampling import Guidance


def guided_velocity(
    session: Session, guidance: Guidance, x: FloatArray, t: float, labels: IntArray, latents: int
) -> FloatArray:
    """v [B, C, S, S] at x [B, C, S, S], one time, labels [B] and a budget."""
    at = np.full(len(labels), t)
    strong = session.velocity(x, at, labels, latents)
    if not guidance.active(t):
        return strong
    others = labels if guidance.kind == "autoguidance" else np.full_like(labels, session.manifest.model.null_label)
    weak = session.velocity(x, at, others, latents if guidance.kind == "cfg" else guidance.weak_latents)
    guided: FloatArray = weak + np.float32(guidance.scale) * (strong - weak)
    return guided
