"""`elit-edge compile` for TensorRT: engines for both graphs of a precision, into the bundle or into the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from elit_edge.adding import adding, alone
from elit_edge.bundle_files import ENGINE_FOLDER, BundleFiles, file_entry, write_manifest
from elit_edge.errors import BundleError, RequestError, RuntimeUnavailable
from elit_edge.files import cache_folder
from elit_edge.manifest import Engine, Manifest, Precision, Role
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.tensorrt_.building import build_engine
from elit_edge.runtimes.tensorrt_.cuda import Gpu, need_gpu
from elit_edge.runtimes.tensorrt_.engines import ROLES, Pair, fitting, keep_rebuilt, mismatch, of_bundle
from elit_edge.runtimes.tensorrt_.fitting import here, platform_name
from elit_edge.runtimes.tensorrt_.library import Library
from elit_edge.runtimes.tensorrt_.profiles import Form, engine_profiles

PRECISIONS: tuple[Precision, ...] = ("fp16", "int8", "fp32")
"""What engines are made in, the first that a bundle has where none is named."""
AHEAD = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT for RTX compiles for where nothing is said: Ampere and later."""
UNABLE = ("7.5",)
"""There it has no float32 products, and every precision holds some."""

Report = Callable[[str, float], None]
"""Told the stage and the share of it that is done, 0..1."""


def able(manifest: Manifest) -> tuple[Precision, ...]:
    """The precisions of a bundle that engines can be made of."""
    return tuple(precision for precision in PRECISIONS if precision in manifest.precisions)


def chosen_precision(manifest: Manifest, asked: str | None) -> Precision:
    """The precision asked for, or the first of `able`.

    Raises:
        BundleError: the bundle has no such graphs; the message says how to make them.
    """
    found = able(manifest)
    for precision in found:
        if asked in (None, precision):
            return precision
    wanted = f"{asked} graphs" if asked else "graphs that TensorRT takes"
    remedy = "Export it again with --dtype fp32"
    if asked in ("fp16", "int8"):
        remedy = f"elit-edge calibrate BUNDLE --scheme {asked} -o NEW.elit makes a bundle with them"
    raise BundleError(f"bundle {manifest.name} has no {wanted}; it has: {', '.join(manifest.precisions)}. {remedy}")


def compile_bundle(
    files: BundleFiles,
    library: Library,
    precision: Precision,
    *,
    form: Form = "range",
    compute_capabilities: tuple[str, ...] = (),
    timing_cache: Path | None = None,
    report: Report = lambda _stage, _share: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Manifest:
    """Put engines of one precision into a bundle, in the place of those of that library and precision.

    Args:
        files: a checked bundle. It is replaced as a whole, or left as it was.
        library: classic TensorRT compiles for the GPU of this machine; TensorRT for RTX for any, with or without one.
        precision: one of `able(manifest)`.
        form: of the profiles.
        compute_capabilities: GPUs to compile for, "8.6"; empty for Ampere and later. TensorRT for RTX alone.
        timing_cache: file with what earlier builds measured. Classic TensorRT alone.
        report: progress.
        cancelled: asked at each of the builder's steps.

    Returns:
        the bundle's new manifest.

    Raises:
        RuntimeUnavailable: the library is missing, or it is classic TensorRT and there is no GPU.
        RequestError: a setting that the library does not have; a damaged timing cache.
        BundleError: the bundle has no such precision, changed meanwhile, or the library refuses a graph.
        Cancelled: as asked; the bundle is as it was.
    """
    state = library.state()
    if isinstance(state, Missing):
        raise RuntimeUnavailable(f"{library.title} is not installed: {state.reason}; {state.remedy}")
    gpu, capabilities = _aims(library, compute_capabilities, timing_cache)
    chosen = chosen_precision(files.manifest, precision)
    with adding(files) as (current, stage):
        (stage / ENGINE_FOLDER).mkdir(exist_ok=True)
        made = build_pair(
            current, library, chosen, form, gpu, capabilities, timing_cache=timing_cache, report=report,
            cancelled=cancelled,
        )  # fmt: skip
        for engine, data in made.values():
            (stage / engine.path).unlink(missing_ok=True)
            (stage / engine.path).write_bytes(data)
        others = [
            engine
            for engine in current.manifest.engines
            if (engine.library, engine.precision) != (library.name, chosen)
        ]
        engines = (*others, *(engine for engine, _ in made.values()))
        report("seal", 0)
        fresh = {engine.path: file_entry(stage / engine.path) for engine, _ in made.values()}
        entries = dict(sorted({**current.manifest.files, **fresh}.items()))
        manifest = msgspec.structs.replace(current.manifest, engines=engines, files=entries)
        write_manifest(stage, manifest)
    return manifest


def rebuild(files: BundleFiles, library: Library, precision: Precision, report: Callable[[str], None]) -> Pair:
    """Engines that open here, compiled anew into the user's cache where those of the bundle do not; once a device.

    Raises:
        BundleError: the bundle has no engine of that library and precision, or compiling fails.
        RuntimeUnavailable: there is no GPU.
    """
    gpu = need_gpu()
    at = here(library, gpu)
    own = of_bundle(files, library.name, precision)
    faults = mismatch(own, at)
    if not own or not faults:
        return fitting(files, precision, at)
    _, capabilities = _aims(library, (gpu.compute_capability,) if library.ahead_of_time else (), None)
    with alone(cache_folder("engines")):
        try:
            return fitting(files, precision, at)  # another process may have compiled while this one waited
        except BundleError:
            report(f"compiling {files.manifest.name} for this GPU (once): {'; '.join(faults)}")
        form: Form = "range" if len(own["velocity"].engine.profiles) == 1 else "per-budget"
        made = build_pair(files, library, precision, form, gpu, capabilities)
        return keep_rebuilt(files, precision, at, made)


def build_pair(
    files: BundleFiles,
    library: Library,
    precision: Precision,
    form: Form,
    gpu: Gpu | None,
    capabilities: tuple[str, ...],
    *,
    timing_cache: Path | None = None,
    report: Report = lambda _stage, _share: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[Role, tuple[Engine, memoryview]]:
    """The engines of both graphs, and what is to be known of them."""
    made: dict[Role, tuple[Engine, memoryview]] = {}
    for role in ROLES:
        graph = files.manifest.graph(role, precision)
        profiles = engine_profiles(files.manifest, graph, form)
        data = build_engine(
            library,
            files,
            graph,
            profiles,
            compute_capabilities=capabilities if library.ahead_of_time else (),
            timing_cache=timing_cache,
            report=lambda share, role=role: report(role, share),  # type: ignore[misc]
            cancelled=cancelled,
        )
        engine = Engine(
            role=role,
            precision=precision,
            library=library.name,
            version=library.version,
            platform=platform_name(),
            compute_capabilities=capabilities,
            compiled_on=None if gpu is None else gpu.name,
            driver=None if gpu is None else gpu.driver,
            path=f"{ENGINE_FOLDER}/{role}-{precision}.{library.name}",
            profiles=profiles,
        )
        made[role] = engine, data
    return made


def _aims(library: Library, asked: tuple[str, ...], timing_cache: Path | None) -> tuple[Gpu | None, tuple[str, ...]]:
    """The GPU that is compiled on, and those that are compiled for."""
    if not library.ahead_of_time:
        if asked:
            raise RequestError(
                f"{library.title} compiles for the GPU that it sits on, and takes no compute capability; "
                "--target tensorrt-rtx compiles for others"
            )
        gpu = need_gpu()
        return gpu, (gpu.compute_capability,)
    if timing_cache is not None:
        raise RequestError(f"{library.title} times nothing when it compiles, and has no use for {timing_cache}")
    known = library.capabilities()
    capabilities = asked or tuple(each for each in AHEAD if each in known)
    for each in capabilities:
        if each not in known or each in UNABLE:
            there_are = ", ".join(capability for capability in known if capability not in UNABLE)
            raise RequestError(
                f"{library.title} {library.version} does not compile these graphs for compute capability {each}; "
                f"it does for: {there_are}. Orin (8.7) and data-centre GPUs take --target tensorrt"
            )
    return None, tuple(dict.fromkeys(capabilities))
