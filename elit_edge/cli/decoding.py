"""`generate` of a model of latents: how to decode is settled before the first step, and done after the last."""

from __future__ import annotations

from elit_edge.bundle import Bundle
from elit_edge.cli.choosing import Clock
from elit_edge.cli.reporting import say
from elit_edge.decoding import needed_bytes, settle_tiles
from elit_edge.errors import PlanError
from elit_edge.fit import amount, resident_bytes
from elit_edge.generation import Generation, decoded
from elit_edge.profiling.decoders import decoder_costs, decoder_runtimes


class Decoding:
    """One decoder of a bundle, opened when there is something to decode: the session of the samples is closed then."""

    def __init__(
        self,
        bundle: Bundle,
        kind: str | None,
        runtime: str,
        threads: int | None,
        tiles: bool | None,
        memory_bytes: float | None,
    ) -> None:
        """Raises:
        BundleError: there is no such decoder.
        RuntimeUnavailable: nothing can compute it here.
        FitError, PlanError: it does not fit the memory that is free, or that was allowed.
        """
        manifest = bundle.manifest
        self.decoder = manifest.decoder(kind)
        decoder_runtimes(self.decoder, runtime)
        limit = None if memory_bytes is None else int(memory_bytes) - resident_bytes()
        self._tiles = settle_tiles(manifest, self.decoder, tiles, limit)
        needed = needed_bytes(manifest, self.decoder, tiles=self._tiles)
        if limit is not None and needed > limit:
            raise PlanError(
                f"decoding needs about {amount(needed + resident_bytes())} of memory; allow so much with --memory, or "
                "write the samples alone with -o FILE.npy",
                None,
            )
        self._bundle, self._threads = bundle, threads
        self.runtime = runtime

    @property
    def image_side(self) -> int:
        """Of a picture, in pixels."""
        return self.decoder.factor * self._bundle.manifest.model.image_size

    def expected_s(self, batch: int, clock: Clock) -> float:
        """Time to hold back for opening it and for decoding `batch` pictures; from then on its runtime is settled.

        Where something has to be measured first, the clock starts again.
        """
        measurements: list[str] = []

        def report(words: str) -> None:
            measurements.append(words)
            say(words)

        runtime, threads = self.runtime, self._threads
        costs = decoder_costs(self._bundle.files, self.decoder, runtime=runtime, threads=threads, report=report)
        if measurements:
            clock.restart()
        cost = costs.fastest()
        self.runtime = cost.runtime
        side = self._bundle.manifest.model.image_size
        return (cost.open_ms + cost.expected_ms(self.decoder, side, batch, tiles=self._tiles)) / 1e3

    def pictures(self, made: Generation) -> Generation:
        """The same with its pictures."""
        kind, tiles = self.decoder.kind, self._tiles
        with self._bundle.prepare_decoder(kind, self.runtime, self._threads, tiles, report=say) as decoder:
            self.runtime = decoder.runtime
            return decoded(made, decoder)
