"""What users of a bundle hold: open it, read its manifest, prepare it on a runtime."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from elit_edge.bundle_files import BundleFiles
from elit_edge.decoding import LatentDecoder, settle_tiles
from elit_edge.errors import BundleError, RequestError
from elit_edge.fit import amount, check_memory, free_bytes, resident_bytes, run_memory_bytes
from elit_edge.manifest import Manifest
from elit_edge.profiling.cache import Report
from elit_edge.profiling.choosing import PassedOver, Profiles, candidates_of, profiles_of
from elit_edge.profiling.decoders import decoder_costs, decoder_runtimes
from elit_edge.runtimes.contract import Session
from elit_edge.runtimes.registry import choose


class Bundle:
    """An opened bundle; every byte of it has been checked against its digests."""

    def __init__(self, files: BundleFiles) -> None:
        self.files = files

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open the folder `NAME.elit`.

        Raises:
            BundleError: it is no bundle, of another schema version, or damaged.
        """
        return cls(BundleFiles.open(Path(path)))

    @property
    def manifest(self) -> Manifest:
        return self.files.manifest

    def prepare(
        self,
        runtime: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        report: Report = lambda _: None,
    ) -> Session:
        """Make the bundle ready to compute.

        Args:
            runtime: a name, or "auto" for the one that is fastest on this device. The first time, where several are
                ready, each is measured for some seconds in a process of its own; afterwards the user's cache knows.
            precision: one that the runtime can compute the bundle in; None for the best of a named runtime, and for
                the fastest that is near enough to float32 with "auto".
            threads: CPU threads of one call; None leaves it to the runtime.
            report: told of measurements.

        Returns:
            A session, to be used as a context manager. Its `passed_over` says why each other runtime lost.

        Raises:
            RequestError: `threads` is less than 1.
            RuntimeUnavailable: the runtime is not ready here; the message holds the remedy.
            BundleError: the bundle has no graphs of that precision, or the runtime refuses them.
            FitError: the memory that is free here is too small.
        """
        _check_threads(threads)
        check_memory(
            run_memory_bytes(self.manifest, 1, runtime) - resident_bytes(),
            f"running {self.manifest.name}{'' if runtime == 'auto' else f' on {runtime}'}",
            "close other programs, or take onnxruntime, which holds the weights once",
        )
        if runtime == "auto":
            return self._fastest(precision, threads, report)
        chosen = choose(runtime)
        able = chosen.precisions(self.manifest)
        if not able:
            raise BundleError(f"{runtime} can compute nothing of bundle {self.manifest.name}; {chosen.remedy}")
        if precision is not None and precision not in able:
            raise BundleError(
                f"bundle {self.manifest.name} cannot be computed in {precision} by {runtime}; "
                f"it can in: {', '.join(able)}"
            )
        session = chosen.prepare(self.files, precision or able[0], threads)
        known = profiles_of(
            self.files, runtime=runtime, precision=session.precision, threads=threads, measure_missing=False
        )
        session.profile = next(iter(known.found), None)
        return session

    def prepare_decoder(
        self,
        kind: str | None = None,
        runtime: str = "auto",
        threads: int | None = None,
        tiles: bool | None = None,
        report: Report = lambda _: None,
    ) -> LatentDecoder:
        """Open a decoder of the bundle, for `generate` or by itself.

        Args:
            kind: "full" or "fast"; None for the full one, or the fast one where that is all there is.
            runtime: a name, or "auto" for the one that decodes fastest on this device. The first time, where several
                are ready, each is measured in a process of its own; afterwards the user's cache knows.
            threads: CPU threads of one call; None leaves it to the runtime.
            tiles: whether to decode in tiles, which takes less memory and more time; None: where a whole picture does
                not fit the memory that is free now.
            report: told of measurements.

        Returns:
            A decoder, to be used as a context manager.

        Raises:
            RequestError: `threads` is less than 1.
            BundleError: the bundle has no such decoder, or the runtime refuses it.
            RuntimeUnavailable: the runtime is not ready here, or does not decode.
            FitError: the memory that is free here is too small.
        """
        _check_threads(threads)
        decoder = self.manifest.decoder(kind)
        tiles = settle_tiles(self.manifest, decoder, tiles)
        able, _ = decoder_runtimes(decoder, runtime)
        choice = len(able) > 1
        costs = decoder_costs(
            self.files, decoder, runtime=runtime, threads=threads, measure_missing=choice, report=report
        )
        cost = costs.fastest() if choice else next(iter(costs.found), None)
        session = choose(able[0][0] if cost is None else cost.runtime).prepare_decoder(self.files, decoder, threads)
        return LatentDecoder(session, self.manifest.model, tiles=tiles, cost=cost)

    def _fastest(self, precision: str | None, threads: int | None, report: Report) -> Session:
        candidates, passed_over = candidates_of(self.files, "auto", precision)
        if len(candidates) == 1:  # nothing to choose, nothing to measure
            choose(candidates[0][0]).settle(self.files, candidates[0][1], report)
            session = self.prepare(candidates[0][0], candidates[0][1], threads)
            session.passed_over = tuple(lost.words() for lost in passed_over)
            return session
        profiles = self._fitting(profiles_of(self.files, precision=precision, threads=threads, report=report))
        best, lost = profiles.fastest({rung.latents: rung.velocity_flops for rung in self.manifest.ladder})
        chosen = choose(best.runtime)
        chosen.settle(self.files, best.precision, report)
        session = chosen.prepare(self.files, best.precision, threads)
        session.profile = best
        session.passed_over = tuple(each.words() for each in lost)
        return session

    def _fitting(self, profiles: Profiles) -> Profiles:
        """Without the runtimes that the memory which is free now cannot hold; all of them where it is not known."""
        free = free_bytes()
        if free is None:
            return profiles
        needed = {each.runtime: run_memory_bytes(self.manifest, 1, each.runtime) for each in profiles.found}
        large = {runtime for runtime, size in needed.items() if size - resident_bytes() > free}
        found = tuple(each for each in profiles.found if each.runtime not in large)
        lost = tuple(
            PassedOver(name, None, f"needs about {amount(needed[name])} of memory, and {amount(free)} are free")
            for name in sorted(large)
        )
        return replace(profiles, found=found, passed_over=(*profiles.passed_over, *lost))


def _check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise RequestError(f"threads = {threads}: at least 1, or None to leave it to the runtime")
