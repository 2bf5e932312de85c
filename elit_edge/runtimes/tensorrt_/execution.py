"""An opened engine: its inputs go to the GPU, a pass runs, its output comes back.

A pass of one batch and one budget is captured once as a CUDA graph and launched as one from then on. A context whose
kernels were captured must not change any more (TensorRT Developer Guide, CUDA graphs), so each pass has a context of
its own; all of them share the engine's weights, one block of activations and the buffers of inputs and outputs, so that
another budget at the next step allocates nothing. TensorRT for RTX captures by itself, shapes changing included: there
a context serves its whole profile.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from elit_edge.errors import BundleError, ElitEdgeError
from elit_edge.manifest import Engine
from elit_edge.runtimes.tensorrt_.cuda import Buffer, Captured, CudaError, Device, out_of_memory
from elit_edge.runtimes.tensorrt_.library import Library
from elit_edge.runtimes.tensorrt_.network import sizes

if TYPE_CHECKING:
    import tensorrt as trt

KEPT_PASSES = 64
"""Captured passes of one engine; the one that was not used for longest makes room for the next."""
Arrays = dict[str, npt.NDArray[Any]]


def refusal(work: str, words: str, advice: str = "") -> ElitEdgeError:
    """What to raise where a library does not do its work; that its memory was full it says in words alone."""
    if "outofmemory" in words.lower().replace(" ", ""):
        return out_of_memory(work)
    return BundleError(f"{work} failed: {words}{advice}")


@dataclass
class _Pass:
    """One context: its shapes, and the graph of its kernels where this code captures."""

    context: trt.IExecutionContext
    shapes: dict[str, tuple[int, ...]]
    captured: Captured | None = None

    def free(self) -> None:
        if self.captured is not None:
            self.captured.destroy()
        del self.context


class OpenEngine:
    """One engine, deserialized.

    Args:
        library: that compiled it.
        device: the GPU.
        engine: what the manifest says of it.
        opened: by the library.
        config: of its contexts; None: the library's own.
    """

    def __init__(
        self, library: Library, device: Device, engine: Engine, opened: trt.ICudaEngine, config: Any | None
    ) -> None:
        self._library, self._device, self._facts = library, device, engine
        self._engine: Any = opened
        self._config = config
        names = [opened.get_tensor_name(index) for index in range(opened.num_io_tensors)]
        modes = library.load().TensorIOMode
        self._inputs = [name for name in names if opened.get_tensor_mode(name) == modes.INPUT]
        (self._output,) = [name for name in names if opened.get_tensor_mode(name) == modes.OUTPUT]
        self._buffers: dict[str, Buffer] = {}
        self._activations: Buffer | None = None
        self._passes: OrderedDict[tuple[int, ...], _Pass] = OrderedDict()
        self.most_rows = engine.profiles[0].batch.most
        self.captures = not library.ahead_of_time
        """Whether passes are captured as CUDA graphs by this code."""

    @property
    def activation_bytes(self) -> int:
        """Memory that a pass of any profile takes beside weights, inputs and outputs."""
        return int(self._engine.device_memory_size_v2)

    @property
    def exchange_bytes(self) -> int:
        """Memory of inputs and outputs at their greatest."""
        return sum(self._greatest_bytes(name) for name in (*self._inputs, self._output))

    def take_memory(self, activations: Buffer) -> None:
        """Use a block of at least `activation_bytes`, and make the buffers of inputs and outputs.

        Raises:
            CudaError: the GPU's memory is full.
        """
        self._activations = activations
        for name in (*self._inputs, self._output):
            self._buffers[name] = self._device.allocate(self._greatest_bytes(name))

    def _greatest_bytes(self, name: str) -> int:
        """Of a tensor at the greatest shapes of all profiles; the output has the shape of `x`, or M a row."""
        if name == self._output:
            free = [size for size in sizes(self._engine.get_tensor_shape(name)) if size >= 0]
            count = int(np.prod(free)) * self.most_rows
        else:
            profiles = range(self._engine.num_optimization_profiles)
            bounds = (self._engine.get_tensor_profile_shape(name, profile)[2] for profile in profiles)
            count = max(int(np.prod(sizes(bound))) for bound in bounds)
        return count * np.dtype(self._dtype(name)).itemsize

    def _dtype(self, name: str) -> type[np.generic]:
        dtype: type[np.generic] = self._library.load().nptype(self._engine.get_tensor_dtype(name))
        return dtype

    def run(self, feeds: Arrays, latents: int | None) -> npt.NDArray[np.float32]:
        """One pass.

        Args:
            feeds: contiguous arrays, first one that has a row a sample; those the engine does not take are left out.
            latents: the budget; None where the graph has none.

        Returns:
            the output, float32, the caller's own.

        Raises:
            BundleError: no profile holds these shapes, or the library fails; the message is its own.
            FitError: the library runs out of the GPU's memory.
            CudaError: the driver fails.
        """
        given = {name: values for name, values in feeds.items() if name in self._inputs}
        ready = self._pass_of(given, latents)
        for name, values in given.items():
            self._device.upload(self._buffers[name], values)
        if ready.captured is not None and self.captures:
            ready.captured.launch()
        else:
            self._enqueue(ready.context)
            if self.captures:
                self._capture(ready)
        output = np.empty(sizes(ready.context.get_tensor_shape(self._output)), self._dtype(self._output))
        self._device.download(self._buffers[self._output], output)
        self._device.synchronize()
        return output.astype(np.float32, copy=False)

    def _capture(self, ready: _Pass) -> None:
        """After a pass has run: the first one of a context does work that cannot be captured."""
        try:
            with self._device.capturing() as captured:
                self._enqueue(ready.context)
        except (CudaError, BundleError) as error:
            self.captures = False
            warnings.warn(f"{self._facts.path} runs kernel by kernel: no CUDA graph of it ({error})", stacklevel=2)
        else:
            ready.captured = captured

    def _enqueue(self, context: trt.IExecutionContext) -> None:
        with self._library.messages.fresh() as messages:
            if not context.execute_async_v3(self._device.stream):
                raise refusal(f"running {self._facts.path} by {self._library.title}", messages.words())

    def _pass_of(self, feeds: Arrays, latents: int | None) -> _Pass:
        rows = len(next(iter(feeds.values())))
        profile = self._profile(rows, latents)
        key = (profile,) if self._library.ahead_of_time else (profile, rows, latents or 0)
        shapes = {name: tuple(values.shape) for name, values in feeds.items()}
        if key not in self._passes:
            if len(self._passes) == KEPT_PASSES:
                self._passes.popitem(last=False)[1].free()
            self._passes[key] = _Pass(self._context(profile), {})
        self._passes.move_to_end(key)
        ready = self._passes[key]
        if ready.shapes != shapes:
            ready.shapes = {}
            for name, shape in shapes.items():
                if not ready.context.set_input_shape(name, shape):
                    raise BundleError(f"{self._facts.path} does not take {name} of shape {list(shape)}")
            ready.shapes = shapes
        return ready

    def _profile(self, rows: int, latents: int | None) -> int:
        for index, profile in enumerate(self._facts.profiles):
            fits = profile.latents is None or (latents is not None and latents in profile.latents)
            if fits and rows in profile.batch:
                return index
        raise BundleError(
            f"{self._facts.path} has no profile for a batch of {rows} at {latents} latents; compile the bundle again"
        )

    def _context(self, profile: int) -> trt.IExecutionContext:
        assert self._activations is not None, "take_memory comes first"
        module = self._library.load()
        with self._library.messages.fresh() as messages:
            strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
            context: trt.IExecutionContext | None = self._engine.create_execution_context(self._config or strategy)
            if context is None or not context.set_optimization_profile_async(profile, self._device.stream):
                raise refusal(f"preparing {self._facts.path} by {self._library.title}", messages.words())
        context.set_device_memory(self._activations.address, self._activations.size)
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.address)
        return context

    def close(self) -> None:
        """Give back passes, buffers and weights; the block of activations is its maker's."""
        while self._passes:
            self._passes.popitem()[1].free()
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._engine = self._config = self._activations = None
