"""A SIMULATION of cuda.bindings.driver on host memory: what elit-edge calls, and how it is called.

Where the real driver answers with an error, so does this. Where it would silently read or write memory that is not the
caller's, this raises `Misuse`.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

ALIGNMENT_BYTES = 512
FRESH = 0xCD
"""What new memory is filled with: as floats it is far from any right number."""


class Misuse(AssertionError):
    """What the real driver would take, to read or write what is not the caller's."""


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_LAUNCH_FAILED = 719
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_UNKNOWN = 999


class CUdevice_attribute(enum.IntEnum):  # noqa: N801 - the binding's name
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUstream_flags(enum.IntEnum):  # noqa: N801 - the binding's name
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class _Handle:
    """Handles are objects that know their number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


class CUdevice(_Handle):
    pass


class CUcontext(_Handle):
    pass


class CUstream(_Handle):
    pass


class CUgraph(_Handle):
    pass


class CUgraphExec(_Handle):
    pass


class CUdeviceptr(_Handle):
    pass


Work = Callable[[], None]


@dataclass
class _Stream:
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    """What was enqueued since a capture began; None: nothing is being captured."""
    spoilt: bool = False


@dataclass
class State:
    """The machine: what it is, what is taken of it, what was asked of it."""

    devices: int = 1
    compute_capability: str = "8.7"
    name: str = "Simulated GPU"
    driver: int = 12060
    installed: bool = True
    integrated: bool = False
    total_bytes: int = 1 << 30

    initialised: bool = False
    retained: int = 0
    memory: dict[int, bytearray] = field(default_factory=dict)
    streams: dict[int, _Stream] = field(default_factory=dict)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    executables: dict[int, list[Work]] = field(default_factory=dict)
    library_bytes: int = 0
    """What the library itself holds: weights, and a little a context."""
    calls: list[str] = field(default_factory=list)
    failing: Callable[[str, int], CUresult | None] = lambda _name, _count: None
    """Given the function and how many calls there were before; the error to answer with."""
    current: threading.local = field(default_factory=threading.local)
    _next: int = 0x7F00_0000_0000

    def number(self, size: int = 1) -> int:
        """A fresh handle or address, with a gap behind it that belongs to nobody."""
        found = self._next
        self._next += (size // ALIGNMENT_BYTES + 2) * ALIGNMENT_BYTES
        return found

    @property
    def used_bytes(self) -> int:
        return self.library_bytes + sum(map(len, self.memory.values()))

    @property
    def counts(self) -> Counter[str]:
        """How often each function was called."""
        return Counter(self.calls)

    @property
    def held(self) -> dict[str, int]:
        """Everything that somebody has to give back, where it is not nothing."""
        all_there_is = {
            "contexts": self.retained,
            "allocations": len(self.memory),
            "streams": len(self.streams),
            "graphs": len(self.graphs),
            "executables": len(self.executables),
            "bytes of the library": self.library_bytes,
        }
        return {what: count for what, count in all_there_is.items() if count}

    def fail(self, name: str, at: int = 0, code: str = "CUDA_ERROR_UNKNOWN") -> None:
        """The call of a function after `at` others of it fails."""
        before = self.counts[name]

        def failing(called: str, _count: int) -> CUresult | None:
            return CUresult[code] if called == name and self.counts[name] == before + at + 1 else None

        self.failing = failing

    def fail_at(self, at: int, code: str = "CUDA_ERROR_UNKNOWN") -> None:
        """The call after `at` others from now fails, whatever it is."""
        start = len(self.calls)
        self.failing = lambda _name, count: CUresult[code] if count == start + at else None

    def view(self, address: int, size: int) -> memoryview:
        """Memory that somebody allocated.

        Raises:
            Misuse: it is not, or not all of it.
        """
        for start, block in self.memory.items():
            if start <= address and address + size <= start + len(block):
                return memoryview(block)[address - start : address - start + size]
        raise Misuse(f"{size} bytes at {address:#x} are not within any live allocation")


state = State()


def reset(**settings: object) -> State:
    """A new machine."""
    global state  # noqa: PLW0603 - the module stands for one machine
    state = State(**settings)  # type: ignore[arg-type]
    return state


def _begin(name: str, *, context: bool = True) -> CUresult:
    """What every function does first."""
    if not state.installed:
        raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search.\nInstall it.')
    state.calls.append(name)
    failure = state.failing(name, len(state.calls) - 1)
    if failure is not None:
        return failure
    if name not in ("cuInit", "cuDriverGetVersion") and not state.initialised:
        return CUresult.CUDA_ERROR_NOT_INITIALIZED
    if context and (getattr(state.current, "context", None) is None or not state.retained):
        return CUresult.CUDA_ERROR_INVALID_CONTEXT
    return CUresult.CUDA_SUCCESS


def _gives_back(failure: CUresult) -> bool:
    """Functions that give back do so even where they report an error, which is then of earlier work."""
    return failure not in (CUresult.CUDA_ERROR_NOT_INITIALIZED, CUresult.CUDA_ERROR_INVALID_CONTEXT)


def _expect(value: object, *kinds: type) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{value!r} is none of {[kind.__name__ for kind in kinds]}")


def _capturing() -> _Stream | None:
    return next((stream for stream in state.streams.values() if stream.captured is not None), None)


def _forbid_capture() -> CUresult:
    """Some calls end a capture that is under way."""
    stream = _capturing()
    if stream is None:
        return CUresult.CUDA_SUCCESS
    stream.spoilt = True
    return CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED


def cuInit(flags: int) -> tuple[CUresult]:  # noqa: N802
    _expect(flags, int)
    failure = _begin("cuInit", context=False)
    if failure:
        return (failure,)
    if state.devices == 0:
        return (CUresult.CUDA_ERROR_NO_DEVICE,)
    state.initialised = True
    return (CUresult.CUDA_SUCCESS,)


def cuDriverGetVersion() -> tuple[CUresult, int | None]:  # noqa: N802
    failure = _begin("cuDriverGetVersion", context=False)
    return (failure, None) if failure else (failure, state.driver)


def cuDeviceGetCount() -> tuple[CUresult, int | None]:  # noqa: N802
    failure = _begin("cuDeviceGetCount", context=False)
    return (failure, None) if failure else (failure, state.devices)


def cuDeviceGet(ordinal: int) -> tuple[CUresult, CUdevice | None]:  # noqa: N802
    _expect(ordinal, int)
    failure = _begin("cuDeviceGet", context=False)
    if not failure and ordinal >= state.devices:
        failure = CUresult.CUDA_ERROR_INVALID_DEVICE
    return (failure, None) if failure else (failure, CUdevice(ordinal))


def cuDeviceGetName(length: int, device: CUdevice) -> tuple[CUresult, bytes | None]:  # noqa: N802
    _expect(length, int)
    _expect(device, CUdevice)
    failure = _begin("cuDeviceGetName", context=False)
    return (failure, None) if failure else (failure, state.name.encode().ljust(length, b"\0"))


def cuDeviceGetAttribute(attribute: CUdevice_attribute, device: CUdevice) -> tuple[CUresult, int | None]:  # noqa: N802
    _expect(attribute, CUdevice_attribute)
    _expect(device, CUdevice)
    failure = _begin("cuDeviceGetAttribute", context=False)
    major, minor = map(int, state.compute_capability.split("."))
    known = {
        CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED: int(state.integrated),
        CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: major,
        CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: minor,
    }
    return (failure, None) if failure else (failure, known[attribute])


def cuDevicePrimaryCtxRetain(device: CUdevice) -> tuple[CUresult, CUcontext | None]:  # noqa: N802
    _expect(device, CUdevice)
    failure = _begin("cuDevicePrimaryCtxRetain", context=False)
    if failure:
        return failure, None
    state.retained += 1
    return failure, CUcontext(1)


def cuDevicePrimaryCtxRelease(device: CUdevice) -> tuple[CUresult]:  # noqa: N802
    _expect(device, CUdevice)
    failure = _begin("cuDevicePrimaryCtxRelease", context=False)
    if _gives_back(failure):
        if state.retained == 0:
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        state.retained -= 1
    return (failure,)


def cuCtxSetCurrent(context: CUcontext | None) -> tuple[CUresult]:  # noqa: N802
    _expect(context, CUcontext, type(None))
    failure = _begin("cuCtxSetCurrent", context=False)
    if not failure:
        state.current.context = context
    return (failure,)


def cuMemGetInfo() -> tuple[CUresult, int | None, int | None]:  # noqa: N802
    failure = _begin("cuMemGetInfo")
    return (failure, None, None) if failure else (failure, state.total_bytes - state.used_bytes, state.total_bytes)


def cuMemAlloc(size: int) -> tuple[CUresult, CUdeviceptr | None]:  # noqa: N802
    _expect(size, int)
    failure = _begin("cuMemAlloc") or _forbid_capture()
    if not failure and size <= 0:
        failure = CUresult.CUDA_ERROR_INVALID_VALUE
    if not failure and state.used_bytes + size > state.total_bytes:
        failure = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    if failure:
        return failure, None
    address = state.number(size)
    state.memory[address] = bytearray([FRESH]) * size
    return failure, CUdeviceptr(address)


def cuMemFree(pointer: CUdeviceptr | int) -> tuple[CUresult]:  # noqa: N802
    _expect(pointer, CUdeviceptr, int)
    failure = _begin("cuMemFree")
    if _gives_back(failure):
        failure = failure or _forbid_capture()
        if int(pointer) not in state.memory:
            raise Misuse(f"{int(pointer):#x} was freed before, or never allocated")
        del state.memory[int(pointer)]
    return (failure,)


def _stream(handle: object) -> _Stream:
    _expect(handle, CUstream, int)
    found = state.streams.get(int(handle))  # type: ignore[call-overload]
    if found is None:
        raise Misuse(f"{int(handle):#x} is no live stream")  # type: ignore[call-overload]
    return found


def cuStreamCreate(flags: int) -> tuple[CUresult, CUstream | None]:  # noqa: N802
    _expect(flags, int)
    failure = _begin("cuStreamCreate")
    if failure:
        return failure, None
    handle = state.number()
    state.streams[handle] = _Stream()
    return failure, CUstream(handle)


def cuStreamDestroy(handle: CUstream) -> tuple[CUresult]:  # noqa: N802
    stream = _stream(handle)
    failure = _begin("cuStreamDestroy")
    if _gives_back(failure):
        _run(stream.queue)  # the driver ends what is under way first
        del state.streams[int(handle)]
    return (failure,)


def _run(queue: list[Work]) -> None:
    while queue:
        queue.pop(0)()


def enqueue(handle: int, work: Work) -> CUresult:
    """For the simulated library: kernels on a stream."""
    stream = _stream(handle)
    if stream.captured is not None:
        stream.captured.append(work)
    else:
        stream.queue.append(work)
    return CUresult.CUDA_SUCCESS


def is_capturing(handle: int) -> bool:
    """For the simulated library."""
    return _stream(handle).captured is not None


def cuStreamSynchronize(handle: CUstream) -> tuple[CUresult]:  # noqa: N802
    stream = _stream(handle)
    failure = _begin("cuStreamSynchronize") or _forbid_capture()
    if failure:
        stream.queue.clear()
        return (failure,)
    _run(stream.queue)
    return (failure,)


def cuMemcpyHtoDAsync(target: CUdeviceptr | int, source: int, size: int, handle: CUstream) -> tuple[CUresult]:  # noqa: N802
    """From pageable memory: it is staged before this returns."""
    _expect(target, CUdeviceptr, int)
    _expect(source, int)
    _expect(size, int)
    stream = _stream(handle)
    failure = _begin("cuMemcpyHtoDAsync") or _forbid_capture()
    if not failure:
        place, data = state.view(int(target), size), ctypes.string_at(source, size)
        stream.queue.append(lambda: place.__setitem__(slice(None), data))
    return (failure,)


def cuMemcpyDtoHAsync(target: int, source: CUdeviceptr | int, size: int, handle: CUstream) -> tuple[CUresult]:  # noqa: N802
    """Nothing is there before the stream was synchronized."""
    _expect(target, int)
    _expect(source, CUdeviceptr, int)
    _expect(size, int)
    stream = _stream(handle)
    failure = _begin("cuMemcpyDtoHAsync") or _forbid_capture()
    if not failure:
        place = state.view(int(source), size)
        stream.queue.append(lambda: ctypes.memmove(target, bytes(place), size) and None)
    return (failure,)


def cuStreamBeginCapture(handle: CUstream, mode: CUstreamCaptureMode) -> tuple[CUresult]:  # noqa: N802
    _expect(mode, CUstreamCaptureMode)
    stream = _stream(handle)
    failure = _begin("cuStreamBeginCapture")
    if not failure:
        assert stream.captured is None, "a stream is captured once at a time"
        stream.captured, stream.spoilt = [], False
    return (failure,)


def cuStreamEndCapture(handle: CUstream) -> tuple[CUresult, CUgraph | None]:  # noqa: N802
    stream = _stream(handle)
    failure = _begin("cuStreamEndCapture")
    captured, stream.captured = stream.captured, None
    if not failure and (captured is None or stream.spoilt):
        failure = CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    if failure:
        return failure, None
    graph = state.number()
    state.graphs[graph] = captured or []
    return failure, CUgraph(graph)


def cuGraphInstantiate(graph: CUgraph, flags: int) -> tuple[CUresult, CUgraphExec | None]:  # noqa: N802
    _expect(graph, CUgraph)
    _expect(flags, int)
    failure = _begin("cuGraphInstantiate") or _forbid_capture()
    if failure:
        return failure, None
    executable = state.number()
    state.executables[executable] = list(state.graphs[int(graph)])
    return failure, CUgraphExec(executable)


def cuGraphDestroy(graph: CUgraph) -> tuple[CUresult]:  # noqa: N802
    _expect(graph, CUgraph)
    failure = _begin("cuGraphDestroy")
    if _gives_back(failure):
        del state.graphs[int(graph)]
    return (failure,)


def cuGraphLaunch(executable: CUgraphExec, handle: CUstream) -> tuple[CUresult]:  # noqa: N802
    _expect(executable, CUgraphExec)
    stream = _stream(handle)
    failure = _begin("cuGraphLaunch")
    if not failure:
        stream.queue += state.executables[int(executable)]
    return (failure,)


def cuGraphExecDestroy(executable: CUgraphExec) -> tuple[CUresult]:  # noqa: N802
    _expect(executable, CUgraphExec)
    failure = _begin("cuGraphExecDestroy")
    if _gives_back(failure):
        del state.executables[int(executable)]
    return (failure,)
