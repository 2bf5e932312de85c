"""How close two results are, and how close they have to be."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

GATE_DB = {
    "fp32": 110.0,
    "fp16": 35.0,
    "bf16": 35.0,
    "int8": 30.0,
    "int8-dynamic": 30.0,
    "w8": 35.0,
    "w4": 24.0,
    "lut6": 30.0,
    "w8a8": 30.0,
    "int4": 24.0,
    "lut4": 24.0,
}
"""Least PSNR by precision. Right float32 graphs measured 139 dB and more; with the wrong form of GELU they have 94
to 100, which a bar of 60 would let pass. Source of the 16-bit bar: Apple's ml-stable-diffusion refuses under 35 dB; of
the 8-bit bar: 29.5 to 30 dB is usual elsewhere."""

DECODER_GATE_DB = {"fp32": 100.0, "fp16": 35.0}
"""Of pictures. Right float32 decoders of SD-VAE's size measured 129 dB at 128 pixels a side and 115 at 512, since sums
over whole pictures depend on their order; a picture of eight bits is 59 dB from its own numbers."""

EXACT_DB = 999.0
"""What is written down where not a bit differs: JSON has no infinity."""


def psnr_db(value: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio; the peak is the reference's range. NaN anywhere gives -inf."""
    error = np.mean((value.astype(np.float64) - reference) ** 2)
    peak = float(np.ptp(reference))
    if not np.isfinite(error) or peak == 0:
        return -math.inf
    return math.inf if error == 0 else 10 * math.log10(peak**2 / float(error))


def relative_l2(value: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> float:
    """|value - reference| / |reference|."""
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    return float(np.linalg.norm(value.astype(np.float64) - reference)) / norm if norm else math.inf
