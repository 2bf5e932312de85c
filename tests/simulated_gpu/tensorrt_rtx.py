"""A SIMULATION of TensorRT for RTX: what it has beyond the other library, or otherwise.

It captures by itself, so that a context may change between runs; it compiles for GPUs that are not here; and it keeps
what it compiled on the device in a runtime cache.
"""

from __future__ import annotations

import enum
from typing import Any

from simulated_gpu import driver
from simulated_gpu import tensorrt as classic
from simulated_gpu.tensorrt import (  # noqa: F401 - the same in both
    BuilderFlag,
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    IHostMemory,
    ILayer,
    ILogger,
    INetworkDefinition,
    IProgressMonitor,
    LayerType,
    TensorIOMode,
    nptype,
)
from simulated_gpu.tensorrt import _bytes as bytes_of
from simulated_gpu.tensorrt import _expect as expect

__version__ = "1.7.1.116"
IAttention, IAttentionInputLayer = classic._Attention, classic._AttentionInputLayer


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ComputeCapability(enum.Enum):
    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120
    SM121 = 121


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class EngineValidity(enum.Enum):
    INVALID = 0
    SUBOPTIMAL = 1
    VALID = 2


class OnnxParser(classic.OnnxParser):
    unknown = ()


class IBuilderConfig(classic.IBuilderConfig):
    def __init__(self) -> None:
        super().__init__()
        self.num_compute_capabilities = 0
        self.capabilities: dict[int, ComputeCapability] = {}

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        expect(compute_capability, ComputeCapability)
        if not 0 <= index < self.num_compute_capabilities:
            return False
        self.capabilities[index] = compute_capability
        return True


class Builder(classic.Builder):
    ahead_of_time = True

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def fault(self, network: INetworkDefinition, config: Any) -> str | None:
        if len(config.capabilities) != config.num_compute_capabilities:
            return "not every compute capability is set"
        for layer in network.layers:
            whole = layer.type == LayerType.ATTENTION_INPUT and not layer.attention.decomposable
            if whole and layer.get_input(0).dtype == DataType.FLOAT:
                return "Attention operation was not supported by a dedicated kernel"
        return super().fault(network, config)

    def version(self) -> str:
        return __version__

    def capabilities(self, config: Any) -> list[str]:
        names = [config.capabilities[index].name.removeprefix("SM") for index in range(len(config.capabilities))]
        return [f"{name[:-1]}.{name[-1]}" for name in names]


class Runtime(classic.Runtime):
    version = __version__

    def engine(self, model: bytes, facts: dict[str, Any]) -> ICudaEngine:
        return ICudaEngine(model, facts)

    def get_engine_validity(self, buffer: object) -> tuple[EngineValidity, int]:
        bytes_of(buffer)
        return EngineValidity.INVALID, 0


class IRuntimeCache:
    def __init__(self) -> None:
        self._kernels: set[str] = set()
        self.loaded = False
        """For tests: whether anything was taken from a file."""

    @staticmethod
    def _environment() -> bytes:
        return f"{__version__} {driver.state.compute_capability} {driver.state.driver}\n".encode()

    def add(self, kernels: str) -> None:
        """For the simulated engine."""
        self._kernels.add(kernels)

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._environment() + "\n".join(sorted(self._kernels)).encode())

    def deserialize(self, blob: object) -> bool:
        data = bytes_of(blob)
        if not data.startswith(self._environment()):
            return False
        self._kernels |= set(filter(None, data.removeprefix(self._environment()).decode().split("\n")))
        self.loaded = True
        caches_loaded.append(data)
        return True

    def reset(self) -> bool:
        self._kernels.clear()
        return True


caches_loaded: list[bytes] = []
"""For tests: what was taken from files."""


class IRuntimeConfig(classic.IRuntimeConfig):
    def __init__(self) -> None:
        super().__init__()
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self._cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        expect(cache, IRuntimeCache, type(None))
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self._cache


class ICudaEngine(classic.ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> Any:
        context = super().create_execution_context(strategy)
        if context is None:
            return None
        context.__class__ = IExecutionContext
        return context


class IExecutionContext(classic.IExecutionContext):
    def get_runtime_config(self) -> Any:
        return self._config

    def execute_async_v3(self, stream_handle: int) -> bool:
        config = self._config
        if not isinstance(config, IRuntimeConfig) or config.cuda_graph_strategy is CudaGraphStrategy.DISABLED:
            raise driver.Misuse("nothing would be captured")
        cache = config.get_runtime_cache()
        if cache is not None:
            cache.add(f"{self.engine.digest} {self._profile}")
        return super().execute_async_v3(stream_handle)
