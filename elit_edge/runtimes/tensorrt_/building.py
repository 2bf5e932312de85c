"""One graph in, one serialized engine out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError, Cancelled, RequestError
from elit_edge.manifest import EngineProfile, Graph
from elit_edge.runtimes.tensorrt_.library import Library
from elit_edge.runtimes.tensorrt_.network import check_network, read_network
from elit_edge.runtimes.tensorrt_.profiles import shapes
from elit_edge.runtimes.tensorrt_.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    import tensorrt as trt


def build_engine(
    library: Library,
    files: BundleFiles,
    graph: Graph,
    profiles: tuple[EngineProfile, ...],
    *,
    compute_capabilities: tuple[str, ...] = (),
    timing_cache: Path | None = None,
    report: Callable[[float], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> memoryview:
    """Compile a graph.

    Args:
        library: that compiles; classic TensorRT needs the GPU that the engine is for.
        files: a checked bundle.
        graph: one of it, of any batch.
        profiles: the shapes that the engine shall take.
        compute_capabilities: for TensorRT for RTX: the GPUs that the engine is for.
        timing_cache: a file with what earlier builds measured; read if it is there, and written anew.
        report: told the share done, 0..1.
        cancelled: asked at each of the builder's steps.

    Returns:
        the engine's bytes.

    Raises:
        BundleError: the graph is not what the manifest says, or the library cannot compile it.
        Cancelled: as asked.
        RequestError: the timing cache is damaged, or of another device or version.
    """
    module = library.load()
    calibration = files.manifest.calibration(graph.precision)
    with library.messages.fresh() as messages:
        builder: trt.Builder = module.Builder(messages.logger)
        network = read_network(library, builder, files, graph)
        check_network(network, graph, calibration.float_layers if calibration is not None else ())
        config = builder.create_builder_config()
        if graph.precision == "fp32":
            config.clear_flag(module.BuilderFlag.TF32)  # on by itself: products would keep ten bits
        config.progress_monitor = monitor = _monitor(module, report, cancelled)
        for index, capability in enumerate(compute_capabilities):
            _aim(module, config, capability, index, len(compute_capabilities))
        cache = _open_cache(config, timing_cache) if timing_cache is not None else None
        for profile in profiles:
            _add_profile(module, builder, config, shapes(graph, profile))
        built = builder.build_serialized_network(network, config)
        if monitor.was_cancelled:
            raise Cancelled("the build was cancelled; nothing was written")
        if built is None:
            raise BundleError(f"{library.title} {library.version} cannot compile {graph.path}: {messages.words()}")
        if timing_cache is not None and cache is not None:
            write_sealed(timing_cache, bytes(memoryview(cache.serialize())))
        return memoryview(built)


def _aim(module: Any, config: Any, capability: str, index: int, count: int) -> None:
    """Compile for a GPU that need not be here; TensorRT for RTX alone has these names."""
    if index == 0:
        config.num_compute_capabilities = count
    if not config.set_compute_capability(getattr(module.ComputeCapability, "SM" + capability.replace(".", "")), index):
        raise RequestError(f"this TensorRT for RTX refuses compute capability {capability}; leave it out")


def _add_profile(
    module: Any, builder: trt.Builder, config: trt.IBuilderConfig, bounds: dict[str, tuple[tuple[int, ...], ...]]
) -> None:
    profile = builder.create_optimization_profile()
    for name, shape in bounds.items():
        profile.set_shape(name, *map(module.Dims, shape))
    if config.add_optimization_profile(profile) < 0:
        raise BundleError(f"the builder refuses the shapes {bounds}; export the bundle again")


def _open_cache(config: trt.IBuilderConfig, path: Path) -> trt.ITimingCache:
    data = read_sealed(path) if path.exists() else b""
    cache: trt.ITimingCache | None = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise RequestError(
            f"the timing cache {path} is of another GPU or another version of TensorRT; delete it or name another file"
        )
    return cache


def _monitor(module: Any, report: Callable[[float], None], cancelled: Callable[[], bool]) -> Any:
    """Reports the outermost phase's share, and asks whether to go on, at every step; threads may call it."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # of a module known when this runs
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.was_cancelled = False
            self._lock = threading.Lock()
            self._outermost: tuple[str, int] | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                if parent is None:
                    self._outermost = name, steps

        def phase_finish(self, name: str) -> None:
            pass

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                if self._outermost is not None and name == self._outermost[0]:
                    report((step + 1) / self._outermost[1])
                self.was_cancelled = self.was_cancelled or cancelled()
                return not self.was_cancelled

    return Monitor()
