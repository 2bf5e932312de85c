"""`python -m elit_edge.profiling.decoder_worker`: one runtime's decoder measured in a process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.decoding import DecoderCost, measure
from elit_edge.noise import NoiseStream
from elit_edge.profiling.worker import COMPARED, SEED
from elit_edge.runtimes.registry import choose


class MeasuredDecoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One decoder on one runtime, measured."""

    cost: DecoderCost
    pixels: tuple[float, ...]
    """What it makes of fixed noise, thinned: for comparison with other runtimes."""


def measured(files: BundleFiles, runtime: str, kind: str, threads: int | None) -> MeasuredDecoder:
    """Open and measure a decoder in this process."""
    decoder, model = files.manifest.decoder(kind), files.manifest.model
    side = min(model.image_size, decoder.tiling.latents)
    begun = time.perf_counter()
    with choose(runtime).prepare_decoder(files, decoder, threads) as session:
        open_ms = (time.perf_counter() - begun) * 1e3
        cost = measure(session, model, open_ms)
        z = NoiseStream(SEED, 1).draw((model.in_channels, side, side)).astype(np.float32)
        flat = session.pixels_from(z).reshape(-1)
    thinned = tuple(float(value) for value in flat[:: max(1, flat.size // COMPARED)])
    return MeasuredDecoder(cost=cost, pixels=thinned)


def main(folder: str, runtime: str, kind: str, threads: str, answer: str) -> None:
    """Write what was measured to the file `answer`. The parent has checked the bundle's digests."""
    found = measured(BundleFiles.checked_before(Path(folder)), runtime, kind, int(threads) or None)
    Path(answer).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
