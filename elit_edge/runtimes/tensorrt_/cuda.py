"""The little of CUDA that running an engine takes, through the driver API of cuda-bindings.

The driver API alone: it needs no CUDA toolkit, and any release of the binding works with any driver that knows the few
functions used here. Source: CUDA Driver API reference (nvidia.com).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from elit_edge.errors import BundleError, FitError, RuntimeUnavailable
from elit_edge.runtimes.contract import Missing

BINDING = "cuda.bindings.driver"
REMEDY = "pip install 'elit-edge[tensorrt]'"
CUDA_12 = 12000
"""The oldest driver that any TensorRT with these APIs runs on, as cuDriverGetVersion counts."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that programs get: device 0, which CUDA_VISIBLE_DEVICES can make another."""

    name: str
    compute_capability: str
    driver: str
    """The newest CUDA version that the driver knows: "12.6"."""


class CudaError(Exception):
    """A call of the driver that failed."""

    def __init__(self, call: str, code: Any) -> None:
        super().__init__(f"{call}: {getattr(code, 'name', code)}")
        self.out_of_memory = getattr(code, "name", "") == "CUDA_ERROR_OUT_OF_MEMORY"
        self.no_device = getattr(code, "name", "") == "CUDA_ERROR_NO_DEVICE"


def _call(name: str, *arguments: Any) -> Any:
    """One function of the driver: its results without the status, which must be success."""
    status, *values = getattr(importlib.import_module(BINDING), name)(*arguments)
    if int(status) != 0:
        raise CudaError(name, status)
    return values[0] if len(values) == 1 else tuple(values)


def _attribute(name: str, device: Any) -> int:
    attributes = importlib.import_module(BINDING).CUdevice_attribute
    return int(_call("cuDeviceGetAttribute", getattr(attributes, name), device))


def find_gpu() -> Gpu | Missing:
    """The GPU, or why there is none to be used."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return Missing("the package cuda-bindings is not installed", REMEDY)
    try:
        _call("cuInit", 0)
        version = int(_call("cuDriverGetVersion"))
        device = _call("cuDeviceGet", 0)
        name = _call("cuDeviceGetName", 256, device)
        major = _attribute("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR", device)
        minor = _attribute("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR", device)
    except CudaError as error:
        if error.no_device:
            return Missing("CUDA sees no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
        return Missing(f"the NVIDIA driver does not answer ({error})", "check nvidia-smi; restart after an update")
    except (ImportError, RuntimeError, OSError) as error:  # how the binding says that there is no libcuda
        remedy = "install it; a container needs --gpus all (on a Jetson: --runtime nvidia)"
        return Missing(f"no NVIDIA driver is installed ({_line(error)})", remedy)
    known = f"{version // 1000}.{version % 1000 // 10}"
    if version < CUDA_12:
        return Missing(f"the NVIDIA driver is too old: it knows CUDA {known}, and 12 is needed", "update the driver")
    text = bytes(name).split(b"\0")[0].decode(errors="replace") if isinstance(name, (bytes, bytearray)) else str(name)
    return Gpu(text, f"{major}.{minor}", known)


def _line(error: Exception) -> str:
    """Its first sentence: the binding goes on to explain."""
    words = str(error).strip().splitlines()
    return words[0].split(". ")[0] if words else repr(error)


def need_gpu() -> Gpu:
    """The GPU.

    Raises:
        RuntimeUnavailable: there is none; the message holds the remedy.
    """
    found = find_gpu()
    if isinstance(found, Missing):
        raise RuntimeUnavailable(f"no GPU to run on: {found.reason}; {found.remedy}")
    return found


@contextmanager
def failures(work: str) -> Iterator[None]:
    """Turns a failed call into an error that says what was being done.

    Raises:
        FitError: the GPU's memory is too small.
        BundleError: anything else that the driver refused.
    """
    try:
        yield
    except CudaError as error:
        if error.out_of_memory:
            raise out_of_memory(work) from error
        raise BundleError(f"{work} failed on the GPU ({error}); check nvidia-smi and the kernel's log") from error


def out_of_memory(work: str) -> FitError:
    """What to raise where the GPU's memory is full."""
    return FitError(
        f"{work} ran out of GPU memory; close what else runs on the GPU, or take a smaller precision or batch"
    )


class Device:
    """The GPU's primary context, which TensorRT uses too, and one stream."""

    def __init__(self) -> None:
        self._device = _call("cuDeviceGet", 0)
        self._context = _call("cuDevicePrimaryCtxRetain", self._device)
        with ExitStack() as held:
            held.callback(_call, "cuDevicePrimaryCtxRelease", self._device)
            self.make_current()
            self._stream = _call("cuStreamCreate", _stream_flags())
            held.callback(_call, "cuStreamDestroy", self._stream)
            held.callback(self.make_current)
            self._held = held.pop_all()

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def make_current(self) -> None:
        """For this thread; a session may be used by one thread after another."""
        _call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Memory that can be had. A GPU that shares the machine's memory does not count what the system would move
        aside for it, such as files that were just read. Source: CUDA for Tegra, estimating allocatable memory."""
        free = int(_call("cuMemGetInfo")[0])
        if _attribute("CU_DEVICE_ATTRIBUTE_INTEGRATED", self._device):
            import psutil

            return max(free, int(psutil.virtual_memory().available))
        return free

    def allocate(self, size: int) -> Buffer:
        return Buffer(size)

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", self._stream)

    def settle(self) -> None:
        """Wait for all that was enqueued, from whatever thread this is."""
        self.make_current()
        self.synchronize()

    def upload(self, buffer: Buffer, values: npt.NDArray[Any]) -> None:
        """Copy a contiguous array to the front of the buffer."""
        assert values.nbytes <= buffer.size, "the buffer is too small"
        _call("cuMemcpyHtoDAsync", buffer.address, values.ctypes.data, values.nbytes, self._stream)

    def download(self, buffer: Buffer, values: npt.NDArray[Any]) -> None:
        """Copy the front of the buffer into a contiguous array; it is there after `synchronize`."""
        assert values.nbytes <= buffer.size, "the buffer is too small"
        _call("cuMemcpyDtoHAsync", values.ctypes.data, buffer.address, values.nbytes, self._stream)

    @contextmanager
    def capturing(self) -> Iterator[Captured]:
        """What the block enqueues on the stream is recorded rather than run."""
        modes = importlib.import_module(BINDING).CUstreamCaptureMode
        captured = Captured(self._stream)
        _call("cuStreamBeginCapture", self._stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            yield captured
        except BaseException:
            with suppress(CudaError):  # a failure may have ended the capture; it is the one to be told
                _call("cuGraphDestroy", _call("cuStreamEndCapture", self._stream))
            raise
        graph = _call("cuStreamEndCapture", self._stream)
        try:
            captured.take(_call("cuGraphInstantiate", graph, 0))
        finally:
            _call("cuGraphDestroy", graph)

    def close(self) -> None:
        self._held.close()


def _stream_flags() -> int:
    """A stream that does not wait for the default one."""
    return int(importlib.import_module(BINDING).CUstream_flags.CU_STREAM_NON_BLOCKING)


class Buffer:
    """Memory of the GPU, at least one byte; TensorRT asks for addresses of empty tensors too."""

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self._pointer = _call("cuMemAlloc", self.size)

    @property
    def address(self) -> int:
        return int(self._pointer)

    def free(self) -> None:
        if self._pointer is not None:
            _call("cuMemFree", self._pointer)
            self._pointer = None


class Captured:
    """A CUDA graph: a pass's kernels, launched as one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._graph: Any = None

    def take(self, graph: Any) -> None:
        self._graph = graph

    def launch(self) -> None:
        _call("cuGraphLaunch", self._graph, self._stream)

    def destroy(self) -> None:
        if self._graph is not None:
            _call("cuGraphExecDestroy", self._graph)
            self._graph = None
