"""Deserializing engines whose digest and facts were checked: memory foreseen, a library's refusal put in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from elit_edge.errors import FitError, RequestError
from elit_edge.files import cache_folder
from elit_edge.runtimes.tensorrt_.cuda import Device
from elit_edge.runtimes.tensorrt_.engines import StoredEngine
from elit_edge.runtimes.tensorrt_.execution import OpenEngine, refusal
from elit_edge.runtimes.tensorrt_.library import Library
from elit_edge.runtimes.tensorrt_.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    import tensorrt as trt


def open_engine(library: Library, device: Device, stored: StoredEngine, cache: RuntimeCache | None) -> OpenEngine:
    """One engine, ready to be given memory.

    Raises:
        FitError: its weights are more than the GPU has free.
        BundleError: it is damaged, or the library refuses it; the message is its own.
    """
    check_room(device, stored.entry.bytes, f"opening {stored.path.name}")
    data = stored.read()
    module = library.load()
    with library.messages.fresh() as messages:
        runtime: trt.Runtime = module.Runtime(messages.logger)
        opened = runtime.deserialize_cuda_engine(data)
        if opened is None:
            why = messages.words()
            if hasattr(runtime, "get_engine_validity"):
                _, diagnostics = runtime.get_engine_validity(data)
                why = f"{why} ({diagnostics})"
            raise refusal(f"opening {stored.path} by {library.title} {library.version}", why, "; compile it again")
    return OpenEngine(library, device, stored.engine, opened, None if cache is None else cache.config_for(opened))


def check_room(device: Device, needed_bytes: int, work: str) -> None:
    """Refuse what the GPU has no room for.

    Raises:
        FitError: it does not fit.
    """
    free = device.free_bytes()
    if needed_bytes > free:
        raise FitError(
            f"{work} needs about {needed_bytes / 1e6:.0f} MB of GPU memory, and {free / 1e6:.0f} MB are free; close "
            "what else runs on the GPU, or take a smaller precision"
        )


class RuntimeCache:
    """What TensorRT for RTX compiled of an engine on this GPU, kept in the user's cache from one run to the next."""

    def __init__(self, library: Library, name: str) -> None:
        self._library = library
        self._path: Path = cache_folder("tensorrt-rtx") / f"{name}.cache"
        self._cache: Any = None
        self._loaded = b""

    def config_for(self, engine: trt.ICudaEngine) -> Any:
        """How contexts are made: whole passes captured, compiled kernels kept, memory given by us."""
        module = self._library.load()
        config: Any = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._loaded = self._read()
            if self._loaded:
                self._cache.deserialize(self._loaded)  # it refuses what is of another driver or GPU by itself
        config.set_runtime_cache(self._cache)
        return config

    def _read(self) -> bytes:
        try:
            return read_sealed(self._path)
        except (OSError, RequestError):  # missing or damaged: kernels are compiled again
            return b""

    def save(self) -> None:
        """Write what was compiled since, where there is anything new and a place for it."""
        if self._cache is None:
            return
        serialized = self._cache.serialize()  # None after a failure of the GPU
        data = b"" if serialized is None else bytes(memoryview(serialized))
        if data not in (b"", self._loaded):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_sealed(self._path, data)
            except (OSError, RequestError):  # a cache that cannot be kept costs the next run its seconds again
                return
