"""Small MIL programs, saved as packages by coremltools itself."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from elit_edge.export.mil.library import coremltools


@pytest.fixture(scope="session")
def ct():
    return coremltools()


@pytest.fixture(scope="session")
def mil(ct):
    """What programs are built with."""
    from coremltools.converters.mil.mil import Builder, Function, Operation, types

    return SimpleNamespace(mb=Builder, Function=Function, Operation=Operation, types=types, target=ct.target)


@pytest.fixture(scope="session")
def infer(mil):
    """coremltools' own value of an operator whose arguments are all constants."""

    def value(op_type, opset="iOS15", **arguments):
        with mil.Function({}, opset_version=getattr(mil.target, opset)):
            result = getattr(mil.mb, op_type)(**arguments)
        several = isinstance(result, (list, tuple))
        values = [np.asarray(one.val) for one in (result if several else [result])]
        assert all(one is not None and one.dtype != object for one in values), "no value is inferred"
        for one, variable in zip(values, result if several else [result], strict=True):
            assert one.shape == tuple(variable.shape)
        return values if several else values[0]

    return value


@pytest.fixture(scope="session")
def save(ct, mil):
    """Convert a function of MIL values to a package, without passes that would change its operators.

    save(path, body, {name: (shape, numpy type)}, opset, precision) -> path
    """

    def build(path, body, inputs, opset="iOS18", precision="fp32", outputs=None):
        specs = [mil.mb.TensorSpec(shape=shape, dtype=getattr(mil.types, kind)) for shape, kind in inputs.values()]
        names = list(inputs)
        scope = {"body": body}
        exec(f"def program({', '.join(names)}): return body({', '.join(names)})", scope)
        program = mil.mb.program(input_specs=specs, opset_version=getattr(mil.target, opset))(scope["program"])
        converted = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            skip_model_load=True,
            minimum_deployment_target=getattr(ct.target, opset),
            compute_precision=getattr(ct.precision, {"fp32": "FLOAT32", "fp16": "FLOAT16"}[precision]),
            outputs=outputs,
        )
        converted.save(str(path))
        return path

    return build


TOKENS, WIDTH, HIDDEN = 6, 32, 64


class Mlp:
    """Normalise, widen, gelu by tanh, narrow, add; in MIL and, independently, in float64."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.wide = generator.normal(size=(HIDDEN, WIDTH), scale=WIDTH**-0.5).astype(np.float32)
        self.bias = generator.normal(size=HIDDEN).astype(np.float32)
        self.narrow = generator.normal(size=(WIDTH, HIDDEN), scale=HIDDEN**-0.5).astype(np.float32)

    def mil(self, mb, x):
        hidden = mb.layer_norm(x=x, axes=[-1], epsilon=np.float32(1e-6), name="norm")
        hidden = mb.linear(x=hidden, weight=self.wide, bias=self.bias, name="widen")
        hidden = mb.gelu(x=hidden, mode="TANH_APPROXIMATION", name="gelu")
        hidden = mb.linear(x=hidden, weight=self.narrow, name="narrow")
        return mb.add(x=x, y=hidden, name="out")

    def exactly(self, x):
        x = x.astype(np.float64)
        centred = x - x.mean(-1, keepdims=True)
        hidden = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) @ self.wide.T + self.bias
        hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        return x + hidden @ self.narrow.T


@pytest.fixture(scope="session")
def mlp():
    return Mlp()


@pytest.fixture(scope="session")
def packages(ct, mil, mlp, save, tmp_path_factory):
    """The Mlp at 3 and at 6 tokens joined into one package of two functions, a precision each."""
    folder = tmp_path_factory.mktemp("packages")
    joined = {}
    for precision in ("fp32", "fp16"):
        functions = ct.utils.MultiFunctionDescriptor()
        for tokens in (3, TOKENS):
            path = folder / f"{precision}_{tokens}.mlpackage"
            save(path, lambda x: mlp.mil(mil.mb, x), {"x": ((2, tokens, WIDTH), "fp32")}, precision=precision)
            functions.add_function(str(path), "main", f"tokens_{tokens}")
        functions.default_function_name = "tokens_3"
        joined[precision] = folder / f"{precision}.mlpackage"
        ct.utils.save_multifunction(functions, str(joined[precision]))
    return joined


@pytest.fixture
def edited(ct, packages, tmp_path):
    """A copy of the fp16 package whose protobuf was changed: edited(change of the model) -> path."""

    def edit(change, precision="fp16"):
        path = tmp_path / "edited.mlpackage"
        shutil.copytree(packages[precision], path)
        file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
        model = ct.proto.Model_pb2.Model.FromString(file.read_bytes())
        change(model)
        file.write_bytes(model.SerializeToString())
        return path

    return edit
