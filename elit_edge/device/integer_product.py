"""An 8-bit matrix product on ONNX Runtime, from a model of one node that is written here byte by byte.

The base install has no onnx to build it with. Source: onnx.proto of the ONNX project, IR version 8, opset 13.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

UINT8, INT8, INT32 = 2, 3, 6
IR_VERSION, OPSET = 8, 13


def onnxruntime_version() -> str | None:
    """The version, or None where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    return str(onnxruntime.__version__)


def integer_product(side: int, threads: int) -> Callable[[], object]:
    """uint8 [side, side] times a constant int8 [side, side] -> int32, ready to run; the constant is packed ahead."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(product_model(side), options, providers=["CPUExecutionProvider"])
    values = np.arange(side * side, dtype=np.int64).reshape(side, side)
    feed = {"a": (values % 251).astype(np.uint8)}
    return lambda: session.run(None, feed)[0]


def constant(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    """The right factor."""
    values = np.arange(side * side, dtype=np.int64).reshape(side, side)
    return (values % 127 - 63).astype(np.int8)


def product_model(side: int) -> bytes:
    """The model `c = MatMulInteger(a, b)` with b inside."""
    node = _text(1, "a") + _text(1, "b") + _text(2, "c") + _text(4, "MatMulInteger")
    weights = _number(1, side) * 2 + _number(2, INT8) + _text(8, "b") + _bytes(9, constant(side).tobytes())
    graph = _bytes(1, node) + _text(2, "product") + _bytes(5, weights)
    graph += _bytes(11, _value("a", UINT8, side)) + _bytes(12, _value("c", INT32, side))
    return _number(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, OPSET))


def _value(name: str, kind: int, side: int) -> bytes:
    dimension = _bytes(1, _number(1, side))
    tensor = _number(1, kind) + _bytes(2, dimension * 2)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
