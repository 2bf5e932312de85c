"""The session of TensorRT: two engines on one GPU, `condition` once a run, `velocity` once a step."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.runtimes.contract import FloatArray, IntArray, Session
from elit_edge.runtimes.tensorrt_.cuda import Device, failures
from elit_edge.runtimes.tensorrt_.engines import Pair
from elit_edge.runtimes.tensorrt_.execution import Arrays, OpenEngine
from elit_edge.runtimes.tensorrt_.library import Library
from elit_edge.runtimes.tensorrt_.opening import RuntimeCache, check_room, open_engine


class TensorRtSession(Session):
    """Engines that were found to open here. Weights, activations and exchange buffers are taken when the session opens;
    what the library keeps for a captured pass comes with its first use."""

    def __init__(self, files: BundleFiles, library: Library, precision: str, pair: Pair) -> None:
        super().__init__(files.manifest, library.name, precision)
        self._work = f"running {files.manifest.name} in {precision}"
        self._stack = ExitStack()
        self._engines: dict[str, OpenEngine] = {}
        try:
            with failures(f"opening {files.manifest.name} in {precision}"):
                self._device = Device()
                self._stack.callback(self._device.close)
                cache = None
                if library.ahead_of_time:
                    cache = RuntimeCache(library, pair["velocity"].entry.sha256[:16])
                    self._stack.callback(cache.save)
                for role, stored in pair.items():
                    self._engines[role] = open_engine(library, self._device, stored, cache)
                    self._stack.callback(self._engines[role].close)
                self._take_memory()
        except BaseException:
            self.close()
            raise

    def _take_memory(self) -> None:
        """One block of activations for both engines, which never run at the same time."""
        engines = self._engines.values()
        most = max(engine.activation_bytes for engine in engines)
        check_room(self._device, most + sum(engine.exchange_bytes for engine in engines), self._work)
        activations = self._device.allocate(most)
        self._stack.callback(activations.free)
        self._stack.callback(self._device.settle)
        for engine in engines:
            engine.take_memory(activations)

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        return self._run("condition", {"t": t, "y": y}, None)

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        return self._run("velocity", {"x": x, "modulations": modulations}, latents)

    def _run(self, role: str, feeds: Arrays, latents: int | None) -> FloatArray:
        """In parts of as many rows as the engine takes at once."""
        engine = self._engines.get(role)
        assert engine is not None, "the session is closed"
        budget = None
        shared: Arrays = {}
        if role == "velocity" and self.manifest.model.is_elastic:
            budget = latents
            shared["latents"] = np.zeros(latents or 0, np.int64)
        rows = len(next(iter(feeds.values())))
        with failures(self._work):
            self._device.make_current()
            parts = [
                engine.run(
                    {name: np.ascontiguousarray(values[at : at + engine.most_rows]) for name, values in feeds.items()}
                    | shared,
                    budget,
                )
                for at in range(0, rows, engine.most_rows)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        self._engines = {}
        with failures(self._work):
            self._stack.close()
