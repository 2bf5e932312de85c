"""The network that is handed to the builder: read from the bundle's graph, and checked to be what the graph says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import Graph, TensorSpec
from elit_edge.runtimes.tensorrt_.attention import without_attention
from elit_edge.runtimes.tensorrt_.library import Library

if TYPE_CHECKING:
    import tensorrt as trt

DTYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64"}
FREE = -1
WEIGHT = ".weight"
PASSING = ("SHUFFLE", "CAST", "IDENTITY", "DEQUANTIZE")
PRODUCT_TYPE = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}
"""What the matrix products with weights of a precision take."""


@dataclass(frozen=True)
class Product:
    """One matrix product with a weight."""

    node: str
    layer: str | None
    """The model's name for it, "blocks.3.mlp.fc2", by the name of its weight; None where the parser keeps no name."""
    dtype: str
    """What it multiplies: "FLOAT", "HALF", or "INT8" where both sides come out of integers."""


def read_network(library: Library, builder: trt.Builder, files: BundleFiles, graph: Graph) -> trt.INetworkDefinition:
    """The network of a graph, with every type as the graph states it.

    Raises:
        BundleError: the library's parser refuses the graph; the message is its own.
        RuntimeUnavailable: this TensorRT is so old that the graph has to be rewritten, and onnx is missing.
    """
    module = library.load()
    flags = module.NetworkDefinitionCreationFlag
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    parser: trt.OnnxParser = module.OnnxParser(network, library.messages.logger)
    path = files.graph_path(graph)
    if hasattr(module, "IAttention"):
        parsed = parser.parse_from_file(str(path))
        _allow_any_kernel(module, network)
    else:
        parsed = parser.parse(without_attention(path), str(path))
    if not parsed:
        faults = "; ".join(str(parser.get_error(index)).strip() for index in range(parser.num_errors))
        raise BundleError(f"{library.title} {library.version} cannot read {path}: {faults or 'no reason given'}")
    return network


def _allow_any_kernel(module: Any, network: trt.INetworkDefinition) -> None:
    """Without this an attention in float32 is refused where no kernel is made for it as a whole."""
    for layer in _layers(network):
        if layer.type == module.LayerType.ATTENTION_INPUT:
            layer.__class__ = module.IAttentionInputLayer  # the binding gives every layer as its base
            layer.attention.decomposable = True


def check_network(network: trt.INetworkDefinition, graph: Graph, float_layers: tuple[str, ...]) -> None:
    """Hold the network to the manifest: inputs, outputs, and what each product is computed in.

    Args:
        network: as parsed.
        graph: what the manifest says of it.
        float_layers: names of the layers that this precision's calibration left in float32.

    Raises:
        BundleError: they differ; the message names tensors or products.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for found, wanted in ((inputs, graph.inputs), (outputs, graph.outputs)):
        if [_signature(tensor) for tensor in found] != [_stated(spec) for spec in wanted]:
            raise BundleError(
                f"the network of {graph.path} has {', '.join(map(str, map(_signature, found)))}, and the manifest says "
                f"{', '.join(map(str, map(_stated, wanted)))}; export the bundle again"
            )
    others = [product for product in products(network) if product.dtype != PRODUCT_TYPE[graph.precision]]
    wrong = [each.layer for each in others if each.layer is not None and each.layer not in float_layers]
    nameless = [each.node for each in others if each.layer is None]
    if wrong or len(nameless) > len(float_layers):
        raise BundleError(
            f"{', '.join(wrong or nameless)} of {graph.path} would not be computed in {graph.precision}, and its "
            f"calibration left {len(float_layers)} layers as they were, not these; calibrate the bundle again"
        )


def _signature(tensor: trt.ITensor) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.dtype.name, sizes(tensor.shape)


def _stated(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    return spec.name, DTYPES[spec.dtype], tuple(size if isinstance(size, int) else FREE for size in spec.shape)


def sizes(dims: trt.Dims) -> tuple[int, ...]:
    """A shape as a tuple."""
    return tuple(int(dims[index]) for index in range(len(dims)))


def products(network: trt.INetworkDefinition) -> list[Product]:
    """Every matrix product of a network with a weight, and what it takes."""
    makers = {layer.get_output(index).name: layer for layer in _layers(network) for index in range(layer.num_outputs)}
    found = []
    for layer in _layers(network):
        if layer.type.name != "MATRIX_MULTIPLY":
            continue
        origins = [_origin(layer.get_input(index), makers) for index in range(2)]
        weight = next((origin.constant for origin in origins if origin.constant is not None), None)
        if weight is not None:
            dtype = "INT8" if all(origin.integer for origin in origins) else layer.get_input(0).dtype.name
            name = weight.removesuffix("_t")
            found.append(Product(layer.name, name.removesuffix(WEIGHT) if name.endswith(WEIGHT) else None, dtype))
    return found


@dataclass(frozen=True)
class _Origin:
    """Where a factor comes from, past what only moves or converts numbers."""

    constant: str | None
    integer: bool


def _origin(tensor: trt.ITensor, makers: Mapping[str, Any]) -> _Origin:
    integer = False
    maker = makers.get(tensor.name)
    while maker is not None and maker.type.name in PASSING:
        integer = integer or maker.type.name == "DEQUANTIZE"
        maker = makers.get(maker.get_input(0).name)
    if maker is None or maker.type.name != "CONSTANT":
        return _Origin(None, integer)
    return _Origin(str(maker.name), integer)


def _layers(network: trt.INetworkDefinition) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))
