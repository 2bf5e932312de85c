"""A SIMULATION of classic TensorRT 10.13: its published signatures, computed by ONNX Runtime on the CPU.

An engine is the ONNX model with its weights, and what it was built with and for. Enqueued work runs when the stream of
the simulated driver is synchronized, with the addresses and shapes of the moment when it was enqueued.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from simulated_gpu import driver
from simulated_gpu.driver import Misuse

__version__ = "10.13.0.35"
AHEAD_OF_TIME = False
MAGIC = b"simulated engine\n"
CONTEXT_BYTES = 1 << 12
"""What the library holds for each context by itself."""
ACTIVATION_BYTES = 1 << 16
"""What each profile's activations take, for a sample."""


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9


NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
    DataType.INT64: np.int64,
}
ELEMENTS = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.BOOL: DataType.BOOL,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT64: DataType.INT64,
}


def nptype(trt_type: DataType) -> Any:
    _expect(trt_type, DataType)
    return NUMPY.get(trt_type, ml_dtypes.bfloat16)


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


LayerType = enum.Enum(
    "LayerType",
    "CONSTANT MATRIX_MULTIPLY SHUFFLE CAST IDENTITY QUANTIZE DEQUANTIZE ELEMENTWISE ATTENTION_INPUT ATTENTION_OUTPUT",
)
LAYERS = {
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Gemm": LayerType.MATRIX_MULTIPLY,
    "Reshape": LayerType.SHUFFLE,
    "Transpose": LayerType.SHUFFLE,
    "Unsqueeze": LayerType.SHUFFLE,
    "Squeeze": LayerType.SHUFFLE,
    "Cast": LayerType.CAST,
    "Identity": LayerType.IDENTITY,
    "QuantizeLinear": LayerType.QUANTIZE,
    "DequantizeLinear": LayerType.DEQUANTIZE,
}


def _expect(value: object, *kinds: type) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"incompatible function arguments: {value!r} is none of {[kind.__name__ for kind in kinds]}")


def _integer(value: object) -> int:
    """As pybind11 takes one: whatever has __int__ or __index__."""
    if isinstance(value, (float, str, bytes)) or not hasattr(value, "__int__"):
        raise TypeError(f"incompatible function arguments: {value!r} is no integer")
    return int(value)


def _bytes(value: object) -> bytes:
    return bytes(memoryview(value))  # type: ignore[arg-type]  # raises TypeError where there is no buffer


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING
    INFO, VERBOSE = Severity.INFO, Severity.VERBOSE

    def __init__(self) -> None:
        self.made = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class _Process:
    """What there is once a process."""

    def __init__(self) -> None:
        self.logger: ILogger | None = None
        self.deserialized = 0
        self.built = 0
        self.executed = 0
        self.contexts = 0
        """Alive now."""


process = _Process()


def reset() -> _Process:
    """A new process."""
    global process  # noqa: PLW0603 - the module stands for a library, which has state of its own
    process = _Process()
    return process


def _use(logger: object) -> None:
    _expect(logger, ILogger)
    if not getattr(logger, "made", False):
        raise TypeError("__init__() must be called when overriding __init__")
    if process.logger is None:
        process.logger = logger  # type: ignore[assignment]
    elif process.logger is not logger:
        process.logger.log(ILogger.WARNING, "The logger passed into it differs from one already registered")


def _error(message: str) -> None:
    assert process.logger is not None
    words = f"Error Code 3: API Usage Error ({message})"
    process.logger.log(ILogger.ERROR, words)


class Dims:
    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int] = ()) -> None:
        _expect(shape, list, tuple)
        self._sizes = tuple(map(_integer, shape))

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __eq__(self, other: object) -> bool:
        return self._sizes == (other._sizes if isinstance(other, Dims) else tuple(other))  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._sizes)


class IHostMemory(bytes):
    """Has the buffer interface."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return len(self)


class IProgressMonitor:
    def __init__(self) -> None:
        self.made = True


class IOptimizationProfile:
    def __init__(self) -> None:
        self.bounds: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - the library's names
        _expect(input, str)
        self.bounds[input] = tuple(tuple(_dims(each)) for each in (min, opt, max))


def _dims(shape: object) -> Dims:
    _expect(shape, tuple, list, Dims)
    return shape if isinstance(shape, Dims) else Dims(shape)  # type: ignore[arg-type]


class ITensor:
    def __init__(self, name: str, dtype: DataType, shape: Sequence[int]) -> None:
        self.name, self.dtype, self.shape = name, dtype, Dims(shape)


class ILayer:
    def __init__(self, name: str, kind: LayerType, inputs: list[ITensor], outputs: list[ITensor]) -> None:
        self.name, self.type, self._inputs, self._outputs = name, kind, inputs, outputs

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: onnx.ModelProto | None = None
        self.inputs: list[ITensor] = []
        self.outputs: list[ITensor] = []
        self.layers: list[ILayer] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self.outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]


class ParserError:
    def __init__(self, words: str) -> None:
        self._words = words

    def __str__(self) -> str:
        return self._words


class OnnxParser:
    unknown: tuple[str, ...] = ("Attention",)
    """Operators that it does not read."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        _expect(network, INetworkDefinition)
        _use(logger)
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        _expect(model, str)
        return self.parse(Path(model).read_bytes(), model)

    def parse(self, model: object, path: str | None = None) -> bool:
        proto = onnx.load_model_from_string(_bytes(model))
        unknown = [node for node in proto.graph.node if node.op_type in self.unknown]
        if unknown:
            self._errors.append(ParserError(f"In node 0 with name: {unknown[0].name}: UNSUPPORTED_NODE"))
            return False
        _take_weights(proto, Path(path or ".").parent)
        _fill(self._network, proto)
        return True


def _take_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Weights from their file; onnx itself refuses a file with several hard links, as a bundle under revision has."""
    for tensor in model.graph.initializer:
        place = {each.key: each.value for each in tensor.external_data}
        if place:
            with (folder / place["location"]).open("rb") as stream:
                stream.seek(int(place["offset"]))
                tensor.raw_data = stream.read(int(place["length"]))
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT


def _fill(network: INetworkDefinition, model: onnx.ModelProto) -> None:
    graph = onnx.shape_inference.infer_shapes(model).graph
    tensors = {value.name: _tensor(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    for constant in graph.initializer:
        tensors[constant.name] = ITensor(constant.name, ELEMENTS[constant.data_type], tuple(constant.dims))
        network.layers.append(ILayer(constant.name, LayerType.CONSTANT, [], [tensors[constant.name]]))
    for node in graph.node:
        inputs = [tensors[name] for name in node.input if name]
        outputs = [tensors.setdefault(name, ITensor(name, DataType.FLOAT, ())) for name in node.output if name]
        if node.op_type == "Attention":
            network.layers.append(_AttentionInputLayer(node.name, LayerType.ATTENTION_INPUT, inputs, outputs))
            network.layers[-1].__class__ = ILayer  # the binding gives every layer as its base
        else:
            network.layers.append(ILayer(node.name, LAYERS.get(node.op_type, LayerType.ELEMENTWISE), inputs, outputs))
    network.inputs = [tensors[value.name] for value in graph.input]
    network.outputs = [tensors[value.name] for value in graph.output]
    network.model = model


def _tensor(value: onnx.ValueInfoProto) -> ITensor:
    kind = value.type.tensor_type
    shape = [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]
    return ITensor(value.name, ELEMENTS[kind.elem_type], shape)


class _Attention:
    decomposable = False


class _AttentionInputLayer(ILayer):
    """Not in this version; the other library has it."""

    def __init__(self, name: str, kind: LayerType, inputs: list[ITensor], outputs: list[ITensor]) -> None:
        super().__init__(name, kind, inputs, outputs)
        self.attention = _Attention()


class ITimingCache:
    def __init__(self, environment: str, data: bytes) -> None:
        self._environment, self._data = environment, data

    @property
    def fits(self) -> bool:
        return not self._data or self._data.startswith(self._environment.encode())

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._environment.encode() + b" measured")


class BuilderFlag(enum.IntEnum):
    TF32 = 7


class IBuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}  # on by itself
        self.progress_monitor: IProgressMonitor | None = None
        self.profiles: list[IOptimizationProfile] = []
        self.timing_cache: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        _expect(flag, BuilderFlag)
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        _expect(profile, IOptimizationProfile)
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: object) -> ITimingCache:
        return ITimingCache(f"{__version__} {driver.state.compute_capability}", _bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        _expect(cache, ITimingCache)
        _expect(ignore_mismatch, bool)
        if not (cache.fits or ignore_mismatch):
            return False
        self.timing_cache = cache
        return True


class Builder:
    ahead_of_time = False

    def __init__(self, logger: ILogger) -> None:
        _use(logger)
        if not self.ahead_of_time and not (driver.state.installed and driver.state.devices):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(_integer(flags))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        _expect(network, INetworkDefinition)
        _expect(config, IBuilderConfig)
        process.built += 1
        fault = self.fault(network, config)
        if fault:
            _error(fault)
            return None
        if not _go_on(config.progress_monitor):
            return None
        assert network.model is not None
        model = network.model.SerializeToString()
        header = {
            "digest": hashlib.sha256(model).hexdigest(),
            "version": self.version(),
            "capabilities": self.capabilities(config),
            "profiles": [profile.bounds for profile in config.profiles],
        }
        return IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + model)

    def fault(self, network: INetworkDefinition, config: IBuilderConfig) -> str | None:
        """Why the network cannot be built."""
        if network.model is None or not network.inputs:
            return "the network is empty"
        if network.flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            return "types are not those of the graph"
        free = [tensor for tensor in network.inputs if -1 in tuple(tensor.shape)]
        for tensor in free:
            for profile in config.profiles or [IOptimizationProfile()]:
                least, typical, most = profile.bounds.get(tensor.name, ((), (), ()))
                if len(least) != len(tensor.shape):
                    return f"{tensor.name} has dynamic shapes and no profile"
                if not all(0 <= a <= b <= c for a, b, c in zip(least, typical, most, strict=True)):
                    return f"the profile of {tensor.name} is not in order"
                if any(size not in (-1, a) for size, a in zip(tuple(tensor.shape), least, strict=True)):
                    return f"the profile of {tensor.name} is of another shape"
        return None

    def version(self) -> str:
        return __version__

    def capabilities(self, config: IBuilderConfig) -> list[str]:  # noqa: ARG002 - the other library's are there
        return [driver.state.compute_capability]


def _go_on(monitor: Any) -> bool:
    if monitor is None:
        return True
    _expect(monitor, IProgressMonitor)
    monitor.phase_start("Building Engine", None, 3)
    for step in range(3):
        monitor.phase_start("Timing", "Building Engine", 1)
        if not (monitor.step_complete("Timing", 0) and monitor.step_complete("Building Engine", step)):
            monitor.phase_finish("Building Engine")
            return False
        monitor.phase_finish("Timing")
    monitor.phase_finish("Building Engine")
    return True


class Runtime:
    version = __version__

    def __init__(self, logger: ILogger) -> None:
        _use(logger)

    def deserialize_cuda_engine(self, serialized_engine: object) -> ICudaEngine | None:
        process.deserialized += 1
        data = _bytes(serialized_engine)
        if not driver.state.retained:
            raise Misuse("the library would make a context of its own")
        header, separator, model = data.removeprefix(MAGIC).partition(b"\n")
        if not data.startswith(MAGIC) or not separator:
            raise Misuse("real engines that are damaged crash the process")
        facts = json.loads(header)
        if facts["version"] != self.version:
            _error(f"the engine plan file is of version {facts['version']}, expecting {self.version}")
            return None
        if driver.state.compute_capability not in facts["capabilities"]:
            _error(f"the engine plan file was made for {facts['capabilities']}")
            return None
        if driver.state.used_bytes + len(model) > driver.state.total_bytes:
            _error("CUDA out of memory")
            return None
        return self.engine(model, facts)

    def engine(self, model: bytes, facts: dict[str, Any]) -> ICudaEngine:
        return ICudaEngine(model, facts)


@functools.lru_cache(maxsize=32)
def _opened(engine: _Bytes) -> tuple[dict[str, ITensor], list[str], Any]:
    """Tensors, the names of the inputs, and what computes the graph; once a digest."""
    import onnxruntime as ort

    graph = onnx.load_model_from_string(engine.model).graph
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    kernels = ort.InferenceSession(engine.model, options, providers=["CPUExecutionProvider"])
    tensors = {value.name: _tensor(value) for value in (*graph.input, *graph.output)}
    return tensors, [value.name for value in graph.input], kernels


@dataclass(frozen=True)
class _Bytes:
    digest: str
    model: bytes = field(compare=False)


class IRuntimeConfig:
    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> None:
        _expect(strategy, ExecutionContextAllocationStrategy)
        self._strategy = strategy

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        return self._strategy


class ICudaEngine:
    def __init__(self, model: bytes, facts: dict[str, Any]) -> None:
        self.digest: str = facts["digest"]
        self._tensors, self._inputs, self.kernels = _opened(_Bytes(self.digest, model))
        self.first_input = self._inputs[0]
        self.profiles: list[dict[str, list[list[int]]]] = facts["profiles"]
        self._weight_bytes = len(model)
        driver.state.library_bytes += len(model)
        self._machine = driver.state

    def __del__(self) -> None:
        if hasattr(self, "_machine"):
            self._machine.library_bytes -= self._weight_bytes

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    @property
    def device_memory_size_v2(self) -> int:
        return max(self._activation_bytes(index) for index in range(len(self.profiles)))

    def _activation_bytes(self, profile: int) -> int:
        return ACTIVATION_BYTES * max(most[0] for _, _, most in self.profiles[profile].values())

    def get_tensor_name(self, index: int) -> str:
        return list(reversed(self._tensors))[_integer(index)]  # in no order that is promised

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        _expect(name, str)
        if name not in self._tensors:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Dims:
        return self._tensors[name].shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if self.get_tensor_mode(name) != TensorIOMode.INPUT:
            _error(f"{name} is no input")
            return []
        bounds = self.profiles[_integer(profile_index)].get(name)
        return [Dims(bound) for bound in bounds] if bounds else [self.get_tensor_shape(name)] * 3

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> Any:
        _expect(strategy, ExecutionContextAllocationStrategy, IRuntimeConfig)
        config = strategy if isinstance(strategy, IRuntimeConfig) else None
        how = config.get_execution_context_allocation_strategy() if config is not None else strategy
        if how is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise Misuse("the library would allocate activations of its own")
        if driver.state.used_bytes + CONTEXT_BYTES > driver.state.total_bytes:
            _error("CUDA out of memory")
            return None
        return IExecutionContext(self, config)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self.engine, self._config = engine, config
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        self._profile = 0
        self._changes = 0
        self._settled = -1
        """The state that work was enqueued in outside of a capture: what is deferred until then was done."""
        self._machine, self._process = driver.state, process
        self._machine.library_bytes += CONTEXT_BYTES
        self._process.contexts += 1

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self._machine.library_bytes -= CONTEXT_BYTES
            self._process.contexts -= 1

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._changes += 1
        driver.enqueue(_integer(stream_handle), lambda: None)
        if not 0 <= _integer(profile_index) < self.engine.num_optimization_profiles:
            _error(f"there is no profile {profile_index}")
            return False
        self._profile = int(profile_index)
        self._shapes.clear()
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._changes += 1
        driver.state.view(_integer(memory), _integer(size))
        if _integer(memory) % 256 or _integer(size) < self.engine.device_memory_size_v2:
            _error(f"{size} bytes are too few, or not aligned")
            return
        self._memory = _integer(memory), _integer(size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._changes += 1
        if self.engine.get_tensor_mode(name) == TensorIOMode.NONE:
            _error(f"there is no tensor {name}")
            return False
        self._addresses[name] = _integer(memory)
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._changes += 1
        wanted = tuple(_dims(shape))
        if self.engine.get_tensor_mode(name) != TensorIOMode.INPUT:
            _error(f"{name} is no input")
            return False
        least, _, most = map(tuple, self.engine.get_tensor_profile_shape(name, self._profile))
        if len(least) != len(wanted) or not all(a <= b <= c for a, b, c in zip(least, wanted, most, strict=True)):
            _error(f"{wanted} of {name} is outside of profile {self._profile}: {least} to {most}")
            return False
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._shapes:
            return Dims(self._shapes[name])
        shape = tuple(self.engine.get_tensor_shape(name))
        if self.engine.get_tensor_mode(name) == TensorIOMode.OUTPUT and self._shapes:
            shape = (self._shapes.get(self.engine.first_input, shape)[0], *shape[1:])
        return Dims(shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = _integer(stream_handle)
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        inputs = [name for name in names if self.engine.get_tensor_mode(name) == TensorIOMode.INPUT]
        lacking = [name for name in names if name not in self._addresses] + [n for n in inputs if n not in self._shapes]
        if lacking or self._memory is None:
            _error(f"not specified: {lacking or 'device memory'}")
            return False
        if driver.is_capturing(stream):
            if self._settled != self._changes:
                _error("the context changed since it last ran: deferred work cannot be captured")
                return False
        else:
            self._settled = self._changes
        places = {name: driver.state.view(self._addresses[name], self._size(name)) for name in names}
        scratch = driver.state.view(*self._memory)
        shapes = {name: tuple(self.get_tensor_shape(name)) for name in names}
        driver.enqueue(stream, _Pass(self, places, shapes, scratch, inputs))
        return True

    def _size(self, name: str) -> int:
        itemsize = np.dtype(nptype(self.engine.get_tensor_dtype(name))).itemsize
        return int(np.prod(tuple(self.get_tensor_shape(name)))) * itemsize


class _Pass:
    """Work as it was enqueued; it holds no context, as kernels on a GPU hold none."""

    def __init__(
        self,
        context: IExecutionContext,
        places: dict[str, memoryview],
        shapes: dict[str, tuple[int, ...]],
        scratch: memoryview,
        inputs: list[str],
    ) -> None:
        engine = context.engine
        self._kernels, self._process = engine.kernels, process
        self._context, self._changes = weakref.ref(context), context._changes
        self._places, self._shapes, self._scratch, self._inputs = places, shapes, scratch, inputs
        self._addresses = dict(context._addresses)
        self._dtypes = {name: nptype(engine.get_tensor_dtype(name)) for name in places}
        self._machine = driver.state

    def __call__(self) -> None:
        context = self._context()
        if context is None:
            raise Misuse("work of a context that is gone")
        if context._changes != self._changes:
            raise Misuse("the context changed after this work was enqueued or captured")
        for name, place in self._places.items():
            self._machine.view(self._addresses[name], len(place))
        feeds = {
            name: np.frombuffer(self._places[name], self._dtypes[name]).reshape(self._shapes[name])
            for name in self._inputs
        }
        outputs = self._kernels.run(None, feeds)
        for value, output in zip(outputs, self._kernels.get_outputs(), strict=True):
            name, place = output.name, self._places[output.name]
            assert value.shape == self._shapes[name], (value.shape, self._shapes[name])
            place[:] = np.ascontiguousarray(value, self._dtypes[name]).tobytes()
        self._scratch[:] = bytes([0xAB]) * len(self._scratch)
        self._process.executed += 1
