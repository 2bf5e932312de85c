"""Noise that follows from a seed alone: the same numbers on every machine, in every version, in any language.

Philox-4x64 counters give the bits (D. E. Shaw Research, "Parallel random numbers: as easy as 1, 2, 3", 2011), the
Box-Muller transform the normal numbers. numpy's own normal generator may change between versions; its Philox may not.
"""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from elit_edge.errors import RequestError

MANTISSA_BITS = 53
SEED_LIMIT = 1 << 64


class NoiseStream:
    """Normal numbers for the pictures of one run: picture i draws from a stream of its own, whatever the others do."""

    def __init__(self, seed: int, count: int) -> None:
        """`seed` in 0 .. 2^64 - 1; `count` pictures."""
        try:
            whole = operator.index(seed)
        except TypeError:
            whole = -1
        if not 0 <= whole < SEED_LIMIT:
            raise RequestError(f"seed {seed}: must be a whole number in 0 .. 2^64 - 1")
        self._streams = [np.random.Philox(key=np.array([seed, i], np.uint64)) for i in range(count)]

    def draw(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """The next standard normal numbers of every picture: [count, *shape] float64."""
        size = int(np.prod(shape))
        return np.stack([_normal(stream, size).reshape(shape) for stream in self._streams])


def _normal(stream: np.random.Philox, size: int) -> npt.NDArray[np.float64]:
    """`size` numbers; an odd size leaves the second of its last pair unused."""
    pairs = (size + 1) // 2
    bits = np.asarray(stream.random_raw(2 * pairs)) >> np.uint64(64 - MANTISSA_BITS)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-MANTISSA_BITS
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]
